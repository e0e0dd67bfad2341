"""Families of the house: vessels and furniture. Units are free (about 1 = half the object); y up, front to +z."""

import numpy as np

from . import palette as P
from .parts import Parts
from .randomness import Draws

_GLAZES = (P.vivid, P.vivid, P.pale, P.dark, P.gray)


def mug(p: Parts, d: Draws) -> None:
    radius, height = d.uniform(0.42, 0.58), d.uniform(0.42, 0.72)
    top = radius * d.uniform(0.95, 1.2)
    base, accent = P.any_of(d, *_GLAZES), P.vivid(d)
    wall = 0.05
    p.cone((0, 0, 0), radius, height, top, shell=wall, cut=(-2, height - 0.06), color=base, color2=accent,
           pattern=P.pattern(d, "plain", "rings", "checks", "spots", "belt", "gradient", period=(0.25, 0.5)))
    p.cone((0, height * 0.25, 0), radius, 0.4 * height, top - 0.03, color=P.earth(d))
    grip = height * d.uniform(0.5, 0.62)
    p.torus(((radius + top) / 2, 0, 0), grip, d.uniform(0.07, 0.1), axis=(1, 0, 0), cut=(0.02, 9),
            color=d.choose(base, accent))


def bottle(p: Parts, d: Draws) -> None:
    radius, height = d.uniform(0.26, 0.4), d.uniform(0.4, 0.6)
    neck, length = d.uniform(0.1, 0.14), d.uniform(0.12, 0.25)
    glass, label, cap = P.any_of(d, P.vivid, P.leaf, P.dark), P.any_of(d, P.pale, P.vivid), P.vivid(d)
    shoulder = radius * d.uniform(0.6, 1.1)
    p.cylinder((0, 0, 0), radius, height, round=0.06, color=glass, color2=label,
               pattern=P.band(-0.1 * height, height * d.uniform(0.35, 0.6)))
    p.ellipsoid((0, height - 0.05, 0), (radius, shoulder, radius), cut=(0, 9), color=glass)
    rise = height + 0.7 * shoulder
    p.cone((0, rise + length * 0.6, 0), neck * 1.25, length, neck, color=glass)
    p.cylinder((0, rise + 1.6 * length + 0.04, 0), neck * 1.25, 0.09, round=0.02, color=cap)
    p.cylinder((0, -0.1 * height, 0), radius + 0.012, height * 0.12, color=cap, active=d.chance(0.5))


def vase(p: Parts, d: Draws) -> None:
    belly, stretch = d.uniform(0.4, 0.6), d.uniform(0.8, 1.3)
    base, accent = P.any_of(d, *_GLAZES), P.vivid(d)
    pattern = P.pattern(d, "plain", "rings", "checks", "spots", "gradient", "belt", period=(0.2, 0.45))
    p.ellipsoid((0, 0, 0), (belly, belly * stretch, belly), color=base, color2=accent, pattern=pattern)
    waist, lip = belly * d.uniform(0.35, 0.5), belly * d.uniform(0.5, 0.85)
    up = belly * stretch
    neck = d.uniform(0.15, 0.3)
    p.cone((0, up * 0.8 + neck, 0), waist, neck, lip, shell=0.05, cut=(-9, neck - 0.06),
           color=d.choose(base, accent))
    p.cone((0, -up * 0.85 - 0.05, 0), belly * d.uniform(0.5, 0.75), 0.13, belly * 0.4, color=d.choose(base, accent))
    grip = 0.5 * up
    p.torus((belly * 0.72, up * 0.55, 0), grip * 0.6, 0.065, axis=(1, 0, 0), cut=(-0.02, 9), mirror="x", color=accent,
            active=d.chance(0.35))


def teapot(p: Parts, d: Draws) -> None:
    radius, flat = d.uniform(0.5, 0.6), d.uniform(0.7, 0.95)
    tall = radius * flat
    base, accent = P.any_of(d, *_GLAZES), P.vivid(d)
    p.ellipsoid((0, 0, 0), (radius, tall, radius), color=base, color2=accent,
                pattern=P.pattern(d, "plain", "rings", "checks", "spots", "belt", period=(0.25, 0.5)))
    p.cylinder((0, -0.9 * tall, 0), radius * 0.6, 0.07, round=0.02, color=accent)
    p.ellipsoid((0, 0.82 * tall, 0), (radius * 0.55, tall * 0.35, radius * 0.55), color=d.choose(base, accent))
    p.ball((0, 1.25 * tall, 0), d.uniform(0.08, 0.12), color=accent)
    reach = radius * d.uniform(1.45, 1.65)
    p.capsule((radius * 0.75, -0.25 * tall, 0), (reach, 0.7 * tall, 0), 0.15, 0.085, color=base)
    p.torus((-radius * 0.88, 0.08, 0), tall * 0.58, d.uniform(0.07, 0.09), axis=(-1, 0, 0), cut=(0, 9),
            color=d.choose(base, accent))


