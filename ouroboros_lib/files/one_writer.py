"""One writer a folder: a lock file that says who writes there, and how one that a dead process left is recognised."""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError
from .interrupts import finally_done, uninterrupted
from .messages import where
from .processes import began, numbering
from .replacing import hidden, replace_file

LOCK = ".ouroboros.lock"
BEAT, LOST = 10.0, 60.0  # seconds between signs of life; without any for so long, a writer elsewhere is dead


class Lock:
    """The lock file of a folder: pid, when that began, host, its numbering of processes, since when, children."""

    def __init__(self, folder: Path, name: str = LOCK):
        self.path = folder / name
        self.record: dict[str, object] = {
            "pid": os.getpid(), "began": began(os.getpid()), "host": platform.node(), "pids": numbering(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"), "id": uuid.uuid4().hex, "children": []}
        self.orphans: list[int] = []  # children of a dead writer that still run

    def acquire(self, wait: float = 0.0) -> None:
        """Raises InputError if somebody else writes into the folder, and does not end within `wait` seconds."""
        deadline = time.monotonic() + wait
        while not self._create():
            if (other := self._read()) is None:
                continue
            try:
                self._check_dead(other)
            except InputError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                self._remove(other)

    def _create(self) -> bool:
        with uninterrupted():
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            try:
                with where(self.path.parent), os.fdopen(handle, "w") as file:
                    json.dump(self.record, file)
            except OSError:  # a full disk
                self.path.unlink(missing_ok=True)
                raise
        return True

    def keep_children(self, pids: list[int]) -> None:
        """Say in the lock which processes end with this one: whoever finds it stale finds them."""
        self.record["children"] = [[pid, began(pid)] for pid in pids]
        replace_file(self.path, json.dumps(self.record).encode())

    def release(self) -> None:
        if self._read() == self.record:
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict | None:
        """The record of whoever holds the lock, {} if there is none in it, None if nobody holds it any more."""
        for _ in range(20):
            try:
                record = json.loads(self.path.read_bytes())
                return record if isinstance(record, dict) and "host" in record else {}
            except FileNotFoundError:
                return None
            except (ValueError, RecursionError):  # its writer may be about to write
                time.sleep(0.05)
        return {}

    def _check_dead(self, other: dict) -> None:
        if (other.get("host"), other.get("pids")) == (self.record["host"], self.record["pids"]):
            dead = began(other.get("pid")) != other.get("began") or other.get("began") is None
            hint = ""
        elif not other:
            dead, hint = True, ""
        else:  # its processes cannot be seen from here; a file of now tells what time the file system has
            try:
                with hidden(self.path.parent) as now:
                    now.touch()
                    dead = now.stat().st_mtime - self.path.stat().st_mtime > LOST
            except FileNotFoundError:  # it has gone meanwhile
                dead = True
            hint = f" (if it was killed: in a minute, or without {self.path})"
        if not dead:
            raise InputError(f"{self.path.parent}: process {other.get('pid')} on {other.get('host')} writes there "
                             f"since {other.get('since')}; wait until it is done or choose another --out{hint}")
        children = other.get("children")
        self.orphans = [child[0] for child in children if isinstance(child, list) and len(child) == 2
                        and child[1] is not None and began(child[0]) == child[1]
                        ] if isinstance(children, list) and not hint else []

    def _remove(self, other: dict) -> None:
        """Take a stale lock away, but not one that another process has put in its place meanwhile."""
        with hidden(self.path.parent) as aside, suppress(FileNotFoundError):
            os.replace(self.path, aside)
            found = Lock.__new__(Lock)
            found.path = aside
            if found._read() != other and not self.path.exists():
                os.replace(aside, self.path)


@contextmanager
def only_writer(folder: Path, name: str = LOCK, wait: float = 0.0) -> Iterator[Lock]:
    """Inside, no other process writes into `folder`, which exists. Raises InputError if one does, and does not end
    within `wait` seconds.

    name: of the lock's file; those who take another one do not keep each other away.
    """
    lock, done = Lock(folder, name), threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with suppress(OSError):
                os.utime(lock.path)

    with finally_done(lock.release):
        lock.acquire(wait)
        threading.Thread(target=beat, daemon=True).start()
        try:
            yield lock
        finally:
            done.set()
