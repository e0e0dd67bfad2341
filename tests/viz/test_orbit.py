"""The figure of cameras, pictures and rays in 3D: everything stands where the cameras put it."""

import json

import numpy as np
import pytest
import torch

from ouroboros_lib.cameras import evenly_spaced_orbit, orbit_cameras
from ouroboros_lib.viz.orbit import COLOURS, at_depth, frustum_corners, orbit_figure, orbit_picture


@pytest.fixture
def rig():
    return evenly_spaced_orbit(4, 20.0)


def half_red(views: int, size: int = 32) -> torch.Tensor:
    """White pictures whose upper left quarter is red."""
    images = torch.ones(views, 3, size, size)
    images[:, 1:, : size // 2, : size // 2] = 0
    return images


def vertices(trace) -> torch.Tensor:
    return torch.from_numpy(np.stack([trace.x, trace.y, trace.z], -1).astype(np.float32))


def test_corners_project_back_to_the_corners_of_the_image(rig):
    corners = frustum_corners(rig, 0.6)
    for view in range(4):
        uv, depth = rig.views([view]).project(corners[view])
        torch.testing.assert_close(uv[0], torch.tensor([[0.0, 0.0], [1, 0], [1, 1], [0, 1]]), atol=1e-5, rtol=0)
        torch.testing.assert_close(depth[0], torch.full((4,), 0.6), atol=1e-5, rtol=0)


def test_at_depth_inverts_projection_also_off_the_middle(rig):
    uv = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    points = at_depth(rig, uv, 1.3)
    assert points.shape == (4, 5, 3)
    torch.testing.assert_close(rig.views([2]).project(points[2])[0][0], uv, atol=1e-5, rtol=0)


def test_figure_draws_one_frustum_per_view_through_its_centre(rig):
    lines = [trace for trace in orbit_figure(rig).data if trace.type == "scatter3d" and trace.mode == "lines"]
    assert [trace.name for trace in lines] == [f"view {v}" for v in range(4)]
    for view, trace in enumerate(lines):
        distances = (vertices(trace) - rig.positions[view]).norm(dim=-1)
        assert (distances < 1e-5).sum() == 2 and trace.line.color == COLOURS[view]


def triangles(figure) -> tuple[torch.Tensor, list[str]]:
    """Corners (T, 3, 3) and colour of each triangle of the pictures."""
    (mesh,) = (trace for trace in figure.data if trace.type == "mesh3d")
    corners = torch.stack([vertices(mesh)[torch.from_numpy(np.asarray(index).astype(np.int64))]
                           for index in (mesh.i, mesh.j, mesh.k)], dim=1)
    stops = {round(stop * mesh.cmax): colour for stop, colour in mesh.colorscale}
    return corners, [stops[int(index)] for index in mesh.intensity]


def test_pictures_stand_upright_in_their_frusta_and_white_stays_out(rig):
    corners, colours = triangles(orbit_figure(rig, half_red(4), pixels=8))
    assert len(corners) == 4 * 2 * 4 * 4 and set(colours) == {"#ff0000"}
    near = torch.cdist(corners.mean(1), rig.positions).argmin(1)  # the view each triangle belongs to
    for view in range(4):
        mine = corners[near == view]
        uv, depth = rig.views([view]).project(mine.flatten(0, 1))
        assert len(mine) == 2 * 4 * 4 and uv.min() > -1e-5 and uv.max() < 0.5 + 1e-5  # only the red quarter
        torch.testing.assert_close(depth, torch.full_like(depth, 0.75), atol=1e-5, rtol=0)
        a, b, c = mine.unbind(1)
        area = torch.linalg.cross(b - a, c - a).norm(dim=-1).sum() / 2
        side = 0.75 / rig.intrinsics[view, 0, 0]
        torch.testing.assert_close(area, (side / 2) ** 2)  # the triangles cover it once


def test_colours_keep_their_places(rig):
    images = half_red(4)
    images[:, :2, 16:, 16:] = 0  # lower right: blue
    corners, colours = triangles(orbit_figure(rig, images, pixels=8))
    uv = rig.views([0]).project(corners.mean(1))[0][0]
    near = torch.cdist(corners.mean(1), rig.positions).argmin(1)
    seen = [(float(u), colour) for (u, _), colour, view in zip(uv, colours, near, strict=True) if view == 0]
    assert len(seen) == 4 * 4 * 4
    assert all(colour == ("#ff0000" if u < 0.5 else "#0000ff") for u, colour in seen)


def test_all_white_pictures_draw_nothing(rig):
    assert not [trace for trace in orbit_figure(rig, torch.ones(4, 3, 16, 16)).data if trace.type == "mesh3d"]
    assert orbit_picture(rig, torch.ones(4, 3, 16, 16)).size == (760, 440)


def test_rays_and_points_are_drawn_as_given(rig):
    rays = torch.stack([rig.positions[:2], torch.zeros(2, 3)], dim=1)
    points = torch.tensor([[0.1, 0.2, 0.3], [0.0, -0.1, 0.2]])
    figure = orbit_figure(rig, points=points, colors=torch.tensor([[1.0, 0, 0], [0, 0.5, 2.0]]), rays=rays,
                          ray_colors=["#111", "#222"])
    drawn = {trace.name: trace for trace in figure.data if trace.name and trace.name.startswith("ray")}
    torch.testing.assert_close(vertices(drawn["ray 1"]), rays[1])
    assert drawn["ray 1"].line.color == "#222"
    (cloud,) = (trace for trace in figure.data if trace.mode == "markers")
    torch.testing.assert_close(vertices(cloud), points)
    assert list(cloud.marker.color) == ["#ff0000", "#0080ff"]


def test_figure_is_small_and_y_is_up():
    rig = evenly_spaced_orbit(8)
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.9  # no white at all: the worst
    figure = orbit_figure(rig, images)
    assert len(figure.to_json()) < 400_000
    assert json.loads(figure.to_json())["layout"]["scene"]["camera"]["up"] == {"x": 0, "y": 1, "z": 0}


def test_still_shows_the_picture_that_faces_us_the_right_way_round():
    """From azimuth 0 and elevation 0 we stand behind view 0: red is left of and above blue, as in its image."""
    images = half_red(1)
    images[:, :2, 16:, 16:] = 0
    still = np.asarray(orbit_picture(orbit_cameras([0.0], 0.0), images, azimuth=0, elevation=0)).astype(int)
    red, blue = (np.argwhere((still[..., c] > 200) & (still.sum(-1) < 320)) for c in (0, 2))
    assert len(red) > 200 and len(blue) > 200
    assert (red.mean(0) < blue.mean(0) - 10).all()


def test_still_shows_rays(rig):
    rays = torch.tensor([[[-1.0, 0, 0], [1.0, 0, 0]]])
    plain, drawn = (np.asarray(orbit_picture(rig, rays=given, ray_colors=colours)).astype(int)
                    for given, colours in ((None, None), (rays, ["#ff00ff"])))
    magenta = [((image[..., 0] > 200) & (image[..., 1] < 60) & (image[..., 2] > 200)).sum() for image in (plain, drawn)]
    assert magenta[0] == 0 and magenta[1] > 100


@pytest.mark.parametrize("wrong", [
    {"cameras": evenly_spaced_orbit(4).expand(2)}, {"images": torch.ones(3, 3, 8, 8)}, {"points": torch.ones(3)},
    {"colors": torch.ones(2, 3)}, {"points": torch.ones(2, 3), "colors": torch.ones(3, 3)},
    {"rays": torch.ones(2, 3)}, {"rays": torch.ones(2, 2, 3), "ray_colors": ["red"]}])
@pytest.mark.parametrize("draw", [orbit_figure, orbit_picture])
def test_wrong_shapes(draw, wrong):
    with pytest.raises(ValueError):
        draw(**{"cameras": evenly_spaced_orbit(4), **wrong})
