"""Reading meshes: OBJ, GLB, glTF and PLY files, textured, vertex-coloured or plain, as triangles with albedo colours.

What makes a mesh look different from what its author meant is an error with one line, not a grey render: trimesh passes
over missing material files and textures in silence, so files are handed to it by a resolver that remembers.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from ..errors import InputError, needs
from ..files import one_line

SUFFIXES = (".obj", ".glb", ".gltf", ".ply")
PLAIN = 178  # 0..255, the grey of surfaces without any colour
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga", ".tif", ".tiff")
_GENERIC = ("model", "mesh", "object", "scene", "textured", "textured_simple")  # names that say nothing


@dataclass
class Part:
    """Triangles of one material.

    vertices (N, 3) float64 in the file's frame; faces (F, 3) int64; uv (N, 2), v upwards; texture (H, W, 3) uint8;
    colors (N, 3) float32 in [0, 1]. A texture needs uv; with both, colours multiply the texture.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    colors: np.ndarray | None = None


def find_mesh(path: Path) -> Path:
    """The mesh file of one object: the file itself, or the only one in a folder (or in its `meshes/`, as in GSO)."""
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: not a mesh file; expected {', '.join(SUFFIXES)}")
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    for folder in (path, path / "meshes"):
        if len(found := mesh_files(folder)) > 1:
            raise InputError(f"{folder}: holds {len(found)} meshes ({found[0].name}, {found[1].name}, ...); name one")
        if found:
            return found[0]
    raise InputError(f"{path}: no mesh in this folder ({', '.join(SUFFIXES)}, here or in meshes/)")


def mesh_files(folder: Path) -> list[Path]:
    """The meshes directly in a folder, by name."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()
                  and not entry.name.startswith("."))


def object_name(mesh: Path) -> str:
    """What an object is called: its file's stem, or its folder's name where the stem is `model` or the like."""
    if mesh.stem.lower() not in _GENERIC:
        return mesh.stem
    folder = mesh.absolute().parent
    return folder.parent.name if folder.name == "meshes" else folder.name


def is_gso(mesh: Path) -> bool:
    """Whether a mesh lies in a folder of Google Scanned Objects, where z is up."""
    folder = mesh.absolute().parent
    return folder.name == "meshes" and ((folder.parent / "materials").is_dir()
                                        or (folder.parent / "model.config").is_file())


def read_parts(path: Path, texture: Path | None = None) -> tuple[list[Part], list[str]]:
    """The triangles of a mesh file, and notes for the user.

    texture: an image for a mesh that has texture coordinates but names none; it replaces every material.
    Raises InputError for unreadable files, missing materials or textures, and meshes without triangles.
    """
    with needs("eval", "reading a mesh"):
        import trimesh

    files = _Files(path)
    try:
        scene = trimesh.load_scene(str(path), process=False, resolver=files, skip_materials=texture is not None)
    except Exception as error:  # whatever a parser stumbles over is the file's fault
        raise InputError(f"{path}: cannot be read as a mesh ({one_line(error)})") from None
    if files.trouble:
        raise InputError(f"{path}: {files.trouble[0]}")
    linear = _check_gltf(path, files) if texture is None and path.suffix.lower() in (".glb", ".gltf") else False
    image = None if texture is None else read_texture(texture)
    parts, notes = [], set()
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_part(geometry, transform, path, image, linear, notes))
    if not parts:
        raise InputError(f"{path}: no triangles in this mesh")
    return parts, sorted(notes)


def read_texture(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8. Raises InputError."""
    try:
        with Image.open(path) as image:
            return _pixels(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such texture") from None
    except Exception as error:  # decoders raise many kinds
        raise InputError(f"{path}: this texture cannot be read ({one_line(error)})") from None


def _part(mesh, transform: np.ndarray, path: Path, image: np.ndarray | None, linear: bool,
          notes: set[str]) -> Part:
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    vertices = vertices @ transform[:3, :3].T + transform[:3, 3]
    if not np.isfinite(vertices).all():
        raise InputError(f"{path}: vertices with coordinates that are not numbers")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: triangles that refer to vertices which are not there")
    part, visual = Part(vertices, faces), mesh.visual
    uv = getattr(visual, "uv", None)
    if uv is not None and len(uv) == len(vertices) and np.isfinite(uv).all():
        part.uv = np.asarray(uv, np.float64)
    if image is not None:
        if part.uv is None:
            raise InputError(f"{path}: has no texture coordinates, so --texture cannot be used")
        part.texture = image
    elif visual.kind == "texture":
        _material(part, visual, path, linear, notes)
    elif visual.kind == "vertex":
        part.colors = _colors(visual.vertex_colors, linear)
    elif visual.kind == "face":
        colors = _colors(visual.face_colors, linear)
        part = Part(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3),
                    colors=np.repeat(colors, 3, axis=0))
    else:
        notes.add("has no colours and is drawn in plain grey")
    return part


