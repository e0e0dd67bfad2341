"""Google Scanned Objects (Downs et al., ICRA 2022): downloaded from Gazebo Fuel, checked, unpacked, accounted for.

One zip an object is fetched, several at a time; what breaks is tried again with growing pauses. A zip that is sound
(CRC of every member) and complete is unpacked beside its place. A finished object is a folder with a `download.json`
(address, bytes, SHA-256 of the archive, sizes and hashes of its files, licence); it is not fetched again.
`manifest.json` collects these. What the mesh is rendered to keeps licence and attribution, see renders.py.
"""

import hashlib
import io
import re
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ..errors import InputError, attempt
from ..files import dump_json, load_json, new_folder, one_line, only_writer, read_json, replace_file
from ..speed.cluster import Cluster
from ..values import Natural, checked
from . import fetching
from .fetching import NO_ROOM, Fetch, Gone, get, is_address, sha256

SERVER = "https://fuel.gazebosim.org/1.0/GoogleResearch/models"
LICENCE = "CC-BY-4.0"
ATTRIBUTION = (
    "Google Scanned Objects, by Google Research: L. Downs, A. Francis, N. Koenig, B. Kinman, R. Hickman, K. Reymann, "
    "T. B. McHugh, V. Vanhoucke, \"Google Scanned Objects: A High-Quality Dataset of 3D Scanned Household Items\", "
    "ICRA 2022. Licensed under Creative Commons Attribution 4.0 (https://creativecommons.org/licenses/by/4.0/).")
RECORD, MANIFEST, ATTRIBUTION_FILE = "download.json", "manifest.json", "ATTRIBUTION.txt"
MANIFEST_LOCK = ".ouroboros-manifest.lock"
NEEDED = ("meshes/model.obj", "meshes/model.mtl", "materials/textures/texture.png")
MAX_MEMBERS = 1000
MAX_PAGES = 1000
_NAME = re.compile(r"[A-Za-z0-9_+()\-][A-Za-z0-9_.+()\-]{0,199}")


@dataclass
class Download(Fetch):
    """How to fetch, and from where. server: address of the models' list."""

    server: str = SERVER

    def __post_init__(self):
        self.server = self.server.rstrip("/")
        if not is_address(self.server):
            raise InputError(f"--server {self.server}: expected an address that starts with http:// or https://")


class Model(TypedDict):
    """What is read of an entry in the server's list."""

    name: str


def evaluation_objects() -> list[str]:
    """The 100 objects of this project's evaluation, in the order of the list."""
    return (Path(__file__).parent / "gso_eval100.txt").read_text().split()


def check_name(name: str) -> None:
    """Raise InputError unless it is fit to be a folder."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r}: not a name of an object (letters, digits, _ + - . and brackets)")


def all_objects(how: Download) -> list[str]:
    """The names of all models that the server lists, page by page, whatever they are. Raises InputError."""
    names: list[str] = []
    for page in range(1, MAX_PAGES):
        try:
            url = f"{how.server}?page={page}&per_page=100"
            found = [model["name"] for model in checked(get(url, how, load_json), list[Model], url)]
        except Gone:
            break
        if not set(found) - set(names):
            break
        names = list(dict.fromkeys(names + found))
    if not names:
        raise InputError(f"{how.server}: the server lists no objects")
    return names


# ---- one object ------------------------------------------------------------------------------------------------------


def fetch_object(name: str, out: Path, how: Download) -> None:
    """Fetch, check and unpack one object into `out / name`. Raises InputError with the object's name and the reason."""
    url = f"{how.server}/{urllib.parse.quote(name)}.zip"
    try:
        data = get(url, how, _checked)
        with new_folder(out / name) as stage:
            zipfile.ZipFile(io.BytesIO(data)).extractall(stage)  # which keeps every member inside, and makes no links
            files = {path.relative_to(stage).as_posix(): path for path in stage.rglob("*") if path.is_file()}
            record = {"name": name, "url": url, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
                      "licence": LICENCE, "attribution": ATTRIBUTION,
                      "files": {inside: {"bytes": path.stat().st_size, "sha256": sha256(path)}
                                for inside, path in files.items()}}
            (stage / RECORD).write_bytes(dump_json(record))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:  # for the others neither
            raise
        raise InputError(f"{name}: its archive cannot be unpacked ({one_line(error)})") from None


