"""Whole sets of multi-view folders: meshes or procedural objects rendered, in parallel, interrupted and resumed.

Every folder's `object.json` says where the object came from and how it was rendered. A folder that is complete and was
rendered the same way is left as it is.
"""

import dataclasses
import hashlib
import multiprocessing
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Annotated, Literal, TypedDict

import torch
from torch.utils.data import DataLoader

from ..cameras import ELEVATION_RANGE, FOV, RADIUS, Cameras, evenly_spaced_orbit, orbit_cameras
from ..errors import InputError, attempt
from ..files import deaf_children, one_line, read_bytes, read_json, settle
from ..speed.cluster import Cluster
from ..speed.threads import prepare
from ..values import Between, check_fields, checked
from .folder_formats import about_object
from .folders import MultiviewObject, stack_rigs, write_object
from .mesh_parts import MISSING
from .meshes import load_mesh, render_mesh


@dataclass(frozen=True)
class RenderSettings:
    """How meshes are rendered: an orbit of `views` at `elevation` degrees (None: one per object, at random from the
    training range), then `novel` views at random; random numbers depend on the object's name and `seed` alone."""

    size: Annotated[int, Between(1, 2**14)] = 256
    views: Annotated[int, Between(1, 9999)] = 8
    novel: Annotated[int, Between(0, 9999)] = 0
    elevation: Annotated[float, Between(-90, 90)] | None = 10.0
    radius: Annotated[float, Between(0.1, 1000)] = RADIUS
    fov: Annotated[float, Between(0.1, 170)] = FOV
    supersample: Annotated[int, Between(1, 16)] = 2
    up: Literal["auto", "y", "z"] = "auto"
    yaw: float = 0.0
    texture: str | None = None
    depth: bool = True
    seed: int = 0
    missing_textures: Literal[MISSING] = "error"

    def __post_init__(self):
        check_fields(self)

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
        record = dataclasses.asdict(self)
        if self.missing_textures != "grey":  # the others are not to be seen in what is rendered
            del record["missing_textures"]
        return record


def held_out(names: Iterable[str], count: int) -> list[str]:
    """`count` of the names, chosen by a hash, to be measured on and never trained on.

    Names that differ in trailing numbers and single letters (armchair, armchair2, chair_A) are one family, and stay
    together; a family that would be too many is left for training.
    """
    families: dict[str, list[str]] = {}
    for name in sorted(names):
        families.setdefault(re.sub(r"([ _-]?\d+|[ _-][A-Z])+$", "", name).lower(), []).append(name)
    chosen: list[str] = []
    for family in sorted(families, key=lambda family: hashlib.sha256(family.encode()).hexdigest()):
        if len(chosen) + len(families[family]) <= count:
            chosen += families[family]
    return sorted(chosen)


def is_done(folder: Path, how: dict) -> bool:
    """Whether an object's folder is complete. Raises InputError if it was rendered otherwise."""
    if not (folder / "object.json").is_file():
        return False
    about = attempt(lambda path: about_object(read_bytes(path), path), folder / "object.json")
    if isinstance(about, InputError):  # damaged: made again
        return False
    before = {"missing_textures": "error"} | about.get("render", {})
    how = {"missing_textures": "error"} | how
    changed = [f"{key} {before.get(key)} instead of {value}" for key, value in how.items() if before.get(key) != value]
    if changed:
        raise InputError(f"{folder}: was made otherwise ({', '.join(changed)}); choose another --out")
    views = how["views"] + how["novel"]
    wanted = [f"view_{i:03d}.png" for i in range(views)] + (
        [f"depth_{i:03d}.npy" for i in range(views)] if how["depth"] else []) + ["cameras.json"]
    return all((folder / name).is_file() for name in wanted)


def _standing(folders: dict[str, Path], how: dict) -> dict[str, bool | InputError]:
    """Which of the objects are there already, and which were made otherwise; raises InputError when all of these were:
    then it is the command that is wrong, not an object."""
    found = {name: attempt(is_done, folder, how) for name, folder in folders.items()}
    odd = [state for state in found.values() if isinstance(state, InputError)]
    if odd and not any(state is True for state in found.values()):
        raise odd[0]
    return found


def render_to_folder(path: Path, folder: Path, name: str, settings: RenderSettings) -> list[str]:
    """Render one mesh into a multi-view folder; returns notes on it. Raises InputError, which names the object."""
    try:
        mesh = load_mesh(path, settings.up, settings.texture, settings.turn(name), settings.missing_textures)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from None
    if settings.turn(name) != settings.yaw and mesh.up != "z":
        raise InputError(f"{name}: the protocol says which side of a mesh with z up the input shows, but this one was "
                         f"taken for {mesh.up} up: give --up z")
    views = render_mesh(mesh, settings.cameras(name), settings.size, settings.supersample, settings.views,
                        settings.depth)
    source = {"mesh": mesh.path.name, "up": mesh.up, "yaw": settings.turn(name), "to_world": mesh.to_world.tolist(),
              **_origin(mesh.path)}
    views = dataclasses.replace(views, name=name, info={"source": source, "render": settings.record()})
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_object(folder, views)
    return mesh.notes


