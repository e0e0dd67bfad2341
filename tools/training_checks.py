"""Does training learn, and go on as before: `python -m tools.training_checks CHECK [SETTING=VALUE ...]`.

learns: steps=50 steps on one object, whose losses at fixed noise are measured before and after; a checkpoint is written
after half of them to out=DIR and the run goes on. resumes: a new process loads it, takes the second half of the steps
again, and compares its losses with those of the first run, against=FILE; then once more, since on a GPU two runs from
one checkpoint part as well: splats add up their gradients in any order. Of each loss the first step must agree within
1 %, and all steps, on average, within 1 % or twice what the second and third run differ by. one-batch: steps of the
same global batch of global_batch=2 objects, whatever the number of processes is; against=FILE, the json of another run,
compares the losses.

Settings are those of `python -m tools.training_step`; json=FILE keeps the figures.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from ouroboros_lib.cameras import Cameras
from ouroboros_lib.data.batches import MultiviewBatch
from ouroboros_lib.data.buffer import ObjectBuffer
from ouroboros_lib.errors import InputError
from ouroboros_lib.files import read_json
from ouroboros_lib.training.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from ouroboros_lib.training.config import TrainingConfig
from ouroboros_lib.training.loop import take_step
from ouroboros_lib.training.run import Run, set_up
from ouroboros_lib.training.stages import next_losses
from tools import one_line_for_bad_input
from tools.benchmark import write_records

OWN = {"preset": "narrow", "out": "checks", "json": None, "against": None, "global_batch": "2", "steps": "50"}
FIXED = ["stage=joint", "batch_size=1", "reconstruction_batch=1", "refresh_objects=1", "validation_objects=1",
         "learning_rate=3e-5", "reconstructor_learning_rate=3e-5", "schedule=constant", "warmup=0"]
PROBES = 4  # noises that losses are measured at before and after


class Objects:
    """Always the first of a buffer's objects, in place of random ones. next: as of other sources."""

    def __init__(self, buffer: ObjectBuffer):
        self.buffer, self.next, self.views = buffer, 0, buffer.views

    def restart(self, next: int) -> None:
        """Nothing to do: the objects are always the same."""

    def batch(self, size: int, images: bool = True) -> MultiviewBatch:
        return self.object(0)

    def object(self, number: int) -> MultiviewBatch:
        buffer = self.buffer
        return MultiviewBatch(buffer.rgba[[number]], Cameras(buffer.c2w[[number]], buffer.intrinsics),
                              buffer.num_views, buffer.latents[[number]].float())


class OneBatch(Objects):
    """The batches of each step are the same objects: number k is object k, with the noise of the step and k.

    Which process computes it does not matter: processes x accumulation is the global batch.
    """

    def __init__(self, buffer: ObjectBuffer, process: int, accumulation: int):
        super().__init__(buffer)
        self.process, self.accumulation, self.given = process, accumulation, 0

    def batch(self, size: int, images: bool = True) -> MultiviewBatch:
        step, part = divmod(self.given, self.accumulation)
        number = self.process * self.accumulation + part
        self.given += 1
        torch.manual_seed(1000 * step + number)
        return self.object(number)


