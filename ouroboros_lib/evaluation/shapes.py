"""Splats and meshes of any method as something that can be looked at from the protocol's cameras.

What lies in another world is not moved: the cameras are taken there instead. A similarity x_theirs = M x_ours maps a
camera's position and turns its axes, and the picture stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..cameras import Cameras
from ..data.meshes import load_mesh, render_mesh
from ..export.views import render_views
from ..gaussians import Gaussians

SAME = torch.eye(4, dtype=torch.float64)


@dataclass
class Shape:
    """Something in 3D. draw: (V,) cameras and a size to colour on white (V, 3, S, S), alpha and z-depth (V, 1, S, S),
    in the coordinates of its file; from_ours (4, 4) takes ours there; notes: what a user should know about it."""

    draw: Callable[[Cameras, int], tuple[Tensor, Tensor, Tensor]]
    from_ours: Tensor
    notes: tuple[str, ...] = ()

    def seen(self, cameras: Cameras, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Colour, alpha and depth, all as cameras (V,) of our world see it."""
        rgb, alpha, depth = self.draw(transformed_cameras(cameras, self.from_ours), size)
        return rgb, alpha, depth / _scale(self.from_ours)

    def turned(self, azimuth: float, scale: float) -> Shape:
        """The same, turned by `azimuth` degrees about y (from +z towards +x) and enlarged by `scale`, in our world."""
        angle = torch.deg2rad(torch.tensor(azimuth, dtype=torch.float64))
        c, s = float(angle.cos()), float(angle.sin())
        move = torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]], dtype=torch.float64)
        move[:3, :3] *= scale
        return Shape(self.draw, self.from_ours @ torch.linalg.inv(move))


def transformed_cameras(cameras: Cameras, similarity: Tensor) -> Cameras:
    """Cameras (V,) whose world is mapped by a (4, 4) similarity: turned, scaled and moved with it."""
    matrix = similarity.to(cameras.device, torch.float64)
    c2w = cameras.c2w.double().clone()
    c2w[..., :3, :3] = matrix[:3, :3] / _scale(matrix) @ c2w[..., :3, :3]
    c2w[..., :3, 3] = c2w[..., :3, 3] @ matrix[:3, :3].T + matrix[:3, 3]
    return Cameras(c2w.to(cameras.c2w.dtype), cameras.intrinsics)


def _scale(similarity: Tensor) -> float:
    return abs(float(torch.linalg.det(similarity[:3, :3].double()))) ** (1 / 3)  # mirroring ones have a negative one


def splat_shape(gaussians: Gaussians, to_ours: Tensor = SAME) -> Shape:
    """A splat (N,); to_ours: (4, 4), from its coordinates to ours."""
    def draw(cameras: Cameras, size: int):
        seen = render_views(gaussians, cameras, size, background=1.0)
        return seen.rgb.clamp(0, 1), seen.alpha, seen.depth

    return Shape(draw, torch.linalg.inv(to_ours))


def mesh_shape(path: Path, to_ours: Tensor, supersample: int = 2, texture: Path | None = None) -> Shape:
    """A mesh file, drawn by casting rays; texture: an image for one that names none. Raises InputError."""
    mesh = load_mesh(path, texture=texture)  # comes in the unit of our world, by to_world

    def draw(cameras: Cameras, size: int):
        views = render_mesh(mesh, cameras, size, supersample)
        return views.images, views.alpha, views.depth

    return Shape(draw, torch.from_numpy(mesh.to_world) @ torch.linalg.inv(to_ours), tuple(mesh.notes))
