"""Exercises of 00: what the parts of the recursion are, and two numbers that are measured throughout the course."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..losses import psnr
from ..plans import PLANS, Plan
from .checking import Exercise, numbers

PARTS = ("F", "decoder", "G", "render", "solver")  # in the order of one round
NEEDS = {  # what a part takes, of which part
    "decoder": ("F", "the decoder turns latents into pictures, and it is F that gives them"),
    "G": ("decoder", "G takes pictures, and it is the decoder that gives them"),
    "render": ("G", "what is rendered is a splat, and it is G that makes it"),
    "solver": ("F", "the solver goes towards F's estimate, so F comes first"),
}
VIEWS, SIDE, CHANNELS, BLOCK, GAUSSIANS = 8, 128, 8, 8, 32768  # of the preset small


def _picture_pairs() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(VIEWS, 3, 16, 16, generator=generator)
    spread = torch.linspace(0.02, 0.3, VIEWS)[:, None, None, None]  # each view is wrong by another amount
    return [((truth + spread * torch.randn(truth.shape, generator=generator)).clamp(0, 1), truth)]


def _one_picture() -> list[tuple]:
    (prediction, truth), = _picture_pairs()
    return [(prediction[view], truth[view]) for view in (0, VIEWS - 1)]


def _decibel(prediction: Tensor, truth: Tensor) -> Tensor:
    return psnr(prediction, truth)


def _counts(steps: int, every: int) -> tuple[int, int]:
    plan = Plan(every=every)
    return steps, sum(plan.reconstructs(t, [1.0] * (steps + 1)) for t in range(steps))


def _sizes(views: int = VIEWS, colours: int = 3, numbers: int = 14) -> dict[str, int]:
    return {"latents": views * CHANNELS * (SIDE // BLOCK)**2, "pictures": views * colours * SIDE**2,
            "splat": GAUSSIANS * numbers}


def _about_order(found: Any) -> str:
    """Why this is no order in which the parts can be used."""
    if not isinstance(found, (list, tuple)):
        return "expected a list of five names."
    parts = {part.lower(): part for part in PARTS}
    given = [str(part).strip().lower() for part in found]
    if strange := [part for part, name in zip(found, given, strict=True) if name not in parts]:
        return f"{strange[0]} is none of the five parts: {', '.join(PARTS)}."
    if missing := [part for name, part in parts.items() if name not in given]:
        return f"each of the five parts is used once; missing: {', '.join(missing)}."
    if len(given) > len(PARTS):
        return "each of the five parts is used once, and here one comes twice."
    order = [parts[name] for name in given]
    for part in order:
        needed, why = NEEDS.get(part, ("", ""))
        if needed and order.index(needed) > order.index(part):
            return f"{why}."
    return "the solver makes the noisy latents of the next step, so it ends the round."


def _about_sizes(found: Any) -> str | None:
    """Which size is wrong, and by what factor."""
    expected = _sizes()
    if not isinstance(found, Mapping) or found.keys() != expected.keys():
        return f"expected a dict with these keys: {', '.join(expected)}."
    factors = {"latents": "views, channels, rows and columns of latents", "splat": "Gaussians and numbers of each",
               "pictures": "views, colours, rows and columns of pixels"}
    for name, right in expected.items():
        number = numbers(found[name])
        if number is None or number.shape or not np.isfinite(number) or number <= 0:
            return f"{name}: expected a whole number above 0."
        if (share := float(number) / right) != 1:
            wrong = (f"{share:.3g} times too many numbers" if share > 1.01 else f"{1 / share:.3g} times too few numbers"
                     if share < 0.99 else "nearly right, but no number is left out or rounded here")
            return f"{name}: {wrong}. Multiply {factors[name]}."
    return None


EXERCISES = {
    "1": Exercise(
        solution=lambda: list(PARTS), explain=_about_order,
        mistakes=[(lambda order=order: order, _about_order(order)) for order in (
            ["F", "G", "decoder", "render", "solver"], ["F", "decoder", "render", "G", "solver"],
            ["solver", "F", "decoder", "G", "render"])],
        says="One round of Algorithm 2, lines 3 to 6. The renders wait for the F of the next round."),
    "2": Exercise(
        examples=_one_picture, solution=_decibel,
        mistakes=[
            (lambda a, b: 10 * torch.log10((a - b).square().mean()),
             "the sign: a smaller error has to give more decibels."),
            (lambda a, b: -10 * torch.log((a - b).square().mean()),
             "decibels are counted with the logarithm to the base 10; torch.log is the natural one."),
            (lambda a, b: -20 * torch.log10((a - b).abs().mean()),
             "the error is squared before its mean is taken: one pixel that is far off counts more than ten that are a "
             "little off."),
        ],
        says="PSNR: ten times less squared error is 10 dB more. At 20 dB the typical error is a tenth of the range, at "
             "40 dB a hundredth."),
    "3": Exercise(
        examples=_picture_pairs, solution=lambda views, renders: psnr(views, renders).mean(),
        mistakes=[
            (lambda views, renders: -10 * torch.log10((views - renders).square().mean()),
             "this is the PSNR of all pixels of all views at once, which one bad view decides. Take each view's PSNR, "
             "then the mean."),
            (lambda views, renders: psnr(views[1:], renders[1:]).mean(),
             "view 0 belongs to it as well: its render is as much a part of the reconstruction. (It is left out where "
             "views are compared with the truth, which it is given.)"),
        ],
        says="Self-consistency: how well eight views are views of one object. The truth is not asked, so a blurred "
             "grey ball can score high."),
    "4": Exercise(
        examples=lambda: [(view, views) for views in (8, 4) for view in range(views)],
        solution=lambda view, views: 360.0 * view / views,
        mistakes=[
            (lambda view, views: 360.0 * view / (views - 1),
             "eight views have eight gaps between them, since the last one is followed by view 0 again."),
            (lambda view, views: 360.0 * (view + 1) / views,
             "view 0 is the input, and the input stands at azimuth 0."),
        ],
        says="45 degrees apart: view 4 looks at the back, of which the input shows nothing."),
    "5": Exercise(
        examples=lambda: [(25, 1), (25, 5), (12, 5), (10, 20)], solution=_counts,
        mistakes=[
            (lambda steps, every: (steps, math.ceil(steps / every)),
             "in the last step G is always called: its reconstruction is the result."),
            (lambda steps, every: (steps, steps // every + 1),
             "step 0 counts, and the last step only once: try 25 steps with every = 1."),
            (lambda steps, every: (steps, steps), "with every = 5 the renders of one step are used five times."),
        ],
        says=f"`calm` reconstructs in 6 of 25 steps (every = {PLANS['calm'].every}), the paper's plan in all 25: that "
             "is what makes `calm` quick."),
    "6": Exercise(
        solution=_sizes, explain=_about_sizes,
        mistakes=[
            (lambda: _sizes(views=1), "that is one view; F works on all eight at once."),
            (lambda: _sizes(colours=1), "a picture has three numbers for each pixel: red, green and blue."),
            (lambda: _sizes(numbers=3),
             "a Gaussian has more than a place: opacity, three scales, a rotation of four numbers, a colour."),
        ],
        says="24 times fewer numbers than the pictures have: that is why the diffusion works on latents. The splat has "
             "more, most of them in Gaussians that nobody sees."),
}
