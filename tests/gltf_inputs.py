"""A square as glTF says it, in many ways."""

import base64
import io
import json
import struct

import numpy as np
from PIL import Image

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.data import gltf_files
from ouroboros_lib.data.meshes import load_mesh, render_mesh

CHART = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]  # above left, above right, below left, below right
CORNERS = np.float32([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)])
UV = np.float32([(0, 1), (1, 1), (1, 0), (0, 0)])  # v downwards, as glTF has it
FACES = np.uint16([0, 1, 2, 0, 2, 3])


def chart(mode="RGB", size=64, holes=False):
    """A picture whose quarters have the colours of CHART."""
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = np.uint8(CHART).reshape(2, 2, 3), 255
    if holes:
        pixels[0, 0, 3] = 0
    return Image.fromarray(pixels.repeat(size // 2, 0).repeat(size // 2, 1)).convert(mode)


def quarters(path, **settings):
    """Colours (0..255) in the middle of the four quarters of a square; settings: those of `load_mesh`."""
    rgb = render_mesh(load_mesh(path, **settings), orbit_cameras([0.0], 0.0), 64).rgba[0, :3].permute(1, 2, 0)
    return [tuple(rgb[row, column].tolist()) for row in (26, 37) for column in (26, 37)]


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
