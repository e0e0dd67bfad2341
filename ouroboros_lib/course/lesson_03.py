"""Exercises of 03: a Gaussian in a picture, pixels that blend, views that judge, and what G's numbers become."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..cameras import RADIUS, Cameras, orbit_cameras
from ..gaussians import quaternion_to_matrix
from ..models.reconstructor import DEPTH_RANGE, GaussianReconstructor
from ..rasterization.projection import BLUR
from .checking import Exercise, curve

SPLATS, OPACITY = 10, 0.3  # of the ray whose transmittance is drawn
LEFT_OVER = [(1 - OPACITY)**passed for passed in range(SPLATS + 1)]


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _quaternions() -> list[tuple]:
    drawn = _draw(2, 4)
    return [(F.normalize(drawn[0], dim=0),), (3 * drawn[1],)]


def _matrix_as_it_stands(q: Tensor) -> Tensor:
    w, x, y, z = q
    return torch.eye(3) + 2 * torch.stack([
        -y * y - z * z, x * y - w * z, x * z + w * y, x * y + w * z, -x * x - z * z, y * z - w * x,
        x * z - w * y, y * z + w * x, -x * x - y * y]).view(3, 3)


def _points() -> list[tuple]:
    cameras = orbit_cameras([30.0, 200.0], [20.0, -5.0])
    return [(0.2 * _draw(3), c2w, float(k[0, 0]) * size, size)
            for c2w, k, size in zip(cameras.c2w, cameras.intrinsics, (64, 128), strict=True)]


def pinhole(c2w: Tensor, focal: float) -> Cameras:
    """One camera (1,) of this focal length in image sides."""
    return Cameras(c2w[None], torch.tensor([[[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]]]))


def _image_point(point: Tensor, c2w: Tensor, f: float, size: int) -> Tensor:
    uv, depth = pinhole(c2w, f / size).project(point[None])
    return torch.cat([uv[0, 0] * size, depth[0]])


def _other_point(c2w_inverted: bool = True, divided: bool = True, middle: float = 0.5, down: int = 1):
    def place(point: Tensor, c2w: Tensor, f: float, size: int) -> Tensor:
        pose = torch.linalg.inv(c2w) if c2w_inverted else c2w
        x, y, z = pose[:3, :3] @ point + pose[:3, 3]
        by = z if divided else 1
        return torch.stack([f * x / by + middle * size, down * f * y / by + middle * size, z])
    return place


def _covariances() -> list[tuple]:
    half = 0.1 * _draw(2, 3, 3)
    world_to_camera = orbit_cameras([30.0, 200.0], [20.0, -5.0]).world_to_camera()
    return [(a @ a.mT, pose[:3, :3], torch.tensor(centre), 89.0)
            for a, pose, centre in zip(half, world_to_camera, ([0.3, -0.2, 1.6], [-0.1, 0.4, 1.9]), strict=True)]


def _image_covariance(covariance: Tensor, W: Tensor, centre: Tensor, f: float, blur: float = BLUR,
                      tilt: float = 1.0) -> Tensor:
    x, y, z = centre.tolist()
    J = f / z * torch.tensor([[1, 0, -tilt * x / z], [0, 1, -tilt * y / z]])  # eq. 5
    return J @ W @ covariance @ W.mT @ J.mT + blur * torch.eye(2)


def _line(heights: list[float], places: range | None = None) -> Axes:
    axis = Figure().subplots()
    axis.plot(places or range(len(heights)), heights)
    return axis


FALLING = (
    (lambda answer: len(curve(answer)) == SPLATS + 1,
     f"expected {SPLATS + 1} points: in front of each splat, and behind the last."),
    (lambda answer: abs(curve(answer)[0, 1] - 1) < 1e-3,
     "in front of the first splat all the light is left: the curve starts at 1. What was taken starts at 0."),
    (lambda answer: (curve(answer)[:, 1] >= 0).all(),
     "there is never less light than none. Each splat takes its share of what is left, not of all the light."),
    (lambda answer: (curve(answer)[1:, 1] <= curve(answer)[:-1, 1]).all(),
     "no splat gives light back: the curve never rises."),
    (lambda answer: abs(curve(answer)[-1, 1] - LEFT_OVER[-1]) < 1e-3,
     f"the curve ends at the wrong height: each splat leaves {1 - OPACITY:g} of what reaches it."),
    (lambda answer: np.allclose(curve(answer)[:, 1], LEFT_OVER, atol=1e-3),
     f"both ends are right, the way between them is not: each splat leaves {1 - OPACITY:g} of what reaches it."),
    (lambda answer: np.allclose(np.diff(curve(answer)[:, 0]), 1),
     "the horizontal axis counts the splats that are passed, one after the other: 0, 1, 2, ..."),
)


def _transmittance(alphas: Tensor) -> Tensor:
    """In front of each, and behind the last: (N + 1,)."""
    return torch.cat([alphas.new_ones(1), torch.cumprod(1 - alphas, dim=0)])


def _pixels() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    opacities, depths = (torch.rand(2, 5, generator=generator) for _ in range(2))
    colors = torch.rand(2, 5, 3, generator=generator)
    return [(o, c, 1.5 + z, background) for o, c, z, background in zip(opacities, colors, depths, (1.0, 0.2),
                                                                       strict=True)]


def _blend(opacities: Tensor, colors: Tensor, depths: Tensor, background: float, sign: int = 1, own: int = 0,
           behind: float = 1.0) -> Tensor:
    order = torch.argsort(sign * depths)
    left = _transmittance(opacities[order])
    weights = left[own:len(order) + own] * opacities[order]
    return weights @ colors[order] + behind * left[-1] * background  # eq. 3


def _sorted_pixels() -> list[tuple]:
    pixels = [(opacities, depths.sort().values) for opacities, _, depths, _ in _pixels()]
    return [*pixels, (torch.zeros(2), torch.tensor([1.5, 1.7]))]


def _depth(alphas: Tensor, depths: Tensor, divided: bool = True) -> Tensor:
    left = _transmittance(alphas)
    accumulated = (left[:-1] * alphas * depths).sum()
    return accumulated / (1 - left[-1]).clamp_min(1e-9) if divided else accumulated


def _raw_numbers() -> list[tuple]:
    return [(raw, pixel) for raw, pixel in zip(_draw(2, 14), (0.02, 0.04), strict=True)]


def _activated(raw: Tensor, pixel: float) -> tuple[Tensor, ...]:
    """By the library, of a picture of one grid pixel, whose ray is the camera's axis."""
    camera = orbit_cameras([0.0], [0.0])[None]
    grey = torch.full((1, 1, 3, 2, 2), 0.5)
    one = GaussianReconstructor.to_gaussians(raw.view(1, 1, 14, 1, 1), grey, camera)[0, 0]
    position, forward = camera.positions[0, 0], camera.c2w[0, 0, :3, 2]
    of_one = RADIUS / camera.intrinsics[0, 0, 0, 0]  # the only grid pixel's side
    return (one.means - position) @ forward, one.opacities, one.scales * pixel / of_one, one.quaternions


