"""Two runs of three steps as the pipeline returns them, of a splat that grows: quick to make, each step its own."""

from types import SimpleNamespace

import torch
from torch.nn.functional import interpolate, normalize

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.models.feedback import render_feedback
from ouroboros_lib.pipeline import TraceStep

SIZE, VIEWS, STEPS = 64, 4, 3


def explorer_runs() -> dict[str, SimpleNamespace]:
    """Run "a" in colours by direction, "b" in others: the fields of `Ouroboros3DOutput` that the explorer reads."""
    cameras = evenly_spaced_orbit(VIEWS, torch.tensor([10.0]))
    return {name: SimpleNamespace(trace=[_step(step, shade, cameras) for step in range(STEPS)], cameras=cameras)
            for name, shade in (("a", 1.0), ("b", 0.5))}


def _step(step: int, shade: float, cameras) -> TraceStep:
    generator = torch.Generator().manual_seed(0)
    normals = normalize(torch.randn(1200, 3, generator=generator), dim=-1)
    colors = shade * torch.where(normals[:, 2:] > 0.8, torch.tensor([0.9, 0.1, 0.1]), 0.5 + 0.4 * normals)
    quaternions = normalize(torch.randn(1200, 4, generator=generator), dim=-1)
    size = 0.6 + 0.2 * step
    splat = Gaussians(size * normals * torch.tensor([0.45, 0.3, 0.4]), torch.full((1200,), 0.9),
                      torch.tensor([0.04, 0.03, 0.02]).expand(1200, 3), quaternions, colors.roll(step, -1))
    splat = splat.map(lambda values: values[None])
    renders = render_feedback(splat, cameras, SIZE)
    darker = 1 - 0.05 * torch.arange(VIEWS).view(VIEWS, 1, 1, 1)
    noisy = interpolate(torch.rand(VIEWS, 3, 5, 5, generator=generator), SIZE, mode="bilinear")[None]
    rgb = renders.rgb.clamp(0, 1)
    return TraceStep(step, 8.0 / (step + 1), noisy, darker * rgb, rgb, renders.ccm, splat)
