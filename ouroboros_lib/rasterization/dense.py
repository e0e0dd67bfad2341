"""The rasterizer as the formula reads: every Gaussian against every pixel, in plain torch, on any device.

Slow and hungry for memory (pixels x Gaussians), but differentiable by autograd in any floating type: to read first, and
to test the fast backends against.
"""

import math

import torch
from torch import Tensor

from .projection import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE, Projection

CHUNK = 2**24  # pixel-Gaussian pairs held at once


def composite(projection: Projection, opacities: Tensor, features: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Blend front to back. opacities (B, N), features (B, N, C).

    Returns the accumulated features with the depth as last channel, (B, V, size, size, C + 1), and the transmittance
    left, (B, V, size, size).
    """
    batch, views, _ = projection.u.shape
    pairs = [_one_view(projection, b, view, opacities[b], features[b], size)
             for b in range(batch) for view in range(views)]
    accumulated, transmittance = (torch.stack(parts).unflatten(0, (batch, views)) for parts in zip(*pairs, strict=True))
    return accumulated, transmittance


def _one_view(p: Projection, b: int, view: int, opacities: Tensor, features: Tensor, size: int):
    drawn = (p.radius_u[b, view] > 0).nonzero()[:, 0]
    front_to_back = drawn[torch.argsort(p.depth[b, view, drawn].detach(), stable=True)]
    u, v, uu, uv, vv, depth = (plane[b, view, front_to_back]
                               for plane in (p.u, p.v, p.conic_uu, p.conic_uv, p.conic_vv, p.depth))
    opacity = opacities[front_to_back]
    features = torch.cat([features[front_to_back], depth[:, None]], dim=-1)

    centres = torch.arange(size, device=u.device, dtype=u.dtype) + 0.5
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    accumulated, transmittance = [], []
    step = max(1, CHUNK // max(1, len(front_to_back)))
    for row, column in zip(rows.reshape(-1, 1).split(step), columns.reshape(-1, 1).split(step), strict=True):
        du, dv = column - u, row - v  # (pixels, N)
        exponent = 0.5 * (uu * du * du + vv * dv * dv) + uv * du * dv
        exponent = torch.where(exponent >= 0, exponent, math.inf)  # below 0 by rounding: not drawn, as in gsplat
        alpha = (opacity * torch.exp(-exponent)).clamp(max=MAX_ALPHA)
        alpha = torch.where(alpha >= MIN_ALPHA, alpha, torch.zeros_like(alpha))
        after = torch.cumprod(1 - alpha, dim=-1)  # transmittance behind each Gaussian
        alpha = torch.where(after > MIN_TRANSMITTANCE, alpha, torch.zeros_like(alpha))
        after = torch.cumprod(1 - alpha, dim=-1)
        before = torch.cat([torch.ones_like(row), after], dim=-1)
        accumulated.append((alpha * before[:, :-1]) @ features)
        transmittance.append(before[:, -1])
    return torch.cat(accumulated).unflatten(0, (size, size)), torch.cat(transmittance).view(size, size)
