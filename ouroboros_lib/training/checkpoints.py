"""Checkpoints, from which a run goes on, and the pipeline folder that it leaves behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils import set_seed

from ..errors import InputError
from .fast.averages import share
from .initial import save_pipeline

if TYPE_CHECKING:
    from .run import Run


def latest_checkpoint(out: Path) -> Path | None:
    return max(out.glob("checkpoint-*"), default=None)


def checkpoint_to_resume(out: Path, resume: bool) -> Path | None:
    """The newest checkpoint in `out` for a run that goes on, None for a new one. Raises InputError."""
    newest = latest_checkpoint(out)
    if resume and newest is None:
        raise InputError(f"{out}: --resume, but there is no checkpoint in it; start without --resume")
    if newest is not None and not resume:
        raise InputError(f"{out}: holds checkpoints of an earlier run; add --resume to go on, or choose another --out")
    return newest


def save_checkpoint(run: Run) -> None:
    """accelerate's whole state, written beside and moved into place; the two newest are kept."""
    accelerator = run.accelerator
    for name, network in run.networks.items():
        sound = all(share(parameter).isfinite().all() for parameter in network.parameters())
        if not accelerator.gather(torch.tensor([sound], device=accelerator.device)).all():  # in every process
            raise diverged(run, f"{name} has weights that are no numbers")
    partial, final = run.out / "checkpoint.partial", run.out / f"checkpoint-{run.step:07d}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        os.replace(partial, final)
        for old in sorted(run.out.glob("checkpoint-*"))[:-2]:
            shutil.rmtree(old)


def load_checkpoint(run: Run, checkpoint: Path) -> None:
    """Bring a run to where a checkpoint was written. Its source has to be filled afterwards. Raises InputError."""
    if any(checkpoint.glob("pytorch_model_fsdp*")) != run.sharded:
        how = "without" if run.sharded else "with"
        raise InputError(f"{checkpoint}: was written {how} FSDP; go on as the run was started")
    # for processes that the checkpoint does not know; load_state brings the random states of the others back
    set_seed(run.config.seed + int(checkpoint.name.rpartition("-")[2]), device_specific=True)
    run.accelerator.load_state(checkpoint)


def export(run: Run) -> None:
    """Write OUT/pipeline, averaged weights in half precision, in one move."""
    with run.averaged():
        states = {name: run.accelerator.get_state_dict(network) for name, network in run.networks.items()
                  } if run.sharded else None
        if run.accelerator.is_main_process:
            save_pipeline(run.pipe, run.out / "pipeline", states)


def diverged(run: Run, what) -> RuntimeError:
    return RuntimeError(f"training diverged at step {run.step} ({what}); the last good state is "
                        f"{latest_checkpoint(run.out) or 'none'}; try a lower learning rate")
