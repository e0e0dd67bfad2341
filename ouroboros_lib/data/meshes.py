"""Pictures, exact depth and coordinate maps of meshes, by ray casting with embree on the CPU.

    mesh = load_mesh("duck.glb")
    views = render_mesh(mesh, evenly_spaced_orbit(8, 20), size=256)      # views.images, .alpha, .depth

Colours are *unlit albedo*, straight from texture, vertex colours or material: no lamp, no shadow, no reflection, so
that pictures do not depend on a lighting that others would have to copy; a `Light` is for training alone. The
background is white. Surfaces are two-sided, and opaque unless their material says otherwise.
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
CREASE, MEETING = np.cos(np.deg2rad(40)), 64  # of lit surfaces; triangles at one point that are compared
LAYERS, CLEAR, STEP = 48, 1 / 512, 1e-5  # of surfaces to look through; what counts as opaque; from one to the next


@dataclass(frozen=True)
class Light:
    """A lamp far away, the same for all views: colours times base + gain (n . direction), n a surface's normal on the
    side that is seen. direction: (3,), of unit length, towards the lamp."""

    direction: np.ndarray
    base: float
    gain: float


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
        self._scene, self._normals = None, None
        textures = {id(part.texture): part.texture for part in self.parts if part.texture is not None}
        pyramids = {key: _pyramid(texture) for key, texture in textures.items()}  # parts may share one
        self._pyramids = [pyramids.get(id(part.texture)) for part in self.parts]
        self.see_through = any(part.see_through for part in self.parts)
        self._densities = [self._texel_density(number) for number in range(len(self.parts))]

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """First hits of rays from one point, or (R, 3) points, along (R, 3) directions: tfar in units of each
        direction's length, primID (-1 for none), and the barycentric coordinates u, v."""
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
        """(R, 3) float32 in [0, 1] at R hits, (R, 4) with opacity where the mesh can be seen through; footprint: (R,)
        the width of each sample in world units, by which the level of the texture's pyramid is chosen."""
        triangle, u, v = hits["primID"], hits["u"][:, None], hits["v"][:, None]
        out = np.ones((len(triangle), 3 + self.see_through), np.float32)
        number = np.searchsorted(self.first, triangle, "right") - 1
        for p, part in enumerate(self.parts):
            mine = np.nonzero(number == p)[0] if len(self.parts) > 1 else slice(None)
            local = triangle[mine] - self.first[p]
            weights = np.stack([1 - u[mine] - v[mine], u[mine], v[mine]], 1)
            color = np.float32([PLAIN / 255] * 3 if part.texture is None and part.colors is None else [1] * 3)
            if part.texture is not None:
                uv = (weights * part.uv[part.faces[local]]).sum(1)
                color = _lookup(self._pyramids[p], uv, self._densities[p][local] * footprint[mine], part.clamp)
            if part.colors is not None:
                color = _product(color, (weights * part.colors[part.faces[local]]).sum(1))
            if part.cutoff is not None:
                color[:, 3] = color[:, 3] >= part.cutoff
            out[mine, :color.shape[-1]] = color
        return out

    def shades(self, hits: dict[str, np.ndarray], directions: np.ndarray, light: Light) -> np.ndarray:
        """(R,) what a light makes of the colours at R hits of rays (R, 3); creases stay sharp, what is round smooth."""
        if self._normals is None:
            self._normals = _corner_normals(self.vertices[self.faces])
        triangle, u, v = hits["primID"], hits["u"][:, None], hits["v"][:, None]
        first, second, third = self._normals[triangle].swapaxes(0, 1)
        normals = _unit((1 - u - v) * first + u * second + v * third)
        seen = -np.sign((normals * directions).sum(1))
        return light.base + light.gain * seen * (normals @ light.direction.astype(np.float32))

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


def load_mesh(path: str | Path, up: str = "auto", texture: str | Path | None = None, yaw: float = 0.0,
              missing: str = "error") -> TexturedMesh:
    """A mesh file, or a folder that holds one (as a GSO object does), moved and scaled into the ball of radius 0.55.

    The middle of the bounding box comes to the origin, the farthest vertex to radius 0.55. up: the file's upward axis;
    "auto" is z for a folder of Google Scanned Objects and y for everything else. texture, missing: see `read_parts`.
    yaw: degrees by which the object is turned about y, from +z, where the condition view stands, towards +x.
    Raises InputError for what cannot be read.
    """
    if up not in UPS:
        raise InputError(f"up={up!r}: expected one of {', '.join(UPS)}")
    path = find_mesh(Path(path))
    if up == "auto":
        up = "z" if is_gso(path) else "y"
    parts, notes = read_parts(path, None if texture is None else Path(texture), missing)
    return place_parts(path, parts, up, yaw, notes)


