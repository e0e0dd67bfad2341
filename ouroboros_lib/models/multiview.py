"""F of the `small` preset: a latent U-Net that denoises all views of an object together."""

from functools import partial

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ..cameras import Cameras
from .condition import CameraFeatures
from .feedback import FeedbackEncoder, feedback_names
from .layers import VIEW_ATTENTIONS, NoiseEmbedding, UNet, harmonic_embedding


class MultiviewUNet(ModelMixin, ConfigMixin, UNet):
    """F's network: noisy latents of V views, the condition view, cameras and feedback to the raw output of eq. 7, EDM.

    Conditions: the condition view's latents, concatenated to every noisy view and pooled into the noise embedding;
    Pluecker coordinates of the cameras, added at the input of every stage; features of the fed-back RGB and CCM
    renders, added at the input of every stage on the way down. `feedback` names the encoders that exist.
    view_attention: "joint", over all pixels of all views, or "factorised" into space and views, as in SVD.
    head_channels: of attention; 0: 48 where they divide the channels, else 32. hidden_channels: between the two
    convolutions of a residual block, of each stage; None: as `channels`.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 8, image_size: int = 128, channels: tuple[int, ...] = (96, 128, 160),
                 attention: tuple[bool, ...] = (True, True, True), depth: int = 2, embedding: int = 160,
                 camera_octaves: int = 2, feedback: str = "both", feedback_width: int = 64,
                 view_attention: str = "joint", head_channels: int = 0, hidden_channels: tuple[int, ...] | None = None):
        super().__init__()
        self.input = nn.Conv2d(2 * latent_channels, channels[0], 3, padding=1)
        self.noise_embedding = NoiseEmbedding(embedding)
        self.condition_embedding = nn.Sequential(
            nn.Conv2d(latent_channels, 64, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, embedding))

        rays = 6 * (1 + 2 * camera_octaves)
        self.cameras_down = nn.ModuleList(_camera_mlp(rays, width) for width in channels)
        self.cameras_up = nn.ModuleList(_camera_mlp(rays, width) for width in reversed(channels))
        self.feedback_encoders = nn.ModuleDict({
            name: FeedbackEncoder(tuple(channels), feedback_width) for name in feedback_names(feedback)})

        self.add_unet(channels, latent_channels, embedding, (depth,) * len(channels), depth, attention,
                      partial(VIEW_ATTENTIONS[view_attention], head_channels=head_channels), hidden_channels or ())

    @property
    def feedbacks(self) -> tuple[str, ...]:
        """Names of the maps this network has encoders for."""
        return feedback_names(self.config.feedback)

    def forward(self, x: Tensor, c_noise: Tensor, cond_latents: Tensor, cameras: Cameras | CameraFeatures,
                self_cond: dict[str, Tensor] | None = None) -> Tensor:
        """x (B, V, c, h, w), scaled by c_in; c_noise (B,); cond_latents (B, c, h, w); cameras (B, V),
        or what `embed_cameras` made of them; self_cond: name -> map (B, V, 3, S, S). A map that is not there is zero.
        Returns (B, V, c, h, w)."""
        batch, views = x.shape[:2]
        embedding = self.noise_embedding(c_noise) + self.condition_embedding(cond_latents)
        embedding = embedding.repeat_interleave(views, dim=0)
        if not isinstance(cameras, CameraFeatures):
            cameras = self.embed_cameras(cameras, x.shape[-1])
        added = [[features.flatten(0, 1)] for features in cameras.stages]
        for stage, features in zip(added, self._encode_feedback(self_cond, x), strict=False):
            stage.append(features)

        condition = cond_latents[:, None].expand_as(x)
        h = self.input(torch.cat([x, condition], dim=2).flatten(0, 1))  # (B V, channels, h, w)
        return self.run_unet(h, embedding, views, added)

    @apply_forward_hook
    def embed_cameras(self, cameras: Cameras, size: int) -> CameraFeatures:
        """The camera MLPs' answers for latents of `size`: (B, V, C, s, s) for the stages down, then up."""
        rays = [harmonic_embedding(cameras.pluecker(size >> stage), self.config.camera_octaves).flatten(0, 1)
                for stage in range(len(self.down))]
        features = [mlp(ray) for mlps, order in ((self.cameras_down, rays), (self.cameras_up, rays[::-1]))
                    for mlp, ray in zip(mlps, order, strict=True)]
        return CameraFeatures([value.unflatten(0, cameras.shape) for value in features])

    def _encode_feedback(self, self_cond: dict[str, Tensor] | None, x: Tensor) -> list[Tensor]:
        """The features of all maps together, one for each stage on the way down; none without encoders."""
        size, total = self.config.image_size, []
        zero = x.new_zeros(1, 1, 3, size, size)  # the same for all views: encoded once and broadcast
        for name, encoder in self.feedback_encoders.items():
            features = encoder((self_cond or {}).get(name, zero).flatten(0, 1))
            total = [a + b for a, b in zip(total, features, strict=True)] if total else features
        return total


def _camera_mlp(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1), nn.SiLU(), nn.Conv2d(channels, channels, 1))
