"""Other methods' outputs as something that can be looked at from the protocol's cameras: pictures, splats, meshes.

What lies in another world is not moved: the cameras are taken there instead. A similarity x_theirs = M x_ours maps a
camera's position and turns its axes, and the picture stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..cameras import Cameras
from ..data.folders import MultiviewObject, on_white
from ..data.mesh_files import SUFFIXES
from ..data.meshes import load_mesh, render_mesh
from ..data.renders import find_meshes
from ..errors import InputError
from ..gaussians import Gaussians
from ..rasterization import rasterize
from .conventions import Convention

KINDS = ("images", "splat", "mesh")
PICTURES = (".png", ".webp", ".jpg", ".jpeg")


@dataclass
class Shape:
    """Something in 3D. draw: (V,) cameras and a size to colour on white (V, 3, S, S), alpha and z-depth (V, 1, S, S),
    in the coordinates of its file; from_ours (4, 4) takes ours there; notes: what a user should know about it."""

    draw: Callable[[Cameras, int], tuple[Tensor, Tensor, Tensor]]
    from_ours: Tensor
    notes: tuple[str, ...] = ()

    def seen(self, cameras: Cameras, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Colour, alpha and depth, all as cameras (V,) of our world see it."""
        rgb, alpha, depth = self.draw(transformed_cameras(cameras, self.from_ours), size)
        return rgb, alpha, depth / _scale(self.from_ours)

    def turned(self, azimuth: float, scale: float) -> Shape:
        """The same, turned by `azimuth` degrees about y (from +z towards +x) and enlarged by `scale`, in our world."""
        angle = torch.deg2rad(torch.tensor(azimuth, dtype=torch.float64))
        c, s = float(angle.cos()), float(angle.sin())
        move = torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]], dtype=torch.float64)
        move[:3, :3] *= scale
        return Shape(self.draw, self.from_ours @ torch.linalg.inv(move))


def transformed_cameras(cameras: Cameras, similarity: Tensor) -> Cameras:
    """Cameras (V,) whose world is mapped by a (4, 4) similarity: turned, scaled and moved with it."""
    matrix = similarity.to(cameras.device, torch.float64)
    c2w = cameras.c2w.double().clone()
    c2w[..., :3, :3] = matrix[:3, :3] / _scale(matrix) @ c2w[..., :3, :3]
    c2w[..., :3, 3] = c2w[..., :3, 3] @ matrix[:3, :3].T + matrix[:3, 3]
    return Cameras(c2w.to(cameras.c2w.dtype), cameras.intrinsics)


def _scale(similarity: Tensor) -> float:
    return float(torch.linalg.det(similarity[:3, :3].double())) ** (1 / 3)


def splat_shape(gaussians: Gaussians, to_ours: Tensor | None = None) -> Shape:
    """A splat (N,); to_ours: (4, 4), from its coordinates to ours."""
    @torch.no_grad()
    def draw(cameras: Cameras, size: int):
        parts = [rasterize(gaussians, cameras.views(slice(i, i + 8)).to(gaussians.device), size)
                 for i in range(0, cameras.shape[-1], 8)]
        return tuple(torch.cat([getattr(part, name) for part in parts]).cpu() for name in ("rgb", "alpha", "depth"))

    return Shape(lambda cameras, size: _clipped(*draw(cameras, size)), _inverse(to_ours))


