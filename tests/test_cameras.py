"""Cameras: orbits, rays, projection, Pluecker coordinates, CCM and the two file formats."""

import json
import math

import pytest
import torch
from camera_files import read_cameras, write_opengl_cameras

from ouroboros_lib.cameras import (
    FOV,
    OBJECT_RADIUS,
    RADIUS,
    Cameras,
    cameras_to_record,
    evenly_spaced_orbit,
    field_of_view,
    from_canonical,
    opengl_to_opencv,
    orbit_cameras,
    to_canonical,
)
from ouroboros_lib.errors import InputError


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(torch.as_tensor(a, dtype=torch.float32), torch.as_tensor(b, dtype=torch.float32),
                               atol=tolerance, rtol=0)


def test_orbit_positions_and_axes():
    cameras = orbit_cameras([0.0, 90.0, 180.0, 0.0], [0.0, 0.0, 0.0, 90.0])
    close(cameras.positions, [[0, 0, RADIUS], [RADIUS, 0, 0], [0, 0, -RADIUS], [0, RADIUS, 0]])
    close(cameras.c2w[0, :3, :3], [[1, 0, 0], [0, -1, 0], [0, 0, -1]])  # right +x, down -y, forward -z
    rotation = orbit_cameras(torch.arange(0, 360, 25.0), 37.0).c2w[..., :3, :3]
    close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation))
    close(torch.linalg.det(rotation), torch.ones(len(rotation)))


def test_up_in_the_world_is_up_in_the_image_and_the_origin_is_in_the_middle():
    cameras = evenly_spaced_orbit(8, 20.0)
    uv, depth = cameras.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.3, 0.0]]))
    close(uv[:, 0], torch.full((8, 2), 0.5))
    close(depth[:, 0], torch.full((8,), RADIUS))
    close(uv[:, 1, 0], torch.full((8,), 0.5))
    assert (uv[:, 1, 1] < 0.4).all()
    right_of_view_0 = cameras.project(torch.tensor([[0.2, 0.0, 0.0]]))[0][0, 0, 0]
    assert right_of_view_0 > 0.6


def test_elevations():
    cameras = orbit_cameras([0.0, 70.0, 200.0, 30.0], [-5.0, 20.0, 45.0, 90.0], radius=2.0)
    close(cameras.elevations, [-5, 20, 45, 90], 1e-3)
    assert evenly_spaced_orbit(4, torch.tensor([0.0, 30.0])).elevations.shape == (2, 4)


def test_field_of_view():
    cameras = orbit_cameras([0.0], [0.0])
    close(field_of_view(cameras), [FOV], 1e-4)
    edge = RADIUS * math.tan(math.radians(FOV / 2))
    close(cameras.project(torch.tensor([[edge, edge, 0.0]]))[0], [[[1.0, 0.0]]])


def test_evenly_spaced_orbit_batches_over_elevations():
    cameras = evenly_spaced_orbit(4, torch.tensor([0.0, 30.0]))
    assert cameras.shape == (2, 4)
    close(cameras.positions[1, :, 1], torch.full((4,), RADIUS / 2))
    close(cameras[1].c2w, evenly_spaced_orbit(4, 30.0).c2w)
    close(cameras.views([2, 0]).c2w, cameras.c2w[:, [2, 0]])
    close(evenly_spaced_orbit(4).expand(3).c2w[2], evenly_spaced_orbit(4).c2w)


def test_world_to_camera_is_the_inverse():
    cameras = orbit_cameras([10.0, 200.0], [-5.0, 60.0])
    close(cameras.world_to_camera() @ cameras.c2w, torch.eye(4).expand(2, 4, 4))


