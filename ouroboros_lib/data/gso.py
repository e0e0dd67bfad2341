"""Google Scanned Objects (Downs et al., ICRA 2022): downloaded from Gazebo Fuel, checked, unpacked, accounted for.

One zip an object is fetched in parallel, resumed where it was broken off, tried again with growing pauses, checked
(length, CRC of every member, contents) and unpacked beside its place. A finished object is a folder with a
`download.json` (address, bytes, SHA-256 of the archive, sizes and hashes of its files, licence); `manifest.json`
collects these. What the mesh is rendered to keeps licence and attribution, see renders.py.
"""

import hashlib
import http.client
import json
import re
import shutil
import stat
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .. import __version__
from ..errors import InputError
from ..files import new_folder, one_line, read_json, replace_file

SERVER = "https://fuel.gazebosim.org/1.0/GoogleResearch/models"
LICENCE = "CC-BY-4.0"
ATTRIBUTION = (
    "Google Scanned Objects, by Google Research: L. Downs, A. Francis, N. Koenig, B. Kinman, R. Hickman, K. Reymann, "
    "T. B. McHugh, V. Vanhoucke, \"Google Scanned Objects: A High-Quality Dataset of 3D Scanned Household Items\", "
    "ICRA 2022. Licensed under Creative Commons Attribution 4.0 (https://creativecommons.org/licenses/by/4.0/).")
RECORD, MANIFEST, ATTRIBUTION_FILE = "download.json", "manifest.json", "ATTRIBUTION.txt"
NEEDED = ("meshes/model.obj", "meshes/model.mtl", "materials/textures/texture.png")
MAX_BYTES = 2 * 2**30  # of one object, packed or not; the largest real ones have some 50 MB
MAX_MEMBERS = 1000
MAX_PAGES = 1000
_NAME = re.compile(r"[A-Za-z0-9_+()\-][A-Za-z0-9_.+()\-]{0,199}")
_CHUNK = 2**18


class _Transient(Exception):
    """Something that another try may repair."""


class _Stopped(Exception):
    """The user wants an end."""


@dataclass
class Download:
    """How to fetch. server: address of the models' list; pauses before the k-th retry last backoff * 2^k seconds."""

    server: str = SERVER
    workers: int = 8
    retries: int = 5
    timeout: float = 30.0
    backoff: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        self.server = self.server.rstrip("/")
        if urllib.parse.urlsplit(self.server).scheme not in ("http", "https"):
            raise InputError(f"--server {self.server}: expected an address that starts with http:// or https://")

    def archive(self, name: str) -> str:
        return f"{self.server}/{urllib.parse.quote(name)}.zip"


# ---- names ----------------------------------------------------------------------------------------------------------


def evaluation_objects() -> list[str]:
    """The 100 objects of this project's evaluation, in the order of the list."""
    return (Path(__file__).parent / "gso_eval100.txt").read_text().split()


def check_names(names: Iterable[str]) -> list[str]:
    """The names, each once and fit to be a folder. Raises InputError."""
    names = list(dict.fromkeys(names))
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r}: not a name of an object (letters, digits, _ + - . and brackets)")
    return names


def all_objects(how: Download) -> list[str]:
    """The names of all models that the server lists, page by page. Raises InputError."""
    names: dict[str, None] = {}
    for page in range(1, MAX_PAGES):
        url = f"{how.server}?page={page}&per_page=100"
        try:
            models = json.loads(_retry(lambda url=url: _get(url, how), how))
            found = [model["name"] for model in models]
        except _Gone:
            break
        except (_Transient, OSError, http.client.HTTPException) as error:
            raise InputError(f"{url}: the list of objects cannot be fetched ({one_line(error)})") from None
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{url}: not a list of models, as Fuel gives it") from None
        fresh = [name for name in check_names(found) if name not in names]
        if not fresh:
            break
        names.update(dict.fromkeys(fresh))
    if not names:
        raise InputError(f"{how.server}: the server lists no objects")
    return list(names)


# ---- fetching -------------------------------------------------------------------------------------------------------


class _Gone(InputError):
    """The server says that there is no such thing: trying again is of no use."""


