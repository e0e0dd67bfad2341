"""3D Gaussian splatting's `.ply`: what every viewer reads. Plain tensors in and out; `Gaussians` has the methods."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import read_bytes

SH_C0 = 0.28209479177387814  # the constant spherical harmonic; 3DGS stores (colour - 0.5) / SH_C0


def write_ply(path: str | Path, means: Tensor, opacities: Tensor, scales: Tensor, quaternions: Tensor,
              colors: Tensor) -> None:
    """Write N Gaussians as a standard 3DGS `.ply`, float32, lossless after `logit` and `log`.

    means (N, 3), opacities (N,), scales (N, 3), quaternions (N, 4) wxyz, colors (N, 3) RGB. Opacities are stored as
    logits, scales as logarithms, colours as the constant spherical harmonic.
    """
    from plyfile import PlyData, PlyElement

    means, opacities, scales, quaternions, colors = (tensor.detach().to("cpu", torch.float64) for tensor in
                                                     (means, opacities, scales, quaternions, colors))
    columns = {"x": means[:, 0], "y": means[:, 1], "z": means[:, 2]}
    columns |= {name: torch.zeros(len(means)) for name in ("nx", "ny", "nz")}
    columns |= {f"f_dc_{i}": (colors[:, i] - 0.5) / SH_C0 for i in range(3)}
    columns["opacity"] = torch.logit(opacities, eps=1e-7)
    columns |= {f"scale_{i}": scales[:, i].clamp_min(1e-12).log() for i in range(3)}
    columns |= {f"rot_{i}": quaternions[:, i] for i in range(4)}
    table = np.empty(len(means), dtype=[(name, "<f4") for name in columns])
    for name, values in columns.items():
        table[name] = values.numpy()
    PlyData([PlyElement.describe(table, "vertex")]).write(str(path))


def read_ply(path: str | Path) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The inverse of `write_ply`, quaternions of whatever length they have; spherical harmonics beyond the constant are
    ignored. Raises InputError."""
    from plyfile import PlyData, PlyParseError

    data = read_bytes(path)
    try:
        table = PlyData.read(BytesIO(data))["vertex"].data

        def columns(*names: str) -> Tensor:
            return torch.from_numpy(np.stack([table[name].astype(np.float32) for name in names], axis=-1))

        return (columns("x", "y", "z"), torch.sigmoid(columns("opacity")[:, 0]),
                columns("scale_0", "scale_1", "scale_2").exp(), columns("rot_0", "rot_1", "rot_2", "rot_3"),
                columns("f_dc_0", "f_dc_1", "f_dc_2") * SH_C0 + 0.5)
    except (PlyParseError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a 3D Gaussian splatting .ply ({error})") from None
