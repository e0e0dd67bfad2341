"""Exercises of 01: the score of a number, schedule and solver, and what a network's answer says of the clean one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..noise import EDMNoise
from .checking import Exercise

MODE, SPREAD = 0.97, math.sqrt(1 - 0.97**2)  # of the notebook's two modes


def _ideal(x: Tensor, sigma: float, right: float = 0.5) -> Tensor:
    """The posterior mean of two modes, of which the right one has this probability."""
    v = SPREAD**2 + sigma**2
    share = torch.sigmoid(2 * MODE * x / v + math.log(right / (1 - right)))
    return (SPREAD**2 * x + sigma**2 * MODE * (2 * share - 1)) / v


def _numbers() -> Tensor:
    return torch.linspace(-3, 3, 7, dtype=torch.float64)


def _estimates() -> list[tuple]:
    return [(_numbers(), _ideal(_numbers(), sigma), sigma) for sigma in (0.5, 4.0)]


def _steps() -> list[tuple]:
    return [(_numbers() * sigma, sigma, sigma_next, _ideal) for sigma, sigma_next in ((4.0, 2.0), (1.0, 0.4))]


def _schedule(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    return EDMNoise(sigma_min=sigma_min, sigma_max=sigma_max, rho=rho).sigmas(steps)


def _euler(x: Tensor, sigma: float, sigma_next: float, denoiser: Callable) -> Tensor:
    return x + (sigma_next - sigma) * (x - denoiser(x, sigma)) / sigma


def _heun(x: Tensor, sigma: float, sigma_next: float, denoiser: Callable, level: int = 1, mean: float = 0.5) -> Tensor:
    slope = (x - denoiser(x, sigma)) / sigma
    there = x + (sigma_next - sigma) * slope
    at = (sigma, sigma_next)[level]
    return x + (sigma_next - sigma) * ((1 - mean) * slope + mean * (there - denoiser(there, at)) / at)


def _preconditioning(sigma: float, sigma_data: float) -> tuple[float, float, float]:
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / math.sqrt(total), 1 / math.sqrt(total)


def _answers() -> list[tuple]:
    return [(_numbers(), _numbers().cos(), sigma) for sigma in (0.3, 2.0)]


def _clean(noisy: Tensor, v: Tensor, sigma: float, sign: int = -1) -> Tensor:
    return (noisy + sign * sigma * math.sqrt(1 + sigma**2) * v) / (1 + sigma**2)


EXERCISES = {
    "1": Exercise(
        examples=_estimates, solution=lambda x, estimate, sigma: (estimate - x) / sigma**2,
        mistakes=[
            (lambda x, estimate, sigma: (x - estimate) / sigma**2,
             "the sign: the score points to where numbers are more likely, towards the estimate."),
            (lambda x, estimate, sigma: (estimate - x) / sigma,
             "divided by sigma this is the direction of the noise; the score has sigma squared."),
        ],
        says="Tweedie's formula. A network that denoises knows the score, though it was never told of it."),
    "2": Exercise(
        examples=lambda: [(3, 1.0, 9.0, 2.0), (25, 0.05, 80.0, 7.0)], solution=_schedule,
        mistakes=[
            (lambda *given: _schedule(*given)[:-1],
             "the last level is 0: `steps` steps go between `steps + 1` levels."),
            (lambda *given: _schedule(*given)[:-1].flip(0), "the levels fall, from sigma_max on, and end at 0."),
            (lambda steps, low, high, rho: _schedule(steps, low, high, 1.0),
             "these levels are evenly spaced; the formula spaces their rho-th roots evenly."),
        ],
        says="Karras et al., equation 5. With rho = 7 half of 25 levels from 80 to 0.05 lie below 4; spaced evenly, "
             "two would."),
    "3": Exercise(
        examples=_steps, solution=_heun,
        mistakes=[
            (_euler, "this is the Euler step. Heun estimates once more where that step ended."),
            (lambda *given: _heun(*given, mean=1.0),
             "this takes the second slope alone; Heun takes the mean of both."),
            (lambda *given: _heun(*given, level=0),
             "the second estimate is made at the new level: denoiser(there, sigma_next), and divided by sigma_next."),
        ],
        says="Two estimates a step, whose error is of the third order in its length, not the second. Whether that "
             "pays is a question below, under Go further."),
    "4": Exercise(
        examples=lambda: [(0.5, 1.0), (2.0, 0.5), (80.0, 0.5)], solution=_preconditioning,
        mistakes=[
            (lambda sigma, sigma_data: _preconditioning(sigma, 1.0),
             "this is for data of unit variance. Write sigma_data**2 wherever the variance of x_0 stood."),
            (lambda sigma, sigma_data: (lambda a, b, c: (a, -b, c))(*_preconditioning(sigma, sigma_data)),
             "right but for the sign of c_out: minus is what Stable Video Diffusion takes. Give the positive one."),
            (lambda sigma, sigma_data: (lambda a, b, c: (a, b**2, c**2))(*_preconditioning(sigma, sigma_data)),
             "c_out and c_in are square roots: they scale numbers, not variances."),
        ],
        says="Equation 7 for any data. Karras et al. use sigma_data = 0.5, for pictures in [-1, 1]. Our latents have "
             "1."),
    "5": Exercise(
        examples=_answers, solution=_clean,
        mistakes=[
            (lambda noisy, v, sigma: _clean(noisy, v, sigma, 1),
             "the sign of v: at little noise it is the noise, and noise is taken off."),
            (lambda noisy, v, sigma: noisy - sigma * v,
             "this takes v for the noise n. At much noise v says minus the clean number."),
            (lambda noisy, v, sigma: (noisy - sigma * v) / (1 + sigma**2),
             "v is divided by a root: multiply it by sqrt(1 + sigma**2) again."),
        ],
        says="c_skip times the noisy number plus c_out times v. At little noise v is the noise, at much noise the "
             "clean number, negated: so a network's answer is of size 1 at every level."),
    "6": Exercise(
        examples=lambda: [(_numbers(), sigma, right) for sigma in (0.4, 2.0) for right in (0.2, 0.5, 0.9)],
        solution=_ideal,
        mistakes=[
            (lambda x, sigma, right: _ideal(x, sigma),
             "this is the estimate for two equal modes: `right` is not used. Seen nothing but noise, the best guess is "
             "the mean of the data, which is not 0 any more."),
            (lambda x, sigma, right: _ideal(x, sigma, 1 - right),
             "the two modes are exchanged: `right` is that of +m."),
        ],
        says="The prior moves the bend, and the more noise, the more. An image model does the same: what it has seen "
             "often is what it guesses."),
}
