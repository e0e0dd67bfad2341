"""The training loop."""

import json
import math
import time
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..files import only_writer, termination_cleans_up, where
from .checkpoints import (
    check_resume,
    check_settings,
    clear_old,
    diverged,
    export,
    is_first_process,
    load_checkpoint,
    newest_sound,
    rewind_log,
    save_checkpoint,
)
from .config import TrainingConfig
from .fast.cuda_graphs import exchange_gradients
from .fast.sharding import reshard
from .run import Run, set_up
from .stages import measure_latents, next_losses
from .validation import look


def train(preset: str, out: str | Path, config: TrainingConfig, init: list[str] | None = None,
          resume: bool = False, data: str | Path | None = None) -> dict[str, float]:
    """Train one stage of a preset and write `out`/pipeline, checkpoints, samples and TensorBoard logs.

    init: pipeline folders to start from, PATH for all components or `component=PATH` for one; later ones win.
    resume: go on from the newest checkpoint in `out`. data: a folder of multi-view objects or of shards to learn from
    instead of procedural objects. Returns the last figures logged, and under "left out" how many objects of the folder
    could not be used, if there were any. Raises InputError.
    """
    if preset == "paper" and not (data and init):
        raise InputError("--preset paper: give --data DIR, rendered objects, and --init DIR, what `ouroboros convert "
                         "svd` wrote: nobody trains these models from nothing on toy objects")
    out = Path(out)
    check_resume(out, resume)
    out.mkdir(parents=True, exist_ok=True)
    with termination_cleans_up(), where(out), only_writer(out) if is_first_process() else nullcontext():
        check_resume(out, resume)  # now that nobody else writes there
        checkpoint = newest_sound(out) if resume else None
        if checkpoint is not None:
            check_settings(checkpoint, preset, config, data)
        run = set_up(preset, out, config, init, data)
        if checkpoint is not None:
            load_checkpoint(run, checkpoint)
        if run.accelerator.is_main_process:
            clear_old(out)
            rewind_log(out, run.step)
        # later steps that TensorBoard's files hold are taken again
        run.accelerator.init_trackers("logs", asdict(config), {"tensorboard": {"purge_step": run.step + 1}})
        with closing(run.source):
            figures = take_steps(run)
        figures |= look(run)
        export(run)
        if number := getattr(run.source, "left_out", 0):
            figures["left out"] = number
        run.accelerator.end_training()
    return figures


def take_steps(run: Run) -> dict[str, float]:
    """All steps that are left. Returns the last figures logged."""
    config = run.config
    run.source.fill()

    seconds_before, first_step = run.seconds, run.step
    with tqdm(total=config.steps, initial=run.step, disable=not run.accelerator.is_main_process,
              mininterval=1.0 if config.steps < 1000 else 10.0) as progress:
        while (fraction := run.share_done()) < 1:
            for group in (group for optimizer in run.optimizers for group in optimizer.param_groups):
                group["lr"] = group["peak"] * learning_rate_factor(fraction, config.warmup, config.schedule)
            for name, value in take_step(run).items():  # a single batch's losses vary with its noise levels: log means
                run.sums[name] = run.sums.get(name, 0) + value
            run.summed += 1
            run.step += 1
            if run.step == first_step + 1:  # the clock starts here: compilation takes minutes, but trains nothing
                started = time.monotonic()
            run.seconds = seconds_before + time.monotonic() - started
            progress.update()

            if run.step % config.refresh_every == 0:
                run.source.refresh()
            if run.step % config.log_every == 0 or run.step == config.steps:
                run.figures = {name: float(value) / run.summed for name, value in run.sums.items()}
                run.sums, run.summed = {}, 0
                log(run, run.figures, progress)
            if config.validate_every and run.step % config.validate_every == 0:
                run.figures |= look(run)
            if config.checkpoint_every and run.step % config.checkpoint_every == 0:
                save_checkpoint(run)
    if config.stage == "autoencoder" and config.train_encoder:
        measure_latents(run)
    return run.figures


def take_step(run: Run) -> dict[str, Tensor]:
    """One step of the optimizer, from as many batches as are accumulated: mean losses, and norms of gradients."""
    accelerator, config = run.accelerator, run.config
    figures: dict[str, Tensor] = {}

    def backward(loss: Tensor) -> None:
        # divides by the number of batches; what went forward outside autocast goes back so
        with torch.autocast(accelerator.device.type, enabled=False):
            accelerator.backward(loss)

    for part in range(config.accumulation):
        with accelerator.accumulate(*run.networks.values()):
            with accelerator.autocast():
                losses = next_losses(run, part, backward)
            if rest := [loss for loss in losses.values() if loss.requires_grad]:  # the fast step went backward already
                backward(sum(rest))
        for name, value in losses.items():
            figures[name] = figures.get(name, 0) + value.detach() / config.accumulation
    figures |= update(run)
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=run.cuda_graphs is None)
    return figures


def update(run: Run) -> dict[str, Tensor]:
    """Clip the gradients, step and average the weights. Returns the norm of each model's gradients."""
    config, norms = run.config, {}
    reshard(list(run.networks.values()))
    if run.exchanges_by_hand:
        exchange_gradients(run.networks["multiview"].parameters(),
                           torch.bfloat16 if config.gradient_exchange == "bf16" else torch.float32)
    run.accelerator.unscale_gradients()
    clipped = {name: list(network.parameters()) for name, network in run.networks.items()}
    if config.clip_together:
        clipped = {"all": sum(clipped.values(), [])}
    for name, parameters in clipped.items():
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        norms[f"gradient/{name}"] = norm.full_tensor() if run.sharded else norm
    for averages in run.averages.values():
        averages.release()
    for optimizer in run.optimizers:
        optimizer.step()
    if (run.step + 1) % config.ema_every == 0:
        update_averages(run)
    return norms


def update_averages(run: Run) -> None:
    if run.sharded or run.accelerator.is_main_process:  # whole weights are the same everywhere: one averages them
        for name, averages in run.averages.items():
            averages.step(getattr(run.pipe, name).parameters())


def log(run: Run, figures: dict[str, float], progress: tqdm) -> None:
    """A line of OUT/log.jsonl, and TensorBoard. Raises RuntimeError for losses that are no numbers."""
    if not all(math.isfinite(value) for name, value in figures.items() if not name.startswith("gradient")):
        raise diverged(run, figures)
    config = run.config
    samples = run.step * config.accumulation * config.batch_size * run.accelerator.num_processes
    figures = figures | {"samples": samples, "minutes": run.seconds / 60}
    run.accelerator.log(figures, step=run.step)
    if run.accelerator.is_main_process:
        line = {name: value if math.isfinite(value) else None for name, value in figures.items()}  # JSON has no NaN
        with open(run.out / "log.jsonl", "a") as file:
            file.write(json.dumps({"step": run.step} | line) + "\n")
    progress.set_postfix({name: f"{value:.4f}" for name, value in figures.items() if "/" not in name})


def learning_rate_factor(fraction: float, warmup: float, schedule: str = "cosine") -> float:
    """Linear rise over the share `warmup` of the run, then a cosine to zero, or no fall at all."""
    rise = min(1.0, (fraction + 1e-3) / warmup) if warmup else 1.0
    if schedule == "constant":
        return rise
    return rise * (0.5 + 0.5 * math.cos(math.pi * fraction)) + 1e-4
