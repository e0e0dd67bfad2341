"""The free meshes and pictures that the shipped weights learned from, brought together again from their homes.

library.json names the collections and where they are to be had, library.csv every mesh with author, licence and the
SHA-256 of the file that the weights saw. None of these is its author's file: all were made by `compact_mesh`, and so is
what comes in any other format. Names are those of library.csv, so that the same meshes are held out.

    OUT/archives/                what was fetched
    OUT/meshes/COLLECTION/       a GLB an object, ATTRIBUTION.csv
    OUT/textures/ambientcg/      swatches of 128 pixels, ATTRIBUTION.csv
    OUT/manifest.json            sizes and hashes of archives and objects
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import urllib.parse
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypedDict

from ..errors import InputError, attempt
from ..files import dump_json, hidden, one_line, only_writer, read_bytes, read_json, replace_file
from ..values import checked
from .archives import PICTURES, check_archive, unpack
from .catalogues import objects_in
from .compact import check_compact, compact_mesh, small_picture
from .fetching import Fetch, get, is_address, sha256
from .mesh_files import read_parts
from .pictures import open_picture

SWATCHES, SWATCH_SIZE = "ambientcg", 128
SWATCH_AUTHOR, SWATCH_LICENCE = "ambientCG", "CC0-1.0"
ATTRIBUTION, MANIFEST, LOCK = "ATTRIBUTION.csv", "manifest.json", ".ouroboros-manifest.lock"
CHANGES = "centred, scaled, textures reduced to 256 pixels, colours of vertices instead of flat textures"
SWATCH_CHANGES = "reduced to 128 pixels"


class Collection(TypedDict):
    """An entry of library.json."""

    about: str
    home: str
    addresses: list[str]
    archives: str


class Mesh(NamedTuple):
    """A line of library.csv."""

    object: str
    author: str
    licence: str
    sha256: str


@cache
def collections() -> dict[str, Collection]:
    path = Path(__file__).with_name("library.json")
    return checked(read_json(path), dict[str, Collection], path)


@cache
def meshes() -> dict[str, Mesh]:
    """All meshes by name, COLLECTION/OBJECT."""
    with Path(__file__).with_name("library.csv").open(encoding="utf-8", newline="") as file:
        return {row[0]: Mesh(*row) for row in list(csv.reader(file))[1:]}


def choose(names: Iterable[str]) -> dict[str, list[str]]:
    """The objects of each collection that is meant; names are of collections or meshes. Raises InputError."""
    chosen: dict[str, list[str]] = {}
    for name in names:
        collection = name.split("/")[0]
        if name in collections():
            chosen[name] = [mesh for mesh in meshes() if mesh.startswith(f"{name}/")]
        elif name in meshes():
            chosen[collection] = list(dict.fromkeys([*chosen.get(collection, []), name]))
        else:
            raise InputError(f"--only {name}: expected collections ({', '.join(collections())}) or their meshes, such "
                             f"as {next(iter(meshes()))}")
    return chosen


def parse_archives(texts: Iterable[str]) -> dict[str, list[str]]:
    """Of each collection the archives in "COLLECTION=FILE" or "COLLECTION=ADDRESS" texts. Raises InputError."""
    given: dict[str, list[str]] = {}
    for text in texts:
        collection, equals, place = text.partition("=")
        if not equals or collection not in collections():
            raise InputError(f"--archive {text}: expected COLLECTION=FILE or COLLECTION=ADDRESS with one of these "
                             f"collections: {', '.join(collections())}")
        if not is_address(place) and not Path(place).exists():
            raise InputError(f"--archive {text}: no such file or folder")
        given.setdefault(collection, []).append(place)
    return given


def fetch_library(chosen: dict[str, list[str]], given: dict[str, list[str]], out: Path, how: Fetch,
                  done: Callable[[str, list[str], InputError | None], None]) -> None:
    """Bring what is not there yet. given: archives in place of the addresses of library.json; files, folders, or
    addresses, which may end in #sha256=HEX.

    done(collection, notes, error) is called for each; what could be had of one with an error is there. Manifest and
    attribution are written at the end, also when interrupted. Raises InputError where a package is missing.
    """
    if set(chosen) - {SWATCHES}:
        check_compact()
    out.mkdir(parents=True, exist_ok=True)
    try:
        for name, objects in chosen.items():
            bring = _bring_swatches if name == SWATCHES else _bring_meshes
            notes: list[str] = []
            done(name, notes, attempt(bring, name, objects, given.get(name, []), out, how, notes))
    finally:
        _account(out)


# ---- archives -------------------------------------------------------------------------------------------------------


def _archive(place: str, out: Path, how: Fetch) -> Path:
    """The archive, fetched if it is an address and not there yet. Raises InputError."""
    if not is_address(place):
        return Path(place)
    url, _, wanted = place.partition("#sha256=")
    path = out / "archives" / re.sub(r"[^A-Za-z0-9.+()-]+", "_", urllib.parse.urlsplit(url).path.strip("/"))[-150:]
    if not path.is_file() or (wanted and sha256(path) != wanted):
        data = get(url, how, lambda data: _sound(data, wanted))
        path.parent.mkdir(exist_ok=True)
        replace_file(path, data)
    return path


def _sound(data: bytes, wanted: str) -> bytes:
    """Raises ValueError or what archives raise."""
    if wanted and (found := hashlib.sha256(data).hexdigest()) != wanted:
        raise ValueError(f"its SHA-256 is {found}, not {wanted}")
    check_archive(io.BytesIO(data))
    return data


def _each_archive(name: str, given: list[str], out: Path, how: Fetch, take: Callable[[Path, str], bool]) -> None:
    """take(folder, name) for the contents of the archives, until it says that all is there. Raises InputError for one
    that cannot be had, when the others have been tried."""
    about = collections()[name]
    if not (places := given or about["addresses"]):
        raise InputError(f"{name}: has no address of its own here; get {about['archives']} ({about['home']}), and give "
                         f"--archive {name}=FILE")
    faults = []
    for place in places:
        full = attempt(_take_from, place, out, how, take)
        if full is True:
            return
        faults += [full] if isinstance(full, InputError) else []
    if faults:
        raise InputError(f"{name}: {faults[0]}; or get {about['archives']} ({about['home']}), and give --archive "
                         f"{name}=FILE")


def _take_from(place: str, out: Path, how: Fetch, take: Callable[[Path, str], bool]) -> bool:
    """Raises InputError."""
    found = _archive(place, out, how)
    if found.is_dir():
        return take(found, found.absolute().name)
    with hidden(out) as stage:
        unpack(found, stage)
        return take(stage, re.sub(r"(\.tar)?\.\w+$", "", found.name))


# ---- collections ----------------------------------------------------------------------------------------------------


def _bring_meshes(name: str, objects: list[str], given: list[str], out: Path, how: Fetch, notes: list[str]) -> None:
    """Raises InputError for what is missing in the end."""
    missing = [mesh for mesh in objects if not _is_whole(_place(out, mesh))]
    faults: dict[str, InputError] = {}

    def take(folder: Path, archive: str) -> bool:
        for mesh, path in objects_in(folder, archive, missing).items():
            if isinstance(data := attempt(_compact, path, meshes()[mesh].sha256), InputError):
                faults[mesh] = data
                continue
            _place(out, mesh).parent.mkdir(parents=True, exist_ok=True)
            replace_file(_place(out, mesh), data)
            missing.remove(mesh)
        return not missing

    trouble = attempt(_each_archive, name, given, out, how, take) if missing else None
    there = [mesh for mesh in objects if mesh not in missing]
    if there:
        same = sum(sha256(_place(out, mesh)) == meshes()[mesh].sha256 for mesh in there)
        notes.append(f"{len(there)} meshes, {same} of them byte for byte as the weights saw them")
    if trouble is not None:
        raise trouble
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        first = next((f"; {mesh}: {fault}" for mesh, fault in faults.items() if mesh in missing), "")
        raise InputError(f"{name}: {len(missing)} of {len(objects)} objects were not in the archives ({shown}){first}")


def _place(out: Path, mesh: str) -> Path:
    return out / "meshes" / f"{mesh}.glb"


def _is_whole(path: Path) -> bool:
    """Whether a GLB has the length that it says."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(12)
    return start[:4] == b"glTF" and int.from_bytes(start[8:], "little") == path.stat().st_size


