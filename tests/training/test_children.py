"""Children of a recipe: what they import, and when they end."""

import json
import os
import subprocess
import sys
import time

import pytest

from ouroboros_lib.files.one_writer import LOCK, Lock
from ouroboros_lib.files.processes import began
from ouroboros_lib.training import children, recipe
from ouroboros_lib.training.children import end, end_orphans, program, start

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
# which does not listen, and has a child that does not either
STUBBORN = ("import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "print(os.fork() and 'up' or os.getpid(), flush=True); time.sleep(60)")


def begin(tmp_path, command, lines=1):
    """A child that has written so many lines into tmp_path/log."""
    with open(tmp_path / "log", "w") as log:
        process = start(command, log)
    for _ in range(1000):
        if (tmp_path / "log").read_text().count("\n") >= lines:
            break
        time.sleep(0.02)
    return process


def test_nothing_is_imported_from_the_current_folder(tmp_path, monkeypatch):
    for name in ("typer", "json", "signal", "torch", "sitecustomize", "ouroboros_lib"):
        (tmp_path / f"{name}.py").write_text(f"open('{tmp_path}/ran-{name}', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", "") + os.pathsep)  # an empty entry is this folder
    with open(tmp_path / "log", "w") as log:
        process = start(program(["--version"]), log)
    assert process.wait(100) == 0 and (tmp_path / "log").read_text().startswith("ouroboros 0.")
    assert not list(tmp_path.glob("ran-*"))


def test_a_child_ends_when_its_parent_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "PROGRAM", children.PROGRAM.rpartition("from ouroboros")[0] + SLEEPER)
    process = begin(tmp_path, program([]))
    process.stdin.close()  # as the kernel does for a process that is killed
    assert process.wait(30) == -15


def test_children_that_do_not_listen_are_killed_with_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "GRACE", 0.3)
    process = begin(tmp_path, [sys.executable, "-c", STUBBORN], lines=2)
    grandchild = next(int(word) for word in (tmp_path / "log").read_text().split() if word != "up")
    end([process])
    assert process.returncode == -9
    for _ in range(200):
        if began(grandchild) is None:
            break
        time.sleep(0.02)
    assert began(grandchild) is None


@pytest.mark.parametrize("code", [SLEEPER, STUBBORN])
def test_children_of_a_killed_recipe_are_ended_by_the_next(tmp_path, monkeypatch, capsys, code):
    monkeypatch.setattr(children, "GRACE", 0.3)
    process = begin(tmp_path, [sys.executable, "-c", code])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    lock = {"pid": gone.pid, "began": "1", "children": [[process.pid, began(process.pid)], [gone.pid, "1"]]}
    gone.wait()
    (tmp_path / LOCK).write_text(json.dumps(Lock(tmp_path).record | lock))
    recipe.run_recipe([], tmp_path, gpus=0)
    assert process.wait(30) in (-15, -9) and not (tmp_path / LOCK).exists()
    assert "a recipe that was killed here left 1 processes running" in capsys.readouterr().out
    end_orphans([gone.pid])  # nobody
