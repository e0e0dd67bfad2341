"""Whole sets of multi-view folders: meshes or procedural objects rendered, in parallel, interrupted and resumed.

Every folder's `object.json` says where the object came from and how it was rendered. A folder that is complete and was
rendered the same way is left as it is.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import torch

from ..cameras import ELEVATION_RANGE, FOV, RADIUS, Cameras, evenly_spaced_orbit, orbit_cameras
from ..errors import InputError
from ..files import read_json
from ..speed.threads import prepare
from .folders import MultiviewObject, write_object
from .mesh_files import find_mesh, mesh_files, object_name
from .meshes import load_mesh, render_mesh


@dataclass(frozen=True)
class RenderSettings:
    """How meshes are rendered: an orbit of `views` at `elevation` degrees (None: one per object, at random from the
    training range), then `novel` views at random; random numbers depend on the object's name and `seed` alone."""

    size: int = 256
    views: int = 8
    novel: int = 0
    elevation: float | None = 10.0
    radius: float = RADIUS
    fov: float = FOV
    supersample: int = 2
    up: str = "auto"
    yaw: float = 0.0
    texture: str | None = None
    depth: bool = True
    ccm: bool = False
    seed: int = 0

    def cameras(self, name: str) -> Cameras:
        """(views + novel,) cameras for an object."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + zlib.crc32(name.encode()))
        low, high = ELEVATION_RANGE
        draws = torch.rand(1 + 2 * self.novel, generator=generator)
        elevation = float(low + (high - low) * draws[0]) if self.elevation is None else self.elevation
        rig = {"radius": self.radius, "fov": self.fov}
        orbit = evenly_spaced_orbit(self.views, elevation, **rig)
        if not self.novel:
            return orbit
        novel = orbit_cameras(360 * draws[1::2], low + (high - low) * draws[2::2], **rig)
        return Cameras(torch.cat([orbit.c2w, novel.c2w]), torch.cat([orbit.intrinsics, novel.intrinsics]))

    def turn(self, name: str) -> float:
        """Degrees by which an object is turned, see `load_mesh`."""
        return self.yaw

    def record(self) -> dict:
        return dataclasses.asdict(self)


def find_meshes(paths: Iterable[Path]) -> dict[str, Path]:
    """Mesh files or folders by object name: `paths` are meshes, folders of one object, or folders of many.

    A folder of many holds meshes, or folders of objects. Faulty entries are among the results: rendering says what is
    wrong with them. Raises InputError for a path that is not there or has nothing in it, and for equal names.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for entry in _entries(path):
            try:
                name = object_name(find_mesh(entry))
            except InputError:
                name = entry.stem if entry.is_file() else entry.absolute().name
            other = found.setdefault(name, entry)
            if other.resolve() != entry.resolve():
                raise InputError(f"{entry}: is called {name}, as is {other}; rename one or render them apart")
    return found


def _entries(path: Path) -> list[Path]:
    if path.is_file() or not path.is_dir():
        find_mesh(path)  # raises unless it is a mesh
        return [path]
    here = mesh_files(path)
    if here:
        return here
    if mesh_files(path / "meshes"):
        return [path]
    below = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not below:
        raise InputError(f"{path}: an empty folder, expected meshes or folders of objects")
    return below


def is_done(folder: Path, how: dict) -> bool:
    """Whether an object's folder is complete. Raises InputError if it was rendered otherwise."""
    if not (folder / "object.json").is_file():
        return False
    about = read_json(folder / "object.json")
    if not isinstance(about, dict) or about.get("render") != how:
        before = about.get("render") if isinstance(about, dict) else None
        changed = [f"{key} {before[key]} instead of {value}" for key, value in how.items()
                   if before.get(key) != value and key in before] if isinstance(before, dict) else []
        raise InputError(f"{folder}: was made otherwise ({', '.join(changed) or 'by something else'}); choose another "
                         "--out, or --overwrite")
    views = how["views"] + how["novel"]
    wanted = [f"view_{i:03d}.png" for i in range(views)] + (
        [f"depth_{i:03d}.npy" for i in range(views)] if how["depth"] else []) + ["cameras.json"]
    return all((folder / name).is_file() for name in wanted)


def render_to_folder(path: Path, folder: Path, name: str, settings: RenderSettings) -> list[str]:
    """Render one mesh into a multi-view folder; returns notes on it. Raises InputError, which names the object."""
    try:
        mesh = load_mesh(path, settings.up, settings.texture, settings.turn(name))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    views = render_mesh(mesh, settings.cameras(name), settings.size, settings.supersample, settings.views)
    source = {"mesh": mesh.path.name, "up": mesh.up, "yaw": settings.turn(name), "to_world": mesh.to_world.tolist(),
              **_origin(mesh.path)}
    views = dataclasses.replace(views, name=name, info={"source": source, "render": settings.record()})
    if not settings.depth:
        views.depth = None
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_object(folder, views, coordinate_maps=settings.ccm)
    return mesh.notes