def _compact(path: Path, wanted: str) -> bytes:
    """The file itself if it is the one that is wanted, else made small. Raises InputError."""
    if path.suffix.lower() == ".glb" and hashlib.sha256(data := read_bytes(path)).hexdigest() == wanted:
        return data
    parts = attempt(lambda: compact_mesh(read_parts(path, missing="grey")[0]))
    if isinstance(parts, InputError):
        raise InputError(str(parts).replace(f"{path}: ", ""))
    return parts


def _bring_swatches(name: str, _, given: list[str], out: Path, how: Fetch, notes: list[str]) -> None:
    """Raises InputError where there are no pictures."""
    folder = out / "textures" / name

    def take(inside: Path, _) -> bool:
        pictures = sorted(path for path in inside.rglob("*") if path.suffix.lower() in PICTURES)
        colours = [path for path in pictures if path.stem.endswith("_Color")]  # beside maps of height, roughness ...
        for path in colours or pictures:
            target = folder / f"{re.sub(r'[^A-Za-z0-9-]+', '_', path.stem)}.jpg"
            if not target.exists() and (data := _swatch(path, notes)) is not None:
                folder.mkdir(parents=True, exist_ok=True)
                replace_file(target, data)
        return False

    if given or not any(folder.glob("*.jpg")):
        _each_archive(name, given, out, how, take)
    if not (count := sum(1 for _ in folder.glob("*.jpg"))):
        raise InputError(f"{name}: no pictures in the archives")
    notes.append(f"{count} pictures of {SWATCH_SIZE} pixels")


