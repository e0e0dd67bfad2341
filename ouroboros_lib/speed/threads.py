"""What this process asks of the libraries below torch, for the CPU's sake. Measured in results/README.md.

Importing the library asks for nothing: the command line calls `prepare` before anything else, notebooks begin with
`notebook`, which calls `start`. How threads wait is read when torch and numba are loaded, so either call belongs before
their import.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from typing import TYPE_CHECKING

from .devices import resolve_device

if TYPE_CHECKING:
    import torch

SPINS = 10_000  # some tenths of a millisecond, which covers the way from one operation to the next
TRIM_THRESHOLD, MMAP_THRESHOLD = 128 * 2**20, 32 * 2**20  # bytes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def start(device: str = "auto") -> torch.device:
    """`prepare`, and the device to work on. Warns where torch was imported before, so that the settings for threads
    come too late. Raises InputError if there is no such device."""
    if prepare() and "torch" in sys.modules:
        warnings.warn("ouroboros_lib.notebook() comes after the import of torch, which has read the settings for "
                      "threads already: call it first, or steps on the CPU can take much longer", stacklevel=3)
    return resolve_device(device)


def prepare() -> bool:
    """Set all parts; what the environment already says about one of them stays as it is.

    Returns whether settings for threads were made, which do nothing once torch is loaded.
    """
    _keep_freed_memory()
    before = dict(os.environ)
    _let_idle_threads_sleep()
    _give_numba_the_number_of_threads()
    return before != dict(os.environ)


def _let_idle_threads_sleep() -> None:
    """torch and numba bring a thread pool each, and an idle pool that spins for long takes the cores from the other: on
    two busy cores the recursion is then seven times slower. One that sleeps at once is late for the next operation."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def _give_numba_the_number_of_threads() -> None:
    """numba does not know OMP_NUM_THREADS, starts a thread a core, and torch then has as many, whatever that says."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) and "numba" not in sys.modules:  # which fails where its number changes
        os.environ.setdefault("NUMBA_NUM_THREADS", str(min(int(threads), os.cpu_count() or 1)))


def _keep_freed_memory() -> None:
    """glibc gives a large tensor's memory back when it is freed, and every page costs the kernel time at the next one.

    Up to TRIM_THRESHOLD bytes stay with the process instead. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux") or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl has neither
        return
    mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
