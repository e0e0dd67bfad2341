"""Checks before long work whose results must be written somewhere."""

from __future__ import annotations

import os
import tempfile
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
