"""Views of a splat with their cameras: the library's own folder, NeRF's `transforms.json`, and a COLMAP text model.

Each file is in the world that its readers expect. cameras.json: y up, the conventions of cameras.py. transforms.json:
z up, where Blender puts a GLB of ours. COLMAP: y down, where our .ply lies.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cameras import Cameras, cameras_to_record, evenly_spaced_orbit, opengl_to_opencv
from ..errors import InputError
from ..files import dump_json
from ..gaussians import Gaussians, matrix_to_quaternion
from ..rasterization import Rendering, rasterize

MAPS = ("depth", "normals")
MIN_OPACITY = 0.1  # fainter Gaussians are no points of the surface
Y_UP_TO_Z_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
Y_UP_TO_Y_DOWN = torch.diag(torch.tensor([1.0, -1, -1, 1]))


def parse_maps(text: str) -> tuple[str, ...]:
    """Names of MAPS with commas between, or nothing. Raises InputError."""
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        if name not in MAPS:
            raise InputError(f"maps '{name}': expected some of {', '.join(MAPS)}, with commas between")
    return names


@torch.no_grad()
def render_views(gaussians: Gaussians, cameras: Cameras, size: int, background: float | Tensor = 0.0) -> Rendering:
    """Gaussians (N,) from cameras (V,), on the CPU: eight views at a time, for memory."""
    cameras = cameras.to(gaussians.device)
    parts = [rasterize(gaussians, cameras.views(slice(i, i + 8)), size, background=background)
             for i in range(0, cameras.shape[-1], 8)]
    return Rendering(*(torch.cat([getattr(part, name).cpu() for part in parts]) for name in ("rgb", "alpha", "depth")))


def write_views(folder: Path, gaussians: Gaussians, elevation: float, count: int = 8, size: int = 512,
                maps: Sequence[str] = ()) -> None:
    """A folder of `count` views once round at `elevation` degrees, `size` pixels a side, view 0 in front.

    view_000.png: RGBA, straight colour. depth_000.npy: (size, size) float32, z-depth in world units, 0 where nothing
    is. normal_000.png: RGBA, (n + 1) / 2 in camera axes x right, y up, z to the camera. cameras.json, transforms.json.
    """
    cameras = evenly_spaced_orbit(count, elevation)
    seen = render_views(gaussians, cameras, size)
    folder.mkdir(parents=True)
    _write_pictures(folder, seen)
    solid = torch.where(seen.alpha > 0.5, seen.depth, 0.0)
    for view in range(count):
        if "depth" in maps:
            np.save(folder / f"depth_{view:03d}.npy", solid[view, 0].numpy())
        if "normals" in maps:
            _save_rgba(folder / f"normal_{view:03d}.png", normals(solid[view], cameras[view:view + 1]) / 2 + 0.5,
                       (solid[view] > 0).float())
    (folder / "cameras.json").write_bytes(dump_json(cameras_to_record(cameras, size), indent=None))
    record = transforms_record(cameras, size, "depth" in maps)
    (folder / "transforms.json").write_bytes(dump_json(record))


def transforms_record(cameras: Cameras, size: int, depth: bool = False) -> dict:
    """The contents of `transforms.json` for V cameras: nerfstudio's entries, which are Blender's and more.

    Axes of the cameras are OpenGL's, as both want; depth files are in world units: `depth_unit_scale_factor` 1.
    """
    if not torch.equal(cameras.intrinsics, cameras.intrinsics[:1].expand_as(cameras.intrinsics)):
        raise ValueError("transforms.json holds one lens for all cameras")
    poses = opengl_to_opencv(Y_UP_TO_Z_UP @ cameras.c2w)
    k = cameras.intrinsics[0]
    frames = [{"file_path": f"view_{view:03d}.png", "transform_matrix": pose.tolist(),
               **({"depth_file_path": f"depth_{view:03d}.npy"} if depth else {})} for view, pose in enumerate(poses)]
    return {"camera_model": "OPENCV", "camera_angle_x": 2 * math.atan(0.5 / float(k[0, 0])), "w": size, "h": size,
            "fl_x": float(k[0, 0]) * size, "fl_y": float(k[1, 1]) * size, "cx": float(k[0, 2]) * size,
            "cy": float(k[1, 2]) * size, "depth_unit_scale_factor": 1.0, "frames": frames}


def write_colmap(folder: Path, gaussians: Gaussians, elevation: float, count: int = 8, size: int = 512) -> None:
    """A COLMAP project for training splats: images/view_000.png ... RGBA, and sparse/0/ as text.

    Points are the centres of Gaussians that show; they have no tracks. The format: colmap.github.io/format.html.
    """
    cameras = evenly_spaced_orbit(count, elevation)
    (folder / "images").mkdir(parents=True)
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    _write_pictures(folder / "images", render_views(gaussians, cameras, size))
    k = (cameras.intrinsics[0] * size).tolist()
    (model / "cameras.txt").write_text(f"# CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY\n1 PINHOLE {size} {size} "
                                       f"{k[0][0]:.9g} {k[1][1]:.9g} {k[0][2]:.9g} {k[1][2]:.9g}\n", encoding="utf-8")
    world_to_camera = Cameras(Y_UP_TO_Y_DOWN @ cameras.c2w, cameras.intrinsics).world_to_camera().double()
    poses = torch.cat([matrix_to_quaternion(world_to_camera[:, :3, :3]), world_to_camera[:, :3, 3]], dim=-1)
    lines = [f"{view + 1} {_numbers(pose)} 1 view_{view:03d}.png\n\n" for view, pose in enumerate(poses.tolist())]
    (model / "images.txt").write_text("# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of 2D points: none\n"
                                      + "".join(lines), encoding="utf-8")
    shown = gaussians[gaussians.opacities > MIN_OPACITY].to("cpu")
    means = shown.means @ Y_UP_TO_Y_DOWN[:3, :3]
    colors = (shown.colors.clamp(0, 1) * 255).round().int()
    rows = zip(means.tolist(), colors.tolist(), strict=True)
    points = [f"{number} {_numbers(mean)} {r} {g} {b} 0\n" for number, (mean, (r, g, b)) in enumerate(rows, start=1)]
    (model / "points3D.txt").write_text("# POINT3D_ID X Y Z R G B ERROR TRACK[]\n" + "".join(points), encoding="utf-8")


def normals(depth: Tensor, camera: Cameras) -> Tensor:
    """Unit normals (3, S, S) of a depth map (1, S, S) of one camera (1,): in axes x right, y up, z to the camera.

    From differences between neighbours; 0 where there is no depth.
    """
    at_origin = Cameras(torch.eye(4).expand(1, 4, 4), camera.intrinsics)
    points = at_origin.unproject(depth[None])[0].double().numpy()
    right, down = (np.gradient(points, axis=axis) for axis in (2, 1))
    normal = torch.from_numpy(np.cross(down, right, axis=0)).float()  # towards the camera: -z
    normal = torch.nn.functional.normalize(normal, dim=0) * torch.tensor([1.0, -1, -1])[:, None, None]
    return normal * (depth > 0)


def _write_pictures(folder: Path, seen: Rendering) -> None:
    for view, (rgb, alpha) in enumerate(zip(seen.rgb, seen.alpha, strict=True)):
        _save_rgba(folder / f"view_{view:03d}.png", rgb / alpha.clamp_min(1e-6), alpha)


def _save_rgba(path: Path, color: Tensor, alpha: Tensor) -> None:
    """Straight colour (3, S, S) and alpha (1, S, S), white where there is nothing, as data.folders writes it."""
    pixels = (torch.cat([torch.where(alpha > 0, color, 1.0), alpha]).clamp(0, 1) * 255).round().byte()
    Image.fromarray(pixels.movedim(0, -1).contiguous().numpy()).save(path)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)
