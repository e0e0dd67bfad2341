"""The camera's elevation, estimated: candidates count by how well their splat agrees with the input and F's views.

F and G are told the elevation. Told a wrong one, F draws views of an object that leans, and G finds no splat that all
of them show: the splat misses the input at view 0, and F's views at the others, by more. So a few short runs, side by
side, tell candidates apart. Where they hardly do, the estimate stays near the middle. Nothing is trained for this.
tools/elevation.py measures how far it is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..pipeline import Ouroboros3DPipeline
from .metrics import psnr

CANDIDATES = tuple(range(-5, 31, 5))  # degrees, the range of training
STEPS, PLAN = 3, "two-stage"  # of a run that is only to tell candidates apart
SURE = 1.0  # dB: a candidate that is better by so much counts e times as much


@dataclass(frozen=True)
class Elevation:
    """degrees: the estimate. scores: of each candidate in dB, the PSNR of the splat against the input at view 0, and
    against F's views, on average over the others; the mean of the two."""

    degrees: float
    candidates: tuple[float, ...]
    scores: tuple[float, ...]


def estimate_elevation(pipe: Ouroboros3DPipeline, image: Tensor, candidates: Sequence[float] = CANDIDATES,
                       steps: int = STEPS, seed: int = 0) -> Elevation:
    """Of a condition view (3, S, S) in [0, 1], framed as the pipeline takes it.

    All candidates, in degrees, start from the same noise and are one batch. Raises InputError as the pipeline does.
    """
    generators = [torch.Generator().manual_seed(seed) for _ in candidates]
    output = pipe(image.expand(len(candidates), -1, -1, -1).contiguous(), elevation=torch.tensor(candidates).float(),
                  num_inference_steps=steps, plan=PLAN, generator=generators)
    renders, views = output.renders.rgb.clamp(0, 1), output.views
    scores = ((psnr(renders[:, 0], image.to(renders)) + psnr(renders[:, 1:], views[:, 1:]).mean(1)) / 2).tolist()
    return Elevation(expected(candidates, scores), tuple(map(float, candidates)), tuple(scores))


def expected(candidates: Sequence[float], scores: Sequence[float]) -> float:
    """The mean of candidates, each weighted by exp(score / SURE)."""
    weights = torch.softmax(torch.tensor(scores).double() / SURE, 0)
    return float(weights @ torch.tensor(candidates).double())
