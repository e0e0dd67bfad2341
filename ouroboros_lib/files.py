"""Writing results: checked before long work, nothing left behind when the work is stopped."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


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
