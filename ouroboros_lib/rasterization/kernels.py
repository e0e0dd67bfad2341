"""How numba's kernels are compiled, and that one thread at a time runs them where it must be so."""

import os
import stat
import tempfile
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numba
from numba import njit

_LOCK = threading.Lock()


def _can_cache() -> bool:
    """numba refuses to compile for a cache where it finds no folder to write to; NUMBA_CACHE_DIR names one."""
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


def _find_cache() -> bool:
    """Whether kernels are kept: where numba keeps them, beside the library or at home, else among temporary files."""
    if _can_cache():
        return True
    try:
        folder = _private_folder()
    except OSError:
        return False
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    if not _can_cache():
        numba.config.CACHE_DIR = before
        return False
    os.environ["NUMBA_CACHE_DIR"] = str(folder)  # numba reads it again, and so do processes that this one starts
    return True


def _private_folder() -> Path:
    """A temporary folder that this user alone can write to: what numba finds in it, it runs. Raises OSError."""
    folder = Path(tempfile.gettempdir(), f"ouroboros-kernels-{os.getuid() if hasattr(os, 'getuid') else 'mine'}")
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if hasattr(os, "getuid") and (not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid()
                                  or about.st_mode & 0o077):
        raise PermissionError(f"{folder}: belongs to somebody else, or others can write to it")
    return folder


CACHED = _find_cache()  # else compiled in every process
# Not "nnan": a NaN must stay a NaN. "numpy": no test for division by zero, which would forbid vector instructions.
OPTIONS = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy", "cache": CACHED}
THREADS = {"prange": True, "reduction": False, "setitem": False, "numpy": False, "fusion": False,
            "comprehension": False, "inplace_binop": False, "stencil": False}  # prange only: compiles sooner


def alone() -> AbstractContextManager:
    """What parallel kernels run in: numba's own thread pool, taken where there is no OpenMP, aborts the process when
    two threads use it at a time."""
    try:
        shared = numba.threading_layer() != "workqueue"
    except ValueError:  # not chosen before the first kernel has run
        shared = False
    return nullcontext() if shared else _LOCK
