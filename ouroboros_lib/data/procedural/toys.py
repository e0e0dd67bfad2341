"""Toys and tools. Front to +z."""

import numpy as np

from . import palette as P
from .parts import Parts
from .randomness import Draws


def robot(p: Parts, d: Draws) -> None:
    metal, accent, eye, dark = P.any_of(d, P.vivid, P.gray), P.vivid(d), P.vivid(d), P.dark(d)
    wide, tall, deep = d.uniform(0.28, 0.4), d.uniform(0.28, 0.38), d.uniform(0.2, 0.28)
    p.box((0, 0, 0), (wide, tall, deep), round=0.05, taper=(d.uniform(-0.2, 0.2), 0), color=metal, color2=accent,
          pattern=P.pattern(d, "plain", "belt", "rings", "checks", period=(0.2, 0.35)))
    head = d.uniform(0.2, 0.28)
    y = tall + head + 0.05
    domed = d.chance(0.4)
    p.box((0, y, 0), (head * 1.15, head, head), round=0.05, color=metal, active=~domed)
    p.ellipsoid((0, y - head, 0), (head * 1.15, head * 1.8, head * 1.1), cut=(0, 9), color=metal, active=domed)
    p.cylinder((head * 0.5, y + 0.04, head * 0.95), 0.075, 0.06, axis=(0, 0, 1), mirror="x", color=eye)
    p.box((0, y - head * 0.55, head * 0.98), (head * 0.6, 0.04, 0.05), color=dark)
    p.capsule((0, y + head * 0.6, 0), (0, y + head + 0.2, 0), 0.05, color=dark)
    p.ball((0, y + head + 0.22, 0), 0.09, color=accent)
    raise_, arm = d.uniform(-0.35, 0.3), d.uniform(0.3, 0.4)
    p.ball((wide + 0.06, tall * 0.7, 0), 0.12, mirror="x", color=accent)
    p.capsule((wide + 0.08, tall * 0.7, 0), (wide + 0.2, tall * 0.7 + raise_, arm), 0.085, mirror="x", color=metal)
    p.ball((wide + 0.2, tall * 0.7 + raise_, arm), 0.13, mirror="x", color=dark)
    p.cylinder((wide * 0.5, -tall - 0.16, 0), 0.1, 0.2, mirror="x", color=dark)
    p.box((wide * 0.52, -tall - 0.38, 0.06), (0.16, 0.08, deep), round=0.05, mirror="x", color=accent)
    p.box((0, 0.04, deep), (wide * 0.5, tall * 0.4, 0.04), round=0.02, color=accent, color2=eye,
          pattern=P.checks(0.22))


def figure(p: Parts, d: Draws) -> None:
    """A little person."""
    skin = P.color(d, (0.04, 0.09), (0.3, 0.6), (0.4, 0.9))
    shirt, accent, trousers, hair = P.vivid(d), P.vivid(d), P.any_of(d, P.vivid, P.dark), P.any_of(d, P.dark, P.wood)
    tall, wide = d.uniform(0.28, 0.36), d.uniform(0.2, 0.26)
    dress = d.chance(0.35)
    pattern = P.pattern(d, "plain", "rings", "checks", "spots", "belt", period=(0.15, 0.3))
    p.cone((0, 0, 0), wide * 0.9, tall, wide, round=0.08, color=shirt, color2=accent, pattern=pattern, active=~dress)
    p.cone((0, -0.1, 0), wide * 1.9, tall + 0.1, wide * 0.8, round=0.06, color=shirt, color2=accent, pattern=pattern,
           active=dress)
    head = d.uniform(0.23, 0.3)
    y = tall + head * 0.9
    p.ball((0, y, 0), head, color=skin)
    p.ball((0, y + 0.04, -0.05), head * 1.07, rotate=(-25, 0), cut=(0.02, 9), color=hair)
    p.ball((head * 0.42, y - 0.0, head * 0.88), 0.045, mirror="x", color=P.dark(d))
    p.ball((0, y - 0.07, head), 0.045, color=P.shade_of(skin, 0.85))
    hat = d.chance(0.4)
    p.cylinder((0, y + head * 0.7, 0), head * 1.35, 0.045, round=0.02, color=accent, active=hat)
    p.cone((0, y + head * 0.7 + 0.16, 0), head * 0.85, 0.17, head * 0.7, round=0.03, color=accent, active=hat)
    spread, drop = d.uniform(0.12, 0.35), d.uniform(-0.45, 0.3)
    p.capsule((wide, tall * 0.7, 0), (wide + spread, tall * 0.7 + drop, 0.1), 0.09, 0.085, mirror="x", color=shirt)
    p.ball((wide + spread, tall * 0.7 + drop, 0.1), 0.1, mirror="x", color=skin)
    p.capsule((wide * 0.55, -tall, 0), (wide * 0.6, -tall - 0.42, 0), 0.115, 0.1, mirror="x", color=trousers)
    p.ellipsoid((wide * 0.6, -tall - 0.5, 0.06), (0.12, 0.075, 0.19), mirror="x", color=P.dark(d))