def bowl(p: Parts, d: Draws) -> None:
    radius, deep = d.uniform(0.75, 0.9), d.uniform(0.6, 0.9)
    base, accent = P.any_of(d, *_GLAZES), P.vivid(d)
    p.ellipsoid((0, 0, 0), (radius, radius * deep, radius), shell=0.055, cut=(-9, 0), color=base, color2=accent,
                pattern=P.pattern(d, "plain", "rings", "checks", "spots", "belt", "gradient"))
    p.torus((0, 0, 0), radius, 0.06, rotate=(90, 0), color=accent)
    p.cone((0, -radius * deep, 0), radius * 0.5, 0.1, radius * 0.4, color=d.choose(base, accent))
    size = radius * d.uniform(0.3, 0.36)
    fruit, other = P.color(d, (0.0, 0.35), (0.6, 0.95), (0.6, 0.95)), P.color(d, (0.95, 1.2), (0.6, 0.95), (0.6, 0.9))
    full = d.chance(0.7)
    level = -0.12 * radius
    for turn, tone in ((0.0, fruit), (2.1, other), (4.2, fruit)):
        p.ball((0.45 * radius * np.sin(turn), level, 0.45 * radius * np.cos(turn)), size, color=tone, active=full)


def chair(p: Parts, d: Draws) -> None:
    wide, deep, leg = d.uniform(0.4, 0.55), d.uniform(0.4, 0.5), d.uniform(0.3, 0.45)
    back = d.uniform(0.4, 0.6)
    frame, cloth, accent = P.any_of(d, P.wood, P.wood, P.vivid, P.dark), P.any_of(d, P.vivid, P.wood), P.vivid(d)
    thick = d.uniform(0.055, 0.08)
    splay = d.uniform(0, 0.08)
    foot, inset = splay - thick, 1.5 * thick
    p.capsule((wide + foot, -2 * leg, deep + foot), (wide - inset, 0, deep - inset), thick,
              mirror="xz", color=frame)
    p.box((0, 0, 0), (wide, 0.08, deep), round=0.04, color=cloth, color2=accent,
          pattern=P.pattern(d, "plain", "plain", "checks", "columns", "spots"))
    slats = d.chance(0.5)
    p.box((0, back, -deep + 0.06), (wide, back, 0.06), round=0.04, rotate=(-6, 0), color=d.choose(cloth, frame),
          color2=accent, pattern=P.pattern(d, "plain", "checks", "columns", "rings"), active=~slats)
    p.capsule((wide - 0.07, 0, -deep + 0.08), (wide - 0.07, 2 * back, -deep - 0.02), 0.065, mirror="x", color=frame,
              active=slats)
    for level in (0.8, 1.35, 1.9):
        p.box((0, back * level, -deep + 0.03), (wide - 0.05, 0.1, 0.045), round=0.03, color=cloth, active=slats)
    arms = d.chance(0.35)
    p.box((wide - 0.02, 0.38, 0), (0.06, 0.05, deep), round=0.03, mirror="x", color=frame, active=arms)
    p.box((wide - 0.02, 0.2, deep - 0.1), (0.05, 0.2, 0.05), round=0.02, mirror="x", color=frame, active=arms)


def table(p: Parts, d: Draws) -> None:
    wide, deep, tall = d.uniform(0.65, 0.95), d.uniform(0.45, 0.75), d.uniform(0.3, 0.5)
    round_top, pedestal = d.chance(0.4), d.chance(0.35)
    top, frame, accent = P.any_of(d, P.wood, P.vivid, P.pale), P.any_of(d, P.wood, P.dark, P.vivid), P.vivid(d)
    disc = d.uniform(0.7, 0.85)
    pattern = P.pattern(d, "plain", "plain", "checks", "columns", period=(0.25, 0.45))
    p.cylinder((0, tall, 0), disc, 0.075, round=0.03, color=top, color2=accent, pattern=pattern, active=round_top)
    p.box((0, tall, 0), (wide, 0.075, deep), round=0.03, color=top, color2=accent, pattern=pattern, active=~round_top)
    reach_x = np.where(round_top, 0.6 * disc, wide - 0.12)
    reach_z = np.where(round_top, 0.6 * disc, deep - 0.12)
    p.cone((reach_x, 0, reach_z), 0.06, tall, 0.085, mirror="xz", color=frame, active=~pedestal)
    p.cone((0, 0, 0), 0.13, tall, 0.09, color=frame, active=pedestal)
    p.cone((0, -tall, 0), 0.45, 0.06, 0.3, round=0.02, color=frame, active=pedestal)
    p.box((0, -0.3 * tall, 0), (wide - 0.15, 0.05, deep - 0.15), round=0.02, color=frame,
          active=d.chance(0.4) & ~pedestal & ~round_top)
    things = d.chance(0.5)
    p.cone((0, tall + 0.2, 0), 0.12, 0.15, 0.2, color=accent, active=things)
    p.ball((0, tall + 0.42, 0), 0.2, color=P.leaf(d), color2=P.vivid(d), pattern=P.spots(0.2), active=things)


