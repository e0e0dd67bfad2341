"""How long the recursion takes and what of it each part takes, for one object."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..cameras import evenly_spaced_orbit
from ..plans import Plan

if TYPE_CHECKING:
    from ..pipeline import Ouroboros3DPipeline


@dataclass
class Profile:
    """seconds: of the whole recursion. parts: seconds of each part, over all steps. peak: bytes on the GPU, None on a
    CPU."""

    steps: int
    seconds: float
    parts: dict[str, float]
    peak: int | None

    @property
    def shares(self) -> dict[str, float]:
        """Each part's share of the parts' sum."""
        total = sum(self.parts.values())
        return {name: value / total for name, value in self.parts.items()}


@torch.no_grad()
def profile_recursion(pipeline: Ouroboros3DPipeline, steps: int = 25, runs: int = 3) -> Profile:
    """Time the recursion with feedback, with the pipeline's own guidance, for one random picture.

    The median of `runs` after two steps that warm up; each part is timed by itself, at the sizes that it has there.
    """
    device, size, views = pipeline.device, pipeline.image_size, pipeline.num_views
    generator = torch.Generator(device).manual_seed(0)
    picture = torch.rand(1, 3, size, size, generator=generator, device=device)
    cameras = evenly_spaced_orbit(views, 10.0).to(device).expand(1)

    def whole(count=steps):
        return pipeline(picture, cameras=cameras, num_inference_steps=count, generator=generator, plan="paper")

    whole(min(2, steps))  # the second step is the first that sees feedback
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = median_seconds(whole, runs, device)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None

    paper = Plan()
    cond = pipeline.condition(picture, cameras, paper, pipeline.config.guidance_scale, generator)
    sigma = torch.ones(1)
    x_t = torch.randn(1, views, *cond.latents.shape[1:], generator=generator, device=device)
    pictures = picture[:, None].expand(1, views, 3, size, size).contiguous()
    gaussians = pipeline.reconstruct(pictures, cameras, sigma)
    self_cond = pipeline.render(gaussians, cameras).keep(paper.feedback)
    each_step = {
        "F": lambda: pipeline.estimate(x_t, sigma, cond, cameras, self_cond),
        "decoder": lambda: pipeline.decode(x_t),
        "G": lambda: pipeline.reconstruct(pictures, cameras, sigma),
        "splatting": lambda: pipeline.render(gaussians, cameras),
    }
    parts = {"condition": median_seconds(lambda: pipeline.encode_condition(picture, generator), runs, device)}
    parts |= {name: steps * median_seconds(part, runs, device) for name, part in each_step.items()}
    return Profile(steps, seconds, parts, peak)


def median_seconds(function: Callable[[], object], runs: int, device: torch.device) -> float:
    """Of so many calls, each until the GPU has done its work."""
    times = []
    for _ in range(runs):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
