"""The autoencoder of the `small` preset: images to latents of an eighth of the side, and back."""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .layers import ResBlock, group_norm


class Autoencoder(ModelMixin, ConfigMixin):
    """A variational autoencoder of factor 8 (Kingma & Welling 2014; Rombach et al. 2022).

    The image is pixel-unshuffled by 2 first, and shuffled back last, which makes full resolution cheap.
    decoder_channels: as `channels`, where the decoder is wider than the encoder; None: the same.
    `latent_mean` and `latent_std` are measured after training and make latents zero mean and unit variance.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 8, channels: tuple[int, int, int] = (48, 80, 112),
                 decoder_channels: tuple[int, int, int] | None = None):
        super().__init__()
        a, b, c = channels
        self.encoder = nn.Sequential(
            nn.Conv2d(12, a, 3, padding=1), ResBlock(a, a),
            nn.Conv2d(a, b, 3, stride=2, padding=1), ResBlock(b, b),
            nn.Conv2d(b, c, 3, stride=2, padding=1), ResBlock(c, c), ResBlock(c, c),
            group_norm(c), nn.SiLU(), nn.Conv2d(c, 2 * latent_channels, 1))
        a, b, c = decoder_channels or channels
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, c, 3, padding=1), ResBlock(c, c), ResBlock(c, c),
            nn.Upsample(scale_factor=2.0), nn.Conv2d(c, b, 3, padding=1), ResBlock(b, b), ResBlock(b, b),
            nn.Upsample(scale_factor=2.0), nn.Conv2d(b, a, 3, padding=1), ResBlock(a, a), ResBlock(a, a),
            group_norm(a), nn.SiLU(), nn.Conv2d(a, 12, 3, padding=1), nn.PixelShuffle(2))
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(latent_channels, 1, 1))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the unnormalised latents: (N, 3, H, W) in [0, 1] to 2 x (N, c, H / 8, W / 8)."""
        return self.encoder(F.pixel_unshuffle(images * 2 - 1, 2)).float().chunk(2, dim=1)

    @apply_forward_hook
    def encode(self, images: Tensor, sample: bool = False) -> Tensor:
        """Normalised latents, the posterior's mean or a sample: (..., 3, H, W) in [0, 1] to (..., c, H / 8, W / 8)."""
        z = self._latents(images.flatten(0, -4), sample)[0].unflatten(0, images.shape[:-3])
        return (z - self.latent_mean) / self.latent_std

    def encode_condition(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None
                         ) -> Tensor:
        """What F is given of the condition view (B, 3, H, W): its latents. `generator` has nothing to draw."""
        return self.encode(images)

    @apply_forward_hook
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (..., c, h, w) to images (..., 3, 8 h, 8 w); float32, not clamped to [0, 1]."""
        z = latents * self.latent_std + self.latent_mean
        images = self.decoder(z.flatten(0, -4)).float()
        return (images * 0.5 + 0.5).unflatten(0, latents.shape[:-3])

    def forward(self, images: Tensor, sample: bool = True) -> tuple[Tensor, Tensor]:
        """Reconstruction (N, 3, H, W) from a sample of the posterior, or its mean; KL divergence in nats per latent."""
        z, mean, log_variance = self._latents(images, sample)
        images = self.decoder(z).float() * 0.5 + 0.5
        return images, 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()

    def _latents(self, images: Tensor, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.posterior(images)
        log_variance = log_variance.clamp(-20, 10)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp() if sample else mean
        return z, mean, log_variance
