"""Colors and patterns to draw from. Everything stays away from white, the background."""

from functools import partial

import numpy as np

from .parts import PLAIN, Pattern, band, checks, gradient, spots, stripes
from .randomness import Draws, select

_HUE_OFFSETS = np.array([5.0, 3.0, 1.0])


def hsv(hue, saturation, value) -> np.ndarray:
    """(n, 3) RGB from hue (in turns), saturation and value."""
    k = ((6 * hue)[:, None] + _HUE_OFFSETS) % 6
    shape = np.maximum(np.minimum(np.minimum(k, 4 - k), 1), 0)
    return value[:, None] - (value * saturation)[:, None] * shape


def color(d: Draws, hue=(0.0, 1.0), saturation=(0.5, 0.9), value=(0.5, 0.9)) -> np.ndarray:
    return hsv(d.uniform(*hue), d.uniform(*saturation), d.uniform(*value))


vivid = partial(color, saturation=(0.55, 0.95), value=(0.5, 0.95))
pale = partial(color, saturation=(0.15, 0.35), value=(0.7, 0.86))
dark = partial(color, saturation=(0.1, 0.4), value=(0.18, 0.36))
gray = partial(color, hue=(0.55, 0.65), saturation=(0.02, 0.12), value=(0.4, 0.7))
wood = partial(color, hue=(0.05, 0.1), saturation=(0.4, 0.7), value=(0.35, 0.75))
leaf = partial(color, hue=(0.24, 0.4), saturation=(0.5, 0.85), value=(0.3, 0.65))
glass = partial(color, hue=(0.52, 0.62), saturation=(0.3, 0.6), value=(0.3, 0.55))  # windows: dull blue
light = partial(color, hue=(0.11, 0.16), saturation=(0.35, 0.65), value=(0.86, 0.95))  # headlights and bulbs
orange = partial(color, hue=(0.04, 0.13), saturation=(0.75, 0.95), value=(0.8, 0.95))  # beaks, carrots, flames
earth = partial(color, hue=(0.05, 0.09), saturation=(0.5, 0.75), value=(0.2, 0.4))  # soil, coffee


def fur(d: Draws) -> np.ndarray:
    """Browns, sandy and grays, now and then a toy's color."""
    natural = color(d, hue=(0.04, 0.11), saturation=(0.3, 0.7), value=(0.25, 0.8))
    return select(d.integer(4), natural, natural, gray(d), vivid(d))


def any_of(d: Draws, *palettes) -> np.ndarray:
    """A color of one of the palettes, chosen for each object."""
    return d.choose(*[palette(d) for palette in palettes])


def shade_of(base: np.ndarray, factor) -> np.ndarray:
    """The same color darker (or lighter, factor > 1)."""
    return np.clip(base * np.asarray(factor).reshape(-1, 1), 0, 0.95)


def pattern(d: Draws, *kinds: str, period=(0.2, 0.4)) -> Pattern:
    """One of the named patterns for each object: plain, rings, columns, checks, spots, gradient, belt."""
    length, phase, which = d.uniform(*period), d.uniform(0, 2 * np.pi), d.integer(len(kinds))
    return mixed(which, *[_NAMED[kind](length, phase) for kind in kinds])


def mixed(which: np.ndarray, *patterns: Pattern) -> Pattern:
    """Pattern number which[i] for object i."""
    wave = tuple(select(which, *[p.wave[axis] for p in patterns]) for axis in range(3))
    return Pattern(select(which, *[p.kind for p in patterns]), wave, select(which, *[p.phase for p in patterns]))


_NAMED = {
    "plain": lambda length, phase: PLAIN,
    "rings": lambda length, phase: stripes(length, 1, phase),
    "columns": lambda length, phase: stripes(length, 0, np.pi / 2),
    "checks": lambda length, phase: checks(1.3 * length),
    "spots": lambda length, phase: spots(0.8 * length, phase=phase),
    "gradient": lambda length, phase: gradient(2 * length),
    "belt": lambda length, phase: band(0.2 * length * np.cos(phase), 0.5 * length),
}