def place_parts(path: Path, parts: list[Part], up: str, yaw: float, notes: list[str]) -> TexturedMesh:
    """Triangles of a file in the world, as `load_mesh` says; up: y or z. Raises InputError."""
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
                num_orbit_views: int | None = None, depth: bool = True, light: Light | None = None) -> MultiviewObject:
    """Views of a mesh from cameras (V,), S = `size` pixels a side.

    Colour and alpha are means over supersample x supersample rays a pixel; depth is that of the ray through the pixel's
    centre, along the camera's z axis. num_orbit_views: how many of the cameras are the orbit's; all by default. light:
    None for unlit albedo.
    """
    if len(cameras.shape) != 1:
        raise ValueError(f"cameras must have shape (V,), got {tuple(cameras.shape)}")
    cameras = cameras.to("cpu", torch.float32)
    views = len(cameras.c2w)
    rgba = np.zeros((views, size, size, 4), np.uint8)
    rgba[..., :3] = 255
    z_depth = np.zeros((views, 1, size, size), np.float32)
    for view in range(views):
        camera = cameras[view]
        rows, columns = _window(mesh, camera, size)
        shape = rows.stop - rows.start, columns.stop - columns.start
        planes, near = _seen(mesh, camera, size, supersample, rows, columns, light)
        planes = planes.reshape(shape[0], supersample, shape[1], supersample, 4)
        mean = sum(planes[:, i, :, j] for i in range(supersample) for j in range(supersample)) / supersample**2
        rgba[view, rows, columns] = np.rint(255 * mean)
        if depth:
            if supersample != 1:
                _, near = _seen(mesh, camera, size, 1, rows, columns, None, colors=mesh.see_through)
            z_depth[view, 0, rows, columns] = near.reshape(shape)
    return MultiviewObject(mesh.name, torch.from_numpy(rgba.transpose(0, 3, 1, 2).copy()), cameras,
                           num_orbit_views or views, torch.from_numpy(z_depth) if depth else None)


