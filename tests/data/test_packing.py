"""Folders into shards: dealt out beforehand, and what is missing is filled in again with the same objects."""

import json

import pytest
from writing_commands import files

from ouroboros_lib.data.packing import deal, pack
from ouroboros_lib.data.shards import ShardStream, read_index
from ouroboros_lib.errors import InputError

SIZE = 60_000


@pytest.fixture
def packed(rendered_folder, tmp_path):
    told = []
    names = [f"thing{number}" for number in range(6)]
    pack(rendered_folder, names, tmp_path, SIZE, lambda name, error=None: told.append((name, error)))
    assert told == [(name, None) for name in names]
    return tmp_path


def test_a_shard_that_is_missing_is_filled_as_before(packed, rendered_folder):
    before = files(packed)
    record = json.loads(before["shards.json"])
    assert len(record["shards"]) >= 3
    del record["shards"][1]
    (packed / "shards.json").write_text(json.dumps(record))
    (packed / "shard-000001.tar").write_bytes(b"of an interrupted command")
    last = (packed / "shard-000002.tar").stat().st_mtime_ns
    pack(rendered_folder, [f"thing{number}" for number in range(6)], packed, SIZE, lambda *_: None)
    assert files(packed) == before and (packed / "shard-000002.tar").stat().st_mtime_ns == last


def test_new_objects_come_behind(packed, rendered_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("grown")
    pack(rendered_folder, ["thing1", "thing4"], out, 10**9, lambda *_: None)
    pack(rendered_folder, [f"thing{number}" for number in range(6)], out, 10**9, lambda *_: None)
    assert [views.name for views in ShardStream(out)] == ["thing1", "thing4", "thing0", "thing2", "thing3", "thing5"]


def test_a_shard_in_which_nothing_can_be_read_is_none(rendered_folder, tmp_path):
    told = {}
    pack(rendered_folder, ["none", "thing0"], tmp_path, 1, lambda name, error=None: told.update({name: error}))
    assert isinstance(told["none"], InputError) and [shard["objects"] for shard in read_index(tmp_path)] == [["thing0"]]


def test_dealing_out(tmp_path):
    for number, size in enumerate((30, 30, 50, 120, 5)):
        (tmp_path / str(number) / "below").mkdir(parents=True)
        (tmp_path / str(number) / "below" / "file").write_bytes(bytes(size))
    groups = [list(group) for group in deal(tmp_path, {f"object {n}": str(n) for n in range(5)}, 100)]
    assert groups == [["object 0", "object 1", "object 2"], ["object 3"], ["object 4"]]
