"""Shards in an object store: packed there, resumed, and read from there as from a folder."""

import importlib.util
import os
import sys

import pytest
import torch
from shard_server import ShardServer
from training_inputs import source

from ouroboros_lib.data import packing
from ouroboros_lib.data.buckets import Bucket, BucketFile
from ouroboros_lib.data.fetching import Forbidden, Gone, Unreachable
from ouroboros_lib.data.packing import pack
from ouroboros_lib.data.shards import ShardStream, read_index
from ouroboros_lib.errors import InputError
from ouroboros_lib.speed.cluster import Cluster

if importlib.util.find_spec("s3fs") is None or importlib.util.find_spec("moto") is None:
    pytest.skip("needs the extra [cluster], and moto", allow_module_level=True)

NAMES = [f"thing{number}" for number in range(6)]
SIZE = 60_000
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def store():
    """An object store as S3 is one, on this machine, with the bucket `shop`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())}).items():
            patch.setenv(name, value)
        import s3fs

        files = s3fs.S3FileSystem(use_listings_cache=False)
        files.mkdir("shop")
        yield files
        files.clear_instance_cache()
    server.stop()


@pytest.fixture
def elsewhere(monkeypatch):
    """Another server as the endpoint."""
    import s3fs

    def call(url):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()

    yield call
    monkeypatch.undo()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def here(rendered_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("here")
    pack(rendered_folder, NAMES, out, SIZE, lambda *_: None)
    return out


def files(store, folder):
    return {path.removeprefix(folder + "/"): store.cat_file(path) for path in store.find(folder)}


def on_disk(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_packed_is_what_a_folder_has(run, store, here, rendered_folder):
    code, text, errors = run("data", "shards", rendered_folder, "--out", "s3://shop/one/", "--shard-mb",
                             SIZE / 2**20)
    assert (code, errors) == (0, "") and "6 of 6 objects in s3://shop/one" in text
    assert files(store, "shop/one") == on_disk(here) and len(read_index("s3://shop/one")) >= 3
    for got, wanted in zip(ShardStream("s3://shop/one"), ShardStream(here), strict=True):
        assert got.name == wanted.name and torch.equal(got.rgba, wanted.rgba)


def test_what_was_interrupted_goes_on(store, here, rendered_folder, monkeypatch):
    def stop(name):
        if name == "thing3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(rendered_folder, NAMES, "s3://shop/two", SIZE, stop)
    left = files(store, "shop/two")
    there = {shard["file"] for shard in read_index("s3://shop/two")}
    assert left.keys() == {"shards.json", *there} and 0 < len(there) < len(read_index(here))
    sent, upload = [], Bucket.upload
    monkeypatch.setattr(Bucket, "upload", lambda bucket, path, name: (sent.append(name), upload(bucket, path, name)))
    pack(rendered_folder, NAMES, "s3://shop/two", SIZE, lambda *_: None)
    after = files(store, "shop/two")
    assert after == on_disk(here) and sorted([*sent, *there, "shards.json"]) == sorted(after)


@pytest.fixture
def line_is_cut(monkeypatch):
    """From the n-th call of a kind on."""
    from s3fs import S3FileSystem

    def cut(kind, number):
        async def call(store, method, *more, **options):
            calls.append(method)
            if calls.count(kind) >= number and method == kind and str(options.get("Key")).endswith(".tar"):
                raise OSError("the line is cut")
            return await through(store, method, *more, **options)

        calls, through = [], S3FileSystem._call_s3
        monkeypatch.setattr(S3FileSystem, "_call_s3", call)

    return cut


def test_nothing_stays_of_a_shard_that_cannot_be_sent(store, rendered_folder, monkeypatch, tmp_path, line_is_cut):
    monkeypatch.setattr(packing.tempfile, "tempdir", str(tmp_path))
    line_is_cut("put_object", 1)
    with pytest.raises(Unreachable, match=r"^s3://shop/three/shard-000000\.tar: the line is cut$"):
        pack(rendered_folder, NAMES, "s3://shop/three", SIZE, lambda *_: None)
    assert files(store, "shop/three").keys() == {"shards.json"} and not list(tmp_path.iterdir())


def test_a_large_shard_shows_when_all_parts_are_there(store, tmp_path, line_is_cut, monkeypatch):
    large = tmp_path / "large.tar"
    with large.open("wb") as file:
        file.truncate(101 * 2**20)
    line_is_cut("upload_part", 2)
    with pytest.raises(Unreachable, match="the line is cut"):
        Bucket("s3://shop/large").upload(large, large.name)
    assert not store.exists("shop/large/large.tar")
    monkeypatch.undo()
    Bucket("s3://shop/large").upload(large, large.name)
    assert store.info("shop/large/large.tar")["size"] == 101 * 2**20
    store.rm("shop/large/large.tar")


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the extra [cluster]")
def test_workers_pack(store, here, rendered_folder):
    done = []
    pack(rendered_folder, NAMES, "s3://shop/four", SIZE, lambda name, error=None: done.append((name, error)),
         Cluster("local:1"))
    assert files(store, "shop/four") == on_disk(here) and sorted(done) == [(name, None) for name in NAMES]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_reads_from_there(store, here, workers):
    store.put(f"{here}/", "shop/five/", recursive=True)
    batches = []
    for root in (here, "s3://shop/five"):
        objects = source(root, workers=workers)
        batches.append([objects.batch(2).rgba for _ in range(4)])
        objects.close()
    assert all(map(torch.equal, *batches))


def test_what_is_wrong_is_one_line(run, store, here, rendered_folder, elsewhere, monkeypatch):
    first = here / "shard-000000.tar"
    store.put_file(str(first), "shop/six/x.tar")
    with pytest.raises(InputError, match=r"x\.tar: \d+ bytes, expected 7 as the index says"):
        BucketFile("s3://shop/six/x.tar", 7)
    with pytest.raises(Gone, match="no such file or bucket"):
        BucketFile("s3://shop/six/none.tar", 7)
    shards = ("data", "shards", rendered_folder, "--out")
    for out, words in (("s3://none-of-this/x", "s3://none-of-this/x/shards.json: no such file or bucket"),
                       ("s3://", "expected s3://BUCKET/PATH"), ("s3://a b/x", "expected s3://BUCKET/PATH")):
        code, text, errors = run(*shards, out)
        assert (code, text, errors.count("\n")) == (2, "", 1) and words in errors
    server = ShardServer(here)
    try:
        elsewhere(server.url)
        server.moods = {"shards.json": 403}
        with pytest.raises(Forbidden, match=r"^s3://shop/one/shards\.json: no permission"):
            ShardStream("s3://shop/one")
    finally:
        server.close()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    code, text, errors = run(*shards, "s3://shop/one")
    assert (code, text) == (2, "") and errors == ("error: s3:// needs the package s3fs, which is not installed: "
                                                  "pip install -e '.[cluster]' in the repository\n")
    assert not os.path.exists("s3:")
