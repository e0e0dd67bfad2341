"""The camera's elevation, estimated: the candidate whose splat agrees best with the input and with F's other views.

F and G are told the elevation. Told a wrong one, F draws views of an object that leans, and G finds no splat that all
of them show: the splat misses the input at view 0, and F's views at the others, by more. So a few short runs, side by
side, tell candidates apart. Nothing is trained for this. tools/elevation.py measures how far it is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..pipeline import Ouroboros3DPipeline
from .metrics import psnr

CANDIDATES = tuple(range(-5, 31, 5))  # degrees, the range of training
STEPS, PLAN = 3, "two-stage"  # of a run that is only to tell candidates apart


@dataclass(frozen=True)
class Elevation:
    """degrees: the estimate. scores: of each candidate in dB, the PSNR of the splat against the input at view 0, and
    against F's views, on average over the others; the mean of the two."""

    degrees: float
    candidates: tuple[float, ...]
    scores: tuple[float, ...]


def estimate_elevation(pipe: Ouroboros3DPipeline, image: Tensor, candidates: Sequence[float] = CANDIDATES,
                       steps: int = STEPS, seed: int = 0) -> Elevation:
    """Of a condition view (3, S, S) in [0, 1], framed as the pipeline takes it. candidates: evenly spaced, rising.

    All candidates start from the same noise and are one batch. Raises InputError.
    """
    if len(candidates) < 3 or any(low >= high for low, high in zip(candidates, candidates[1:], strict=False)):
        raise InputError("elevations to choose from: expected three or more, rising")
    generators = [torch.Generator().manual_seed(seed) for _ in candidates]
    output = pipe(image.expand(len(candidates), -1, -1, -1).contiguous(), elevation=torch.tensor(candidates).float(),
                  num_inference_steps=steps, plan=PLAN, generator=generators)
    renders, views = output.renders.rgb.clamp(0, 1), output.views
    scores = ((psnr(renders[:, 0], image.to(renders)) + psnr(renders[:, 1:], views[:, 1:]).mean(1)) / 2).tolist()
    return Elevation(peak(candidates, scores), tuple(map(float, candidates)), tuple(scores))


def peak(places: Sequence[float], values: Sequence[float]) -> float:
    """Where the parabola through the largest of evenly spaced values and its neighbours has its top; the place itself
    at either end."""
    best = max(range(len(values)), key=lambda index: values[index])
    if best in (0, len(values) - 1):
        return float(places[best])
    before, top, after = values[best - 1:best + 2]
    bend = before - 2 * top + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(places[best] + shift * (places[best + 1] - places[best]))
