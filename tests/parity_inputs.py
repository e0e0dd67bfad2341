"""Pseudo-random weights and inputs of the released modules' stored outputs (tests/parity), and the sizes they have."""

import math
import zlib
from pathlib import Path

import numpy as np
import torch

from ouroboros_lib.cameras import Cameras

PARITY = Path(__file__).parent / "parity"
NARROW_F = {"block_out_channels": (32, 64, 96, 96), "num_attention_heads": (2, 2, 3, 3), "cross_attention_dim": 48}
NARROW_G = {"image_size": 64, "down_channels": (32, 64, 96), "down_attention": (False, True, True),
            "up_channels": (96, 64), "up_attention": (True, False)}


def draw(name: str, *shape: int) -> torch.Tensor:
    """The pseudo-random numbers of that name; numpy's legacy generator never changes."""
    numbers = np.random.RandomState(zlib.crc32(f"A:{name}".encode())).standard_normal(shape)
    return torch.from_numpy(np.asarray(numbers, dtype=np.float32))


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Overwrite every parameter by its name, zero-initialised ones too."""
    def values(name, shape):
        if name.endswith("mix_factor"):
            return 0.5 * draw(name, *shape)
        if len(shape) >= 2:
            return draw(name, *shape) / math.sqrt(math.prod(shape[1:]))
        return 1 + 0.1 * draw(name, *shape) if name.endswith("weight") else 0.1 * draw(name, *shape)

    model.load_state_dict({name: values(name, tensor.shape) for name, tensor in model.state_dict().items()})
    return model.eval()


def load(name: str) -> dict[str, torch.Tensor]:
    with np.load(PARITY / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def released_cameras(batch: int) -> Cameras:
    arrays = load("cameras")
    return Cameras(arrays["c2w"].float(), arrays["intrinsics"]).expand(batch)
