"""Families that move or stand in the street: vehicles and buildings. Front to +z, left-right symmetric."""

import numpy as np

from . import palette as P
from .parts import Parts
from .randomness import Draws


def _wheels(p: Parts, d: Draws, x, y, z, radius, width=0.1, **kwargs):
    """A wheel at (x, y, z) and its mirror images, with hub caps."""
    tire, hub = P.dark(d), P.any_of(d, P.gray, P.vivid)
    p.cylinder((x, y, z), radius, width, round=0.03, axis=(1, 0, 0), color=tire, **kwargs)
    p.cylinder((x, y, z), radius * 0.55, width + 0.02, round=0.01, axis=(1, 0, 0), color=hub, **kwargs)


def car(p: Parts, d: Draws) -> None:
    wide, long, tall = d.uniform(0.38, 0.46), d.uniform(0.82, 0.95), d.uniform(0.15, 0.2)
    paint, accent, glass = P.any_of(d, P.vivid, P.vivid, P.vivid, P.gray, P.dark), P.vivid(d), P.glass(d)
    p.box((0, 0, 0), (wide, tall, long), round=0.12, taper=(-0.06, -0.04), color=paint, color2=accent,
          pattern=P.pattern(d, "plain", "plain", "belt", period=(0.1, 0.16)))
    cabin, rise, back = long * d.uniform(0.48, 0.62), d.uniform(0.2, 0.27), d.uniform(-0.2, 0.0)
    p.box((0, tall + rise * 0.85, back), (wide * 0.9, rise, cabin), round=0.07, taper=(-0.14, -0.25), color=paint,
          color2=glass, pattern=P.band(0.0, rise * 0.62))
    p.box((0, tall + rise * 0.85, back), (wide * 0.92, rise * 0.95, 0.045), taper=(-0.14, 0.0), color=paint)
    wheel = d.uniform(0.18, 0.22)
    _wheels(p, d, wide - 0.05, -tall - 0.03, long * 0.6, wheel, mirror="xz")
    lamp = P.light(d)
    p.ball((wide * 0.65, 0.03, long - 0.04), 0.085, mirror="x", color=lamp)
    p.box((wide * 0.65, 0.05, -long + 0.02), (0.09, 0.05, 0.05), mirror="x", color=P.color(d, (0.98, 1.02), (0.8, 0.9)))
    p.box((0, -tall * 0.65, 0), (wide * 0.95, 0.06, long + 0.04), round=0.04, color=P.dark(d))
    p.box((0, tall + 0.15, -long + 0.07), (wide * 0.85, 0.035, 0.09), round=0.02, color=accent, active=d.chance(0.25))


def truck(p: Parts, d: Draws) -> None:
    wide, long = d.uniform(0.34, 0.42), d.uniform(0.8, 0.95)
    paint, cargo, accent, glass = P.vivid(d), P.any_of(d, P.vivid, P.gray, P.pale), P.vivid(d), P.glass(d)
    cab, tall = d.uniform(0.24, 0.3), d.uniform(0.28, 0.36)
    p.box((0, -0.1, 0), (wide * 0.85, 0.07, long), color=P.dark(d))
    p.box((0, tall - 0.08, long - cab), (wide, tall, cab), round=0.07, taper=(-0.05, -0.12), color=paint, color2=glass,
          pattern=P.band(tall * 0.35, tall * 0.33))
    kind = d.integer(3)
    room = long - cab - 0.04
    pattern = P.pattern(d, "plain", "belt", "columns", "checks", period=(0.25, 0.4))
    load = tall * d.uniform(1.0, 1.25)
    p.box((0, load - 0.04, -cab - 0.04), (wide * 1.04, load, room), round=0.03, color=cargo, color2=accent,
          pattern=pattern, active=kind == 0)
    p.capsule((0, wide * 0.75, -long + 0.35), (0, wide * 0.75, long - 2 * cab - 0.38), wide * 0.85, color=cargo,
              color2=accent, pattern=P.pattern(d, "plain", "rings", period=(0.3, 0.5)), active=kind == 1)
    p.box((0, tall * 0.5, -cab - 0.04), (wide, tall * 0.55, room), shell=0.04, cut=(-9, tall * 0.45), color=cargo,
          active=kind == 2)
    p.ellipsoid((0, tall * 0.7, -cab - 0.04), (wide * 0.85, tall * 0.6, room * 0.85), color=P.wood(d), color2=P.dark(d),
                pattern=P.spots(0.16), active=kind == 2)
    wheel = d.uniform(0.17, 0.2)
    _wheels(p, d, wide - 0.05, -0.2, long - cab, wheel, mirror="x")
    _wheels(p, d, wide - 0.05, -0.2, -long + 0.25, wheel, mirror="x")
    p.ball((wide * 0.65, -0.02, long), 0.075, mirror="x", color=P.light(d))


