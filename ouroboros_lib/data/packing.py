"""Multi-view folders into shards, one after the other or by many workers, with the same result.

Which object goes into which shard is decided beforehand, by the sizes of the files. A shard and its place in the index
appear when it is complete; what an interrupted call did not finish, the next one does.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError, attempt
from ..files import dump_json, hidden, new_file, only_writer, replace_file, settle
from ..speed.cluster import Cluster, Died
from .buckets import Bucket, is_bucket
from .fetching import Gone
from .folders import MultiviewObject, read_object
from .shards import INDEX, Shard, read_index, write_tar

Done = Callable[..., None]  # (name, error or None) of an object


class Filled(NamedTuple):
    """What became of a shard. objects: the names of those in it; faults: of the others, with what is wrong."""

    objects: list[str]
    bytes: int
    faults: list[tuple[str, InputError]]


def pack(folder: Path, names: Iterable[str], out: str | Path, max_bytes: int, done: Done,
         cluster: Cluster | None = None) -> None:
    """Objects `folder / name` into shards in `out` of about `max_bytes`; `done(name, error)` is called for each.

    out: a folder, or s3://BUCKET/PATH. Objects in the shards that are there count as done. One that cannot be read is
    left out. cluster: whose workers fill shards, in place of this process. Raises InputError if another process writes
    into the folder, and where the bucket cannot be written.
    """
    with _opened(out) as place:
        index = place.index()
        packed = {name for shard in index for name in shard["objects"]}
        called = {folder.name if name == "." else name: name for name in names}
        for name in packed & called.keys():
            done(name)
        groups = deal(folder, {call: name for call, name in called.items() if call not in packed}, max_bytes)
        jobs = ((folder, group, place.stage, file) for group, file in zip(groups, _unused(index), strict=False))
        for file, filled in _fill_all(jobs, place.shared, done, cluster):
            index.append({"file": file, "bytes": filled.bytes, "objects": filled.objects})
            index.sort(key=lambda shard: shard["file"])
            place.keep(file, dump_json({"shards": index}))


class _Here:
    """A folder. Workers write into one below, `stage`: one that is late, of a command that is over, finds it gone."""

    def __init__(self, folder: Path, stage: Path):
        self.shared, self.stage = folder, stage

    def index(self) -> list[Shard]:
        return read_index(self.shared) if (self.shared / INDEX).exists() else []

    def keep(self, file: str, index: bytes) -> None:
        os.replace(self.stage / file, self.shared / file)
        replace_file(self.shared / INDEX, index)


class _There:
    """A folder of an object store, into which workers put whole shards."""

    shared = None

    def __init__(self, address: str):
        self.bucket = Bucket(address)
        self.stage = self.bucket.address

    def index(self) -> list[Shard]:
        """Written once more, so that a bucket that cannot be written is found before there is work."""
        try:
            found = read_index(self.stage)
        except Gone:
            found = []
        self.bucket.write(INDEX, dump_json({"shards": found}))
        return found

    def keep(self, file: str, index: bytes) -> None:
        self.bucket.write(INDEX, index)


@contextmanager
def _opened(out: str | Path) -> Iterator[_Here | _There]:
    if is_bucket(str(out)):
        yield _There(str(out))
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder), hidden(folder) as stage:
        stage.mkdir()
        yield _Here(folder, stage)


def deal(folder: Path, names: dict[str, str], max_bytes: int) -> Iterator[dict[str, str]]:
    """Objects in groups, each the first whose files in `folder` have at least `max_bytes` together.

    names: by what an object is to be called, where it lies.
    """
    group, size = {}, 0
    for call, name in names.items():
        group[call] = name
        size += sum((Path(above) / file).stat().st_size for above, _, files in os.walk(folder / name) for file in files)
        if size >= max_bytes:
            yield group
            group, size = {}, 0
    if group:
        yield group


def _unused(index: list[Shard]) -> Iterator[str]:
    taken = {shard["file"] for shard in index}
    return (file for number in itertools.count() if (file := f"shard-{number:06d}.tar") not in taken)


def _fill_all(jobs: Iterable[tuple], shared: Path | None, done: Done, cluster: Cluster | None
              ) -> Iterator[tuple[str, Filled]]:
    """The files of shards that have become something, in the order in which they are done."""
    if cluster is None:
        for job in jobs:
            if (filled := _fill(*job, done)).objects:
                yield job[3], filled
        return
    with closing(cluster.run(_fill, jobs, shared)) as results:
        for (_, group, _, file), filled in results:
            if isinstance(filled, InputError) and not isinstance(filled, Died):
                raise filled
            if isinstance(filled, Died):
                filled = Filled([], 0, [(name, InputError(f"{name}: {filled}")) for name in group])
            for name in filled.objects:
                done(name)
            for name, error in filled.faults:
                done(name, error)
            if filled.objects:
                yield file, filled


def _fill(folder: Path, group: dict[str, str], stage: str | Path, file: str, done: Done | None = None) -> Filled:
    """One shard, whole, into a folder or an object store. done: is told of each object at once, and faults are then
    not returned."""
    faults: list[tuple[str, InputError]] = []
    if not folder.is_dir():
        raise InputError(f"{folder}: a worker does not see this folder: folders must be shared")

    def readable() -> Iterator[MultiviewObject]:
        for call, name in group.items():
            views = attempt(read_object, folder / name, call)
            if isinstance(views, InputError):
                done(call, views) if done else faults.append((call, views))
            else:
                if done:
                    done(call)
                yield views

    if isinstance(stage, Path):
        with new_file(stage / file) as part:
            objects = write_tar(part, readable())
            return Filled(objects, part.stat().st_size, faults)
    here = Path(tempfile.gettempdir())
    settle(here)  # what killed workers left is as large as shards
    with hidden(here) as part:
        objects = write_tar(part, readable())
        if objects:
            Bucket(stage).upload(part, file)
        return Filled(objects, part.stat().st_size, faults)
