"""Geometry of splats against exact procedural objects and against shapes whose numbers are known."""

import math

import numpy as np
import pytest
import torch
import trimesh

from ouroboros_lib.data.meshes import load_mesh
from ouroboros_lib.data.procedural import render_objects, sample_objects, signed_distance
from ouroboros_lib.evaluation.geometry import (
    _carved,
    _grid,
    _iou,
    compare_surfaces,
    measure_shape,
    mesh_surface,
    procedural_surface,
    surrounding_cameras,
)
from ouroboros_lib.evaluation.shapes import splat_shape
from ouroboros_lib.gaussians import Gaussians


def splat(points, sigma=0.005, opacity=0.9):
    count = len(points)
    return Gaussians(points, torch.full((count,), opacity), torch.full((count, 3), sigma),
                     torch.tensor([1.0, 0, 0, 0]).expand(count, 4), torch.full((count, 3), 0.5))


@pytest.fixture(scope="module")
def scene():
    """An object, and every third of the points of its surface that the cameras see."""
    obj, rig = sample_objects("test", [4]), surrounding_cameras()
    depth = render_objects(obj, rig[None], 128, supersample=1, depth=True).depth
    points = rig.unproject(depth[0]).movedim(1, -1)[depth[0, :, 0] > 0][::3]
    return obj, rig, depth[0], points


@pytest.fixture(scope="module")
def good(scene):
    obj, _, _, points = scene
    return measure_shape(splat_shape(splat(points)), procedural_surface(obj))


def test_a_splat_on_the_surface_scores_high_and_a_shifted_one_low(scene, good):
    obj, _, _, points = scene
    shifted = measure_shape(splat_shape(splat(points + torch.tensor([0.06, 0, 0]))), procedural_surface(obj))
    # Gaussians with their centres on the surface stand out of it by about a standard deviation
    assert good["accuracy"] < 0.01 and good["completeness"] < 0.01 and good["f_score"] > 0.97 and good["iou"] > 0.88
    assert shifted["chamfer"] > 2.5 * good["chamfer"] and shifted["f_score"] < 0.8 and shifted["iou"] < 0.75
    assert good["chamfer"] == pytest.approx((good["accuracy"] + good["completeness"]) / 2)


def test_half_a_splat_is_accurate_but_not_complete(scene, good):
    obj, _, _, points = scene
    half = measure_shape(splat_shape(splat(points[points[:, 0] > 0])), procedural_surface(obj))
    assert half["completeness"] > 5 * good["completeness"] and half["f_score"] < 0.8


def test_carving_exact_depth_gives_the_object_back(scene):
    obj, rig, depth, _ = scene
    assert _iou(_carved(depth, rig), signed_distance(obj, _grid("cpu")[None])[0] < 0) > 0.9


def ball_depth(rig, radius):
    """Depth of a ball from its closed form, (V, 1, S, S)."""
    origins, directions = rig.rays(128)
    along = -(origins * directions).sum(-1)
    inside = radius**2 - (origins.square().sum(-1) - along.square())
    t = torch.where(inside > 0, along - inside.clamp_min(0).sqrt(), 0.0)
    forward = rig.c2w[:, None, None, :3, 2]
    return (t * (directions * forward).sum(-1))[:, None]


def test_carving_a_ball():
    rig, radius = surrounding_cameras(), 0.4
    cells = _carved(ball_depth(rig, radius), rig).sum().item()
    assert cells * (1.1 / 64) ** 3 == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.06)


@pytest.mark.parametrize(("radius", "f_score"), [(0.535, 1.0), (0.51, 0.0)])
def test_balls_in_one_another_by_hand(tmp_path, radius, f_score):
    """Balls of radius 0.55, a mesh, and of a smaller one, exact depth: all points lie the same distance apart."""
    trimesh.creation.icosphere(6).export(tmp_path / "ball.ply")
    rig, truth = surrounding_cameras(), mesh_surface(load_mesh(tmp_path / "ball.ply"), surrounding_cameras())
    record = compare_surfaces(ball_depth(rig, radius), truth, rig)
    for name in ("accuracy", "completeness", "chamfer"):
        assert record[name] == pytest.approx(0.55 - radius, rel=0.03), name
    assert record["f_score"] == pytest.approx(f_score, abs=0.01)
    assert record["iou"] == pytest.approx((radius / 0.55) ** 3, abs=0.03)


def test_distances_to_a_mesh_agree_with_an_exact_search(tmp_path):
    torus = trimesh.creation.torus(0.4, 0.15)
    torus.export(tmp_path / "torus.ply")
    mesh = load_mesh(tmp_path / "torus.ply")
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (400, 3))
    found = mesh_surface(mesh, surrounding_cameras()).distance(torch.from_numpy(points))
    exact = trimesh.proximity.closest_point_naive(trimesh.Trimesh(mesh.vertices, mesh.faces), points)[1]
    assert np.abs(found.numpy() - exact).max() < 5e-4


def test_an_invisible_splat_is_infinitely_far_away(scene):
    obj, _, _, points = scene
    record = measure_shape(splat_shape(splat(points, opacity=1e-4)), procedural_surface(obj))
    assert math.isinf(record["chamfer"]) and record["f_score"] == 0 and record["iou"] == 0
