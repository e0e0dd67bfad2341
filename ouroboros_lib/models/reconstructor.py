"""G of the `small` preset: a multi-view U-Net from images to pixel-aligned Gaussians, in one pass."""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..cameras import RADIUS, Cameras
from ..gaussians import Gaussians
from .layers import NoiseEmbedding, UNet, constant

DEPTH_RANGE = 0.75  # world units around the orbit's radius in which Gaussians may lie


class GaussianReconstructor(ModelMixin, ConfigMixin, UNet):
    """G's network: after LGM (Tang et al. 2024), with the noise level of the views as a further input.

    One Gaussian for each pixel of a half-size grid of every view: its depth along the pixel's ray, a shift of up to
    1.5 grid pixels across it, opacity, scale, rotation, and a correction of the pixel's colour.
    """

    @register_to_config
    def __init__(self, image_size: int = 128, channels: tuple[int, ...] = (48, 80, 96, 96),
                 attention: tuple[bool, ...] = (False, False, True, True), embedding: int = 128):
        super().__init__()
        self.input = nn.Conv2d(9 * 4, channels[0], 3, padding=1)
        self.noise_embedding = NoiseEmbedding(embedding)
        depths = (1,) + (2,) * (len(channels) - 1)  # one block suffices where pixels are many
        self.add_unet(channels, 14, embedding, depths, 1, attention)

    def forward(self, images: Tensor, cameras: Cameras, c_noise: Tensor) -> Gaussians:
        """images (B, V, 3, S, S) in [0, 1] at cameras (B, V), with noise levels c_noise (B,).

        Returns V (S / 2)^2 Gaussians an object, (B, N), ordered by view, row and column.
        """
        raw = self.network(images, cameras, c_noise).float()
        return self.to_gaussians(raw, images.float(), cameras)

    def network(self, images: Tensor, cameras: Cameras, c_noise: Tensor) -> Tensor:
        """The U-Net alone: 14 unactivated numbers a grid pixel, (B, V, 14, S / 2, S / 2)."""
        views = images.shape[1]
        embedding = self.noise_embedding(c_noise).repeat_interleave(views, dim=0)
        x = torch.cat([images * 2 - 1, cameras.pluecker(images.shape[-1])], dim=2).flatten(0, 1)
        return self.run_unet(self.input(F.pixel_unshuffle(x, 2)), embedding, views)

    @staticmethod
    def to_gaussians(raw: Tensor, images: Tensor, cameras: Cameras) -> Gaussians:
        """Activations, in float32: raw (B, V, 14, s, s), images (B, V, 3, 2 s, 2 s) to (B, V s s) Gaussians."""
        size = raw.shape[-1]
        depth, shift, opacity, scale, rotation, color = raw.movedim(2, -1).split([1, 2, 1, 3, 4, 3], dim=-1)
        origins, directions = cameras.rays(size)  # (B, V, s, s, 3)
        # the grid pixel's side at the object's distance, world units
        pixel = RADIUS / (size * cameras.intrinsics[..., 0, 0])[..., None, None, None]
        right_and_down = cameras.c2w[..., None, None, :3, :2]
        across = (right_and_down * (1.5 * torch.tanh(shift))[..., None, :]).sum(-1) * pixel
        means = origins + (RADIUS + DEPTH_RANGE * torch.tanh(depth)) * directions + across

        base = F.avg_pool2d(images.flatten(0, 1), 2).unflatten(0, images.shape[:2]).movedim(2, -1)
        colors = torch.sigmoid(torch.logit(base.clamp(0.02, 0.98)) + color)
        scales = 0.6 * pixel * torch.exp(scale.clamp(-4, 2))
        identity = constant((1.0, 0.0, 0.0, 0.0), raw)
        gaussians = Gaussians(means, torch.sigmoid(opacity - 1)[..., 0], scales,
                              F.normalize(rotation + identity, dim=-1), colors)
        return gaussians.map(lambda value: value.flatten(1, 3))
