"""Reading glTF 2.0 (.glb, .gltf): the triangles of the default scene as it stands at rest.

Whatever changes the picture is applied (transforms of textures, second sets of coordinates, whole numbers, sparse
accessors, strips and fans, skins, morphs, instances, alpha) or refused by the name that it has in the file; what only a
lamp would show is left out. Compression with Draco is undone by DracoPy where it is installed.
"""

from __future__ import annotations

import base64
import importlib
import itertools
import struct
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np

from ..errors import InputError
from ..files import load_json, one_line
from .gltf_materials import Materials
from .mesh_parts import Files, Part
from .polygons import of_strip

DRACO, INSTANCES = "KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing"
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
APPLIED = {DRACO, INSTANCES, "KHR_texture_transform", "KHR_mesh_quantization", "KHR_materials_unlit",
           "KHR_materials_pbrSpecularGlossiness", "EXT_texture_webp", "EXT_texture_avif", "KHR_node_visibility"}
# these show by lamps only, or name and sort things
UNSEEN = {"KHR_lights_punctual", "EXT_lights_image_based", "EXT_lights_ies", "KHR_materials_variants", "KHR_xmp",
          "KHR_xmp_json_ld", "KHR_animation_pointer", "KHR_materials_anisotropy", "KHR_materials_clearcoat",
          "KHR_materials_dispersion", "KHR_materials_emissive_strength", "KHR_materials_ior",
          "KHR_materials_iridescence", "KHR_materials_sheen", "KHR_materials_specular", "KHR_materials_volume",
          "KHR_materials_transmission", "KHR_materials_diffuse_transmission", "EXT_mesh_features",
          "EXT_instance_features", "EXT_structural_metadata", "EXT_mesh_manifold", "FB_geometry_metadata",
          "MSFT_packing_normalRoughnessMetallic", "MSFT_packing_occlusionRoughnessMetallic"}
# these have an older way of saying the same beside them, unless they are required
FALLING_BACK = {*MESHOPT, "KHR_texture_basisu", "MSFT_texture_dds", "MSFT_lod"}
TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
SIZES = {"SCALAR": (1,), "VEC2": (2,), "VEC3": (3,), "VEC4": (4,), "MAT2": (2, 2), "MAT3": (3, 3), "MAT4": (4, 4)}
MOST = 20_000_000  # values of an accessor, or vertices of a scene
MOST_SPARSE = 1_000_000  # of an accessor that is zero but for a few: the file need not have room for them
MOST_INSTANCES = 100_000  # of a node


def read_gltf(path: Path, files: Files, textured: bool) -> list[Part]:
    """The parts of a file, in its frame. Raises InputError and, for broken files, other exceptions."""
    return _Scene(path.read_bytes(), files, textured).parts()


