"""In a real browser: other people's programs show exported splats upright, from the side that they should, as we do.

They need what the tests of our own pages need (see test_browser.py), and node and npm to fetch the programs; where these
are not to be had they are skipped.
"""

import pytest
import torch
from gaussian_inputs import figure

from ouroboros_lib.gaussians import Gaussians
from tools.splat_programs import Missing, convert, draws, install


@pytest.fixture(scope="module")
def packages(browser):
    try:
        return install()
    except Missing as reason:
        pytest.skip(f"other people's programs: {reason}")


@pytest.mark.parametrize("program, suffix", [
    ("SuperSplat", ".ply"), ("SuperSplat", ".spz"), ("SuperSplat", ".sog"), ("Spark", ".ply"), ("Spark", ".spz"),
    ("Spark", ".sog"), ("mkkellogg", ".ply"), ("mkkellogg", ".splat")])
def test_programs_draw_what_we_draw(browser, packages, tmp_path, program, suffix):
    figure().save(tmp_path / f"figure{suffix}")
    for shot in draws(browser, packages, tmp_path, program, f"figure{suffix}", figure(), patience=30):
        assert shot.decibels > 30 and shot.decibels > 8 + max(shot.upside_down, shot.mirrored)


@pytest.mark.parametrize("suffix", [".spz", ".sog"])
def test_what_the_converter_makes_is_read(packages, tmp_path, suffix):
    """Its .spz is of version 4."""
    figure().save(tmp_path / "figure.ply")
    convert(packages, tmp_path / "figure.ply", tmp_path / f"figure{suffix}")
    again = Gaussians.load(tmp_path / f"figure{suffix}")
    torch.testing.assert_close(again.means.sort(0).values, figure().means.sort(0).values, atol=2e-4, rtol=0)
