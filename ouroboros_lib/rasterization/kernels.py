"""How numba's kernels are compiled, and that one thread at a time runs them where it must be so."""

import threading
from contextlib import AbstractContextManager, nullcontext

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


CACHED = _can_cache()  # else compiled in every process
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
