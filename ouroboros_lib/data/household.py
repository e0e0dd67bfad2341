"""Household things with something printed on them, made as meshes: boxes, round things and bent ones.

What collections of free meshes lack and photos are full of: a can is round all about, a box has the same label in front
and behind, a cup a handle. `household` makes one, as `random.Random` decides; `fresh.py` renders it like any mesh.
"""

import colorsys
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .mesh_files import Part, read_texture

LYING = 0.3  # share of what can also lie that does
ROUND, LABEL = 40, (256, 160)  # corners of a circle; pixels of a label, wide and high


def household(draw: random.Random, swatches: Sequence[Path] = ()) -> list[Part]:
    """Parts of one thing, y up; swatches: pictures that some of the labels show."""
    make, lies = draw.choices([(_box, False), (_can, True), (_bottle, True), (_bowl, False), (_cup, False),
                               (_fruit, False), (_tool, False)], [5, 3, 3, 1.5, 2, 3, 2.5])[0]
    parts = make(draw, swatches)
    if lies and draw.random() < LYING:
        parts = [_moved(part, _turn(0, math.pi / 2)) for part in parts]
    return parts


def _box(draw: random.Random, swatches: Sequence[Path]) -> list[Part]:
    """From bricks to books, standing on any side; opposite sides are alike, or not."""
    size = np.array([draw.uniform(0.3, 1), draw.uniform(0.3, 1), draw.uniform(0.08, 1)])
    size = size[draw.sample(range(3), 3)]
    palette, alike = _palette(draw), draw.random() < 0.6
    plain = draw.random() < 0.25  # all sides of one colour
    parts, labels = [], {}
    for axis in range(3):
        for sign in (-1, 1):
            if sign < 0 or not alike:
                labels[axis] = _label(draw, palette, swatches, plain)
            u, v = ((2, 1), (0, 2), (0, 1))[axis]
            corners = np.zeros((4, 3))
            corners[:, axis] = sign * size[axis]
            corners[:, u], corners[:, v] = size[u] * np.array([-1, 1, 1, -1]), size[v] * np.array([-1, -1, 1, 1])
            uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
            if (sign > 0) == (axis == 0):  # read from outside, not mirrored
                uv[:, 0] = 1 - uv[:, 0]
            parts.append(Part(corners, np.array([[0, 1, 2], [0, 2, 3]]), uv, labels[axis]))
    return parts


def _can(draw: random.Random, swatches: Sequence[Path]) -> list[Part]:
    high, palette = math.exp(draw.uniform(-0.9, 1.3)), _palette(draw)
    rim = draw.uniform(0, 0.08)
    body = [_lathe([(1, -high), (1, high)], _label(draw, palette, swatches))]
    ends = _colour(palette[1] if draw.random() < 0.5 else (170, 170, 175))
    lid = [(1, high), (1 - rim, high + rim), (1 - 2 * rim, high), (0, high)]
    return body + [_lathe([(r, sign * y) for r, y in lid], ends) for sign in (-1, 1)]


def _bottle(draw: random.Random, swatches: Sequence[Path]) -> list[Part]:
    """A body, shoulders, a neck and a cap; flattened or waisted by chance."""
    palette, high = _palette(draw), draw.uniform(1.2, 3.2)
    neck, shoulder = draw.uniform(0.15, 0.6), draw.uniform(0.1, 0.5)
    waist = draw.choice([1, 1, draw.uniform(0.75, 1.1)])
    steps = np.linspace(0, 1, 9)
    side = [(1 + (waist - 1) * math.sin(math.pi * t) ** 2, high * t) for t in steps]
    slope = [(neck + (1 - neck) * (1 + math.cos(math.pi * t)) / 2, high + shoulder * high * t) for t in steps[1:]]
    top = slope[-1][1]
    plain = _colour(palette[0])
    parts = [_lathe([(0, 0), (1, 0)], plain), _lathe(side, _label(draw, palette, swatches)), _lathe(slope, plain)]
    cap, rise = _colour(palette[1]), draw.uniform(0.1, 0.5)
    wide = neck * draw.uniform(1, 1.3)
    parts.append(_lathe([(neck, top), (wide, top), (wide * draw.uniform(0.5, 1), top + rise), (0, top + rise)], cap))
    if draw.random() < 0.4:
        flat = np.diag([1, 1, draw.uniform(0.4, 0.8)])
        parts = [_moved(part, flat) for part in parts]
    return parts


def _bowl(draw: random.Random, swatches: Sequence[Path]) -> list[Part]:
    high, foot, power = draw.uniform(0.15, 0.9), draw.uniform(0.3, 0.7), draw.uniform(0.4, 1)
    steps, thick = np.linspace(0, 1, 12), 0.04
    outside = [(0, 0)] + [(foot + (1 - foot) * t**power, high * t) for t in steps]
    inside = [(max(r - thick, 0), max(y, thick)) for r, y in outside[:0:-1]] + [(0, thick)]
    palette = _palette(draw)
    outer = _label(draw, palette, swatches, plain=draw.random() < 0.6)
    return [_lathe(outside, outer), _lathe([outside[-1], *inside], _colour(draw.choice(palette)))]


