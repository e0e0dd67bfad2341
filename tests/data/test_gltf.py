"""glTF: features that change the picture are applied, or refused by the name that they have in the file."""

import sys
import types

import numpy as np
import pytest
from gltf_inputs import APPLIED, CHART, CORNERS, FACES, UV, Builder, chart, quarters
from PIL import Image

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.data import gltf_files
from ouroboros_lib.data.mesh_files import read_parts
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.errors import InputError


def seen(path, cameras=None):
    return render_mesh(load_mesh(path), cameras or orbit_cameras([0.0], 0.0), 64)


# ---- what is applied ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", APPLIED, ids=lambda change: change.__name__)
def test_the_same_square_said_otherwise(tmp_path, change):
    b = Builder()
    change(b)
    assert quarters(b.write(tmp_path / "square.glb")) == CHART


def test_wrapping_is_the_samplers(tmp_path):
    red, green, blue, yellow = CHART
    for wrap, expected in ((10497, [yellow, blue, green, red]), (33648, CHART), (33071, CHART)):
        b = Builder(uv=2 * UV - 0.5)  # corners of the picture meet in the middle of the square's edges
        b.sampler |= {"wrapS": wrap, "wrapT": wrap}
        rgb = seen(b.write(tmp_path / "square.glb")).rgba[0, :3]
        corners = [tuple(rgb[:, row, column].tolist()) for row in (21, 42) for column in (21, 42)]
        assert corners == expected, wrap


def test_textures_of_16_bits_are_grey_and_not_white(tmp_path):
    deep = Image.fromarray(np.full((8, 8), 0x8080, np.uint16))
    assert quarters(Builder(deep).write(tmp_path / "deep.glb")) == [(128, 128, 128)] * 4


def test_colours_of_vertices_multiply_and_whole_numbers_span_their_range(tmp_path):
    for color in (np.uint8([255, 255, 0]), np.uint16([65535, 65535, 0]), np.float32([1, 1, 0])):
        b = Builder()
        b.primitive["attributes"]["COLOR_0"] = b.add(np.tile(color, (4, 1)), normalized=color.dtype != np.float32)
        assert quarters(b.write(tmp_path / "square.glb")) == [(r, g, 0) for r, g, _ in CHART]