def _checked(data: bytes) -> bytes:
    """A zip of one object, if it is whole; else raises InputError where another try is of no use, or what zipfile
    raises."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    size = sum(member.file_size for member in archive.infolist())
    if size > fetching.MAX_BYTES or len(archive.infolist()) > MAX_MEMBERS:
        raise InputError(f"its archive unpacks to {len(archive.infolist())} files of {size} bytes; refused")
    if damaged := archive.testzip():
        raise zipfile.BadZipFile(f"{damaged} is damaged")
    if lacking := set(NEEDED) - set(archive.namelist()):
        raise InputError(f"its archive lacks {' and '.join(sorted(lacking))}")
    return data


# ---- a whole set ----------------------------------------------------------------------------------------------------


class File(TypedDict):
    bytes: Natural
    sha256: str


class Record(File):
    """What is read of `download.json`."""

    name: str
    url: str
    licence: str
    attribution: str
    files: dict[str, File]


def complete_record(folder: Path) -> Record | None:
    """What `download.json` says if all its files are there with their sizes, else None."""
    try:
        record = checked(read_json(folder / RECORD), Record, folder / RECORD)
        whole = all((folder / name).stat().st_size == about["bytes"] for name, about in record["files"].items())
        return record if whole and record["name"] == folder.name else None
    except (InputError, OSError):
        return None


def download_objects(names: list[str], out: Path, how: Download,
                     done: Callable[[str, InputError | None], None] = lambda name, error: None,
                     cluster: Cluster | None = None) -> None:
    """Fetch what is not there yet; an object that cannot be had does not keep the others from coming.

    done: called in this thread for every object, with the error if it failed. The manifest is written at the end, also
    when interrupted. cluster: whose workers fetch, one object each at a time, in place of threads here.
    """
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / ATTRIBUTION_FILE, f"{ATTRIBUTION}\n".encode())
    try:
        missing = []
        for name in dict.fromkeys(names):
            if (fault := attempt(check_name, name)) is not None:
                done(name, fault)
            elif complete_record(out / name) is None:
                missing.append(name)
            else:
                done(name, None)
        results = _fetch_here(missing, out, how) if cluster is None else _fetch_on(cluster, missing, out, how)
        with closing(results):
            for name, error in results:
                done(name, error)
    finally:
        write_manifest(out)


def _fetch_here(names: list[str], out: Path, how: Download) -> Iterator[tuple[str, InputError | None]]:
    pool = ThreadPoolExecutor(how.workers)
    try:
        jobs = {pool.submit(fetch_object, name, out, how): name for name in names}
        for job in as_completed(jobs):
            yield jobs[job], attempt(job.result)
    finally:
        how.stop.set()
        pool.shutdown(cancel_futures=True)


def _fetch_on(cluster: Cluster, names: list[str], out: Path, how: Download) -> Iterator[tuple[str, InputError | None]]:
    with closing(cluster.run(_fetch_there, [(name, out, how.server) for name in names], out)) as results:
        for (name, *_), error in results:
            yield name, error if error is None or str(error).startswith(name) else InputError(f"{name}: {error}")


def _fetch_there(name: str, out: Path, server: str) -> None:
    fetch_object(name, out, Download(server=server))


def write_manifest(out: Path) -> None:
    """Collect the records of all complete objects below `out` in manifest.json, those of other downloads as well."""
    with only_writer(out, MANIFEST_LOCK, wait=600.0):  # who comes later sees what the others have
        _write_manifest(out)


def _write_manifest(out: Path) -> None:
    found = [complete_record(folder) for folder in sorted(out.iterdir()) if (folder / RECORD).is_file()
             and not folder.name.startswith(".")]
    records = [record for record in found if record is not None]
    manifest = {"licence": LICENCE, "attribution": ATTRIBUTION, "objects": len(records),
                "bytes": sum(record["bytes"] for record in records),
                "models": {r["name"]: {key: r[key] for key in ("url", "bytes", "sha256", "files")} for r in records}}
    replace_file(out / MANIFEST, dump_json(manifest))
