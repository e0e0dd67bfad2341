"""Two paths that change places in one step of the file system, where it can."""

import ctypes
import errno
import os
import sys
from pathlib import Path

HERE, SWAP = -100, 2  # AT_FDCWD of Linux; RENAME_EXCHANGE, and RENAME_SWAP of macOS
CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders of one file system change places. False: this system has no such step, and nothing was
    done. Raises OSError, FileNotFoundError where one of them is not there."""
    if os.name != "posix":
        return False
    names, library = [os.fsencode(path) for path in (one, other)], ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            swap = library.renamex_np
            arguments = names
        else:
            swap = library.renameat2
            arguments = [HERE, names[0], HERE, names[1]]
    except AttributeError:  # another system, or an old C library
        return False
    if not swap(*arguments, SWAP):
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))