def _clipped(rgb: Tensor, alpha: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return rgb.clamp(0, 1), alpha, depth


def mesh_shape(path: Path, to_ours: Tensor | None = None, supersample: int = 2, texture: Path | None = None) -> Shape:
    """A mesh file, drawn by casting rays; texture: an image for one that names none. Raises InputError."""
    mesh = load_mesh(path, texture=texture)  # comes in the unit of our world, by to_world

    def draw(cameras: Cameras, size: int):
        views = render_mesh(mesh, cameras, size, supersample)
        return views.images, views.alpha, views.depth

    return Shape(draw, torch.from_numpy(mesh.to_world) @ _inverse(to_ours), tuple(mesh.notes))


def _inverse(to_ours: Tensor | None) -> Tensor:
    return torch.eye(4, dtype=torch.float64) if to_ours is None else torch.linalg.inv(to_ours.double())


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass
class Method:
    """What `images:DIR`, `splat:DIR` or `mesh:DIR` means, with the convention of its files."""

    kind: str
    folder: Path
    convention: Convention

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.convention.name.replace(' ', '-')}"

    def shape(self, truth: MultiviewObject) -> Shape:
        """The splat or mesh of an object. Raises InputError, naming object and file."""
        path = self.file(truth.name)
        to_ours = self.convention.world(truth.cameras.views([0]), truth.info.get("source", {}).get("to_world"))
        if self.kind == "mesh":
            given = truth.info.get("render", {}).get("texture") if self.convention.frame == "source" else None
            return mesh_shape(path, to_ours, texture=None if given is None else Path(given))
        gaussians = Gaussians.load_ply(path, self.convention.unit_quaternions)
        if len(gaussians.means) == 0:
            raise InputError(f"{path}: a splat without Gaussians")
        if not torch.isfinite(gaussians.to_tensor()).all():
            raise InputError(f"{path}: holds numbers that are not finite")
        return splat_shape(gaussians, to_ours)

    def pictures(self, truth: MultiviewObject) -> dict[int, Tensor]:
        """View -> (3, S, S) at the truth's size, for all views that the method has a picture of.

        Raises InputError, naming object and file, for a wrong number of pictures or one that cannot be read.
        """
        paths, size, total = self.picture_files(truth.name), truth.rgba.shape[-1], len(truth.rgba)
        views = matching_views(self.convention, truth.cameras)
        if self.convention.views == "protocol":
            named = {f"view_{view:03d}": view for view in range(total)}
            if paths and all(path.stem in named for path in paths):  # as in our folders: the name says which it is
                views = [named[path.stem] for path in paths]
                if missing := sorted(set(range(truth.num_orbit_views)) - set(views)):
                    raise InputError(f"{truth.name}: {self.folder / truth.name}: view_{missing[0]:03d} is missing")
            else:
                views = views[: total if len(paths) == total else truth.num_orbit_views]
        if len(paths) != len(views):
            raise InputError(f"{truth.name}: {len(paths)} pictures in {self.folder / truth.name}, expected "
                             f"{len(views)} for {self.convention.name}")
        pictures = {path: read_picture(path) for path, view in zip(paths, views, strict=True) if view is not None}
        first = next(iter(pictures), None)
        for path, picture in pictures.items():
            if picture.shape != pictures[first].shape:
                raise InputError(f"{path}: {picture.shape[-1]} pixels a side, but {first.name} has "
                                 f"{pictures[first].shape[-1]}")
        return {view: resized(pictures[path], size) for path, view in zip(paths, views, strict=True)
                if view is not None}

    def files(self, name: str) -> list[Path]:
        """The files of an object's output, as far as they are known by name. Raises InputError."""
        return self.picture_files(name) if self.kind == "images" else [self.file(name)]

    def picture_files(self, name: str) -> list[Path]:
        folder = self.folder / name
        if not folder.is_dir():
            raise InputError(f"{name}: no folder {folder} with its pictures")
        found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()]
        ours = [path for path in found if path.name.startswith("view_")]  # beside which there may be ccm_000.png
        return sorted(ours or found, key=lambda path: [int(part) if part.isdigit() else part
                                                       for part in re.split(r"(\d+)", path.name)])

    def file(self, name: str) -> Path:
        if self.kind == "splat":
            path = self.folder / f"{name}.ply"
            inside = sorted((self.folder / name).glob("*.ply"))
            if not path.is_file() and len(inside) != 1:
                raise InputError(f"{name}: neither {path} nor a folder {path.with_suffix('')} with one .ply in it")
            return path if path.is_file() else inside[0]
        for suffix in SUFFIXES:
            if (path := self.folder / f"{name}{suffix}").is_file():
                return path
        if (self.folder / name).is_dir():
            return self.folder / name
        found = find_meshes([self.folder]).get(name)
        if found is None:
            raise InputError(f"{name}: no mesh of this name in {self.folder} ({', '.join(SUFFIXES)}, or a folder)")
        return found