def _window(mesh: TexturedMesh, camera: Cameras, size: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels in which a mesh can be: those of its corners and between them."""
    uv, z = camera[None].project(torch.from_numpy(mesh.vertices))
    if z.min() < 1e-3:  # beside or behind the camera
        return slice(0, size), slice(0, size)
    low, high = (uv[0].aminmax(dim=0).min * size).floor().int() - 1, (uv[0].aminmax(dim=0).max * size).ceil().int() + 1
    (left, top), (right, bottom) = low.clamp(0, size - 1).tolist(), high.clamp(1, size).tolist()
    return slice(top, bottom), slice(left, right)


def _seen(mesh: TexturedMesh, camera: Cameras, size: int, supersample: int, rows: slice, columns: slice,
          light: Light | None, colors: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Colour on white and coverage (R, 4) of supersample x supersample rays a pixel, and the z-depth (R,) at which half
    of the light is held up, 0 for nowhere. Without `colors`, of the first surface, and no colours."""
    k, pose = camera.intrinsics.numpy(), camera.c2w.numpy()
    fine = size * supersample
    x, y = (((np.arange(window.start * supersample, window.stop * supersample, dtype=np.float32) + 0.5) / fine
             - k[axis, 2]) / k[axis, axis] for axis, window in enumerate((columns, rows)))
    right, down, forward = pose[:3, :3].T
    rays = (x[None, :, None] * right + y[:, None, None] * down + forward).reshape(-1, 3)  # tfar is their z-depth
    hits = mesh.cast(pose[:3, 3], rays)
    hit = hits["primID"] >= 0
    near = np.where(hit, hits["tfar"], 0)
    planes = np.ones((len(rays), 4), np.float32)
    planes[:, 3] = hit
    if not hit.any() or not colors:
        return planes, near
    width = 1 / (float(k[0, 0]) * fine)  # of a sample on a surface of depth 1
    found, active = {name: values[hit] for name, values in hits.items()}, np.nonzero(hit)[0]
    clear = np.ones(len(rays), np.float32)  # share of the light that comes through
    for _ in range(LAYERS):
        depth = found["tfar"]
        rgba = mesh.colors(found, depth * width)
        if light is not None:
            rgba[:, :3] = np.clip(rgba[:, :3] * mesh.shades(found, rays[active], light)[:, None], 0, 1)
        if not mesh.see_through:
            planes[active, :3] = rgba
            return planes, near
        through = clear[active] * (1 - rgba[:, 3])
        planes[active, :3] += (clear[active] - through)[:, None] * (rgba[:, :3] - 1)
        near[active] = np.where((clear[active] >= 0.5) & (through < 0.5), depth, near[active] * (clear[active] < 0.5))
        clear[active] = through
        active = active[through > CLEAR]
        start = depth[through > CLEAR] + np.float32(STEP)
        found = mesh.cast(pose[:3, 3] + start[:, None] * rays[active], rays[active]) if len(active) else found
        hit = found["primID"] >= 0
        if not len(active) or not hit.any():
            break
        active = active[hit]
        found = {name: values[hit] for name, values in found.items()} | {"tfar": found["tfar"][hit] + start[hit]}
    planes[:, 3] = 1 - clear
    return planes, near


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of colours (..., 3) and (..., 3) or (..., 4), opaque where they do not say otherwise."""
    if a.shape[-1] == b.shape[-1]:
        return a * b
    wide, narrow = (a, b) if a.shape[-1] == 4 else (b, a)
    wide = wide.copy()
    wide[..., :3] *= narrow
    return wide


def _corner_normals(corners: np.ndarray) -> np.ndarray:
    """(F, 3, 3) normals at the corners of triangles (F, 3, 3): means over the triangles that meet there, without those
    beyond a crease. Where too many meet to compare each with each, the triangle's own."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # as long as twice the area
    places = (np.rint(corners.reshape(-1, 3) * 1e5).astype(np.int64) + 2**18) @ np.array([1, 2**20, 2**40])
    order = np.argsort(places, kind="stable")
    start, count = np.unique(places[order], return_index=True, return_counts=True)[1:]
    start, count = np.repeat(start, count), np.repeat(count, count)  # of each corner, in that order
    count[count > MEETING] = 1
    one = np.repeat(np.arange(len(order)), count)
    other = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count) + np.where(
        count > 1, start, np.arange(len(order)))[one]
    own = np.repeat(normals, 3, axis=0)[order]
    unit = _unit(own)
    smooth = (unit[one] * unit[other]).sum(1) > CREASE
    total = np.stack([np.bincount(one, own[other, axis] * smooth, len(order)) for axis in range(3)], 1)
    result = np.empty_like(unit)
    result[order] = _unit(total)
    return result.reshape(-1, 3, 3).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _pyramid(texture: np.ndarray) -> list[np.ndarray]:
    """The texture and its halvings, so that a sample which covers many texels can take their mean."""
    from PIL import Image

    levels = [texture]
    while min(levels[-1].shape[:2]) > 1:
        levels.append(np.asarray(Image.fromarray(levels[-1]).reduce(2)))
    return levels


def _lookup(pyramid: list[np.ndarray], uv: np.ndarray, texels: np.ndarray, clamp: tuple[bool, bool]) -> np.ndarray:
    """Bilinear colours (R, C) at uv (R, 2), v upwards; texels: (R,) how many a sample spans. Beyond [0, 1] the texture
    repeats itself, or its edge where `clamp` says so of u or v.

    The footprint is taken head-on: on surfaces seen at a slant the lookup stays sharp, and supersampling does the rest.
    """
    level = np.clip(np.rint(np.log2(np.maximum(texels, 1e-6))), 0, len(pyramid) - 1).astype(np.int8)
    out = np.empty((len(uv), pyramid[0].shape[-1]), np.float32)
    for number in range(len(pyramid)):
        mine = np.nonzero(level == number)[0]
        if len(mine) == 0:
            continue
        height, width = pyramid[number].shape[:2]
        places = np.stack([(1 - uv[mine, 1]) * height, uv[mine, 0] * width]) - 0.5
        for axis, length, stops in ((0, height, clamp[1]), (1, width, clamp[0])):
            if stops:
                places[axis] = places[axis].clip(0, length - 1)
        for c in range(out.shape[-1]):
            out[mine, c] = map_coordinates(pyramid[number][..., c], places, np.float32, order=1, mode="grid-wrap")
    return out / 255
