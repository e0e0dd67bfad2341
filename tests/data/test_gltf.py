"""glTF: features that change the picture are applied, or refused by the name that they have in the file."""

import base64
import io
import json
import struct
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.data import gltf_files
from ouroboros_lib.data.mesh_files import read_parts
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.errors import InputError

CHART = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]  # above left, above right, below left, below right
CORNERS = np.float32([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)])
UV = np.float32([(0, 1), (1, 1), (1, 0), (0, 0)])  # v downwards, as glTF has it
FACES = np.uint16([0, 1, 2, 0, 2, 3])


def chart(mode="RGB", size=64, holes=False):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = np.uint8(CHART).reshape(2, 2, 3), 255
    if holes:
        pixels[0, 0, 3] = 0
    return Image.fromarray(pixels.repeat(size // 2, 0).repeat(size // 2, 1)).convert(mode)


class Builder:
    """A glTF of one textured square, to be changed before it is written."""

    def __init__(self, texture=None, uv=UV):
        self.data, self.views, self.accessors, self.more = b"", [], [], []
        attributes = {"POSITION": self.add(CORNERS), "TEXCOORD_0": self.add(uv)}
        self.primitive = {"attributes": attributes, "indices": self.add(FACES), "material": 0}
        self.material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}
        self.mesh, self.node, self.sampler = {"primitives": [self.primitive]}, {"mesh": 0}, {}
        self.record = {"asset": {"version": "2.0"}, "nodes": [self.node], "meshes": [self.mesh],
                       "materials": [self.material], "textures": [{"source": 0, "sampler": 0}],
                       "samplers": [self.sampler], "images": [{"uri": uri(texture or chart())}]}

    @property
    def texture(self):
        return self.material["pbrMetallicRoughness"]["baseColorTexture"]

    def view(self, data):
        self.data += bytes(-len(self.data) % 8)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)})
        self.data += data
        return len(self.views) - 1

    def add(self, values, **more):
        values = np.asarray(values)
        kind = {np.dtype(dtype).name: number for number, dtype in gltf_files.TYPES.items()}[values.dtype.name]
        shape = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[int(np.prod(values.shape[1:]))]
        self.accessors.append({"bufferView": self.view(values.tobytes()), "componentType": kind, "type": shape,
                               "count": len(values), **more})
        return len(self.accessors) - 1

    def write(self, path, **more):
        self.record |= {"bufferViews": self.views, "accessors": self.accessors, **more}
        self.record["buffers"] = [{"byteLength": len(self.data)}, *self.more]
        text = json.dumps(self.record).encode()
        text += b" " * (-len(text) % 4)
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(self.data))
                         + struct.pack("<I4s", len(text), b"JSON") + text
                         + struct.pack("<I4s", len(self.data), b"BIN\0") + self.data)
        return path


