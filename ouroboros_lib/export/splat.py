"""`.splat`, 32 bytes a Gaussian: what the first web viewers read. Plain tensors in and out."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import read_bytes

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def splat_bytes(means: Tensor, opacities: Tensor, scales: Tensor, quaternions: Tensor, colors: Tensor) -> bytes:
    """N Gaussians, most visible first; shapes as in `write_ply`.

    Positions and scales stay float32; colour, opacity and rotation are rounded to 8 bits.
    """
    order = torch.argsort(scales.prod(-1) * opacities, descending=True, stable=True)
    means, opacities, scales, quaternions, colors = (
        tensor.detach()[order].to("cpu", torch.float32) for tensor in (means, opacities, scales, quaternions, colors))
    rgba = torch.cat([colors, opacities[:, None]], dim=-1).clamp(0, 1)
    record = np.empty(len(means), dtype=RECORD)
    record["mean"], record["scale"] = means.numpy(), scales.numpy()
    record["rgba"] = (rgba * 255).round().byte().numpy()
    record["rotation"] = (quaternions * 128 + 128).round().clamp(0, 255).byte().numpy()
    return record.tobytes()


def read_splat(path: str | Path) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The inverse of `splat_bytes`, from a file. Raises InputError when the file is not a whole number of records."""
    data = read_bytes(path)
    if not data or len(data) % RECORD.itemsize:
        raise InputError(f"{path}: {len(data)} bytes are not a whole number of 32-byte .splat records")
    record = np.frombuffer(data, dtype=RECORD)
    rgba = torch.from_numpy(record["rgba"].astype(np.float32)) / 255
    quaternions = (torch.from_numpy(record["rotation"].astype(np.float32)) - 128) / 128
    return (torch.from_numpy(record["mean"].copy()), rgba[:, 3], torch.from_numpy(record["scale"].copy()), quaternions,
            rgba[:, :3])
