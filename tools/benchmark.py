"""Time the recursion: `python -m tools.benchmark [PRESET] [--steps N] [--batches 1,32] [--modes eager,...]`.

Modes: eager; bf16, under autocast; bf16-weights, the weights themselves in half precision; and compiled, compiled-bf16,
compiled-bf16-weights, with CUDA graphs. Prints seconds for each batch of objects and milliseconds an object, the median
of RUNS after one that warms up (or compiles), for each plan, then the seconds of the parts, measured in one more
run in which the device waits for each. On CUDA also the most memory that tensors took at a time, with what CUDA graphs
keep for their replays, and what torch had reserved for all of it. A preset without weights, such as paper, gets random
ones, drawn on the device: they take as long as trained ones.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.errors import InputError
from ouroboros_lib.files import replace_file
from ouroboros_lib.loading import HALF_PRECISION, channels_last, convert_weights
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.plans import Plan
from ouroboros_lib.presets import load_preset, preset_names

RUNS = 5
MODES = ("eager", "bf16", "bf16-weights", "fp16-weights", "compiled", "compiled-bf16", "compiled-bf16-weights",
         "compiled-fp16-weights")
WARM_UP_STEPS = 3  # the second step is the first with feedback, and CUDA graphs are recorded when a shape comes again


@dataclass
class Timing:
    """Seconds, the median, and on CUDA the peaks of memory in GiB: in tensors and recorded graphs, and reserved.

    first: seconds of the first call, which compiles and records.
    """

    seconds: float
    allocated: float | None = None
    reserved: float | None = None
    first: float | None = None

    @property
    def memory(self) -> str:
        return "" if self.allocated is None else f"  {self.allocated:.1f} GiB, {self.reserved:.1f} reserved"


def load(preset: str, device: str, dtype: torch.dtype = torch.float32) -> Ouroboros3DPipeline:
    """A pipeline by name or folder on a device; what must stay in single precision does."""
    if preset in preset_names() and load_preset(preset).weights is None:
        pipeline = Ouroboros3DPipeline.from_preset(preset, device=device, dtype=dtype)
    else:
        pipeline = Ouroboros3DPipeline.from_pretrained(preset).to(device)
    convert_weights(pipeline, dtype)
    for model in pipeline.components.values():
        if isinstance(model, torch.nn.Module):
            channels_last(model.eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def dtype_of(mode: str) -> torch.dtype:
    """The type of the weights in a mode."""
    return next((dtype for name, dtype in HALF_PRECISION.items() if mode.endswith(f"{name}-weights")), torch.float32)


def runner(pipeline: Ouroboros3DPipeline, batch: int, steps: int, plan: Plan, autocast: bool) -> Callable[[], None]:
    """The whole recursion for `batch` objects, from the condition views to Gaussians."""
    device = pipeline.device
    data = held_out_objects("val", batch, pipeline.image_size, pipeline.num_views, device=device)
    pictures = data.images[:, 0]

    def run() -> None:
        generator = torch.Generator(device).manual_seed(0)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            pipeline(pictures, cameras=data.orbit_cameras, num_inference_steps=steps, plan=plan,
                     generator=generator)

    return run


def measure(run: Callable[[], object], device: torch.device, runs: int,
            warm_up: Callable[[], object] | None = None) -> Timing:
    """The median of `runs` after one, or after `warm_up`, whose memory (what compiling needs) does not count.

    On CUDA one more is not timed, in which torch's allocator asks the driver for memory, which it then keeps.
    """
    on_gpu = device.type == "cuda"
    first = median_seconds(warm_up or run, 1, device)
    if on_gpu:
        torch.cuda.synchronize(device)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        run()
    seconds = median_seconds(run, runs, device)
    peaks = (torch.cuda.max_memory_allocated(device) + kept_by_graphs(), torch.cuda.max_memory_reserved(device)
             ) if on_gpu else ()
    return Timing(seconds, *(peak / 2**30 for peak in peaks), first=first)


def median_seconds(function: Callable[[], object], runs: int, device: torch.device) -> float:
    """Of so many calls, each until the GPU has done its work."""
    times = []
    for _ in range(runs):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kept_by_graphs() -> int:
    """Bytes that no tensor takes, but that recorded CUDA graphs write to when they are replayed."""
    return sum(segment["total_size"] - segment["allocated_size"] for segment in torch.cuda.memory_snapshot()
               if tuple(segment["segment_pool_id"]) != (0, 0))


@contextmanager
def stopwatch(pipeline: Ouroboros3DPipeline) -> Iterator[dict[str, float]]:
    """Inside, the seconds that each part of the recursion takes, in all calls together."""
    seconds = dict.fromkeys(("F", "decoder", "G", "renders"), 0.0)
    places = {"F": "estimate", "decoder": "decode", "G": "reconstruct", "renders": "render"}

    def timed(part: str, method: Callable) -> Callable:
        def function(*args, **kwargs):
            synchronize(pipeline.device)
            started = time.perf_counter()
            result = method(*args, **kwargs)
            synchronize(pipeline.device)
            seconds[part] += time.perf_counter() - started
            return result
        return function

    for part, name in places.items():
        setattr(pipeline, name, timed(part, getattr(pipeline, name)))
    try:
        yield seconds
    finally:
        for name in places.values():
            delattr(pipeline, name)  # the class's method shows again


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="small")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--modes", default="eager")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--plan", action="append", help="such as paper or calm,every=3; repeatable; by default the "
                        "weights' own and two-stage")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    modes, batches = options.modes.split(","), [int(batch) for batch in options.batches.split(",")]
    if unknown := set(modes) - set(MODES):
        parser.error(f"--modes: {sorted(unknown)[0]} is none of {', '.join(MODES)}")
    torch.set_float32_matmul_precision("high")
    records = []
    for mode in modes:
        try:
            pipeline = load(options.preset, options.device, dtype_of(mode))
            plans = [Plan.parse(text) for text in options.plan or (pipeline.config.plan, "two-stage")]
        except InputError as error:
            parser.error(f"{options.preset}, mode {mode}: {error}")
        if mode.startswith("compiled"):
            pipeline.compile()
        for batch in batches:
            for plan in plans:
                run, warm_up = (runner(pipeline, batch, steps, plan, mode.endswith("bf16"))
                                for steps in (options.steps, min(options.steps, WARM_UP_STEPS)))
                timing = measure(run, pipeline.device, options.runs, warm_up)
                print(f"{mode:21s} batch {batch:3d} plan {plan!s:10s}  {timing.seconds:7.3f} s  "
                      f"{1000 * timing.seconds / batch:8.1f} ms an object{timing.memory}, first {timing.first:.1f} s",
                      flush=True)
                with stopwatch(pipeline) as parts:
                    run()
                print("    of which " + ", ".join(f"{part} {value:.3f} s" for part, value in parts.items()), flush=True)
                records.append({"preset": options.preset, "mode": mode, "batch": batch, "steps": options.steps,
                                "plan": str(plan), "guidance": pipeline.config.guidance_scale, **asdict(timing),
                                "parts": parts})
                if options.json:
                    write_records(options.json, "inference", records, pipeline.device)
        del pipeline, run, warm_up
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def write_records(path: Path, kind: str, records: list[dict], device: torch.device) -> None:
    """Measurements as JSON, with the machine and the versions that they were made with; see costs_page.py."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    made = {"kind": kind, "device": name, "torch": torch.__version__, "records": records}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
