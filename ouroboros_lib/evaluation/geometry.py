"""How well the surface of a splat or mesh agrees with the true one, of a procedural object or of a mesh.

Both surfaces are what cameras all around see of them, so that they may be open, doubled or full of inner walls: nothing
here asks a mesh for its inside.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..cameras import OBJECT_RADIUS, Cameras, orbit_cameras
from ..data.meshes import TexturedMesh, render_mesh
from ..data.procedural import Objects, render_objects, signed_distance
from ..errors import needs
from .rows import GEOMETRY
from .shapes import Shape

THRESHOLD = 0.02  # world units, for the F-score: 1.8 % of the largest object's diameter
SIZE, GRID = 128, 64
MESH_SAMPLES, NEAREST = 50_000, 4
HOW_MEASURED = {  # of meshes, as results state it
    "surfaces": f"what 24 cameras all around see, {SIZE} pixels, where alpha exceeds 0.5; lengths in world units, the "
                f"object in a ball of radius {OBJECT_RADIUS}",
    "accuracy": f"mean distance to the true mesh: to the triangles of the {NEAREST} nearest of {MESH_SAMPLES} samples "
                "spread evenly by area",
    "completeness": "mean distance from every fourth visible point of the true mesh to the nearest visible one",
    "f_score": f"within {THRESHOLD}", "iou": f"grid of {GRID}^3 cells, volume: all that no camera sees past"}


@dataclass
class Surface:
    """A true surface. depth (V, 1, S, S) as `surrounding_cameras` see it; distance: points (P, 3) to (P,) in world
    units; inside (GRID^3,): which cells of the grid belong to its volume."""

    depth: Tensor
    distance: Callable[[Tensor], Tensor]
    inside: Tensor


def surrounding_cameras() -> Cameras:
    """(24,) cameras that see an object from everywhere: three orbits of eight, 40 degrees below to 75 above."""
    azimuths = torch.arange(8) * 45.0 + torch.tensor([0.0, 22.5, 0.0])[:, None]
    return orbit_cameras(azimuths.flatten(), torch.tensor([-40.0, 15.0, 75.0]).repeat_interleave(8))


@torch.no_grad()
def measure_shape(shape: Shape, truth: Surface) -> dict[str, float]:
    """A splat or mesh against its true surface; lengths in world units. See HOW_MEASURED.

    chamfer: the mean of accuracy and completeness. f_score: harmonic mean of the shares within THRESHOLD. What no
    camera sees has infinite distances and zeros.
    """
    rig = surrounding_cameras()
    _, alpha, depth = shape.seen(rig, SIZE)
    return compare_surfaces(torch.where(alpha > 0.5, depth, 0.0), truth, rig)


def procedural_surface(obj: Objects) -> Surface:
    """Of one procedural object, exact."""
    rig = surrounding_cameras().to(obj.device)
    depth = render_objects(obj, rig.expand(1), SIZE, supersample=1, depth=True).depth[0]
    return Surface(depth, lambda points: signed_distance(obj, points[None])[0].abs(),
                   signed_distance(obj, _grid(depth.device)[None])[0] < 0)


def mesh_surface(mesh: TexturedMesh, rig: Cameras) -> Surface:
    """Of a mesh in our world, which need not be closed: its volume is what none of the cameras sees past.

    Distances are to the nearest of the triangles that hold the 4 samples nearest to a point, of 50,000 samples spread
    evenly by area: exact but for triangles that are nearer and yet hold none of these.
    """
    with needs("eval", "the surface of a mesh"):
        import trimesh

    depth = render_mesh(mesh, rig, SIZE, supersample=1).depth
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    samples, faces = trimesh.sample.sample_surface(surface, MESH_SAMPLES, seed=0)
    tree, triangles = cKDTree(samples), np.asarray(surface.triangles)

    def distance(points: Tensor) -> Tensor:
        found = points.double().cpu().numpy()
        _, index = tree.query(found, k=NEAREST, workers=-1)
        best = [np.linalg.norm(trimesh.triangles.closest_point(triangles[faces[index[:, k]]], found) - found, axis=1)
                for k in range(NEAREST)]
        return torch.from_numpy(np.min(best, axis=0)).float()

    return Surface(depth, distance, _carved(depth, rig))


def compare_surfaces(depth: Tensor, truth: Surface, rig: Cameras) -> dict[str, float]:
    """The record of `measure_shape` for depth maps (V, 1, S, S) of the rig, 0 where there is nothing."""
    depth, rig = depth.to(truth.depth.device), rig.to(truth.depth.device)
    seen, exact = _points(depth, rig), _points(truth.depth, rig)
    iou = _iou(_carved(depth, rig), truth.inside)
    if len(seen) == 0:
        return dict(zip(GEOMETRY, (math.inf, math.inf, math.inf, 0.0, iou), strict=True))
    to_exact = truth.distance(seen).cpu()
    to_seen = torch.from_numpy(cKDTree(seen.cpu().numpy()).query(exact[::4].cpu().numpy(), workers=-1)[0])
    precision, recall = ((distance < THRESHOLD).double().mean() for distance in (to_exact, to_seen))
    f_score = 2 * precision * recall / (precision + recall).clamp_min(1e-9)
    accuracy, completeness = float(to_exact.mean()), float(to_seen.mean())
    return {"accuracy": accuracy, "completeness": completeness, "chamfer": (accuracy + completeness) / 2,
            "f_score": float(f_score), "iou": iou}


def _points(depth: Tensor, rig: Cameras) -> Tensor:
    """Depth maps (V, 1, S, S), 0 where there is nothing, to world points (P, 3)."""
    return rig.unproject(depth).movedim(1, -1)[depth[:, 0] > 0]


def _grid(device) -> Tensor:
    """Centres of GRID^3 cells that fill the objects' box, (GRID^3, 3)."""
    centres = ((torch.arange(GRID, device=device) + 0.5) / GRID * 2 - 1) * OBJECT_RADIUS
    return torch.cartesian_prod(centres, centres, centres)


def _carved(depth: Tensor, rig: Cameras) -> Tensor:
    """(GRID^3,) whether a cell lies behind the surface (or in it) for every camera."""
    uv, z = rig.project(_grid(depth.device))  # (V, P, 2), (V, P)
    pixel = (uv * SIZE).long().clamp(0, SIZE - 1)
    surface = depth[:, 0].flatten(1).gather(1, pixel[..., 1] * SIZE + pixel[..., 0])
    return ((surface > 0) & (z >= surface)).all(dim=0)


def _iou(a: Tensor, b: Tensor) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0
