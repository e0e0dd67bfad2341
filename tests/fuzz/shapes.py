"""Splats and meshes."""

import functools
import io
import json
import struct
import tempfile
from pathlib import Path

import gltf_inputs
import numpy as np
import torch
from gaussian_inputs import random_gaussians
from PIL import Image

from ouroboros_lib.cameras import OBJECT_RADIUS, orbit_cameras
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.export.formats import load_source
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.gaussians.formats import FORMATS as SPLATS
from ouroboros_lib.rasterization import rasterize

from .running import Format, expect


def sound_splat(gaussians: Gaussians) -> None:
    expect(all(torch.isfinite(tensor).all() for tensor in vars(gaussians).values()), "numbers that are not finite")
    expect(((gaussians.opacities >= 0) & (gaussians.opacities <= 1)).all(), "opacities beyond 0 to 1")
    expect((gaussians.scales >= 0).all(), "negative scales")
    expect(((gaussians.quaternions.norm(dim=-1) - 1).abs() < 1e-3).all(), "quaternions that are not of unit length")
    drawn = rasterize(gaussians, orbit_cameras([30.0], 20.0), 16)
    for name in ("rgb", "alpha", "depth"):
        expect(torch.isfinite(getattr(drawn, name)).all(), f"{name} that is not finite")


def _splat(suffix: str) -> Format:
    @functools.cache
    def examples() -> list[dict[str, bytes]]:
        some = random_gaussians(40)
        return [{f"g{suffix}": some.to_bytes(suffix, axes)} for axes in ("y-down", "z-up")]

    return Format(suffix[1:] if suffix != ".ply" else "splat-ply", examples,
                  lambda folder: sound_splat(Gaussians.load(folder / f"g{suffix}")))


@functools.cache
def _results() -> list[dict[str, bytes]]:
    record = {"settings": {"elevation": 12.5, "image": "a.png"}, "files": ["gaussians.ply"]}
    return [{"gaussians.ply": random_gaussians(3).to_bytes(".ply"), "result.json": json.dumps(record).encode()}]


def _read_result(folder) -> None:
    source = load_source(folder)
    sound_splat(source.gaussians)
    expect(-90 <= source.elevation <= 90, "an elevation beyond 90 degrees")


# ---- meshes ---------------------------------------------------------------------------------------------------------


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def sound_mesh(folder, name: str) -> None:
    mesh = load_mesh(folder / name)
    expect(np.isfinite(mesh.vertices).all(), "vertices that are not finite")
    used = mesh.vertices[np.unique(mesh.faces)]
    expect(np.linalg.norm(used, axis=1).max() < OBJECT_RADIUS * 1.01, "vertices beyond the ball")
    for part in mesh.parts:
        if part.texture is not None:
            expect(part.texture.dtype == np.uint8 and part.texture.shape[2] in (3, 4), "a texture of another kind")
        if part.colors is not None:
            expect(((part.colors >= 0) & (part.colors <= 1)).all(), "colours beyond 0 to 1")
    views = render_mesh(mesh, orbit_cameras([30.0], 20.0), 16, supersample=1)
    expect(torch.isfinite(views.depth).all(), "depth that is not finite")


OBJ = b"""# a square, a triangle and a polygon
mtllib model.mtl
v -1 -1 0 1 0 0
v 1 -1 0 0 1 0
v 1 1 0 0 0 1
v -1 1 0 1 1 0
v 0.2 0.1 1e-1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vn 0 0 1
usemtl skin
f 1/1/1 2/2/1 3/3/1 4/4/1
usemtl plain
f 1 2 5
f -1//1 -2//1 -3//1
"""
MTL = b"""newmtl skin
Kd 0.8 0.8 0.8
map_Kd -s 1 2 1 -o 0.1 0 chart.png
map_d holes.png
newmtl plain
Kd 1 0 0
d 0.5
"""


@functools.cache
def _obj() -> list[dict[str, bytes]]:
    pictures = {"chart.png": png(gltf_inputs.chart(size=8)), "holes.png": png(gltf_inputs.chart("L", 8))}
    bare = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 2 3 4\n"
    return [{"model.obj": OBJ, "model.mtl": MTL, **pictures}, {"model.obj": bare}]


@functools.cache
def _glb() -> list[dict[str, bytes]]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for change in gltf_inputs.APPLIED:
            built = gltf_inputs.Builder(gltf_inputs.chart(size=8))
            texture = built.view(png(gltf_inputs.chart(size=8)))
            built.record["images"] = [{"bufferView": texture, "mimeType": "image/png"}]
            change(built)
            found.append({"model.glb": built.write(Path(folder, "model.glb")).read_bytes()})
    return found


@functools.cache
def _gltf() -> list[dict[str, bytes]]:
    """The same with everything in files beside."""
    found = []
    for files in _glb()[::3]:
        data = files["model.glb"]
        size = struct.unpack_from("<I", data, 12)[0]
        record = json.loads(data[20:20 + size])
        record["buffers"][0]["uri"] = "numbers.bin"
        record["images"] = [{"uri": "chart%20a.png"}]
        found.append({"model.gltf": json.dumps(record).encode(), "numbers.bin": data[28 + size:],
                      "chart a.png": png(gltf_inputs.chart("RGBA", 8, holes=True))})
    return found


@functools.cache
def _ply() -> list[dict[str, bytes]]:
    text = b"""ply
format ascii 1.0
comment TextureFile chart.png
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 2
property list uchar int vertex_indices
property list uchar float texcoord
end_header
-1 -1 0 255 0 0
1 -1 0 0 255 0
1 1 0 0 0 255
-1 1 0 9 9 9
3 0 1 2 6 0 0 1 0 1 1
3 0 2 3 6 0 0 1 1 0 1
"""
    vertices = np.zeros(5, [(axis, "<f4") for axis in "xyz"] + [("s", "<f4"), ("t", "<f4")])
    for name, values in zip("xyzst", np.random.default_rng(0).random((5, 5)), strict=True):
        vertices[name] = values
    header = "".join(f"property float {name}\n" for name in "xyzst")
    faces = struct.pack("<B3i", 3, 0, 1, 2) + struct.pack("<B4i", 4, 0, 1, 2, 4)
    binary = (f"ply\nformat binary_little_endian 1.0\nelement vertex 5\n{header}element face 2\n"
              "property list uchar int vertex_index\nend_header\n").encode() + vertices.tobytes() + faces
    return [{"model.ply": text, "chart.png": png(gltf_inputs.chart(size=8))}, {"model.ply": binary}]


FORMATS = [*map(_splat, SPLATS), Format("result", _results, _read_result),
           *(Format(name, examples, functools.partial(sound_mesh, name=file)) for name, examples, file in (
               ("obj", _obj, "model.obj"), ("glb", _glb, "model.glb"), ("gltf", _gltf, "model.gltf"),
               ("mesh-ply", _ply, "model.ply")))]
