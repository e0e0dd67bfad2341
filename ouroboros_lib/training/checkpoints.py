"""Checkpoints, from which a run goes on, and the pipeline folder that it leaves behind.

A checkpoint is complete or does not exist: it is written beside, to the disk, with a list of checksums as its last
file, and moved into place. Only `checkpoint-` and digits is one; what else lies in the folder is the user's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError

from ..errors import InputError
from ..files import dump_json, load_json, one_line, read_json, replace_file, where
from .config import TrainingConfig
from .fast.averages import share
from .initial import save_pipeline
from .state import STATE, read_state, saved, write_state

if TYPE_CHECKING:
    from .run import Run

MARKER = "complete.json"
PARTIAL = "checkpoint.partial"
FIXED = ("stage", "optimizer", "view_attention", "feedback", "train_encoder")  # what a checkpoint's tensors fit


def checkpoints(out: Path) -> list[Path]:
    """What the run itself wrote, the oldest first."""
    own = [path for path in out.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in own if path.is_dir()), key=_step)


def latest_checkpoint(out: Path) -> Path | None:
    return next(reversed(checkpoints(out)), None)


def check_resume(out: Path, resume: bool) -> None:
    """Raise InputError unless a run that is to go on can, and a new one finds no other."""
    there = checkpoints(out)
    if resume and not there:
        raise InputError(f"{out}: --resume, but there is no checkpoint in it; start without --resume")
    if there and not resume:
        raise InputError(f"{out}: holds checkpoints of an earlier run; add --resume to go on, or choose another --out")


def newest_sound(out: Path) -> Path:
    """The newest checkpoint whose files are those that were written; damaged ones are named. Raises InputError."""
    damaged = []
    for path in reversed(checkpoints(out)):
        if not (fault := fault_of(path)):
            if damaged:
                say(f"{'; '.join(damaged)}: going on from {path.name}, the newest sound one")
            return path
        damaged.append(f"{path} is damaged ({fault})")
    raise InputError(f"{'; '.join(damaged)}: no other checkpoint is there; start anew in another --out")


def fault_of(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in words; empty if nothing is."""
    try:
        marker = read_json(checkpoint / MARKER)
        if marker["step"] != _step(checkpoint):
            return f"it is of step {marker['step']}"
        names = sorted(marker["files"])
        for name in names:
            path, size = checkpoint / name, marker["files"][name]["bytes"]
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes of {size}"
        sums = _checksums([checkpoint / name for name in names])
        return next((f"{name} was changed" for name, sum in zip(names, sums, strict=True)
                     if marker["files"][name]["sha256"] != sum), "")
    except FileNotFoundError:
        return f"{MARKER} is missing: not written by this edition, or not to the end"
    except (InputError, OSError, LookupError, TypeError, AttributeError) as error:
        return one_line(error, 1000).removeprefix(f"{checkpoint}/")[:200]


def check_settings(checkpoint: Path, preset: str, config: TrainingConfig, data: str | Path | None) -> None:
    """Compare what a run is given with what it began with: say what differs, or raise InputError where it cannot be."""
    record, now = saved(checkpoint), asdict(config) | {"preset": preset, "data": data and str(data)}
    try:
        before = record["settings"] | {"preset": record["preset"], "data": record["data"]}
        source, stage = (before["data"] is None, before["procedural_share"] > 0), before["stage"]
    except (LookupError, TypeError):
        raise InputError(f"{checkpoint}: {STATE} does not tell the run's settings; start anew in another --out"
                         ) from None
    changed = [name for name in now if name in before and now[name] != before[name]]
    for name in ("preset", *FIXED):
        if name in changed:
            given = f"--preset {now[name]}" if name == "preset" else f"--set {name}={now[name]}"
            raise InputError(f"{given}: {checkpoint} is of preset {before['preset']}, stage {stage}, with "
                             f"{name}={before[name]}; give what the run began with, or choose another --out")
    if source != (data is None, config.procedural_share > 0):
        raise InputError(f"{checkpoint}: learned from {before['data'] or 'procedural objects'} with procedural_share="
                         f"{before['procedural_share']}, whose place in the data fits no other kind; give the same "
                         "--data")
    if changed:
        say("the run goes on with other settings: " + ", ".join(
            f"{name}={now[name]} (before {before[name]})" for name in changed))


