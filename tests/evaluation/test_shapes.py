"""Splats and meshes seen from cameras that are taken to their world."""

import pytest
import torch
from evaluation_inputs import LEANING, Z_UP_X_FRONT

from ouroboros_lib.cameras import RADIUS, field_of_view, orbit_cameras
from ouroboros_lib.evaluation.shapes import Shape, splat_shape, transformed_cameras
from ouroboros_lib.gaussians import Gaussians


def test_cameras_taken_to_another_world_see_the_same():
    cameras = orbit_cameras([0.0, 70.0, 200.0], 15.0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = 1.7 * torch.from_numpy(LEANING @ Z_UP_X_FRONT)
    matrix[:3, 3] = torch.tensor([0.3, -0.2, 0.5])
    points = torch.rand(20, 3) - 0.5
    there = points @ matrix[:3, :3].T.float() + matrix[:3, 3].float()
    moved_cameras = transformed_cameras(cameras, matrix)
    (uv, depth), (uv_there, depth_there) = cameras.project(points), moved_cameras.project(there)
    torch.testing.assert_close(uv_there, uv, atol=1e-5, rtol=0)
    torch.testing.assert_close(depth_there, 1.7 * depth, atol=1e-5, rtol=0)
    torch.testing.assert_close(field_of_view(moved_cameras), field_of_view(cameras))


def test_turning_a_shape_goes_the_way_it_says():
    ball = Gaussians(torch.tensor([[0.0, 0, 0.3]]), torch.tensor([0.99]), torch.full((1, 3), 0.05),
                     torch.tensor([[1.0, 0, 0, 0]]), torch.zeros(1, 3))
    turned: Shape = splat_shape(ball).turned(90.0, 1.5)  # from +z to +x, and further out
    _, alpha, depth = turned.seen(orbit_cameras([90.0], 0.0), 32)
    assert alpha[0, 0, 15:17, 15:17].min() > 0.8
    assert depth[0, 0, 16, 16] == pytest.approx(RADIUS - 0.45, abs=0.01)
