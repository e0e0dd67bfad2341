"""Multi-view folders: rendered objects on disk, one folder each, written, checked and read into training batches.

Formats that are read are those of folder_formats.py; ours is the one that is written.

On disk, colour is straight (not multiplied by alpha), as image viewers expect; in memory it is composited on white, as
everywhere in this library. With 8 bits the way there and back is exact.
"""

from __future__ import annotations

import io
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..cameras import Cameras, cameras_to_record
from ..errors import InputError
from ..files import dump_json, new_folder, one_line, read_bytes
from .folder_formats import UPS, find_format, into_our_world, is_stray, load_array, read_format, subfolders
from .pictures import LFS, POINTER, OnWhite, eight_bit, open_picture

if TYPE_CHECKING:  # processes that only render meshes can do without the procedural universe behind it
    from .batches import MultiviewBatch

_log = logging.getLogger(__name__)


@dataclass
class MultiviewObject(OnWhite):
    """One object seen by V cameras: those of an orbit first (view 0 is the condition view), then novel ones.

    rgba (V, 4, S, S) uint8, colour composited on white, alpha beside it; depth (V, 1, S, S) float32, along z, 0 where
    there is nothing, or None; info: where it came from, anything that JSON can hold.
    """

    name: str
    rgba: Tensor
    cameras: Cameras
    num_orbit_views: int
    depth: Tensor | None = None
    info: dict = field(default_factory=dict)


def collate(objects: Sequence[MultiviewObject]) -> MultiviewBatch:
    """Objects of equal size and number of views as a batch; the `collate_fn` of a DataLoader. Raises InputError."""
    from .batches import MultiviewBatch

    first = objects[0]
    for other in objects[1:]:
        if (other.rgba.shape, other.num_orbit_views) != (first.rgba.shape, first.num_orbit_views):
            a, b = (f"{o.name}: {o.num_orbit_views} orbit views of {len(o.rgba)}, {o.rgba.shape[-1]} pixels a side"
                    for o in (first, other))
            raise InputError(f"objects that do not fit in one batch: {a}; {b}; choose views and image_size")
    cameras = stack_rigs([views.cameras for views in objects])
    return MultiviewBatch(torch.stack([views.rgba for views in objects]), cameras, first.num_orbit_views)


def stack_rigs(rigs: Sequence[Cameras]) -> Cameras:
    """Cameras (V,) of each of B objects as (B, V)."""
    return Cameras(torch.stack([rig.c2w for rig in rigs]), torch.stack([rig.intrinsics for rig in rigs]))


# ---- writing --------------------------------------------------------------------------------------------------------


def encode_object(views: MultiviewObject) -> dict[str, bytes]:
    """The files of a folder in our format, by name; `object.json`, the last, says how many views are the orbit's."""
    files = {}
    for number, rgba in enumerate(views.rgba.cpu()):
        buffer = io.BytesIO()
        Image.fromarray(_straight(rgba.permute(1, 2, 0).numpy())).save(buffer, "PNG", compress_level=6)
        files[f"view_{number:03d}.png"] = buffer.getvalue()
    for number, depth in enumerate(() if views.depth is None else views.depth.float().cpu()):
        buffer = io.BytesIO()
        np.save(buffer, depth[0].numpy())
        files[f"depth_{number:03d}.npy"] = buffer.getvalue()
    files["cameras.json"] = dump_json(cameras_to_record(views.cameras.to("cpu"), views.rgba.shape[-1]), indent=None)
    about = {"name": views.name, "num_orbit_views": views.num_orbit_views, **views.info}
    files["object.json"] = dump_json(about)
    return files


def write_object(folder: str | Path, views: MultiviewObject) -> None:
    """Write one object in our format, beside `folder` first and then into its place."""
    files = encode_object(views)
    with new_folder(Path(folder)) as stage:
        for name, data in files.items():
            (stage / name).write_bytes(data)


def _straight(on_white: np.ndarray) -> np.ndarray:
    """(S, S, 4) uint8, from colour composited on white to straight colour; white where nothing is."""
    rgba = on_white.astype(np.float32)
    alpha = rgba[..., 3:]
    color = np.where(alpha > 0, (rgba[..., :3] - (255 - alpha)) * 255 / np.maximum(alpha, 1), 255)
    return np.concatenate([np.rint(color.clip(0, 255)), alpha], -1).astype(np.uint8)


