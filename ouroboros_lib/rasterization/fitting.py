"""Gaussians fitted to given views through the rasterizer: what G does in one pass, done in hundreds of steps."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import OBJECT_RADIUS, Cameras
from ..errors import InputError
from ..gaussians import Gaussians
from . import rasterize

# Adam's rates at the start: world units for the means, else in logits, logarithms and quaternion components
RATES = {"means": 2e-3, "opacities": 0.1, "scales": 0.1, "quaternions": 0.01, "colors": 0.02}
FINAL_RATE = 0.05  # share of each rate that is left at the end of a cosine
CANDIDATES = 2**16  # random points tested against the outlines at a time
MAX_DRAWS = 16  # draws without enough hits before giving up


def fit_gaussians(images: Tensor, alpha: Tensor, cameras: Cameras, count: int = 8000, steps: int = 400,
                  views_per_step: int = 4, seed: int = 0,
                  callback: Callable[[int, Gaussians], None] | None = None) -> Gaussians:
    """Fit `count` Gaussians to V views by gradient descent (Kerbl et al. 2023, section 5, without density control).

    images (V, 3, S, S) in [0, 1] on white, alpha (V, 1, S, S), cameras (V,), all on one device, which also decides on
    the rasterizer. The Gaussians start as small balls near the surface of the visual hull; their number stays. Each
    step looks at `views_per_step` views, in random order, each view as often as the others. callback(step, gaussians)
    sees the Gaussians before each step, and at the end with step = `steps`. Returns Gaussians of shape (count,).
    Raises InputError when shapes disagree, a number is below 1, or the outlines have no volume in common.
    """
    _check(images, alpha, cameras, count=count, steps=steps, views_per_step=views_per_step)
    size, generator = images.shape[-1], torch.Generator().manual_seed(seed)
    points = hull_points(alpha, cameras, count, generator)
    raw = {name: value.requires_grad_() for name, value in _start(points, images, cameras).items()}
    optimizer = torch.optim.Adam([{"params": [raw[name]], "lr": rate} for name, rate in RATES.items()], eps=1e-15)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * step / steps)) / 2)
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if callback is not None:
            callback(step, _activate(raw).detach())
        while len(order) < views_per_step:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        chosen, order = order[:views_per_step].to(images.device), order[views_per_step:]
        rendering = rasterize(_activate(raw), cameras[chosen], size)
        error = rendering.rgb - images[chosen]
        loss = error.abs().mean() + 20 * error.square().mean() + 0.5 * (rendering.alpha - alpha[chosen]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    fitted = _activate(raw).detach()
    if callback is not None:
        callback(steps, fitted)
    return fitted


def hull_points(alpha: Tensor, cameras: Cameras, count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` random world points near the surface of the visual hull (Laurentini 1994), (count, 3).

    alpha (V, 1, S, S), cameras (V,). The hull is what lies inside the outline of every view; near its surface is what
    lies within two pixels of leaving one. generator: on the CPU. Raises InputError when the hull is empty.
    """
    inside = (alpha > 0.5).float()
    deep = -F.max_pool2d(-F.pad(inside, (2, 2, 2, 2)), 5, stride=1)  # 1 where the pixels around are inside as well
    found, number = [], 0
    for _ in range(MAX_DRAWS):
        directions = F.normalize(torch.randn(CANDIDATES, 3, generator=generator), dim=-1)
        radii = OBJECT_RADIUS * torch.rand(CANDIDATES, 1, generator=generator) ** (1 / 3)  # even in the ball
        points = (radii * directions).to(alpha.device)
        in_all, deep_in_all = (_sample(mask, points, cameras, "nearest").bool().all(0)[0] for mask in (inside, deep))
        found.append(points[in_all & ~deep_in_all])
        number += len(found[-1])
        if number >= count:
            return torch.cat(found)[:count]
    raise InputError(f"{number} of {CANDIDATES * MAX_DRAWS} random points lie on the visual hull, {count} are needed: "
                     "do the views, their alpha and their cameras belong together?")


def _sample(maps: Tensor, points: Tensor, cameras: Cameras, mode: str) -> Tensor:
    """The values of maps (V, C, S, S) where points (N, 3) are seen, (V, C, N); 0 off the image."""
    places = cameras.project(points)[0] * 2 - 1
    return F.grid_sample(maps, places[:, None], mode=mode, align_corners=False)[:, :, 0]


def _start(points: Tensor, images: Tensor, cameras: Cameras) -> dict[str, Tensor]:
    """Half opaque balls half as wide as the way to the next ones, in the median colour of their places in all views."""
    count, device = len(points), points.device
    neighbours = min(4, count)  # the first one is the point itself
    spacing = torch.cat([torch.cdist(part, points).topk(neighbours, largest=False).values[:, 1:].mean(1)
                         for part in points.split(2048)]) if count > 1 else points.new_full((1,), 0.1)
    color = _sample(images, points, cameras, "bilinear").median(dim=0).values.T
    return {"means": points.clone(), "opacities": torch.zeros(count, device=device),
            "scales": (0.5 * spacing).clamp_min(1e-4).log()[:, None].repeat(1, 3),
            "quaternions": torch.tensor([1.0, 0, 0, 0], device=device).repeat(count, 1),
            "colors": torch.logit(color.clamp(0.02, 0.98))}


def _activate(raw: dict[str, Tensor]) -> Gaussians:
    return Gaussians(raw["means"], torch.sigmoid(raw["opacities"]), raw["scales"].exp(),
                     F.normalize(raw["quaternions"], dim=-1), torch.sigmoid(raw["colors"]))


def _check(images: Tensor, alpha: Tensor, cameras: Cameras, **numbers: int) -> None:
    views, side = len(images), images.shape[-1]
    if images.shape != (views, 3, side, side) or alpha.shape != (views, 1, side, side) or cameras.shape != (views,):
        raise InputError(f"fitting takes images (V, 3, S, S), alpha (V, 1, S, S) and cameras (V,), got "
                         f"{tuple(images.shape)}, {tuple(alpha.shape)} and {tuple(cameras.shape)}")
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