def test_project_inverts_unproject():
    cameras = evenly_spaced_orbit(3, torch.tensor([10.0, -5.0]))
    depth = 0.5 + torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    points = cameras.unproject(depth)
    assert points.shape == (2, 3, 3, 16, 16)
    centres = (torch.arange(16) + 0.5) / 16
    for view in range(3):
        uv, z = cameras.views([view]).project(points[:, view].flatten(-2).mT)
        close(z[:, 0], depth[:, view, 0].flatten(-2))
        close(uv[:, 0, :, 0], centres.repeat(16).expand(2, -1))
        close(uv[:, 0, :, 1], centres.repeat_interleave(16).expand(2, -1))


def test_projected_points_and_rays_meet():
    cameras = orbit_cameras([20.0, 250.0], [5.0, 40.0])
    size = 64
    points = (torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) - 0.5) * 0.6
    uv, _ = cameras.project(points)
    origins, directions = cameras.rays(size)
    for view in range(2):
        column, row = (uv[view] * size).long().unbind(-1)
        direction, origin = directions[view, row, column], origins[view, row, column]
        distance = torch.linalg.cross(points - origin, direction).norm(dim=-1)
        half_diagonal = 2 ** -0.5 / size / cameras.intrinsics[view, 0, 0] * (RADIUS + 0.6)
        assert (distance <= half_diagonal).all()
        wrong_column = (column + 20) % size
        assert (torch.linalg.cross(points - origin, directions[view, row, wrong_column]).norm(dim=-1)
                > half_diagonal).all()


def test_pluecker_moment_is_orthogonal_and_the_same_along_the_ray():
    cameras = evenly_spaced_orbit(3, torch.tensor([0.0, 25.0]))
    coordinates = cameras.pluecker(8)
    assert coordinates.shape == (2, 3, 6, 8, 8)
    moment, direction = coordinates.split(3, dim=-3)
    close((moment * direction).sum(-3), torch.zeros(2, 3, 8, 8))
    close(direction.norm(dim=-3), torch.ones(2, 3, 8, 8))
    further = cameras.positions[..., None, None] + 1.7 * direction
    close(torch.linalg.cross(further, direction, dim=-3), moment)
    assert moment.norm(dim=-3).max() > 0.1  # not trivially zero


def test_one_world_point_has_one_ccm_value_in_every_view():
    point = torch.tensor([0.11, -0.2, 0.3])
    size, rig = 64, evenly_spaced_orbit(8, 15.0)
    _, depth = rig.project(point[None])
    for view in range(8):
        # Shift the principal point so that the point falls on a pixel centre: exact, no interpolation.
        camera = rig.views([view])
        offset = (torch.tensor([32.5, 20.5]) / size) - camera.project(point[None])[0][0, 0]
        intrinsics = camera.intrinsics.clone()
        intrinsics[..., :2, 2] += offset
        camera = Cameras(camera.c2w, intrinsics)
        depth_map = torch.zeros(1, 1, size, size)
        depth_map[0, 0, 20, 32] = depth[view, 0]
        ccm = camera.canonical_map(depth_map)
        close(ccm[0, :, 20, 32], to_canonical(point))
        assert ccm.count_nonzero() == 3  # background 0


def test_canonical_box():
    corners = torch.tensor([[-OBJECT_RADIUS] * 3, [0.0] * 3, [OBJECT_RADIUS] * 3])
    close(to_canonical(corners), [[0.0] * 3, [0.5] * 3, [1.0] * 3])
    close(from_canonical(to_canonical(corners)), corners)


def test_geometry_is_float32_under_autocast():
    cameras = evenly_spaced_orbit(2)
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cameras.project(points)[0], cameras.pluecker(8)
    assert torch.equal(inside[0], cameras.project(points)[0]) and torch.equal(inside[1], cameras.pluecker(8))


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="c2w must end in"):
        Cameras(torch.eye(3)[None], torch.eye(3)[None])
    with pytest.raises(ValueError, match="view dimension"):
        orbit_cameras(0.0, 0.0)


# Files


