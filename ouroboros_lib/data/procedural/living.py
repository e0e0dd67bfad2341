"""Animals and plants. Front to +z, left-right symmetric."""

from . import packing as L
from . import palette as P
from .parts import Parts
from .randomness import Draws


def quadruped(p: Parts, d: Draws) -> None:
    coat, accent, ink = P.fur(d), P.fur(d), P.dark(d)
    thick, long, leg = d.uniform(0.24, 0.36), d.uniform(0.38, 0.55), d.uniform(0.28, 0.5)
    limb = d.uniform(0.085, 0.12)
    p.ellipsoid((0, 0, 0), (thick, thick * d.uniform(0.9, 1.1), long), color=coat, color2=accent,
                pattern=P.pattern(d, "plain", "plain", "spots", "checks", "gradient", period=(0.25, 0.4)))
    p.capsule((thick * 0.6, -thick * 0.3, long * 0.6), (thick * 0.65, -thick - leg, long * 0.65), limb * 1.2, limb,
              mirror="xz", color=coat, color2=accent, pattern=P.band(-0.5 * leg, 0.25 * leg))
    neck = d.uniform(0.05, 0.42)
    head = d.uniform(0.2, 0.27)
    y, z = thick * 0.6 + neck, long + 0.12
    p.capsule((0, 0, long * 0.7), (0, y, z), thick * 0.6, head * 0.65, color=coat)
    p.ellipsoid((0, y + 0.06, z + 0.06), (head, head * 0.95, head * 1.1), color=coat)
    snout = d.uniform(0.1, 0.26)
    p.capsule((0, y, z + head * 0.7), (0, y - 0.05, z + head * 0.8 + snout), 0.13, 0.1, color=accent)
    p.ball((0, y - 0.02, z + head * 0.85 + snout + 0.07), 0.06, color=ink)
    p.ball((head * 0.55, y + 0.14, z + head * 0.85), 0.055, mirror="x", color=ink)
    ears = d.integer(3)  # pointed, round, hanging
    p.cone((head * 0.6, y + head + 0.12, z), 0.1, 0.15, 0.02, mirror="x", color=coat, active=ears == 0)
    p.ellipsoid((head * 0.75, y + head * 0.9, z), (0.13, 0.13, 0.06), mirror="x", color=accent, active=ears == 1)
    p.ellipsoid((head * 1.0, y, z), (0.065, 0.21, 0.11), mirror="x", color=accent, active=ears == 2)
    tail, lift = d.uniform(0.2, 0.45), d.uniform(-0.3, 0.4)
    p.capsule((0, thick * 0.4, -long * 0.85), (0, thick * 0.4 + lift, -long * 0.9 - tail), 0.08, 0.065, color=accent)


def bird(p: Parts, d: Draws) -> None:
    coat, breast, wing, beak = P.vivid(d), P.any_of(d, P.pale, P.vivid), P.vivid(d), P.orange(d)
    fat, long = d.uniform(0.3, 0.42), d.uniform(0.4, 0.55)
    p.ellipsoid((0, 0, 0), (fat, fat, long), rotate=(-25, 0), color=coat, color2=breast,
                pattern=P.Pattern(L.GRADIENT, (0.0, -3.0, 1.5), -0.3))
    head = d.uniform(0.22, 0.28)
    y, z = fat * 0.75 + 0.12, long * 0.75
    p.ball((0, y, z), head, color=coat)
    bill = d.uniform(0.1, 0.2)
    p.cone((0, y - 0.02, z + head + bill * 0.7), 0.1, bill, 0.03, axis=(0, -0.15, 1), color=beak)
    p.ball((head * 0.7, y + 0.07, z + head * 0.62), 0.06, mirror="x", color=P.dark(d))
    p.ellipsoid((fat * 0.9, 0.02, -0.08), (0.08, fat * 0.6, long * 0.75), rotate=(-30, 0), mirror="x", color=wing,
                color2=coat, pattern=P.pattern(d, "plain", "rings", "spots", period=(0.15, 0.25)))
    p.box((0, -0.12, -long - 0.12), (0.16, 0.05, 0.25), round=0.04, rotate=(d.uniform(5, 30), 0), color=wing)
    p.capsule((fat * 0.4, -fat * 0.7, 0.05), (fat * 0.4, -fat - 0.22, 0.08), 0.055, mirror="x", color=beak)
    p.ellipsoid((fat * 0.4, -fat - 0.24, 0.14), (0.1, 0.045, 0.16), mirror="x", color=beak)
    p.cone((0, y + head + 0.05, z - 0.05), 0.1, 0.12, 0.03, axis=(0, 1, -0.5), color=wing, active=d.chance(0.4))


