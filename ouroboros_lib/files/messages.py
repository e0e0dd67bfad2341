"""What is said of errors that others raise: one line."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADVICE = {errno.ENOSPC: "make room there, then give the command again",
          errno.EDQUOT: "your quota is used up there: make room, then give the command again",
          errno.EFBIG: "a limit on the size of files, see ulimit -f", errno.EROFS: "choose another place",
          errno.EACCES: "give permission, or choose another place"}


def one_line(error: object, limit: int = 120) -> str:
    """An error's text on one line, at most `limit` characters, without addresses in memory, so that the same fault is
    told alike; its type's name where it has none."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(error).split()))[:limit] or type(error).__name__


@contextmanager
def where(folder: Path, hidden: str = "") -> Iterator[None]:
    """An OSError of what is written inside names the folder, where it names nothing or a path with `hidden` in it; what
    safetensors raises in place of one becomes one."""
    try:
        yield
    except OSError as error:
        if error.errno is None and str(folder) not in str(error):  # as numpy raises it
            raise OSError(f"{folder}: {error}") from error
        if error.errno is not None and (error.filename is None or hidden and hidden in str(error.filename)):
            error.filename = str(folder)
        raise
    except Exception as error:
        if type(error).__name__ == "SafetensorError" and (found := re.search(r"\(os error (\d+)\)", str(error))):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from error
        raise


def disk_trouble(error: OSError) -> str:
    """What a disk or its permissions refuse, on one line: where, what, and what to do."""
    place = f"{error.filename}: " if error.filename is not None else ""
    advice = ADVICE.get(error.errno or 0)
    return place + one_line(error.strerror or error, 300) + (f"; {advice}" if advice else "")