def uri(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def seen(path, cameras=None):
    return render_mesh(load_mesh(path), cameras or orbit_cameras([0.0], 0.0), 64)


def quarters(path):
    """Colours (0..255) in the middle of the four quarters of the square."""
    rgb = seen(path).rgba[0, :3].permute(1, 2, 0)
    return [tuple(rgb[row, column].tolist()) for row in (26, 37) for column in (26, 37)]


# ---- what is applied ------------------------------------------------------------------------------------------------


def plain(b):
    pass


def second_uv_set(b):
    b.primitive["attributes"] |= {"TEXCOORD_0": b.add(np.zeros_like(UV)), "TEXCOORD_1": b.add(UV)}
    b.texture["texCoord"] = 1


def transform(b):
    """Coordinates are turned by a quarter and halved in the file."""
    turned = 0.5 * np.stack([1 - UV[:, 1], UV[:, 0]], 1)
    b.primitive["attributes"]["TEXCOORD_0"] = b.add(turned.astype(np.float32))
    b.texture["extensions"] = {"KHR_texture_transform": {"scale": [2, 2], "rotation": np.pi / 2, "offset": [0, 1]}}
    b.record["extensionsRequired"] = ["KHR_texture_transform"]


def transform_of_another_set(b):
    second_uv_set(b)
    b.texture.update(texCoord=0, extensions={"KHR_texture_transform": {"texCoord": 1}})


def bytes_for_coordinates(b):
    b.primitive["attributes"]["TEXCOORD_0"] = b.add((255 * UV).astype(np.uint8), normalized=True)


def shorts_for_positions(b):
    b.primitive["attributes"]["POSITION"] = b.add((32767 * CORNERS).astype(np.int16), normalized=True)
    b.record["extensionsRequired"] = ["KHR_mesh_quantization"]


def sparse(b):
    moved = b.add(np.zeros_like(CORNERS))
    b.accessors[moved].pop("bufferView")
    b.accessors[moved]["sparse"] = {"count": 4, "indices": {"bufferView": b.view(np.uint8(range(4)).tobytes()),
                                                            "componentType": 5121},
                                    "values": {"bufferView": b.view(CORNERS.tobytes())}}
    b.primitive["attributes"]["POSITION"] = moved


def strip(b):
    b.primitive |= {"mode": 5, "indices": b.add(np.uint8([0, 1, 3, 2]))}


def fan(b):
    b.primitive |= {"mode": 6, "indices": b.add(np.uint8([0, 1, 2, 3]))}


def without_indices(b):
    del b.primitive["indices"]
    b.primitive["attributes"] = {"POSITION": b.add(CORNERS[FACES]), "TEXCOORD_0": b.add(UV[FACES])}


def interleaved(b):
    rows = np.concatenate([CORNERS, UV], 1).astype(np.float32)
    view = b.view(rows.tobytes())
    b.views[view]["byteStride"] = 20
    b.accessors += [{"bufferView": view, "componentType": 5126, "type": "VEC3", "count": 4},
                    {"bufferView": view, "byteOffset": 12, "componentType": 5126, "type": "VEC2", "count": 4}]
    b.primitive["attributes"] = {"POSITION": len(b.accessors) - 2, "TEXCOORD_0": len(b.accessors) - 1}


def morphed(b):
    b.primitive["attributes"]["POSITION"] = b.add(0 * CORNERS)
    b.primitive["targets"] = [{"POSITION": b.add(2 * CORNERS)}]
    b.mesh["weights"] = [0.5]


def skinned(b):
    """The node's own transform does not count; the joint takes half of the size back that binding gave."""
    b.node |= {"skin": 0, "scale": [9, 1, 1]}
    b.record["nodes"].append({"scale": [0.5, 0.5, 0.5]})
    bind = b.add(np.float32(np.diag([2, 2, 2, 1])).reshape(1, 16))
    b.record["skins"] = [{"joints": [1], "inverseBindMatrices": bind}]
    b.record |= {"scenes": [{"nodes": [0, 1]}], "scene": 0}
    b.primitive["attributes"] |= {"JOINTS_0": b.add(np.zeros((4, 4), np.uint8)),
                                  "WEIGHTS_0": b.add(np.uint8([[255, 0, 0, 0]] * 4), normalized=True)}


def matrix_of_a_parent(b):
    b.node["scale"] = [1, 0.5, 1]
    b.record["nodes"].append({"children": [0], "matrix": [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 3, 4, 5, 1]})


def other_scene(b):
    b.record["nodes"].append({"mesh": 0, "translation": [0, 0, 1]})
    b.record |= {"scenes": [{"nodes": [1]}, {"nodes": [0]}], "scene": 1}


def hidden_node(b):
    b.record["nodes"].append({"mesh": 0, "translation": [3, 0, 0],
                              "extensions": {"KHR_node_visibility": {"visible": False}}})


def gloss(b):
    b.material["extensions"] = {"KHR_materials_pbrSpecularGlossiness": {
        "diffuseTexture": b.material.pop("pbrMetallicRoughness")["baseColorTexture"]}}


def webp(b):
    b.record["textures"] = [{"extensions": {"EXT_texture_webp": {"source": 0}}}]
    b.record["extensionsRequired"] = ["EXT_texture_webp"]


APPLIED = [plain, second_uv_set, transform, transform_of_another_set, bytes_for_coordinates, shorts_for_positions,
           sparse, strip, fan, without_indices, interleaved, morphed, skinned, matrix_of_a_parent, other_scene,
           hidden_node, gloss, webp]


@pytest.mark.parametrize("change", APPLIED, ids=lambda change: change.__name__)
def test_the_same_square_said_otherwise(tmp_path, change):
    b = Builder()
    change(b)
    assert quarters(b.write(tmp_path / "square.glb")) == CHART


def test_wrapping_is_the_samplers(tmp_path):
    red, green, blue, yellow = CHART
    for wrap, expected in ((10497, [red, red, red, red]), (33648, [red, green, blue, yellow]),
                           (33071, [red, green, blue, yellow])):
        b = Builder(uv=2 * UV - 0.5)  # corners of the picture meet in the middle of the square's edges
        b.sampler |= {"wrapS": wrap, "wrapT": wrap}
        rgb = seen(b.write(tmp_path / "square.glb")).rgba[0, :3]
        corners = [tuple(rgb[:, row, column].tolist()) for row in (21, 42) for column in (21, 42)]
        assert corners == (expected if wrap != 10497 else [yellow, blue, green, red]), wrap


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
