"""Runs of `ouroboros` as processes that end with the one that started them, however that ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..files.processes import began

GRACE = 15.0  # seconds between asking and killing
# First of all the current folder, which -c puts on the path, is taken off it: what lies there is never imported. The
# pipe on stdin closes when the parent is gone, even if that was killed.
PROGRAM = """import sys
sys.path[:] = [*filter(None, sys.path), {root!r}]
import os, signal, threading, time
def follow():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({grace})
    os._exit(1)
threading.Thread(target=follow, daemon=True).start()
from ouroboros_lib.cli.main import main
main()"""


def program(arguments: list[str]) -> list[str]:
    """`ouroboros ARGUMENTS...` as a command for `start`."""
    root = str(Path(__file__).resolve().parents[2])
    return [sys.executable, "-c", PROGRAM.format(root=root, grace=GRACE), *arguments]


def start(command: list[str], log, **environment: str) -> subprocess.Popen:
    """A process that writes to the file `log`, in a session of its own: Ctrl-C is for its parent."""
    given = os.environ | {"PYTHONSAFEPATH": "1"} | environment
    if "PYTHONPATH" in given:  # an empty entry would stand for the current folder
        given["PYTHONPATH"] = os.pathsep.join(filter(None, given["PYTHONPATH"].split(os.pathsep)))
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=given,
                            start_new_session=True)


def end(processes: Iterable[subprocess.Popen]) -> None:
    """End processes of `start` and what they started, by force if asking does not help."""
    processes = list(processes)
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _kill(process.pid)
        process.wait()


def end_orphans(pids: Iterable[int]) -> None:
    """The same for processes whose parent is gone, named by the first of their session."""
    first = {pid: started for pid in pids if (started := began(pid)) is not None}
    for pid in first:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for pid, started in first.items():
        while began(pid) == started and time.monotonic() < deadline:
            time.sleep(0.05)
        if began(pid) in (None, started):
            _kill(pid)


def _kill(pid: int) -> None:
    """A session's processes, by the number of the first."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)  # on Windows this is by force
