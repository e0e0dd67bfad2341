"""Which meshes a path holds, in the layouts of the known data sets: meshes side by side, or a folder an object with its
mesh some folders down (ShapeNet's `models/`, OmniObject3D's `Scan/`, GSO's `meshes/`, Sketchfab's `source/`)."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from .folder_formats import find_format, is_stray, subfolders
from .mesh_files import find_mesh, mesh_files, object_name
from .mesh_parts import PICTURE_FOLDERS

_log = logging.getLogger(__name__)


def find_meshes(paths: Iterable[Path]) -> dict[str, Path]:
    """Mesh files by object name: `paths` are meshes, folders of one object, or folders of many.

    Names are those of `object_name`; where these repeat, as of a/chair.obj and b/chair.obj, the part of the path that
    differs. Folders that should hold a mesh and hold none are among the results: rendering says what is wrong with
    them. Raises InputError for a path that is not there or has nothing in it.
    """
    entries = dict.fromkeys(entry for path in paths for entry in _entries(path))
    entries = list({entry.resolve(): entry for entry in reversed(entries)}.values())[::-1]
    by_name: dict[str, list[Path]] = {}
    for entry in entries:
        by_name.setdefault(object_name(entry) if entry.is_file() else entry.absolute().name, []).append(entry)
    found: dict[str, Path] = {}
    for name, several in by_name.items():
        full = [Path(os.path.abspath(entry)) for entry in several]
        above = os.path.commonpath([entry.parent for entry in full])
        names = [name] if len(several) == 1 else [entry.relative_to(above).with_suffix("").as_posix() for entry in full]
        for other, entry in zip(names, several, strict=True):
            if other in found:
                raise InputError(f"{entry}: would be called {other}, as is {found[other]}; rename one or render them "
                                 "apart")
            found[other] = entry
    for name, entry in found.items():
        for above in Path(name).parents:
            if str(above) in found:
                raise InputError(f"{entry}: would be called {name}, inside the object {found[str(above)]}; rename one "
                                 "or render them apart")
    return found


def _entries(path: Path) -> list[Path]:
    if not path.is_dir():
        find_mesh(path)  # raises unless it is a mesh
        return [path]
    if here := mesh_files(path):
        return here
    below = subfolders(path, followed := set())
    if not below:
        raise InputError(f"{path}: an empty folder, expected meshes or folders of objects")
    entries, stray = [], []
    for folder in below:
        if inside := _below(folder, followed):
            entries += inside
        elif folder.name.lower() in PICTURE_FOLDERS or is_stray(folder):
            stray.append(folder.name)
        else:
            entries.append(folder)
    if stray and entries:
        _log.warning("%s: no meshes in %s: left out", path, ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else ""))
    if not entries:
        raise InputError(f"{path}: no mesh in its folders ({', '.join(stray[:5])})")
    return entries


def _below(folder: Path, followed: set[Path]) -> list[Path]:
    """The meshes of a folder; where it has none itself, those of its folders."""
    return mesh_files(folder) or [mesh for below in subfolders(folder, followed) for mesh in _below(below, followed)]


def holds_meshes(folder: Path, followed: set[Path] | None = None) -> bool:
    """Whether a folder holds meshes, itself or further down, outside of folders of views."""
    followed = set() if followed is None else followed
    if not folder.is_dir() or find_format(entry.name for entry in os.scandir(folder)):
        return False
    return bool(mesh_files(folder)) or any(holds_meshes(below, followed) for below in subfolders(folder, followed))
