"""Shards at an address: what comes is what lies in the folder, whatever happens to the line, or one line says why."""

import logging
import re
import socket

import pytest
import torch
from shard_server import ShardServer

from ouroboros_lib.data import streaming
from ouroboros_lib.data.fetching import Fetch, Forbidden, Stopped, Unreachable
from ouroboros_lib.data.shards import ShardStream, read_index
from ouroboros_lib.data.streaming import RemoteFile, folder_address
from ouroboros_lib.errors import InputError


@pytest.fixture
def told(monkeypatch):
    """What is told, by someone with little time."""
    lines = []
    monkeypatch.setattr(streaming, "PATIENCE", Fetch(tries=4, timeout=30, pause=0.01, report=lines.append))
    return lines


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def server(request, rendered_shards, told):
    server = ShardServer(rendered_shards, request.param)
    yield server
    server.close()


def names(stream):
    return [views.name for views in stream]


def test_what_comes_is_what_lies_there(server, rendered_shards, told):
    remote, local = ShardStream(server.url + "/"), ShardStream(rendered_shards)
    assert len(remote) == len(local) == 6 and read_index(server.url) == read_index(rendered_shards)
    for got, wanted in zip(remote, local, strict=True):
        assert got.name == wanted.name and torch.equal(got.rgba, wanted.rgba)
    asked = [name for name, _ in server.requests if name.endswith(".tar")]
    assert asked == [shard["file"] for shard in read_index(rendered_shards)] and not told


@pytest.mark.parametrize("mood, words", [("break", "broken off, at byte"), ("stall", "nothing came for 1 s, at byte"),
                                         (503, "HTTP 503 Service Unavailable, at byte 0 of"), (429, "HTTP 429")])
def test_a_line_that_breaks_is_told_and_taken_up(server, rendered_shards, told, monkeypatch, mood, words):
    monkeypatch.setattr(streaming.PATIENCE, "timeout", 1 if mood == "stall" else 30)
    wanted = (rendered_shards / "shard-000001.tar").read_bytes()
    server.moods = {"shard-000001.tar": [mood, mood]}
    assert names(ShardStream(server.url)) == names(ShardStream(rendered_shards))
    failures = [line for line in told if "follows in" in line]
    assert len(failures) == 2 and all(words in line and f"of {len(wanted):,}; try " in line for line in failures)
    assert all(line.startswith(f"{server.url}/shard-000001.tar: ") and "\n" not in line for line in told)
    assert re.search("goes on; failed tries: [12]$", told[-1])
    starts = [start for name, start in server.requests if name == "shard-000001.tar"]
    assert (starts[1] > 0) == isinstance(mood, str) and starts == sorted(starts)


def test_pauses_grow_up_to_a_bound_and_then_it_ends(server, told):
    stream = ShardStream(server.url)
    server.moods = {"shard-000001.tar": 503 if server.ranges else "break"}  # with ranges, each try brings something
    with pytest.raises(Unreachable, match=r"shard-000001\.tar: .*, at byte .*; given up after 4 tries$"):
        list(stream)
    assert re.findall(r"try (\d) of 4 follows in ([\d.]+) s", "\n".join(told)) == [
        ("2", "0.02"), ("3", "0.04"), ("4", "0.08")]
    how = Fetch(tries=20, pause=0.5, report=told.append)
    how.stop.set()
    for failures in range(1, 20):
        with pytest.raises(Stopped):
            how.wait(failures, "nothing")
    assert [re.search(r"in (\d+) s$", line)[1] for line in told[-19:]] == "1 2 4 8 16 32".split() + ["60"] * 13


def test_a_server_that_is_away_for_a_while(server, rendered_shards, told, monkeypatch):
    """It comes back after the second try."""
    def report(line):
        told.append(line)
        if len(told) == 2:
            server.start()

    monkeypatch.setattr(streaming.PATIENCE, "report", report)
    stream = iter(ShardStream(server.url))
    first = next(stream)
    server.close()
    rest = names(stream)
    assert [first.name, *rest] == names(ShardStream(rendered_shards))
    assert all("refused" in line for line in told[:2]) and told[2].endswith(": goes on; failed tries: 2")
    assert len(told) == 3


def test_faults_of_a_shard_are_named_and_the_others_read(server, rendered_shards, told, caplog):
    first, second = read_index(rendered_shards)[:2]
    server.moods = {first["file"]: "short", second["file"]: 404}
    left = 6 - len(first["objects"]) - len(second["objects"])
    with caplog.at_level(logging.WARNING):
        assert len(names(ShardStream(server.url))) == left
    assert not told
    for shard, words in ((first, f"{first['bytes'] // 2} bytes, expected {first['bytes']}"), (second, "HTTP 404")):
        assert all(f"{shard['file']}: {name}: this shard cannot be read ({words}" in caplog.text
                   for name in shard["objects"])


@pytest.mark.parametrize("code", [401, 403])
def test_what_must_not_be_read_ends_in_one_line(server, told, code):
    """Not one shard after the other as if it were missing: all of them are on that server."""
    stream = ShardStream(server.url)
    server.moods = {"shard-000001.tar": code}
    with pytest.raises(Forbidden, match=rf"^{server.url}/shard-000001\.tar: HTTP {code} \w+: no permission"):
        list(stream)
    server.moods = {"shards.json": code}
    with pytest.raises(Forbidden, match=rf"^{server.url}/shards\.json: HTTP {code} .*no permission"):
        ShardStream(server.url)
    assert not told


def test_a_file_that_got_shorter_meanwhile_is_noticed(server, rendered_shards, told):
    size = (rendered_shards / "shard-000000.tar").stat().st_size
    server.moods = {"shard-000000.tar": ["break", "short"]}
    file = RemoteFile(f"{server.url}/shard-000000.tar", size)
    with pytest.raises(InputError, match=f"{size // 2} bytes, expected {size}|HTTP 416"):
        while file.read(2**16):
            pass
    assert file.place == size // 2 and file.response is None


def test_what_is_wrong_from_the_start_is_told_at_once(server, told, tmp_path, monkeypatch):
    server.folder = tmp_path
    with pytest.raises(InputError, match=r"^http.*/shards\.json: HTTP 404 Not Found$"):
        ShardStream(server.url)
    (tmp_path / "shards.json").write_text("<html>")
    with pytest.raises(InputError, match=r"^http.*/shards\.json: not a JSON file"):
        ShardStream(server.url)

    def no_such_host(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    with pytest.raises(Unreachable, match=r"^http://nowhere\.example/shards\.json: .*Name or service not known"):
        ShardStream("http://nowhere.example/")
    assert not told


def test_addresses():
    assert folder_address("https://host:80/a b/ü%20c//") == "https://host:80/a%20b/%C3%BC%20c"
    for text in ("http://", "http://h:x/", "http://[h/", "http://me:secret@h/", "https://h/?key=secret", "http://h/#a"):
        with pytest.raises(InputError, match="https://HOST/PATH/") as caught:
            folder_address(text)
        assert "secret" not in str(caught.value)
