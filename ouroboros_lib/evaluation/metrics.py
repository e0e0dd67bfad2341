"""Image metrics, one number per image."""

from __future__ import annotations

import torch
from pytorch_msssim import ssim as _ssim
from torch import Tensor


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [0, 1]: (..., 3, H, W) twice to (...); at most 100."""
    error = (prediction.float() - target.float()).square().mean(dim=(-3, -2, -1))
    return -10 * torch.log10(error.clamp_min(1e-10))


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004; 11 x 11 Gaussian window, no padding): (..., 3, H, W) twice to (...)."""
    lead = prediction.shape[:-3]
    values = _ssim(prediction.float().flatten(0, -4), target.float().flatten(0, -4), data_range=1.0,
                   size_average=False)
    return values.view(lead)
