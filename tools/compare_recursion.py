"""Does the recursion still give the numbers that it gave? `python -m tools.compare_recursion [--write]`.

tests/references/recursion.npz holds, for each named plan, 64 numbers of each object's views, Gaussians and renders with
the shipped weights: four test objects, two seeds, 6 steps; and one object with 25 steps. New weights need new ones,
from code that still gave the old ones: --write. Exit code 1 where one differs by more than 1e-4.
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

REFERENCE = Path(__file__).parents[1] / "tests" / "references" / "recursion.npz"
TOLERANCE, COUNT = 1e-4, 64
RUNS = {"6 steps": (6, 4, (0, 1)), "25 steps": (25, 1, (0,))}  # steps, objects, seeds


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
def numbers(pipeline: Ouroboros3DPipeline, objects: int, runs: Collection[str] = tuple(RUNS),
            seeds: Collection[int] = (0, 1)) -> Iterator[tuple[str, np.ndarray]]:
    """The probes of each run, plan, seed and quantity, for at most so many objects of each run."""
    for run in runs:
        steps, count, all_seeds = RUNS[run]
        data = held_out_objects("test", min(count, objects), pipeline.image_size, pipeline.num_views)
        for plan in PLANS:
            for seed in sorted({*seeds} & {*all_seeds}):
                noise = [torch.Generator().manual_seed(1_000_003 * seed + row) for row in range(len(data.images))]
                output = pipeline(data.images[:, 0], cameras=data.orbit_cameras, generator=noise,
                                  num_inference_steps=steps, plan=plan)
                for name, values in probes(output).items():
                    yield f"{run}/{plan}/{seed}/{name}", values


def differences(pipeline: Ouroboros3DPipeline, objects: int, runs: Collection[str] = tuple(RUNS),
                seeds: Collection[int] = (0, 1)) -> dict[str, float]:
    """The largest difference of each from the reference."""
    reference = np.load(REFERENCE)
    return {name: float(np.abs(values - reference[name][:len(values)]).max())
            for name, values in numbers(pipeline, objects, runs, seeds)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.compare_recursion", description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=4, help="of each run, at most")
    parser.add_argument("--write", action="store_true", help="make today's numbers the reference")
    options = parser.parse_args(arguments)
    pipeline = Ouroboros3DPipeline.from_pretrained("small")
    pipeline.set_progress_bar_config(disable=True)
    if options.write:
        np.savez_compressed(REFERENCE, **dict(numbers(pipeline, options.objects)))
        return
    found = differences(pipeline, options.objects)
    for name, difference in found.items():
        print(f"{name:<32} {difference:.1e}")
    sys.exit(int(max(found.values()) > TOLERANCE))


if __name__ == "__main__":
    main()
