"""Meshes of any of the formats as small GLB files, alike in size: what training reads again and again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..cameras import OBJECT_RADIUS
from ..errors import InputError, needs
from .mesh_parts import PLAIN, Part

if TYPE_CHECKING:
    from trimesh import Trimesh

TEXTURE_SIZE, QUALITY = 256, 88  # pixels at most, and JPEG's
MOST_FACES = 40_000
FLAT = 2.0  # levels, standard deviation: a texture with less is a colour
GRID = 20_000  # a world unit: vertices that agree to this and in colour are one


def check_compact() -> None:
    """Raise InputError where the package that compact meshes need is missing."""
    with needs("eval", "a compact mesh"):
        import trimesh  # noqa: F401


def compact_mesh(parts: Sequence[Part]) -> bytes:
    """A GLB of parts: the middle of the bounding box at the origin, the farthest vertex at OBJECT_RADIUS, opaque.

    Textures have 256 pixels a side at most; parts without one, or with one of a single colour, are one mesh with sRGB
    vertex colours. Raises InputError for more than 40,000 faces and for what has no extent.
    """
    check_compact()
    from trimesh import Scene

    if (faces := sum(len(part.faces) for part in parts)) > MOST_FACES:
        raise InputError(f"has {faces} faces, at most {MOST_FACES} are taken")
    corners = np.concatenate([part.vertices[np.unique(part.faces)] for part in parts])
    centre = (corners.min(0) + corners.max(0)) / 2
    radius = np.linalg.norm(corners - centre, axis=1).max()
    if not 0 < radius < np.inf:
        raise InputError("has no extent")
    textured, flat = [], []
    for part in parts:
        used, inverse = np.unique(part.faces, return_inverse=True)
        vertices = ((part.vertices[used] - centre) / radius * OBJECT_RADIUS).astype(np.float32)
        triangles = inverse.reshape(-1, 3)
        texture = None if part.texture is None or part.uv is None else _small(part.texture)
        if texture is None or texture.reshape(-1, 3).std(0).max() < FLAT:
            flat.append((vertices, triangles, _colors(part, used, texture)))
        else:
            textured.append(_textured(vertices, triangles, part.uv[used].astype(np.float32), texture))
    scene = Scene(textured + ([_coloured(flat)] if flat else []))
    return scene.export(file_type="glb")


def small_picture(picture: Image.Image, size: int) -> bytes:
    """A picture as a JPEG of at most `size` pixels a side."""
    picture = picture.convert("RGB")
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


def _small(texture: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) uint8 to at most TEXTURE_SIZE a side, opaque."""
    picture = Image.fromarray(np.ascontiguousarray(texture[..., :3]))
    picture.thumbnail((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _colors(part: Part, used: np.ndarray, texture: np.ndarray | None) -> np.ndarray:
    """(N, 3) uint8 of the vertices that are used."""
    colors = np.full((len(used), 3), PLAIN / 255) if part.colors is None else part.colors[used, :3]
    if texture is not None:
        mean = texture.reshape(-1, 3).mean(0) / 255
        colors = mean * (colors if part.colors is not None else np.ones_like(colors))
    return np.rint(255 * colors.clip(0, 1)).astype(np.uint8)


def _textured(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, texture: np.ndarray) -> Trimesh:
    from trimesh import Trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    picture = Image.open(io.BytesIO(small_picture(Image.fromarray(texture), TEXTURE_SIZE)))
    picture.load()
    material = PBRMaterial(baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
    return Trimesh(vertices, faces, process=False, visual=TextureVisuals(uv=uv, material=material))


def _coloured(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Trimesh:
    """(vertices, faces, colours) of several parts as one mesh; vertices that are alike are one, faces of two go."""
    from trimesh import Trimesh

    starts = np.cumsum([0, *(len(vertices) for vertices, _, _ in parts)])
    vertices = np.concatenate([vertices for vertices, _, _ in parts])
    faces = np.concatenate([faces + start for (_, faces, _), start in zip(parts, starts, strict=False)])
    colors = np.concatenate([colors for _, _, colors in parts])
    alike = np.concatenate([np.rint(GRID * vertices), colors], axis=1).astype(np.int64)
    _, first, where = np.unique(alike, axis=0, return_index=True, return_inverse=True)
    faces = where.reshape(-1)[faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    opaque = np.pad(colors[first], ((0, 0), (0, 1)), constant_values=255)
    return Trimesh(vertices[first], faces, process=False, vertex_colors=opaque)