def bus(p: Parts, d: Draws) -> None:
    wide, tall, long = d.uniform(0.3, 0.36), d.uniform(0.32, 0.42), d.uniform(0.85, 0.98)
    paint, roof, glass = P.vivid(d), P.any_of(d, P.vivid, P.pale, P.gray), P.glass(d)
    double = d.chance(0.3)
    tall = np.where(double, tall * 1.35, tall)
    p.box((0, 0, 0), (wide, tall, long), round=0.07, color=paint, color2=glass,
          pattern=P.band(np.where(double, 0.5, 0.35) * tall, tall * np.where(double, 0.18, 0.27)))
    p.box((0, -0.3 * tall, 0), (wide + 0.008, 0.18 * tall, long + 0.008), round=0.06, color=glass, active=double)
    posts = d.uniform(0.22, 0.32)
    p.box((0, np.where(double, 0.15, 0.35) * tall, 0), (wide + 0.012, np.where(double, 0.65, 0.3) * tall, long - 0.12),
          color=paint, color2=glass, pattern=P.stripes(posts, axis=2, phase=np.pi / 2), active=~double)
    p.box((0, tall * 0.95, 0), (wide * 0.92, 0.07, long * 0.95), round=0.04, color=roof)
    p.box((0, -tall * 0.55, 0), (wide + 0.01, 0.06, long + 0.01), round=0.02, color=roof)
    wheel = d.uniform(0.15, 0.18)
    _wheels(p, d, wide - 0.05, -tall, long * 0.6, wheel, mirror="xz")
    p.ball((wide * 0.65, -tall * 0.4, long), 0.075, mirror="x", color=P.light(d))


def train(p: Parts, d: Draws) -> None:
    radius, long = d.uniform(0.26, 0.33), d.uniform(0.8, 0.95)
    paint, cab, accent, metal = P.vivid(d), P.vivid(d), P.vivid(d), P.any_of(d, P.dark, P.gray)
    p.box((0, -radius - 0.02, 0), (radius * 1.05, 0.08, long), round=0.02, color=metal)
    p.cylinder((0, 0, 0.25 * long), radius, 0.7 * long, axis=(0, 0, 1), round=0.03, color=paint, color2=accent,
               pattern=P.pattern(d, "plain", "rings", "belt", period=(0.3, 0.5)))
    p.cylinder((0, 0, 0.93 * long), radius * 0.75, 0.05, axis=(0, 0, 1), round=0.02, color=metal)
    high = d.uniform(0.4, 0.5)
    p.box((0, high - radius, -0.68 * long), (radius * 1.1, high, 0.3 * long), round=0.02, color=cab,
          color2=P.glass(d), pattern=P.band(0.4 * high, 0.25 * high))
    p.box((0, 2 * high - radius, -0.68 * long), (radius * 1.3, 0.05, 0.36 * long), round=0.03, color=accent)
    p.cone((0, radius + 0.12, 0.68 * long), 0.08, 0.2, 0.14, color=metal)
    p.ball((0, radius, 0.15 * long), 0.13, color=accent)
    wheel = d.uniform(0.17, 0.21)
    _wheels(p, d, radius + 0.02, -radius - 0.12, -0.62 * long, wheel * 1.15, 0.06, mirror="x")
    _wheels(p, d, radius + 0.02, -radius - 0.14, 0.02, wheel, 0.06, mirror="x")
    _wheels(p, d, radius + 0.02, -radius - 0.14, 0.6 * long, wheel, 0.06, mirror="x")
    p.box((0, -radius - 0.12, long), (radius, 0.12, 0.16), taper=(-0.15, -0.8), round=0.0, color=accent)


