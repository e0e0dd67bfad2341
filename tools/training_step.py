"""What one step of joint training spends its time on: `python -m tools.training_step [SETTING=VALUE ...]`.

Settings are those of `ouroboros train --set`, for example batch_size=128 compile=true mixed_precision=bf16; preset=tiny
chooses the models and data=DIR rendered objects instead of procedural ones. Prints the median of runs=9 runs of each
part, in milliseconds, after one that compiles; on CUDA also the most memory that tensors and recorded graphs took at a
time, and what was reserved for them. With cuda_graphs=true whole steps are replayed from recordings, parts never are.
json=FILE also writes the figures there, and trace=FILE one step with feedback, operation by operation, for
https://ui.perfetto.dev (FILE.gz: compressed): where the GPU waits, and what for. Presets that ship no weights get
random ones, drawn on the device.

The last line is a step on average: with feedback in a share self_conditioning_probability of the steps, and with an
update of the averages (EMA) every ema_every steps. On several GPUs each process times itself, the main one prints; with
whole copies of the models also how long their gradients travel when no backward pass hides it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from ouroboros_lib.files import check_writable
from ouroboros_lib.losses import denoising_loss, rendering_loss
from ouroboros_lib.noise import c_noise, denoise
from ouroboros_lib.presets import load_preset
from ouroboros_lib.training.config import TrainingConfig
from ouroboros_lib.training.fast.step import pad_with_zeros
from ouroboros_lib.training.loop import take_step, update, update_averages
from ouroboros_lib.training.run import Run, set_up
from ouroboros_lib.training.stages import next_batch
from tools import one_line_for_bad_input
from tools.benchmark import Timing, measure, synchronize, write_records

RUNS = 9
WITHOUT, WITH, AVERAGES = "a step without feedback", "a step with feedback for all", "one without, averages updated"
AVERAGE = "a step on average"
EXCHANGE = "exchange of gradients, alone"
AT_FULL_SIZE = ["batch_size=1", "reconstruction_batch=1", "objects=8", "refresh_objects=4", "validation_objects=1",
                "learning_rate=1e-5", "reconstructor_learning_rate=1e-5"]


def parts_of_a_step(run: Run) -> dict[str, Callable[[], object]]:
    """Functions that each do one part of the fast step, at the sizes that it has there, and some for whole steps."""
    config, pipe = run.config, run.pipe
    multiview, reconstructor = (run.networks[name] for name in ("multiview", "reconstructor"))
    batch, cond = next_batch(run)
    x, cameras, count = batch.latents, batch.orbit_cameras, config.batch_size
    again = max(int(count * config.self_conditioning_probability + 0.5), 1)
    sigma = pipe.scheduler.sample_sigma(count, device=x.device)
    noisy_x = pipe.scheduler.add_noise(x, torch.randn_like(x), sigma)
    share = min(config.reconstruction_batch, count)
    truth = batch.select([*range(share), *range(count - share, count)])

    def backward(loss):
        with torch.autocast(run.accelerator.device.type, enabled=False):
            run.accelerator.backward(loss)

    @torch.no_grad()
    def first_estimate():
        return pipe.estimate(noisy_x[:again], sigma[:again], cond[:again], cameras[:again])

    @torch.no_grad()
    def decode():
        return run.decode(x[:again]).clamp(0, 1)

    views = decode()

    @torch.no_grad()
    def reconstruct():
        return pipe.reconstructor(views, cameras[:again], c_noise(sigma[:again]))

    gaussians = reconstruct()

    @torch.no_grad()
    def render():
        return pipe.render(gaussians, cameras[:again])

    self_cond = {name: pad_with_zeros(maps, count) for name, maps in render().keep("both").items()}

    def train_f():
        pred_x = denoise(multiview, noisy_x, sigma, cond.latents, cameras, self_cond, **cond.embeddings)
        backward(denoising_loss(pred_x, x, sigma))

    def train_g():
        levels = c_noise(sigma[:1]).expand(len(truth.rgba))
        gaussians = reconstructor(truth.orbit_images, truth.orbit_cameras, levels)
        backward(rendering_loss(gaussians, truth, config, run.perceptual))

    def configured(function, **changes):
        def changed():
            run.config = replace(config, ema_every=2, **changes)
            function(run)  # of step number 0: without the averages
            run.config = config
        return changed

    def averages():
        update_averages(run)
        for each in run.averages.values():
            each.settle()

    without = configured(take_step, self_conditioning_probability=0.0)

    def step_with_averages():
        without()
        update_averages(run)

    return {"F, first estimate": first_estimate, "decoder": decode, "G, without gradient": reconstruct,
            "render feedback": render, "F, forward and backward": train_f, "G, splats, forward and backward": train_g,
            "clip, optimiser": configured(update), "averages (EMA)": averages,
            "draw a batch": lambda: next_batch(run), "render new objects": run.source.refresh,
            WITHOUT: without, WITH: configured(take_step, self_conditioning_probability=1.0),
            AVERAGES: step_with_averages}


def exchange_of_gradients(run: Run) -> Callable[[], None]:
    """Sums as many numbers over the processes as the trained models have weights, in buckets of 64 million."""
    count = sum(weight.numel() for network in run.networks.values() for weight in network.parameters())
    dtype = torch.bfloat16 if run.config.gradient_exchange == "bf16" else torch.float32
    bucket = torch.zeros(min(count, 2**26), dtype=dtype, device=run.accelerator.device)

    def exchange():
        for start in range(0, count, len(bucket)):
            torch.distributed.all_reduce(bucket[:count - start])
    return exchange


def under_autocast(part: Callable[[], object], accelerator: Accelerator) -> Callable[[], None]:
    """Each run by itself, as whole steps do: together they would share weights that were cast once."""
    def run():
        with accelerator.autocast():
            part()
    return run


def average_step(timings: dict[str, Timing], config: TrainingConfig) -> Timing:
    """Of steps with and without feedback, and with and without an update of the averages; peaks are of all of them."""
    share = config.self_conditioning_probability if config.feedback != "none" else 0.0
    plain, fed, updating = (timings[name] for name in (WITHOUT, WITH, AVERAGES))
    seconds = (1 - share) * plain.seconds + share * fed.seconds
    seconds += max(updating.seconds - plain.seconds, 0) / config.ema_every

    def peak(name: str) -> float | None:
        values = [getattr(timing, name) for timing in (plain, fed, updating)]
        return None if None in values else max(values)

    return Timing(seconds, peak("allocated"), peak("reserved"))


def main(settings: list[str]) -> None:
    own = {"preset": "small", "data": None, "runs": RUNS, "json": None, "trace": None}
    given = dict(setting.split("=", 1) for setting in settings if setting.partition("=")[0] in own)
    preset, data, runs, path, trace = ({**own, **given}[name] for name in own)
    for file in (path, trace):
        if file:
            check_writable(Path(file).parent)
    defaults = AT_FULL_SIZE if "image_encoder" in load_preset(preset).components else []
    config = TrainingConfig.from_settings(["stage=joint", *defaults, *(
        s for s in settings if s.partition("=")[0] not in own)])
    with tempfile.TemporaryDirectory() as folder:
        run = set_up(preset, Path(folder), config, [preset] if preset == "small" else [], data,
                     random_weights_on="cuda" if torch.cuda.is_available() else "cpu")
        accelerator = run.accelerator
        run.source.fill()
        timings = {}

        def report(name: str, timing: Timing) -> None:
            timings[name] = timing
            accelerator.print(f"{name:<36} {1000 * timing.seconds:9.2f} ms{timing.memory}", flush=True)

        with accelerator.autocast():
            parts = parts_of_a_step(run)
        if accelerator.num_processes > 1 and not run.sharded:
            parts[EXCHANGE] = exchange_of_gradients(run)
        for name, part in parts.items():
            timed = part if name in (WITHOUT, WITH, AVERAGES) else under_autocast(part, accelerator)
            report(name, measure(timed, accelerator.device, int(runs)))
        report(AVERAGE, average_step(timings, config))
        objects = accelerator.num_processes * config.batch_size * config.accumulation
        accelerator.print(f"{objects / timings[AVERAGE].seconds:.2f} objects a second on {accelerator.num_processes} "
                          f"{'GPU' if accelerator.device.type == 'cuda' else 'process'}(s)", flush=True)
        if path and accelerator.is_main_process:
            record = {"preset": preset, "processes": accelerator.num_processes, "sharded": run.sharded,
                      "objects a step": objects,
                      "settings": [s for s in settings if not s.startswith(("json=", "trace="))],
                      "parts": {name: asdict(timing) for name, timing in timings.items()}}
            write_records(Path(path), "training", [record], accelerator.device)
        if trace:  # in all processes, or the others would wait for ever
            with torch.profiler.profile() as profile:
                parts[WITH]()
                synchronize(accelerator.device)
            if accelerator.is_main_process:
                profile.export_chrome_trace(trace)
        accelerator.end_training()


if __name__ == "__main__":
    with one_line_for_bad_input():
        main(sys.argv[1:])
