"""Meshes of splats: closed, in their place and size, in their colours, as trimesh and our own renderer read them."""

import sys

import numpy as np
import pytest
import torch
import trimesh
from gaussian_inputs import figure

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.data.meshes import load_mesh
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.metrics import psnr
from ouroboros_lib.evaluation.shapes import SAME, mesh_shape
from ouroboros_lib.export.formats import FORMATS, Settings, Source
from ouroboros_lib.export.mesh import check_mesh, glb_bytes, splat_to_mesh, srgb_to_linear
from ouroboros_lib.export.surface import _manifold, _parts
from ouroboros_lib.export.texture import fill_gaps, texels
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import rasterize

CENTRES = np.array([[0.0, -0.1, 0.0], [0.0, 0.3, 0.0], [-0.3, -0.1, 0.0], [0.05, -0.05, 0.3]])  # of figure()
RADII = np.array([0.25, 0.18, 0.12, 0.1])
SIDES = orbit_cameras(torch.tensor([0.0, 110.0]), 15.0)


@pytest.fixture(scope="module")
def mesh():
    return splat_to_mesh(figure(6000), faces=3000)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An object of each format, with a texture and without."""
    folder = tmp_path_factory.mktemp("meshes")
    for name in ("glb", "obj"):
        for texture in (False, True):
            path = folder / f"{'baked' if texture else 'plain'}.{name}"
            FORMATS[name].write(path, Source(figure(6000)), Settings(faces=3000, texture=texture))
    return folder


def test_the_surface_is_closed_and_where_the_object_is(mesh):
    assert mesh.is_watertight and mesh.body_count == 1 and 2500 < len(mesh.faces) <= 3000
    off = (np.linalg.norm(mesh.vertices[:, None] - CENTRES, axis=-1) - RADII).min(1)  # of the union's surface
    assert 0 < off.mean() < 0.03 and off.std() < 0.008 and off.max() < 0.04  # Gaussians reach out by 0.017
    grid = np.stack(np.meshgrid(*[np.linspace(-0.55, 0.55, 56)] * 3), -1).reshape(-1, 3)
    inside = ((np.linalg.norm(grid[:, None] - CENTRES, axis=-1) - RADII).min(1) < 0).mean() * 1.12**3
    assert mesh.volume == pytest.approx(inside, rel=0.4)  # and positive: triangles face outwards


def test_size_and_place_are_the_splats(mesh):
    """Ten times as large and elsewhere, the same mesh comes out there."""
    splat = figure(6000)
    far = Gaussians(splat.means * 10 + 7, splat.opacities, splat.scales * 10, splat.quaternions, splat.colors)
    moved = splat_to_mesh(far, faces=3000)
    np.testing.assert_allclose(moved.bounds, mesh.bounds * 10 + 7, atol=0.1)
    assert moved.volume == pytest.approx(mesh.volume * 1000, rel=0.02)


@pytest.mark.parametrize("name", ["plain.glb", "baked.glb", "plain.obj", "baked.obj"])
def test_files_look_like_the_splat(files, name):
    """Our renderer takes colours as glTF and OBJ mean them: linear at a GLB's vertices, sRGB elsewhere."""
    ours = rasterize(figure(6000), SIDES, 128).rgb.clamp(0, 1)
    seen, _, _ = mesh_shape(files / name, SAME).seen(SIDES, 128)
    for image, expected in zip(seen, ours, strict=True):
        agreement = float(psnr(image, expected))
        assert agreement > 24 and agreement > 8 + float(psnr(image, expected.flip(-1)))
        assert agreement > 8 + float(psnr(image, expected.flip(-2)))
    assert not load_mesh(files / name).notes


def test_what_trimesh_reads(files):
    plain = trimesh.load(files / "plain.glb", force="mesh")
    assert plain.is_watertight and plain.volume > 0
    assert plain.visual.material.metallicFactor == 0 and plain.visual.material.roughnessFactor == 1
    baked = trimesh.load(files / "baked.glb", force="mesh")
    np.testing.assert_allclose(baked.bounds, plain.bounds, atol=1e-6)
    assert baked.visual.material.baseColorTexture.size == (1024, 1024)
    baked.merge_vertices(merge_tex=True, merge_norm=True)  # where the atlas is cut
    assert baked.is_watertight
    assert {path.name for path in files.iterdir()} == {"plain.glb", "baked.glb", "plain.obj", "baked.obj", "baked.mtl",
                                                       "baked.png"}


def test_vertex_colours_are_stored_linear(mesh):
    (read,) = trimesh.load(trimesh.util.wrap_as_stream(glb_bytes(mesh)), file_type="glb").geometry.values()
    stored = np.asarray(read.visual.vertex_attributes["color"], np.float64)[:, :3] / 65535
    srgb = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
    np.testing.assert_allclose(stored, srgb_to_linear(srgb), atol=1e-4)
    assert srgb_to_linear(np.array([0.5])) == pytest.approx(0.2140, abs=1e-4)


def test_edges_where_a_thin_part_collapsed_are_mended():
    """Two tetrahedra that share an edge, and a pair of triangles back to back."""
    points = np.array([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [3, 3, 3]])
    first, second = [[0, 1, 2], [0, 3, 1], [1, 3, 2], [0, 2, 3]], [[0, 1, 4], [0, 5, 1], [1, 5, 4], [0, 4, 5]]
    faces = np.array([*first, *second, [2, 3, 6], [3, 2, 6]])
    assert not trimesh.Trimesh(points, faces).is_watertight
    mended = _manifold(points, faces)
    assert mended.is_watertight and len(mended.faces) == 12
    assert trimesh.Trimesh(mended.vertices.astype(np.float32), mended.faces).is_watertight  # merged again


def test_texels_know_their_point():
    uv = np.array([[0.0, 0.0], [1, 0], [0, 1], [1, 1]])
    rows, columns, triangle, weights = texels(uv, np.array([[0, 1, 2], [3, 2, 1]]), 8)
    assert len(rows) == 64
    corners = uv[np.array([[0, 1, 2], [3, 2, 1]])[triangle]]
    place = (corners * weights[..., None]).sum(1)
    np.testing.assert_allclose(place, np.stack([(columns + 0.5) / 8, 1 - (rows + 0.5) / 8], -1), atol=1e-9)
    picture, filled = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool)
    picture[1, 1], filled[1, 1] = 9, True
    assert (fill_gaps(picture, filled) == 9).all()


def test_what_has_no_surface_and_what_is_missing(monkeypatch):
    faint = figure(400)
    with pytest.raises(InputError, match="no opaque Gaussian: no mesh"):
        splat_to_mesh(Gaussians(faint.means, faint.opacities * 0.1, faint.scales, faint.quaternions, faint.colors))
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(InputError, match=r"^a mesh needs the package xatlas, .*pip install -e '\.\[export\]'"):
        check_mesh()


def test_parts_stay_and_floaters_go():
    ball, part, floater = (trimesh.creation.icosphere(detail, 0.1).apply_translation((0.5 * i, 0, 0))
                           for i, detail in enumerate((3, 1, 0)))  # 1,280, 80 and 20 triangles
    kept = _parts(trimesh.util.concatenate([ball, part, floater]))
    assert kept.is_watertight and len(kept.faces) == 1280 + 80 and kept.bounds[1, 0] < 0.7
