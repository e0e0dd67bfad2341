"""Results of several files appear together or not at all, and what killed processes left is put in order."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from ..errors import InputError
from .exchange import exchange
from .interrupts import termination_cleans_up, uninterrupted
from .messages import disk_trouble
from .one_writer import only_writer
from .processes import is_dead
from .replacing import hidden

MOVING = ".ouroboros-moving.lock"
PATIENCE = 60.0  # seconds; others move for milliseconds
_HIDDEN = re.compile(r"\.ouroboros-([0-9a-f]{8}-\d+-\w+)-[0-9a-f]{8}\.part")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, under a hidden name beside `path`; it takes the place of `path` when the block succeeds.

    When the block fails or is killed nothing of it remains, and an older `path` stays. Of several writers the last
    one's folder stays, whole.
    """
    _settle_once(path.parent.absolute())
    with hidden(path.parent) as own:
        (own / "new").mkdir(parents=True)
        yield own / "new"
        with uninterrupted():
            _put(own / "new", path, own)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder`, which is made if need be; its files move up when the block succeeds.

    When the block fails or is interrupted nothing remains: no file of it, and no folder that was not there before.
    Other files in `folder` stay as they are. A move that is killed is completed by the next writer there; until then
    its .json, which says how the others were made, is not there: it goes first and comes last. Raises InputError.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    with termination_cleans_up():
        try:
            with hidden(folder) as own:
                (own / "new").mkdir(parents=True)
                yield own / "new"
                with uninterrupted(), only_writer(folder, MOVING, PATIENCE):
                    os.replace(own / "new", own / "ready")
                    for name in filter(_tells, os.listdir(own / "ready")):
                        (folder / name).unlink(missing_ok=True)
                    _move_up(own, folder)
        except OSError as error:
            if error.errno is None:  # a text, which a name of its own would hide
                raise InputError(f"{folder}: {disk_trouble(error)}") from error
            error.filename = str(folder)
            raise InputError(disk_trouble(error)) from error
        finally:
            for path in made:
                with suppress(OSError):  # it is not there, or not empty
                    path.rmdir()


def settle(folder: Path) -> None:
    """Put in order what killed processes of this user left in a folder: moves of `staged` that had begun are completed,
    what `new_folder` had to take away before it could put the new is put back, and the rest is cleared."""
    try:
        names = os.listdir(folder)
    except OSError:  # there is no such folder yet, or it cannot be read
        return
    for found in filter(None, map(_HIDDEN.fullmatch, names)):
        own = folder / found[0]
        with suppress(OSError):  # another one settles it, or nobody can
            about = own.lstat()
            if hasattr(os, "getuid") and about.st_uid != os.getuid():  # what others put there is not to be trusted
                continue
            if is_dead(found[1], about.st_mtime):
                _settle(own, folder)


_settle_once = lru_cache(maxsize=1024)(settle)  # of 100,000 objects, looking takes as long as writing one


def _settle(own: Path, folder: Path) -> None:
    if (own / "ready").is_dir():
        with only_writer(folder, MOVING, PATIENCE):
            if not any((folder / name).exists() for name in filter(_tells, os.listdir(own / "ready"))):
                _move_up(own, folder)
    for old in own.glob("old/*"):
        if not os.path.lexists(folder / old.name):
            os.replace(old, folder / old.name)
    if own.is_dir():
        shutil.rmtree(own, ignore_errors=True)
    else:
        own.unlink()


def _tells(name: str) -> bool:
    """Whether a file says how the others were made: it must never lie beside those of another run."""
    return name.endswith(".json")


def _move_up(own: Path, folder: Path) -> None:
    """Not by exchange: what is still in `ready` must be new, whenever this is killed."""
    for name in sorted(os.listdir(own / "ready"), key=lambda name: (_tells(name), name)):
        if (own / "ready" / name).is_dir():
            _put_in_two_steps(own / "ready" / name, folder / name, own)
        else:
            os.replace(own / "ready" / name, folder / name)


def _put(part: Path, path: Path, own: Path) -> None:
    """Move a folder to `path`. What lay there comes to lie in the folder `own`."""
    with suppress(FileNotFoundError):  # nothing lies there
        if exchange(part, path):
            return
    _put_in_two_steps(part, path, own)


def _put_in_two_steps(part: Path, path: Path, own: Path) -> None:
    old = own / "old" / path.name
    while True:
        if os.path.lexists(path):
            old.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another writer took it away
                os.replace(path, old)
        try:
            os.replace(part, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                if os.path.lexists(old):
                    os.replace(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)  # another writer's folder came there
