"""Meshes as training sees them: drawn anew, lit and painted; and which of them it never sees."""

import random

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch.testing import assert_close

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.fresh import find_swatches, fresh_views, painted
from ouroboros_lib.data.layouts import find_meshes, holds_meshes
from ouroboros_lib.data.mesh_files import read_parts
from ouroboros_lib.data.meshes import Light, load_mesh, render_mesh
from ouroboros_lib.data.renders import RenderSettings, held_out
from ouroboros_lib.errors import InputError

SETTINGS = RenderSettings(24, 4, 2, None, supersample=1)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """Two folders of plain boxes and a ball."""
    root = tmp_path_factory.mktemp("meshes")
    for name, color in (("a/box1", (200, 60, 40)), ("a/box2", (40, 60, 200)), ("b/ball", (90, 160, 90)),
                        ("b/rod", (90, 90, 90))):
        shape = trimesh.creation.icosphere(3) if "ball" in name else trimesh.creation.box((1, 2, 3))
        shape.visual.vertex_colors = np.tile((*color, 255), (len(shape.vertices), 1)).astype(np.uint8)
        (root / name).parent.mkdir(exist_ok=True)
        shape.export(root / f"{name}.glb")
    return root


def test_a_draw_decides_all_and_every_draw_is_another(meshes):
    one, again, other = (fresh_views("box1", meshes / "a" / "box1.glb", SETTINGS, random.Random(seed))
                         for seed in (0, 0, 1))
    assert torch.equal(one.rgba, again.rgba) and torch.equal(one.cameras.c2w, again.cameras.c2w)
    assert not torch.equal(one.rgba, other.rgba) and not torch.equal(one.cameras.c2w, other.cameras.c2w)
    assert one.rgba.shape == (6, 4, 24, 24) and one.num_orbit_views == 4 and one.depth is None
    orbit = one.cameras.positions[:4]
    assert_close(orbit[:, 1], orbit[:1, 1].expand(4))  # one elevation, view 0 at azimuth 0
    assert abs(float(orbit[0, 0])) < 1e-6
    for seed in range(12):  # whatever is drawn stays in the picture
        rgba = fresh_views("rod", meshes / "b" / "rod.glb", SETTINGS, random.Random(seed)).rgba
        assert (rgba[:, 3] > 0).any((1, 2)).all()
        assert not rgba[:, 3, [0, -1]].any() and not rgba[:, 3, :, [0, -1]].any()


def test_a_lamp_stands_still_while_the_camera_goes_round(meshes):
    mesh, rig = load_mesh(meshes / "b" / "ball.glb"), evenly_spaced_orbit(4, 0.0)
    plain = render_mesh(mesh, rig, 33).rgba.float()
    lit = render_mesh(mesh, rig, 33, light=Light(np.array([1.0, 0, 0]), 0.7, 0.3), depth=False)
    assert lit.depth is None and torch.equal(lit.rgba[:, 3].float(), plain[:, 3])
    share = (lit.rgba.float() / plain)[:, 0, 16, 16]  # the middle of the ball faces the camera
    assert_close(share, torch.tensor([0.7, 1.0, 0.7, 0.4]), atol=0.03, rtol=0)


def test_round_surfaces_are_lit_smoothly_and_edges_stay_sharp(meshes, tmp_path):
    ball = trimesh.creation.icosphere(2)  # 320 triangles
    ball.visual.vertex_colors = np.tile(np.uint8([255, 255, 255, 255]), (len(ball.vertices), 1))
    ball.export(tmp_path / "ball.ply")
    light, rig = Light(np.array([0.6, 0.64, 0.48]), 0.5, 0.5), evenly_spaced_orbit(1, 20.0)
    shades = []
    for path in (tmp_path / "ball.ply", meshes / "a" / "box1.glb"):
        rgba = render_mesh(load_mesh(path, yaw=30), rig, 64, 1, light=light).rgba[0]
        shades.append(rgba[0][rgba[3] == 255].unique())
    assert len(shades[0]) > 100 and len(shades[1]) <= 3  # one a face


def test_flat_colours_are_painted_in_grain_and_textures_are_left_alone(meshes, tmp_path):
    stripes = np.zeros((16, 16, 3), np.uint8) + np.uint8([60, 180])[np.arange(16) // 4 % 2][None, :, None]
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    swatches = find_swatches(str(tmp_path))
    (part,), _ = read_parts(meshes / "a" / "box1.glb")
    (new,) = painted([part], random.Random(0), swatches)
    assert len(new.faces) == len(part.faces) and new.texture.shape == (16, 16, 3)
    corners = new.vertices[new.faces]
    assert np.allclose(corners, part.vertices[part.faces])
    edges = np.linalg.norm(np.diff(new.uv[new.faces], axis=1), axis=-1)  # on a box nothing is squeezed
    assert np.allclose(edges / np.linalg.norm(np.diff(corners, axis=1), axis=-1), edges[0, 0] / np.linalg.norm(
        corners[0, 1] - corners[0, 0]))
    assert painted([new], random.Random(0), swatches) == [new]
    with pytest.raises(InputError, match="swatches=.*no pictures"):
        find_swatches(str(meshes))
    assert find_swatches("") == []


def test_families_are_held_out_as_a_whole(meshes):
    found = find_meshes([meshes])
    assert set(found) == {"box1", "box2", "ball", "rod"} and holds_meshes(meshes)
    names = [f"{kind}{tail}" for kind in ("chair", "table", "lamp", "cup") for tail in ("", "2", "_A", "_B_1")] + ["x"]
    for count, size in ((3, 1), (9, 9), (17, 17)):
        out = held_out(names, count)
        assert out == held_out(reversed(names), count) and len(out) == size
        kinds = [name.rstrip("2AB_1") for name in out]
        assert all(kinds.count(kind) == (1 if kind == "x" else 4) for kind in kinds)
