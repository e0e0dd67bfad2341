"""Time the recursion: `python -m ouroboros_lib.benchmark [PRESET] [--steps N] [--batches 1,32] [--modes eager,...]`.

Modes: eager; bf16, under autocast; compiled and compiled-bf16, with CUDA graphs. Prints seconds for each batch of
objects and milliseconds an object, the median of RUNS after one that warms up (or compiles), feedback on and off.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from .data.ring import held_out_objects
from .pipeline import Ouroboros3DPipeline

RUNS = 5
MODES = ("eager", "bf16", "compiled", "compiled-bf16")


def seconds_of_a_run(pipeline: Ouroboros3DPipeline, batch: int, steps: int, feedback: str, half: bool) -> float:
    """Median seconds of the whole recursion for `batch` objects, from the condition views to Gaussians."""
    device = pipeline.device
    data = held_out_objects("val", batch, pipeline.image_size, pipeline.num_views, device=device)
    pictures, times = data.images[:, 0], []
    for _ in range(RUNS + 1):
        generator = torch.Generator(device).manual_seed(0)
        _synchronize(device)
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            pipeline(pictures, cameras=data.orbit_cameras, num_inference_steps=steps, feedback=feedback,
                     generator=generator)
        _synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ouroboros_lib.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="small")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--modes", default="eager")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    modes, batches = options.modes.split(","), [int(batch) for batch in options.batches.split(",")]
    if unknown := set(modes) - set(MODES):
        parser.error(f"--modes: {sorted(unknown)[0]} is none of {', '.join(MODES)}")
    torch.set_float32_matmul_precision("high")
    for mode in modes:
        pipeline = Ouroboros3DPipeline.from_pretrained(options.preset).to(options.device)
        pipeline.set_progress_bar_config(disable=True)
        if mode.startswith("compiled"):
            pipeline.compile()
        for batch in batches:
            for feedback in ("both", "none"):
                seconds = seconds_of_a_run(pipeline, batch, options.steps, feedback, mode.endswith("bf16"))
                print(f"{mode:14s} batch {batch:3d} feedback {feedback:4s}  {seconds:7.3f} s  "
                      f"{1000 * seconds / batch:8.1f} ms an object", flush=True)


if __name__ == "__main__":
    main()
