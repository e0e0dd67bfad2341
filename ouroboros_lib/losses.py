"""The losses of Algorithm 1, line 6, as functions of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import needs
from .gaussians import Gaussians
from .noise import EDMNoise, c_noise
from .rasterization import rasterize

if TYPE_CHECKING:
    from .data.batches import MultiviewBatch

Perceptual = Callable[[Tensor, Tensor], Tensor] | None  # of images (N, 3, S, S) in [0, 1], see training/perceptual.py


def denoising_loss(pred_x: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """loss_mv: mean squared error of the estimate (B, V, c, h, w), weighted by lambda(sigma) (EDM, section 5)."""
    per_object = (pred_x - x).square().mean(dim=(1, 2, 3, 4))
    return (EDMNoise.loss_weight(sigma) * per_object).mean()


def reconstruction_loss(reconstructor, gaussians: Gaussians, batch: MultiviewBatch, config,
                        perceptual: Perceptual = None) -> Tensor:
    """loss_recon of G's Gaussians (B, N) from F's estimates, and of those from clean views.

    config.reconstruction_batch: examples of each: the first ones of the estimates, the last ones of the clean views.
    Without config.joint, design (a), G learns from clean views alone.
    """
    count = len(batch.rgba)
    share = min(config.reconstruction_batch, count)
    rows = [*range(share if config.joint else 0), *range(count - share, count)]
    last = slice(count - share, count)
    clean_sigma = batch.latents.new_full((share,), config.clean_sigma)
    clean = reconstructor(batch.orbit_images[last], batch.orbit_cameras[last], c_noise(clean_sigma))
    learnt = clean if not config.joint else Gaussians.cat([gaussians[:share], clean])
    return rendering_loss(learnt, batch.select(rows), config, perceptual)


def rendering_loss(gaussians: Gaussians, batch: MultiviewBatch, config, perceptual: Perceptual = None) -> Tensor:
    """Of Gaussians (B, N) against ground-truth images at a share of the orbit views, drawn at random, and all novel
    ones. The paper's is MSE and LPIPS at all of them. The structural term of the mixed loss stands in for the paper's
    LPIPS, whose VGG16 does not ship."""
    orbit, views = batch.num_orbit_views, batch.rgba.shape[1]
    share = int(orbit * config.orbit_supervision)
    chosen = torch.cat([torch.randperm(orbit)[:share], torch.arange(orbit, views)]).to(batch.rgba.device)
    rendering = rasterize(gaussians.float(), batch.cameras.views(chosen), batch.rgba.shape[-1])
    renders, images = rendering.rgb.flatten(0, 1), batch.images[:, chosen].flatten(0, 1)
    if config.image_loss == "mixed":
        loss = image_loss(renders, images, structure=0.2)
        loss = loss + 0.5 * (rendering.alpha - batch.alpha[:, chosen]).abs().mean()
    elif config.image_loss == "mse":
        loss = (renders - images).square().mean()
    else:
        loss = (renders - images).abs().mean()
    return loss if perceptual is None else loss + perceptual(renders, images)


def image_loss(prediction: Tensor, target: Tensor, squared: float = 2.0, structure: float = 0.0) -> Tensor:
    """L1 + squared MSE + structure (1 - SSIM) of images (N, 3, H, W)."""
    with needs("train", "loss_recon"):
        from pytorch_msssim import ssim

    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = prediction.float(), target.float()
        error = prediction - target
        loss = error.abs().mean() + squared * error.square().mean()
        if structure:
            window = min(11, target.shape[-1] // 4 * 2 - 1)
            loss = loss + structure * (1 - ssim(prediction, target, data_range=1.0, win_size=window))
        return loss


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [0, 1]: (..., 3, H, W) twice to (...); at most 100."""
    error = (prediction.float() - target.float()).square().mean(dim=(-3, -2, -1))
    return -10 * torch.log10(error.clamp_min(1e-10))
