"""One damaged input against its reader, and many of them in processes that may hang or crash."""

from __future__ import annotations

import faulthandler
import hashlib
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random

from ouroboros_lib.errors import InputError

from .mutations import mutate

SOUND, REFUSED, WRONG, GARBAGE, HANG, MEMORY, CRASH = KINDS = (
    "sound", "refused", "wrong exception", "silent garbage", "hang", "memory", "crash")
FAULTS = (WRONG, GARBAGE, HANG, MEMORY, CRASH)
MOST_SECONDS = 10  # of computing, for one input
MOST_WAITING = 40  # seconds by the clock, where nothing can interrupt
MOST_MEMORY = 2**30  # bytes that one input may add
ADDRESS_SPACE = 6 * 2**30  # bytes that a process may reserve beside what it has when it begins
SLICE = 15  # seconds that a process works on one format


class Garbage(Exception):
    """A reader has returned what it should have refused."""


class _Hang(BaseException):
    """Not an Exception, which readers catch."""


def expect(holds, what: str) -> None:
    """Raise Garbage unless a result is as it should be."""
    if not holds:
        raise Garbage(what)


@dataclass(frozen=True)
class Format:
    """examples: sound files by name, several sets. read: reads those of a folder; raises InputError for what it refuses
    and Garbage for a result that is not sound. whole: names of files that are never damaged."""

    name: str
    examples: Callable[[], Sequence[dict[str, bytes]]]
    read: Callable[[Path], object]
    whole: tuple[str, ...] = ()

    def damaged(self, random: Random) -> dict[str, bytes]:
        """One of the examples, with one of its files changed, or without it."""
        files = dict(random.choice(self.examples()))
        name = random.choice([name for name in files if name not in self.whole])
        if len(files) > 1 and random.random() < 0.03:
            del files[name]
        else:
            files[name] = mutate(files[name], random)
        return files

    def numbered(self, seed: int, number: int) -> dict[str, bytes]:
        return self.damaged(Random(f"{seed} {self.name} {number}"))


class Folder:
    """A folder that is given other files again and again; what is the same object stays as it is."""

    def __init__(self, path: Path):
        self.path, self.files = path, {}
        path.mkdir(exist_ok=True)

    def fill(self, files: dict[str, bytes]) -> Path:
        for name in self.files.keys() - files.keys():
            (self.path / name).unlink(missing_ok=True)
        for name, data in files.items():
            if self.files.get(name) is not data:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).write_bytes(data)
        self.files = dict(files)
        return self.path


def outcome(format: Format, folder: Path) -> tuple[str, str]:
    """One of KINDS (but for a crash), and what was said: a message, or a traceback."""
    before = _peak()
    try:
        with _watched():
            format.read(folder)
        kind, said = SOUND, ""
    except InputError as error:
        kind, said = REFUSED, str(error)
        if not said or len(said.splitlines()) > 1 or len(said) > 6000:
            kind, said = WRONG, f"InputError: {len(said.splitlines())} lines, {len(said)} characters: {said[:2000]!r}"
        elif re.search("MemoryError|[aA]llocat", said):
            kind = MEMORY
    except _Hang:
        kind, said = HANG, traceback.format_exc()
    except MemoryError:
        kind, said = MEMORY, traceback.format_exc()
    except Garbage:
        kind, said = GARBAGE, traceback.format_exc()
    except (Exception, SystemExit):
        kind, said = WRONG, traceback.format_exc()
    if kind in (SOUND, REFUSED) and _peak() - before > MOST_MEMORY:
        return MEMORY, f"{(_peak() - before) >> 20} MiB more; {said}"
    return kind, said


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _watched() -> Iterator[None]:
    """Raises _Hang after MOST_SECONDS of computing, as soon as Python has its turn."""
    def stop(*_):
        raise _Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# ---- many -----------------------------------------------------------------------------------------------------------


