"""Abstract unions: primitives of any kind on a body, left-right symmetric. No prior to learn but symmetry."""

import numpy as np

from . import packing as L
from . import palette as P
from .parts import Parts
from .randomness import Draws, select


def _sizes(kind, scale, d: Draws):
    """Plausible SIZE triples (n, 3) for mixed kinds, and a rounding."""
    u, v, w = (scale * d.uniform(0.55, 1.0) for _ in range(3))
    by_kind = [np.stack(s, -1) for s in ((u, v, w), (u, v, w), (u, v, w * 0.8), (u, u * 0.35, w),
                                         (u * 0.7, v * 0.8 + 0.3 * np.abs(u - w), w * 0.7))]
    size = select(kind, *by_kind)
    return size, size.min(1) * d.uniform(0.1, 0.5)


def abstract(p: Parts, d: Draws) -> None:
    colors = [P.any_of(d, P.vivid, P.vivid, P.pale, P.dark) for _ in range(3)]
    kind = d.choose(L.BOX, L.ELLIPSOID, L.CONE, L.CAPSULE)
    scale = d.uniform(0.4, 0.6)
    size, edge = _sizes(kind, scale, d)
    body = size.min(1)[:, None] * 0.5 + size.mean(1)[:, None] * 0.5
    axes = np.eye(3)[:, None] * np.ones((d.count, 1))
    p.add(kind, (0, 0, 0), size, round=edge, axis=d.choose(axes[1], axes[1], axes[2]), color=colors[0],
          color2=colors[1], pattern=P.pattern(d, "plain", "rings", "checks", "spots", "gradient"))
    for i in range(6):
        kind = d.integer(5)
        size, edge = _sizes(kind, scale * d.uniform(0.3, 0.7), d)
        way = np.stack([d.uniform(0, 1), d.uniform(-1, 1), d.uniform(-1, 1)], -1)
        way = way / np.linalg.norm(way, axis=1, keepdims=True)
        place = way * body * d.uniform(0.75, 1.1)[:, None]
        beside = place[:, 0] > 0.35 * scale
        place[:, 0] *= beside
        # one that crosses the plane of symmetry must itself be symmetric: its axes stay those of the object
        free = np.stack([np.abs(d.uniform(-1, 1)), d.uniform(-1, 1), d.uniform(-1, 1)], -1) + 1e-3
        axis = np.where((beside & d.chance(0.4))[:, None], free, d.choose(axes[1], axes[1], axes[0], axes[2]))
        p.add(kind, place, size, round=edge, axis=axis, color=d.choose(*colors), color2=d.choose(*colors),
              pattern=P.pattern(d, "plain", "plain", "rings", "checks", "spots", "gradient"),
              mirror="x", active=d.chance(0.75) if i > 1 else True)
