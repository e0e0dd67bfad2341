"""Cameras on an orbit: poses, pixel rays, Pluecker coordinates, projection and back-projection.

CONVENTIONS, used by every module of this library
-------------------------------------------------
World        the object's frame: y up, object inside a ball of radius 0.55 around the origin; the condition view
             (view 0) stands at azimuth 0, that is on the +z axis, looking along -z; positive azimuth turns towards +x.
Cameras      OpenCV axes (x right, y down, z forward); `c2w` (..., V, 4, 4) maps camera to world coordinates;
             `intrinsics` (..., V, 3, 3) are normalised to an image of side 1 (focal length 1 = one image side).
Pixels       centres at half integers: pixel (row i, column j) of an S x S image lies at (u, v) = ((j+.5)/S, (i+.5)/S).
Angles       degrees at every interface.
Images       float in [0, 1], (..., V, 3, H, W), composited on white; alpha (..., V, 1, H, W) kept beside them.
Depth        along z of the camera, not along the ray; 0 where there is no surface.
CCM          canonical coordinate map: world coordinates mapped from the box [-0.55, 0.55]^3 to [0, 1]^3;
             background 0, with alpha.
Quaternions  (w, x, y, z), unit length. Gaussian scales are standard deviations in world units.
Noise level  sigma. `c_noise = log(sigma) / 4` appears only inside the models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .files import one_line
from .values import Between, Positive, checked

RADIUS = 1.742  # world units; the released renders' orbit
FOV = 39.6  # degrees, horizontal and vertical
OBJECT_RADIUS = 0.55  # every object fits in this ball
ELEVATION_RANGE = (-5.0, 30.0)  # degrees, of the training orbits

_OPENGL_TO_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))


@dataclass
class Cameras:
    """V pinhole cameras, with any leading batch dimensions.

    c2w: (..., V, 4, 4) camera to world, OpenCV axes. intrinsics: (..., V, 3, 3), normalised to an image of side 1.
    """

    c2w: Tensor
    intrinsics: Tensor

    def __post_init__(self):
        if self.c2w.shape[-2:] != (4, 4) or self.intrinsics.shape[-2:] != (3, 3):
            raise ValueError(f"c2w must end in (4, 4) and intrinsics in (3, 3), got {tuple(self.c2w.shape)}, "
                             f"{tuple(self.intrinsics.shape)}")
        if self.c2w.shape[:-2] != self.intrinsics.shape[:-2]:
            self.intrinsics = self.intrinsics.expand(*self.c2w.shape[:-2], 3, 3)

    @property
    def shape(self) -> torch.Size:
        """Leading dimensions and the number of views: (..., V)."""
        return self.c2w.shape[:-2]

    @property
    def device(self) -> torch.device:
        return self.c2w.device

    @property
    def positions(self) -> Tensor:
        """(..., V, 3) camera centres in the world."""
        return self.c2w[..., :3, 3]

    @property
    def elevations(self) -> Tensor:
        """(..., V) degrees by which cameras that look at the origin look down on it."""
        x, y, z = self.positions.unbind(-1)
        return torch.rad2deg(torch.atan2(y, torch.hypot(x, z)))

    def __getitem__(self, index) -> Cameras:
        """Index the leading dimensions and the view dimension, as with a tensor of shape (..., V)."""
        return Cameras(self.c2w[index], self.intrinsics[index])

    def views(self, index) -> Cameras:
        """Select along the view dimension only: (..., V') cameras."""
        return Cameras(self.c2w[..., index, :, :], self.intrinsics[..., index, :, :])

    def expand(self, *shape: int) -> Cameras:
        """Broadcast to (*shape, V): the same rig for every object of a batch."""
        views = self.shape[-1]
        return Cameras(self.c2w.expand(*shape, views, 4, 4), self.intrinsics.expand(*shape, views, 3, 3))

    def to(self, *args, **kwargs) -> Cameras:
        return Cameras(self.c2w.to(*args, **kwargs), self.intrinsics.to(*args, **kwargs))

    def world_to_camera(self) -> Tensor:
        """(..., V, 4, 4), by the rigid inverse (rotation transposed), which is exact where a general one is not."""
        rotation_t = self.c2w[..., :3, :3].transpose(-1, -2)
        inverse = torch.zeros_like(self.c2w)
        inverse[..., :3, :3] = rotation_t
        inverse[..., :3, 3] = -_rotate(rotation_t, self.positions)
        inverse[..., 3, 3] = 1
        return inverse

    def directions(self, uv: Tensor) -> Tensor:
        """World directions, of camera depth 1, through image positions (N, 2) in sides: (..., V, N, 3)."""
        k = self.intrinsics[..., None, :, :]
        x, y = (uv[:, 0] - k[..., 0, 2]) / k[..., 0, 0], (uv[:, 1] - k[..., 1, 2]) / k[..., 1, 1]
        return _rotate(self.c2w[..., None, :3, :3], torch.stack([x, y, torch.ones_like(x)], dim=-1))

    def pixel_directions(self, size: int) -> Tensor:
        """`directions` through the pixel centres: (..., V, size, size, 3)."""
        centres = (torch.arange(size, device=self.device, dtype=self.c2w.dtype) + 0.5) / size
        v, u = torch.meshgrid(centres, centres, indexing="ij")
        return self.directions(torch.stack([u, v], dim=-1).flatten(0, 1)).unflatten(-2, (size, size))

    def rays(self, size: int) -> tuple[Tensor, Tensor]:
        """Origins and unit directions of the rays through the pixel centres, each (..., V, size, size, 3)."""
        directions = F.normalize(self.pixel_directions(size), dim=-1)
        return self.positions[..., None, None, :].expand_as(directions), directions

    def pluecker(self, size: int) -> Tensor:
        """Pluecker coordinates (o x d, d) of the pixel rays, d of unit length: (..., V, 6, size, size)."""
        origins, directions = self.rays(size)
        moments = torch.linalg.cross(origins, directions)
        return torch.cat([moments, directions], dim=-1).movedim(-1, -3)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points (..., N, 3) to image coordinates in sides, (..., V, N, 2), and z-depths (..., V, N)."""
        w2c = self.world_to_camera()
        local = _rotate(w2c[..., None, :3, :3], points[..., None, :, :]) + w2c[..., None, :3, 3]
        depth = local[..., 2]
        k = self.intrinsics[..., None, :, :]
        u = k[..., 0, 0] * local[..., 0] / depth + k[..., 0, 2]
        v = k[..., 1, 1] * local[..., 1] / depth + k[..., 1, 2]
        return torch.stack([u, v], dim=-1), depth

    def unproject(self, depth: Tensor) -> Tensor:
        """z-depth (..., V, 1, S, S) to the world points seen, (..., V, 3, S, S)."""
        directions = self.pixel_directions(depth.shape[-1]).movedim(-1, -3)
        return self.positions[..., None, None] + depth * directions

    def canonical_map(self, depth: Tensor) -> Tensor:
        """The CCM of a z-depth map: (..., V, 1, S, S) to (..., V, 3, S, S) in [0, 1]; 0 where the depth is 0."""
        return to_canonical(self.unproject(depth)) * (depth > 0)


def _rotate(matrix: Tensor, vectors: Tensor) -> Tensor:
    """(..., 3, 3) times (..., 3). Written as a sum because autocast would take a matrix product to half precision."""
    return (matrix * vectors[..., None, :]).sum(-1)


def to_canonical(points: Tensor) -> Tensor:
    """World coordinates in [-0.55, 0.55] to canonical ones in [0, 1]."""
    return points / (2 * OBJECT_RADIUS) + 0.5


def from_canonical(ccm: Tensor) -> Tensor:
    """Canonical coordinates in [0, 1] back to the world."""
    return (ccm - 0.5) * (2 * OBJECT_RADIUS)


def normalised_intrinsics(fov: float | Tensor = FOV) -> Tensor:
    """(..., 3, 3) of a square image of side 1 with field of view `fov` in degrees, principal point in the middle."""
    fov = torch.as_tensor(fov, dtype=torch.float32)
    focal = 0.5 / torch.tan(torch.deg2rad(fov) / 2)
    k = torch.zeros(*fov.shape, 3, 3, device=fov.device)
    k[..., 0, 0] = k[..., 1, 1] = focal
    k[..., 0, 2] = k[..., 1, 2] = 0.5
    k[..., 2, 2] = 1
    return k


def orbit_cameras(azimuth, elevation, radius: float | Tensor = RADIUS, fov: float | Tensor = FOV) -> Cameras:
    """Cameras that look at the origin.

    azimuth, elevation: degrees, tensors or numbers that broadcast to (..., V). radius: world units.
    """
    azimuth, elevation = torch.broadcast_tensors(torch.as_tensor(azimuth, dtype=torch.float32),
                                                 torch.as_tensor(elevation, dtype=torch.float32))
    if azimuth.ndim == 0:
        raise ValueError("azimuth or elevation must have a view dimension, for example [0.0]")
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    outward = torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], dim=-1)
    forward = -outward
    right = torch.stack([a.cos(), torch.zeros_like(a), -a.sin()], dim=-1)  # stays defined at the poles
    down = torch.linalg.cross(forward, right)
    c2w = torch.zeros(*a.shape, 4, 4, device=a.device)
    c2w[..., :3, 0], c2w[..., :3, 1], c2w[..., :3, 2] = right, down, forward
    c2w[..., :3, 3] = outward * torch.as_tensor(radius, device=a.device)[..., None]
    c2w[..., 3, 3] = 1
    k = normalised_intrinsics(fov).to(a.device)
    return Cameras(c2w, k.expand(*a.shape, 3, 3))


def evenly_spaced_orbit(num_views: int = 8, elevation: float | Tensor = 10.0, **kwargs) -> Cameras:
    """The rig of every preset: `num_views` cameras 360 / num_views degrees apart at one elevation per object.

    elevation: degrees, a number or (...). Returns cameras of shape (..., num_views).
    """
    elevation = torch.as_tensor(elevation, dtype=torch.float32)
    azimuth = torch.arange(num_views, device=elevation.device) * (360.0 / num_views)
    return orbit_cameras(azimuth, elevation[..., None], **kwargs)


def relative_to_first(cameras: Cameras) -> tuple[Cameras, Tensor]:
    """Cameras (..., V) in a world where view 0 stands on the +z axis, upright: elevation 0, azimuth 0.

    Also returns the rigid motion from there back to the world of `cameras`, (..., 4, 4).
    """
    with torch.autocast(cameras.device.type, enabled=False):  # half precision would move cameras by whole pixels
        first = cameras.c2w[..., :1, :, :]
        pose = torch.zeros_like(first)
        pose[..., 0, 0] = pose[..., 3, 3] = 1
        pose[..., 1, 1] = pose[..., 2, 2] = -1
        pose[..., 2, 3] = first[..., :3, 3].norm(dim=-1)
        placed = Cameras(pose, cameras.intrinsics[..., :1, :, :])
        back = first @ placed.world_to_camera()
        there = placed.c2w @ cameras.views([0]).world_to_camera()
        return Cameras(there @ cameras.c2w, cameras.intrinsics), back[..., 0, :, :]


def field_of_view(cameras: Cameras) -> Tensor:
    """Horizontal field of view in degrees, (..., V)."""
    return torch.rad2deg(2 * torch.atan(0.5 / cameras.intrinsics[..., 0, 0]))


def cameras_to_record(cameras: Cameras, size: int) -> dict:
    """The contents of `cameras.json` for V cameras."""
    if len(cameras.shape) != 1:
        raise ValueError(f"expected cameras of shape (V,), got {tuple(cameras.shape)}")
    return {"convention": "opencv", "size": size, "c2w": cameras.c2w.tolist(),
            "intrinsics": cameras.intrinsics.tolist()}


def cameras_from_record(record: Any, path: str | Path) -> Cameras:
    """The cameras of `cameras.json` or a NeRF/Blender style `meta.json`; the record says which axes.

    `meta.json`: `camera_angle_x` in radians, or nerfstudio's `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h` in pixels, of all or
    of each, and `locations` (or `frames`) with OpenGL `transform_matrix`. `path` is for messages only. Raises
    InputError when an entry is missing or malformed, for lenses that distort and poses that are no rigid motions.
    """
    if isinstance(record, dict) and "c2w" in record:
        checked(record, OwnRecord, path)
        poses, k = (_matrices(record.get(name, []), side, f"{path}: {name}")
                    for name, side in (("c2w", 4), ("intrinsics", 3)))
        if len(k) not in (1, len(poses)):
            raise InputError(f"{path}: {len(poses)} poses, but intrinsics of {len(k)} views")
        cameras = Cameras(poses, k.expand(len(poses), 3, 3))
    else:
        checked(record, NerfRecord, path)
        name = next((name for name in ("locations", "frames") if record.get(name)), None)
        if name is None:
            raise InputError(f"{path}: expected locations or frames, with a transform_matrix for at least one view")
        poses = _matrices([view["transform_matrix"] for view in record[name]], 4, f"{path}: transform_matrix")
        k = torch.stack([_lens({**record, **view}, path) for view in record[name]])
        cameras = Cameras(opengl_to_opencv(poses), k)
    check_rigid(cameras, path)
    return cameras


class OwnRecord(TypedDict, total=False):
    """What is read of `cameras.json`."""

    convention: Literal["opencv"]
    size: Annotated[int, Between(1, 2**16)]
    c2w: list
    intrinsics: list


class Lens(TypedDict, total=False):
    """Of all views, or of one."""

    camera_model: Literal["PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL"]
    camera_angle_x: Annotated[float, Between(0, math.pi, above=True, below=True)]
    fl_x: Positive
    fl_y: Positive
    cx: float
    cy: float
    w: Positive
    h: Positive
    k1: float
    k2: float
    k3: float
    k4: float
    p1: float
    p2: float


class _Pose(TypedDict):
    transform_matrix: list


class View(_Pose, Lens, total=False):
    """One of a NeRF style record."""

    file_path: str
    frames: list


class NerfRecord(Lens, total=False):
    """What is read of `transforms.json` or `meta.json`."""

    locations: list[View]
    frames: list[View]


def _matrices(values: list, side: int, where: str) -> Tensor:
    """(V, side, side) float32. Raises InputError."""
    try:
        matrices = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{where}: no {side} x {side} numbers ({one_line(error)})") from None
    if matrices.ndim == 2 and side == 3:  # one lens for all views
        matrices = matrices[None]
    if matrices.ndim != 3 or matrices.shape[1:] != (side, side) or not len(matrices):
        raise InputError(f"{where}: expected {side} x {side} numbers for each view, got {tuple(matrices.shape)}")
    return matrices


def check_rigid(cameras: Cameras, path: str | Path) -> None:
    """Raise InputError unless the poses of cameras (V,) are rotations and shifts, and lenses have a focal length."""
    c2w, k = cameras.c2w.double().numpy(), cameras.intrinsics.double().numpy()  # sooner than torch for so few numbers
    if not (np.isfinite(c2w).all() and np.isfinite(k).all()):
        raise InputError(f"{path}: cameras with numbers that are not finite")
    rotation = c2w[:, :3, :3]
    odd = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2)) > 1e-2
    odd |= (np.linalg.det(rotation) < 0) | (c2w[:, 3] != (0, 0, 0, 1)).any(1)
    if odd.any():
        raise InputError(f"{path}: the pose of view {odd.argmax()} is no rotation with a shift; scaled, mirrored or "
                         "sheared cameras are not read")
    if not (k[:, [0, 1], [0, 1]] > 0).all():
        raise InputError(f"{path}: focal lengths must be positive")


def _lens(record: dict, path: str | Path) -> Tensor:
    """(3, 3) normalised intrinsics of a NeRF style record. Raises InputError."""
    if bent := [name for name in ("k1", "k2", "k3", "k4", "p1", "p2") if record.get(name)]:
        raise InputError(f"{path}: {bent[0]}: the lens distorts, which is not read; undistort the pictures first")
    if "fl_x" not in record and "camera_angle_x" in record:
        return normalised_intrinsics(math.degrees(record["camera_angle_x"]))
    if missing := [name for name in ("fl_x", "w", "h") if name not in record]:
        raise InputError(f"{path}: neither camera_angle_x nor {missing[0]} is there; see the conventions in cameras.py")
    width, height, x = record["w"], record["h"], record["fl_x"]
    return torch.tensor([[x / width, 0, record.get("cx", width / 2) / width],
                         [0, record.get("fl_y", x) / height, record.get("cy", height / 2) / height], [0, 0, 1]])


def opengl_to_opencv(c2w: Tensor) -> Tensor:
    """Camera-to-world matrices from OpenGL axes (x right, y up, z backward) to OpenCV axes; its own inverse."""
    return c2w @ _OPENGL_TO_OPENCV.to(c2w)
