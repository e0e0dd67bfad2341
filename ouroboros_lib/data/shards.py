"""WebDataset shards: many multi-view objects in few big files, read as a stream.

A shard is a tar file in which the files of an object, those of our folder format, follow one another as
`OBJECT.view_000.png ... OBJECT.cameras.json OBJECT.object.json`; any WebDataset reader understands it. `shards.json`
beside the shards lists them with their objects, so that one that was cut off is noticed. `packing.pack` writes both.
They may also lie on a server or in an object store, as they are: `folder` is then its address.
"""

import itertools
import logging
import os
import random
import tarfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote, unquote

from ..errors import InputError, attempt, needs
from ..files import one_line, parse_json, read_bytes
from ..values import Natural, checked
from . import streaming
from .buckets import Bucket, BucketFile, is_bucket
from .fetching import Unreachable, get, is_address
from .folders import MultiviewObject, decode_object, encode_object

_log = logging.getLogger(__name__)
INDEX = "shards.json"


class Shard(TypedDict):
    file: str
    bytes: Natural
    objects: list[str]


class Index(TypedDict):
    """What is read of `shards.json`."""

    shards: list[Shard]


def read_index(folder: str | Path) -> list[Shard]:
    """The shards of a folder, as its index lists them. Raises InputError."""
    if is_bucket(str(folder)):
        bucket = Bucket(str(folder))
        path = f"{bucket.address}/{INDEX}"
        record = parse_json(bucket.read(INDEX), path)
    elif is_address(str(folder)):
        path = f"{streaming.folder_address(str(folder))}/{INDEX}"
        record = get(path, streaming.PATIENCE, lambda data: parse_json(data, path))
    else:
        path = str(Path(folder) / INDEX)
        record = parse_json(read_bytes(path), path)
    shards = checked(record, Index, path)["shards"]
    for shard in shards:
        if Path(shard["file"]).name != shard["file"]:
            raise InputError(f"{path}: the shard {shard['file']!r} does not lie in this folder")
    return shards


def write_tar(path: Path, source: Iterable[MultiviewObject]) -> list[str]:
    """Objects into the file of a shard; returns their names."""
    with needs("train", "a shard"):
        from webdataset import TarWriter

    names = []
    with path.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0, format="PAX_FORMAT") as writer:
        for views in source:
            writer.write({"__key__": quote(views.name, safe="").replace(".", "%2E"), **encode_object(views)})
            names.append(views.name)
    return names


class ShardStream:
    """The objects of a folder of shards, one after the other, as `MultiviewObject`s.

    folder: a path, or an address as `folder_address` takes it: its shards are read as they come and not kept, and
    found bad only then. shuffle: size of the buffer that `objects_of` draws from, 0 for the order of writing.
    settings: those of `decode_object`. What cannot be read is named in the log and left out. Raises InputError where
    nothing is left, Unreachable where a server stays silent.
    """

    def __init__(self, folder: str | Path, shuffle: int = 0, **settings):
        self.shuffle, self.settings = shuffle, settings
        self.shards: dict[str, list[str]] = {}
        self.sizes: dict[str, int] = {}  # in bytes
        faults, remote = [], streaming.is_remote(str(folder))
        root = streaming.folder_address(str(folder)) if remote else str(Path(folder).resolve())
        for shard in read_index(folder):
            path = f"{root}/{quote(shard['file'])}" if is_address(root) else os.path.join(root, shard["file"])
            if not remote and not os.path.isfile(path):
                faults.append(f"{path}: this shard is missing")
            elif not remote and os.path.getsize(path) != shard["bytes"]:
                faults.append(f"{path}: {os.path.getsize(path)} bytes, expected {shard['bytes']} as in {INDEX}")
            else:
                self.shards[path], self.sizes[path] = shard["objects"], shard["bytes"]
        if not self.shards:
            raise InputError(faults[0] if faults else f"{folder}/{INDEX}: lists no shard")
        for fault in faults:
            _log.warning("left out: %s", fault)

    def __len__(self) -> int:
        return sum(map(len, self.shards.values()))

    def __iter__(self) -> Iterator[MultiviewObject]:
        for path in self.shards:
            for views in self.objects_of(path):
                if isinstance(views, InputError):
                    _log.warning("left out: %s", views)
                else:
                    yield views

    def objects_of(self, path: str, order: random.Random | None = None, skip: int = 0,
                   leave_out: Collection[str] = ()) -> Iterator[MultiviewObject | InputError]:
        """The objects of one shard, without those named in `leave_out` and the first `skip` of the rest; in place of
        one that cannot be used, what is wrong with it.

        order: draws from the buffer, if there is one, and the novel views; None keeps the order of writing. What is
        skipped is not decoded.
        """
        samples = (sample for sample in self._samples(path) if sample[0] not in leave_out)
        if order and self.shuffle:
            with needs("train", "a shard"):
                import webdataset

            samples = webdataset.shuffle(self.shuffle, rng=order)(samples)
        seed = order and order.random()
        for name, files in itertools.islice(samples, skip, None):
            yield files if isinstance(files, InputError) else attempt(
                decode_object, files, Path(path.partition("://")[2] or path) / name, name, **self.settings,
                draw=order and random.Random(f"{seed} {name}"))

    def _samples(self, path: str) -> Iterator[tuple[str, dict[str, bytes] | InputError]]:
        """Name and files of the objects that the index lists for one shard, or what is wrong where it is otherwise."""
        left = list(self.shards[path])
        samples = _read_tar(path, self.sizes[path])
        reason = "this shard ends before this object"
        while left:
            try:
                sample = next(samples, None)
            except Unreachable:
                raise
            except Exception as error:  # of tarfile, which raises many kinds
                text = one_line(error, 5000).removeprefix(f"{path}: ")[:120]
                reason, sample = f"this shard cannot be read ({text})", None
            if sample is None:
                break
            name, files = unquote(sample[0]), sample[1]
            if name not in left:
                _log.warning("left out: %s: %s is in this shard, but not in %s", path, name, INDEX)
                continue
            while (listed := left.pop(0)) != name:
                yield listed, InputError(f"{path}: lacks {listed}, which {INDEX} lists")
            yield name, files
        for name in left:
            yield name, InputError(f"{path}: {name}: {reason}")


@contextmanager
def _open_tar(path: str, size: int) -> Iterator[tarfile.TarFile]:
    """A shard, not compressed, as ours are not."""
    if streaming.is_remote(path):
        kind = BucketFile if is_bucket(path) else streaming.RemoteFile
        with closing(kind(path, size)) as file, tarfile.open(fileobj=file, mode="r|") as archive:
            yield archive
    else:
        with tarfile.open(path, "r:") as archive:
            yield archive


def _read_tar(path: str, size: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The files of a shard by object, as WebDataset groups them: what its name is up to the first dot, and what is
    behind. Raises what tarfile raises, and ValueError for files that are no plain ones, before there is room for
    them."""
    object_, files = "", {}
    with _open_tar(path, size) as archive:
        for member in archive:
            if member.issparse() or not member.isreg():
                raise ValueError(f"{member.name} is sparse, {member.size} bytes mostly of holes, or no file")
            folder, slash, name = member.name.rpartition("/")
            key, _, name = name.partition(".")
            if object_ != folder + slash + key:
                if files:
                    yield object_, files
                object_, files = folder + slash + key, {}
            if name in files:
                raise ValueError(f"there are two {member.name} in it")
            files[name] = archive.extractfile(member).read()
            archive.members = []  # which would keep all of them
    if files:
        yield object_, files
