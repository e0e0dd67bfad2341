"""Commands that are killed at random moments and given again: the result is that of one that was left alone.

Three moments each; KILLS=50 takes more (`make kill`). Training has a test of its own.
"""

import json
import os
import random
import subprocess
import time

import pytest
import warm
from writing_commands import files, make_inputs, served, words

CLOCKS = {"minutes", "date", "time", "command"}  # what two runs do not share


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs") / "given")


@pytest.fixture
def server():
    fuel = served()
    fuel.delay = 0.01
    yield fuel.url
    fuel.close()


def results(folder):
    """Without the clock's readings, TensorBoard's files and what a recipe's stages print; of a checkpoint's JSON files,
    which hold times and sums of them, that they are there."""
    found = {name: data for name, data in files(folder).items() if "logs/" not in name and not name.endswith(".log")}
    for name, data in found.items():
        if "checkpoint-" in name and name.endswith(".json"):
            found[name] = b""
        elif name.endswith((".json", ".jsonl")):
            lines = [json.loads(line) for line in (data.splitlines() if name.endswith("l") else [data])]
            found[name] = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
    return found


@pytest.mark.parametrize("command", ["data render", "data gso download", "data library", "data shards", "evaluate",
                                     "export", "recipe"])
def test_kills_leave_no_trace(inputs, server, tmp_path, command):
    chance = random.Random(f"{command} {os.environ.get('SEED', '0')}")
    module = "recipe_at_once" if command == "recipe" else "ouroboros_lib"

    def start(out):
        return warm.run([module, *words(command, inputs, out, server)], text=True, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE)

    def finish(out):
        run = start(out)
        _, errors = run.communicate()
        assert run.returncode == 0, errors[-3000:]
        return results(out)

    finish(tmp_path / "warm")
    started = time.monotonic()
    whole = finish(tmp_path / "whole")
    takes, kills, done, out = time.monotonic() - started, 0, 0, tmp_path / "killed"
    while kills < int(os.environ.get("KILLS", "3")):
        run = start(out)
        try:
            run.wait(chance.uniform(0, takes))
        except subprocess.TimeoutExpired:
            run.kill()
            kills += 1
        _, errors = run.communicate()
        assert "Traceback" not in errors and ("error:" not in errors or "writes there" in errors), errors[-3000:]
        if not run.returncode:  # came through: from the beginning again
            assert results(out) == whole
            out, done = tmp_path / f"killed-{kills}-{done}", done + 1
    time.sleep(0.5)  # the last one may not have ended yet
    assert finish(out) == whole