class _Slice:
    """A process that works on the inputs of a format, from one number on, until its time is over."""

    def __init__(self, format: Format, seed: int, first: int, seconds: float, out: Path):
        self.format, self.seed, self.out = format, seed, out
        self.place = tempfile.TemporaryDirectory(prefix="fuzz-")
        context = multiprocessing.get_context("fork")
        self.counts = context.Array("q", len(KINDS), lock=False)
        self.number, self.since = context.Value("q", first, lock=False), context.Value("d", math.inf, lock=False)
        self.process = context.Process(target=self._work, args=(first, seconds), daemon=True)
        self.process.start()

    def _work(self, first: int, seconds: float) -> None:
        # what libraries print about damaged files is nobody's interest; a process that ends badly says why elsewhere
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        faulthandler.disable()
        folder = Folder(Path(self.place.name, "input"))
        for example in self.format.examples():  # made here: what makes them may start threads, and then no fork is safe
            outcome(self.format, folder.fill(example))  # what is compiled first takes memory of its own
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ends, number = time.monotonic() + seconds, first
        while time.monotonic() < ends:
            files = self.format.numbered(self.seed, number)
            folder.fill(files)
            self.number.value, self.since.value = number, time.time()
            kind, said = outcome(self.format, folder.path)
            self.counts[KINDS.index(kind)] += 1
            if kind in FAULTS:
                self._save(kind, said)
            number += 1
            self.number.value = number
        os._exit(0)

    def ended(self) -> bool:
        """Whether it is over, by itself or because it had to be."""
        hangs = time.time() - self.since.value > MOST_WAITING
        if self.process.is_alive() and hangs:
            self.process.kill()
        self.process.join(0.1)
        if self.process.is_alive():
            return False
        if self.process.exitcode != 0:
            kind = HANG if hangs else CRASH
            self.counts[KINDS.index(kind)] += 1
            self._save(kind, f"the process ended with {self.process.exitcode}")
            self.number.value += 1
        self.place.cleanup()
        return True

    def _save(self, kind: str, said: str) -> None:
        """Keep an input, unless one of its sort is there: the same error from the same line."""
        lines = [line for line in said.strip().splitlines() if line.lstrip().startswith("File ")]
        sort = f"{kind} {said.strip().splitlines()[-1].split(':')[0] if said.strip() else ''} {lines[-1:]}"
        name = f"{self.format.name}-{kind.replace(' ', '-')}-{hashlib.sha256(sort.encode()).hexdigest()[:8]}"
        if (folder := self.out / name).exists():
            return
        shutil.copytree(Path(self.place.name, "input"), folder / "files")
        (folder / "finding.txt").write_text(
            f"{kind} of {self.format.name}, seed {self.seed}, number {self.number.value}\n\n{said}\n\n"
            f"PYTHONPATH=.:tests {sys.executable} -m fuzz --replay {folder}\n", encoding="utf-8", errors="replace")


def campaign(formats: Sequence[Format], seed: int, minutes: float, processes: int, out: Path,
             seconds: float = SLICE) -> dict[str, Counter]:
    """Damage and read for so many minutes, the formats in turn. Returns how often each of KINDS came, by format.

    Findings go below `out`, one of each sort, with the command that repeats them.
    """
    totals = {format.name: Counter() for format in formats}
    ends, upcoming, slices = time.monotonic() + 60 * minutes, cycle(formats), []
    numbers: Counter[str] = Counter()
    while slices or time.monotonic() < ends:
        while len(slices) < processes and time.monotonic() < ends:
            format = next(upcoming)
            if any(slice.format is format for slice in slices):
                break
            slices.append(_Slice(format, seed, numbers[format.name], min(seconds, ends - time.monotonic()), out))
        for slice in [slice for slice in slices if slice.ended()]:
            slices.remove(slice)
            numbers[slice.format.name] = slice.number.value
            totals[slice.format.name].update(dict(zip(KINDS, slice.counts, strict=True)))
    return totals


def replay(formats: Sequence[Format], folder: Path) -> tuple[str, str]:
    """What comes of a finding that was saved."""
    name = re.match(r".* of ([\w-]+), seed", (folder / "finding.txt").read_text())[1]
    format = next(format for format in formats if format.name == name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        shutil.copytree(folder / "files", Path(place, "input"), dirs_exist_ok=True)
        return outcome(format, Path(place, "input"))


def table(totals: dict[str, Counter]) -> str:
    """Inputs and faults of each format, and of all."""
    rows = [(name, counts) for name, counts in totals.items()]
    rows.append(("all", sum(totals.values(), Counter())))
    lines = [f"{'format':22}{'inputs':>10}" + "".join(f"{kind:>17}" for kind in (REFUSED, *FAULTS))]
    lines += [f"{name:22}{sum(counts.values()):>10}" + "".join(f"{counts[kind]:>17}" for kind in (REFUSED, *FAULTS))
              for name, counts in rows]
    return "\n".join(lines)
