"""F at the paper's scale: Stable Video Diffusion's U-Net with cameras and feedback added around it.

The names and shapes of all parameters are those of the released checkpoint. What its published names do not say was
found by comparing with outputs of the released modules (tests/parity):

- The camera embedding is added to the input of a stage, and the skip connection that carries this input to the way up
  carries the embedding too: the first of all skips, those of the three down-samplers, and the one before the middle.
- Feedback enters behind the last attention of a stage, and the skip connection taken there does *not* carry it.
- Features of the RGB and the CCM encoder are summed. Their inputs are in [0, 1]; zero maps are encoded like any other.
- Rays are computed afresh at each stage's resolution, through its own pixel centres.
- Harmonics: all sines, all cosines, then the input; within each, the octaves of one coordinate lie side by side.
"""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNetSpatioTemporalConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ..cameras import Cameras
from ..models.condition import CameraFeatures
from ..models.feedback import PATCH
from ..models.layers import constant, zero_init
from .fused import use_single_token_attention
from .svd_autoencoder import NOISE_AUGMENTATION

ADDED_TIME_IDS = (6.0, 127.0, NOISE_AUGMENTATION)  # the first two: frames per second - 1, motion bucket


class SVDMultiviewUNet(ModelMixin, ConfigMixin):
    """F's network: noisy latents of V views and all conditions to the raw output of eq. 7, EDM. 1,765.0 M parameters.

    The defaults are the paper's sizes. `unet` is diffusers' `UNetSpatioTemporalConditionModel`, whose weights start
    from SVD image-to-video; around it stand one camera MLP per stage (4 down, 1 middle, 4 up) and two feedback
    encoders, `cond_encoder.0` for RGB and `cond_encoder.1` for CCM. The resolution is halved three times: h = w must
    be a multiple of 8.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["SpatioTemporalResBlock", "TransformerSpatioTemporalModel", "FeedbackBlock"]  # FSDP's units
    _repeated_blocks = _no_split_modules  # and those that are compiled
    takes_image_token = True
    feedbacks = ("rgb", "ccm")  # the maps that it has encoders for, in the order of `cond_encoder`

    @register_to_config
    def __init__(self, block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
                 num_attention_heads: tuple[int, ...] = (5, 10, 20, 20), cross_attention_dim: int = 1024,
                 layers_per_block: int = 2, latent_channels: int = 4, camera_octaves: int = 6):
        super().__init__()
        self.unet = UNetSpatioTemporalConditionModel(
            in_channels=2 * latent_channels, out_channels=latent_channels, block_out_channels=tuple(block_out_channels),
            num_attention_heads=tuple(num_attention_heads), cross_attention_dim=cross_attention_dim,
            layers_per_block=layers_per_block)
        use_single_token_attention(self.unet)
        self.add_cameras_and_feedback()

    def add_cameras_and_feedback(self) -> None:
        """The parts that SVD lacks, freshly initialised."""
        widths, harmonics = tuple(self.config.block_out_channels), 6 * (1 + 2 * self.config.camera_octaves)
        self.down_plucker = nn.ModuleList(CameraMLP(harmonics, width) for width in (widths[0], *widths[:-1]))
        self.mid_plucker = CameraMLP(harmonics, widths[-1])
        self.up_plucker = nn.ModuleList(CameraMLP(harmonics, width) for width in (widths[-1], *widths[:0:-1]))
        self.cond_encoder = nn.ModuleList(FeedbackEncoder(widths) for _ in self.feedbacks)

    def forward(self, x: Tensor, c_noise: Tensor, cond_latents: Tensor, cameras: Cameras | CameraFeatures,
                self_cond: dict[str, Tensor] | None = None, image_embeds: Tensor | None = None,
                added_time_ids: Tensor | None = None) -> Tensor:
        """x (B, V, 4, h, w), scaled by c_in; c_noise (B,); cond_latents (B, 4, h, w), given to every view;
        cameras (B, V), or what `embed_cameras` made of them; self_cond: name -> map (B, V, 3, 8 h, 8 w) in [0, 1], a
        map that is not there is zero; image_embeds (B, 1, 1024), CLIP's, or None for the zeros of a dropped condition;
        added_time_ids (B, 3), or None for `ADDED_TIME_IDS`. Returns (B, V, 4, h, w), in the type of the weights."""
        batch, views = x.shape[:2]
        x = x.to(self.unet.conv_in.weight.dtype)  # the rest follows
        if image_embeds is None:
            image_embeds = x.new_zeros(batch, 1, self.config.cross_attention_dim)
        if added_time_ids is None:
            added_time_ids = constant(ADDED_TIME_IDS, c_noise).expand(batch, 3)

        if not isinstance(cameras, CameraFeatures):
            cameras = self.embed_cameras(cameras, x.shape[-1])
        cameras = [features.flatten(0, 1).movedim(-1, 1) for features in cameras.stages]  # (B V, C, s, s)

        unet = self.unet
        common = {"temb": self._noise_embedding(c_noise, added_time_ids, x.dtype).repeat_interleave(views, dim=0),
                  "image_only_indicator": x.new_zeros(batch, views)}  # zeros: every frame belongs to a video
        tokens = image_embeds.to(x.dtype).repeat_interleave(views, dim=0)  # (B V, 1, 1024)
        feedback = self.encode_feedback(self_cond, x)

        condition = cond_latents.to(x.dtype)[:, None].expand_as(x)
        h = unet.conv_in(torch.cat([x, condition], dim=2).flatten(0, 1))  # (B V, 320, h, w)
        skips = [h]
        for stage, block in enumerate(unet.down_blocks):
            h = skips[-1] = h + cameras[stage]
            h, outputs = self._run_layers(block, h, tokens, **common)
            skips += outputs
            if block.downsamplers is not None:
                h = block.downsamplers[0](h + feedback[stage])
                skips.append(h)
        middle = len(unet.down_blocks)
        h = skips[-1] = h + cameras[middle]
        h = unet.mid_block(h, encoder_hidden_states=tokens, **common) + feedback[-1]
        for stage, block in enumerate(unet.up_blocks):
            h = h + cameras[middle + 1 + stage]
            count = len(block.resnets)
            skips, taken = skips[:-count], tuple(skips[-count:])
            cross = {"encoder_hidden_states": tokens} if hasattr(block, "attentions") else {}
            h = block(h, res_hidden_states_tuple=taken, **cross, **common)
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(h))).unflatten(0, (batch, views))

    @apply_forward_hook
    def embed_cameras(self, cameras: Cameras, size: int) -> CameraFeatures:
        """The camera MLPs' answers for latents of `size`: (B, V, s, s, C) for the stages down, middle and up."""
        depths = [*range(len(self.down_plucker)), len(self.up_plucker) - 1, *reversed(range(len(self.up_plucker)))]
        harmonics = [released_harmonics(self.camera_rays(cameras, size >> depth).movedim(-3, -1),
                                        self.config.camera_octaves) for depth in range(len(self.down_plucker))]
        mlps = [*self.down_plucker, self.mid_plucker, *self.up_plucker]
        dtype = self.unet.conv_in.weight.dtype
        return CameraFeatures([mlp(harmonics[depth].to(dtype)) for mlp, depth in zip(mlps, depths, strict=True)])

    def camera_rays(self, cameras: Cameras, size: int) -> Tensor:
        """Pluecker coordinates (o x d, d) of the pixels of a stage, (B, V, 6, size, size). To be overridden."""
        return cameras.pluecker(size)

    def encode_feedback(self, self_cond: dict[str, Tensor] | None, x: Tensor) -> list[Tensor]:
        """The sum of both encoders' features, one (B V, C, h, w) per stage; x (B, V, ...) gives sizes and dtype."""
        height, width = x.shape[-2:]
        zero = x.new_zeros(1, 1, 3, PATCH * height, PATCH * width)  # the same for all views: encoded once
        maps = [(self_cond or {}).get(name, zero) for name in self.feedbacks]
        features = (encoder(image.flatten(0, 1).to(x.dtype))
                    for encoder, image in zip(self.cond_encoder, maps, strict=True))
        return [sum(stage[1:], stage[0]) for stage in zip(*features, strict=True)]

    def _noise_embedding(self, c_noise: Tensor, added_time_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, 4 * 320): the noise level's embedding plus that of the three added numbers, as in SVD."""
        unet = self.unet
        added = unet.add_time_proj(added_time_ids.flatten()).reshape(len(added_time_ids), -1)
        return unet.time_embedding(unet.time_proj(c_noise).to(dtype)) + unet.add_embedding(added.to(dtype))

    @staticmethod
    def _run_layers(block: nn.Module, h: Tensor, tokens: Tensor, temb: Tensor, image_only_indicator: Tensor
                    ) -> tuple[Tensor, list[Tensor]]:
        """A down block of diffusers without its down-sampler, so that feedback can enter before it.

        Returns its output and the activations that the way up takes as skips.
        """
        outputs = []
        for index, resnet in enumerate(block.resnets):
            if torch.is_grad_enabled() and block.gradient_checkpointing:
                h = block._gradient_checkpointing_func(resnet, h, temb, image_only_indicator)
            else:
                h = resnet(h, temb, image_only_indicator=image_only_indicator)
            if hasattr(block, "attentions"):
                h = block.attentions[index](h, encoder_hidden_states=tokens, image_only_indicator=image_only_indicator,
                                            return_dict=False)[0]
            outputs.append(h)
        return h, outputs