def _activated_but(**changes: Any):
    """Like `_activated`, but for some of distance, opacity, scales and quaternion: functions of raw and pixel."""
    def activate(raw: Tensor, pixel: float) -> tuple:
        names = ("distance", "opacity", "scales", "quaternion")
        return tuple(changes[name](raw, pixel) if name in changes else right
                     for name, right in zip(names, _activated(raw, pixel), strict=True))
    return activate


EXERCISES = {
    "1": Exercise(
        examples=_quaternions, solution=quaternion_to_matrix,
        mistakes=[
            (_matrix_as_it_stands,
             "right for unit quaternions. The second example is longer: bring q to unit length first, or what comes "
             "out is no rotation."),
            (lambda q: quaternion_to_matrix(q.roll(1)),
             "the order of the four: w comes first here. Other programs put it last."),
            (lambda q: quaternion_to_matrix(q).mT, "this turns the other way: it is the transposed matrix."),
        ],
        says="A network may answer any four numbers; after the division by their length they are a rotation."),
    "2": Exercise(
        examples=_points, solution=_image_point,
        mistakes=[
            (_other_point(c2w_inverted=False),
             "c2w leads from the camera to the world. The point has to go the other way, so invert it first."),
            (lambda point, c2w, f, size: _image_point(point + c2w[:3, 3] - c2w[:3, :3] @ c2w[:3, 3], c2w, f, size),
             "the camera's place has to be turned, too: R.T @ (point - place), or the inverse of the whole c2w."),
            (_other_point(divided=False), "divide x and y by the depth z: what is far away is small."),
            (_other_point(middle=0.0),
             "(0, 0) is the upper left corner of the picture. What lies straight ahead lands in its middle, size / 2."),
            (_other_point(down=-1),
             "v is mirrored: the camera's y axis points down here, and so does v. Do not flip it."),
        ],
        says="A pinhole camera. The depth is z along the camera's axis, not the distance to the point."),
    "3": Exercise(
        examples=_covariances, solution=_image_covariance,
        mistakes=[
            (lambda *given: _image_covariance(*given, blur=0.0),
             "add the low-pass filter, 0.3 times the identity."),
            (lambda covariance, W, centre, f: _image_covariance(covariance, torch.eye(3), centre, f),
             "the covariance is still in world axes: turn it into the camera's, W on the left and W.T on the right."),
            (lambda covariance, W, centre, f: _image_covariance(covariance, W.mT, centre, f),
             "W and its transpose are exchanged: it is W @ covariance @ W.T."),
            (lambda *given: _image_covariance(*given, tilt=0.0),
             "this J has no third column, as if the projection were parallel. A point that comes nearer also moves "
             "away from the middle: -x/z and -y/z."),
        ],
        says="Equation 5 of 3D Gaussian splatting: three dimensions, a turn and a linear map, two dimensions."),
    "4": Exercise(
        solution=lambda: _line(LEFT_OVER),
        mistakes=[
            (lambda: _line(LEFT_OVER[1:]), FALLING[0][1]),
            (lambda: _line([1 - left for left in LEFT_OVER]), FALLING[1][1]),
            (lambda: _line([1 - OPACITY * passed for passed in range(SPLATS + 1)]), FALLING[2][1]),
            (lambda: _line([1.0, *LEFT_OVER[:0:-1]]), FALLING[3][1]),
            (lambda: _line([max(0.0, 1 - OPACITY * passed) for passed in range(SPLATS + 1)]), FALLING[4][1]),
            (lambda: _line(LEFT_OVER, range(SPLATS, -1, -1)), FALLING[6][1]),
        ],
        properties=FALLING,
        says="It falls geometrically: behind ten splats of opacity 0.3 some 3 % are left. What lies further back "
             "hardly shows, and hardly learns."),
    "5": Exercise(
        examples=_pixels, solution=_blend,
        mistakes=[
            (lambda opacities, colors, depths, background: _blend(opacities, colors, torch.arange(5), background),
             "blended in the order in which they came. Sort by depth first."),
            (lambda *given: _blend(*given, sign=-1),
             "the farthest comes first here. The nearest takes its share before the others."),
            (lambda *given: _blend(*given, own=1),
             "a splat does not dim itself: its transmittance is that of the splats before it."),
            (lambda *given: _blend(*given, behind=0.0), "what is left behind the last splat shows the background."),
        ],
        says="Equation 3 of 3D Gaussian splatting. The sum of the weights and what is left is 1: no light gets lost."),
    "6": Exercise(
        examples=_sorted_pixels, solution=_depth,
        mistakes=[
            (lambda *given: _depth(*given, divided=False),
             "this is the accumulated depth. Divide by the sum of the weights, or faint pixels seem to be near. (The "
             "released code stops here, see notebook 07.)"),
            (lambda alphas, depths: (alphas * depths).sum() / alphas.sum().clamp_min(1e-9),
             "weighted by opacity alone: a splat behind others counts too much. The weight is T times alpha."),
            (lambda alphas, depths: depths[0] if alphas.sum() else alphas.sum(),
             "this is the depth of the nearest splat, however faint it is."),
        ],
        says="The expected depth: one number for a pixel in which several splats show. At an outline it lies between "
             "object and what is behind it, where there is nothing at all."),
    "7": Exercise(
        examples=_raw_numbers, solution=_activated,
        mistakes=[
            (_activated_but(distance=lambda raw, pixel: RADIUS + DEPTH_RANGE * raw[0]),
             "the distance has no tanh: a large number would put the Gaussian behind the camera, or far outside of the "
             "object."),
            (_activated_but(opacity=lambda raw, pixel: torch.sigmoid(raw[3])),
             "the opacity is sigmoid(o - 1): with the 1 an untrained G starts with faint Gaussians."),
            (_activated_but(scales=lambda raw, pixel: 0.6 * pixel * raw[4:7]),
             "a scale is a standard deviation and cannot be negative: take the exponential of the number."),
            (_activated_but(quaternion=lambda raw, pixel: F.normalize(raw[7:11], dim=0)),
             "add (1, 0, 0, 0) before you normalise. Without it four zeros, which an untrained G answers, would be no "
             "rotation."),
            (_activated_but(quaternion=lambda raw, pixel: raw[7:11] + torch.eye(4)[0]),
             "the quaternion is not of unit length yet."),
            (_activated_but(distance=lambda raw, pixel: _activated(raw, pixel)[0][None],
                            opacity=lambda raw, pixel: _activated(raw, pixel)[1][None]),
             "distance and opacity are single numbers: take them without an axis, raw[0] and raw[3]."),
            (lambda raw, pixel: _activated(torch.cat([raw[:1], raw[3:4], raw[1:3], raw[4:]]), pixel),
             "the order of the 14: depth, two of the shift, opacity, three scales, four of the rotation, three of the "
             "colour. The opacity is number 3, counted from 0."),
        ],
        says="Whatever 14 numbers the network answers, a valid Gaussian comes out, near the object and about as large "
             "as a pixel."),
}
