"""`.splat`, 32 bytes a Gaussian: what the first web viewers read. Plain tensors in and out."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def write_splat(fields: list[Tensor], axes: str = "") -> bytes:
    """N Gaussians, most visible first; fields as in `write_ply`. The file cannot say in which axes they are.

    Positions and scales stay float32; colour, opacity and rotation are rounded to 8 bits.
    """
    order = torch.argsort(fields[2].prod(-1) * fields[1], descending=True, stable=True)
    means, opacities, scales, quaternions, colors = (
        tensor.detach()[order].to("cpu", torch.float32) for tensor in fields)
    rgba = torch.cat([colors, opacities[:, None]], dim=-1).clamp(0, 1)
    record = np.empty(len(means), dtype=RECORD)
    record["mean"], record["scale"] = means.numpy(), scales.numpy()
    record["rgba"] = (rgba * 255).round().byte().numpy()
    record["rotation"] = (quaternions * 128 + 128).round().clamp(0, 255).byte().numpy()
    return record.tobytes()


def read_splat(data: bytes, path: Path) -> tuple[list[Tensor], None]:
    """The fields. Raises InputError when the file is not a whole number of records."""
    if not data or len(data) % RECORD.itemsize:
        raise InputError(f"{path}: {len(data)} bytes are not a whole number of 32-byte .splat records")
    record = np.frombuffer(data, dtype=RECORD)
    rgba = torch.from_numpy(record["rgba"].astype(np.float32)) / 255
    quaternions = (torch.from_numpy(record["rotation"].astype(np.float32)) - 128) / 128
    return [torch.from_numpy(record["mean"].copy()), rgba[:, 3], torch.from_numpy(record["scale"].copy()), quaternions,
            rgba[:, :3]], None
