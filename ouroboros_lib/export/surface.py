"""The closed surface of a splat: depth maps from all around, fused into a signed distance on a grid, marching cubes.

Curless & Levoy 1996, "A volumetric method for building complex models from range images". What no view sees into counts
as inside, so that the surface is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit, prange

from ..cameras import OBJECT_RADIUS, RADIUS, Cameras, orbit_cameras
from ..errors import InputError
from ..gaussians import Gaussians
from ..rasterization.kernels import CACHED
from ..rasterization.projection import MAX_ALPHA, MIN_ALPHA, project

if TYPE_CHECKING:
    from trimesh import Trimesh

VIEWS = 48  # depth maps, spread evenly over a sphere
DEPTH_SIZE = 128  # pixels: the pictures that the shipped weights learnt from; finer ones look between the Gaussians
GRID = 128  # cells a side: 0.009 of the object's ball of radius 0.55, as wide as a pixel of DEPTH_SIZE
CUT = 0.95  # a ray ends where less of its light is left: lower, it passes or sinks in where Gaussians are loose
TRUNCATION = 0.04 / OBJECT_RADIUS  # of the object's radius: so far behind a surface a depth map speaks
SMOOTHING = 0.7  # cells, standard deviation: without it, noise leaves hundreds of handles and islands
PART = 0.05  # of the largest part's triangles: what has fewer is a floater
GOLDEN_ANGLE = 180 * (3 - 5**0.5)  # degrees


@dataclass
class Surface:
    """vertices (N, 3) and faces (F, 3), outwards; normals (N, 3) of unit length; step: a cell's side, world units."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    step: float


def extract_surface(gaussians: Gaussians, faces: int) -> Surface:
    """The closed surface of Gaussians (N,) on the CPU, without floaters, with at most `faces` triangles.

    Raises InputError.
    """
    from fast_simplification import simplify
    from scipy.ndimage import gaussian_filter
    from skimage.measure import marching_cubes
    from trimesh import Trimesh

    volume, centre, half = fuse(gaussians)
    closed = gaussian_filter(np.pad(volume, 1, constant_values=volume.max()), SMOOTHING)
    if not (closed < 0).any():
        raise InputError("no surface that can be seen: no mesh")
    step = 2 * half / GRID
    vertices, triangles, _, _ = marching_cubes(closed, 0.0)
    mesh = _parts(Trimesh(centre - half + (vertices - 0.5) * step, triangles))
    dense, target = mesh, faces
    while len(mesh.faces) > faces:  # mending adds some
        mesh = _parts(_manifold(*simplify(dense.vertices, dense.faces, target_count=target)))
        target -= max(len(mesh.faces) - faces, 0)
    return Surface(np.array(mesh.vertices), np.array(mesh.faces), np.array(mesh.vertex_normals), step)


def _parts(mesh: Trimesh) -> Trimesh:
    """Without floaters, which have fewer than PART of the largest part's triangles."""
    from trimesh.util import concatenate

    parts = mesh.split(only_watertight=False)
    least = PART * max(len(part.faces) for part in parts)
    return concatenate([part for part in parts if len(part.faces) > least])


def _manifold(vertices: np.ndarray, faces: np.ndarray) -> Trimesh:
    """A decimated closed mesh (N, 3), (F, 3) with two triangles at every edge: where thin parts have collapsed there
    may be more.

    Pairs of triangles on the same corners go. Then the triangles at such an edge are paired, and each pair gets a
    middle of the edge of its own, drawn into the two by a hundredth, or programs that merge equal vertices would undo
    it.
    """
    from trimesh import Trimesh

    _, first, times = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    faces = faces[first[times % 2 == 1]]
    start, end, apex = (np.roll(faces, -turn, axis=1).ravel() for turn in range(3))  # of edges (3F,), a face's in a row
    low, high = np.minimum(start, end), np.maximum(start, end)
    order = np.lexsort((start > end, high, low))  # edge by edge: first those of one direction, then of the other
    _, edge, times = np.unique(np.stack([low, high])[:, order], axis=1, return_index=True, return_counts=True)
    middles, split = [], np.full(len(start), -1)
    for begin, count in zip(edge[times > 2], times[times > 2], strict=True):
        for pair in zip(*np.split(order[begin:begin + count], 2), strict=True):
            split[[*pair]] = len(vertices) + len(middles)
            middle = vertices[[start[pair[0]], end[pair[0]]]].mean(0)
            middles.append(0.99 * middle + 0.01 * vertices[apex[[*pair]]].mean(0))
    whole = (split.reshape(-1, 3) < 0).all(1)
    cut = [corners for face, new in zip(faces[~whole], split.reshape(-1, 3)[~whole], strict=True)
           for corners in _fan([corner for both in zip(face, new, strict=True) for corner in both], new.max())]
    return Trimesh(np.concatenate([vertices, np.reshape(middles, (-1, 3))]),
                   np.concatenate([faces[whole], np.reshape(cut, (-1, 3)).astype(faces.dtype)]), process=False)