def airplane(p: Parts, d: Draws) -> None:
    radius, long = d.uniform(0.15, 0.21), d.uniform(0.8, 0.95)
    paint, wing, accent = P.any_of(d, P.vivid, P.gray, P.pale), P.vivid(d), P.vivid(d)
    p.capsule((0, 0, -long + 0.12), (0, 0, long - 0.2), radius * 0.6, radius, color=paint, color2=accent,
              pattern=P.pattern(d, "plain", "belt", "rings", period=(0.4, 0.7)))
    p.ellipsoid((0, radius * 0.6, long * 0.5), (radius * 0.65, radius * 0.7, 0.22), color=P.glass(d))
    low, span, chord = d.uniform(-0.6, 0.6) * radius, d.uniform(0.75, 0.92), d.uniform(0.2, 0.28)
    sweep = d.uniform(0, 0.3)
    # a wing is a tapered box lying on its side: its y axis points outward and a little back
    p.box((span / 2, low, 0.15 - sweep / 2), (0.045, span / 2, chord), taper=(-0.2, -0.4), round=0.03,
          axis=(1.0, 0.0, -sweep), mirror="x", color=wing, color2=accent, pattern=P.band(0.42 * span, 0.12 * span))
    p.box((0.17, 0.02, -long + 0.13), (0.04, 0.2, 0.13), taper=(0, -0.3), round=0.025, axis=(1.0, 0.0, -0.3),
          mirror="x", color=wing)
    p.box((0, 0.22, -long + 0.1), (0.04, 0.22, 0.16), taper=(0, -0.4), round=0.025, rotate=(-15, 0), color=accent)
    jet = d.chance(0.5)
    p.capsule((span * 0.45, low - 0.1, 0.15 - sweep * 0.5), (span * 0.45, low - 0.1, 0.5 - sweep * 0.5), 0.08, 0.1,
              mirror="x", color=P.dark(d), active=jet)
    p.cone((0, 0, long - 0.0), 0.09, 0.1, 0.05, axis=(0, 0, 1), color=P.dark(d), active=~jet)
    p.box((0, 0, long + 0.05), (0.36, 0.05, 0.03), round=0.02, rotate=(0, 0), color=P.dark(d), active=~jet)


def boat(p: Parts, d: Draws) -> None:
    wide, deep, long = d.uniform(0.32, 0.42), d.uniform(0.2, 0.28), d.uniform(0.8, 0.95)
    hull, deck, accent = P.vivid(d), P.wood(d), P.any_of(d, P.vivid, P.pale)
    p.ellipsoid((0, 0, 0), (wide, 2 * deep, long), cut=(-deep * 1.5, 0.1), color=hull, color2=accent,
                pattern=P.band(-0.02, d.uniform(0.05, 0.12)))
    p.ellipsoid((0, 0, 0), (wide - 0.06, 2 * deep, long - 0.08), cut=(-0.1, 0.13), color=deck)
    sail = d.chance(0.5)
    tall = d.uniform(0.5, 0.65)
    p.capsule((0, 0, 0.1), (0, 2 * tall + 0.1, 0.1), 0.055, color=deck, active=sail)
    cloth = P.any_of(d, P.vivid, P.pale)
    # a triangle: a box that tapers to nothing in z
    p.box((0, tall + 0.15, -0.27), (0.04, tall * 0.9, 0.2), taper=(0, -0.9), color=cloth, color2=accent,
          pattern=P.pattern(d, "plain", "rings", "gradient", period=(0.3, 0.5)), active=sail)
    p.box((0, tall * 0.8 + 0.1, 0.42), (0.04, tall * 0.7, 0.14), taper=(0, -0.88), color=accent, active=sail)
    cabin = d.uniform(0.2, 0.28)
    p.box((0, cabin + 0.05, -0.15), (wide * 0.62, cabin, 0.36), round=0.04, taper=(-0.05, -0.05), color=accent,
          color2=P.glass(d), pattern=P.band(0.3 * cabin, 0.35 * cabin), active=~sail)
    p.box((0, 2 * cabin + 0.06, -0.15), (wide * 0.72, 0.05, 0.44), round=0.03, color=hull, active=~sail)
    p.cylinder((0, 2 * cabin + 0.22, -0.22), 0.11, 0.2, color=P.vivid(d), color2=P.dark(d), pattern=P.band(0.16, 0.09),
               active=~sail)


def rocket(p: Parts, d: Draws) -> None:
    radius, tall = d.uniform(0.22, 0.32), d.uniform(0.45, 0.6)
    paint, nose, fins = P.any_of(d, P.vivid, P.gray, P.pale), P.vivid(d), P.vivid(d)
    p.cone((0, 0, 0), radius * d.uniform(0.75, 1.1), tall, radius, round=0.04, color=paint, color2=nose,
           pattern=P.pattern(d, "plain", "rings", "checks", "belt", period=(0.25, 0.5)))
    p.ellipsoid((0, tall - 0.03, 0), (radius, d.uniform(0.35, 0.5), radius), cut=(0, 9), color=nose)
    p.ellipsoid((0, tall * 0.45, radius * 0.9), (0.14, 0.14, 0.07), color=P.glass(d))
    p.torus((0, tall * 0.45, radius * 0.95), 0.14, 0.04, color=fins)
    p.box((radius + 0.1, -tall + 0.08, 0), (0.18, 0.26, 0.045), taper=(-0.55, 0), round=0.03, mirror="x", color=fins)
    p.box((0, -tall + 0.08, radius + 0.1), (0.045, 0.26, 0.18), taper=(0, -0.55), round=0.03, mirror="z", color=fins)
    p.cone((0, -tall - 0.08, 0), radius * 0.75, 0.1, radius * 0.5, color=P.dark(d))
    p.cone((0, -tall - 0.3, 0), 0.05, 0.18, radius * 0.5, color=P.orange(d),
           color2=P.light(d), pattern=P.gradient(0.3), active=d.chance(0.5))


