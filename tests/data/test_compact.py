"""Meshes made small look as before."""

import io

import numpy as np
import pytest
from library_inputs import obj
from PIL import Image

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.compact import MOST_FACES, compact_mesh
from ouroboros_lib.data.mesh_files import Part, read_parts
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.metrics import psnr


def box(colors=None, texture=None, uv=None):
    corners = np.stack(np.meshgrid([0, 4], [0, 2], [0, 1], indexing="ij"), -1).reshape(-1, 3).astype(float)
    faces = np.array([[0, 1, 3], [0, 3, 2], [4, 7, 5], [4, 6, 7], [0, 5, 1], [0, 4, 5], [2, 3, 7], [2, 7, 6]])
    return Part(corners, faces, uv, texture, colors)


def written(data, folder):
    (folder / "small.glb").write_bytes(data)
    return read_parts(folder / "small.glb")[0]


def test_it_looks_the_same(tmp_path):
    ramp = np.linspace(0, 255, 512, dtype=np.uint8)
    texture = Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp, 255 - ramp), -1))
    for name, data in obj("square").items():
        (tmp_path / name).write_bytes(data)
    texture.save(tmp_path / "square.png")
    parts, _ = read_parts(tmp_path / "square.obj")
    (small,) = written(compact_mesh(parts), tmp_path)
    assert small.texture.shape == (256, 256, 3)
    before, after = (render_mesh(load_mesh(tmp_path / name), evenly_spaced_orbit(4, 25.0), 64).images
                     for name in ("square.obj", "small.glb"))
    assert psnr(before, after).min() > 38


def test_size_place_and_colours(tmp_path):
    red, flat = np.tile([0.5, 0.25, 0], (8, 1)).astype(np.float32), np.full((4, 4, 3), 102, np.uint8)
    (small,) = written(compact_mesh([box(red), box(red), box(None, flat, np.zeros((8, 2)))]), tmp_path)
    assert len(small.vertices) == 16 and len(small.faces) == 24  # two boxes are one, the third has another colour
    assert np.allclose(small.vertices.min(0), -small.vertices.max(0), atol=1e-6)
    assert np.isclose(np.linalg.norm(small.vertices, axis=1).max(), 0.55)
    assert {tuple(np.rint(255 * color).astype(int)) for color in small.colors} == {(128, 64, 0), (102, 102, 102)}


def test_what_is_left_out():
    part = box()
    with pytest.raises(InputError, match="40008 faces"):
        compact_mesh([Part(part.vertices, np.tile(part.faces, (MOST_FACES // 8 + 1, 1)))])
    with pytest.raises(InputError, match="no extent"):
        compact_mesh([Part(np.zeros((3, 3)), np.array([[0, 1, 2]]))])


def test_the_same_mesh_gives_the_same_bytes():
    texture = np.asarray(Image.open(io.BytesIO(obj("a")["a.png"])))
    parts = [box(None, texture, np.random.default_rng(0).random((8, 2))), box()]
    assert compact_mesh(parts) == compact_mesh(parts)
