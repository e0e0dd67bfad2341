"""Turning and scaling a method's output until it fits the truth best, for methods whose input view was cropped.

The protocol's primary views decide, so that an aligned figure is an upper bound; the row's method says so.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from ..data.folders import MultiviewObject
from .pictures import resized, zoomed
from .shapes import Shape

SIZE, VIEWS = 64, 4  # pixels and number of views that are compared
AZIMUTHS = [15.0 * i for i in range(-11, 13)]  # the coarse grid, degrees
SCALES = [0.7 * (1.4 / 0.7) ** (i / 8) for i in range(9)]  # and factors
ROUNDS = 5  # each with half the step of the one before; the last: 0.5 degrees, 0.3 %


def align_shape(shape: Shape, truth: MultiviewObject, views: tuple[int, ...], align: str) -> tuple[float, float]:
    """(azimuth in degrees, scale) under which a splat or mesh fits the truth best.

    Smallest mean squared error of colour on white and alpha over at most 4 of `views`, at 64 pixels; a coarse grid of
    24 azimuths and 9 scales from 0.7 to 1.4, refined five times around the best. What is found must also be better than
    (0, 1) at the truth's own size, else the shape stays as it is.
    """
    chosen = _spread(views)
    cameras = truth.cameras.views(chosen)
    target = torch.cat([truth.images[chosen], truth.alpha[chosen]], 1)

    def error(azimuth: float, scale: float, size: int = SIZE) -> float:
        rgb, alpha, _ = shape.turned(azimuth, scale).seen(cameras, size)
        return float((torch.cat([rgb, alpha], 1) - resized(target, size)).square().mean())

    return _search(error, align, target.shape[-1])


def align_pictures(pictures: dict[int, Tensor], truth: MultiviewObject, views: tuple[int, ...]) -> float:
    """The factor by which pictures must be enlarged about their centres to fit the truth best; see `align_shape`."""
    chosen = _spread([view for view in views if view in pictures])
    target, mine = truth.images[chosen], torch.stack([pictures[view] for view in chosen])

    def error(_: float, scale: float, size: int = SIZE) -> float:
        return float((zoomed(resized(mine, size), scale) - resized(target, size)).square().mean())

    return _search(error, "scale", target.shape[-1])[1]


def _spread(views: Sequence[int]) -> list[int]:
    return list(views[:: -(-len(views) // VIEWS)])


def _search(error: Callable[..., float], align: str, full_size: int) -> tuple[float, float]:
    """The best (azimuth, scale), or (0, 1) where that is better at the truth's own size."""
    azimuths = AZIMUTHS if align in ("azimuth", "both") else [0.0]
    scales = SCALES if align in ("scale", "both") else [1.0]
    tried: dict[tuple[float, float], float] = {}
    step, factor = 15.0, SCALES[1] / SCALES[0]
    for _ in range(ROUNDS + 1):
        for pair in product(azimuths, scales):
            if pair not in tried:
                tried[pair] = error(*pair)
        azimuth, scale = min(tried, key=tried.get)
        step, factor = step / 2, factor**0.5
        azimuths = [azimuth] if len(azimuths) == 1 else [azimuth - step, azimuth, azimuth + step]
        scales = [scale] if len(scales) == 1 else [scale / factor, scale, scale * factor]
    found = (azimuth + 180) % 360 - 180, scale
    return min((0.0, 1.0), found, key=lambda pair: error(*pair, size=full_size))