class CameraMLP(nn.Module):
    """Two layers on each pixel's ray harmonics: (..., 78) to (..., channels)."""

    def __init__(self, harmonics: int, channels: int):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(harmonics, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, harmonics: Tensor) -> Tensor:
        return self.embed(harmonics)


class FeedbackEncoder(nn.Module):
    """One map (N, 3, 8 h, 8 w) in [0, 1] to one feature map per stage of F, (N, C_i, h / 2^i, w / 2^i).

    The released layout, after T2I-Adapter (Mou et al. 2023): pixel-unshuffle by 8, a 3x3 convolution, then stages of
    3 residual blocks, of which the first halves the resolution by average pooling in all stages but the first.
    """

    def __init__(self, stage_channels: tuple[int, ...], depth: int = 3):
        super().__init__()
        self.depth = depth
        self.conv_in = nn.Conv2d(3 * PATCH**2, stage_channels[0], 3, padding=1)
        before = (stage_channels[0], *stage_channels[:-1])
        self.body = nn.ModuleList(
            FeedbackBlock(channels if index else before[stage], channels, shrink=stage > 0 and index == 0)
            for stage, channels in enumerate(stage_channels) for index in range(depth))

    def forward(self, maps: Tensor) -> list[Tensor]:
        h = self.conv_in(F.pixel_unshuffle(maps, PATCH))
        features = []
        for index, block in enumerate(self.body):
            h = block(h)
            if index % self.depth == self.depth - 1:
                features.append(h)
        return features


class FeedbackBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(x))), the last convolution zero at the start; halves the resolution if `shrink`."""

    def __init__(self, channels_in: int, channels: int, shrink: bool):
        super().__init__()
        self.shrink = shrink
        if channels_in != channels:
            self.in_conv = nn.Conv2d(channels_in, channels, 1)
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.shrink:
            x = F.avg_pool2d(x, 2)
        if hasattr(self, "in_conv"):
            x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


def released_harmonics(rays: Tensor, octaves: int) -> Tensor:
    """(..., C) to (..., C (2 octaves + 1)): sin(2^k x), cos(2^k x), x, in the order of the released code.

    `layers.harmonic_embedding` has the same numbers, input first and channels in dimension -3.
    """
    angles = (rays[..., None] * 2.0 ** torch.arange(octaves, device=rays.device)).flatten(-2)
    return torch.cat([angles.sin(), angles.cos(), rays], dim=-1)
