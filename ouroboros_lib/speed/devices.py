"""Which device to run on, from what the user asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """"auto" (the first CUDA GPU, or the CPU), "cpu", "cuda", "cuda:N" or "mps" to a device that is there.

    mps, Apple's GPUs: for the networks alone, splats are drawn on the CPU. Written without such a machine, and tested
    with a stand-in only, so that auto does not choose it. Raises InputError.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise InputError(f"device {name}: expected one of auto, cpu, cuda, cuda:N, mps")
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            why = "torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU or no driver"
            raise InputError(f"device {name}: no usable CUDA GPU here ({why}); choose cpu or auto, `ouroboros doctor` "
                             "says more")
        count = torch.cuda.device_count()
        if int(name.partition(":")[2] or 0) >= count:
            raise InputError(f"device {name}: there is only cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}")
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps: torch finds no Apple GPU here; choose cpu or auto")
    return torch.device(name)