def _cup(draw: random.Random, swatches: Sequence[Path]) -> list[Part]:
    """Mugs and pitchers, with a handle or without."""
    high, foot, thick = draw.uniform(1, 2.8), draw.uniform(0.6, 1.05), 0.06
    palette = _palette(draw)
    plain = _colour(palette[0])
    outside = [(foot + (1 - foot) * t, high * t) for t in np.linspace(0, 1, 6)]
    inside = [(r - thick, max(y, thick)) for r, y in reversed(outside)]
    parts = [_lathe([(0, 0), outside[0]], plain), _lathe(outside, _label(draw, palette, swatches, draw.random() < 0.5)),
             _lathe([outside[-1], *inside, (0, thick)], _colour(draw.choice(palette[:2])))]
    if draw.random() < 0.75:
        reach, middle, half = draw.uniform(0.4, 0.8), high * draw.uniform(0.45, 0.6), high * draw.uniform(0.22, 0.36)
        path = [(0.92 + reach * math.sin(a), middle + half * math.cos(a), 0) for a in np.linspace(0, math.pi, 14)]
        parts.append(_tube(np.array(path), np.full(14, draw.uniform(0.06, 0.14)), plain))
    return parts


def _fruit(draw: random.Random, swatches: Sequence[Path]) -> list[Part]:
    """Balls, apples, pears, lemons; some dimpled above, some with a stalk."""
    palette = _palette(draw)
    skin = _blend(draw, palette[0]) if draw.random() < 0.6 else _label(draw, palette, swatches)
    angles = np.linspace(0, math.pi, 26)
    tall = draw.choice([1, 1, draw.uniform(0.75, 1.7)])
    pear, dimple = draw.choice([0, 0, draw.uniform(0, 0.4)]), draw.choice([0, 0, draw.uniform(0.1, 0.35)])
    points = []
    for a in angles:
        y = -math.cos(a)
        radius = math.sin(a) * (1 - pear * (y + 1) / 2)
        points.append((radius, tall * (y - dimple * math.exp(-(radius / 0.35) ** 2) * (y > 0))))
    parts = [_lathe(points, skin)]
    if draw.random() < 0.3:
        stalk = np.array([(0.1 * t * draw.uniform(-1, 1), points[-1][1] + 0.35 * t, 0) for t in np.linspace(0, 1, 4)])
        parts.append(_tube(stalk, np.full(4, 0.05), _colour((80, 60, 30))))
    return parts


def _tool(draw: random.Random, swatches: Sequence[Path]) -> list[Part]:
    """Something long that lies, straight or bent: a handle and what it holds, or a banana."""
    palette, bend = _palette(draw), draw.choice([0.01, 0.01, draw.uniform(0.3, 1.8)])
    a = np.linspace(-bend / 2, bend / 2, 16)
    path = np.stack([np.sin(a), np.zeros(16), np.cos(a) - 1], 1) / bend * 2
    thick, split = draw.uniform(0.06, 0.25), draw.randint(4, 11)
    ends = draw.uniform(0.3, 1)
    shape = thick * np.interp(np.linspace(0, 1, 16), [0, 0.12, 0.88, 1], [ends, 1, 1, draw.uniform(0.2, 1)])
    if bend > 0.3:  # one piece
        parts = [_tube(path, shape, _blend(draw, palette[0]))]
    else:
        thin = draw.uniform(0.25, 0.9)
        parts = [_tube(path[:split + 1], shape[:split + 1], _label(draw, palette, swatches)),
                 _tube(path[split:], thin * shape[split:], _colour(palette[1]))]
        if draw.random() < 0.4:  # a head across: hammers, brushes
            across = np.array([path[-1] + (0, 0, s) for s in np.linspace(-1, 1, 4) * draw.uniform(0.1, 0.5)])
            parts.append(_tube(across, np.full(4, draw.uniform(0.08, 0.2)), _colour(palette[2])))
    flat = np.diag([1, draw.uniform(0.5, 1), 1])
    stand = _turn(2, math.pi / 2) if draw.random() < 0.15 else np.eye(3)
    return [_moved(part, stand @ flat) for part in parts]


def _lathe(profile: Sequence[tuple[float, float]], texture: np.ndarray) -> Part:
    """(radius, height) from below, turned about the y axis; the texture goes round once."""
    r, y = np.array(profile, float).T
    angles = np.linspace(0, 2 * np.pi, ROUND + 1)
    vertices = np.stack([r[:, None] * np.sin(angles), np.broadcast_to(y[:, None], (len(r), ROUND + 1)),
                         r[:, None] * np.cos(angles)], -1)
    way = np.concatenate([[0], np.cumsum(np.hypot(np.diff(r), np.diff(y)))])
    return _grid(vertices, way / max(way[-1], 1e-9), texture)


