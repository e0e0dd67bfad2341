"""The same compositing by gsplat's CUDA kernels (Ye et al. 2024). gsplat compiles them at the first call: a minute."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import InputError
from ..gaussians import Gaussians
from .projection import BLUR, NEAR


def splat(gaussians: Gaussians, cameras: Cameras, features: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Project and blend Gaussians (B, N) with features (B, N, C) into cameras (B, V), all float32 on one CUDA device.

    Returns the accumulated features with the depth as last channel, (B, V, size, size, C + 1), and the transmittance
    left, (B, V, size, size). Raises InputError when gsplat is not installed.
    """
    try:
        from gsplat import rasterization
    except ModuleNotFoundError:
        raise InputError("rasterizing on CUDA needs gsplat: pip install gsplat, or give backend='dense'") from None
    accumulated, alpha, _ = rasterization(
        gaussians.means.contiguous(), gaussians.quaternions.contiguous(), gaussians.scales.contiguous(),
        gaussians.opacities.contiguous(), features.contiguous(), cameras.world_to_camera().contiguous(),
        pixel_intrinsics(cameras, size), size, size, near_plane=NEAR, eps2d=BLUR, packed=False,
        render_mode="RGB+D", rasterize_mode="classic")
    return accumulated, 1 - alpha[..., 0]


def pixel_intrinsics(cameras: Cameras, size: int) -> Tensor:
    """(B, V, 3, 3) for images of `size` pixels. No numbers travel to the GPU: the CPU would wait for it."""
    return torch.cat([cameras.intrinsics[..., :2, :] * size, cameras.intrinsics[..., 2:, :]], dim=-2).contiguous()
