"""Files as a method's release writes them: grids of views, videos, folders of frames, meshes numbered by a script.

A convention's `files` says, for images, splat or mesh, in what they differ from our own layout:

    paths       glob patterns with {name} of the object and {sample}: a picture, a mesh, or a folder of frames
    numbered    glob pattern of files that the release numbers in the order of its inputs
    grid        [rows, columns, pixels of padding between and around]: all views in one picture, row by row
    texture     name of the image that belongs to an OBJ beside it which names no material
    mirrored    axis 0, 1 or 2 which some versions of the release negate in an OBJ that names no material
"""

import csv
import glob
import io
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.layouts import find_meshes
from ..data.mesh_files import SUFFIXES as MESHES
from ..data.pictures import SUFFIXES as PICTURES
from ..errors import InputError
from ..files import one_line, read_bytes
from .pictures import read_picture, read_pixels

VIDEO = ".mp4"


def find(folder: Path, layout: dict, name: str, sample: int = 0) -> Path | None:
    """What a release wrote for an object, None if nothing lies where its patterns say. Raises InputError for two."""
    for pattern in layout.get("paths", ()):
        found = sorted(folder.glob(pattern.format(name=glob.escape(name), sample=sample)))
        if len(found) > 1:
            raise InputError(f"{name}: both {found[0]} and {found[1]} may be its output; keep one")
        if found:
            return found[0]
    return None


def own_files(folder: Path, kind: str, name: str) -> list[Path]:
    """An object's files in our layout: pictures of a folder in order, else one file or folder. Raises InputError."""
    inside = folder / name
    if kind == "images":
        if not inside.is_dir():
            raise InputError(f"{name}: no folder {inside} with its pictures, and nothing that the release would write")
        return pictures_in(inside)
    if kind == "splat":
        path, found = folder / f"{name}.ply", sorted(inside.glob("*.ply"))
        if not path.is_file() and len(found) != 1:
            raise InputError(f"{name}: neither {path} nor a folder {inside} with one .ply in it")
        return [path] if path.is_file() else found
    there = [path for path in (folder / f"{name}{suffix}" for suffix in MESHES) if path.is_file()]
    found = [*there, inside] if inside.is_dir() else there
    if not found and (mesh := find_meshes([folder]).get(name)) is None:
        raise InputError(f"{name}: no mesh of this name in {folder} ({', '.join(MESHES)}, or a folder)")
    return found[:1] or [mesh]