def _fan(corners: list[int], first: int) -> list[tuple[int, int, int]]:
    """Triangles around `first` of a polygon; corners of -1 are none."""
    ring = [corner for corner in corners if corner >= 0]
    turned = ring[ring.index(first):] + ring[:ring.index(first)]
    return [(first, turned[i], turned[i + 1]) for i in range(1, len(turned) - 1)]


def bounds(gaussians: Gaussians) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of a ball that holds the Gaussians which are mostly opaque. Raises InputError."""
    means = gaussians.means[gaussians.opacities > 0.5].double()
    if not len(means):
        raise InputError("no opaque Gaussian: no mesh")
    centre = (means.amin(0) + means.amax(0)) / 2
    return centre.numpy(), float((means - centre).norm(dim=-1).max())


def surrounding_rig(gaussians: Gaussians) -> Cameras:
    """(VIEWS,) cameras on a sphere around the Gaussians, which see all of them as the orbits see our objects."""
    centre, radius = bounds(gaussians)
    number = torch.arange(VIEWS) + 0.5
    rig = orbit_cameras(number * GOLDEN_ANGLE, torch.rad2deg(torch.asin(1 - 2 * number / VIEWS)),
                        RADIUS * radius / OBJECT_RADIUS)
    rig.c2w[:, :3, 3] += torch.from_numpy(centre).float()
    return rig


@torch.no_grad()
def fuse(gaussians: Gaussians) -> tuple[np.ndarray, np.ndarray, float]:
    """Signed distance (GRID, GRID, GRID) by x, y, z, positive outside; the cube's centre (3,) and half its side."""
    rig = surrounding_rig(gaussians)
    depth = cut_depth(gaussians, rig, DEPTH_SIZE)
    centre, radius = bounds(gaussians)
    half = radius * 1.05
    volume = np.empty((GRID, GRID, GRID), np.float32)
    _fuse(depth, rig.world_to_camera().numpy(), (rig.intrinsics * DEPTH_SIZE).numpy(), centre.astype(np.float32),
          np.float32(half), np.float32(TRUNCATION * radius), volume)
    return volume, centre, half


def cut_depth(gaussians: Gaussians, cameras: Cameras, size: int) -> np.ndarray:
    """(V, size, size) z-depth of the Gaussian after which less than CUT of a ray's light is left; 0 where more is."""
    p = project(gaussians[None], cameras.expand(1), size)
    planes = [plane[0].contiguous().numpy() for plane in (p.u, p.v, p.conic_uu, p.conic_uv, p.conic_vv, p.depth,
                                                          p.radius_u, p.radius_v)]
    depth = np.zeros((cameras.shape[0], size, size), np.float32)
    _cut(*planes, gaussians.opacities.contiguous().numpy(), np.argsort(planes[5], axis=1), depth)
    return depth


@njit(parallel=True, cache=CACHED)
def _cut(u, v, uu, uv, vv, depth, radius_u, radius_v, opacities, order, out):
    size = out.shape[1]
    for view in prange(len(u)):
        light = np.ones((size, size), np.float32)
        for g in order[view]:
            x, y, half_x, half_y = u[view, g], v[view, g], radius_u[view, g], radius_v[view, g]
            if half_x == 0:
                continue
            for row in range(max(0, int(y - half_y)), min(size, int(y + half_y) + 1)):
                for column in range(max(0, int(x - half_x)), min(size, int(x + half_x) + 1)):
                    if light[row, column] < CUT:
                        continue
                    dx, dy = column + 0.5 - x, row + 0.5 - y
                    exponent = 0.5 * (uu[view, g] * dx * dx + vv[view, g] * dy * dy) + uv[view, g] * dx * dy
                    alpha = min(MAX_ALPHA, opacities[g] * np.exp(-exponent))
                    if alpha >= MIN_ALPHA:
                        light[row, column] *= 1 - alpha
                        if light[row, column] < CUT:
                            out[view, row, column] = depth[view, g]


@njit(parallel=True, fastmath=True, cache=CACHED)
def _fuse(depth, world_to_camera, intrinsics, centre, half, truncation, volume):
    """Mean over the views that see a cell, or lie not far before it, of depth minus the cell's; nobody's is inside."""
    cells, size = len(volume), depth.shape[1]
    step = 2 * half / cells
    for i in prange(cells):
        for j in range(cells):
            for k in range(cells):
                x, y, z = (centre[0] - half + (i + np.float32(0.5)) * step,
                           centre[1] - half + (j + np.float32(0.5)) * step,
                           centre[2] - half + (k + np.float32(0.5)) * step)
                total, count = np.float32(0), 0
                for view in range(len(depth)):
                    m, lens = world_to_camera[view], intrinsics[view]
                    away = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
                    column = int(lens[0, 0] * (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / away + lens[0, 2])
                    row = int(lens[1, 1] * (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / away + lens[1, 2])
                    if not (0 <= row < size and 0 <= column < size):
                        continue
                    seen = depth[view, row, column]
                    distance = truncation if seen == 0 else seen - away
                    if distance > -truncation:
                        total += min(distance, truncation)
                        count += 1
                volume[i, j, k] = total / count if count else -truncation
