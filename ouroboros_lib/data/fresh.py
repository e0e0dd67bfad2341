"""Meshes as training sees them: turned, tilted, stretched, framed, painted and lit anew at each visit, the same in all
views. Cameras stay exact: an object that leans is what a photo from a slightly other elevation shows. Most objects keep
their shape: who sees round things stretched half of the time does not believe that a can is round.

Half of the objects are lit, since photos are, and the shape of flat-coloured ones cannot be read without light; the
others are not, as the renders that models are measured on.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from .folders import MultiviewObject
from .household import household
from .mesh_files import Part, find_mesh, is_gso, read_parts, read_texture
from .meshes import Z_TO_Y, Light, place_parts, render_mesh
from .pictures import SUFFIXES
from .renders import RenderSettings

ELEVATIONS = (-5.0, 40.0)  # degrees; steeper than what is measured on, since photos are
DEFORMED = 0.25  # share of the objects that lean and are stretched, and share that do not fill the picture
TILT = 6.0  # degrees, standard deviation
STRETCH = 0.12  # of the logarithm of each axis' length
SMALLEST = 0.8  # share of the ball that an object fills at least
LIT, PAINTED = 0.5, 0.5  # share of the objects; painted: of those with parts without a texture
REPEATS = (1.0, 3.0)  # of a swatch along the object's largest extent


def find_swatches(folder: str) -> list[Path]:
    """The pictures in a folder and below, to paint with; none for an empty name. Raises InputError."""
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES) if folder else []
    if folder and not found:
        raise InputError(f"swatches={folder}: no pictures (.jpg, .png, .webp) in this folder")
    return found


def fresh_views(name: str, path: Path, settings: RenderSettings, draw: random.Random,
                swatches: Sequence[Path] = (), tilt: float = TILT) -> MultiviewObject:
    """A mesh as `draw` decides, at a rig that it draws too; settings: sizes and numbers of views; tilt: degrees,
    standard deviation. Raises InputError."""
    path = find_mesh(path)
    parts, _ = read_parts(path)
    if swatches and draw.random() < PAINTED:
        parts = painted(parts, draw, swatches)
    return _rendered(name, path, parts, "z" if is_gso(path) else "y", settings, draw, tilt)


def household_views(settings: RenderSettings, draw: random.Random, swatches: Sequence[Path] = ()) -> MultiviewObject:
    """The same of something that `household` makes."""
    return _rendered("household", Path("household"), household(draw, swatches), "y", settings, draw, TILT)


def _rendered(name: str, path: Path, parts: list[Part], up: str, settings: RenderSettings,
              draw: random.Random, tilt: float) -> MultiviewObject:
    yaw, elevation = draw.uniform(0, 360), draw.uniform(*ELEVATIONS)
    shape = _deformation(draw, tilt) if draw.random() < DEFORMED else np.eye(3)
    if up == "z":
        shape = Z_TO_Y.T @ shape @ Z_TO_Y
    parts = [replace(part, vertices=part.vertices @ shape.T) for part in parts]
    mesh = place_parts(path, parts, up, yaw, [])
    scale = draw.uniform(SMALLEST, 1) if draw.random() < DEFORMED else 1
    away = np.array([draw.gauss(0, 1) for _ in range(3)])
    away *= draw.random() * (1 - scale) * np.abs(mesh.vertices).max() / np.linalg.norm(away)
    mesh = replace(mesh, vertices=(scale * mesh.vertices + away).astype(np.float32))
    light = _light(draw) if draw.random() < LIT else None
    rig = replace(settings, elevation=elevation, seed=draw.getrandbits(31)).cameras(name)
    views = render_mesh(mesh, rig, settings.size, settings.supersample, settings.views, depth=False, light=light)
    return replace(views, name=name)


def _deformation(draw: random.Random, tilt: float) -> np.ndarray:
    """(3, 3), y up: lengths along the axes, then a lean about a horizontal one."""
    stretch = np.diag(np.exp([draw.gauss(0, STRETCH) for _ in range(3)]))
    angle, axis = np.deg2rad(draw.gauss(0, tilt)), draw.uniform(0, 2 * np.pi)
    x, z, s, c = np.cos(axis), np.sin(axis), np.sin(angle), np.cos(angle)
    cross = np.array([[0, -z, 0], [z, 0, -x], [0, x, 0]])
    return (np.eye(3) + s * cross + (1 - c) * cross @ cross) @ stretch


def _light(draw: random.Random) -> Light:
    """From above, from any side."""
    height, azimuth = draw.uniform(0.25, 0.95), draw.uniform(0, 2 * np.pi)
    across = np.sqrt(1 - height**2)
    direction = np.array([across * np.sin(azimuth), height, across * np.cos(azimuth)])
    gain = draw.uniform(0.15, 0.4)
    return Light(direction, draw.uniform(0.9, 1.1) - gain, gain)


def painted(parts: list[Part], draw: random.Random, swatches: Sequence[Path]) -> list[Part]:
    """Parts that have no texture get a swatch, the same for a colour, projected along each triangle's main axis."""
    extent = max(np.ptp(np.concatenate([part.vertices for part in parts]), axis=0).max(), 1e-12)
    repeats, chosen, result = draw.uniform(*REPEATS) / extent, draw.choice(swatches), []
    picture = read_texture(chosen).astype(np.float32)
    # brightness alone, about 1: the colours are the object's own
    grain = (picture / picture.mean((0, 1)).clip(8)).clip(0, 1.4) / 1.4
    texture = np.rint(255 * grain).astype(np.uint8)
    for part in parts:
        if part.texture is not None or part.colors is None or part.see_through:
            result.append(part)
            continue
        corners = part.vertices[part.faces]
        axis = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])).argmax(1)
        others = np.array([[2, 1], [0, 2], [0, 1]])[axis][:, None]
        uv = np.take_along_axis(corners, np.broadcast_to(others, (len(axis), 3, 2)), axis=2) * repeats
        result.append(Part(corners.reshape(-1, 3), np.arange(3 * len(axis)).reshape(-1, 3), uv.reshape(-1, 2), texture,
                           np.minimum(1.4 * part.colors, 1)[part.faces].reshape(-1, 3)))
    return result
