"""Objects that were rendered beforehand, as an endless source of batches with the interface of `ObjectBuffer`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..data.batches import MultiviewBatch
from ..data.folders import MultiviewObject, collate, find_objects, read_object
from ..data.shards import INDEX, ShardStream
from ..errors import InputError
from ..presets import Preset
from .config import TrainingConfig


class RenderedObjects:
    """Batches from a folder of multi-view objects (data/folders.py) or of shards (data/shards.py).

    The first `validation_objects` in order of name (of writing, for shards) are kept out of training. The others come
    in an order of `seed` that is new in every epoch, shared out over processes (rank, world_size) and the workers that
    read for each. Orbits and cameras are those of the files; `novel_views` others are drawn anew at each visit.
    """

    def __init__(self, folder: str | Path, preset: Preset, config: TrainingConfig, device, rank: int = 0,
                 world_size: int = 1):
        self.folder, self.num_views, self.device = Path(folder), preset.num_views, torch.device(device)
        self.rank, self.world_size, self.workers = rank, world_size, config.workers
        self.views = preset.num_views + config.novel_views
        kind = _Shards if (self.folder / INDEX).is_file() else _Folders
        self.objects = kind(self.folder, preset.image_size, config)
        if len(self.objects) <= config.validation_objects:
            raise InputError(f"{folder}: holds {len(self.objects)} objects, of which validation_objects="
                             f"{config.validation_objects} are kept out of training: none is left")
        self.objects.settings["views"] = self._orbit(config.orbit_views)
        self.given = 0  # objects that this process has been given
        self.iterator: Iterator | None = None

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def next(self) -> int:
        """Number of the object that comes next, counted in this process."""
        return self.given

    def restart(self, next: int) -> None:
        """Go on with object number `next`, as after an interruption: the same ones for the same number of readers."""
        self.given, self.iterator = next, None

    def fill(self) -> None:
        """Start to read."""
        dataset = _Endless(self.objects, self.rank, self.world_size, self.given)
        own = torch.Generator().manual_seed(0)  # it would draw from the global one, and a resumed run then differ
        self.iterator = iter(DataLoader(dataset, batch_size=None, num_workers=self.workers, generator=own))

    def refresh(self) -> None:
        """Nothing to do: every batch is new."""

    def batch(self, size: int, images: bool = True) -> MultiviewBatch:
        """The next `size` objects, on the device; without latents. Pictures always come along."""
        objects = [self._valid(next(self.iterator)) for _ in range(size)]
        self.given += size
        batch = collate(objects)
        return MultiviewBatch(batch.rgba.to(self.device), batch.cameras.to(self.device), batch.num_orbit_views)

    def held_out(self) -> MultiviewBatch:
        """The objects that are kept out of training."""
        batch = collate([self._valid(views) for views in self.objects.held_out()])
        return MultiviewBatch(batch.rgba.to(self.device), batch.cameras.to(self.device), batch.num_orbit_views)

    def _valid(self, item: MultiviewObject | InputError) -> MultiviewObject:
        if isinstance(item, InputError):
            raise item
        if item.num_orbit_views != self.num_views:
            raise InputError(f"{self.folder}: {item.name} has an orbit of {item.num_orbit_views} views, the preset "
                             f"takes {self.num_views}; choose them with --set orbit_views=0,2,...")
        return item

    def _orbit(self, wanted: str) -> list[int] | None:
        """Numbers of the views to read as the orbit: `wanted`, or evenly spaced ones; None for all there are."""
        if wanted:
            try:
                views = [int(part) for part in wanted.split(",")]
            except ValueError:
                raise InputError(f"orbit_views={wanted}: expected numbers of views, such as 0,2,4") from None
            if len(views) != self.num_views:
                raise InputError(f"orbit_views={wanted}: {len(views)} views, the preset takes {self.num_views}")
            return views
        settings = self.objects.settings | {"novel_views": None}
        there = next(iter(self.objects.held_out(settings))).num_orbit_views
        if there == self.num_views:
            return None
        if there % self.num_views:
            raise InputError(f"{self.folder}: orbits of {there} views, the preset takes {self.num_views}; choose them "
                             "with --set orbit_views=0,2,...")
        return list(range(0, there, there // self.num_views))


class _Endless(IterableDataset):
    """What one worker of one process reads, from object number `start` of the process on.

    Workers take turns, so object k of a process comes from worker k modulo their number. After an interruption each
    takes the role that its first turn belongs to. What cannot be used is handed on, to be raised where it is asked for.
    """

    def __init__(self, objects: _Folders | _Shards, rank: int, world_size: int, start: int):
        self.objects, self.rank, self.world_size, self.start = objects, rank, world_size, start

    def __iter__(self) -> Iterator[MultiviewObject | InputError]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        role = (worker + self.start) % workers
        before = len(range(role, self.start, workers))
        try:
            yield from self.objects.endless(self.rank * workers + role, self.world_size * workers, before)
        except InputError as error:
            yield error


class _Folders:
    """One folder an object. Reader r of R takes every R-th object of one endless sequence of shuffled epochs."""

    def __init__(self, root: Path, image_size: int, config: TrainingConfig):
        names, count = find_objects(root), config.validation_objects
        self.root, self.seed = root, config.seed
        self.validation, self.names = names[:count], names[count:]
        self.settings = {"image_size": image_size, "views": None, "novel_views": config.novel_views, "depth": False,
                         "start": config.condition_view}

    def __len__(self) -> int:
        return len(self.validation) + len(self.names)

    def held_out(self, settings: dict | None = None) -> Iterator[MultiviewObject]:
        for name in self.validation:
            yield read_object(self.root / name, **settings or self.settings, name=name)

    def endless(self, reader: int, readers: int, skip: int) -> Iterator[MultiviewObject]:
        orders = _Orders(self.names, self.seed)
        for number in itertools.count(reader + skip * readers, readers):
            name = orders[number]
            yield read_object(self.root / name, **self.settings, name=name,
                              draw=random.Random(f"{self.seed} {number}"))


class _Shards:
    """Many objects a file. Reader r of R takes every R-th shard of one endless sequence of shuffled epochs."""

    def __init__(self, root: Path, image_size: int, config: TrainingConfig):
        self.settings = {"image_size": image_size, "views": None, "novel_views": config.novel_views, "depth": False,
                         "start": config.condition_view}
        self.stream = ShardStream(root, shuffle=config.shuffle)
        self.seed, self.paths = config.seed, list(self.stream.shards)
        names = (name for objects in self.stream.shards.values() for name in objects)
        self.validation = list(itertools.islice(names, config.validation_objects))

    def __len__(self) -> int:
        return len(self.stream)

    def held_out(self, settings: dict | None = None) -> Iterator[MultiviewObject]:
        self.stream.settings = settings or self.settings
        in_order = itertools.chain.from_iterable(self.stream.in_order(path) for path in self.paths)
        return itertools.islice(in_order, len(self.validation))

    def endless(self, reader: int, readers: int, skip: int) -> Iterator[MultiviewObject]:
        self.stream.settings = self.settings
        orders, left_out = _Orders(self.paths, self.seed), set(self.validation)
        for number in itertools.count(reader, readers):
            path = orders[number]
            count = len(set(self.stream.shards[path]) - left_out)
            if skip < count:
                yield from self.stream.objects_of(path, random.Random(f"{self.seed} {number}"), skip, left_out)
            skip = max(0, skip - count)


class _Orders:
    """An endless sequence: all items in one order, then all in another one, ..."""

    def __init__(self, items: list, seed: int):
        self.items, self.seed, self.epoch, self.order = items, seed, -1, []

    def __getitem__(self, number: int):
        epoch, place = divmod(number, len(self.items))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, random.Random(f"{self.seed} {epoch}").sample(self.items, len(self.items))
        return self.order[place]