def test_masks_cut_holes_and_blending_lets_through(tmp_path):
    b = Builder(chart("RGBA", holes=True))
    b.material["alphaMode"] = "MASK"
    views = seen(b.write(tmp_path / "mask.glb"))
    assert quarters(tmp_path / "mask.glb") == [(255, 255, 255), *CHART[1:]]
    assert views.alpha[0, 0, 26, 26] == 0 and views.depth[0, 0, 26, 26] == 0 and views.depth[0, 0, 26, 37] > 1
    b = Builder()
    b.record["nodes"].append({"mesh": 1, "translation": [0, 0, 0.01]})  # a blue pane before it
    b.record["materials"].append({"alphaMode": "BLEND", "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 1, 0.25]}})
    b.record["meshes"].append({"primitives": [b.primitive | {"material": 1}]})
    views = seen(b.write(tmp_path / "pane.glb"))
    for (red, green, blue), mixed in zip(CHART, quarters(tmp_path / "pane.glb"), strict=True):
        expected = np.array([0.75 * red, 0.75 * green, 0.75 * blue + 0.25 * 255])
        assert np.abs(np.array(mixed) - expected).max() <= 1
    assert views.alpha[0, 0, 26, 26] == 1
    del b.record["materials"][1]["alphaMode"]  # opaque is the default, whatever the factor says
    assert quarters(b.write(tmp_path / "pane.glb")) == [(0, 0, 255)] * 4


def test_instances_stand_side_by_side(tmp_path):
    b = Builder()
    places = b.add(np.float32([(-1.5, 0, 0), (1.5, 0, 0)]))
    b.node["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": places}}}
    b.record["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    parts, _ = read_parts(b.write(tmp_path / "two.glb"))
    assert sorted(part.vertices[:, 0].mean() for part in parts) == [-1.5, 1.5]


def test_draco_is_undone_where_dracopy_is(tmp_path, monkeypatch):
    class Mesh:
        faces = FACES.reshape(-1, 3)

        def get_attribute_by_unique_id(self, number):
            return {"data": {7: CORNERS, 3: (65535 * UV).astype(np.uint16)}[number]}

    def decode(data):
        assert data == b"packed"
        return Mesh()

    monkeypatch.setitem(sys.modules, "DracoPy", types.SimpleNamespace(decode=decode))
    b = Builder()
    b.primitive["extensions"] = {gltf_files.DRACO: {"bufferView": b.view(b"packed"),
                                                    "attributes": {"POSITION": 7, "TEXCOORD_0": 3}}}
    for accessor, kind in ((0, 5126), (1, 5123)):
        b.accessors[accessor].pop("bufferView")
        b.accessors[accessor] |= {"componentType": kind, "normalized": kind == 5123}
    b.record["extensionsRequired"] = [gltf_files.DRACO]
    assert quarters(b.write(tmp_path / "packed.glb")) == CHART


# ---- what is refused or noted ---------------------------------------------------------------------------------------


def draco(b):
    b.primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    b.accessors[0].pop("bufferView")
    return "KHR_draco_mesh_compression"


def meshopt(b):
    b.record["extensionsRequired"] = ["EXT_meshopt_compression"]
    return "EXT_meshopt_compression"


def meshopt_without_saying_so(b):
    b.record["extensionsUsed"] = ["EXT_meshopt_compression"]
    b.views[0]["buffer"] = 1
    b.more = [{"byteLength": 48}]
    return "EXT_meshopt_compression"


def unknown(b):
    b.record["extensionsRequired"] = ["KHR_texture_transform", "ACME_folded_space"]
    return "ACME_folded_space"


def ktx(b):
    b.record["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    return "KHR_texture_basisu"


def old(b):
    b.record["asset"]["version"] = "1.0"
    return "version 1.0"


def circle(b):
    b.node["children"] = [0]
    b.record |= {"scenes": [{"nodes": [0]}]}
    return "node 0"


def cut_off(b):
    b.accessors[0]["count"] = 10**6
    return "cut off"


def endless(b):
    b.accessors[0] |= {"count": 10**12, "sparse": {}}
    b.accessors[0].pop("bufferView")
    return "1000000000000 values"


def numbers_elsewhere(b):
    b.views[0]["buffer"] = 1
    b.more = [{"uri": "gone.bin", "byteLength": 48}]
    return "gone.bin, is missing"


def too_few(b):
    b.primitive["attributes"]["TEXCOORD_0"] = b.add(UV[:2])
    return "2 texture coordinates for 4 vertices"


def beyond(b):
    b.primitive["indices"] = b.add(np.uint16([0, 1, 9]))
    return "vertices which are not there"


REFUSED = [draco, meshopt, meshopt_without_saying_so, unknown, ktx, old, circle, cut_off, endless, numbers_elsewhere,
           too_few, beyond]


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_cannot_be_drawn_is_refused_by_name(tmp_path, capfd, change):
    b = Builder()
    word = change(b)
    with pytest.raises(InputError) as caught:
        read_parts(b.write(tmp_path / "square.glb"))
    message = str(caught.value)
    assert word in message and message.startswith(f"{tmp_path / 'square.glb'}: ") and "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_what_is_left_out_becomes_a_note(tmp_path):
    b = Builder()
    b.mesh["primitives"].append(b.primitive | {"mode": 1})
    b.material |= {"emissiveFactor": [0, 1, 0], "extensions": {"KHR_materials_transmission": {"transmissionFactor": 1}}}
    b.record["extensionsUsed"] = ["ACME_sparkle", "KHR_lights_punctual"]
    _, notes = read_parts(b.write(tmp_path / "square.glb"))
    for word in ("ACME_sparkle", "points or lines", "emissiveFactor", "KHR_materials_transmission"):
        assert sum(word in note for note in notes) == 1
    assert len(notes) == 4


def test_no_node_or_empty_json(tmp_path):
    (tmp_path / "list.gltf").write_text("[]")
    (tmp_path / "empty.gltf").write_text('{"asset": {"version": "2.0"}}')
    for name, word in (("list.gltf", "no glTF"), ("empty.gltf", "no triangles")):
        with pytest.raises(InputError, match=word):
            read_parts(tmp_path / name)