def snowman(p: Parts, d: Draws) -> None:
    """Stacked balls with a hat and a scarf, in any color but snow's, since the background is white."""
    body, hat, scarf, button = P.any_of(d, P.pale, P.gray, P.vivid), P.any_of(d, P.dark, P.vivid), P.vivid(d), P.dark(d)
    low, mid, top = d.uniform(0.42, 0.52), d.uniform(0.3, 0.38), d.uniform(0.22, 0.28)
    y1 = low * 0.7 + mid * 0.7
    y2 = y1 + mid * 0.7 + top * 0.75
    tint = P.vivid(d)
    pattern = P.pattern(d, "plain", "plain", "spots", "gradient", "rings", period=(0.25, 0.4))
    p.ball((0, 0, 0), low, color=body, color2=tint, pattern=pattern)
    p.ball((0, y1, 0), mid, color=body, color2=tint, pattern=pattern)
    p.ball((0, y2, 0), top, color=body)
    p.torus((0, y2 - top * 0.8, 0), mid * 0.62, 0.085, rotate=(90, 0), color=scarf)
    p.box((mid * 0.4, y1 + 0.08, mid * 0.85), (0.075, 0.2, 0.05), round=0.03, rotate=(-20, 15), color=scarf)
    p.cone((0, y2, top + 0.1), 0.07, 0.14, 0.02, axis=(0, 0, 1), color=P.orange(d))
    p.ball((top * 0.42, y2 + 0.07, top * 0.85), 0.05, mirror="x", color=button)
    for height in (0.25, -0.2):
        p.ball((0, y1 + height * mid, mid * 0.98), 0.055, color=button)
    tall = d.uniform(0.13, 0.2)
    p.cylinder((0, y2 + top * 0.75, 0), top * 1.25, 0.045, round=0.02, color=hat)
    p.cylinder((0, y2 + top * 0.75 + tall, 0), top * 0.8, tall, color=hat, color2=scarf,
               pattern=P.band(-0.4 * tall, 0.35 * tall))
    p.capsule((mid * 0.85, y1 + 0.05, 0), (mid + 0.34, y1 + d.uniform(-0.05, 0.3), 0.05), 0.06, 0.05, mirror="x",
              color=P.wood(d))


def hammer(p: Parts, d: Draws) -> None:
    metal, grip, accent = P.any_of(d, P.gray, P.dark, P.vivid), P.any_of(d, P.wood, P.vivid), P.vivid(d)
    long, thick = d.uniform(0.6, 0.75), d.uniform(0.09, 0.13)
    p.cone((0, -0.1, 0), thick * 1.2, long, thick, round=0.04, color=grip, color2=accent,
           pattern=P.pattern(d, "plain", "rings", "belt", period=(0.15, 0.4)))
    p.cylinder((0, -long * 0.75, 0), thick * 1.45, long * 0.3, round=0.05, color=accent, active=d.chance(0.5))
    y = long - 0.1
    head, half = d.uniform(0.16, 0.22), d.uniform(0.32, 0.45)
    kind = d.integer(3)  # claw hammer, mallet, axe
    p.box((0, y, 0), (half * 0.5, head * 0.8, head * 0.8), round=0.04, color=metal, active=kind == 0)
    p.cylinder((half * 0.8, y, 0), head * 0.95, 0.12, axis=(1, 0, 0), round=0.04, color=metal, active=kind == 0)
    p.box((-half * 0.85, y + 0.02, 0), (head * 0.8, half * 0.55, head * 0.7), axis=(-1, -0.35, 0), taper=(-0.8, 0.2),
          color=metal, active=kind == 0)
    p.cylinder((0, y, 0), head * 1.3, half, axis=(1, 0, 0), round=0.06, color=metal, color2=accent,
               pattern=P.band(0.8 * half, 0.22 * half), active=kind == 1)
    p.box((0, y, 0), (0.18, 0.18, 0.13), round=0.03, color=metal, active=kind == 2)
    p.box((half * 0.75, y, 0), (0.15, half * 0.6, 0.12), axis=(1, 0, 0), taper=(0.7, -0.75), color=metal, color2=accent,
          pattern=P.band(0.5 * half, 0.15 * half), active=kind == 2)


