"""Shards: the objects that were packed stream out again, and what is cut off or foreign is named."""

import io
import json
import random
import re
import tarfile

import pytest
import torch
from PIL import Image
from shard_inputs import no_fault, write_shards

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.folders import MultiviewObject, collate, write_object
from ouroboros_lib.data.packing import pack
from ouroboros_lib.data.procedural import render_objects, sample_objects
from ouroboros_lib.data.shards import ShardStream, read_index
from ouroboros_lib.errors import InputError

SIZE, VIEWS = 24, 5


@pytest.fixture(scope="module")
def seven():
    """One rendered object under seven names."""
    cameras = evenly_spaced_orbit(VIEWS, 20.0)
    views = render_objects(sample_objects("val", [0]), cameras.expand(1), SIZE, depth=True)
    return [MultiviewObject(f"set/a.b {i}", views.rgba[0], cameras, VIEWS - 1, views.depth[0], {"seed": 0})
            for i in range(7)]


@pytest.fixture
def shards(tmp_path, seven):
    write_shards(seven, tmp_path / "shards", max_bytes=40_000)
    return tmp_path / "shards"


def test_shards_stream_what_was_written(shards, seven):
    assert len(read_index(shards)) > 2
    stream = ShardStream(shards)
    assert len(stream) == 7
    for got, wanted in zip(stream, seven, strict=True):
        assert got.name == wanted.name and torch.equal(got.rgba, wanted.rgba) and torch.equal(got.depth, wanted.depth)
        assert got.num_orbit_views == wanted.num_orbit_views
    batch = collate(list(ShardStream(shards, depth=False, image_size=12)))
    assert batch.rgba.shape == (7, VIEWS, 4, 12, 12)


def test_any_webdataset_reader_understands_them(shards):
    import webdataset

    paths = [str(path) for path in sorted(shards.glob("*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode("pil"))
    assert len(samples) == 7 and samples[0]["view_000.png"].size == (SIZE, SIZE)
    assert samples[0]["object.json"]["num_orbit_views"] == VIEWS - 1


def test_a_shard_can_be_shuffled_and_joined_in_the_middle(tmp_path, seven):
    write_shards(seven, tmp_path / "one")
    stream = ShardStream(tmp_path / "one", shuffle=4, depth=False)
    (path, names), = stream.shards.items()

    def drawn(seed, **choice):
        return [views.name for views in stream.objects_of(path, random.Random(seed), **choice)]

    order = drawn(3)
    assert order != names and sorted(order) == names and order == drawn(3) and order != drawn(4)
    assert drawn(3, skip=2) == order[2:]
    assert sorted(drawn(3, leave_out=names[:2])) == names[2:]


@pytest.fixture
def folder(tmp_path, seven):
    for views in seven:
        write_object(tmp_path / "objects" / views.name, views)
    return tmp_path / "objects"


def test_interrupted_packing_goes_on_without_loss_or_repetition(tmp_path, folder, seven):
    told, out, names = [], tmp_path / "shards", [views.name for views in seven]

    def breaks_off(name):
        told.append(name)
        if len(told) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder, names, out, 40_000, breaks_off)
    assert all(path.suffix in (".tar", ".json") for path in out.iterdir())
    assert 0 < len(ShardStream(out)) < 4
    pack(folder, names, out, 40_000, no_fault)
    assert [views.name for views in ShardStream(out)] == names


@pytest.mark.parametrize("keep", [0, 512, 1536, 9000])
def test_cut_shards_are_named_and_the_others_read(shards, keep, caplog):
    entry = read_index(shards)[1]
    path, left = shards / entry["file"], 7 - len(entry["objects"])
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    assert len(list(ShardStream(shards))) == left
    assert re.search(rf"left out: .*shard-000001\.tar: {keep} bytes, expected", caplog.text)
    path.write_bytes(data[:keep] + bytes(len(data) - keep))  # of the right length, and yet cut
    assert len(list(ShardStream(shards))) == left
    assert all(re.search(rf"left out: .*shard-000001\.tar.*{name}", caplog.text) for name in entry["objects"])


def test_a_bad_object_is_named_and_the_others_read(shards, caplog):
    with tarfile.open(shards / "shard-000000.tar") as tar:
        place = next(member for member in tar.getmembers() if "view_000" in member.name).offset_data
    with (shards / "shard-000000.tar").open("r+b") as file:
        file.seek(place)
        file.write(b"no picture")
    record = json.loads((shards / "shards.json").read_text())
    record["shards"][1]["objects"][0] = "stale"
    (shards / "shards.json").write_text(json.dumps(record))
    read = [views.name for views in ShardStream(shards)]
    assert len(read) == 5 and len(ShardStream(shards)) == 7
    for text in ("a.b 0/view_000.png: cannot be read as a picture", "lacks stale, which shards.json lists",
                 "is in this shard, but not in shards.json"):
        assert text in caplog.text


def test_faulty_indices(shards):
    index = shards / "shards.json"
    for text, word in (("{}", "shards: expected a list, got nothing"), ("5", "expected an object, got 5"),
                       ("[", "not a JSON"), ('{"shards": []}', "lists no shard"),
                       ('{"shards": [{"file": "../x.tar", "bytes": 1, "objects": []}]}', "does not lie in"),
                       ('{"shards": [{"file": "x.tar", "bytes": "1", "objects": []}]}', "expected a whole number"),
                       ('{"shards": [{"file": "x.tar", "bytes": 1, "objects": []}]}', "this shard is missing")):
        index.write_text(text)
        with pytest.raises(InputError, match=word):
            ShardStream(shards)


def test_shards_hold_plain_files(shards):
    with tarfile.open(shards / "shard-000000.tar") as tar:
        members = tar.getmembers()
        assert all(member.isreg() and "/" not in member.name for member in members)
        name = next(member for member in members if member.name.endswith(".view_000.png"))
        assert Image.open(io.BytesIO(tar.extractfile(name).read())).size == (SIZE, SIZE)


def test_a_second_writer_is_refused_and_the_first_loses_nothing(tmp_path, folder, seven):
    out, names = tmp_path / "shards", [views.name for views in seven]

    def meanwhile(name):
        with pytest.raises(InputError, match="writes there"):
            pack(folder, names[3:], out, 1, no_fault)

    pack(folder, names[:3], out, 1, meanwhile)
    assert [views.name for views in ShardStream(out)] == names[:3]
    assert sorted(path.name for path in out.iterdir()) == [
        "shard-000000.tar", "shard-000001.tar", "shard-000002.tar", "shards.json"]
