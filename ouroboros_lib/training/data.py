"""Objects of --data, as an endless source of batches with the interface of `ObjectBuffer`: rendered beforehand, or
meshes that are rendered anew at each visit."""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from ..data.batches import MultiviewBatch
from ..data.fetching import Unreachable
from ..data.folders import MultiviewObject, collate, find_objects, read_object
from ..data.fresh import find_swatches, fresh_views, household_views
from ..data.layouts import find_meshes, holds_meshes
from ..data.meshes import load_mesh, render_mesh
from ..data.renders import RenderSettings, held_out
from ..data.shards import INDEX, ShardStream
from ..data.streaming import is_remote
from ..errors import InputError, attempt
from ..files import one_line
from ..presets import Preset
from .config import TrainingConfig

LEAST_TRIES, MOST_TRIES = 100, 1000  # objects in a row that cannot be used before giving up


class RenderedObjects:
    """Batches from a folder of multi-view objects (data/folders.py), of shards (data/shards.py) or of meshes, or from
    shards at an address.

    The first `validation_objects` in order of name (of writing, for shards) are kept out of training; of meshes, those
    that data/renders.py holds out. The others come in an order of `seed` that is new in every epoch, shared out over
    processes (rank, world_size) and the workers that read for each. Orbits and cameras are those of the files;
    `novel_views` others are drawn anew at each visit.
    """

    def __init__(self, folder: str | Path, preset: Preset, config: TrainingConfig, device, rank: int = 0,
                 world_size: int = 1):
        self.folder = str(folder) if (remote := is_remote(str(folder))) else Path(folder)
        self.num_views, self.device = preset.num_views, torch.device(device)
        self.start_worker = _give_way if config.procedural_share else None
        self.workers, self.views = config.workers, preset.num_views + config.novel_views
        self.next = 0  # number of the object that comes next, counted in this process, those left out included
        self.told: set[str] = set()  # what is wrong with objects, once said
        self.checks: list[Callable[[MultiviewObject], None]] = []  # raise InputError for what does not fit elsewhere
        kind = (_Shards if remote or (self.folder / INDEX).is_file() else
                partial(_Meshes, views=preset.num_views) if holds_meshes(self.folder) else _Folders)
        settings = {"image_size": preset.image_size, "views": None, "novel_views": None, "depth": False,
                    "start": config.condition_view}
        self.objects = kind(self.folder, config, settings, rank, world_size)
        if len(self) <= config.validation_objects:
            raise InputError(f"{folder}: holds {len(self)} objects, of which validation_objects="
                             f"{config.validation_objects} are kept out of training: none is left")
        settings |= {"views": self._orbit(config.orbit_views), "novel_views": config.novel_views}

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def left_out(self) -> int:
        """How many objects could not be used so far."""
        return len(self.told)

    def restart(self, next: int) -> None:
        """Go on with object number `next`, as after an interruption: the same ones for the same number of readers."""
        self.next = next

    def fill(self) -> None:
        """Start to read."""
        self.objects.start = self.next
        own = torch.Generator().manual_seed(0)  # it would draw from the global one, and a resumed run then differ
        self.iterator = iter(DataLoader(self.objects, batch_size=None, num_workers=self.workers, generator=own,
                                        prefetch_factor=4 if self.workers else None, worker_init_fn=self.start_worker))

    def refresh(self) -> None:
        """Nothing to do: every batch is new."""

    def close(self) -> None:
        """End the readers."""
        self.iterator = iter(())

    def batch(self, size: int, images: bool = True) -> MultiviewBatch:
        """The next `size` objects, on the device; without latents. Pictures always come along."""
        return self._collated([self.one() for _ in range(size)])

    def held_out(self) -> MultiviewBatch:
        """The objects that are kept out of training."""
        return self._collated(list(self._usable(self.objects.held_out())))

    def one(self) -> MultiviewObject:
        """The next object, on the CPU."""
        try:
            return next(self._usable(self._counted()))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(f"{self.folder}: {one_line(error)}, perhaps of too little memory; try --set workers=0"
                             ) from None

    def _counted(self) -> Iterator[MultiviewObject | InputError]:
        while True:
            self.next += 1
            if isinstance(item := next(self.iterator), Unreachable):
                raise item
            yield item

    def _usable(self, items: Iterable[MultiviewObject | InputError]) -> Iterator[MultiviewObject]:
        """Those that can be trained on; the others are left out, and named once. Raises InputError when there are none,
        or very many others in a row."""
        faults: list[str] = []
        found, limit = False, min(max(LEAST_TRIES, 2 * len(self)), MOST_TRIES)
        for item in items:
            fault = item if isinstance(item, InputError) else attempt(self._check, item)
            if fault is None:
                self._tell(faults)
                yield item
                faults, found = [], True
            elif len(faults := [*faults, str(fault)]) == limit:
                break
        if not found or len(faults) == limit:
            raise InputError(f"{self.folder}: none of {len(set(faults))} objects can be used; the first: {faults[0]}")
        self._tell(faults)

    def _tell(self, faults: Iterable[str]) -> None:
        for text in faults:
            if text not in self.told:
                tqdm.write(f"left out: {' '.join(text.split())}", file=sys.stderr)
                self.told.add(text)

    def _collated(self, objects: list[MultiviewObject]) -> MultiviewBatch:
        batch = collate(objects)
        return MultiviewBatch(batch.rgba.to(self.device), batch.cameras.to(self.device), batch.num_orbit_views)

    def _check(self, views: MultiviewObject) -> None:
        if views.num_orbit_views != self.num_views:
            raise InputError(f"{self.folder}: {views.name} has an orbit of {views.num_orbit_views} views, the preset "
                             f"takes {self.num_views}; choose them with --set orbit_views=0,2,...")
        for check in self.checks:
            check(views)

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
        faults: list[InputError] = []
        for views in self.objects.held_out():
            if not isinstance(views, InputError):
                break
            faults.append(views)
        else:
            raise InputError(f"{self.folder}: none of the {len(faults)} objects that are kept out of training can be "
                             f"used; the first: {faults[0]}")
        there = views.num_orbit_views
        if there == self.num_views:
            return None
        if there % self.num_views:
            raise InputError(f"{self.folder}: orbits of {there} views, the preset takes {self.num_views}; choose them "
                             "with --set orbit_views=0,2,...")
        return list(range(0, there, there // self.num_views))


def _give_way(worker: int) -> None:
    """Whoever trains, or compiles, comes first, if it does not wait for objects."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(10)


class _Objects(IterableDataset):
    """What the workers of one process read, from object number `start` of the process on.

    Workers take turns, so object k of a process comes from worker k modulo their number. After an interruption each
    takes the role that its first turn belongs to. In place of an object that cannot be used comes what is wrong.
    """

    start = 0

    def __init__(self, root: str | Path, config: TrainingConfig, settings: dict, rank: int, world_size: int):
        self.root, self.config, self.settings, self.rank, self.world_size = root, config, settings, rank, world_size

    def __iter__(self) -> Iterator[MultiviewObject | InputError]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        role = (worker + self.start) % workers
        before = len(range(role, self.start, workers))
        try:
            yield from self.endless(self.rank * workers + role, self.world_size * workers, before)
        except Unreachable as error:  # raised here, it would come out of a worker with the whole way to it
            yield error

    def in_epochs(self, items: list, first: int, step: int) -> Iterator[tuple[random.Random, Any]]:
        """Every `step`-th of an endless sequence: all items in one order, then all in another one, ... With a generator
        of its own for each."""
        seed, epoch = self.config.seed, -1
        for number in itertools.count(first, step):
            if number // len(items) != epoch:
                epoch = number // len(items)
                order = random.Random(f"{seed} {epoch}").sample(items, len(items))
            yield random.Random(f"{seed} {number}"), order[number % len(items)]


def refuse_settings_of_meshes(config: TrainingConfig, instead: str) -> None:
    """Raise InputError for a setting that only meshes have, where there is `instead`."""
    for name in ("household_share", "held_out", "swatches"):
        if value := getattr(config, name):
            raise InputError(f"{name}={value}: is for meshes in --data, and {instead}; leave it out")


class _Folders(_Objects):
    """One folder an object. Reader r of R takes every R-th object."""

    def __init__(self, root: Path, config: TrainingConfig, *given):
        super().__init__(root, config, *given)
        refuse_settings_of_meshes(config, f"{root} holds renders")
        names, count = find_objects(root), config.validation_objects
        self.validation, self.names = names[:count], names[count:]

    def __len__(self) -> int:
        return len(self.validation) + len(self.names)

    def held_out(self) -> Iterator[MultiviewObject | InputError]:
        for name in self.validation:
            yield attempt(read_object, self.root / name, **self.settings, name=name)

    def endless(self, reader: int, readers: int, skip: int) -> Iterator[MultiviewObject | InputError]:
        for draw, name in self.in_epochs(self.names, reader + skip * readers, readers):
            yield attempt(read_object, self.root / name, **self.settings, name=name, draw=draw)


class _Shards(_Objects):
    """Many objects a file. Reader r of R takes every R-th shard."""

    def __init__(self, root: str | Path, config: TrainingConfig, *given):
        super().__init__(root, config, *given)
        refuse_settings_of_meshes(config, f"{root} holds renders")
        self.stream = ShardStream(root, shuffle=config.shuffle)
        self.stream.settings = self.settings
        names = itertools.chain.from_iterable(self.stream.shards.values())
        self.validation = set(itertools.islice(names, config.validation_objects))

    def __len__(self) -> int:
        return len(self.stream)

    def held_out(self) -> Iterator[MultiviewObject | InputError]:
        in_order = itertools.chain.from_iterable(map(self.stream.objects_of, self.stream.shards))
        return itertools.islice(in_order, len(self.validation))

    def endless(self, reader: int, readers: int, skip: int) -> Iterator[MultiviewObject | InputError]:
        for draw, path in self.in_epochs(list(self.stream.shards), reader, readers):
            count = len(set(self.stream.shards[path]) - self.validation)
            if skip < count:
                yield from self.stream.objects_of(path, draw, skip, self.validation)
            skip = max(0, skip - count)


class _Meshes(_Objects):
    """One mesh an object, rendered by whoever reads it, each time otherwise. Reader r of R takes every R-th object."""

    def __init__(self, root: Path, config: TrainingConfig, *given, views: int):
        super().__init__(root, config, *given)
        self.meshes, self.swatches = find_meshes([root]), find_swatches(config.swatches)
        out = held_out(self.meshes, max(config.held_out, config.validation_objects))
        self.validation, self.names = out[:config.validation_objects], sorted(set(self.meshes) - set(out))
        if not self.names or not self.validation:
            raise InputError(f"{root}: holds {len(self.meshes)} meshes, of which {len(out)} are kept out of training: "
                             "one of both is too few")
        self.render = RenderSettings(self.settings["image_size"], views, config.novel_views, None, depth=False)

    def __len__(self) -> int:
        return len(self.meshes)

    def held_out(self) -> Iterator[MultiviewObject | InputError]:
        for name in self.validation:
            yield attempt(self._as_it_is, name)

    def endless(self, reader: int, readers: int, skip: int) -> Iterator[MultiviewObject | InputError]:
        for draw, name in self.in_epochs(self.names, reader + skip * readers, readers):
            if draw.random() < self.config.household_share:
                yield household_views(self.render, draw, self.swatches)
            else:
                yield attempt(fresh_views, name, self.meshes[name], self.render, draw, self.swatches)

    def _as_it_is(self, name: str) -> MultiviewObject:
        return render_mesh(load_mesh(self.meshes[name]), self.render.cameras(name), self.render.size,
                           self.render.supersample, self.render.views, depth=False)