def run_for(settings: list[str], own: dict, objects: int) -> Run:
    """A run with random weights, drawn on the device, and the first ones of the procedural objects."""
    config = TrainingConfig.from_settings([*FIXED, *settings, f"objects={objects}", f"steps={own['steps']}"])
    out = Path(own["out"])
    out.mkdir(parents=True, exist_ok=True)
    run = set_up(own["preset"], out, config, random_weights_on="cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True  # runs are compared: the algorithm
    torch.backends.cudnn.allow_tf32 = False  # must not depend on what was fastest just then, nor single precision round
    torch.set_float32_matmul_precision("highest")
    run.source.rank, run.source.world_size = 0, 1  # all processes hold all of them
    run.source.fill()
    run.source = Objects(run.source)
    return run


def take_steps(run: Run, last: int) -> list[dict[str, float]]:
    """Losses of the steps up to number `last`, the mean over all processes."""
    history = []
    while run.step < last:
        figures = take_step(run)
        run.step += 1
        values = torch.stack([value.detach().float() for value in figures.values()])
        values = run.accelerator.reduce(values, "mean").tolist()
        history.append({"step": run.step} | dict(zip(figures, values, strict=True)))
    return history


@torch.no_grad()
def losses_at_fixed_noise(run: Run) -> dict[str, float]:
    """The mean over PROBES noises, each with feedback; the run's own random numbers are left as they were."""
    devices = [run.accelerator.device] if run.accelerator.device.type == "cuda" else []
    config, sums = run.config, {}
    with torch.random.fork_rng(devices=devices):
        run.config = replace(config, self_conditioning_probability=1.0, condition_dropout=0.0)
        for probe in range(PROBES):
            torch.manual_seed(probe)
            with run.accelerator.autocast():
                for name, value in next_losses(run).items():
                    sums[name] = sums.get(name, 0.0) + float(value) / PROBES
    run.config = config
    return sums


def learns(settings: list[str], own: dict) -> dict:
    steps = int(own["steps"])
    run = run_for(settings, own, 1)
    before = losses_at_fixed_noise(run)
    history = take_steps(run, steps // 2)
    record = {"check": "learns"} | write_checkpoint(run)
    history += take_steps(run, steps)
    after = losses_at_fixed_noise(run)
    record |= {"before": before, "after": after, "history": history,
               "finite": all(math.isfinite(value) for row in history for value in row.values())}
    record["passed"] = record["finite"] and all(after[name] < before[name] for name in before)
    return record


def write_checkpoint(run: Run) -> dict:
    """How large it is and how long it took; without the room for it, only what it would need."""
    weights = sum(parameter.nbytes for network in run.networks.values() for parameter in network.parameters())
    needed, free = 4 * weights, shutil.disk_usage(run.out).free  # two moments and the averages beside them
    if free < 1.1 * needed:
        return {"checkpoint": f"left out: needs {needed / 1e9:.0f} GB, there are {free / 1e9:.0f}"}
    started = time.monotonic()
    save_checkpoint(run)
    seconds = time.monotonic() - started
    files = [path for path in latest_checkpoint(run.out).rglob("*") if path.is_file()]
    return {"checkpoint GB": sum(path.stat().st_size for path in files) / 1e9, "seconds to write it": seconds}


def resumes(settings: list[str], own: dict) -> dict:
    run = run_for(settings, own, 1)
    checkpoint = latest_checkpoint(run.out)
    if checkpoint is None:
        raise InputError(f"{run.out}: no checkpoint in it; run the check `learns` first")
    started = time.monotonic()
    load_checkpoint(run, checkpoint)
    seconds, first = time.monotonic() - started, run.step
    before = {row["step"]: row for row in own["reference"]["history"]}
    if int(own["steps"]) > max(before):
        raise InputError(f"steps={own['steps']}: the run that {own['against']} tells of took {max(before)}")
    if int(own["steps"]) <= first:
        raise InputError(f"steps={own['steps']}: {checkpoint} was written after {first}; ask for more")
    history = take_steps(run, int(own["steps"]))
    load_checkpoint(run, checkpoint)
    again = take_steps(run, int(own["steps"]))
    apart = relative_differences(history, [before[row["step"]] for row in history])
    control = relative_differences(again, history)
    record = {"check": "resumes", "from step": first, "seconds to load": seconds,
              "relative difference": summary(apart), "of two runs from the checkpoint": summary(control),
              "history": history, "history again": again}
    record["passed"] = all(figures["first"] < 0.01 and figures["mean"] < max(0.01, 2 * other["mean"])
                           for figures, other in zip(record["relative difference"].values(),
                                                     record["of two runs from the checkpoint"].values(), strict=True))
    return record


def one_batch(settings: list[str], own: dict) -> dict:
    count = int(own["global_batch"])
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if count % processes:
        raise InputError(f"global_batch={count}: must be a multiple of the {processes} processes")
    accumulation = count // processes
    run = run_for([*settings, f"accumulation={accumulation}", "self_conditioning_probability=1"], own, count)
    run.source = OneBatch(run.source.buffer, run.accelerator.process_index, accumulation)
    history = take_steps(run, int(own["steps"]))
    record = {"check": "one-batch", "processes": processes, "sharded": run.sharded, "history": history}
    if own["reference"]:
        record["largest relative difference"] = worst_difference(history, own["reference"]["history"])
        record["passed"] = record["largest relative difference"] < 0.01
    return record


def relative_differences(one: list[dict], other: list[dict]) -> dict[str, list[float]]:
    """Of each loss, step by step; norms of gradients are left out."""
    names = [name for name in one[0] if name != "step" and "/" not in name]
    return {name: [abs(a[name] - b[name]) / abs(b[name]) for a, b in zip(one, other, strict=True)] for name in names}


def worst_difference(one: list[dict], other: list[dict]) -> float:
    """The largest relative difference of all losses and steps."""
    return max(max(values) for values in relative_differences(one, other).values())


def summary(differences: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {name: {"first": values[0], "mean": sum(values) / len(values), "largest": max(values)}
            for name, values in differences.items()}


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in CHECKS:
        sys.exit(f"expected one of {', '.join(CHECKS)}, then settings; see the first lines of {__name__}")
    given = dict(setting.split("=", 1) for setting in arguments[1:] if setting.partition("=")[0] in OWN)
    own = {**OWN, **given}
    own["reference"] = read_json(Path(own["against"]))["records"][0] if own["against"] else None
    if arguments[0] == "resumes" and own["reference"] is None:
        raise InputError("resumes: needs against=FILE, what the check `learns` wrote with json=FILE")
    settings = [setting for setting in arguments[1:] if setting.partition("=")[0] not in OWN]
    record = CHECKS[arguments[0]](settings, own)
    state = PartialState()
    if state.is_main_process:
        print(json.dumps({name: value for name, value in record.items()
                          if not name.startswith("history")}, indent=1))
        losses = [{name: round(value, 4) for name, value in row.items()} for row in record["history"]]
        print("\n".join(map(str, losses[:2] + losses[-2:])), flush=True)
        if own["json"]:
            write_records(Path(own["json"]), "check", [{"settings": settings, **record}], state.device)
    state.destroy_process_group()
    sys.exit(0 if record.get("passed", True) else 1)


CHECKS = {"learns": learns, "resumes": resumes, "one-batch": one_batch}

if __name__ == "__main__":
    with one_line_for_bad_input():
        main(sys.argv[1:])
