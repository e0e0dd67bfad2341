"""Which mesh in an unpacked archive is which object of the library, by the names that its collection gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from ..errors import attempt
from .mesh_files import PREFERRED, find_mesh

CATALOGUE = "PluginFurnitureCatalog.properties"  # in the furniture libraries of Sweet Home 3D
LIBRARIES = {"blendswapccby": "BlendSwapBY", "blendswapcc0": "BlendSwap0", "katorlegaz": "KatorLegaz",
             "scopia": "Scopia"}  # as objects of theirs begin


def objects_in(folder: Path, archive: str, wanted: Iterable[str]) -> dict[str, Path]:
    """Mesh files below `folder`, unpacked of `archive`, of those objects COLLECTION/NAME that are wanted.

    A file is NAME if it is called so, alone or after the name of a folder above it or of the archive, as
    survival_pack/Knife.gltf is survival_pack_Knife; a piece of furniture if its catalogue says so.
    """
    names = {_plain(name.split("/", 1)[1]): name for name in wanted}
    found: dict[str, Path] = {}
    for key, path in [*_by_path(folder, archive), *_by_catalogue(folder, archive)]:
        if (name := names.get(_plain(key))) is not None:
            found.setdefault(name, path)
    return {name: found[name] for name in names.values() if name in found}


def _by_path(folder: Path, archive: str) -> Iterator[tuple[str, Path]]:
    files = [path for path in folder.rglob("*") if path.suffix.lower() in PREFERRED and path.is_file()]
    for path in sorted(files, key=lambda path: (PREFERRED.index(path.suffix.lower()), path)):
        above = [parent.name for parent in path.relative_to(folder).parents][:-1]
        yield from ((f"{name}_{path.stem}", path) for name in (*above, archive))
        yield path.stem, path


def _by_catalogue(folder: Path, archive: str) -> Iterator[tuple[str, Path]]:
    for catalogue in sorted(folder.rglob(CATALOGUE)):
        place = re.sub(r"[^a-z0-9]", "", f"{archive}{catalogue.relative_to(folder)}".lower())
        library = next((short for long, short in LIBRARIES.items() if long in place), None)
        if library is None:
            continue
        for entry in _entries(catalogue):
            path = attempt(find_mesh, _model(catalogue.parent, entry.get("model", "")))
            if not isinstance(path, Path):
                continue
            names = [entry[key] for key in ("id", "name") if key in entry]
            yield from ((f"{library}_{name}", path) for name in (*names, *(name.split("#")[-1] for name in names)))


def _entries(catalogue: Path) -> list[dict[str, str]]:
    """The entries of a catalogue: lines such as `name#12=Oak table`."""
    entries: dict[str, dict[str, str]] = {}
    for line in catalogue.read_text("latin-1").splitlines():
        if match := re.fullmatch(r"\s*(\w+)#(\d+)\s*[=:]\s*(.*?)\s*", line):
            entries.setdefault(match[2], {})[match[1]] = match[3]
    return list(entries.values())


def _model(folder: Path, name: str) -> Path:
    """The model of an entry, which is a file of the library or what a zip in it held; in this folder, or none."""
    inside = [part for part in unquote(name).split("/") if part.strip("./")]
    path = folder.joinpath(*inside) if inside else folder / "-"
    return path.with_suffix("") if path.suffix == ".zip" else path


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())
