"""A splat as a coloured triangle mesh: GLB and OBJ, y up, in the place and size of the splat.

Colours come from renders of the splat, as vertex colours or baked into a texture. glTF's rules: vertex colours are
linear, textures sRGB; metallic 0 and roughness 1, for metal, glTF's default, is black without surroundings.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..cameras import Cameras
from ..errors import InputError, needs
from ..files import replace_file
from ..gaussians import Gaussians
from .surface import Surface, extract_surface, surrounding_rig
from .texture import fill_gaps, texels, unwrap
from .views import render_views

if TYPE_CHECKING:
    from trimesh import Trimesh

COLOR_SIZE = 256  # pixels of the renders that colours are taken from
TEXTURE_SIZE = 1024
SHARPNESS = 4  # power of the cosine between normal and line of sight by which views count: high prefers one view


def check_mesh() -> None:
    """Raise InputError where a package that meshes need is missing."""
    with needs("export", "a mesh"):
        import fast_simplification  # noqa: F401
        import skimage  # noqa: F401
        import trimesh  # noqa: F401
        import xatlas  # noqa: F401


def splat_to_mesh(gaussians: Gaussians, faces: int = 20_000, texture: bool = False) -> Trimesh:
    """The closed surface of Gaussians (N,) with at most `faces` triangles, in the splat's coordinates.

    Its visual holds sRGB vertex colours; with `texture`, UV coordinates and a picture of 1,024 pixels a side, and
    vertices are doubled where the atlas is cut. Raises InputError.
    """
    check_mesh()
    from trimesh import Trimesh
    from trimesh.visual import ColorVisuals, TextureVisuals
    from trimesh.visual.material import PBRMaterial

    gaussians = gaussians.detach().float().to("cpu")
    surface = extract_surface(gaussians, faces)
    if not texture:
        colors = surface_colors(gaussians, surface.vertices, surface.normals, surface.step)
        return Trimesh(surface.vertices, surface.faces, vertex_normals=surface.normals, process=False,
                       visual=ColorVisuals(vertex_colors=_bytes(colors)))
    source, triangles, uv = unwrap(surface.vertices, surface.faces, TEXTURE_SIZE)
    picture = _baked(gaussians, surface, triangles, source, uv)
    material = PBRMaterial(name="object", metallicFactor=0.0, roughnessFactor=1.0, baseColorTexture=picture)
    return Trimesh(surface.vertices[source], triangles, vertex_normals=surface.normals[source], process=False,
                   visual=TextureVisuals(uv=uv, material=material))


def write_mesh(path: Path, gaussians: Gaussians, faces: int = 20_000, texture: bool = False) -> None:
    """A GLB or an OBJ, as the name's end says; an OBJ's material and texture go beside it. Raises InputError."""
    mesh = splat_to_mesh(gaussians, faces, texture)
    if path.suffix.lower() == ".glb":
        replace_file(path, glb_bytes(mesh))
        return
    from trimesh.exchange.obj import export_obj

    if texture:
        mesh.visual.material = mesh.visual.material.to_simple()
        mesh.visual.material.name = path.stem
    text, others = export_obj(mesh, return_texture=True, mtl_name=f"{path.stem}.mtl", include_normals=True)
    for name, data in {**others, path.name: text.encode()}.items():
        replace_file(path.with_name(name), data)


def glb_bytes(mesh: Trimesh) -> bytes:
    """glTF's binary form. Vertex colours are stored linear with 16 bits: 8 would show steps where it is dark."""
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    def rename(tree: dict) -> None:  # trimesh lets attributes of our own begin with an underscore only
        tree["asset"]["generator"] = "ouroboros-lib"  # colours of trimesh's own files are not linear: readers know it
        for attributes in (part["attributes"] for item in tree["meshes"] for part in item["primitives"]):
            if "_COLOR" in attributes:
                attributes["COLOR_0"] = attributes.pop("_COLOR")
                tree["accessors"][attributes["COLOR_0"]]["normalized"] = True

    mesh = mesh.copy()
    if mesh.visual.kind == "vertex":
        color = np.asarray(mesh.visual.vertex_colors, np.float64) / 255
        color[:, :3] = srgb_to_linear(color[:, :3])
        mesh.vertex_attributes["COLOR"] = np.rint(color * 65535).astype(np.uint16)
        mesh.visual = TextureVisuals(material=PBRMaterial(name="object", metallicFactor=0.0, roughnessFactor=1.0))
    return mesh.scene().export(file_type="glb", include_normals=True, tree_postprocessor=rename)


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, values in [0, 1]."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def surface_colors(gaussians: Gaussians, points: np.ndarray, normals: np.ndarray, step: float) -> np.ndarray:
    """(P, 3) in [0, 1]: what views all around show at points with normals (P, 3) each; step: a cell of the grid.

    A view counts where the point lies on what it sees, and the more the straighter it looks at it. Points that none
    sees take the colour of the nearest one that is seen.
    """
    from scipy.spatial import cKDTree

    rig = surrounding_rig(gaussians)
    seen = render_views(gaussians, rig, COLOR_SIZE)
    where, facing = torch.from_numpy(points).float(), torch.from_numpy(normals).float()
    total, weights = torch.zeros(len(points), 3), torch.zeros(len(points), 1)
    for view in range(len(seen.rgb)):
        weight, color = _seen_from(rig[view:view + 1], seen.rgb[view], seen.alpha[view], seen.depth[view], where,
                                   facing, step)
        total += weight * color
        weights += weight
    colored = weights[:, 0] > 1e-6
    if not colored.any():
        raise InputError("no surface that can be seen: no mesh")
    colors = (total / weights.clamp_min(1e-6)).clamp(0, 1).numpy()
    if not colored.all():
        known = colored.numpy()
        colors[~known] = colors[known][cKDTree(points[known]).query(points[~known])[1]]
    return colors


def _seen_from(camera: Cameras, rgb, alpha, depth, points, normals, step: float):
    """Weights (P, 1) and colours (P, 3) of points in one view; rgb is that on black."""
    uv, z = camera.project(points)
    planes = torch.cat([rgb, alpha, depth])[None]
    sampled = F.grid_sample(planes, uv[:, None] * 2 - 1, align_corners=False)[0, :, 0].T  # (P, 5)
    sight = F.normalize(camera.positions - points, dim=-1)
    cosine = (sight * normals).sum(-1, keepdim=True).clamp_min(0)
    visible = (sampled[:, 3:4] > 0.5) & (z[0, :, None] < sampled[:, 4:] + 3 * step)
    return cosine**SHARPNESS * visible, sampled[:, :3] / sampled[:, 3:4].clamp_min(1e-6)


def _baked(gaussians: Gaussians, surface: Surface, triangles: np.ndarray, source: np.ndarray,
           uv: np.ndarray) -> Image.Image:
    """The atlas of triangles (F, 3), whose corners are `source` among the surface's vertices and lie at `uv`."""
    rows, columns, triangle, barycentric = texels(uv, triangles, TEXTURE_SIZE)
    corners = source[triangles[triangle]]  # (T, 3)
    points, normals = ((array[corners] * barycentric[..., None]).sum(1)
                       for array in (surface.vertices, surface.normals))
    picture = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 3), np.uint8)
    filled = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), bool)
    picture[rows, columns] = _bytes(surface_colors(gaussians, points, normals, surface.step))
    filled[rows, columns] = True
    return Image.fromarray(fill_gaps(picture, filled))


def _bytes(colors: np.ndarray) -> np.ndarray:
    return np.rint(colors.clip(0, 1) * 255).astype(np.uint8)
