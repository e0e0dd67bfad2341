"""Shared by the tests of splat files and of what is exported."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ouroboros_lib.gaussians import Gaussians, matrix_to_quaternion


def random_gaussians(*shape, seed=0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(means=torch.randn(*shape, 3, generator=generator),
                     opacities=0.01 + 0.98 * torch.rand(shape, generator=generator),
                     scales=0.001 + torch.rand(*shape, 3, generator=generator),
                     quaternions=F.normalize(torch.randn(*shape, 4, generator=generator), dim=-1),
                     colors=torch.rand(*shape, 3, generator=generator))


def figure(count: int = 3000) -> Gaussians:
    """A shape that is alike from no two sides: a grey ball, a yellow one above, a red one on its left, a green one in
    front; as the camera over +z sees it. Flat Gaussians along the surfaces."""
    generator = torch.Generator().manual_seed(1)
    normals = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    part = torch.arange(count) % 4
    centres = torch.tensor([[0.0, -0.1, 0.0], [0.0, 0.3, 0.0], [-0.3, -0.1, 0.0], [0.05, -0.05, 0.3]])
    radii = torch.tensor([0.25, 0.18, 0.12, 0.1])
    colors = torch.tensor([[0.6, 0.6, 0.65], [0.9, 0.75, 0.1], [0.85, 0.15, 0.1], [0.1, 0.6, 0.2]])
    across = F.normalize(torch.linalg.cross(normals, torch.tensor([0.3, 0.5, 0.8]).expand_as(normals)), dim=-1)
    frames = torch.stack([across, torch.linalg.cross(normals, across), normals], -1)
    return Gaussians(centres[part] + radii[part, None] * normals, torch.full((count,), 0.9),
                     torch.tensor([0.03, 0.02, 0.005]).expand(count, 3) * (radii[part, None] / 0.2),
                     matrix_to_quaternion(frames), colors[part] * (0.75 + 0.25 * normals[:, 1:2]))