def _tube(path: np.ndarray, radii: np.ndarray, texture: np.ndarray) -> Part:
    """Circles along a path (N, 3), closed at both ends."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along, [0, 1, 0] if abs(along[:, 1]).max() < 0.9 else [0, 0, 1])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, along)
    angles = np.linspace(0, 2 * np.pi, ROUND // 2 + 1)[:, None]
    rings = path[:, None] + radii[:, None, None] * (np.cos(angles) * side[:, None] + np.sin(angles) * up[:, None])
    ends = [np.broadcast_to(point, rings[:1].shape) for point in (path[0], path[-1])]
    rings = np.concatenate([ends[0], rings, ends[1]])
    return _grid(rings, np.linspace(0, 1, len(rings)), texture)


def _grid(vertices: np.ndarray, v: np.ndarray, texture: np.ndarray) -> Part:
    """Triangles between the rows of (rows, columns, 3)."""
    rows, columns = vertices.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    uv = np.stack(np.broadcast_arrays(np.linspace(0, 1, columns), v[:, None]), -1)
    return Part(vertices.reshape(-1, 3).astype(np.float64), faces, uv.reshape(-1, 2), texture)


def _moved(part: Part, matrix: np.ndarray) -> Part:
    return Part(part.vertices @ matrix.T, part.faces, part.uv, part.texture)


def _turn(axis: int, angle: float) -> np.ndarray:
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    return matrix


def _palette(draw: random.Random) -> list[tuple[int, int, int]]:
    """Three colours, away from the white of the background; often greys and browns."""
    def one():
        saturation = draw.choice([draw.uniform(0, 0.15), draw.uniform(0.3, 0.6), draw.uniform(0.6, 1)])
        return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(draw.random(), saturation, draw.uniform(0.25, 0.95)))
    return [one() for _ in range(3)]


def _colour(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((2, 2, 3), colour, np.uint8)


def _blend(draw: random.Random, colour: tuple[int, int, int]) -> np.ndarray:
    """One colour that changes slowly over the surface, as the skin of fruit does."""
    waves = np.array([[draw.gauss(1, 0.13) for _ in range(4)] for _ in range(4)])
    coarse = waves[..., None] * np.array(colour)
    coarse[:, -1] = coarse[:, 0]  # it goes round
    return np.asarray(Image.fromarray(coarse.clip(0, 245).astype(np.uint8)).resize((64, 64), Image.BICUBIC))


def _label(draw: random.Random, palette: Sequence[tuple[int, int, int]], swatches: Sequence[Path],
           plain: bool = False) -> np.ndarray:
    """Something printed: bands, panels, discs, lines of writing, a picture."""
    wide, high = LABEL
    image = Image.new("RGB", LABEL, palette[0])
    if plain:
        return np.asarray(image)
    pen = ImageDraw.Draw(image)
    for _ in range(draw.randint(0, 3)):  # bands all about
        top = draw.uniform(-0.1, 1) * high
        pen.rectangle((0, top, wide, top + draw.uniform(0.03, 0.4) * high), fill=draw.choice(palette))
    again = draw.choice([1, 2, 2])  # what is in front is often behind as well
    x, y = draw.uniform(0.05, 0.3) * wide / again, draw.uniform(0.05, 0.4) * high
    w, h = draw.uniform(0.3, 0.65) * wide / again, draw.uniform(0.3, 0.6) * high
    light = tuple(min(250, c + 110) for c in draw.choice(palette))
    panel, shape, lines = draw.choice([*palette, light]), draw.random(), draw.randint(0, 5)
    ink = draw.choice([(25, 25, 25), (235, 235, 235), *palette])
    lengths = [draw.uniform(0.3, 0.9) for _ in range(lines)]
    picture = None
    if swatches and draw.random() < 0.25:
        picture = Image.fromarray(read_texture(draw.choice(swatches))[..., :3]).resize((max(int(w), 1), max(int(h), 1)))
    for k in range(again):
        left = x + k * wide / again
        if picture:
            image.paste(picture, (int(left), int(y)))
        elif shape < 0.6:
            pen.rectangle((left, y, left + w, y + h), fill=panel)
        elif shape < 0.85:
            pen.ellipse((left, y, left + w, y + h), fill=panel)
        for line, length in enumerate(lengths):
            row, tall = y + h * (line + 0.3) / max(lines, 1), h / max(lines, 1) * 0.45
            pen.rectangle((left + 0.08 * w, row, left + 0.08 * w + 0.84 * w * length, row + tall), fill=ink)
    return np.asarray(image)
