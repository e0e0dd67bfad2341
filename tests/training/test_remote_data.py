"""--data with an address: the objects of the folder behind it, in its order, and an end in one line."""

import shutil
import sys
import tarfile
import threading

import pytest
import torch
from shard_server import ShardServer
from training_inputs import QUICK, quick_narrow, train_command

from ouroboros_lib.cli.main import main
from ouroboros_lib.data import streaming
from ouroboros_lib.data.fetching import Fetch, Unreachable
from ouroboros_lib.data.shards import read_index, write_shards
from ouroboros_lib.presets import load_preset
from ouroboros_lib.training.data import RenderedObjects


@pytest.fixture(autouse=True)
def little_time(monkeypatch):
    monkeypatch.setattr(streaming, "PATIENCE", Fetch(tries=3, timeout=0.3, pause=0.01, report=streaming.say))


@pytest.fixture
def few(tmp_path, rendered):
    """Two shards of three objects."""
    write_shards(rendered[:3], tmp_path / "few", max_bytes=10**9)
    write_shards(rendered[3:], tmp_path / "few", max_bytes=10**9)
    assert [len(shard["objects"]) for shard in read_index(tmp_path / "few")] == [3, 3]
    return tmp_path / "few"


@pytest.fixture
def server(few):
    server = ShardServer(few)
    yield server
    server.close()


def source(root, start=0, rank=0, world_size=1, **settings):
    objects = RenderedObjects(root, load_preset("narrow"), quick_narrow(**{"novel_views": 4} | settings), "cpu", rank,
                              world_size)
    objects.restart(start)
    objects.fill()
    return objects


def same(one, other, count):
    return all(torch.equal(a.rgba, b.rgba) and torch.equal(a.cameras.c2w, b.cameras.c2w)
               for a, b in ((one.batch(1), other.batch(1)) for _ in range(count)))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_objects_come_as_from_the_folder_from_the_middle_of_a_shard_too(few, server, workers, capfd):
    """And from a line that breaks. Views are drawn alike as well."""
    local, remote = (source(root, workers=workers, shuffle=2) for root in (few, server.url))
    assert torch.equal(local.held_out().rgba, remote.held_out().rgba) and same(local, remote, 12)
    for start in (2, 7):  # the first epoch's first shard has two or three objects besides the one held out
        server.moods = {"shard-000000.tar": ["break"], "shard-000001.tar": ["stall"]}
        whole = source(few, workers=workers, shuffle=2)
        for _ in range(start):
            whole.batch(1)
        again = source(server.url, start=start, workers=workers, shuffle=2)
        assert same(whole, again, 6)
        again.close()
    for objects in (local, remote):
        objects.close()
    told = [line for line in capfd.readouterr().err.splitlines() if "follows in" in line]
    assert told and all(line.startswith(server.url) for line in told)


def test_nodes_read_disjoint_shards(few, server):
    seen = []
    for rank in range(2):
        objects = source(server.url, rank=rank, world_size=2, validation_objects=1)
        objects.held_out()
        server.requests.clear()
        objects.batch(2)
        seen.append({name for name, _ in server.requests})
        assert same(source(few, rank=rank, world_size=2), source(server.url, rank=rank, world_size=2), 6)
    assert all(len(files) == 1 for files in seen) and not seen[0] & seen[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_objects_are_left_out_and_counted(few, server, workers, capfd):
    with tarfile.open(few / "shard-000001.tar") as tar:
        place = tar.getmember("thing4.view_000.png").offset_data
    with (few / "shard-000001.tar").open("r+b") as file:
        file.seek(place)
        file.write(b"no picture")
    objects = source(server.url, workers=workers)
    objects.batch(10)
    objects.close()
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert objects.left_out == len(told) == 1 and "shard-000001.tar/thing4/view_000.png: cannot be read" in told[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_that_stays_away_ends_in_one_line(server, workers):
    objects = source(server.url, workers=workers)
    server.moods = {"shard-000000.tar": 503, "shard-000001.tar": 503}
    with pytest.raises(Unreachable, match=r"shard-00000\d\.tar: HTTP 503 .* given up after 3 tries$") as caught:
        objects.batch(30)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    objects.close()


def test_the_command_trains_through_a_stall_and_ends_where_nothing_comes(server, few, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ouroboros"])
    before = {path: path.read_bytes() for path in few.iterdir()}

    def run(*more, **settings):
        with pytest.raises(SystemExit) as leaving:
            main(train_command(tmp_path / "run", "--data", server.url + "/", *more,
                               **QUICK | {"stage": "reconstructor", "workers": 0, "steps": 1} | settings))
        return leaving.value.code, capsys.readouterr().err

    server.moods = {"shards.json": [503], "shard-000000.tar": ["stall"], "shard-000001.tar": ["stall"]}
    code, errors = run(checkpoint_every=1)
    assert code == 0 and "shards.json: HTTP 503" in errors and "nothing came for 0.3 s, at byte" in errors
    server.close()
    threading.Event().wait(0.05)
    code, errors = run("--resume", steps=3)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and lines[0].endswith("given up after 3 tries") and "Traceback" not in errors
    assert {path: path.read_bytes() for path in few.iterdir()} == before
    for address, words in (("ftp://host/shards", "begins with http"), ("http://me:secret@host/", "without a password")):
        with pytest.raises(SystemExit) as leaving:
            main(train_command(tmp_path / "other", "--data", address, preset="narrow"))
        errors = capsys.readouterr().err
        assert leaving.value.code == 2 and words in errors and errors.count("\n") == 1
    shutil.rmtree(tmp_path / "run")
