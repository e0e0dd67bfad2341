"""Shared by the tests of evaluation: an object alike from no two sides, as mesh and splat, and scores by view."""

import csv
import math
from dataclasses import replace

import numpy as np
import torch
import trimesh

from ouroboros_lib.cameras import FOV, RADIUS, Cameras, orbit_cameras
from ouroboros_lib.data.folders import MultiviewObject
from ouroboros_lib.evaluation.evaluate import evaluate
from ouroboros_lib.evaluation.sources import Folder
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import rasterize

SIZE, ELEVATION = 64, 20.0
SEEN_AS = math.tan(math.radians(FOV / 2)) * RADIUS  # half the picture's width at the object, in our units
VIEWS = {  # of releases: azimuths, elevations, field of view
    "SyncDreamer": (np.arange(16) * 22.5, 30.0, math.degrees(2 * math.atan(16 / 35))),  # a 35 mm lens, a sensor of 32
    "SV3D": ((np.arange(21) + 1) * 360 / 21, ELEVATION, 33.8),
    "VideoMV": (np.arange(24) * 15.0, ELEVATION, FOV),
    "VideoMV (GS)": (np.arange(24) * 15.0, ELEVATION, FOV),
    "Ouroboros3D": (np.array([0, 45, 90, 135, 180, 225, 270, 337.5]), 0.0, FOV),
    "InstantMesh": (30 + np.arange(6) * 60.0, np.array([20.0, -10] * 3), 30.0),
}
INPUT_PITCH = math.radians(ELEVATION)
LEANING = np.array([[1, 0, 0], [0, math.cos(INPUT_PITCH), -math.sin(INPUT_PITCH)],
                                        [0, math.sin(INPUT_PITCH), math.cos(INPUT_PITCH)]])
Z_UP_X_FRONT = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])  # (x right, y up, z front) to (front, right, up)


def release_cameras(name):
    """The cameras of a release's pictures of an input view at ELEVATION, from the facts, not the library's JSON."""
    angles, elevation, fov = VIEWS[name]
    rig = {"fov": fov, "radius": SEEN_AS / math.tan(math.radians(fov / 2))}
    cameras = orbit_cameras(torch.from_numpy(angles), torch.as_tensor(elevation), **rig)
    if name == "Ouroboros3D":  # c2w_input . inverse(c2w_0) . c2w_i
        first = orbit_cameras([0.0], ELEVATION, **rig).c2w.double() @ torch.linalg.inv(cameras.c2w[:1].double())
        cameras = Cameras((first @ cameras.c2w.double()).float(), cameras.intrinsics)
    return cameras


def asymmetric_mesh():
    """Boxes of different colours, alike from no two sides, in the ball of radius 0.55."""
    parts = []
    for extents, centre, color in (((0.6, 0.3, 0.3), (0, 0, 0), (200, 60, 40)), ((0.2, 0.2, 0.2), (0.25, 0.2, 0.07),
                                   (40, 90, 200)), ((0.1, 0.3, 0.1), (-0.2, 0.25, -0.12), (40, 170, 60)),
                                   ((0.15, 0.1, 0.3), (0.1, -0.12, 0.25), (230, 200, 30))):
        box = trimesh.creation.box(extents)
        box.apply_translation(centre)
        box.visual.vertex_colors = np.tile(np.uint8([*color, 255]), (len(box.vertices), 1))
        parts.append(box)
    whole = trimesh.util.concatenate(parts)
    whole.apply_translation(-whole.bounds.mean(0))
    whole.apply_scale(0.55 / np.linalg.norm(whole.vertices, axis=1).max())
    return whole


def asymmetric_splat(count=400):
    generator = torch.Generator().manual_seed(0)
    means = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([0.7, 0.5, 0.4])
    return Gaussians(means, torch.full((count,), 0.9), 0.01 + 0.03 * torch.rand(count, 3, generator=generator),
                     torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
                     (means + 0.4).clamp(0, 1))


def moved(gaussians, matrix):
    """Means, sizes and axes of Gaussians mapped by a similarity, on the covariance: independent of the library."""
    scale = np.linalg.det(matrix) ** (1 / 3)
    turn = torch.from_numpy(matrix / scale).float() @ gaussians.rotations()
    quaternions = torch.from_numpy(np.stack([trimesh_quaternion(rotation) for rotation in turn.numpy()]))
    return replace(gaussians, means=gaussians.means @ torch.from_numpy(matrix.T).float(),
                   scales=gaussians.scales * float(scale), quaternions=quaternions.float())


def trimesh_quaternion(rotation):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    return trimesh.transformations.quaternion_from_matrix(matrix)  # wxyz


def splat_views(gaussians, cameras, size, name="thing", label=None, orbit=None):
    drawn = rasterize(gaussians, cameras, size)
    rgba = (255 * torch.cat([drawn.rgb.clamp(0, 1), drawn.alpha], 1)).round().byte()
    return MultiviewObject(name, rgba, cameras, orbit or len(rgba), None, {"render": {"protocol": label}})


def rows_of(out):
    with open(out.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def scores(data, method, out, protocol, kind, **options):
    """PSNR by view of object `thing`."""
    evaluate(Folder(data, protocol), method, out=out, **options)
    return {int(row["view"]): float(row["psnr"]) for row in rows_of(out)
            if row["object"] == "thing" and row["kind"] == kind}
