"""Seconds of the whole command `generate`, in two working trees: `python -m tools.startup BEFORE [--runs N] [PICTURE]`.

BEFORE: a folder with another commit, such as `git worktree add /tmp/before COMMIT` makes; this one is "now". Every run
is a process of its own, from its start to its exit: one picture, then two, in both trees by turns. One run each comes
first, in which numba fills its cache. Printed are medians of the runs, and of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ouroboros_lib.cli.doctor import SAMPLE
from ouroboros_lib.errors import InputError

from . import one_line_for_bad_input

HERE = Path(__file__).parents[1]
STAGES = ("sheets", "turntable", "viewer")
Run = dict[str, float]  # seconds by name
ROWS: dict[str, Callable[[Run], float]] = {
    "the whole command, one picture": lambda run: run["one"],
    "the same in seconds of a core": lambda run: run["cpu"],
    "recursion": lambda run: run["recursion"],
    "whole / recursion": lambda run: run["one"] / run["recursion"],
    "loading the weights": lambda run: run["load"],
    "sheets, video and page": lambda run: sum(run[stage] for stage in STAGES),
    "the rest: Python, imports, cutting out": lambda run: run["one"] - sum(run[stage] for stage in (
        "recursion", "load", *STAGES)),
    "the second picture": lambda run: run["two"] - run["one"],
    "its recursion": lambda run: run["second"],
    "`--help`": lambda run: run["help"],
    "`--plan none`, refused": lambda run: run["refused"],
    "a missing picture, refused": lambda run: run["missing"],
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.startup", description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, metavar="BEFORE")
    parser.add_argument("picture", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", help="by default those of each tree's weights")
    parser.add_argument("--plan", help="likewise")
    options = parser.parse_args(arguments)
    with one_line_for_bad_input(), tempfile.TemporaryDirectory() as folder:
        trees = [check_tree(options.before), HERE]
        asked = ("--elevation", "25", "--device", "cpu", *(word for name in ("steps", "plan") if getattr(options, name)
                                                           for word in (f"--{name}", getattr(options, name))))
        for tree in trees:
            measure(tree, options.picture, asked, Path(folder))
        runs = [[measure(tree, options.picture, asked, Path(folder)) for tree in trees] for _ in range(options.runs)]
    print(table([run[0] for run in runs], [run[1] for run in runs]))


def check_tree(tree: Path) -> Path:
    """Raise InputError for a folder without the library."""
    if not (tree / "ouroboros_lib" / "__main__.py").is_file():
        raise InputError(f"{tree}: no working tree of this repository; git worktree add {tree} COMMIT makes one")
    return tree.resolve()


def measure(tree: Path, picture: Path, asked: tuple[str, ...], folder: Path) -> Run:
    """One run of each command in a tree. asked: options of `generate`. Raises InputError for an unexpected end."""
    out, twin = folder / "out", folder / f"twin{picture.suffix}"
    shutil.copyfile(picture, twin)
    given = (*asked, "--out", str(out))
    run: Run = {"help": timed(tree, 0, "--help"),
                "missing": timed(tree, 2, "generate", str(folder / "none.png"), *given),
                "refused": timed(tree, 2, "generate", str(picture), *given, "--plan", "none")}
    cpu = cpu_seconds()
    run["one"] = timed(tree, 0, "generate", str(picture), *given)
    run["cpu"] = cpu_seconds() - cpu
    run |= json.loads((out / "result.json").read_text())["seconds"]
    run["two"] = timed(tree, 0, "generate", str(picture), str(twin), *given)
    run["second"] = json.loads((out / "twin" / "result.json").read_text())["seconds"]["recursion"]
    return run


def cpu_seconds() -> float:
    """Of all programs that ended, by all threads together: other work on the machine changes it little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(tree: Path, code: int, *words: str) -> float:
    """Seconds of `ouroboros WORDS`, with what lies in `tree`. Raises InputError for another exit code."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "ouroboros_lib", *words], cwd=tree, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(tree)})
    seconds = time.perf_counter() - start
    if done.returncode != code:
        raise InputError(f"{tree}: {words[0]} ended with {done.returncode}, expected {code}: {done.stderr.strip()}")
    return seconds


def table(before: list[Run], now: list[Run]) -> str:
    """Medians of both, and of the ratios run by run, as Markdown."""
    lines = [f"| seconds, medians of {len(now)} runs | before | now | now / before |", "|---|---|---|---|"]
    for name, of in ROWS.items():
        old, new = [of(run) for run in before], [of(run) for run in now]
        ratio = statistics.median(b / a for a, b in zip(old, new, strict=True))
        lines.append(f"| {name} | {statistics.median(old):.2f} | {statistics.median(new):.2f} | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
