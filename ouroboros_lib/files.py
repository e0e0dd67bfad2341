"""Writing results: checked before long work, nothing left behind when the work is stopped."""

import atexit
import errno
import glob
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

_unfinished: set[Path] = set()  # temporary files and folders of this process
os.register_at_fork(after_in_child=_unfinished.clear) if hasattr(os, "register_at_fork") else None


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
    """The contents of a file. Raises InputError with one line that names it."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
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
    with _cleared(part):
        part.write_bytes(data)
        os.replace(part, path)


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
    part = own / "new"
    with _cleared(own):
        part.mkdir(parents=True)
        yield part
        with uninterrupted():
            _put(part, path, own / "old")


def _put(part: Path, path: Path, old: Path) -> None:
    """Move a folder to `path`, and what lies there to `old`."""
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


@contextmanager
def _cleared(path: Path) -> Iterator[None]:
    """A temporary file or folder is gone when the block is left, at the latest when the program ends."""
    _unfinished.add(path)
    try:
        yield
    finally:
        with uninterrupted():
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    _unfinished.discard(path)


def _remove_unfinished() -> None:
    """What an interrupt kept from being cleared: it can come in any line, in the first one of a `finally` as well."""
    with uninterrupted():
        for path in list(_unfinished):
            with suppress(OSError):
                _remove(path)


atexit.register(_remove_unfinished)
atexit.register(_remove_unfinished)  # one more time, if an interrupt ends the first


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


class _Stop:
    """The handler of SIGINT and SIGTERM inside `termination_cleans_up`; both wait while something is `held`."""

    held = 0
    waiting: int | None = None

    def __call__(self, number: int, frame: object = None) -> None:
        if self.held:
            self.waiting = number
            return
        self.waiting = None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


_stop = _Stop()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What is done inside is done to the end: Ctrl-C and SIGTERM wait for it, within `termination_cleans_up`."""
    if threading.current_thread() is not threading.main_thread():  # which signals do not reach
        yield
        return
    _stop.held += 1
    try:
        yield
    finally:
        _stop.held -= 1
        if not _stop.held and _stop.waiting is not None:
            _stop(_stop.waiting)


@contextmanager
def termination_cleans_up() -> Iterator[None]:
    """Inside the block SIGTERM raises SystemExit(143), so that `finally` and `with` put things in order; and neither it
    nor Ctrl-C, whenever they come, leave anything temporary behind.

    Not for the whole program: while packages are imported, some of them swallow every exception.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _stop:
        yield  # only the main thread may set handlers, and they are set once
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        signal.signal(signal.SIGTERM, _stop)
        if before[signal.SIGINT] != signal.SIG_IGN:  # as behind a shell's &
            signal.signal(signal.SIGINT, _stop)
        yield
    except (KeyboardInterrupt, SystemExit):
        _remove_unfinished()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


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
