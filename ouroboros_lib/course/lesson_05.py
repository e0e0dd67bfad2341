"""Exercises of 05: losses and weights of a training run, what several processes average, and Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..losses import denoising_loss
from ..noise import EDMNoise
from ..training.fast.averages import WeightAverages
from ..training.loop import learning_rate_factor
from .checking import Exercise, curve

STEPS, WARMUP, PEAK = 1000, 50, 6e-4  # of the run whose learning rate is drawn


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _estimates() -> list[tuple]:
    x, sigma = _random(4, 2, 1, 3, 3), torch.tensor([0.1, 0.5, 2.0, 20.0])
    return [(x + sigma.reshape(4, 1, 1, 1, 1) * _random(*x.shape, seed=1), x, sigma)]


def _rates(rate: Callable[[float], float] = lambda done: learning_rate_factor(done, WARMUP / STEPS), scale: float = PEAK
           ) -> Figure:
    figure = Figure()
    figure.subplots().plot([scale * rate(step / STEPS) for step in range(STEPS)])
    return figure


def _warmed(fall: Callable[[float], float]) -> Callable[[float], float]:
    return lambda done: min(1.0, done * STEPS / WARMUP) * fall(done)


def _at(answer: Any, step: float) -> float:
    """The learning rate at a step, in shares of the peak."""
    return float(np.interp(step, *curve(answer).T)) / PEAK


def _averaged(weights: Tensor, decay: float) -> Tensor:
    averages = WeightAverages([nn.Parameter(weights[0])], decay)
    for later in weights[1:]:
        averages.step([nn.Parameter(later)])
    return averages.shadow_params[0]


def _averaged_by_hand(weights: Tensor, decay: Callable[[int], float]) -> Tensor:
    average = weights[0]
    for update, later in enumerate(weights[1:]):
        average = decay(update) * average + (1 - decay(update)) * later
    return average


def _processes() -> list[tuple]:
    return [(_random(3), size * _random(processes, 3, seed=1), 0.1, 1.0)
            for processes, size in ((2, 4.0), (4, 3.0), (2, 0.1))]


def _clipped(gradient: Tensor, clip: float) -> Tensor:
    return gradient * (clip / gradient.norm(dim=-1, keepdim=True)).clamp(max=1.0)


class _Toys:
    """F, decoder, G and renderer of a few numbers each; `given`: how many examples each call of F was for."""

    def __init__(self):
        self.of_F, self.of_G = (torch.tensor(value, requires_grad=True) for value in (0.7, 1.3))
        self.given: list[int] = []

    def F(self, noisy_x: Tensor, sigma: Tensor, cond: Tensor, cameras: Tensor, self_cond: Tensor | float | None = None
          ) -> Tensor:
        self.given.append(len(noisy_x))
        maps = 0.0 if self_cond is None else self_cond
        known = cond[:, None] + cameras.reshape(*cameras.shape, 1, 1, 1)
        return noisy_x / (1 + sigma.reshape(-1, 1, 1, 1, 1) ** 2) + self.of_F * torch.tanh(known + maps)

    def decode(self, pred_x: Tensor) -> Tensor:
        return torch.sigmoid(pred_x)

    def G(self, views: Tensor, cameras: Tensor, sigma: Tensor) -> Tensor:
        return self.of_G * views / (1 + 0.1 * sigma.reshape(-1, 1, 1, 1, 1))

    def render(self, gaussians: Tensor, cameras: Tensor) -> Tensor:
        return gaussians * torch.cos(cameras).reshape(*cameras.shape, 1, 1, 1)

    def gradients(self, loss: Tensor) -> list[float]:
        weights = (self.of_F, self.of_G)
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
        return [float(value) if value is not None else 0.0 for value in found] or [0.0, 0.0]


class _Batch:
    """Four examples of two views, the first `again` of them for line 5."""

    def __init__(self, again: int):
        x, cameras = _random(4, 2, 3, 2, 2), torch.tensor([0.0, 0.8]).expand(4, 2)
        sigma, images = torch.tensor([3.0, 0.4, 1.0, 9.0]), _random(*x.shape, seed=1).sigmoid()
        self.given = x, images, cameras, x[:, 0], sigma, _random(*x.shape, seed=2), again

    def __str__(self) -> str:
        return f"a batch of 4 with again = {self.given[-1]}"


def _train(answer: Callable[..., Any], batch: _Batch) -> Any:
    """What Algorithm 1 does with toys: its losses, their gradients, and what F was called for."""
    toys = _Toys()
    with torch.enable_grad():
        losses = answer(toys.F, toys.decode, toys.G, toys.render, *batch.given)
        if not (isinstance(losses, (tuple, list)) and len(losses) == 2 and all(map(torch.is_tensor, losses))):
            return losses
        return {"how many examples each call of F is for": toys.given, "loss_mv": losses[0], "loss_recon": losses[1],
                "gradients of loss_mv in F and G": toys.gradients(losses[0]),
                "gradients of loss_recon in F and G": toys.gradients(losses[1])}


def _algorithm_1(*given: Any, slip: str = "") -> tuple[Tensor, Tensor]:
    """(loss_mv, loss_recon) with one of the mistakes of `SLIPS`, or none."""
    F, decode, G, render, x, images, cameras, cond, sigma, noise, again = given
    noisy_x = EDMNoise.add_noise(x, noise, sigma)                                             # line 1
    pred_x = first = F(noisy_x, sigma, cond, cameras)                                         # line 2
    views = decode(first if slip == "line 3 not detached" else first.detach())                # line 3
    renders = render(G(views, cameras, sigma), cameras)                                       # line 4
    self_cond = renders if slip == "maps not detached" else renders.detach()
    if slip != "no line 5":
        rows = slice(0, len(x) if slip == "line 5 for all" else again)
        start = first.detach() if slip == "starts from the estimate" else noisy_x
        second = F(start[rows], sigma[rows], cond[rows], cameras[rows], self_cond[rows])      # line 5
        pred_x = first if slip == "loss on the first" else torch.cat([second, first[rows.stop:]])
    if slip == "loss on the second":
        pred_x, x, sigma = second, x[rows], sigma[rows]
    loss_mv = (pred_x - x).square().mean() if slip == "no weight" else denoising_loss(pred_x, x, sigma)  # line 6
    return loss_mv, ((self_cond if slip == "loss on detached renders" else renders) - images).square().mean()


SLIPS = {
    "no line 5": "F is called once only. Line 5 calls it again for the first `again` examples, with the renders as "
                 "self_cond.",
    "line 5 for all": "line 5 is for the first `again` examples alone. F has to work without maps too: in the first "
                      "step of sampling there are none.",
    "maps not detached": "the maps are not detached: loss_mv has a gradient in G. In this library the renders are fed "
                         "back without gradient.",
    "line 3 not detached": "pred_x goes into the decoder with its gradient: loss_recon reaches F. In this library each "
                           "loss trains its own model: detach pred_x in line 3.",
    "loss on detached renders": "loss_recon has no gradient: G learns nothing. Detach the copy that is fed back, not "
                                "the renders that the loss compares.",
    "loss on the first": "F is called twice, but loss_mv is of the first estimates. Put the second ones in their place "
                         "for the first `again` examples.",
    "loss on the second": "loss_mv is of the first `again` examples alone. The others count as well, with their "
                          "first estimate.",
    "starts from the estimate": "the second call is given pred_x. Line 5 denoises the same noisy_x again; only the "
                                "maps are new.",
    "no weight": "loss_mv is not weighted: use denoising_loss, with lambda(sigma).",
}


EXERCISES = {
    "1": Exercise(
        examples=_estimates, solution=denoising_loss,
        mistakes=[
            (lambda pred_x, x, sigma: (pred_x - x).square().mean(),
             "this is the plain mean squared error: multiply each object's error by its lambda(sigma)."),
            (lambda pred_x, x, sigma: (
                (pred_x - x).square().mean(dim=(1, 2, 3, 4)) / EDMNoise.loss_weight(sigma)).mean(),
             "divided by lambda, not multiplied: c_out squared is its inverse."),
            (lambda pred_x, x, sigma: (
                (pred_x - x).square().mean(dim=(1, 2, 3, 4)) * EDMNoise.loss_weight(sigma)**2).mean(),
             "the weight is squared too: take the square of the error alone, then multiply."),
            (lambda pred_x, x, sigma: (pred_x - x).square().mean() * EDMNoise.loss_weight(sigma).mean(),
             "one mean weight for all objects: each object has its own noise level, and so its own weight."),
        ],
        says="At sigma 0.1 an error counts 101 times, at 20 hardly more than once. In F's raw output both "
             "are the same error."),
    "2": Exercise(
        solution=_rates,
        mistakes=[
            (lambda: _rates(scale=1.0),
             "the highest value is not 6e-4: multiply the factor by the peak."),
            (lambda: _rates(lambda done: 0.5 + 0.5 * np.cos(np.pi * done)),
             "it starts high. Warm-up: rise from about 0, along a line, in the first 50 steps."),
            (lambda: _rates(_warmed(lambda done: 1.0)),
             "it does not end near 0: after the warm-up a cosine leads down to 0."),
            (lambda: _rates(_warmed(lambda done: 1.0 - done)),
             "this falls along a line. A cosine falls slowly at first: 0.5 + 0.5 cos(pi * share of the run)."),
        ],
        properties=[
            (lambda answer: len(curve(answer)) >= 100, "too few points: draw a value for each of the 1000 steps."),
            (lambda answer: 950 <= np.ptp(curve(answer)[:, 0]) <= 1000 and abs(curve(answer)[0, 0]) <= 1,
             "the horizontal axis has to be the step, from 0 to 1000."),
            (lambda answer: abs(curve(answer)[:, 1].max() / PEAK - 1) < 0.06,
             "the highest value is not 6e-4: multiply the factor by the peak."),
            (lambda answer: _at(answer, 1) < 0.2 and 0.4 < _at(answer, 25) < 0.6 and _at(answer, 50) > 0.9,
             "it starts high. Warm-up: rise from about 0, along a line, in the first 50 steps."),
            (lambda answer: abs(_at(answer, 999)) < 0.02,
             "it does not end near 0: after the warm-up a cosine leads down to 0."),
            (lambda answer: (np.diff(curve(answer)[55:, 1]) <= 0).all() and (curve(answer)[:, 1] >= 0).all(),
             "after the warm-up it has to fall all the way, and never below 0."),
            (lambda answer: _at(answer, 287) > 0.78,
             "this falls along a line. A cosine falls slowly at first: 0.5 + 0.5 cos(pi * share of the run)."),
            (lambda answer: abs(_at(answer, 525) - 0.5) < 0.06, "half-way it should have fallen to about a half."),
        ],
        says="The rise protects AdamW, whose moments know nothing yet. The fall lets the weights settle: near the end "
             "steps are so small that noise of single batches averages out."),
    "3": Exercise(
        examples=lambda: [(_random(40, 3, seed=seed).cumsum(0), decay) for seed, decay in ((0, 0.5), (1, 0.9))],
        solution=_averaged,
        mistakes=[
            (lambda weights, decay: _averaged_by_hand(weights, lambda update: decay),
             "the decay does not rise: use min(decay, 1 - (1 + n)**-0.75) for update n = 0, 1, 2, ..."),
            (lambda weights, decay: _averaged_by_hand(weights, lambda n: 1 - min(decay, 1 - (1 + n)**-0.75)),
             "the shares are exchanged: the average keeps `decay` of itself, and takes the rest from the new weights."),
            (lambda weights, decay: _averaged_by_hand(weights, lambda n: min(decay, 1 - (2 + n)**-0.75)),
             "the first update is n = 0. It keeps nothing of the random start."),
            (lambda weights, decay: weights.mean(0), "the plain mean counts the first steps as much as the last ones."),
        ],
        says="A decay of 0.999 remembers about 1000 steps. Without the rise, a short run's average would still hold "
             "the random start."),
    "4": Exercise(
        examples=_processes,
        solution=lambda weights, gradients, rate, clip: weights - rate * _clipped(gradients.mean(0), clip),
        mistakes=[
            (lambda weights, gradients, rate, clip: weights - rate * gradients.mean(0),
             "the mean is not clipped: scale it down to the length `clip` where it is longer."),
            (lambda weights, gradients, rate, clip: weights - rate * _clipped(gradients, clip).mean(0),
             "clipped before the average. The processes exchange whole gradients; all clip the same mean."),
            (lambda weights, gradients, rate, clip: weights - rate * _clipped(gradients.sum(0), clip),
             "a sum: distributed data parallel takes the mean over the processes."),
            (lambda weights, gradients, rate, clip: weights - rate * _clipped(gradients[0], clip),
             "this is what process 0 would do alone. The copies of the model would drift apart."),
        ],
        says="All processes take the same step, so their weights stay equal and are never sent. The mean of "
             "more objects is less noisy; it does not make the step longer."),
    "5": Exercise(
        examples=lambda: [(through, detach) for through in (False, True) for detach in (False, True)],
        solution=lambda decoder_gradient, detach_feedback: (not detach_feedback, decoder_gradient),
        mistakes=[
            (lambda decoder_gradient, detach_feedback: (detach_feedback, decoder_gradient),
             "detach cuts: with detach_feedback=True nothing runs back through the maps."),
            (lambda decoder_gradient, detach_feedback: (decoder_gradient, not detach_feedback),
             "exchanged: loss_mv goes to G through the maps, loss_recon to F through the decoder."),
            (lambda decoder_gradient, detach_feedback: (True, decoder_gradient),
             "line 5 uses what G made, but detached maps are numbers to it: no gradient runs back."),
            (lambda decoder_gradient, detach_feedback: (not detach_feedback, True),
             "the path from loss_recon to F leads through the decoder, and is open with decoder_gradient alone."),
        ],
        says="(False, False) is this library, (True, False) the released code, (False, True) the paper's pseudo-code: "
             "compare the heat map."),
    "6": Exercise(
        examples=lambda: [(_Batch(2),), (_Batch(3),)], observe=_train, solution=_algorithm_1,
        mistakes=[
            *((partial(_algorithm_1, slip=slip), explanation) for slip, explanation in SLIPS.items()),
            (lambda *given: _algorithm_1(*given)[0], "return both losses, loss_mv and loss_recon."),
            (lambda *given: tuple(loss.item() for loss in _algorithm_1(*given)),
             "return the losses as tensors: numbers have no gradient, and nothing would be learned."),
        ],
        says="Algorithm 1, in losses and gradients. Joint training is this: each model learns on what the other makes "
             "now."),
}