def fish(p: Parts, d: Draws) -> None:
    scales, accent, fin = P.vivid(d), P.any_of(d, P.vivid, P.pale), P.vivid(d)
    thick, tall, long = d.uniform(0.2, 0.32), d.uniform(0.32, 0.52), d.uniform(0.6, 0.75)
    pattern = P.mixed(d.integer(3), P.stripes(d.uniform(0.25, 0.45), axis=2), P.spots(d.uniform(0.2, 0.3)),
                      P.gradient(0.4))
    p.ellipsoid((0, 0, 0), (thick, tall, long), color=scales, color2=accent, pattern=pattern)
    p.ellipsoid((0, tall * 0.35, -long - 0.12), (0.055, 0.3, 0.16), rotate=(-40, 0), color=fin)
    p.ellipsoid((0, -tall * 0.35, -long - 0.12), (0.055, 0.3, 0.16), rotate=(40, 0), color=fin)
    p.capsule((0, 0, -long * 0.6), (0, 0, -long - 0.05), 0.16, 0.08, color=scales)
    p.ellipsoid((0, tall * 0.95, -0.05), (0.05, 0.24, 0.32), rotate=(-20, 0), color=fin, color2=accent,
                pattern=P.stripes(0.16, axis=2))
    p.ellipsoid((0, -tall * 0.9, -0.15), (0.05, 0.18, 0.2), rotate=(20, 0), color=fin)
    p.ellipsoid((thick * 0.95, -0.08, 0.12), (0.05, 0.1, 0.2), rotate=(20, 35), mirror="x", color=fin)
    eye = thick * 0.62
    p.ball((eye, tall * 0.2, long * 0.68), 0.095, mirror="x", color=P.color(d, (0.1, 0.16), (0.1, 0.4), (0.8, 0.9)))
    p.ball((eye + 0.05, tall * 0.2 + 0.01, long * 0.68 + 0.035), 0.06, mirror="x", color=P.dark(d))
    p.torus((0, -0.06, long * 0.97), 0.09, 0.045, color=fin)


def tree(p: Parts, d: Draws) -> None:
    autumn = P.color(d, (0.0, 0.15), (0.6, 0.9), (0.5, 0.85))
    green, bark, fruit = d.choose(P.leaf(d), P.leaf(d), P.leaf(d), autumn), P.wood(d), P.vivid(d)
    conifer = d.chance(0.45)
    trunk, tall = d.uniform(0.1, 0.16), d.uniform(0.25, 0.45)
    p.cone((0, -tall, 0), trunk * 1.4, tall, trunk, color=bark, color2=P.shade_of(bark, 0.7), pattern=P.stripes(0.15))
    wide = d.uniform(0.45, 0.6)
    spotted = P.pattern(d, "plain", "spots", "gradient", period=(0.25, 0.4))
    level = 0.0
    for i in range(3):
        shrink = 1 - 0.24 * i
        p.cone((0, level + 0.18, 0), wide * shrink, 0.3, wide * shrink * 0.3 * (i < 2) + 0.03, round=0.02,
               color=P.shade_of(green, 1 + 0.12 * i), active=conifer)
        level = level + d.uniform(0.3, 0.4)
    crown = d.uniform(0.42, 0.6)
    flat = d.uniform(0.75, 1.15)
    p.ellipsoid((0, crown * flat * 0.8, 0), (crown, crown * flat, crown), color=green, color2=fruit, pattern=spotted,
                active=~conifer)
    clumps = d.chance(0.6) & ~conifer
    p.ball((crown * 0.65, crown * flat * 0.5, crown * 0.55), crown * 0.5, mirror="xz", color=P.shade_of(green, 0.85),
           color2=fruit, pattern=spotted, active=clumps)
    p.ball((0, 0.0, 0), 0.06, color=bark)
    p.ellipsoid((0, -2 * tall, 0), (0.4, 0.08, 0.4), color=P.leaf(d), active=d.chance(0.4))
    p.ball((0, level + 0.17, 0), 0.085, color=P.color(d, (0.12, 0.15), (0.7, 0.9), (0.85, 0.95)),
           active=conifer & d.chance(0.3))


