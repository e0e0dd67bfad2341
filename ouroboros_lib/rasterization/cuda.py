"""The same compositing by gsplat's CUDA kernels (Ye et al. 2024). gsplat compiles them at the first call: a minute."""

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import InputError
from ..gaussians import Gaussians
from .projection import BLUR, NEAR

TILE = 16
PAIRS_AT_ONCE = 2**30  # of Gaussians and tiles, if all met all; gsplat sorts those that meet, at 24 bytes a pair


def splat(gaussians: Gaussians, cameras: Cameras, features: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Project and blend Gaussians (B, N) with features (B, N, C) into cameras (B, V), all float32 on one CUDA device.

    Returns the accumulated features with the depth as last channel, (B, V, size, size, C + 1), and the transmittance
    left, (B, V, size, size). Large scenes are drawn one after the other, see PAIRS_AT_ONCE, small ones all at once.
    Raises InputError when gsplat is not installed.
    """
    try:
        from gsplat import rasterization
    except ModuleNotFoundError:
        raise InputError("rasterizing on CUDA needs gsplat: pip install gsplat, or give backend='dense'") from None
    pairs = gaussians.shape[1] * cameras.shape[1] * (-(-size // TILE))**2
    count = max(PAIRS_AT_ONCE // max(pairs, 1), 1)

    def draw(scenes: slice) -> tuple[Tensor, Tensor]:
        some, rig = gaussians[scenes], cameras[scenes]
        accumulated, alpha, _ = rasterization(
            some.means.contiguous(), some.quaternions.contiguous(), some.scales.contiguous(),
            some.opacities.contiguous(), features[scenes].contiguous(), rig.world_to_camera().contiguous(),
            pixel_intrinsics(rig, size), size, size, near_plane=NEAR, eps2d=BLUR, packed=False, tile_size=TILE,
            render_mode="RGB+D", rasterize_mode="classic")
        return accumulated, 1 - alpha[..., 0]

    parts = [draw(slice(start, start + count)) for start in range(0, max(len(features), 1), count)]
    if len(parts) == 1:
        return parts[0]
    accumulated, transmittance = zip(*parts, strict=True)
    return torch.cat(accumulated), torch.cat(transmittance)


def pixel_intrinsics(cameras: Cameras, size: int) -> Tensor:
    """(B, V, 3, 3) for images of `size` pixels. No numbers travel to the GPU: the CPU would wait for it."""
    return torch.cat([cameras.intrinsics[..., :2, :] * size, cameras.intrinsics[..., 2:, :]], dim=-2).contiguous()
