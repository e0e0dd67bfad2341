"""Fitting Gaussians to views: it must come close, stay in the visual hull, repeat itself and refuse nonsense."""

import pytest
import torch

from ouroboros_lib.cameras import OBJECT_RADIUS, orbit_cameras
from ouroboros_lib.data.procedural import render_objects, sample_objects
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.metrics import psnr
from ouroboros_lib.rasterization import fitting, rasterize
from ouroboros_lib.rasterization.fitting import fit_gaussians, hull_points

SIZE, VIEWS = 48, 12


@pytest.fixture(scope="module")
def views():
    index = torch.arange(VIEWS)
    cameras = orbit_cameras(index * 360.0 / VIEWS, torch.tensor([-5.0, 15.0, 35.0])[index % 3])
    seen = render_objects(sample_objects("test", [47]), cameras[None], SIZE)
    return seen.rgb[0], seen.alpha[0], cameras


def test_the_fit_reproduces_its_views_and_others(views):
    images, alpha, cameras = views
    scores = {}

    def watch(step, gaussians):
        if step in (0, 80):
            with torch.no_grad():
                scores[step] = float(psnr(rasterize(gaussians, cameras, SIZE).rgb.clamp(0, 1), images).mean())

    gaussians = fit_gaussians(images, alpha, cameras, count=1500, steps=80, callback=watch)
    assert gaussians.shape == (1500,) and not gaussians.means.requires_grad
    assert scores[80] > 30 and scores[80] > scores[0] + 8
    held_out = orbit_cameras([15.0, 105.0, 195.0, 285.0], 25.0)
    truth = render_objects(sample_objects("test", [47]), held_out[None], SIZE).rgb[0]
    assert psnr(rasterize(gaussians, held_out, SIZE).rgb.clamp(0, 1), truth).mean() > 29
    error = (rasterize(gaussians, cameras, SIZE).alpha - alpha).abs().mean()
    assert error < 0.012


def test_the_same_seed_gives_the_same_gaussians(views):
    first, again, other = (fit_gaussians(*views, count=50, steps=3, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first.to_tensor(), again.to_tensor(), atol=0, rtol=0)
    assert not torch.equal(first.means, other.means)


def test_every_view_has_its_turn(views, monkeypatch):
    """More views a step than there are: the order is drawn anew as often as needed."""
    images, alpha, cameras = (part[:3] for part in views)
    calls, looked_from = [], []

    def watched(gaussians, rig, size):
        looked_from.extend(rig.positions[:, 0].tolist())
        return rasterize(gaussians, rig, size)

    monkeypatch.setattr(fitting, "rasterize", watched)
    fit_gaussians(images, alpha, cameras, count=1, steps=2, views_per_step=7,
                  callback=lambda step, _: calls.append(step))
    assert calls == [0, 1, 2]
    assert sorted(looked_from.count(x) for x in cameras.positions[:, 0].tolist()) == [4, 5, 5]


def test_hull_points_lie_inside_every_outline_and_near_one(views):
    _, alpha, cameras = views
    points = hull_points(alpha, cameras, 400, torch.Generator().manual_seed(0))
    assert points.shape == (400, 3) and points.norm(dim=-1).max() <= OBJECT_RADIUS
    places, _ = cameras.project(points)
    column, row = (places * SIZE).long().unbind(-1)
    view = torch.arange(VIEWS)[:, None]
    assert (alpha[view, 0, row, column] > 0.5).all()
    outside = (alpha[:, 0] <= 0.5).nonzero()  # view, row, column
    nearest = torch.full((400,), float("inf"))
    for v in range(VIEWS):
        pixels = outside[outside[:, 0] == v][:, 1:]
        distance = (pixels[None] - torch.stack([row[v], column[v]], -1)[:, None]).abs().amax(-1).amin(1)
        nearest = torch.minimum(nearest, distance)
    assert nearest.max() <= 2  # pixels


def test_bad_input_is_refused_in_one_line(views):
    images, alpha, cameras = views
    for arguments, words in [((images[:, :2], alpha, cameras), "images"), ((images, alpha[:4], cameras), "alpha"),
                             ((images, alpha, cameras[:4]), "cameras"), ((images, images, cameras), "alpha")]:
        with pytest.raises(InputError, match=words) as caught:
            fit_gaussians(*arguments, count=10, steps=1)
        assert "\n" not in str(caught.value)
    for wrong in ({"count": 0}, {"steps": 0}, {"views_per_step": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            fit_gaussians(images, alpha, cameras, **wrong)
    with pytest.raises(InputError, match="belong together"):
        fit_gaussians(images, torch.zeros_like(alpha), cameras, count=10, steps=1)