def plant(p: Parts, d: Draws) -> None:
    pot, accent, green, flower = P.any_of(d, P.vivid, P.wood, P.pale), P.vivid(d), P.leaf(d), P.vivid(d)
    radius, tall = d.uniform(0.3, 0.42), d.uniform(0.24, 0.36)
    p.cone((0, -tall, 0), radius * 0.7, tall, radius, color=pot, color2=accent,
           pattern=P.pattern(d, "plain", "rings", "checks", "spots", "belt"))
    p.cylinder((0, -0.05, 0), radius * 1.12, 0.07, round=0.02, color=pot)
    p.cylinder((0, 0.0, 0), radius * 0.95, 0.04, color=P.earth(d))
    kind = d.integer(3)  # leaves, cactus, flower
    reach, lift, leaf = d.uniform(0.35, 0.5), d.uniform(0.35, 0.6), d.uniform(0.1, 0.16)
    leafy = kind == 0
    for outward, up in ((1.0, 1.0), (0.45, 1.5)):
        x = reach * outward
        for along, mirror in (((x, 0), "x"), ((0, x), "z"), ((0.75 * x, 0.75 * x), "xz")):
            axis = (along[0] + 1e-6, lift * up, along[1])
            p.ellipsoid((along[0] * 0.6, lift * up * 0.6, along[1] * 0.6), (leaf, 0.36, 0.05 + 0 * leaf), axis=axis,
                        mirror=mirror, color=P.shade_of(green, 0.8 + 0.35 * (outward < 1)), active=leafy)
    cactus = kind == 1
    high = d.uniform(0.35, 0.5)
    p.capsule((0, 0, 0), (0, 2 * high, 0), d.uniform(0.2, 0.26), 0.2, color=green, color2=P.shade_of(green, 1.5),
              pattern=P.stripes(0.13, axis=0), active=cactus)
    p.capsule((0.15, high * 0.8, 0), (0.42, high * 0.9, 0), 0.1, color=green, active=cactus, mirror="x")
    p.capsule((0.42, high * 0.9, 0), (0.44, high * 1.5, 0), 0.1, color=green, active=cactus, mirror="x")
    p.ball((0, 2 * high + 0.19, 0), 0.1, color=flower, active=cactus)
    blooming = kind == 2
    stem = d.uniform(0.6, 0.8)
    p.capsule((0, 0, 0), (0, stem, 0), 0.06, color=green, active=blooming)
    p.ellipsoid((0.2, stem * 0.45, 0), (0.05, 0.22, 0.11), axis=(1, 0.6, 0), mirror="x", color=green, active=blooming)
    petal = d.uniform(0.15, 0.19)
    p.ellipsoid((0.19, stem + 0.1, 0.19), (petal, 0.075, petal), mirror="xz", color=flower, active=blooming)
    p.ellipsoid((0.27, stem + 0.1, 0), (petal, 0.07, petal * 0.9), mirror="x", color=flower, active=blooming)
    p.ellipsoid((0, stem + 0.1, 0.27), (petal * 0.9, 0.07, petal), mirror="z", color=flower, active=blooming)
    p.ball((0, stem + 0.13, 0), 0.14, color=P.color(d, (0.1, 0.16), (0.7, 0.9), (0.8, 0.95)), active=blooming)


def mushroom(p: Parts, d: Draws) -> None:
    cap, dot, stem = P.vivid(d), P.any_of(d, P.pale, P.vivid), P.any_of(d, P.pale, P.wood)
    wide, tall, high = d.uniform(0.5, 0.75), d.uniform(0.3, 0.5), d.uniform(0.3, 0.48)
    foot = d.uniform(0.16, 0.28)
    p.cone((0, -high, 0), foot * 1.25, high + 0.05, foot * 0.85, round=0.05, color=stem, color2=dot,
           pattern=P.pattern(d, "plain", "rings", "gradient"))
    pointed = d.chance(0.3)
    pattern = P.pattern(d, "plain", "spots", "spots", "rings", "gradient", period=(0.3, 0.45))
    p.ellipsoid((0, 0, 0), (wide, tall, wide), cut=(-0.05, 9), color=cap, color2=dot, pattern=pattern, active=~pointed)
    p.cone((0, 0.3, 0), wide, 0.35, 0.06, round=0.05, color=cap, color2=dot, pattern=pattern, active=pointed)
    p.cone((0, -0.06, 0), wide * 0.8, 0.05, wide * 0.95, color=P.shade_of(stem, 0.85))
    p.torus((0, -high * 0.6, 0), foot * 1.05, 0.065, rotate=(90, 0), color=dot, active=d.chance(0.4))
    young = d.chance(0.5)
    x, size = foot + d.uniform(0.16, 0.24), d.uniform(0.18, 0.26)
    p.cylinder((x, -2 * high + 0.2, 0.1), 0.09, 0.2, color=stem, active=young)
    p.ellipsoid((x, -2 * high + 0.36, 0.1), (size, size * 0.8, size), cut=(-0.03, 9), color=cap, color2=dot,
                pattern=pattern, active=young)


FAMILIES = {f.__name__: f for f in (quadruped, bird, fish, tree, plant, mushroom)}
