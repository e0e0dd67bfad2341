"""Meshes: which files are an object, and their triangles with albedo colours, from OBJ, GLB, glTF and PLY files.

What makes a mesh look different from what its author meant is an error with one line or a note, not a grey render: the
readers say what they leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import one_line, read_bytes
from .folder_formats import subfolders
from .gltf_files import read_gltf
from .mesh_parts import FOLDERS, PLAIN, Files, MissingFile, Part, check_part, decode_texture
from .obj_files import read_obj
from .pictures import LFS, POINTER
from .ply_files import read_ply

__all__ = ["PLAIN", "MissingFile", "Part", "find_mesh", "is_gso", "mesh_files", "object_name", "read_parts",
           "read_texture"]

READERS: dict[str, Callable[[Path, Files, bool], list[Part]]] = {
    ".obj": read_obj, ".glb": read_gltf, ".gltf": read_gltf, ".ply": read_ply}
SUFFIXES = tuple(READERS)
PREFERRED = (".glb", ".gltf", ".obj", ".ply")
DEPTH = 5  # folders, down to an object's mesh
_GENERIC = ("textured", "textured_simple", "model", "mesh", "object", "scene", "model_normalized", "scan", "untitled",
            "base", "nontextured")  # names that say nothing; of several, the first one counts


def find_mesh(path: Path) -> Path:
    """The mesh file of one object: the file itself, or the only one in a folder, or in the folders below it."""
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: not a mesh file; expected {', '.join(SUFFIXES)}")
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    level, followed = [path], set()
    for _ in range(DEPTH):
        if len(found := [mesh for folder in level for mesh in mesh_files(folder)]) > 1:
            raise InputError(f"{path}: holds {len(found)} meshes ({found[0].name}, {found[1].name}, ...); name one")
        if found:
            return found[0]
        level = [below for folder in level for below in subfolders(folder, followed)]
    raise InputError(f"{path}: no mesh in this folder ({', '.join(SUFFIXES)}, here or in folders below)")


def mesh_files(folder: Path) -> list[Path]:
    """The meshes directly in a folder, by name; of one name with several suffixes, the first of PREFERRED, and one only
    where no name says anything."""
    if not folder.is_dir():
        return []
    found = sorted((entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()
                    and not entry.name.startswith(".")), key=lambda entry: PREFERRED.index(entry.suffix.lower()))
    by_stem = {entry.stem: entry for entry in reversed(found)}
    if all(stem.lower() in _GENERIC for stem in by_stem):
        return sorted(by_stem.values(), key=lambda entry: _GENERIC.index(entry.stem.lower()))[:1]
    return sorted(by_stem.values())


def object_name(mesh: Path) -> str:
    """What an object is called: its file's stem; where that is `model` or the like, the name of the next folder above
    that says more."""
    if mesh.stem.lower() not in _GENERIC:
        return mesh.stem
    names = [folder.name for folder in mesh.absolute().parents]
    return next((name for name in names if name and name.lower() not in (*_GENERIC, *FOLDERS)), mesh.stem)


def is_gso(mesh: Path) -> bool:
    """Whether a mesh lies in a folder of Google Scanned Objects, where z is up."""
    folder = mesh.absolute().parent
    return folder.name == "meshes" and ((folder.parent / "materials").is_dir()
                                        or (folder.parent / "model.config").is_file())


def read_parts(path: Path, texture: Path | None = None, missing: str = "error") -> tuple[list[Part], list[str]]:
    """The triangles of a mesh file, and notes for the user.

    texture: an image for a mesh that has texture coordinates but names none; it replaces every material. missing: what
    to do about textures and material files that are not there, one of mesh_parts.MISSING.
    Raises InputError for unreadable files, missing materials or textures (MissingFile), and meshes without triangles.
    """
    notes: set[str] = set()
    with path.open("rb") as file:
        start = file.read(len(LFS))
    if start == LFS:
        raise InputError(f"{path}: is {POINTER}")
    if not start:
        raise InputError(f"{path}: the file is empty")
    try:
        with np.errstate(all="ignore"):
            parts = READERS[path.suffix.lower()](path, Files(path, missing, notes), texture is None)
        for part in parts:
            check_part(part)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:  # whatever a parser stumbles over is the file's fault
        raise InputError(f"{path}: cannot be read as a mesh ({one_line(error)})") from None
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise InputError(f"{path}: no triangles in this mesh")
    if texture is not None:
        image = read_texture(texture)
        for part in parts:
            if part.uv is None or not np.isfinite(part.uv).all():
                raise InputError(f"{path}: has no texture coordinates, so --texture cannot be used")
            part.texture, part.colors = image, None
    return parts, sorted(notes)


def read_texture(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8. Raises InputError."""
    try:
        data = read_bytes(path)
    except InputError as error:
        raise InputError(str(error).replace("no such file", "no such texture")) from None
    try:
        return decode_texture(data)
    except Exception as error:  # decoders raise many kinds
        raise InputError(f"{path}: this texture cannot be read ({one_line(error)})") from None