def pictures_in(folder: Path) -> list[Path]:
    """Its pictures in the order of their numbers."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()]
    ours = [path for path in found if path.name.startswith("view_")]  # beside which there may be ccm_000.png
    return sorted(ours or found, key=lambda path: [int(part) if part.isdigit() else part
                                                   for part in re.split(r"(\d+)", path.name)])


def whose(folder: Path, layout: dict, names: list[str], listed: Path | None = None) -> dict[str, Path]:
    """Object -> file that the release numbered: the k-th file is that of the k-th object in order of name.

    listed: a CSV of lines file,object, such as 000000.mp4,alarm, which says it instead. Raises InputError.
    """
    files: dict[int, Path] = {}
    for path in sorted(folder.glob(layout["numbered"])) if "numbered" in layout else ():
        number = _number(path.relative_to(folder).as_posix())
        if number is not None and path.suffix.lower() in (VIDEO, *MESHES) and files.setdefault(number, path) != path:
            raise InputError(f"{path} and {files[number].name}: two outputs of one number; keep one")
    if listed is not None:
        return _listed(listed, files, names)
    if files and len(files) != len(names):
        raise InputError(f"{folder}: {len(files)} numbered files for {len(names)} objects: --names CSV must say whose")
    in_order = sorted(names, key=lambda name: f"{name}.png")  # as a script sorts its inputs: mug-red.png before mug.png
    return {name: files[number] for name, number in zip(in_order, sorted(files), strict=False)}


def _number(text: str) -> int | None:
    """7 of 000007.mp4, 7/mesh.obj and 7."""
    match = re.fullmatch(r"(\d+)([./].*)?", text)
    return int(match[1]) if match else None


def _listed(listed: Path, files: dict[int, Path], names: list[str]) -> dict[str, Path]:
    try:
        text = io.StringIO(read_bytes(listed).decode("utf-8-sig"), newline="")
        rows = [[cell.strip() for cell in row] for row in csv.reader(text) if row]
    except InputError as error:
        raise InputError(f"--names {error}") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"--names {listed}: cannot be read ({one_line(error)})") from None
    found: dict[str, Path] = {}
    for row in rows[rows[:1] == [["file", "object"]]:]:
        if len(row) != 2 or (number := _number(row[0])) is None:
            raise InputError(f"--names {listed}: {','.join(row)}: expected file,object, such as 000000.mp4,alarm")
        if number not in files:
            raise InputError(f"--names {listed}: {row[0]}: there is no such file")
        if found.setdefault(row[1], files[number]) != files[number]:
            raise InputError(f"--names {listed}: {row[1]}: has two files")
    if missing := [name for name in names if name not in found]:
        raise InputError(f"--names {listed}: names no file for {missing[0]}" + (" and others" if missing[1:] else ""))
    return {name: found[name] for name in names}


def read_views(paths: list[Path], grid: list[int] | None, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """The (3, S, S) views of a grid, a video or a file each; of a grid, also as if it had no padding, if it has.

    size: pixels a side of a view in grids and videos. Raises InputError.
    """
    if grid:
        return read_grid(paths[0], grid, size)
    if paths and paths[0].suffix == VIDEO:
        return read_video(paths[0], size), []
    views = [read_picture(path) for path in paths]
    for path, view in zip(paths, views, strict=True):
        if view.shape != views[0].shape:
            raise InputError(f"{path}: {view.shape[-1]} pixels a side, but {paths[0].name} has {views[0].shape[-1]}")
    return views, []


def read_grid(path: Path, grid: list[int], size: int) -> tuple[list[Tensor], list[Tensor]]:
    rows, columns, padding = grid
    pixels = read_pixels(path)
    height, width = (count * (size + padding) + padding for count in (rows, columns))
    if pixels.shape[1:] != (height, width):
        raise InputError(f"{path}: {pixels.shape[2]} x {pixels.shape[1]} pixels, expected {width} x {height}: {rows} x "
                         f"{columns} views of {size}" + (f", {padding} between and around" if padding else ""))
    corners = [(row * (size + padding), column * (size + padding)) for row in range(rows) for column in range(columns)]
    views = [pixels[:, y + padding:, x + padding:][:, :size, :size] for y, x in corners]
    side = min(height // rows, width // columns)
    unpadded = [pixels[:, row * height // rows:, column * width // columns:][:, :side, :side]
                for row in range(rows) for column in range(columns)]
    return views, unpadded if padding else []


def read_video(path: Path, size: int) -> list[Tensor]:
    """The frames of a video, (3, size, size) each. Raises InputError for another size, and for what does not decode."""
    import imageio_ffmpeg

    try:
        frames = imageio_ffmpeg.read_frames(str(path), input_params=["-xerror", "-err_detect", "explode"])
        width, height = next(frames)["size"]
        found = [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in frames]
    except Exception as error:  # of the program and of what it writes
        raise InputError(f"{path}: cannot be read as a video ({one_line(error)[:100]})") from None
    if (width, height) != (size, size):
        raise InputError(f"{path}: frames of {width} x {height} pixels, expected {size} x {size}")
    return [torch.from_numpy(frame.copy()).movedim(-1, 0).float() / 255 for frame in found]


def obj_marks(path: Path) -> set[str]:
    """Which of `mtllib` and `vt`, a material and texture coordinates, an OBJ file has."""
    with path.open(errors="replace") as file:
        return {line.split(" ", 1)[0] for line in file if line.startswith(("mtllib ", "vt "))}