def _origin(mesh: Path) -> dict:
    """Licence and attribution that a download left beside the mesh."""
    for folder in (mesh.parent, mesh.parent.parent):
        try:
            record = json.loads((folder / "download.json").read_text())
            return {key: record[key] for key in ("url", "sha256", "licence", "attribution")}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def render_meshes(meshes: dict[str, Path], out: Path, settings: RenderSettings, workers: int,
                  done: Callable[[str, list[str], InputError | None], None], overwrite: bool = False) -> None:
    """Render meshes by name into `out / name`, `workers` at a time; `done(name, notes, error)` is called for each.

    A mesh that cannot be rendered does not keep the others from being rendered.
    """
    waiting = []
    how = settings.record()
    for name, path in meshes.items():
        if not overwrite and is_done(out / name, how):
            done(name, [], None)
        else:
            waiting.append((path, out / name, name, settings))
    if min(workers, len(waiting)) <= 1:
        for job in waiting:
            try:
                notes, error = render_to_folder(*job), None
            except InputError as caught:
                notes, error = [], caught
            done(job[2], notes, error)
        return
    # spawned, not forked: torch's threads do not survive a fork
    pool = ProcessPoolExecutor(min(workers, len(waiting)), multiprocessing.get_context("spawn"), _start_worker)
    try:
        with _interrupts_wait():  # which the workers, started here, inherit: they are deaf from their first import on
            jobs = {pool.submit(render_to_folder, *job): job[2] for job in waiting}
        pending = set(jobs)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for job in finished:
                name = jobs[job]
                try:
                    notes, error = job.result(), None
                except InputError as caught:
                    notes, error = [], caught
                except BrokenProcessPool:
                    raise InputError(f"{name}: a worker process died, perhaps of too little memory; try --workers 1"
                                     ) from None
                done(name, notes, error)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C reaches the whole group of processes, but only the first one decides, and not before this is over."""
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield  # Windows, or a thread that gets no interrupts
        return
    heard: list[tuple] = []
    resource_tracker.ensure_running()  # with the first worker it would start, and lift the mask
    handler = signal.signal(signal.SIGINT, lambda *call: heard.append(call))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # new processes have it, but not the handler
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if heard and callable(handler):
        handler(*heard[0])


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers: they would wait for their next mesh for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def default_workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def render_procedural(split: str, indices: Iterable[int], out: Path, size: int, views: int, novel: int, seed: int,
                      supersample: int, done: Callable[[str], None], overwrite: bool = False, chunk: int = 16,
                      settings: RenderSettings | None = None) -> None:
    """Held-out or training objects with their fixed rigs into `out / SPLIT_000000` ..., with exact depth.

    Object i of a split has the cameras of `held_out_objects`, so that files and memory hold the same pictures; or those
    of `settings` instead of size, views, novel and supersample.
    """
    from .batches import held_out_cameras
    from .procedural import render_objects, sample_objects

    how = {"split": split, "seed": seed, "size": size, "views": views, "novel": novel, "supersample": supersample,
           "depth": True}
    if settings is not None:
        size, views, supersample = settings.size, settings.views, settings.supersample
        how = settings.record() | {"split": split, "seed": seed}
    names = {index: f"{split}_{index:06d}" for index in indices}
    left = [index for index, name in names.items() if overwrite or not is_done(out / name, how)]
    for index in sorted(set(names) - set(left)):
        done(names[index])
    for first in range(0, len(left), chunk):
        some = left[first:first + chunk]
        objects = sample_objects(split, some, seed=seed)
        rig = held_out_cameras(some, views, novel, seed) if settings is None else _stack(
            [settings.cameras(names[index]) for index in some])
        rendered = render_objects(objects, rig, size, supersample, depth=True)
        for row, index in enumerate(some):
            info = {"source": {"procedural": True, "family": objects.families[row], "index": index}, "render": how}
            out.mkdir(parents=True, exist_ok=True)
            write_object(out / names[index], MultiviewObject(names[index], rendered.rgba[row], rig[row], views,
                                                             rendered.depth[row], info))
            done(names[index])


def _stack(rigs: list[Cameras]) -> Cameras:
    return Cameras(torch.stack([rig.c2w for rig in rigs]), torch.stack([rig.intrinsics for rig in rigs]))