class _Scene:
    def __init__(self, data: bytes, files: Files, textured: bool):
        self.files, self.binary, self.buffers = files, b"", {}
        if data[:4] == b"glTF":
            data = self._chunks(data)
        self.record = load_json(data.decode("utf-8-sig"))
        if not isinstance(self.record, dict) or "asset" not in self.record:
            raise InputError("cannot be read as a mesh (this JSON is no glTF)")
        if not str(self.record["asset"].get("version", "2.0")).startswith("2"):
            raise InputError(f"glTF of version {one_line(self.record['asset']['version'], 10)}, expected 2.0")
        self._check_extensions()
        self.nodes, self.worlds = self.record.get("nodes", []), {}
        self.made: dict[int, list[Part]] = {}
        self.totals = {"made": 0, "placed": 0}  # vertices
        self.materials = Materials(self.record, files, self.view_bytes, self.uri_bytes) if textured else None

    def _chunks(self, data: bytes) -> bytes:
        """The JSON of a .glb; keeps its binary chunk."""
        version, length = struct.unpack_from("<II", data, 4)
        if version != 2:
            raise InputError(f"cannot be read as a mesh (GLB of version {version}, expected 2)")
        if length > len(data):
            raise InputError(f"the file is cut off: {len(data)} bytes instead of {length}")
        start, found = 12, b""
        while start + 8 <= length:
            size, kind = struct.unpack_from("<I4s", data, start)
            chunk = data[start + 8:start + 8 + size]
            found, self.binary = (chunk if kind == b"JSON" else found), (chunk if kind == b"BIN\0" else self.binary)
            start += 8 + size
        return found

    def _check_extensions(self) -> None:
        """Refuse what is required and unknown; say what is used and not drawn."""
        required = set(map(str, self.record.get("extensionsRequired", [])))
        for name in sorted(required & {*MESHOPT}):
            raise InputError(f"compressed with meshopt ({name}), which cannot be read; export it without")
        for name in sorted(required - APPLIED - UNSEEN):
            raise InputError(f"needs {one_line(name, 60)} (extensionsRequired), which cannot be read; export without")
        for name in sorted(set(map(str, self.record.get("extensionsUsed", []))) - APPLIED - UNSEEN - FALLING_BACK):
            self.files.notes.add(f"uses {one_line(name, 60)}, which is not drawn")

    # ---- numbers ----------------------------------------------------------------------------------------------------

    def buffer(self, number: int) -> bytes:
        if number not in self.buffers:
            record = self.record["buffers"][number]
            uri = record.get("uri")
            if uri is None and (number != 0 or not self.binary):
                raise InputError("its numbers are not in the file" + (
                    f": it is compressed with meshopt ({MESHOPT[0]}), which cannot be read; export it without"
                    if any(name in str(self.record.get("extensionsUsed")) for name in MESHOPT) else ""))
            self.buffers[number] = self.binary if uri is None else self.uri_bytes(uri, "file")
        return self.buffers[number]

    def uri_bytes(self, uri: str, what: str) -> bytes | None:
        """The contents of a data: URI or a file beside."""
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            return base64.b64decode(unquote_to_bytes(body)) if head.endswith(";base64") else unquote_to_bytes(body)
        return self.files.get(uri, what)

    def view_bytes(self, number: int) -> bytes:
        view = self.record["bufferViews"][number]
        start, length = view.get("byteOffset", 0), view["byteLength"]
        data = self.buffer(view["buffer"])
        if min(start, length) < 0 or start + length > len(data):
            raise InputError("its numbers are not all in the file: it is cut off")
        return data[start:start + length]

    def accessor(self, number: int) -> np.ndarray:
        """(count, ...) values; normalised whole numbers as floats."""
        record = self.record["accessors"][number]
        dtype, shape = np.dtype(TYPES[record["componentType"]]).newbyteorder("<"), SIZES[record["type"]]
        count = int(record["count"])
        if not 0 <= count <= MOST:
            raise InputError(f"an accessor of {one_line(count, 20)} values")
        if "bufferView" in record:
            view = self.record["bufferViews"][record["bufferView"]]
            values = self._strided(record["bufferView"], record.get("byteOffset", 0), view.get("byteStride"), count,
                                   dtype, shape)
        elif "sparse" in record:
            if count > MOST_SPARSE:
                raise InputError(f"a sparse accessor of {count} values, more than {MOST_SPARSE}")
            values = np.zeros((count, *shape), dtype)
        else:
            raise InputError("an accessor without numbers")
        if "sparse" in record:
            sparse = record["sparse"]
            where, what = sparse["indices"], sparse["values"]
            index = self._strided(where["bufferView"], where.get("byteOffset", 0), None, sparse["count"],
                                  np.dtype(TYPES[where["componentType"]]).newbyteorder("<"), (1,))[:, 0]
            values = values.copy()
            values[index] = self._strided(what["bufferView"], what.get("byteOffset", 0), None, sparse["count"], dtype,
                                          shape)
        if record.get("normalized") and dtype.kind in "iu":
            values = np.maximum(values / np.float32(np.iinfo(dtype).max), -1)
        return values

    def _strided(self, view: int, offset: int, stride: int | None, count: int, dtype: np.dtype, shape: tuple
                 ) -> np.ndarray:
        size = dtype.itemsize * int(np.prod(shape))
        data = self.view_bytes(view)
        stride = stride or size
        if offset < 0 or stride < size or count and offset + stride * (count - 1) + size > len(data):
            raise InputError("its numbers are not all in the file: it is cut off")
        inner = np.cumprod((dtype.itemsize, *shape[:0:-1]))[::-1]
        return np.ndarray((count, *shape), dtype, data, offset, (stride, *map(int, inner)))

    # ---- nodes ------------------------------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        below = [node.get("children", []) for node in self.nodes]
        children = set(itertools.chain.from_iterable(below))
        roots = [number for number in range(len(self.nodes)) if number not in children]
        scenes = self.record.get("scenes", [])
        chosen = scenes[self.record.get("scene", 0)].get("nodes", []) if scenes else roots
        self._walk([*roots, *chosen], np.eye(4))
        parts, waiting = [], list(chosen)
        while waiting:
            number = waiting.pop(0)
            node = self.nodes[number]
            if node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible") is False:
                continue
            waiting += node.get("children", [])
            if "mesh" not in node:
                continue
            for part in self._mesh(node):
                for world in self._instances(node, self.worlds[number]):
                    self._count("placed", len(part.vertices))
                    moved = part.vertices @ world[:3, :3].T + world[:3, 3]
                    parts.append(Part(**{**vars(part), "vertices": moved}))
        return parts

    def _walk(self, roots: list[int], above: np.ndarray) -> None:
        """World matrices of all nodes, `self.worlds`."""
        waiting = [(root, above) for root in dict.fromkeys(roots)]
        while waiting:
            number, above = waiting.pop()
            if number in self.worlds:
                raise InputError(f"node {number} lies below two others, or below itself")
            self.worlds[number] = above @ _matrix(self.nodes[number])
            waiting += [(child, self.worlds[number]) for child in self.nodes[number].get("children", [])]

    def _instances(self, node: dict, world: np.ndarray) -> list[np.ndarray]:
        if "skin" in node:  # its joints alone say where it is
            return [np.eye(4)]
        attributes = node.get("extensions", {}).get(INSTANCES, {}).get("attributes")
        if not attributes:
            return [world]
        given = {name.lower(): self.accessor(attributes[name]).astype(np.float64)
                 for name in ("TRANSLATION", "ROTATION", "SCALE") if name in attributes}
        count = min(map(len, given.values()), default=1)
        if count > MOST_INSTANCES:
            raise InputError(f"{count} instances of a mesh, more than {MOST_INSTANCES}")
        return [world @ _matrix({name: values[i] for name, values in given.items()}) for i in range(count)]

    # ---- meshes -----------------------------------------------------------------------------------------------------

    def _mesh(self, node: dict) -> list[Part]:
        """The parts of a node's mesh, in the node's frame, or the world's with a skin."""
        number = node["mesh"]
        mesh = self.record["meshes"][number]
        own = "skin" in node or "weights" in node
        if number in self.made and not own:
            return self.made[number]
        weights = node.get("weights", mesh.get("weights", []))
        found = [self._primitive(primitive, weights, node.get("skin")) for primitive in mesh["primitives"]]
        parts = [part for part in found if part is not None]
        if not own:
            self.made[number] = parts
        return parts

    def _primitive(self, primitive: dict, weights: list[float], skin: int | None) -> Part | None:
        mode = primitive.get("mode", 4)
        if mode not in (4, 5, 6):
            self.files.notes.add("has points or lines, which are not drawn")
            return None
        attributes = dict(primitive["attributes"])
        values, indices = {}, None
        if DRACO in primitive.get("extensions", {}):
            values, indices = self._draco(primitive)
        if indices is None and "indices" in primitive:
            indices = self.accessor(primitive["indices"]).reshape(-1)

        def get(name: str) -> np.ndarray | None:
            if name not in values and name in attributes:
                values[name] = self.accessor(attributes[name])
            return values.get(name)

        points = get("POSITION")
        if points is None:
            raise InputError("a mesh without positions")
        self._count("made", len(points))
        points = points.astype(np.float64)
        points = points + self._morphs(primitive, weights, "POSITION")
        if skin is not None:
            points = self._skinned(points, self.record["skins"][skin], get)
        count = len(points)
        indices = np.arange(count) if indices is None else indices.astype(np.int64)
        part = Part(points, _triangles(indices, mode))
        if not len(part.faces):
            return None
        if self.materials is not None:
            color = get("COLOR_0")
            if color is not None:
                color = color / np.float32(np.iinfo(color.dtype).max) if color.dtype.kind in "iu" else color
                color = (color + self._morphs(primitive, weights, "COLOR_0")).astype(np.float32).clip(0, 1)
            self.materials.paint(part, primitive.get("material"), color, lambda set_: get(f"TEXCOORD_{set_}"))
        elif (uv := get("TEXCOORD_0")) is not None:
            part.uv = uv * (1.0, -1.0) + (0.0, 1.0)
        return part

    def _count(self, what: str, more: int) -> None:
        """Raise InputError when vertices become too many: what repeats a mesh takes little of a file."""
        self.totals[what] += more
        if self.totals[what] > MOST:
            raise InputError(f"a scene of more than {MOST} vertices")

    def _morphs(self, primitive: dict, weights: list[float], name: str) -> np.ndarray | float:
        targets = primitive.get("targets", [])
        return sum((weight * self.accessor(target[name]).astype(np.float64)
                    for weight, target in zip(weights, targets, strict=False) if weight and name in target), 0.0)

    def _skinned(self, points: np.ndarray, skin: dict, get) -> np.ndarray:
        """Points moved to where the joints stand in the file."""
        joints = np.stack([self.worlds[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            bind = self.accessor(skin["inverseBindMatrices"]).astype(np.float64).swapaxes(1, 2)  # columns first
            joints = joints @ bind[:len(joints)]
        result, total = np.zeros_like(points), np.zeros((len(points), 1))
        for number in range(8):
            which, weight = get(f"JOINTS_{number}"), get(f"WEIGHTS_{number}")
            if which is None or weight is None:
                break
            for k in range(which.shape[1]):
                matrix, share = joints[which[:, k]], weight[:, k, None].astype(np.float64)
                result += share * ((matrix[:, :3, :3] @ points[..., None])[..., 0] + matrix[:, :3, 3])
                total += share
        return np.where(total > 0, result / np.where(total > 0, total, 1), points)

    def _draco(self, primitive: dict) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Attributes and indices out of a compressed view; nothing where plain ones lie beside it."""
        told = primitive["extensions"][DRACO]
        try:
            draco = importlib.import_module("DracoPy")  # on the user's own account: no extra brings it
        except ImportError:
            accessors = self.record["accessors"]
            if all("bufferView" in accessors[number] for number in primitive["attributes"].values()):
                return {}, None
            raise InputError(f"compressed with Draco ({DRACO}), which cannot be read; export it without, or "
                             "pip install DracoPy") from None
        try:
            mesh = draco.decode(self.view_bytes(told["bufferView"]))
        except Exception as error:  # its own kinds
            raise InputError(f"what is compressed with Draco ({DRACO}) cannot be read ({one_line(error)})") from None
        values = {}
        for name, unique in told["attributes"].items():
            record = self.record["accessors"][primitive["attributes"][name]]
            data = np.asarray(mesh.get_attribute_by_unique_id(unique)["data"])
            dtype = np.dtype(TYPES[record["componentType"]])
            if record.get("normalized") and dtype.kind in "iu" and data.dtype.kind in "iu":
                data = np.maximum(data / np.float32(np.iinfo(dtype).max), -1)
            values[name] = data
        return values, np.asarray(mesh.faces).reshape(-1)


def _triangles(indices: np.ndarray, mode: int) -> np.ndarray:
    """(F, 3) of a list of triangles (4), a strip (5) or a fan (6)."""
    if mode == 4:
        return indices[:len(indices) // 3 * 3].reshape(-1, 3)
    if len(indices) < 3:
        return np.empty((0, 3), np.int64)
    if mode == 6:
        return np.stack([np.full(len(indices) - 2, indices[0]), indices[1:-1], indices[2:]], 1)
    return of_strip(indices)


def _matrix(node: dict) -> np.ndarray:
    """(4, 4) of a node's matrix, or of its scale, rotation (xyzw) and translation."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64) / max(
        np.linalg.norm(node.get("rotation", (0, 0, 0, 1))), 1e-12)
    matrix[:3, :3] = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                               [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                               [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    matrix[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
