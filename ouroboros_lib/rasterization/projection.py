"""Perspective (EWA) projection of 3D Gaussians to the image plane, shared by the dense and the compiled CPU backends.

The rules are those of gsplat 1.5 with `rasterize_mode="classic"`, so that all backends draw the same picture. Sources:
Zwicker et al. 2001, "EWA volume splatting" (the linearised projection); Kerbl et al. 2023, eq. 5 (its use for 3DGS);
Radl et al. 2024, "StopThePop", appendix B.2 (bounding boxes that know the opacity).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras import Cameras
from ..gaussians import INVISIBLE, Gaussians

NEAR = 0.01  # world units: Gaussians whose centre is closer are not drawn
BLUR = 0.3  # pixels^2 added to both image variances: no Gaussian is thinner than about one pixel
EXTENT = 3.33  # standard deviations at which even an opaque Gaussian has fallen below MIN_ALPHA
MIN_ALPHA = INVISIBLE  # weaker contributions are dropped
MAX_ALPHA = 0.999  # keeps 1 - alpha away from 0
MIN_TRANSMITTANCE = 1e-4  # a pixel ends before the Gaussian that would take it this low
BEYOND = 1e12  # world units: squares of longer numbers leave float32, so that Gaussians out there are not drawn
STEEPEST = 1e5  # tangent of the angle to the axis: cameras that see further aside draw nothing,
STRETCH = 10.0  # nor do those that are no rotation and make what they see so much longer
LONGEST = 1e12  # of a Gaussian in pixels, seen straight ahead; with the two above, its variance is then below 1e38


@dataclass
class Projection:
    """B batches, V views, N Gaussians on an image of `size` pixels; every tensor is (B, V, N).

    u, v: centres in pixels, right and down. conic_uu, conic_uv, conic_vv: inverse image covariance in 1 / pixels^2.
    depth: along z, infinite behind the camera. radius_u, radius_v: half sides in pixels of the box outside which
    alpha < MIN_ALPHA; both 0 where the Gaussian is not to be drawn (behind the camera, off the image, too faint, too
    large for float32).
    """

    u: Tensor
    v: Tensor
    conic_uu: Tensor
    conic_uv: Tensor
    conic_vv: Tensor
    depth: Tensor
    radius_u: Tensor
    radius_v: Tensor


def project(gaussians: Gaussians, cameras: Cameras, size: int) -> Projection:
    """Project Gaussians of shape (B, N) into cameras of shape (B, V). Differentiable in everything but the radii.

    All numbers of finite Gaussians and cameras are finite where something is drawn, and the gradients everywhere.
    """
    within = (gaussians.means.abs().amax(-1) < BEYOND) & (gaussians.scales.abs().amax(-1) < BEYOND)
    gaussians = replace(gaussians, means=torch.where(within[..., None], gaussians.means, 0),
                        scales=torch.where(within[..., None], gaussians.scales, 0))
    cameras, sees = _drawable(cameras, size)
    world_to_camera = cameras.world_to_camera()
    rotation, translation = world_to_camera[..., :3, :3], world_to_camera[..., :3, 3]
    x, y, z = (torch.einsum("bvij,bnj->bvin", rotation, gaussians.means) + translation[..., None]).unbind(-2)
    intrinsics = cameras.intrinsics * size
    with torch.no_grad():  # nearer than this, an image variance would leave float32
        largest = gaussians.scales.abs().amax(-1)[:, None] * (intrinsics[..., :2, :2].abs().amax((-2, -1))[..., None]
                                                              / LONGEST)
        in_front = (z > largest.clamp_min(NEAR)) & sees[..., None]
    z = torch.where(in_front, z, math.inf)  # behind the camera: all that is divided by it is 0, and so its gradient

    focal_u, focal_v, centre_u, centre_v = (intrinsics[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y = x / z, y / z
    u, v = focal_u * x + centre_u, focal_v * y + centre_v

    # The projection is linearised at the centre, or 15 % of the image beyond its border if the centre is further out.
    margin = 0.15 * size
    x = torch.clamp(x, -(centre_u + margin) / focal_u, (size - centre_u + margin) / focal_u)
    y = torch.clamp(y, -(centre_v + margin) / focal_v, (size - centre_v + margin) / focal_v)

    xx, xy, xz, yy, yz, zz = _camera_covariances(gaussians, rotation).unbind(-2)
    scale_u, scale_v = focal_u / z, focal_v / z
    cov_uu = scale_u * scale_u * (xx - 2 * x * xz + x * x * zz) + BLUR  # rows of the Jacobian: scale (1, 0, -x)
    cov_uv = scale_u * scale_v * (xy - x * yz - y * xz + x * y * zz)
    cov_vv = scale_v * scale_v * (yy - 2 * y * yz + y * y * zz) + BLUR
    determinant = cov_uu * cov_vv - cov_uv * cov_uv
    positive = (determinant > 0) & determinant.isfinite()  # neither under- nor overflown
    inverse = 1 / torch.where(positive, determinant, torch.ones_like(determinant))

    with torch.no_grad():
        opacity = gaussians.opacities[:, None]
        extent = (2 * torch.log(opacity.clamp_min(MIN_ALPHA) / MIN_ALPHA)).sqrt().clamp_max(EXTENT)
        radius_u, radius_v = (extent * cov_uu.sqrt()).ceil(), (extent * cov_vv.sqrt()).ceil()
        drawn = (within[:, None] & in_front & positive & (opacity >= MIN_ALPHA)
                 & (u + radius_u > 0) & (u - radius_u < size) & (v + radius_v > 0) & (v - radius_v < size))
        radius_u, radius_v = radius_u * drawn, radius_v * drawn
    return Projection(u, v, cov_vv * inverse, -cov_uv * inverse, cov_uu * inverse, z, radius_u, radius_v)


def _drawable(cameras: Cameras, size: int) -> tuple[Cameras, Tensor]:
    """The cameras (B, V), with one that can be computed with in place of each that leaves float32; and which those are
    not, (B, V)."""
    with torch.no_grad():
        c2w, k = cameras.c2w, cameras.intrinsics
        focal = k[..., [0, 1], [0, 1]].abs()
        aside = (k[..., [0, 1], [2, 2]].abs() + 2) / focal.clamp_min(1 / BEYOND)
        sees = ((aside < STEEPEST) & (focal < BEYOND / size)).all(-1) & (c2w[..., :3, 3].abs() < BEYOND).all(-1) & (
            c2w[..., :3, :3].abs() < STRETCH).flatten(-2).all(-1)
    usual = torch.eye(4, dtype=c2w.dtype, device=c2w.device)
    return Cameras(torch.where(sees[..., None, None], c2w, usual),
                   torch.where(sees[..., None, None], k, usual[:3, :3])), sees


def _camera_covariances(gaussians: Gaussians, rotation: Tensor) -> Tensor:
    """Covariances in camera axes, xx xy xz yy yz zz: (B, V, 6, N).

    R S R^T for all Gaussians of a view at once: the 9 numbers of S times the Kronecker product of R with itself.
    """
    rows, columns = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]
    kronecker = (rotation[..., rows, :, None] * rotation[..., columns, None, :]).flatten(-2)  # (B, V, 6, 9)
    return torch.einsum("bvij,bnj->bvin", kronecker, gaussians.covariances().flatten(-2))