def _origin(mesh: Path) -> dict:
    """Licence and attribution that a download left beside the mesh."""
    for folder in (mesh.parent, mesh.parent.parent):
        record = attempt(lambda path: checked(read_json(path), Origin, path), folder / "download.json")
        if not isinstance(record, InputError):
            return {key: record[key] for key in Origin.__annotations__}
    return {}


class Origin(TypedDict):
    """What a download left beside a mesh, as far as it is passed on."""

    url: str
    sha256: str
    licence: str
    attribution: str


def render_meshes(meshes: dict[str, Path], out: Path, settings: RenderSettings, workers: int,
                  done: Callable[[str, list[str], InputError | None], None], cluster: Cluster | None = None) -> None:
    """Render meshes by name into `out / name`, `workers` at a time; `done(name, notes, error)` is called for each.

    A mesh that cannot be rendered does not keep the others from being rendered. cluster: whose workers render, in place
    of processes of this machine.
    """
    there = _standing({name: out / name for name in meshes}, settings.record())
    waiting = []
    for name, path in meshes.items():
        if there[name]:
            done(name, [], there[name] if isinstance(there[name], InputError) else None)
        else:
            waiting.append((path, out / name, name, settings))
    if cluster is not None:
        _render_on(cluster, waiting, out, done)
        return
    # each worker has one thread; spawned, because torch's threads do not survive a fork
    workers = min(workers, len(waiting)) if workers > 1 else 0
    loader = DataLoader(waiting, batch_size=None, collate_fn=_render_one, num_workers=workers, in_order=False,
                        multiprocessing_context="spawn" if workers else None, worker_init_fn=_start_worker,
                        generator=torch.Generator())
    with deaf_children():
        results = iter(loader)
    try:
        for result in results:
            done(*result)
    except BaseException as error:
        clear_frames(error.__traceback__)  # else they keep the workers from being ended below
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            raise InputError(f"{out}: {one_line(error)}, perhaps of too little memory; try --workers 1") from None
        raise
    finally:
        del results  # ends the workers, by force where one takes long
        for worker in multiprocessing.active_children():
            worker.join(10.0)
        settle(out)


def _render_on(cluster: Cluster, waiting: list[tuple], out: Path, done: Callable[..., None]) -> None:
    waiting = sorted(waiting, key=lambda job: -_bytes(job[0]))  # else one that takes long may be alone at the end
    try:
        with closing(cluster.run(_render_one, [(job,) for job in waiting], out)) as results:
            for (job,), result in results:
                done(*((job[2], [], InputError(f"{job[2]}: {result}")) if isinstance(result, InputError) else result))
    finally:
        settle(out)


def _bytes(path: Path) -> int:
    """Of a file, 0 if it cannot be seen."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _render_one(job: tuple) -> tuple[str, list[str], InputError | None]:
    try:
        return job[2], render_to_folder(*job), None
    except InputError as error:
        return job[2], [], error


def _start_worker(number: int) -> None:
    prepare()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers: the loader's own watch lets them finish what they have been given."""
    multiprocessing.parent_process().join()
    os._exit(1)


def default_workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def render_procedural(split: str, indices: Iterable[int], out: Path, size: int, views: int, novel: int, seed: int,
                      supersample: int, done: Callable[..., None], settings: RenderSettings | None = None) -> None:
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
    there = _standing({name: out / name for name in names.values()}, how)
    left = [index for index, name in names.items() if not there[name]]
    for index in sorted(set(names) - set(left)):
        done(names[index], there[names[index]] if isinstance(there[names[index]], InputError) else None)
    for first in range(0, len(left), 16):
        some = left[first:first + 16]
        objects = sample_objects(split, some, seed=seed)
        rig = held_out_cameras(some, views, novel, seed) if settings is None else stack_rigs(
            [settings.cameras(names[index]) for index in some])
        rendered = render_objects(objects, rig, size, supersample, depth=True)
        for row, index in enumerate(some):
            info = {"source": {"procedural": True, "family": objects.families[row], "index": index}, "render": how}
            out.mkdir(parents=True, exist_ok=True)
            write_object(out / names[index], MultiviewObject(names[index], rendered.rgba[row], rig[row], views,
                                                             rendered.depth[row], info))
            done(names[index])
