"""A set of 3D Gaussians, and the rotations that they are made of."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..files import one_line, read_bytes, replace_file
from .formats import AXES, check_axes, splat_format
from .ply import stated_axes

INVISIBLE = 1 / 255  # of opacity: every rasterizer skips what contributes less to a pixel


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

    def __repr__(self) -> str:
        return f"Gaussians({' x '.join(map(str, self.shape))} on {self.device})"

    def _repr_html_(self) -> str:
        """For notebooks: the viewer with this set, or with the first of a batch."""
        from .page import gaussians_cell

        return gaussians_cell(self)

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

    @classmethod
    def cat(cls, parts: list[Gaussians]) -> Gaussians:
        """Join along the first dimension."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def save(self, path: str | Path, axes: str = "y-down") -> None:
        """Write N Gaussians (no batch dimension) to a splat file; its suffix says the format: .ply, .splat, .spz, .sog
        or .compressed.ply, see `gaussians.formats`.

        axes: of the file. "y-down" is what other programs take (x right, y down, the front towards -z), "y-up" what is
        inside this library, "z-up" Blender's. A .ply says in its header which. Invisible Gaussians are left out: every
        rasterizer skips what is below 1/255. Raises InputError for an unknown suffix and for numbers that are not
        finite, and OSError where the file cannot be written.
        """
        path = Path(path)
        replace_file(path, self.to_bytes(path, axes))

    def to_bytes(self, name: str | Path, axes: str = "y-down") -> bytes:
        """What `save` writes into a file of this name."""
        splat = splat_format(Path(name))
        check_axes(axes)
        if self.means.ndim != 2:
            raise InputError(f"files hold one set of Gaussians, got shape {tuple(self.shape)}: index the batch first")
        self._check(name)
        turned = self[self.opacities >= INVISIBLE]._turned(AXES[axes])
        if not turned.shape[0] and not splat.plain:
            raise InputError(f"{name}: none of the {self.shape[0]} Gaussians can be seen, there is nothing to write")
        if not splat.plain:
            turned.quaternions = _unit(turned.quaternions)
        return splat.write([getattr(turned, field.name) for field in fields(self)], axes)

    @classmethod
    def load(cls, path: str | Path, axes: str | None = None, unit_quaternions: bool = True) -> Gaussians:
        """Read a splat file, (N,), in this library's axes. Raises InputError.

        axes: of the file, see `save`; None takes what its header says, and where it says nothing y-up for a .ply and
        y-down for the other formats. unit_quaternions: quaternions of another length are normalised, as 3DGS does.
        False: they are put into the rotation's formula as they are, as LGM's rasterizer does; what comes out is no
        rotation, and the Gaussians returned are those with the same covariances.
        """
        path = Path(path)
        splat = splat_format(path)
        if axes is not None:
            check_axes(axes)
        data = read_bytes(path)
        try:
            stored, said = splat.read(data, path)
            gaussians = cls(*stored)
            gaussians._check(path)
        except InputError:
            raise
        except Exception as error:  # of the parsers: what they raise on damaged files has no end
            raise InputError(f"{path}: not {splat.what}, or not a whole one ({one_line(error)})") from error
        quaternions, scales = gaussians.quaternions, gaussians.scales
        gaussians.quaternions = _unit(quaternions)
        if not unit_quaternions:
            odd = (quaternions.norm(dim=-1) - 1).abs() > 1e-3
            gaussians.quaternions[odd], scales[odd] = principal_axes(quaternions[odd], scales[odd])
            gaussians._check(path)  # of lengths far from 1
        if axes is None:
            axes = stated_axes(said, path) if said else splat.unstated
        w, x, y, z = AXES[axes]
        return gaussians._turned((w, -x, -y, -z))

    save_ply = save_splat = save  # the names of the first edition
    load_ply = load_splat = load

    def _turned(self, quaternion: tuple) -> Gaussians:
        turn = torch.tensor(quaternion, dtype=self.means.dtype, device=self.device)
        return replace(self, means=self.means @ quaternion_to_matrix(turn).T,
                       quaternions=quaternion_product(turn.expand_as(self.quaternions), self.quaternions))

    def _check(self, name: str | Path) -> None:
        """Raise InputError, naming the file, for numbers that no Gaussian has."""
        if not torch.isfinite(self.to_tensor()).all():
            raise InputError(f"{name}: holds numbers that are not finite")
        if (self.scales < 0).any():
            raise InputError(f"{name}: holds negative scales")


def _unit(quaternions: Tensor) -> Tensor:
    """(..., 4) of length 1, whatever length they have; for those of length 0 no rotation, as rasterizers draw them."""
    lengths = quaternions.norm(dim=-1, keepdim=True)
    if not quaternions.numel() or (lengths.min() > 1e-12 and lengths.max() < 1e12):
        return quaternions / lengths
    largest = quaternions.abs().amax(-1, keepdim=True)  # squares of very small and very large ones leave float32
    unit = F.normalize(quaternions / torch.where(largest > 0, largest, 1), dim=-1)
    return torch.where(largest > 0, unit, torch.tensor([1.0, 0, 0, 0], dtype=unit.dtype))


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
