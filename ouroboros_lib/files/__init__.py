"""Files: read with one line for what is wrong, written whole or not at all, with nothing left behind."""

import json
import math
import os
import stat
from pathlib import Path

from ..errors import InputError
from .folders import new_folder, settle, staged
from .interrupts import deaf_children, termination_cleans_up
from .messages import disk_trouble, one_line, where
from .one_writer import only_writer
from .replacing import hidden, new_file, replace_file

__all__ = ["check_writable", "deaf_children", "disk_trouble", "dump_json", "find_file", "hidden", "load_json",
           "new_file", "new_folder", "one_line", "only_writer", "parse_json", "read_bytes", "read_json", "replace_file",
           "settle", "staged", "termination_cleans_up", "where"]


def check_writable(folder: Path) -> None:
    """Raise InputError unless files can be written into `folder`, which need not exist. Leaves nothing behind; what
    killed processes left there and beside it is put in order."""
    if (first := (*folder.parts, "")[0]).endswith(":") and len(first) > 2:  # what Path makes of "s3://"
        raise InputError(f"{folder}: this is written on disks alone; choose another --out")
    settle(folder.parent)
    settle(folder)
    existing = folder
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        what = "this output folder is a file" if existing == folder else f"{existing} is a file, not a folder"
        raise InputError(f"{folder}: {what}; choose another --out")
    try:
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission to write")
        with hidden(existing) as trial:  # a read-only disk shows only here
            trial.mkdir()
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


def parse_json(data: bytes | str, path: str | Path):
    """JSON that was read from `path`, in which all numbers are finite. Raises InputError."""
    try:
        return load_json(data)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or brackets without end
        raise InputError(f"{path}: not a JSON file ({one_line(error)})") from None


def load_json(data: bytes | str):
    """The same where nothing is to be said of a file. Raises ValueError or RecursionError."""
    return json.loads(data, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def dump_json(record: object, indent: int | None = 1) -> bytes:
    """A record as a JSON file holds it, which has no NaN and no infinity. Raises ValueError where there are some."""
    return (json.dumps(record, indent=indent, allow_nan=False) + "\n").encode()


def find_file(name: str | Path) -> Path:
    """A path as it stands, else below the checkout or the installation of this library, whatever the current folder is.

    For files of the project that notebooks read: "results/small_test.json", "ouroboros_lib/data/samples/snowman.png".
    Raises InputError.
    """
    for place in (Path(), Path(__file__).parents[2], *Path.cwd().parents):
        if (place / name).exists():
            return place / name
    raise InputError(f"{name}: neither here, nor in a folder above, nor beside the library; work in a checkout of the "
                     "repository")
