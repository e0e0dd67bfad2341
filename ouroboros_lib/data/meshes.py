"""Pictures, exact depth and coordinate maps of meshes, by ray casting with embree on the CPU.

    mesh = load_mesh("duck.glb")
    views = render_mesh(mesh, evenly_spaced_orbit(8, 20), size=256)      # views.images, .alpha, .depth

Colours are *unlit albedo*, straight from texture, vertex colours or material: no lamp, no shadow, no reflection, so
that pictures do not depend on a lighting that others would have to copy. The background is white. Surfaces are opaque
and two-sided; a texture's alpha is ignored.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from ..cameras import OBJECT_RADIUS, Cameras
from ..errors import InputError
from .folder_formats import UPS
from .folders import MultiviewObject
from .mesh_files import PLAIN, Part, find_mesh, is_gso, object_name, read_parts

# (x, y, z) with z up becomes (x, z, -y): what faced -y, the front in Blender and GSO, then faces the condition view
Z_TO_Y = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@dataclass
class TexturedMesh:
    """Triangles in the world of cameras.py, ready to be cast at.

    vertices (N, 3) float32 in the ball of radius 0.55; faces (F, 3) int32, those of part p being rows first[p] to
    first[p + 1]; to_world (4, 4) float64 takes the file's coordinates to the world's.
    """

    name: str
    path: Path
    vertices: np.ndarray
    faces: np.ndarray
    parts: list[Part]
    first: np.ndarray
    to_world: np.ndarray
    up: str
    notes: list[str]

    def __post_init__(self):
        self._scene = None
        self._pyramids = [None if part.texture is None else _pyramid(part.texture) for part in self.parts]
        self._densities = [self._texel_density(number) for number in range(len(self.parts))]

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """First hits of rays from one point along (R, 3) directions: tfar in units of each direction's length,
        primID (-1 for none), and the barycentric coordinates u, v."""
        if self._scene is None:
            try:
                from embreex.mesh_construction import TriangleMesh
                from embreex.rtcore_scene import EmbreeScene
            except ImportError as error:  # there are no builds for Linux on ARM
                raise InputError(f"meshes are rendered with embreex, which cannot be loaded here ({error}); "
                                 "pip install -e '.[eval]', or render on another machine") from None
            self._scene = EmbreeScene(robust=True)  # watertight between neighbouring triangles
            TriangleMesh(self._scene, self.vertices, self.faces)
        directions = np.ascontiguousarray(directions, np.float32)
        # embree wants one origin a ray, and reads past the end of a shorter array
        origins = np.ascontiguousarray(np.broadcast_to(np.asarray(origin, np.float32), directions.shape))
        return self._scene.run(origins, directions, output=1)

    def colors(self, hits: dict[str, np.ndarray], footprint: np.ndarray) -> np.ndarray:
        """(R, 3) float32 in [0, 1] at R hits; footprint: (R,) the width of each sample in world units, by which the
        level of the texture's pyramid is chosen."""
        triangle, u, v = hits["primID"], hits["u"][:, None], hits["v"][:, None]
        out = np.empty((len(triangle), 3), np.float32)
        number = np.searchsorted(self.first, triangle, "right") - 1
        for p, part in enumerate(self.parts):
            mine = np.nonzero(number == p)[0] if len(self.parts) > 1 else slice(None)
            local = triangle[mine] - self.first[p]
            weights = np.stack([1 - u[mine] - v[mine], u[mine], v[mine]], 1)
            color = PLAIN / 255 if part.texture is None and part.colors is None else 1
            if part.texture is not None:
                uv = (weights * part.uv[part.faces[local]]).sum(1)
                color = _lookup(self._pyramids[p], uv, self._densities[p][local] * footprint[mine])
            if part.colors is not None:
                color = color * (weights * part.colors[part.faces[local]]).sum(1)
            out[mine] = color
        return out

    def _texel_density(self, number: int) -> np.ndarray | None:
        """(F,) texels per world unit on each triangle of a part."""
        part = self.parts[number]
        if part.texture is None:
            return None
        height, width = part.texture.shape[:2]
        corners = self.vertices[self.faces[self.first[number]:self.first[number + 1]]].astype(np.float64)
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        a, b = ((part.uv[part.faces[:, k]] - part.uv[part.faces[:, 0]]) * (width, height) for k in (1, 2))
        texels = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
        return np.sqrt(texels / np.maximum(area, 1e-12)).astype(np.float32)


def load_mesh(path: str | Path, up: str = "auto", texture: str | Path | None = None, yaw: float = 0.0) -> TexturedMesh:
    """A mesh file, or a folder that holds one (as a GSO object does), moved and scaled into the ball of radius 0.55.

    The middle of the bounding box comes to the origin, the farthest vertex to radius 0.55. up: the file's upward axis;
    "auto" is z for a folder of Google Scanned Objects and y for everything else. texture: see `read_parts`.
    yaw: degrees by which the object is turned about y, from +z, where the condition view stands, towards +x.
    Raises InputError for what cannot be read.
    """
    if up not in UPS:
        raise InputError(f"up={up!r}: expected one of {', '.join(UPS)}")
    path = find_mesh(Path(path))
    if up == "auto":
        up = "z" if is_gso(path) else "y"
    parts, notes = read_parts(path, None if texture is None else Path(texture))
    used = np.concatenate([part.vertices[np.unique(part.faces)] for part in parts])
    to_world = normalisation(used, up, yaw)
    if not np.isfinite(to_world).all():
        raise InputError(f"{path}: all its triangles lie in one point, or too far out")
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts])
    vertices = np.concatenate([part.vertices for part in parts]) @ to_world[:3, :3].T + to_world[:3, 3]
    faces = np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=False)])
    first = np.cumsum([0] + [len(part.faces) for part in parts])
    return TexturedMesh(object_name(path), path, vertices.astype(np.float32), faces.astype(np.int32), parts, first,
                        to_world, up, notes)