def on_white(straight: np.ndarray) -> np.ndarray:
    rgba = straight.astype(np.float32)
    alpha = rgba[..., 3:]
    return np.concatenate([np.rint(rgba[..., :3] * alpha / 255 + 255 - alpha), alpha], -1).astype(np.uint8)


# ---- reading --------------------------------------------------------------------------------------------------------


class _Folder(Mapping):
    """The files of a folder by name, read when asked for."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.names = {entry.name for entry in os.scandir(path) if entry.is_file()}
        except OSError as error:
            raise InputError(f"{path}: cannot be opened as a folder of views ({error.strerror})") from None

    def __getitem__(self, name: str) -> bytes:
        if name not in self:
            raise KeyError(name)
        return read_bytes(self.path / name)

    def __contains__(self, name) -> bool:
        return name in self.names or "/" in name and self._inside(name) is not None

    def _inside(self, name: str) -> Path | None:
        """A file in a folder below."""
        if not os.path.isfile(self.path / name):  # which takes any text for a name
            return None
        path = (self.path / name).resolve()
        return path if path.is_relative_to(self.path.resolve()) else None

    def __iter__(self):
        return iter(sorted(self.names))

    def __len__(self) -> int:
        return len(self.names)


def read_object(folder: str | Path, name: str = "", **settings) -> MultiviewObject:
    """One object from a folder in any of the formats; settings: those of `decode_object`. Raises InputError."""
    folder = Path(folder)
    return decode_object(_Folder(folder), folder, name or folder.name, **settings)


def decode_object(files: Mapping[str, bytes], where: str | Path, name: str = "", image_size: int | None = None,
                  views: Sequence[int] | None = None, novel_views: int | None = None, depth: bool | None = None,
                  up: str = "auto", draw: random.Random | None = None, start: str = "first") -> MultiviewObject:
    """One object from files at hand by name, of a folder or a shard; `where` is for messages.

    image_size: pixels a side, by averaging if the files have more. views: which of the orbit's, all by default, in that
    order; the first is the condition view. novel_views: how many others, evenly chosen from all that are left, or at
    random by `draw` (None: those that the folder itself calls novel). depth: True insists, False leaves it out, None
    takes what is there. up: the upward axis of the renders' world; "auto" is y for ours, and what the cameras hold
    upwards for the others, which are turned so that y is up and the condition view stands at azimuth 0.
    start: "random" lets a closed orbit begin at a frame that `draw` chooses, and turns the world of ours as well.
    Raises InputError, one line that names the folder and the file, for whatever is missing or does not fit.
    """
    where = Path(where)
    if up not in UPS:
        raise InputError(f"up={up!r}: expected one of {', '.join(UPS)}")
    kind, images, cameras, about = read_format(files, where)
    orbit = int(about.get("num_orbit_views", len(images)))
    if not 1 <= orbit <= len(images):
        raise InputError(f"{where}: object.json speaks of {orbit} orbit views, but there are {len(images)} views")
    chosen, count = _choose(where, len(images), orbit, views, novel_views, draw)
    if start == "random" and draw is not None:
        first = draw.randrange(orbit)
        chosen = [(view + first) % orbit if view < orbit else view for view in chosen]
    pictures = [_read_image(files, images[i], where) for i in chosen]
    size = about.get("size", pictures[0].shape[-1])
    for i, picture in zip(chosen, pictures, strict=True):
        if picture.shape[-1] != size:
            raise InputError(f"{where / images[i]}: {picture.shape[-1]} pixels a side, expected {size} as "
                             f"{'cameras.json says' if 'size' in about else f'in {images[chosen[0]]}'}")
    rgba = torch.stack(pictures)
    maps = _read_depth(files, where, kind, chosen, rgba.shape[-1], depth)
    if image_size is not None and image_size != rgba.shape[-1]:
        if depth:
            raise InputError(f"{where}: its depth is of {rgba.shape[-1]} pixels a side and cannot be resized to "
                             f"{image_size}")
        rgba, maps = _shrink(rgba, image_size, where / images[chosen[0]]), None
    cameras = cameras.views(chosen)
    if kind != "ours" or up == "z" or start == "random":
        cameras = into_our_world(cameras, "y" if kind == "ours" and up == "auto" else up, where)
    info = {key: value for key, value in about.items() if key not in ("name", "num_orbit_views", "size")}
    return MultiviewObject(name or about.get("name", where.name), rgba, cameras, count, maps, info)


def _choose(where: Path, total: int, orbit: int, views: Sequence[int] | None, novel_views: int | None,
            draw: random.Random | None):
    """Indices of the views to read, and how many of them are the orbit's."""
    views = list(range(orbit)) if views is None else [int(view) for view in views]
    if not views or min(views) < 0 or max(views) >= total:
        raise InputError(f"{where}: has {total} views; views {views} were asked for")
    left = [i for i in range(orbit if novel_views is None else 0, total) if i not in views]
    if novel_views is not None:
        if novel_views > len(left):
            raise InputError(f"{where}: has {len(left)} views besides the orbit's {len(views)}; {novel_views} novel "
                             "ones were asked for")
        own = [i for i in left if i >= orbit]  # those the folder calls novel come first
        pool = own if len(own) >= novel_views else left
        if draw is not None:
            pool = sorted(draw.sample(pool, novel_views))
        left = [pool[i * len(pool) // novel_views] for i in range(novel_views)]
    return views + left, len(views)


def _read_image(files, name: str, where: Path) -> Tensor:
    """(4, S, S) uint8, composited on white."""
    path = where / name
    try:
        data = files[name]
    except KeyError:
        raise InputError(f"{path}: this view is missing") from None
    try:
        with open_picture(data) as image:
            pixels = eight_bit(image, alpha=True)
    except Exception as error:  # decoders raise many kinds
        error = POINTER if data.startswith(LFS) else error
        raise InputError(f"{path}: cannot be read as a picture ({one_line(error)})") from None
    if pixels.shape[-1] == 3:
        raise InputError(f"{path}: has no alpha channel, so nothing says where the object ends")
    if pixels.shape[0] != pixels.shape[1]:
        raise InputError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, expected a square picture")
    return torch.from_numpy(on_white(pixels)).permute(2, 0, 1)


def _read_depth(files, where: Path, kind: str, chosen: list[int], size: int, wanted: bool | None) -> Tensor | None:
    there = kind == "ours" and any(name.startswith("depth_") for name in files)
    if wanted is False or (wanted is None and not there):
        return None
    maps = []
    for view in chosen:
        path = where / f"depth_{view:03d}.npy"
        try:
            depth = load_array(files[path.name], path)
        except KeyError:
            raise InputError(f"{path}: this depth map is missing") from None
        if depth.shape != (size, size) or depth.dtype.kind != "f":
            raise InputError(f"{path}: {depth.dtype} of shape {depth.shape}, expected floats of ({size}, {size})")
        if not np.isfinite(depth).all() or (depth < 0).any():
            raise InputError(f"{path}: depths that are negative or not finite; 0 means no surface")
        maps.append(torch.from_numpy(depth.astype(np.float32))[None])
    return torch.stack(maps)


def _shrink(rgba: Tensor, size: int, path: Path) -> Tensor:
    if rgba.shape[-1] < size:
        raise InputError(f"{path}: {rgba.shape[-1]} pixels a side, too small for pictures of {size}")
    planes = rgba.float()
    if rgba.shape[-1] % size == 0:
        planes = F.avg_pool2d(planes, rgba.shape[-1] // size)
    else:
        planes = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True)
    return planes.round().clamp(0, 255).byte()


# ---- many objects ---------------------------------------------------------------------------------------------------


def find_objects(root: str | Path) -> list[str]:
    """Names (paths below `root`) of all objects, and of lowest folders without views, which are faulty ones; but not
    of folders that hold nothing but papers.

    Raises InputError if there is no such folder or nothing in it.
    """
    root, names, stray, followed = Path(root), [], [], set()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    for folder, below, files in os.walk(root, followlinks=True):
        below[:] = [entry.name for entry in subfolders(Path(folder), followed)] if below else []
        relative = Path(folder).relative_to(root).as_posix()
        if find_format(files):
            names.append(relative)
            below.clear()
        elif not below and relative != ".":  # reading it says what is wrong
            (stray if is_stray(Path(folder)) else names).append(relative)
    if stray and names:
        _log.warning("%s: no views in %s: left out", root, ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else ""))
    if not names:
        raise InputError(f"{root}: no multi-view folder in it")
    return sorted(names)
