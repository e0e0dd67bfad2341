"""Does the recursion still give the numbers of commit 29852eb? `python -m tools.compare_recursion [--objects N]`.

tests/references/recursion_29852eb.npz holds, for each named plan, 64 numbers of each object's views, Gaussians and
renders with the shipped weights of that commit: 32 test objects, three seeds, 6 steps; and 4 objects with 25 steps.
They were written by that commit with this module's `probes`. Exit code 1 where one differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ouroboros_lib import Ouroboros3DPipeline
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.pipeline import Ouroboros3DOutput
from ouroboros_lib.plans import PLANS

REFERENCE = Path(__file__).parents[1] / "tests" / "references" / "recursion_29852eb.npz"
TOLERANCE, COUNT, BATCH = 1e-4, 64, 8
RUNS = {"6 steps": (6, 32, (0, 1, 2)), "25 steps": (25, 4, (0,))}  # steps, objects, seeds


def probes(output: Ouroboros3DOutput) -> dict[str, np.ndarray]:
    """(B, COUNT) numbers of each object, at fixed random places."""
    renders = torch.cat([output.renders.rgb, output.renders.ccm], dim=2)
    return {"views": _probe(output.views), "gaussians": _probe(output.gaussians.to_tensor()),
            "renders": _probe(renders)}


def _probe(values: Tensor) -> np.ndarray:
    flat = values.detach().float().cpu().flatten(1)
    places = torch.randint(flat.shape[1], (COUNT,), generator=torch.Generator().manual_seed(flat.shape[1]))
    return flat[:, places].numpy()


@torch.no_grad()
def differences(pipeline: Ouroboros3DPipeline, objects: int, runs: Collection[str] = tuple(RUNS),
                seeds: Collection[int] = (0, 1, 2)) -> Iterator[tuple[str, float]]:
    """The largest difference of each run, plan, seed and quantity, for at most so many objects of each run."""
    reference = np.load(REFERENCE)
    for run in runs:
        steps, count, all_seeds = RUNS[run]
        count = min(count, objects)
        for plan in PLANS:
            for seed in sorted({*seeds} & {*all_seeds}):
                for first in range(0, count, BATCH):
                    rows = range(first, min(first + BATCH, count))
                    data = held_out_objects("test", len(rows), pipeline.image_size, pipeline.num_views, start=first)
                    noise = [torch.Generator().manual_seed(1_000_003 * seed + row) for row in rows]
                    output = pipeline(data.images[:, 0], cameras=data.orbit_cameras, generator=noise,
                                      num_inference_steps=steps, plan=plan)
                    for name, values in probes(output).items():
                        wanted = reference[f"{run}/{plan}/{seed}/{name}"][rows.start:rows.stop]
                        yield f"{run}/{plan}/{seed}/{name}", float(np.abs(values - wanted).max())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.compare_recursion", description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=32, help="of each run, at most")
    objects = parser.parse_args(arguments).objects
    pipeline = Ouroboros3DPipeline.from_pretrained("small")
    pipeline.set_progress_bar_config(disable=True)
    worst: dict[str, float] = {}
    for name, difference in differences(pipeline, objects):
        worst[name] = max(difference, worst.get(name, 0.0))
    for name, difference in worst.items():
        print(f"{name:<32} {difference:.1e}")
    sys.exit(int(max(worst.values()) > TOLERANCE))


if __name__ == "__main__":
    main()
