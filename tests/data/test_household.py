"""Household things: whole meshes, of many kinds, round where they are round, with labels that read from outside."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ouroboros_lib.data import household as module
from ouroboros_lib.data.fresh import ELEVATIONS, household_views
from ouroboros_lib.data.household import household
from ouroboros_lib.data.renders import RenderSettings

SETTINGS = RenderSettings(32, 8, 0, None, supersample=1)


def test_every_draw_is_a_whole_thing_that_can_be_seen():
    for seed in range(60):
        parts = household(random.Random(seed))
        for part in parts:
            assert np.isfinite(part.vertices).all() and part.faces.max() < len(part.vertices)
            assert part.uv.shape == (len(part.vertices), 2) and part.texture.dtype == np.uint8
            assert part.texture.shape[2] == 3
        views = household_views(SETTINGS, random.Random(seed))
        assert (views.rgba[:, 3] > 0).any((1, 2)).all()
        assert not views.rgba[:, 3, [0, -1]].any() and not views.rgba[:, 3, :, [0, -1]].any()


def test_a_draw_decides_all():
    one, again, other = (household_views(SETTINGS, random.Random(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.rgba, again.rgba) and torch.equal(one.cameras.c2w, again.cameras.c2w)
    assert not torch.equal(one.rgba, other.rgba)
    seen = []
    for seed in range(40):
        x, y, z = household_views(SETTINGS, random.Random(seed)).cameras.positions[0].tolist()
        seen.append(np.rad2deg(np.arctan2(y, np.hypot(x, z))))
    low, high = ELEVATIONS
    assert low <= min(seen) < low + 8 and high - 8 < max(seen) <= high


@pytest.mark.parametrize("make", [module._can, module._fruit, module._bowl])
def test_round_things_have_one_outline_from_all_sides(make):
    from ouroboros_lib.cameras import evenly_spaced_orbit
    from ouroboros_lib.data.meshes import place_parts, render_mesh

    for seed in range(3):
        draw = random.Random(seed)
        parts = [part for part in make(draw, ()) if len(part.vertices) > 6 * (module.ROUND // 2 + 1)] \
            if make is module._fruit else make(draw, ())
        mesh = place_parts(Path("thing"), parts[:1] if make is module._fruit else parts, "y", 0.0, [])
        alpha = render_mesh(mesh, evenly_spaced_orbit(8, 15.0), 48, depth=False).rgba[:, 3].float()
        assert (alpha - alpha[:1]).abs().mean() < 4  # of 255: the corners of a polygon


def test_writing_on_a_box_is_not_mirrored(monkeypatch):
    """A label whose right half is red shows red on the right of every side that is seen upright."""
    from ouroboros_lib.cameras import evenly_spaced_orbit
    from ouroboros_lib.data.meshes import place_parts, render_mesh

    label = np.zeros((20, 20, 3), np.uint8)
    label[:, 10:, 0] = 220
    label[:, :10, 2] = 220
    monkeypatch.setattr(module, "_label", lambda *given: label)
    mesh = place_parts(Path("box"), module._box(random.Random(1), ()), "y", 0.0, [])
    for view in render_mesh(mesh, evenly_spaced_orbit(4, 0.0), 64, depth=False).rgba.float():
        rgb, there = view[:3], view[3] > 128
        columns = torch.arange(64).expand(64, 64)
        red, blue = (columns[there & (rgb[channel] > 150)].float().mean() for channel in (0, 2))
        assert red > blue


def test_pictures_are_on_some_of_the_labels(tmp_path):
    Image.new("RGB", (8, 8), (13, 201, 77)).save(tmp_path / "swatch.png")
    shown = [any((part.texture == (13, 201, 77)).all(-1).any() for part in household(random.Random(seed),
             [tmp_path / "swatch.png"])) for seed in range(60)]
    assert 3 < sum(shown) < 40
