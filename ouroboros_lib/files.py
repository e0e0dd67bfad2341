"""Writing results: checked before long work, nothing left behind when the work is stopped."""

import errno
import glob
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError


def one_line(error: object, limit: int = 120) -> str:
    """An error's text on one line, at most `limit` characters; its type's name where it has none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def check_writable(folder: Path) -> None:
    """Raise InputError unless files can be written into `folder`, which need not exist. Leaves nothing behind."""
    existing = folder
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        what = "this output folder is a file" if existing == folder else f"{existing} is a file, not a folder"
        raise InputError(f"{folder}: {what}; choose another --out")
    try:
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission to write")
        with tempfile.TemporaryDirectory(dir=existing, prefix=".ouroboros-"):  # a read-only disk shows only here
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot write there ({error.strerror}); choose another --out") from None


def read_bytes(path: str | Path) -> bytes:
    """The contents of a file. Raises InputError with one line that names it, also for what is no file of a disk: a pipe
    would be waited for, a device read without end."""
    try:
        if not (stat.S_ISREG(mode := os.stat(path).st_mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path}: is a pipe or a device, not a file; write what comes out of it into a file first")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except InputError:
        raise
    except ValueError as error:  # a zero byte in the name
        raise InputError(f"{path}: cannot be the name of a file ({error})") from None


def read_json(path: str | Path):
    """The contents of a JSON file. Raises InputError."""
    return parse_json(read_bytes(path), path)


def parse_json(data: bytes, path: str | Path):
    """Bytes that were read from `path` as JSON. Raises InputError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or brackets without end
        raise InputError(f"{path}: not a JSON file ({error})") from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside `path` and move it into place: there is never half of it, and two writers do no harm."""
    part = path.with_name(f".ouroboros-{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, beside `path` under a hidden name; it takes the place of `path` when the block succeeds.

    When the block fails nothing of it remains, and an older `path` stays. Of several writers the last one's folder
    stays, whole. What killed processes left is cleared first.
    """
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*-*.part"):
        if not _runs(stale.name[len(path.name) + 2:].split("-")[0]):
            shutil.rmtree(stale, ignore_errors=True)
    own = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    part, old = own / "new", own / "old"
    try:
        part.mkdir(parents=True)
        yield part
        while True:
            if path.exists():
                with suppress(FileNotFoundError):  # another writer took it away
                    os.replace(path, old)
            try:
                os.replace(part, path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another writer's folder came there
                    raise
                shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _runs(pid: str) -> bool:
    """Whether a process of this machine is still at work; True where nobody can say."""
    if os.name == "nt" or not pid.isdecimal():  # there os.kill ends it
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def termination_cleans_up() -> Iterator[None]:
    """Inside the block SIGTERM raises SystemExit(143), so that `finally` and `with` put things in order.

    Not for the whole program: while packages are imported, some of them swallow every exception.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def find_file(name: str | Path) -> Path:
    """A path as it stands, else below the checkout or the installation of this library, whatever the current folder is.

    For files of the project that notebooks read: "results/small_test.json", "ouroboros_lib/data/samples/snowman.png".
    Raises InputError.
    """
    for place in (Path(), Path(__file__).parents[1], *Path.cwd().parents):
        if (place / name).exists():
            return place / name
    raise InputError(f"{name}: neither here, nor in a folder above, nor beside the library; work in a checkout of the "
                     "repository")
