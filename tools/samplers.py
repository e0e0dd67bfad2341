"""Which sampler draws as well as 25 steps with less work: `python -m tools.samplers FOLDER --out FILE.json`.

FOLDER: rendered objects, as `ouroboros data render` makes them. Each cell is a solver, a number of F's evaluations and
a plan. All cells see the same objects, cameras and first noise. The JSON has PSNR, LPIPS (AlexNet) and
self-consistency of each cell, and the paired differences to the reference with 95 % intervals. What a cell measured
lies in OUT.cells until all are done, so that an interrupted run goes on, and so that several processes can share the
cells (--only).
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.evaluate import Run, prepared
from ouroboros_lib.evaluation.methods import Ours
from ouroboros_lib.evaluation.metrics import load_lpips
from ouroboros_lib.evaluation.results import how_made
from ouroboros_lib.evaluation.sources import Folder
from ouroboros_lib.evaluation.statistics import digits, mean_interval, paired_interval, per_object
from ouroboros_lib.files import dump_json, replace_file
from ouroboros_lib.noise import EDMNoise, NoiseSettings
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from tools import one_line_for_bad_input

EVALUATIONS = (8, 12, 16, 25)  # of F; the last is the paper's
MORE_OFTEN = ("calm,every=3", "calm,every=2")  # fewer steps leave fewer reconstructions: plans that keep their number
METRICS = ("psnr", "lpips")


class MultistepNoise(EDMNoise):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the target is extrapolated from the last two estimates.

    With eta above 0 the noise is renewed as in `EDMNoise.step`.
    """

    def sigmas(self, num_inference_steps: int, device=None) -> Tensor:
        self.last = None
        return super().sigmas(num_inference_steps, device)

    def step(self, x, pred_x, sigma, sigma_next, noise=None):
        target = pred_x
        if self.last is not None and sigma_next > 0:  # the last step is of first order: log(0) has no slope
            before, last_sigma = self.last
            ratio = (last_sigma / sigma).log() / (sigma / sigma_next).log()
            target = pred_x + (pred_x - before) / (2 * ratio)
        self.last = pred_x, sigma
        return super().step(x, target, sigma, sigma_next, noise)


