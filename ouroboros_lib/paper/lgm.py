"""G at the paper's scale: LGM "big" (Tang et al. 2024) with the noise level of the views as a further input.

The names and shapes of all parameters are those of the released checkpoint; without `time_embed` and `emb_layers`,
those of LGM's own release. What the published names do not say was found by comparing with outputs of the released
modules (tests/parity):

- Images are resized bilinearly without antialiasing, then normalised with ImageNet's statistics. Rays are the right
  ones, (o x d, d), even where the released F has wrong ones.
- The noise level is embedded as it is (c_noise, unscaled): 64 cosines, then 64 sines, of frequencies 10000^(-k/64).
- Its projection is added between the two convolutions of a residual block, before the second normalisation.
- Every residual sum is divided by sqrt(2). Attention has 16 heads and no bias in `qkv`; group norms have 32 groups.

LGM's weights know one world only: that in which the first view stands upright on the +z axis, whatever its elevation.
With `relative_poses`, as in the presets `paper` and `narrow`, the network computes there and its Gaussians are taken
back, so that G maps cameras to Gaussians in this library's world like any other reconstructor, and canonical coordinate
maps stay those of the object, with y up. F starts with fresh camera layers and needs no such care.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from ..cameras import Cameras, relative_to_first
from ..gaussians import Gaussians, moved
from ..models.layers import constant, upsample, zero_init

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NOISE_CHANNELS, EMBEDDING = 128, 512  # of the noise level: sinusoids, and what the residual blocks take
GROUPS = 32


class LGMReconstructor(ModelMixin, ConfigMixin):
    """G's network: images to pixel-aligned Gaussians in one pass. The defaults are the paper's: 424.0 M parameters.

    `views` of the V given go in, at `image_size`; one Gaussian comes out for each pixel of each of them at the output's
    resolution: image_size / 2^(len(down_channels) - len(up_channels)), 128 for the paper's 256. relative_poses: compute
    in the world of view 0, see above.
    """

    _no_split_modules = ["LGMResBlock", "LGMAttention"]  # units that FSDP shards

    @register_to_config
    def __init__(self, image_size: int = 256, views: tuple[int, ...] = (0, 2, 4, 6),
                 down_channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 1024),
                 down_attention: tuple[bool, ...] = (False, False, False, True, True, True),
                 up_channels: tuple[int, ...] = (1024, 1024, 512, 256, 128),
                 up_attention: tuple[bool, ...] = (True, True, True, False, False), attention_heads: int = 16,
                 relative_poses: bool = False):
        super().__init__()
        self.unet = LGMUNet(tuple(down_channels), tuple(down_attention), tuple(up_channels), tuple(up_attention),
                            len(views), attention_heads)
        self.conv = nn.Conv2d(14, 14, 1)

    def forward(self, images: Tensor, cameras: Cameras, c_noise: Tensor) -> Gaussians:
        """images (B, V, 3, H, W) in [0, 1] at cameras (B, V), with noise levels c_noise (B,).

        Returns (B, N) Gaussians in world coordinates, ordered by view (of `config.views`), row and column.
        """
        if not self.config.relative_poses:
            return self.gaussians(images, cameras, c_noise)
        relative, back = relative_to_first(cameras)
        return moved(self.gaussians(images, relative, c_noise), back)

    def gaussians(self, images: Tensor, cameras: Cameras, c_noise: Tensor) -> Gaussians:
        """`forward` in the world of the cameras as they are given."""
        views = as_slice(self.config.views)
        return self.activate(self.network(images[:, views], cameras.views(views), c_noise).float())

    def network(self, images: Tensor, cameras: Cameras, c_noise: Tensor) -> Tensor:
        """Of the views that go in, (B, v, 3, H, W), the 14 unactivated numbers of each Gaussian: (B, N, 14)."""
        batch, size = len(images), self.config.image_size
        pixels = images.flatten(0, 1).to(self.conv.weight.dtype)
        small = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
        mean, std = (constant(values, small)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        rays = cameras.pluecker(size).flatten(0, 1).to(small.dtype)
        raw = self.conv(self.unet(torch.cat([(small - mean) / std, rays], dim=1), c_noise))  # (B v, 14, s, s)
        return raw.unflatten(0, (batch, -1)).movedim(2, -1).flatten(1, 3)

    def activate(self, raw: Tensor) -> Gaussians:
        """(B, N, 14) unactivated numbers to (B, N) Gaussians."""
        means, opacities, scales, rotations, colors = raw.split([3, 1, 3, 4, 3], dim=-1)
        return Gaussians(means.clamp(-1, 1), torch.sigmoid(opacities)[..., 0], 0.1 * F.softplus(scales),
                         self.normalise_rotations(rotations), 0.5 * torch.tanh(colors) + 0.5)

    def normalise_rotations(self, rotations: Tensor) -> Tensor:
        """(B, N, 4) to unit quaternions. To be overridden: the released code normalises over N instead."""
        return F.normalize(rotations, dim=-1)


class LGMUNet(nn.Module):
    """(B v, 9, S, S) images with rays to (B v, 14, s, s), with attention over the pixels of all v views."""

    def __init__(self, down_channels: tuple[int, ...], down_attention: tuple[bool, ...], up_channels: tuple[int, ...],
                 up_attention: tuple[bool, ...], num_views: int, heads: int):
        super().__init__()
        self.conv_in = nn.Conv2d(9, down_channels[0], 3, padding=1)
        self.time_embed = nn.Sequential(nn.Linear(NOISE_CHANNELS, EMBEDDING), nn.SiLU(),
                                        nn.Linear(EMBEDDING, EMBEDDING))
        width, skips = down_channels[0], [down_channels[0]]
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for index, (channels, attention) in enumerate(zip(down_channels, down_attention, strict=True)):
            shrink = index + 1 < len(down_channels)
            self.down_blocks.append(Stage((width, channels), channels, attention, num_views, heads,
                                          resampler="downsample" if shrink else None))
            skips += [channels] * (3 if shrink else 2)
            width = channels
        self.mid_block = Stage((width, width), width, True, num_views, heads, attention_layers=1)
        for index, (channels, attention) in enumerate(zip(up_channels, up_attention, strict=True)):
            inputs = tuple(w + skips.pop() for w in (width, channels, channels))
            self.up_blocks.append(Stage(inputs, channels, attention, num_views, heads,
                                        resampler="upsample" if index + 1 < len(up_channels) else None))
            width = channels
        self.norm_out = nn.GroupNorm(GROUPS, width)
        self.conv_out = nn.Conv2d(width, 14, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """x (B v, 9, S, S), c_noise (B,)."""
        sinusoids = get_timestep_embedding(c_noise, NOISE_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        embedding = self.time_embed(sinusoids.to(x.dtype))
        embedding = embedding.repeat_interleave(len(x) // len(c_noise), dim=0)
        h = self.conv_in(x)
        skips = [h]
        for stage in self.down_blocks:
            for index in range(len(stage.nets)):
                h = stage.attend(index, stage.nets[index](h, embedding))
                skips.append(h)
            if hasattr(stage, "downsample"):
                h = stage.downsample(h)
                skips.append(h)
        middle = self.mid_block
        h = middle.nets[1](middle.attend(0, middle.nets[0](h, embedding)), embedding)
        for stage in self.up_blocks:
            for index in range(len(stage.nets)):
                h = stage.attend(index, stage.nets[index](torch.cat([h, skips.pop()], dim=1), embedding))
            if hasattr(stage, "upsample"):
                h = stage.upsample(upsample(h))
        return self.conv_out(F.silu(self.norm_out(h)))


class Stage(nn.Module):
    """The layers of one resolution: residual blocks `nets`, attentions `attns` and a resampling convolution.

    channels_in: of each residual block, skip connection included. attention_layers: as many as blocks unless given.
    """

    def __init__(self, channels_in: tuple[int, ...], channels: int, attention: bool, num_views: int, heads: int,
                 attention_layers: int | None = None, resampler: str | None = None):
        super().__init__()
        self.nets = nn.ModuleList(LGMResBlock(width, channels) for width in channels_in)
        if attention:
            self.attns = nn.ModuleList(LGMAttention(channels, num_views, heads)
                                       for _ in range(attention_layers or len(channels_in)))
        if resampler is not None:
            stride = 2 if resampler == "downsample" else 1
            self.add_module(resampler, nn.Conv2d(channels, channels, 3, stride=stride, padding=1))

    def attend(self, index: int, h: Tensor) -> Tensor:
        return self.attns[index](h) if hasattr(self, "attns") else h


class LGMResBlock(nn.Module):
    """Two normalised 3x3 convolutions with a residual; the noise embedding (N, 512) is added in between."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, channels, 3, padding=1)
        if channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1)
        self.emb_layers = nn.Sequential(nn.SiLU(), zero_init(nn.Linear(EMBEDDING, channels)))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.emb_layers(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (h + (self.shortcut(x) if hasattr(self, "shortcut") else x)) / math.sqrt(2)


class LGMAttention(nn.Module):
    """Self-attention over the pixels of all views together, (B v, C, h, w), with a residual."""

    def __init__(self, channels: int, num_views: int, heads: int):
        super().__init__()
        self.num_views = num_views
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.attn = TokenAttention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        # (B v, C, h, w) -> (B, v h w, C) and back
        tokens = self.norm(x).movedim(1, -1).reshape(n // self.num_views, self.num_views * h * w, c)
        return (x + self.attn(tokens).reshape(n, h, w, c).movedim(-1, 1)) / math.sqrt(2)


class TokenAttention(nn.Module):
    """Multi-head self-attention, (B, L, C) to (B, L, C)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        # (B, L, 3 C) -> 3 x (B, heads, L, C / heads)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def as_slice(numbers: Sequence[int]) -> slice | list[int]:
    """Evenly spaced numbers as a slice: a list would travel to the GPU, which the CPU waits for."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    spaced = range(numbers[0], numbers[-1] + 1, step) if step > 0 else ()
    return slice(spaced.start, spaced.stop, step) if list(spaced) == list(numbers) else list(numbers)