def house(p: Parts, d: Draws) -> None:
    wide, tall, deep = d.uniform(0.45, 0.7), d.uniform(0.28, 0.48), d.uniform(0.45, 0.7)
    wall, roof, door = P.any_of(d, P.vivid, P.pale, P.wood, P.gray), P.any_of(d, P.vivid, P.dark), P.vivid(d)
    glass = P.any_of(d, P.dark, P.glass)
    columns = d.choose(1.0, 1.5)
    p.box((0, 0, 0), (wide, tall, deep), color=wall, color2=glass,
          pattern=P.spots(wide / columns, tall / d.choose(0.75, 1.25), deep / columns, phase=0.0))
    pitch = d.uniform(0.2, 0.34)
    hip = d.choose(0.0, -0.5)
    # half sizes are those at half height: the eaves are 1.97 times as wide
    p.box((0, tall + pitch, 0), ((wide + 0.12) / 1.97, pitch, (deep + 0.12) / (1 - hip)), taper=(-0.97, hip),
          color=roof, color2=P.shade_of(roof, 0.7),
          pattern=P.pattern(d, "plain", "rings", "checks", period=(0.12, 0.2)))
    p.box((0, -tall * 0.4, deep), (0.13, tall * 0.6, 0.04), round=0.02, color=door)
    p.box((0, -tall - 0.02, 0), (wide + 0.08, 0.05, deep + 0.08), color=P.gray(d))
    p.box((wide * 0.5, tall + 1.3 * pitch, -deep * 0.4), (0.09, pitch * 0.8, 0.09), color=P.earth(d),
          active=d.chance(0.7))
    porch = d.chance(0.4)
    p.box((0, tall * 0.35, deep + 0.14), (0.3, 0.05, 0.2), round=0.02, color=roof, active=porch)
    p.cylinder((0.25, -tall * 0.35, deep + 0.26), 0.055, tall * 0.68, mirror="x", color=P.pale(d), active=porch)


def castle(p: Parts, d: Draws) -> None:
    wide, tall = d.uniform(0.45, 0.6), d.uniform(0.25, 0.38)
    stone, roof, flag = P.any_of(d, P.gray, P.wood, P.pale, P.vivid), P.vivid(d), P.vivid(d)
    dark = P.shade_of(stone, 0.75)
    p.box((0, 0, 0), (wide, tall, wide), color=stone, color2=dark, pattern=P.checks(d.uniform(0.2, 0.3)))
    thick, high = d.uniform(0.15, 0.2), tall * d.uniform(1.3, 1.7)
    p.cone((wide, high - tall, wide), thick * 1.1, high, thick, mirror="xz", color=stone, color2=dark,
           pattern=P.pattern(d, "plain", "rings", period=(0.15, 0.25)))
    pointed = d.chance(0.7)
    p.cone((wide, 2 * high - tall + 0.17, wide), thick * 1.35, 0.2, 0.02, mirror="xz", color=roof, active=pointed)
    p.cylinder((wide, 2 * high - tall + 0.02, wide), thick * 1.25, 0.08, mirror="xz", color=roof, active=~pointed)
    p.box((0, tall, 0), (wide + 0.05, 0.06, wide + 0.05), color=dark)
    keep = d.uniform(0.2, 0.3)
    p.box((0, tall * 1.6, 0), (keep, tall, keep), color=stone, color2=dark,
          pattern=P.spots(keep, tall * 0.8, keep))
    p.box((0, tall * 2.6 + 0.2, 0), ((keep + 0.1) / 1.95, 0.22, (keep + 0.1) / 1.95), taper=(-0.95, -0.95), color=roof)
    p.ball((0, tall * 2.6 + 0.42, 0), 0.07, color=flag)
    p.box((0, -tall * 0.35, wide), (0.15, tall * 0.65, 0.05), color=P.dark(d))
    p.cylinder((0, tall * 0.3, wide), 0.15, 0.05, axis=(0, 0, 1), color=P.wood(d))


FAMILIES = {f.__name__: f for f in (car, truck, bus, train, airplane, boat, rocket, house, castle)}