def parse_method(text: str, convention: str) -> Method:
    """`images:DIR`, `splat:DIR` or `mesh:DIR`. Raises InputError."""
    from .conventions import load_convention

    kind, separator, folder = text.partition(":")
    if kind not in KINDS or not separator or not folder:
        raise InputError(f"--method {text}: expected ours, images:DIR, splat:DIR or mesh:DIR")
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"--method {text}: {path} is no folder")
    if not any(path.iterdir()):
        raise InputError(f"--method {text}: {path} is an empty folder")
    return Method(kind, path, load_convention(convention, kind))


def matching_views(convention: Convention, cameras: Cameras) -> list[int | None]:
    """For each picture of a method, which of the truth's (V,) cameras sees the same; None if none does.

    Same: within 0.2 degrees, 1 % of the distance and 1 % of the focal length.
    """
    if convention.views == "protocol":
        return list(range(len(cameras.c2w)))
    theirs = convention.view_cameras(cameras.views([0]))
    turn = torch.einsum("aij,bij->ab", theirs.c2w[:, :3, :3], cameras.c2w[:, :3, :3])
    angle = torch.rad2deg(torch.acos(((turn - 1) / 2).clamp(-1, 1)))
    apart = torch.cdist(theirs.positions, cameras.positions) / cameras.positions.norm(dim=-1)
    focal = (theirs.intrinsics[:, None, 0, 0] / cameras.intrinsics[None, :, 0, 0] - 1).abs()
    same = (angle < 0.2) & (apart < 0.01) & (focal < 0.01)
    return [int(row.nonzero()[0]) if row.any() else None for row in same]


def check_views(method: Method, cameras: Cameras, primary: tuple[int, ...], protocol: str) -> None:
    """Raise InputError unless a method of pictures has one at every primary view."""
    missing = sorted(set(primary) - set(matching_views(method.convention, cameras)))
    if missing:
        name = method.convention.name
        raise InputError(f"{name} has no picture from the cameras of views {', '.join(map(str, missing))} of "
                         f"{protocol}: render the truth from its own cameras, `ouroboros data render --protocol "
                         f"{protocol} --convention \"{name}\"`")


def read_picture(path: Path) -> Tensor:
    """A square picture, composited on white if it has alpha, (3, S, S). Raises InputError."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGBA"))
    except Exception as error:  # decoders raise many kinds
        raise InputError(f"{path}: cannot be read as a picture ({' '.join(str(error).split())[:100]})") from None
    if pixels.shape[0] != pixels.shape[1]:
        raise InputError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, expected a square picture")
    return torch.from_numpy(on_white(pixels)).permute(2, 0, 1)[:3].float() / 255


def resized(images: Tensor, size: int) -> Tensor:
    """(..., 3, H, H) to (..., 3, size, size): means over pixels when it becomes smaller, bilinear when larger."""
    if images.shape[-1] == size:
        return images
    flat = images.flatten(0, -4) if images.ndim > 3 else images[None]
    flat = F.interpolate(flat, size=(size, size), mode="bilinear", antialias=images.shape[-1] > size)
    return flat.view(*images.shape[:-2], size, size).clamp(0, 1)


def zoomed(images: Tensor, factor: float) -> Tensor:
    """(..., 3, S, S) on white, enlarged by `factor` about the centre; what comes in from outside is white."""
    if abs(factor - 1) < 1e-6:
        return images
    flat = images.flatten(0, -4) if images.ndim > 3 else images[None]
    theta = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], dtype=flat.dtype).expand(len(flat), 2, 3)
    grid = F.affine_grid(theta.to(flat.device), list(flat.shape), align_corners=False)
    if factor < 1:  # every pixel stands for several: smooth them first
        small = max(1, round(images.shape[-1] * factor))
        flat = F.interpolate(F.interpolate(flat, size=(small, small), mode="bilinear", antialias=True),
                             size=flat.shape[-2:], mode="bilinear")
    return (1 - F.grid_sample(1 - flat, grid, align_corners=False)).view(images.shape)