def test_opengl_axes_by_hand():
    """The unrotated OpenGL camera at z = 2 looks along -z, its image's right is +x and its up is +y."""
    opengl = torch.eye(4)
    opengl[2, 3] = 2
    opencv = opengl_to_opencv(opengl)
    close(opencv, [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]])
    close(opencv, orbit_cameras([0.0], [0.0], radius=2.0).c2w[0])
    close(opengl_to_opencv(opencv), opengl)


@pytest.mark.parametrize("entry", ["locations", "frames"])
def test_reads_opengl_file_by_hand(tmp_path, entry):
    matrix = [[0, 0, 1, 2], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]  # on +x: right is -z, up is +y, back is +x
    path = tmp_path / "meta.json"
    path.write_text(json.dumps({"camera_angle_x": math.radians(50), entry: [{"transform_matrix": matrix}]}))
    cameras = read_cameras(path)
    expected = orbit_cameras([90.0], [0.0], radius=2.0, fov=50.0)
    close(cameras.c2w, expected.c2w)
    close(cameras.intrinsics, expected.intrinsics)


def test_opengl_round_trip(tmp_path):
    cameras = evenly_spaced_orbit(8, 12.0)
    write_opengl_cameras(tmp_path / "meta.json", cameras, [f"render_{i:04d}.webp" for i in range(8)])
    again = read_cameras(tmp_path / "meta.json")
    close(again.c2w, cameras.c2w)
    close(again.intrinsics, cameras.intrinsics)
    stored = json.loads((tmp_path / "meta.json").read_text())["locations"][0]["transform_matrix"]
    close(torch.tensor(stored)[:3, 2], -cameras.c2w[0, :3, 2])  # the file's third axis points backward


def test_cameras_json_round_trip_is_exact(tmp_path):
    cameras = evenly_spaced_orbit(5, 12.0)
    (tmp_path / "cameras.json").write_text(json.dumps(cameras_to_record(cameras, 128)))
    again = read_cameras(tmp_path / "cameras.json")
    assert torch.equal(again.c2w, cameras.c2w) and torch.equal(again.intrinsics, cameras.intrinsics)
    with pytest.raises(ValueError, match=r"\(V,\)"):
        cameras_to_record(cameras.expand(2), 128)


def test_whole_numbers_in_a_file_become_floats(tmp_path):
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"c2w": [torch.eye(4).long().tolist()], "intrinsics": torch.eye(3).long().tolist()}))
    cameras = read_cameras(path)
    assert cameras.c2w.dtype == cameras.intrinsics.dtype == torch.float32
    assert cameras.intrinsics.shape == (1, 3, 3)


IDENTITY = torch.eye(4).tolist()


@pytest.mark.parametrize("content", [
    "", "not json", "[]", "{}", '{"c2w": [[1, 2]], "intrinsics": [[1]]}', '{"c2w": "abc", "intrinsics": []}',
    json.dumps({"c2w": [IDENTITY]}),
    json.dumps({"c2w": [IDENTITY], "intrinsics": [torch.eye(3).tolist()], "convention": "blender"}),
    json.dumps({"locations": [{"transform_matrix": IDENTITY}]}),
    json.dumps({"camera_angle_x": 0.7, "locations": []}),
    json.dumps({"camera_angle_x": "wide", "locations": [{"transform_matrix": IDENTITY}]}),
    json.dumps({"camera_angle_x": 0.7, "locations": [{"transform_matrix": torch.eye(3).tolist()}]}),
    json.dumps({"camera_angle_x": 0.7, "locations": [{"transform_matrix": IDENTITY[:3]}]}),
    json.dumps({"camera_angle_x": 0.7, "locations": [{"matrix": IDENTITY}]}),
])
def test_bad_camera_files_get_one_line(tmp_path, content):
    path = tmp_path / "cameras.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_cameras(path)
    assert "cameras.json" in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_camera_files(tmp_path):
    (tmp_path / "binary.json").write_bytes(bytes(range(128, 256)))
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "binary.json"):
        with pytest.raises(InputError, match=path.name):
            read_cameras(path)
