"""--data with an address: the objects of the folder behind it, in its order, and an end in one line."""

import tarfile

import pytest
import torch
from shard_inputs import write_shards
from shard_server import ShardServer
from training_inputs import NARROW, logged, source, train_command

from ouroboros_lib.cli.main import main
from ouroboros_lib.data import streaming
from ouroboros_lib.data.fetching import Fetch, Unreachable
from ouroboros_lib.data.shards import read_index


@pytest.fixture(autouse=True)
def little_time(monkeypatch):
    monkeypatch.setattr(streaming, "PATIENCE", Fetch(tries=3, timeout=1, pause=0.01, report=streaming.say))


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


def test_the_command_survives_a_stall_ends_where_nothing_comes_and_goes_on(server, few, tmp_path, capsys):
    before = {path: path.read_bytes() for path in few.iterdir()}

    def run(*more):
        with pytest.raises(SystemExit) as leaving:
            main(train_command(tmp_path / "run", "--data", server.url + "/", *more, steps=11,
                               **NARROW | {"stage": "autoencoder", "checkpoint_every": 5}))
        return leaving.value.code, capsys.readouterr().err

    second = f"{server.url}/shard-000001.tar"  # which is read once in each epoch of five objects
    server.moods = {"shards.json": [503], "shard-000001.tar": ["stall", "", 503, 503, 503]}
    code, errors = run()
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert code == 2 and line.startswith(f"error: {second}: HTTP 503") and line.endswith("; given up after 3 tries")
    for text in ("shards.json: HTTP 503 Service", f"{second}: nothing came for 1 s, at byte", f"{second}: goes on"):
        assert text in errors
    assert "Traceback" not in errors and 5 <= len(logged(tmp_path / "run")) < 11
    assert run("--resume")[0] == 0 and logged(tmp_path / "run") == list(range(1, 12))
    assert {path: path.read_bytes() for path in few.iterdir()} == before


@pytest.mark.parametrize("address, words", [("ftp://host/shards", "begins with http"), ("s3://", "s3://BUCKET/PATH"),
                                            ("http://me:secret@host/", "without a password")])
def test_addresses_that_are_refused(address, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(train_command(tmp_path / "run", "--data", address, preset="narrow"))
    errors = capsys.readouterr().err
    assert leaving.value.code == 2 and words in errors and errors.count("\n") == 1
    assert errors.startswith("error: --data") and not (tmp_path / "run").exists()


def test_a_missing_index_is_one_line_at_once(server, tmp_path, capsys):
    server.moods = {"shards.json": 404}
    with pytest.raises(SystemExit) as leaving:
        main(train_command(tmp_path / "run", "--data", server.url, preset="narrow", **NARROW | {"stage": "multiview"}))
    errors = capsys.readouterr().err
    assert leaving.value.code == 2 and errors == f"error: {server.url}/shards.json: HTTP 404 Not Found\n"
    assert server.requests == [("shards.json", 0)]