def _material(part: Part, visual, path: Path, linear: bool, notes: set[str]) -> None:
    """Fill in the colours of a material: texture, else base colour (glTF) or Kd (OBJ), times vertex colours."""
    material, extra = visual.material, visual.vertex_attributes.get("color")
    if hasattr(material, "baseColorTexture"):
        texture, factor = material.baseColorTexture, material.baseColorFactor
    else:  # where an OBJ has a texture, it stands in place of Kd: exporters leave 0.8 there
        texture, factor = material.image, None
        if texture is not None and texture.size == (2, 2) and (_pixels(texture) == 100).all():  # trimesh's stand-in
            notes.add("has texture coordinates but names no texture: drawn in plain grey (--texture gives it one)")
            return
        if texture is None and "kd" in material.kwargs:
            factor = material.diffuse
    if extra is not None and len(extra) == len(part.vertices):
        part.colors = _colors(extra, linear)
    factor = None if factor is None else _colors(np.asarray(factor)[None], False)
    if texture is not None and part.uv is not None:
        try:
            part.texture = _pixels(texture)
        except Exception as error:  # truncated or broken image data
            name = texture.info.get("file_path", "inside the file")
            raise InputError(f"{path}: its texture ({name}) cannot be read ({one_line(error)})") from None
        if factor is not None and (factor < 1).any():
            levels = np.rint(255 * _scaled(np.arange(256)[:, None] / 255, factor, linear)).astype(np.uint8)
            part.texture = np.stack([levels[:, c][part.texture[..., c]] for c in range(3)], -1)
    elif factor is not None:
        color = _to_srgb(factor) if linear else factor
        part.colors = color * np.ones((len(part.vertices), 1), np.float32) if part.colors is None else \
            _scaled(part.colors, factor, linear)
    elif part.colors is None:
        notes.add("has a material without colour: drawn in plain grey")


def _colors(values, linear: bool) -> np.ndarray:
    """(N, 3 or 4) colours, 0..255 or 0..1 by type, as (N, 3) float32 sRGB in [0, 1]."""
    values = np.asarray(values)
    top = {"uint8": 255, "uint16": 65535}.get(values.dtype.name, 255 if values.dtype.kind in "ui" else 1)
    values = np.clip(values[:, :3].astype(np.float32) / top, 0, 1)
    return _to_srgb(values) if linear else values


def _scaled(srgb: np.ndarray, factor: np.ndarray, linear: bool) -> np.ndarray:
    return _to_srgb(_to_linear(srgb) * factor) if linear else srgb * factor


def _to_srgb(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055).astype(np.float32)


def _to_linear(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _pixels(image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def _check_gltf(path: Path, files: _Files) -> bool:
    """Raise InputError if a base colour texture cannot be read. Returns whether colours are linear, as glTF wants it.

    trimesh writes the sRGB values that it has into linear fields; its own files are read as they were meant.
    """
    data = path.read_bytes()
    binary = b""
    if data[:4] == b"glTF":
        (length,) = struct.unpack_from("<I", data, 12)
        binary = data[28 + length:]
        data = data[20:20 + length]
    record = json.loads(data)  # it is sound: trimesh has read it
    textures, images = record.get("textures", []), record.get("images", [])
    for number, material in enumerate(record.get("materials", [])):
        reference = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
        if reference is None:
            continue
        where = f"{path}: the texture of material {material.get('name', number)!r}"
        try:
            texture = textures[reference["index"]]
            source = texture.get("source", texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source"))
            image = images[source]
            if "bufferView" in image:
                view = record["bufferViews"][image["bufferView"]]
                start = view.get("byteOffset", 0)
                blob = binary[start:start + view["byteLength"]] if view["buffer"] == 0 and binary else None
            else:
                blob = None if image["uri"].startswith("data:") else files.get(image["uri"])
            if blob is not None:
                Image.open(io.BytesIO(blob)).load()
        except FileNotFoundError:
            raise InputError(f"{where} is missing ({image['uri']})") from None
        except (LookupError, TypeError):
            raise InputError(f"{where} is not in the file, or in a format that cannot be read (KTX2?)") from None
        except Exception as error:  # decoders raise many kinds
            raise InputError(f"{where} cannot be read ({one_line(error)})") from None
    return "trimesh" not in record.get("asset", {}).get("generator", "")


class _Files:
    """Files that a mesh names: beside it, or where GSO keeps its textures; never outside the object's folder.

    Has what trimesh asks of a resolver, and remembers what could not be had.
    """

    def __init__(self, mesh: Path):
        self.file_name, self.trouble = mesh.name, []
        folder = mesh.absolute().parent
        self.root = folder.parent if folder.name == "meshes" else folder
        self.folders = [folder, self.root / "materials" / "textures", self.root]

    def find(self, name: str) -> Path | None:
        clean = unquote(name).strip().strip('"').replace("\\", "/").lstrip("/")
        # as it stands; without folders of its author's machine; without options such as `-s 1 1 1`
        for text in dict.fromkeys((clean, clean.rsplit("/", 1)[-1], clean.split()[-1] if clean else "")):
            for folder in self.folders:
                path = (folder / text).resolve()
                if text and path.is_file() and path.is_relative_to(self.root.resolve()):
                    return path
        return None

    def get(self, key: str) -> bytes:
        path = self.find(key)
        if path is None:
            what = "material file" if key.lower().endswith(".mtl") else "file" if key.endswith(".bin") else "texture"
            self.trouble.append(f"the {what} that it names, {key.strip()}, is missing")
            raise FileNotFoundError(key)
        data = path.read_bytes()
        if path.suffix.lower() in _IMAGES:
            try:
                Image.open(io.BytesIO(data))
            except Exception as error:  # decoders raise many kinds
                self.trouble.append(f"its texture {path.name} cannot be read ({one_line(error)})")
                raise
        return data

    __getitem__ = get