def save_checkpoint(run: Run) -> None:
    """Write the whole state of a run; the two newest checkpoints are kept. All processes must call it together."""
    accelerator, first = run.accelerator, run.accelerator.is_main_process
    for name, network in run.networks.items():
        sound = all(share(parameter).isfinite().all() for parameter in network.parameters())
        if not accelerator.gather(torch.tensor([sound], device=accelerator.device)).all():  # in every process
            raise diverged(run, f"{name} has weights that are no numbers")
    partial, final = run.out / PARTIAL, run.out / f"checkpoint-{run.step:07d}"
    try:
        if first:
            clear_partial(run.out)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        with where(run.out, PARTIAL):
            write_state(run, partial)
        accelerator.wait_for_everyone()
        if first:
            _complete(partial, run.step)
            if (run.out / "log.jsonl").is_file():
                _to_disk(run.out / "log.jsonl")
            os.replace(partial, final)
            _to_disk(run.out)
            clear_old(run.out)
    except BaseException:
        if first:
            clear_partial(run.out)
        raise


def load_checkpoint(run: Run, checkpoint: Path) -> None:
    """Bring a run to where a checkpoint was written, which becomes the newest: later ones, which are damaged, are set
    aside. Its source has to be filled afterwards. Raises InputError."""
    # for processes that the checkpoint does not know; the random states of the others are brought back
    set_seed(run.config.seed + _step(checkpoint), device_specific=True)
    try:
        read_state(run, checkpoint)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{checkpoint}: cannot be gone on from: {one_line(error, 300)}") from error
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        for later in checkpoints(run.out):
            if _step(later) > _step(checkpoint):
                aside = later.with_name(f"damaged-{later.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(later, aside)


def rewind_log(out: Path, step: int) -> None:
    """Drop what OUT/log.jsonl holds of later steps, which are taken again, and a line that was cut off."""
    log = out / "log.jsonl"
    if log.is_file():
        lines = log.read_bytes().splitlines(keepends=True)
        if (kept := [line for line in lines if _is_of(line, step)]) != lines:
            replace_file(log, b"".join(kept))


def clear_partial(out: Path) -> None:
    shutil.rmtree(out / PARTIAL, ignore_errors=True)


def clear_old(out: Path) -> None:
    """Remove what a killed process did not complete, and all checkpoints but the two newest. They lose their name
    first: whatever bears it is whole."""
    clear_partial(out)
    for old in checkpoints(out)[:-2]:
        os.replace(old, out / PARTIAL)
        clear_partial(out)


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


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first, before anything knows of the others."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """A line on stderr, from one process."""
    if is_first_process():
        print(f"note: {message}", file=sys.stderr, flush=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _complete(folder: Path, step: int) -> None:
    """Bring the files of a checkpoint to the disk and list them, with checksums, in the last one."""
    files = sorted(path for path in folder.iterdir())
    for path in files:
        _to_disk(path)
    marker = {"step": step, "files": {path.name: {"bytes": path.stat().st_size, "sha256": sum}
                                      for path, sum in zip(files, _checksums(files), strict=True)}}
    (folder / MARKER).write_bytes(dump_json(marker))
    _to_disk(folder / MARKER)
    _to_disk(folder)


def _checksums(files: list[Path]) -> list[str]:
    """SHA-256 of files, several at a time: of full-size models each has gigabytes."""
    def checksum(path: Path) -> str:
        hash = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                hash.update(chunk)
        return hash.hexdigest()

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(checksum, files))


def _to_disk(path: Path) -> None:
    """What was written lies on the disk when this returns, whatever happens to the machine."""
    if path.is_dir() and os.name == "nt":  # whose folders cannot be opened
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_of(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and load_json(line)["step"] <= step
    except (ValueError, LookupError, TypeError):
        return False
