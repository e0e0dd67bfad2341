"""Training that is killed at random moments, start-up included, comes out as if nothing had happened.

Five moments; KILLS=50 takes more (`make kill`), STAGE=joint trains F as well.
"""

import os
import random
import subprocess
import time

import warm
from training_inputs import QUICK, timeless_log, train_command

from ouroboros_lib.training.checkpoints import checkpoints

# G alone: on some processors gradients of F's first layers differ in the last digit between two whole runs
SETTINGS = QUICK | {"stage": os.environ.get("STAGE", "reconstructor"), "steps": 7, "checkpoint_every": 2,
                    "log_every": 3, "validate_every": 4}


def begin(out):
    resume = ["--resume"] if checkpoints(out) else []
    return warm.run(["quickly_on_cpu", *train_command(out, *resume, **SETTINGS)], text=True, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE)


def finish(run):
    _, errors = run.communicate()
    assert run.returncode == 0, errors[-3000:]


def test_kills_leave_no_trace(tmp_path):
    whole, killed, chance = tmp_path / "whole", tmp_path / "killed", random.Random(os.environ.get("SEED", "0"))
    run, started, kills = begin(whole), time.monotonic(), 0
    finish(run)
    takes = time.monotonic() - started
    while kills < int(os.environ.get("KILLS", "5")):
        run = begin(killed)
        try:
            run.wait(chance.uniform(0, takes))
        except subprocess.TimeoutExpired:
            run.kill()
            kills += 1
        _, errors = run.communicate()
        # the last one may not have ended yet
        assert "Traceback" not in errors and ("error:" not in errors or "writes there" in errors), errors[-3000:]
        if run.returncode == 0:  # came through: from the beginning again
            compare(whole, killed)
            killed = tmp_path / f"killed-{kills}"
    time.sleep(1)
    finish(begin(killed))
    compare(whole, killed)


def compare(whole, killed):
    assert timeless_log(killed) == timeless_log(whole)
    names = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and "logs" not in path.parts}
    assert {path.relative_to(killed) for path in killed.rglob("*")
            if path.is_file() and "logs" not in path.parts} == names
    for name in names:
        if name.suffix in (".png", ".safetensors") or "pipeline" in name.parts:
            assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
