"""A file appears whole or not at all: it is written under a hidden name of its own and moved into place in one step."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .interrupts import finally_done
from .messages import where
from .processes import tag


@contextmanager
def hidden(folder: Path) -> Iterator[Path]:
    """A name in a folder for what is not to stay, a file or a folder. It tells which process it belongs to, so that
    whoever comes after a killed one can clear it, see `settle`."""
    path = folder / f".ouroboros-{tag()}-{uuid.uuid4().hex[:8]}.part"
    with finally_done(lambda: _remove(path)), where(folder, path.name):
        yield path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside `path` and move it into place: there is never half of it, and two writers do no harm."""
    with hidden(path.parent) as part:
        part.write_bytes(data)
        os.replace(part, path)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write, of the same name but in a hidden folder; it takes the place of `path` when the block succeeds.

    When the block fails nothing of it remains, and an older `path` stays.
    """
    with hidden(path.parent) as own:
        own.mkdir()
        yield own / path.name
        os.replace(own / path.name, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
