"""Exercises of 04: Algorithm 2 with small functions in the place of F and G, what a plan changes in it, and the CCM."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..algorithms import recursion
from ..cameras import orbit_cameras, to_canonical
from ..losses import psnr
from ..models.feedback import Renders
from ..noise import EDMNoise, c_in
from ..plans import Plan
from .checking import Exercise, curve, numbers
from .lesson_03 import _draw, pinhole

GREY = 0.5  # the true value of each of eight views
SIGMAS = EDMNoise(sigma_min=0.05, sigma_max=80.0).sigmas(25)
BALL = 0.5  # world units


def _targets() -> list[tuple]:
    pred_x, prior = _draw(2, 4)
    return [(pred_x, prior, sigma, above, share)
            for sigma, above, share in ((2.0, 0.3, 0.25), (0.1, 0.3, 0.25), (5.0, 1.0, 1.0), (0.5, 1.0, 1.0))]


def _target(pred_x: Tensor, prior: Tensor, sigma: float, above: float, share: float) -> Tensor:
    return Plan(project_above=above, project_share=share).target(pred_x, sigma, prior, None)


def _estimate(x_t: Tensor, sigma: Tensor, self_cond: dict[str, Tensor] | None) -> Tensor:
    """Stands for F: None is zero maps, and the noisier x_t is, the more the maps count."""
    maps = torch.zeros_like(x_t) if self_cond is None else 0.4 * self_cond["rgb"] + 0.2 * self_cond["ccm"]
    return torch.tanh(x_t / (1 + sigma) + maps)


def _reconstruct(views: Tensor, sigma: Tensor) -> Tensor:
    """Stands for G: the noisier the views, the more it takes their mean."""
    return views.mean() + (views - views.mean()) / (1 + sigma)


def _solver(x_t: Tensor, pred_x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    return EDMNoise().step(x_t, pred_x, sigma, sigma_next)


def _toys() -> list[tuple]:
    """F, decode, G, render, solver, noise and sigmas, for views that are one number each."""
    return [(_estimate, lambda latents: 0.5 + 0.4 * latents, _reconstruct,
             lambda gaussians: Renders(rgb=gaussians, ccm=gaussians**2), _solver, _draw(4), sigmas)
            for sigmas in (EDMNoise(sigma_min=0.1, sigma_max=8.0).sigmas(4), torch.tensor([3.0, 1.0, 0.0]))]


def _algorithm_2(F, decode, G, render, solver, noise: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """By the library, which is given the small functions as a pipeline."""
    pipe = SimpleNamespace(estimate=lambda x_t, sigma, cond, cameras, self_cond: F(x_t, sigma, self_cond),
                           decode=decode, reconstruct=lambda views, cameras, sigma: G(views, sigma),
                           render=lambda gaussians, cameras: render(gaussians),
                           scheduler=SimpleNamespace(step=lambda *line_6: solver(*line_6[:4])))
    nothing: Any = None  # no condition view and no cameras
    *_, last = recursion(pipe, nothing, nothing, sigmas, Plan(), lambda: noise)
    return last.views, last.gaussians


def _slip(slip: str):
    """Algorithm 2 with one line wrong."""
    def algorithm(F, decode, G, render, solver, noise, sigmas):
        x_t, self_cond = noise if slip == "level" else sigmas[0] * noise, None
        if slip == "first":
            self_cond = render(G(decode(x_t), sigmas[0]))
        for sigma, sigma_next in pairwise(sigmas):
            pred_x = F(x_t, sigma, None if slip == "forgets" else self_cond)
            views = decode(x_t if slip == "noisy" else pred_x)
            gaussians = G(views, sigma_next if slip == "next" else sigma)
            self_cond = render(gaussians)
            if slip == "same":
                pred_x = F(x_t, sigma, self_cond)
            x_t = solver(x_t, self_cond["rgb"] if slip == "render" else pred_x, sigma, sigma_next)
        return views, gaussians
    return algorithm


def _pixels(answer: Any) -> Tensor:
    """Eight numbers as pictures of one pixel, (8, 1, 1, 1)."""
    return torch.as_tensor(numbers(answer)).reshape(8, 1, 1, 1)


def _agreement(answer: Any) -> float:
    """With the mean of all views, in the place of what G makes of them."""
    views = _pixels(answer)
    return float(psnr(views, views.mean(dim=0, keepdim=True).expand(8, 1, 1, 1)).mean())


def _quality(answer: Any) -> float:
    return float(psnr(_pixels(answer), torch.full((8, 1, 1, 1), GREY)).mean())


def _eight(answer: Any) -> bool:
    values = numbers(answer)
    return values is not None and values.shape == (8,) and bool(((values >= 0) & (values <= 1)).all())


ONE_OBJECT = (
    (_eight, "expected eight numbers between 0 and 1."),
    (lambda answer: _quality(answer) <= 10,
     "these views are close to the truth. Move them away from it, to 10 dB or less."),
    (lambda answer: _agreement(answer) >= 40,
     "wrong enough, but these views disagree: their mean, which stands for the 3D, is like none of them."),
)


def _reach() -> Tensor:
    """By how much a target that is 1 further off moves the scaled x_next, at each step."""
    moved = torch.stack([EDMNoise().step(0.0, 1.0, *levels) for levels in pairwise(SIGMAS)])
    return moved * c_in(SIGMAS[1:])


def _over_levels(answer: Any) -> np.ndarray:
    """The points of the curve (N, 2), highest noise level first, whichever way they were drawn."""
    points = curve(answer)
    return points[np.argsort(-points[:, 0])]


RISING = (
    (lambda answer: len(_over_levels(answer)) == 25, "expected 25 points, one for each step."),
    (lambda answer: np.allclose(_over_levels(answer)[:, 0], SIGMAS[:-1], rtol=1e-3),
     "put the noise level of each step, before it is taken, on the horizontal axis."),
    (lambda answer: (np.diff(_over_levels(answer)[:, 1]) >= 0).all(),
     "the curve falls from step to step. sigma_next / sigma is what x_t keeps; the target gets the rest."),
    (lambda answer: _over_levels(answer)[0, 1] < 0.01,
     "too high at the first step. There x_next is nearly all noise: divide by its size, sqrt(1 + sigma_next**2)."),
    (lambda answer: abs(_over_levels(answer)[-1, 1] - 1) < 1e-3,
     "the last step lands on its target: the curve ends at 1. Divide by the size of x_next, not of x_t."),
    (lambda answer: np.allclose(_over_levels(answer)[:, 1], _reach(), atol=1e-2),
     "both ends are right, the way between them is not: it is (1 - sigma_next / sigma) / sqrt(1 + sigma_next**2)."),
)


def _line(heights: Tensor, across: Any = SIGMAS[:-1]) -> Axes:
    axis = Figure().subplots()
    axis.semilogx(across, heights)
    return axis


def _ball() -> list[tuple]:
    """The z-depth of a ball about the origin, 0 beside it, with the pose and the focal length of the camera."""
    cameras = orbit_cameras([45.0, 180.0], [20.0, 0.0])
    origins, directions = cameras.rays(16)
    middle = -(origins * directions).sum(-1)
    beside = origins.square().sum(-1) - middle**2  # squared distance of the ray from the origin
    distance = middle - (BALL**2 - beside).clamp_min(0).sqrt()
    forward = cameras.c2w[:, None, None, :3, 2]
    depth = distance * (directions * forward).sum(-1) * (beside < BALL**2)
    return [(one, c2w, float(k[0, 0])) for one, c2w, k in zip(depth, cameras.c2w, cameras.intrinsics, strict=True)]


def _coordinate_map(depth: Tensor, c2w: Tensor, focal: float) -> Tensor:
    return pinhole(c2w, focal).canonical_map(depth[None, None])[0]


def _other_map(half: float = 0.5, sides: bool = True, along_ray: bool = False, swapped: bool = False,
               to_world: bool = True, background: bool = True):
    def coordinate_map(depth: Tensor, c2w: Tensor, focal: float) -> Tensor:
        size = len(depth)
        places = (torch.arange(size) + half) / (size if sides else 1)
        v, u = torch.meshgrid(places, places, indexing="xy" if swapped else "ij")
        ray = torch.stack([(u - 0.5) / focal, (v - 0.5) / focal, torch.ones_like(u)])
        ray = F.normalize(ray, dim=0) if along_ray else ray
        rotation = c2w[:3, :3] if to_world else c2w[:3, :3].mT
        points = c2w[:3, 3, None, None] + depth * torch.einsum("ij,jhw->ihw", rotation, ray)
        return to_canonical(points) * ((depth > 0) if background else 1)
    return coordinate_map


EXERCISES = {
    "1": Exercise(
        examples=lambda: [(1.0, 4.0, 1.0), (0.5, 80.0, 60.0), (2.0, 0.3, 0.0)],
        solution=lambda delta, sigma, sigma_next: EDMNoise().step(0.0, delta, sigma, sigma_next),
        mistakes=[
            (lambda delta, sigma, sigma_next: delta,
             "a step lands on its target only if sigma_next is 0. Before that it goes a part of the way."),
            (lambda delta, sigma, sigma_next: delta * sigma_next / sigma,
             "sigma_next / sigma is the share that x_t keeps. The target gets the rest."),
            (lambda delta, sigma, sigma_next: delta * (sigma - sigma_next),
             "divide by sigma: the slope is (x_t - target) / sigma."),
        ],
        says="While sigma falls slowly, where a step goes hardly matters. In the last step it is all that matters."),
    "2": Exercise(
        examples=_targets, solution=_target,
        mistakes=[
            (lambda pred_x, prior, sigma, above, share: _target(pred_x, prior, sigma, above, 1 - share),
             "the share is counted from F's estimate: 0 stays with it, 1 is the render."),
            (lambda pred_x, prior, sigma, above, share: _target(pred_x, prior, above, sigma, share),
             "the other way round: while sigma is large the target is pulled, below `above` it is F's estimate."),
            (lambda pred_x, prior, sigma, above, share: _target(pred_x, prior, sigma, above, 1.0),
             "this always goes all the way to the render. Go by the share."),
            (lambda pred_x, prior, sigma, above, share: _target(pred_x, prior, 2 * above, above, share),
             "at low noise the render would cost F's details: below `above` the target is F's estimate."),
        ],
        says="`Plan.target` in one line. Share 1 is design (b), and a quarter is what `calm` takes. Share 0 is the "
             "paper's plan."),
    "3": Exercise(
        examples=_toys, solution=_algorithm_2,
        mistakes=[
            (_slip("forgets"),
             "F is given None in every step: these are the two stages of design (a). Set self_cond to None once, "
             "before the loop, and hand it to F."),
            (_slip("same"),
             "F is asked again with the renders of the same step. They wait for the F of the next step."),
            (_slip("render"),
             "the solver goes to the render: this is design (b). In Algorithm 2 it goes to F's estimate, pred_x."),
            (_slip("first"),
             "in the first step there is no reconstruction yet: self_cond is None, which F reads as zero maps."),
            (_slip("noisy"), "decode F's estimate pred_x, not the noisy x_t: G is made for clean views."),
            (_slip("next"), "tell G the noise level of this step, sigma: that is what its views were made from."),
            (_slip("level"), "x_t starts at the highest noise level: sigmas[0] times noise of unit variance."),
        ],
        says="Algorithm 2. The library's `recursion`, given the same small functions, ends in the same views and "
             "Gaussians."),
    "4": Exercise(
        solution=lambda: torch.ones(8),
        mistakes=[
            (lambda: torch.full((8,), 2.0), ONE_OBJECT[0][1]),
            (lambda: torch.ones(1), ONE_OBJECT[0][1]),
            (lambda: torch.full((8,), GREY), ONE_OBJECT[1][1]),
            (lambda: torch.tensor([0.0, 1.0] * 4), ONE_OBJECT[2][1]),
        ],
        properties=ONE_OBJECT,
        says="Eight views of one object, and not of this one. Self-consistency never asks for the truth, so read it "
             "beside quality."),
    "5": Exercise(
        solution=lambda: _line(_reach()),
        mistakes=[
            (lambda: _line(_reach()[:-1], SIGMAS[:-2]), RISING[0][1]),
            (lambda: _line(_reach(), range(25)), RISING[1][1]),
            (lambda: _line(SIGMAS[1:] / SIGMAS[:-1]), RISING[2][1]),
            (lambda: _line(1 - SIGMAS[1:] / SIGMAS[:-1]), RISING[3][1]),
            (lambda: _line((1 - SIGMAS[1:] / SIGMAS[:-1]) * c_in(SIGMAS[:-1])), RISING[4][1]),
        ],
        properties=RISING,
        says="At much noise a step hardly feels where it goes. This is why design (b) starts to differ from (a) so "
             "late. What F is given works at every level."),
    "6": Exercise(
        examples=_ball, solution=_coordinate_map,
        mistakes=[
            (_other_map(background=False), "the background has to be 0: multiply by depth > 0 at the end."),
            (_other_map(half=0.0),
             "this takes the corners of the pixels. Their centres lie half a pixel further: (j + 0.5) / S."),
            (_other_map(half=0.0, sides=False),
             "pixel indices, but the focal length is in image sides: divide by S. The released code slips here."),
            (_other_map(along_ray=True), "depth is measured along the camera's axis, so leave the ray's z at 1."),
            (_other_map(swapped=True), "rows and columns are exchanged: u goes with the column j, v with the row i."),
            (_other_map(to_world=False), "c2w turns the camera's axes into the world's: no transpose."),
        ],
        says="The CCM, derived: pixel, ray, place in the world, colour. Both cameras paint a point of this ball in the "
             "same colour, if both see it."),
}