def lamp(p: Parts, d: Draws) -> None:
    tall = d.uniform(0.35, 0.5)
    shade, metal, accent = P.any_of(d, P.vivid, P.pale), P.any_of(d, P.dark, P.wood, P.vivid), P.vivid(d)
    foot = d.uniform(0.3, 0.45)
    p.cylinder((0, -tall - 0.05, 0), foot, 0.07, round=0.03, color=metal)
    gourd = d.chance(0.5)
    bulge = d.uniform(0.2, 0.34)
    p.ellipsoid((0, -0.45 * tall, 0), (bulge, 0.6 * tall, bulge), color=metal, color2=accent,
                pattern=P.pattern(d, "plain", "rings", "spots", "gradient"), active=gourd)
    p.cylinder((0, 0, 0), 0.065, tall, color=metal)
    wide, narrow, half = d.uniform(0.5, 0.65), d.uniform(0.22, 0.42), d.uniform(0.26, 0.38)
    p.cone((0, tall + half * 0.8, 0), wide, half, narrow, shell=0.03, cut=(-half + 0.04, half - 0.04), color=shade,
           color2=accent, pattern=P.pattern(d, "plain", "rings", "spots", "belt", "checks", period=(0.2, 0.4)))
    p.ball((0, tall + half * 0.6, 0), 0.15, color=P.light(d))


def sofa(p: Parts, d: Draws) -> None:
    wide, deep, back = d.uniform(0.6, 0.95), d.uniform(0.35, 0.45), d.uniform(0.35, 0.5)
    cloth, accent, wood = P.any_of(d, P.vivid, P.vivid, P.dark, P.gray), P.vivid(d), P.wood(d)
    pattern = P.pattern(d, "plain", "plain", "columns", "checks", "spots", period=(0.2, 0.35))
    p.box((0, 0, 0), (wide, 0.15, deep), round=0.05, color=cloth, color2=accent, pattern=pattern)
    p.box((0, back - 0.15, -deep), (wide, back, 0.13), round=0.1, rotate=(-8, 0), color=cloth, color2=accent,
          pattern=pattern)
    p.box((wide, 0.08, 0.02), (0.13, d.uniform(0.28, 0.36), deep + 0.05), round=0.11, mirror="x", color=cloth)
    p.box((wide * 0.48, 0.2, 0.06), (wide * 0.45, 0.1, deep * 0.85), round=0.07, mirror="x",
          color=P.shade_of(cloth, d.uniform(0.75, 1.2)))
    p.box((wide * 0.62, 0.42, -deep + 0.26), (0.19, 0.19, 0.08), round=0.07, rotate=(-20, 0), mirror="x", color=accent,
          active=d.chance(0.6))
    p.cone((wide - 0.05, -0.25, deep - 0.08), 0.05, 0.12, 0.075, mirror="xz", color=wood)


def bed(p: Parts, d: Draws) -> None:
    wide, long = d.uniform(0.42, 0.68), d.uniform(0.8, 0.95)
    wood, blanket, accent = P.any_of(d, P.wood, P.wood, P.dark, P.vivid), P.vivid(d), P.any_of(d, P.vivid, P.pale)
    head = d.uniform(0.3, 0.5)
    p.box((0, -0.08, 0), (wide, 0.09, long), round=0.03, color=wood)
    p.box((0, 0.08, 0), (wide - 0.04, 0.13, long - 0.05), round=0.08, color=P.pale(d))
    p.box((0, 0.1, long * 0.3), (wide, 0.15, long * 0.68), round=0.08, color=blanket, color2=accent,
          pattern=P.pattern(d, "plain", "checks", "columns", "spots", period=(0.2, 0.4)))
    p.box((0, head - 0.2, -long), (wide + 0.03, head, 0.07), round=0.04, color=wood)
    p.box((0, 0.05, long), (wide + 0.03, d.uniform(0.18, 0.25), 0.06), round=0.04, color=wood)
    double = wide > 0.52
    p.box((np.where(double, 0.26, 0.0), 0.24, -long * 0.72), (np.where(double, 0.21, 0.3), 0.09, 0.18), round=0.08,
          mirror="x", color=accent)
    p.box((wide - 0.04, -0.25, long - 0.05), (0.06, 0.14, 0.06), round=0.02, mirror="xz", color=wood)


FAMILIES = {f.__name__: f for f in (mug, bottle, vase, teapot, bowl, chair, table, lamp, sofa, bed)}
