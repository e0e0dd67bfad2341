"""Which process of which machine: how the living are told from the dead, also those that had the same number."""

import hashlib
import os
import platform
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

LOST = 24 * 3600.0  # seconds without any sign of life after which what a process elsewhere began is given up


def began(pid) -> str | None:
    """What tells a process of this machine from later ones of the same number; None if it does not run."""
    if not isinstance(pid, int) or pid < 1:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # its start, in ticks of the kernel
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    if os.name == "nt":  # there os.kill ends it
        return "unknown"
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return "unknown"


def numbering() -> str:
    """What numbers this process: containers count by themselves."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def tag() -> str:
    """Names this process among those of all machines: PLACE-PID-BEGAN, fit for a file's name."""
    return f"{_place()}-{os.getpid()}-{began(os.getpid())}"


def is_dead(owner: str, last_sign: float) -> bool:
    """Whether the process of a `tag` has ended. last_sign: time.time() of the last thing that it is known to have done;
    of processes elsewhere, which cannot be seen, nothing else tells."""
    place, pid, start = owner.split("-")
    if place == _place() and os.name != "nt":
        return began(int(pid)) != start
    return time.time() - last_sign > LOST


@cache
def _place() -> str:
    return hashlib.sha256(f"{platform.node()} {numbering()}".encode()).hexdigest()[:8]