def _swatch(path: Path, notes: list[str]) -> bytes | None:
    """A picture as a small JPEG; itself if it is one. None, with a note, if it cannot be read."""
    data = path.read_bytes()
    try:
        picture = open_picture(data)
        if picture.format == "JPEG" and max(picture.size) <= SWATCH_SIZE:
            picture.load()
            return data
        return small_picture(picture, SWATCH_SIZE)
    except Exception as error:  # decoders raise many kinds
        notes.append(f"{path.name} left out: {one_line(error)}")
        return None


# ---- accounts -------------------------------------------------------------------------------------------------------


def _account(out: Path) -> None:
    """ATTRIBUTION.csv beside the objects and manifest.json: of all that is there, whoever brought it."""
    with only_writer(out, LOCK, wait=600.0):
        found: dict[str, dict[str, dict]] = {}
        for name in collections():
            kind, suffix = ("textures", ".jpg") if name == SWATCHES else ("meshes", ".glb")
            files = sorted(path for path in (out / kind / name).glob(f"*{suffix}") if path.name[0] != ".")
            found[name] = {f"{name}/{path.stem}": _about(path) for path in files}
            if files:
                replace_file(out / kind / name / ATTRIBUTION, _attribution(name, found[name]))
        archives = {path.name: _about(path) for path in sorted((out / "archives").glob("[!.]*"))}
        replace_file(out / MANIFEST, dump_json({"archives": archives, "objects": found}))


def _about(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _attribution(name: str, objects: Iterable[str]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["object", "author", "licence", "source", "changes"])
    for item in objects:
        if name == SWATCHES:
            rows.writerow([item, SWATCH_AUTHOR, SWATCH_LICENCE, collections()[name]["home"], SWATCH_CHANGES])
        elif item in meshes():
            about = meshes()[item]
            rows.writerow([item, about.author, about.licence, collections()[name]["home"], CHANGES])
    return text.getvalue().encode()