class HeunNoise(EDMNoise):
    """Heun's method (Karras et al. 2022, algorithm 1): a level that comes twice corrects the step that led to it.

    `num_inference_steps` counts F's evaluations: a step has two. The last goes to 0 and has one; of an even number
    the one before, too.
    """

    def sigmas(self, num_inference_steps: int, device=None) -> Tensor:
        levels = super().sigmas(num_inference_steps // 2 + 1, device)
        twice = levels[1:-1] if num_inference_steps % 2 else levels[1:-2]
        return torch.cat([levels, twice]).sort(descending=True).values

    def step(self, x, pred_x, sigma, sigma_next, noise=None):
        slope = (x - pred_x) / sigma
        if sigma != sigma_next:
            self.start = x, slope, sigma
            return super().step(x, pred_x, sigma, sigma_next, noise)
        start, first_slope, first = self.start
        return start + (sigma - first) * (first_slope + slope) / 2


SOLVERS = {"euler": (EDMNoise, 0.0), "eta=0.5": (EDMNoise, 0.5), "eta=1": (EDMNoise, 1.0),
           "2M": (MultistepNoise, 0.0), "2M eta=1": (MultistepNoise, 1.0), "heun": (HeunNoise, 0.0)}


@dataclass(frozen=True)
class Cell:
    """One way to sample."""

    solver: str
    evaluations: int
    plan: str

    @property
    def name(self) -> str:
        return f"{self.solver}, {self.evaluations}, {self.plan}"

    def scheduler(self, like: EDMNoise) -> EDMNoise:
        kind, eta = SOLVERS[self.solver]
        return kind(**{name: like.config[name] for name in NoiseSettings.__annotations__} | {"eta": eta})


class LoadedOnce(Folder):
    """A folder whose objects stay in memory: every cell is measured on them."""

    def load(self, names):
        self.kept = getattr(self, "kept", {})
        missing = [name for name in names if name not in self.kept]
        self.kept |= dict(zip(missing, super().load(missing), strict=True)) if missing else {}
        return [self.kept[name] for name in names]


def cells() -> list[Cell]:
    """Everything that is measured."""
    return [*(Cell(*each, "calm") for each in product(SOLVERS, EVALUATIONS)),
            *(Cell(*each) for each in product(("eta=1", "2M", "2M eta=1"), EVALUATIONS[:-1], MORE_OFTEN))]


def measure(cell: Cell, run: Run, pipe: Ouroboros3DPipeline, scheduler: EDMNoise) -> dict[str, np.ndarray]:
    """"METRIC QUANTITY" -> (objects, seeds), means over views."""
    pipe.scheduler, run.method.steps = cell.scheduler(scheduler), cell.evaluations
    run.plans = run.method.plans([cell.plan])
    names, size = run.source.names, run.source.batch
    rows = [row for first in range(0, len(names), size) for measured in run.measure(names[first:first + size])
            for row in measured.rows]
    chosen = {quantity: [row for row in rows if row.kind == kind and belongs(row.view)]
              for quantity, (kind, belongs) in run.source.quantities.items()}
    tables = {quantity: per_object(rows) for quantity, rows in chosen.items() if rows}
    return {f"{metric} {quantity}": table[metric] for quantity, table in tables.items() for metric in METRICS}


def summary(found: dict[Cell, dict[str, np.ndarray]], reference: Cell) -> dict:
    """Each cell's means, and its differences to the reference."""
    record = {}
    for cell, columns in found.items():
        places = {column: digits(column.split()[0]) for column in columns}
        record[cell.name] = asdict(cell) | {
            "means": {column: mean_interval(values, places[column]) for column, values in columns.items()},
            "minus reference": {column: paired_interval(values, found[reference][column], digits=places[column])
                                for column, values in columns.items()}}
    return record


def parts(folder: Path, wanted: list[Cell]) -> dict[Cell, dict[str, np.ndarray]]:
    """What has been measured already."""
    files = {cell: folder / f"{cell.name}.npz" for cell in wanted}
    return {cell: dict(np.load(path)) for cell, path in files.items() if path.exists()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.samplers", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--reference", default="eta=1, 25, calm", help="the cell that others are compared with")
    parser.add_argument("--seeds", type=int, default=3, help="of the noise")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", type=share, default=(0, 1), metavar="I/N",
                        help="this process measures every N-th cell, from number I on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    with one_line_for_bad_input():
        compare(options)


def share(text: str) -> tuple[int, int]:
    """I and N of "I/N"."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"{text}: expected I/N with I below N, such as 0/4")
    return int(found[1]), int(found[2])


def compare(options: argparse.Namespace) -> None:
    """Measure the cells that are missing; the process that finds all of them done writes the summary."""
    wanted = cells()
    reference = next((cell for cell in wanted if cell.name == options.reference), None)
    if reference is None:
        raise InputError(f"--reference {options.reference}: expected one of " + "; ".join(cell.name for cell in wanted))
    started = time.monotonic()
    torch.set_float32_matmul_precision("high")
    pipe = Ouroboros3DPipeline.from_pretrained(options.preset).to(options.device)
    scheduler, folder = pipe.scheduler, options.out.with_suffix(".cells")
    method = Ours(pipe, options.preset, seeds=range(options.seeds))
    run = prepared(LoadedOnce(options.folder, batch=options.batch), method, [], "none",
                   {"lpips": load_lpips("alex", options.device)})
    settings = run.settings()  # of the shipped scheduler: what cells change stands with them
    folder.mkdir(parents=True, exist_ok=True)
    first, every = options.only
    for cell in wanted[first::every]:
        if cell not in parts(folder, [cell]):
            columns = measure(cell, run, pipe, scheduler)
            np.savez(whole := io.BytesIO(), **columns)
            replace_file(folder / f"{cell.name}.npz", whole.getvalue())  # others may read it at any time
            print(cell.name, {name: round(float(values.mean()), 4) for name, values in columns.items()}, flush=True)
    found = parts(folder, wanted)
    if len(found) < len(wanted):
        print(f"{len(found)} of {len(wanted)} cells are measured")
        return
    made = how_made(pipe.device, started) | {"command": "python -m tools.samplers " + " ".join(sys.argv[1:])}
    record = {**made, "settings": settings, "reference": reference.name, "cells": summary(found, reference)}
    replace_file(options.out, dump_json(record))
    shutil.rmtree(folder, ignore_errors=True)  # another one may be at it, too


if __name__ == "__main__":
    main()