def guitar(p: Parts, d: Draws) -> None:
    body, edge, neck = P.any_of(d, P.wood, P.wood, P.vivid), P.any_of(d, P.dark, P.vivid), P.any_of(d, P.wood, P.dark)
    low, high, deep = d.uniform(0.36, 0.44), d.uniform(0.26, 0.34), d.uniform(0.09, 0.14)
    y = low * 0.55 + high * 0.75
    p.cylinder((0, 0, 0), low, deep, axis=(0, 0, 1), round=0.03, color=body, color2=edge,
               pattern=P.band(0.0, deep * d.uniform(0.2, 0.6)))
    p.cylinder((0, y, 0), high, deep, axis=(0, 0, 1), round=0.03, color=body, color2=edge,
               pattern=P.band(0.0, deep * 0.4))
    p.cylinder((0, y - high * 0.4, deep * 0.6), 0.14, deep * 0.6, axis=(0, 0, 1), color=P.dark(d))
    p.torus((0, y - high * 0.4, deep), 0.15, 0.035, color=edge)
    p.box((0, -low * 0.35, deep), (0.18, 0.045, 0.05), round=0.02, color=edge)
    long = d.uniform(0.4, 0.5)
    p.box((0, y + high * 0.5 + long, deep * 0.7), (0.075, long, 0.05), round=0.02, color=neck,
          color2=P.shade_of(neck, 1.6), pattern=P.stripes(0.14))
    top = y + high * 0.5 + 2 * long
    p.box((0, top + 0.08, deep * 0.6), (0.11, 0.15, 0.05), round=0.03, taper=(0.2, 0), color=neck)
    p.capsule((0.1, top + 0.13, deep * 0.6), (0.18, top + 0.13, deep * 0.6), 0.05, mirror="x", color=edge)
    p.capsule((0.1, top - 0.01, deep * 0.6), (0.17, top - 0.01, deep * 0.6), 0.05, mirror="x", color=edge)


def blocks(p: Parts, d: Draws) -> None:
    """A ring pyramid or a pile of building blocks."""
    pile = d.chance(0.5)
    hues = d.unit()
    step = d.uniform(0.08, 0.25)
    y = np.full(d.count, -0.6)
    size = d.uniform(0.5, 0.65)
    base = P.any_of(d, P.wood, P.vivid)
    p.cylinder((0, -0.75, 0), 0.55, 0.07, round=0.03, color=base, active=~pile)
    for i in range(5):
        tone = P.hsv(hues + i * step, d.uniform(0.6, 0.9), d.uniform(0.6, 0.95))
        other = P.hsv(hues + i * step + 0.4, d.uniform(0.4, 0.8), d.uniform(0.5, 0.9))
        tube = 0.15
        ring = size * (1 - 0.14 * i) - tube * 0.4
        p.torus((0, y + tube * 0.8, 0), ring, tube, rotate=(90, 0), color=tone, active=~pile)
        if i < 4:
            half = d.uniform(0.16, 0.22)
            width = size * (0.8 - 0.12 * i)
            turn = d.uniform(-25, 25)
            kind = d.integer(3)
            pattern = P.pattern(d, "plain", "checks", "spots", "rings", "columns", period=(0.2, 0.3))
            top = np.zeros(d.count) + (i == 3)
            p.box((0, y + half, 0), (width, half, width * 0.8), round=0.03, rotate=(0, turn), color=tone, color2=other,
                  pattern=pattern, active=pile & (kind < 2) & (top == 0))
            p.cylinder((0, y + half, 0), width * 0.85, half, round=0.02, color=tone, color2=other, pattern=pattern,
                       active=pile & (kind == 2) & (top == 0))
            p.box((0, y + half, 0), (width * 0.55, half, width * 0.8), taper=(-0.97, 0), rotate=(0, turn), color=tone,
                  active=pile & (top == 1))
            y = y + np.where(pile, 2 * half, 1.7 * tube)
        else:
            y = y + 1.7 * tube
    p.cylinder((0, -0.1, 0), 0.1, 0.6, color=base, active=~pile)
    p.ball((0, 0.62, 0), 0.16, color=P.vivid(d), active=~pile)


FAMILIES = {f.__name__: f for f in (robot, figure, snowman, hammer, guitar, blocks)}
