"""Exercises of 02: where cameras stand, their rays, views that agree, attention over all of them, and guidance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checking import Exercise
from .lesson_01 import _ideal, _numbers

COINS = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)


def _camera(azimuth: float, elevation: float, radius: float) -> Tensor:
    a, e = math.radians(azimuth), math.radians(elevation)
    return radius * torch.tensor([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])


def _rays() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(2, 5, 3, generator=generator, dtype=torch.float64))]


def _pluecker(origin: Tensor, direction: Tensor) -> Tensor:
    unit = direction / direction.norm(dim=-1, keepdim=True)
    return torch.cat([torch.linalg.cross(origin, unit), unit], dim=-1)


def _pairs_of_rays() -> list[tuple]:
    """Lines as moment and direction; of the two pairs one turns to the left and one to the right."""
    first, second, third = (_pluecker(*torch.randn(2, 3, generator=torch.Generator().manual_seed(seed),
                                                   dtype=torch.float64)) for seed in range(3))
    return [(first, second), (first, third), (second, third)]


def _crossing(first: Tensor, second: Tensor) -> Tensor:
    return first[3:] @ second[:3] + second[3:] @ first[:3]


def _sine(first: Tensor, second: Tensor) -> Tensor:
    return torch.linalg.cross(first[3:], second[3:]).norm()


def _views_of_coins() -> list[tuple]:
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [(x, sigma, same) for sigma in (0.6, 1.5) for same in (0.9, 0.6)]


def _coins(x: Tensor, sigma: float, same: float) -> Tensor:
    prior = torch.tensor([same, same, 1 - same, 1 - same], dtype=torch.float64) / 2
    return (prior.log() - torch.cdist(x, COINS).square() / (2 * sigma**2)).softmax(dim=1) @ COINS


def _tokens() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(3, 2, 5, 4, generator=generator, dtype=torch.float64))]


def _attend(q: Tensor, k: Tensor, v: Tensor, scaled: bool = True, over: int = -1) -> Tensor:
    """Each pixel attends to all; q, k, v (V, N, C)."""
    scores = q.flatten(0, 1) @ k.flatten(0, 1).mT / (math.sqrt(q.shape[-1]) if scaled else 1)
    return (scores.softmax(dim=over) @ v.flatten(0, 1)).view_as(v)


def _in_each_view(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


EXERCISES = {
    "1": Exercise(
        examples=lambda: [(90.0, 20.0, 1.742), (45.0, -5.0, 2.0), (315.0, 30.0, 1.5)], solution=_camera,
        mistakes=[
            (lambda a, e, r: _camera(math.degrees(a), math.degrees(e), r),
             "the angles are degrees; `math.sin` wants radians."),
            (lambda a, e, r: _camera(90 - a, e, r),
             "at azimuth 0 the camera stands on the z axis, and it moves towards +x from there."),
            (lambda a, e, r: _camera(a, e, r)[[0, 2, 1]], "y is up: the elevation belongs into the second number."),
            (lambda a, e, r: _camera(a, 0.0, r) + _camera(0.0, e, r) * torch.tensor([0.0, 1.0, 0.0]),
             "the higher it stands, the nearer to the axis: the other two numbers shrink by the elevation's cosine."),
        ],
        says="A point of a sphere. Eight of them, 45 degrees apart at one elevation, are the rig of the course."),
    "2": Exercise(
        examples=_rays, solution=_pluecker,
        mistakes=[
            (lambda o, d: torch.cat([torch.linalg.cross(o, d), d], dim=-1),
             "make the direction one unit long first, or one ray has many coordinates."),
            (lambda o, d: torch.cat([-_pluecker(o, d)[..., :3], _pluecker(o, d)[..., 3:]], dim=-1),
             "the moment is o x d, not d x o: the cross product changes its sign with the order."),
            (lambda o, d: torch.cat([o, _pluecker(o, d)[..., 3:]], dim=-1),
             "a point and a direction: but every point of a ray gives other numbers then. The moment is the same for "
             "all of them."),
        ],
        says="Add any multiple of d to o: the moment stays. So the coordinates name a ray, whoever looks along it."),
    "3": Exercise(
        examples=_pairs_of_rays, solution=lambda first, second: _crossing(first, second).abs() / _sine(first, second),
        mistakes=[
            (lambda first, second: _crossing(first, second) / _sine(first, second),
             "a distance is never below 0. The sign says on which side the second ray passes."),
            (lambda first, second: _crossing(first, second).abs(),
             "this is 0 for rays that meet, but no distance yet: divide by the sine of the angle between them, "
             "|d1 x d2|."),
            (lambda first, second: (first[:3] @ second[:3] + first[3:] @ second[3:]).abs() / _sine(first, second),
             "the moment of one goes with the direction of the other."),
        ],
        says="0 where two pixels can see one and the same point. It is a dot product of their coordinates, which a "
             "network's first layers can compute."),
    "4": Exercise(
        examples=_views_of_coins, solution=_coins,
        mistakes=[
            (lambda x, sigma, same: torch.tanh(x / sigma**2),
             "each view is guessed by itself: what the other shows is not used."),
            (lambda x, sigma, same: torch.tanh(x.sum(1, keepdim=True) / sigma**2).expand(-1, 2),
             "this is for views that always agree. Now a pair of different sides has a probability, too."),
            (lambda x, sigma, same: _coins(x, sigma, 1 - same),
             "`same` is the probability that both show the same side; it is exchanged with that of different sides."),
        ],
        says="With same = 1/2 each view stands alone, with 1 they are one coin. What a joint denoiser knows more than "
             "two single ones is how views hang together."),
    "5": Exercise(
        examples=_tokens, solution=_attend,
        mistakes=[
            (_in_each_view, "each pixel attends to its own view alone. Put all views into one sequence first."),
            (lambda q, k, v: _attend(q, k, v, scaled=False),
             "divide the scores by the root of the number of channels, or large ones take everything."),
            (lambda q, k, v: _attend(q, k, v, over=0),
             "for each pixel that asks, the weights of those that answer add up to 1: softmax over the last axis."),
        ],
        says="One long sequence of all pixels of all views. Nothing else in F lets views see each other."),
    "6": Exercise(
        examples=lambda: [(_ideal(_numbers(), 1.0, 0.9), _ideal(_numbers(), 1.0), scale) for scale in (1.0, 3.0)],
        solution=lambda conditional, unconditional, scale: unconditional + scale * (conditional - unconditional),
        mistakes=[
            (lambda conditional, unconditional, scale: conditional + scale * (conditional - unconditional),
             "this is guidance of scale + 1: scale 1 has to give back the conditional estimate."),
            (lambda conditional, unconditional, scale: conditional + scale * (unconditional - conditional),
             "it pushes away from the condition, not towards it."),
        ],
        says="Classifier-free guidance. Scale 1 changes nothing, 0 forgets the condition, more than 1 exaggerates it."),
}
