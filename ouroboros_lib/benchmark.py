"""Time the recursion: `python -m ouroboros_lib.benchmark [PRESET] [--steps N] [--batches 1,32] [--modes eager,...]`.

Modes: eager; bf16, under autocast; bf16-weights, the weights themselves in half precision; and compiled, compiled-bf16,
compiled-bf16-weights, with CUDA graphs. Prints seconds for each batch of objects and milliseconds an object, the median
of RUNS after one that warms up (or compiles), feedback on and off, then the seconds of the parts, measured in one more
run in which the device waits for each. On CUDA also the most memory that was allocated at a time. A preset without
weights, such as paper, gets random ones, drawn on the device: they take as long as trained ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from . import pipeline as pipeline_module
from .data.ring import held_out_objects
from .pipeline import Ouroboros3DPipeline, channels_last
from .presets import load_preset, preset_names

RUNS = 5
MODES = ("eager", "bf16", "bf16-weights", "compiled", "compiled-bf16", "compiled-bf16-weights")


def load(preset: str, device: str, dtype: torch.dtype = torch.float32) -> Ouroboros3DPipeline:
    """A pipeline by name or folder on a device; what must stay in single precision does."""
    if preset in preset_names() and load_preset(preset).weights is None:
        with torch.device(device):
            pipeline = Ouroboros3DPipeline.from_preset(preset)
    else:
        pipeline = Ouroboros3DPipeline.from_pretrained(preset).to(device)
    for model in pipeline.components.values():
        if isinstance(model, torch.nn.Module):
            channels_last(model.eval().to(dtype))
    for name in getattr(pipeline.autoencoder, "_keep_in_fp32_modules", None) or ():
        pipeline.autoencoder.vae.get_submodule(name).float()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def runner(pipeline: Ouroboros3DPipeline, batch: int, steps: int, feedback: str, autocast: bool) -> Callable[[], None]:
    """The whole recursion for `batch` objects, from the condition views to Gaussians."""
    device = pipeline.device
    data = held_out_objects("val", batch, pipeline.image_size, pipeline.num_views, device=device)
    pictures = data.images[:, 0]

    def run() -> None:
        generator = torch.Generator(device).manual_seed(0)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            pipeline(pictures, cameras=data.orbit_cameras, num_inference_steps=steps, feedback=feedback,
                     generator=generator)

    return run


def median_seconds(run: Callable[[], object], device: torch.device, runs: int) -> tuple[float, float | None]:
    """Median of `runs` after one that warms up, and the peak of allocated memory in GiB on CUDA, else None."""
    times, peak = [], None
    for number in range(runs + 1):
        if number == 1 and device.type == "cuda":  # what compiling needs is not counted
            torch.cuda.reset_peak_memory_stats(device)
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - started)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**30
    return statistics.median(times[1:]), peak


@contextmanager
def stopwatch(pipeline: Ouroboros3DPipeline) -> Iterator[dict[str, float]]:
    """Inside, the seconds that each part of the recursion takes, in all calls together."""
    seconds = dict.fromkeys(("F", "decoder", "G", "renders"), 0.0)
    places = {"F": (pipeline, "estimate"), "decoder": (pipeline.autoencoder, "decode"), "G": (pipeline, "reconstruct"),
              "renders": (pipeline_module, "render_feedback")}
    before = {part: getattr(*place) for part, place in places.items()}

    def timed(part: str) -> Callable:
        def function(*args, **kwargs):
            synchronize(pipeline.device)
            started = time.perf_counter()
            result = before[part](*args, **kwargs)
            synchronize(pipeline.device)
            seconds[part] += time.perf_counter() - started
            return result
        return function

    for part, place in places.items():
        setattr(*place, timed(part))
    try:
        yield seconds
    finally:
        for part, place in places.items():
            setattr(*place, before[part])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ouroboros_lib.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="small")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--modes", default="eager")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    modes, batches = options.modes.split(","), [int(batch) for batch in options.batches.split(",")]
    if unknown := set(modes) - set(MODES):
        parser.error(f"--modes: {sorted(unknown)[0]} is none of {', '.join(MODES)}")
    torch.set_float32_matmul_precision("high")
    for mode in modes:
        pipeline = load(options.preset, options.device, torch.bfloat16 if mode.endswith("weights") else torch.float32)
        if mode.startswith("compiled"):
            pipeline.compile()
        for batch in batches:
            for feedback in ("both", "none"):
                run = runner(pipeline, batch, options.steps, feedback, mode.endswith("bf16"))
                seconds, peak = median_seconds(run, pipeline.device, options.runs)
                print(f"{mode:21s} batch {batch:3d} feedback {feedback:4s}  {seconds:7.3f} s  "
                      f"{1000 * seconds / batch:8.1f} ms an object" + ("" if peak is None else f"  {peak:.1f} GiB"),
                      flush=True)
                with stopwatch(pipeline) as parts:
                    run()
                print("    of which " + ", ".join(f"{part} {value:.3f} s" for part, value in parts.items()), flush=True)
        del pipeline, run
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
