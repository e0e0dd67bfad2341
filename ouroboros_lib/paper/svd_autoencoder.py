"""Stable Video Diffusion's autoencoder behind the interface of `models/autoencoder.py`."""

import torch
from diffusers import AutoencoderKLTemporalDecoder, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .fused import use_fused_layers

NOISE_AUGMENTATION = 0.02  # of the condition view at inference, in units of SVD's images, which lie in [-1, 1]
ENCODED_TOGETHER = 4  # views: eight of 512 pixels in single precision take more memory than F, the decoder or G


class SVDAutoencoder(ModelMixin, ConfigMixin):
    """Images in [0, 1] to latents of an eighth of the side, and back by a decoder that smooths over the views.

    `vae` is diffusers' `AutoencoderKLTemporalDecoder`; the defaults are SVD's sizes. decode_chunk: how many views of an
    object are decoded at a time, None for all. Fewer need less memory, but the decoder then smooths within a chunk
    only: the pictures change a little.
    """

    _supports_gradient_checkpointing = True
    _layers_are_fused = True  # those of the decoder: nothing for a compiler to do
    _keep_in_fp32_modules = ["encoder", "quant_conv"]  # SVD's encoder overflows in half precision, its decoder does not

    @register_to_config
    def __init__(self, block_out_channels: tuple[int, ...] = (128, 256, 512, 512), layers_per_block: int = 2,
                 latent_channels: int = 4, scaling_factor: float = 0.18215, decode_chunk: int | None = None):
        super().__init__()
        self.vae = AutoencoderKLTemporalDecoder(
            block_out_channels=tuple(block_out_channels), layers_per_block=layers_per_block,
            down_block_types=("DownEncoderBlock2D",) * len(block_out_channels), latent_channels=latent_channels,
            scaling_factor=scaling_factor)
        use_fused_layers(self.vae)

    @apply_forward_hook
    def encode(self, images: Tensor, sample: bool = False) -> Tensor:
        """Scaled latents: (..., 3, H, W) in [0, 1] to (..., 4, H / 8, W / 8), float32.

        sample: drawn from the posterior instead of its mode.
        """
        return self._latents(images, sample) * self.config.scaling_factor

    @apply_forward_hook
    def encode_condition(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None,
                         augmentation: float | Tensor = NOISE_AUGMENTATION) -> Tensor:
        """What F is given of the condition view: (B, 3, H, W) in [0, 1] to (B, 4, H / 8, W / 8), float32.

        Noise is added to the image first and the latents are *not* scaled, as in SVD. augmentation: the noise's
        standard deviation in an image of range [-1, 1], a number or (B,); F gets it in `added_time_ids`.
        """
        return self._latents(self.augment(images, generator, augmentation))

    @staticmethod
    def augment(images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None,
                augmentation: float | Tensor = NOISE_AUGMENTATION) -> Tensor:
        """(B, 3, H, W) in [0, 1] with noise, not clamped."""
        noise = randn_tensor(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        strength = torch.as_tensor(augmentation, dtype=images.dtype, device=images.device).reshape(-1, 1, 1, 1)
        return images + 0.5 * strength * noise  # the range [0, 1] is half as wide as [-1, 1]

    @apply_forward_hook
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (..., V, 4, h, w) to images (..., V, 3, 8 h, 8 w); float32, not clamped to [0, 1]."""
        dtype = self.vae.decoder.conv_in.weight.dtype
        z = (latents / self.config.scaling_factor).to(dtype).reshape(-1, *latents.shape[-4:])  # (B, V, 4, h, w)
        parts = [self.vae.decode(part.flatten(0, 1), num_frames=part.shape[1]).sample.unflatten(0, (len(z), -1))
                 for part in z.split(self.config.decode_chunk or z.shape[1], dim=1)]
        images = torch.cat(parts, dim=1).float() * 0.5 + 0.5
        return images.reshape(*latents.shape[:-3], *images.shape[-3:])

    def _latents(self, images: Tensor, sample: bool = False) -> Tensor:
        pixels = (images.flatten(0, -4) * 2 - 1).to(self.vae.encoder.conv_in.weight.dtype)
        posteriors = [self.vae.encode(part).latent_dist for part in pixels.split(ENCODED_TOGETHER)]
        latents = torch.cat([each.sample() if sample else each.mode() for each in posteriors])
        return latents.float().unflatten(0, images.shape[:-3])