def normalisation(vertices: np.ndarray, up: str, yaw: float = 0.0) -> np.ndarray:
    """The (4, 4) map of vertices (N, 3) with `up` upwards into the ball of radius 0.55, y up, and turns them."""
    c, s = np.cos(np.deg2rad(yaw)), np.sin(np.deg2rad(yaw))
    spin = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    turn = Z_TO_Y if up == "z" else np.eye(3)
    turned = vertices @ turn.T
    center = (turned.min(0) + turned.max(0)) / 2
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = OBJECT_RADIUS / np.linalg.norm(turned - center, axis=1).max()
        to_world = np.eye(4)
        to_world[:3, :3] = scale * spin @ turn
        to_world[:3, 3] = -scale * spin @ center
    return to_world


@torch.no_grad()
def render_mesh(mesh: TexturedMesh, cameras: Cameras, size: int, supersample: int = 2,
                num_orbit_views: int | None = None) -> MultiviewObject:
    """Views of a mesh from cameras (V,), S = `size` pixels a side.

    Colour and alpha are means over supersample x supersample rays a pixel; depth is that of the ray through the pixel's
    centre, along the camera's z axis. num_orbit_views: how many of the cameras are the orbit's; all by default.
    """
    if len(cameras.shape) != 1:
        raise ValueError(f"cameras must have shape (V,), got {tuple(cameras.shape)}")
    cameras = cameras.to("cpu", torch.float32)
    views = len(cameras.c2w)
    rgba = np.empty((views, 4, size, size), np.uint8)
    depth = np.empty((views, 1, size, size), np.float32)
    for view in range(views):
        camera = cameras[view:view + 1]
        fine = size * supersample
        hits, hit = _cast_pixels(mesh, camera, fine)
        coverage = hit.astype(np.float32).reshape(size, supersample, size, supersample).mean((1, 3))
        color = np.ones((fine * fine, 3), np.float32)
        if hit.any():
            found = {name: values[hit] for name, values in hits.items()}
            width = found["tfar"] / (float(camera.intrinsics[0, 0, 0]) * fine)  # of a sample on the surface
            color[hit] = mesh.colors(found, width)
        color = color.reshape(size, supersample, size, supersample, 3).mean((1, 3))
        planes = np.concatenate([color, coverage[..., None]], -1)
        rgba[view] = np.rint(255 * planes).astype(np.uint8).transpose(2, 0, 1)
        hits, hit = (hits, hit) if supersample == 1 else _cast_pixels(mesh, camera, size)
        depth[view, 0] = np.where(hit, hits["tfar"], 0).reshape(size, size)
    return MultiviewObject(mesh.name, torch.from_numpy(rgba), cameras, num_orbit_views or views,
                           torch.from_numpy(depth))


def _cast_pixels(mesh: TexturedMesh, camera: Cameras, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One ray through each pixel's centre: directions have camera depth 1, so that `tfar` is the z-depth."""
    directions = camera.pixel_directions(size).reshape(-1, 3).numpy()
    hits = mesh.cast(camera.positions[0].numpy(), directions)
    return hits, hits["primID"] >= 0


def _pyramid(texture: np.ndarray) -> list[np.ndarray]:
    """The texture and its halvings, so that a sample which covers many texels can take their mean."""
    from PIL import Image

    levels = [texture]
    while min(levels[-1].shape[:2]) > 1:
        levels.append(np.asarray(Image.fromarray(levels[-1]).reduce(2)))
    return levels


def _lookup(pyramid: list[np.ndarray], uv: np.ndarray, texels: np.ndarray) -> np.ndarray:
    """Bilinear colours (R, 3) at uv (R, 2), v upwards, repeated beyond [0, 1]; texels: (R,) how many a sample spans.

    The footprint is taken head-on: on surfaces seen at a slant the lookup stays sharp, and supersampling does the rest.
    """
    level = np.clip(np.rint(np.log2(np.maximum(texels, 1e-6))), 0, len(pyramid) - 1).astype(np.int8)
    out = np.empty((len(uv), 3), np.float32)
    for number in range(len(pyramid)):
        mine = np.nonzero(level == number)[0]
        if len(mine) == 0:
            continue
        height, width = pyramid[number].shape[:2]
        places = np.stack([(1 - uv[mine, 1]) * height, uv[mine, 0] * width]) - 0.5
        for c in range(3):
            out[mine, c] = map_coordinates(pyramid[number][..., c], places, np.float32, order=1, mode="grid-wrap")
    return out / 255