def _open(url: str, how: Download, headers: dict[str, str] | None = None):
    request = urllib.request.Request(url, headers={"User-Agent": f"ouroboros-lib/{__version__}", **(headers or {})})
    try:
        return urllib.request.urlopen(request, timeout=how.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Transient(f"HTTP {error.code} {error.reason}") from None
        if error.code == 416:  # nothing beyond what is here: the part is complete, or of something else
            raise
        raise _Gone(f"{url}: HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:  # no network, name not found, timeout, cut off
        raise _Transient(one_line(getattr(error, "reason", error))) from None


def _get(url: str, how: Download) -> bytes:
    with _open(url, how) as response:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _Transient(one_line(error)) from None


def _retry(attempt: Callable, how: Download):
    for number in range(how.retries + 1):
        try:
            return attempt()
        except _Transient:
            if number == how.retries:
                raise
            if how.stop.wait(min(how.backoff * 2**number, 60)):
                raise _Stopped from None


def _fetch(url: str, part: Path, how: Download, progress: Callable[[int], None]) -> None:
    """Bring `part` to the full length of `url`, from where it stands. Raises _Transient when broken off."""
    have = part.stat().st_size if part.exists() else 0
    try:
        response = _open(url, how, {"Range": f"bytes={have}-"} if have else None)
    except urllib.error.HTTPError as error:
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range") or "")
        if total and int(total[1]) == have:
            return
        part.unlink()
        raise _Transient("the part that was here does not fit") from None
    with response:
        place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
        if response.status == 206 and (not place or int(place[1]) != have):
            part.unlink()
            raise _Transient("the server sent another range than was asked for")
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        total = int(place[2]) if place else int(length) if length and length.isdigit() else None
        with part.open("r+b" if have else "wb") as out:
            out.seek(have)
            while True:
                if how.stop.is_set():
                    raise _Stopped
                try:
                    data = response.read1(_CHUNK)  # what is there, so that little is lost at an interrupt
                except (OSError, http.client.HTTPException) as error:
                    raise _Transient(f"broken off after {have} bytes ({one_line(error)})") from None
                if not data:
                    break
                out.write(data)
                out.flush()
                have += len(data)
                if have > MAX_BYTES:
                    raise InputError(f"{url}: more than {MAX_BYTES} bytes; refused")
                progress(len(data))
    if total is not None and have != total:
        if have > total:
            part.unlink()
        raise _Transient(f"broken off: {have} of {total} bytes")


def fetch_object(name: str, out: Path, how: Download, progress: Callable[[int], None] = lambda count: None) -> None:
    """Fetch, check and unpack one object into `out / name`. Raises InputError with the object's name and the reason."""
    part = out / f".{name}.zip.part"
    url = how.archive(name)

    def attempt():
        _fetch(url, part, how, progress)
        try:
            return _check_archive(part, name)
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, zipfile.zlib.error) as error:
            part.unlink(missing_ok=True)  # complete and yet broken: from the start
            raise _Transient(f"not a sound zip archive: {one_line(error)}") from None

    try:
        members = _retry(attempt, how)
    except _Gone as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{name}: {error}") from None
    except _Transient as error:
        raise InputError(f"{name}: {url}: {error}; given up after {how.retries + 1} tries") from None
    except InputError:  # an archive that must not be unpacked
        part.unlink(missing_ok=True)
        raise
    digest = _sha256(part)
    with new_folder(out / name) as stage:
        try:
            files = _extract(part, members, stage, how)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:  # a file where a folder should be
            part.unlink()
            raise InputError(f"{name}: its archive cannot be unpacked ({error.strerror})") from None
        record = {"name": name, "url": url, "bytes": part.stat().st_size, "sha256": digest, "licence": LICENCE,
                  "attribution": ATTRIBUTION, "files": files}
        (stage / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    part.unlink()


# ---- archives -------------------------------------------------------------------------------------------------------


def _check_archive(path: Path, name: str) -> list[zipfile.ZipInfo]:
    """The members of an archive that is sound, safe and complete.

    Raises BadZipFile where it is damaged; InputError where a member would leave the folder, is a link, is encrypted or
    appears twice, where it unpacks to too much, or where the mesh is not in it.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked, seen = 0, set()
        if len(members) > MAX_MEMBERS:
            raise InputError(f"{name}: its archive has {len(members)} members; refused")
        for member in members:
            inside = PurePosixPath(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            unsafe = (inside.is_absolute() or ".." in inside.parts or not inside.parts or "\\" in member.orig_filename
                      or ":" in member.filename or "\0" in member.orig_filename)
            if unsafe or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "is a link or a special file" if not unsafe else "would leave the object's folder"
                raise InputError(f"{name}: its archive is refused, the member {member.orig_filename!r} {what}")
            if member.flag_bits & 1 or str(inside).lower() in seen:
                what = "is encrypted" if member.flag_bits & 1 else "appears twice"
                raise InputError(f"{name}: its archive is refused, the member {member.filename!r} {what}")
            seen.add(str(inside).lower())
            unpacked += member.file_size
        if unpacked > MAX_BYTES:
            raise InputError(f"{name}: its archive unpacks to {unpacked} bytes; refused")
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
    lacking = [needed for needed in NEEDED if needed not in seen]
    if lacking:
        raise InputError(f"{name}: its archive lacks {' and '.join(lacking)}")
    return [member for member in members if not member.is_dir()]


def _extract(path: Path, members: list[zipfile.ZipInfo], stage: Path, how: Download) -> dict[str, dict]:
    """Unpack checked members below `stage`; sizes and hashes by name."""
    files = {}
    with zipfile.ZipFile(path) as archive:
        for member in members:
            if how.stop.is_set():
                raise _Stopped
            inside = PurePosixPath(member.filename)
            target = stage.joinpath(*inside.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("xb") as out:
                shutil.copyfileobj(source, out)
            files[str(inside)] = {"bytes": target.stat().st_size, "sha256": _sha256(target)}
    return files


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


# ---- a whole set ----------------------------------------------------------------------------------------------------


def complete_record(folder: Path, hashes: bool = False) -> dict | None:
    """What `download.json` says if all its files are there with their sizes (and hashes), else None."""
    try:
        record = read_json(folder / RECORD)
        for name, about in record["files"].items():
            path = folder / name
            if path.stat().st_size != about["bytes"] or (hashes and _sha256(path) != about["sha256"]):
                return None
        return record if record["name"] == folder.name else None
    except (InputError, OSError, KeyError, TypeError, AttributeError):
        return None


def download_objects(names: list[str], out: Path, how: Download, progress: Callable[[int], None] = lambda count: None,
                     done: Callable[[str, InputError | None], None] = lambda name, error: None,
                     verify: bool = False) -> None:
    """Fetch what is not there yet; an object that cannot be had does not keep the others from coming.

    done: called in this thread for every object, with the error if it failed. verify: hash the files that are there.
    The manifest is written at the end, also when interrupted.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / ATTRIBUTION_FILE).write_text(ATTRIBUTION + "\n")
    waiting = []
    for name in check_names(names):
        if complete_record(out / name, verify) is None:
            waiting.append(name)
        else:
            done(name, None)
    pool = ThreadPoolExecutor(how.workers, thread_name_prefix="gso")
    try:
        jobs = {pool.submit(fetch_object, name, out, how, progress): name for name in waiting}
        pending = set(jobs)
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for job in finished:
                try:
                    job.result()
                    done(jobs[job], None)
                except InputError as error:
                    done(jobs[job], error)
                except OSError as error:  # the disk is full, or the like: nothing else will work either
                    raise InputError(f"{out}: {jobs[job]} cannot be written there ({error.strerror})") from None
    finally:
        how.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        write_manifest(out)


def write_manifest(out: Path) -> dict:
    """Collect the records of all complete objects below `out` in manifest.json, and return it."""
    found = [complete_record(folder) for folder in sorted(out.iterdir()) if (folder / RECORD).is_file()
             and not folder.name.startswith(".")]
    records = [record for record in found if record is not None]
    manifest = {"licence": LICENCE, "attribution": ATTRIBUTION, "objects": len(records),
                "bytes": sum(record["bytes"] for record in records),
                "models": {r["name"]: {key: r[key] for key in ("url", "bytes", "sha256", "files")} for r in records}}
    replace_file(out / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest
