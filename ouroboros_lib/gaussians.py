"""A set of 3D Gaussians, and the two file formats that viewers read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

SH_C0 = 0.28209479177387814  # the constant spherical harmonic; 3DGS stores (colour - 0.5) / SH_C0


@dataclass
class Gaussians:
    """N Gaussians after activation, with any leading batch dimensions: 14 numbers each.

    means (..., N, 3) world units; opacities (..., N) in [0, 1]; scales (..., N, 3) standard deviations in world units;
    quaternions (..., N, 4) wxyz, unit length; colors (..., N, 3) plain RGB.
    """

    means: Tensor
    opacities: Tensor
    scales: Tensor
    quaternions: Tensor
    colors: Tensor

    @property
    def shape(self) -> torch.Size:
        """(..., N)."""
        return self.means.shape[:-1]

    @property
    def device(self) -> torch.device:
        return self.means.device

    def map(self, function) -> Gaussians:
        """Apply `function` to each of the five tensors."""
        return Gaussians(*(function(getattr(self, field.name)) for field in fields(self)))

    def to(self, *args, **kwargs) -> Gaussians:
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def detach(self) -> Gaussians:
        return self.map(Tensor.detach)

    def float(self) -> Gaussians:
        return self.map(Tensor.float)

    def __getitem__(self, index) -> Gaussians:
        """Index the leading batch dimensions and N, as with a tensor of shape (..., N)."""
        return self.map(lambda tensor: tensor[index])

    def rotations(self) -> Tensor:
        """(..., N, 3, 3) rotation matrices."""
        return quaternion_to_matrix(self.quaternions)

    def covariances(self) -> Tensor:
        """R S S^T R^T, (..., N, 3, 3) (Kerbl et al. 2023, eq. 6)."""
        half = self.rotations() * self.scales[..., None, :]
        return half @ half.transpose(-1, -2)

    def to_tensor(self) -> Tensor:
        """(..., N, 14): position 3, opacity 1, scale 3, rotation 4, colour 3, LGM's order."""
        return torch.cat([self.means, self.opacities[..., None], self.scales, self.quaternions, self.colors], dim=-1)

    @classmethod
    def from_tensor(cls, packed: Tensor) -> Gaussians:
        """The inverse of `to_tensor`."""
        means, opacities, scales, quaternions, colors = packed.split([3, 1, 3, 4, 3], dim=-1)
        return cls(means, opacities[..., 0], scales, quaternions, colors)

    def save_ply(self, path: str | Path) -> None:
        """Write N Gaussians (no batch dimension) as a standard 3DGS `.ply`, float32, lossless after `logit` and `log`.

        Opacities are stored as logits, scales as logarithms, colours as the constant spherical harmonic.
        """
        from plyfile import PlyData, PlyElement

        self._require_unbatched()
        g = self.detach().to("cpu", torch.float64)
        columns = {"x": g.means[:, 0], "y": g.means[:, 1], "z": g.means[:, 2]}
        columns |= {name: torch.zeros(len(g.means)) for name in ("nx", "ny", "nz")}
        columns |= {f"f_dc_{i}": (g.colors[:, i] - 0.5) / SH_C0 for i in range(3)}
        columns["opacity"] = torch.logit(g.opacities, eps=1e-7)
        columns |= {f"scale_{i}": g.scales[:, i].clamp_min(1e-12).log() for i in range(3)}
        columns |= {f"rot_{i}": g.quaternions[:, i] for i in range(4)}
        table = np.empty(len(g.means), dtype=[(name, "<f4") for name in columns])
        for name, values in columns.items():
            table[name] = values.numpy()
        PlyData([PlyElement.describe(table, "vertex")]).write(str(path))

    @classmethod
    def load_ply(cls, path: str | Path, unit_quaternions: bool = True) -> Gaussians:
        """Read a 3DGS `.ply`; spherical harmonics beyond the constant are ignored. Raises InputError.

        unit_quaternions: quaternions of another length are normalised, as 3DGS does. False: they are put into the
        rotation's formula as they are, as LGM's rasterizer does; what comes out is no rotation, and the Gaussians
        returned are those with the same covariances.
        """
        from plyfile import PlyData, PlyParseError

        try:
            table = PlyData.read(str(path))["vertex"].data
            def columns(*names):
                return torch.from_numpy(np.stack([table[name].astype(np.float32) for name in names], axis=-1))
            means = columns("x", "y", "z")
            colors = columns("f_dc_0", "f_dc_1", "f_dc_2") * SH_C0 + 0.5
            opacities = torch.sigmoid(columns("opacity")[:, 0])
            scales = columns("scale_0", "scale_1", "scale_2").exp()
            quaternions = columns("rot_0", "rot_1", "rot_2", "rot_3")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except (PlyParseError, KeyError, ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a 3D Gaussian splatting .ply ({error})") from None
        loaded = cls(means, opacities, scales, F.normalize(quaternions, dim=-1), colors)
        if unit_quaternions:
            return loaded
        length = quaternions.norm(dim=-1)
        odd = ((length - 1).abs() > 1e-3) & length.isfinite() & scales.isfinite().all(-1)
        loaded.quaternions[odd], loaded.scales[odd] = principal_axes(quaternions[odd], scales[odd])
        return loaded

    def save_splat(self, path: str | Path) -> None:
        """Write the 32-byte `.splat` records of web viewers, most visible Gaussians first.

        Positions and scales stay float32; colour, opacity and rotation are rounded to 8 bits.
        """
        self._require_unbatched()
        g = self.detach().to("cpu", torch.float32)
        order = torch.argsort(g.scales.prod(-1) * g.opacities, descending=True, stable=True)
        g = g[order]
        rgba = torch.cat([g.colors, g.opacities[:, None]], dim=-1).clamp(0, 1)
        record = np.empty(len(g.means), dtype=_SPLAT_RECORD)
        record["mean"], record["scale"] = g.means.numpy(), g.scales.numpy()
        record["rgba"] = (rgba * 255).round().byte().numpy()
        record["rotation"] = (g.quaternions * 128 + 128).round().clamp(0, 255).byte().numpy()
        Path(path).write_bytes(record.tobytes())

    @classmethod
    def load_splat(cls, path: str | Path) -> Gaussians:
        """Read a `.splat` file. Raises InputError when it is not a whole number of records."""
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        if not data or len(data) % _SPLAT_RECORD.itemsize:
            raise InputError(f"{path}: {len(data)} bytes are not a whole number of 32-byte .splat records")
        record = np.frombuffer(data, dtype=_SPLAT_RECORD)
        rgba = torch.from_numpy(record["rgba"].astype(np.float32)) / 255
        quaternions = (torch.from_numpy(record["rotation"].astype(np.float32)) - 128) / 128
        return cls(torch.from_numpy(record["mean"].copy()), rgba[:, 3], torch.from_numpy(record["scale"].copy()),
                   F.normalize(quaternions, dim=-1), rgba[:, :3])

    def _require_unbatched(self) -> None:
        if self.means.ndim != 2:
            raise ValueError(f"files hold one set of Gaussians, got shape {tuple(self.shape)}: index the batch first")


_SPLAT_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def moved(gaussians: Gaussians, motion: Tensor) -> Gaussians:
    """Gaussians (..., N) after a rigid motion (..., 4, 4), with gradients."""
    rotation = motion[..., None, :3, :3]
    means = (rotation * gaussians.means[..., None, :]).sum(-1) + motion[..., None, :3, 3]
    quaternions = quaternion_product(matrix_to_quaternion(rotation), gaussians.quaternions)
    return Gaussians(means, gaussians.opacities, gaussians.scales, quaternions, gaussians.colors)


def quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    """(..., 4) wxyz twice: the rotation `b`, followed by `a`; lengths multiply."""
    (aw, ax, ay, az), (bw, bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return torch.stack([aw * bw - ax * bx - ay * by - az * bz, aw * bx + ax * bw + ay * bz - az * by,
                        aw * by - ax * bz + ay * bw + az * bx, aw * bz + ax * by - ay * bx + az * bw], dim=-1)


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """(..., 4) wxyz of any length above 0 to (..., 3, 3) rotation matrices."""
    return quaternion_polynomial(F.normalize(quaternions, dim=-1))


def matrix_to_quaternion(rotations: Tensor) -> Tensor:
    """The inverse: (..., 3, 3) to (..., 4) wxyz of unit length, w not negative."""
    xx, yy, zz = rotations.diagonal(dim1=-2, dim2=-1).unbind(-1)
    # 4 q q^T, each row of which is a multiple of q; that with the largest diagonal element is the most exact
    (xy, yx), (xz, zx), (yz, zy) = ((rotations[..., i, j], rotations[..., j, i]) for i, j in ((0, 1), (0, 2), (1, 2)))
    rows = torch.stack([
        1 + xx + yy + zz, zy - yz, xz - zx, yx - xy, zy - yz, 1 + xx - yy - zz, yx + xy, xz + zx,
        xz - zx, yx + xy, 1 - xx + yy - zz, zy + yz, yx - xy, xz + zx, zy + yz, 1 - xx - yy + zz,
    ], dim=-1).unflatten(-1, (4, 4))
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*rows.shape[:-2], 1, 4)
    quaternions = F.normalize(rows.gather(-2, best)[..., 0, :], dim=-1)
    return torch.where(quaternions[..., :1] < 0, -quaternions, quaternions)


def quaternion_polynomial(quaternions: Tensor) -> Tensor:
    """The matrix elements as polynomials of (..., 4) wxyz: a rotation for unit length only."""
    w, x, y, z = quaternions.unbind(-1)
    return torch.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ], dim=-1).unflatten(-1, (3, 3))


def principal_axes(quaternions: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Unit quaternions (..., 4) and scales (..., 3) of the covariances R S S R^T, R = `quaternion_polynomial`.

    For rasterizers that do not normalise quaternions: the singular vectors of R S are the rotation, its singular values
    the scales. Without gradient: singular vectors of equal values have none.
    """
    half = quaternion_polynomial(quaternions.detach().double()) * scales.detach()[..., None, :].double()
    axes, lengths, _ = torch.linalg.svd(half)
    axes = axes * torch.linalg.det(axes)[..., None, None].sign()  # a rotation, no mirror
    return matrix_to_quaternion(axes).to(quaternions.dtype), lengths.to(scales.dtype)
