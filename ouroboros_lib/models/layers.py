"""The few blocks that F, G and the autoencoder of the `small` preset are made of."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEQUENCES_AT_ONCE = 2**15
SINUSOIDS = 128  # of a noise level


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters to zero, so that a branch starts as if it were not there."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """A tensor of a few numbers, of the device and type of `like`; made once, since a GPU makes the CPU wait for it."""
    if torch.compiler.is_compiling():  # which makes a constant of it by itself
        return like.new_tensor(values)
    return _constant(tuple(values), like.device, like.dtype)


@cache
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)


def sinusoidal_embedding(c_noise: Tensor, channels: int = SINUSOIDS, max_frequency: float = 200.0) -> Tensor:
    """(B,) noise conditioning values to (B, channels) sines and cosines of geometric frequencies."""
    frequencies = torch.exp(torch.linspace(0, math.log(max_frequency), channels // 2, device=c_noise.device))
    angles = c_noise[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def harmonic_embedding(x: Tensor, octaves: int) -> Tensor:
    """(..., C, H, W) to (..., C (1 + 2 octaves), H, W): x, sin(2^k x), cos(2^k x) (Mildenhall et al. 2020, eq. 4)."""
    scaled = [x * 2**k for k in range(octaves)]
    return torch.cat([x, *(s.sin() for s in scaled), *(s.cos() for s in scaled)], dim=-3)


class NoiseEmbedding(nn.Module):
    """c_noise (B,) to an embedding (B, channels)."""

    def __init__(self, channels: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOIDS, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, c_noise: Tensor) -> Tensor:
        return self.mlp(sinusoidal_embedding(c_noise))


class ResBlock(nn.Module):
    """Two 3x3 convolutions and a residual, (N, in, H, W) to (N, out, H, W); an embedding scales and shifts between.

    hidden: channels between the convolutions; 0: as many as leave.
    """

    def __init__(self, channels_in: int, channels_out: int, embedding: int = 0, hidden: int = 0):
        super().__init__()
        hidden = hidden or channels_out
        self.norm1, self.conv1 = group_norm(channels_in), nn.Conv2d(channels_in, hidden, 3, padding=1)
        self.norm2 = group_norm(hidden)
        self.conv2 = zero_init(nn.Conv2d(hidden, channels_out, 3, padding=1))
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        self.modulation = nn.Linear(embedding, 2 * hidden) if embedding else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.modulation is not None:
            scale, shift = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Self-attention over sequences of tokens, (S, L, C) to (S, L, C), without the residual; starts at zero."""

    def __init__(self, channels: int, head_channels: int = 0):
        super().__init__()
        expected, head_channels = head_channels or "48 or 32", head_channels or (48 if channels % 48 == 0 else 32)
        if channels % head_channels:
            raise ValueError(f"attention needs a multiple of {expected} channels, got {channels}")
        self.heads = channels // head_channels
        self.norm, self.qkv = group_norm(channels), nn.Linear(channels, 3 * channels)
        self.query_norm, self.key_norm = nn.RMSNorm(head_channels, eps=1e-6), nn.RMSNorm(head_channels, eps=1e-6)
        self.out = zero_init(nn.Linear(channels, channels))

    def attend(self, tokens: Tensor) -> Tensor:
        # (S, L, 3 C) -> 3 x (S, heads, L, C / heads)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.query_norm(q.float()).to(v.dtype), self.key_norm(k.float()).to(v.dtype)
        return self.out(attention(q, k, v).transpose(1, 2).flatten(2))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) v for tensors (S, heads, L, C), in parts if there are many: cuDNN's backward pass fails
    with more than 65,535 sequences (torch 2.11), as many as 256 objects have pixels of 16 x 16."""
    if len(q) <= SEQUENCES_AT_ONCE:
        return F.scaled_dot_product_attention(q, k, v)
    parts = zip(*(tensor.split(SEQUENCES_AT_ONCE) for tensor in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts])


class MultiviewAttention(Attention):
    """Self-attention over the pixels of *all* views together (MVDream, Shi et al. 2023; LGM, Tang et al. 2024).

    (B * V, C, H, W) with `num_views` = V: every pixel attends to all V * H * W pixels of its object.
    """

    def forward(self, x: Tensor, num_views: int) -> Tensor:
        n, c, h, w = x.shape
        # (B V, C, h, w) -> (B, V h w, C): one sequence for each object, without a copy in channels-last memory
        tokens = self.norm(x).movedim(1, -1).reshape(n // num_views, num_views * h * w, c)
        return x + self.attend(tokens).view(n, h, w, c).movedim(-1, 1)


class TemporalAttention(Attention):
    """Self-attention of each pixel over the views, (B * V, C, H, W): what lies at one place of all V pictures."""

    def forward(self, x: Tensor, num_views: int) -> Tensor:
        n, c, h, w = x.shape
        # (B V, C, h, w) -> (B h w, V, C)
        tokens = self.norm(x).movedim(1, -1).unflatten(0, (-1, num_views)).permute(0, 2, 3, 1, 4).flatten(0, 2)
        attended = self.attend(tokens).unflatten(0, (n // num_views, h, w))  # (B, h, w, V, C)
        return x + attended.permute(0, 3, 4, 1, 2).flatten(0, 1)


class FactorisedAttention(nn.Module):
    """Within each view, then over the views, as in Stable Video Diffusion (Blattmann et al. 2023)."""

    def __init__(self, channels: int, head_channels: int = 0):
        super().__init__()
        self.spatial = MultiviewAttention(channels, head_channels)
        self.temporal = TemporalAttention(channels, head_channels)

    def forward(self, x: Tensor, num_views: int) -> Tensor:
        return self.temporal(self.spatial(x, 1), num_views)


VIEW_ATTENTIONS = {"joint": MultiviewAttention, "factorised": FactorisedAttention}


class UNetStage(nn.Module):
    """`depth` residual blocks at one resolution, each followed by attention of the class `attention` if there is one.

    skip_channels: for the way up, the channels of the skip connection that each block takes from the way down.
    """

    def __init__(self, channels_in: int, channels: int, embedding: int, depth: int,
                 attention: Callable[[int], nn.Module] | None, skip_channels: int = 0, hidden: int = 0):
        super().__init__()
        widths = [channels_in] + [channels] * (depth - 1)
        self.blocks = nn.ModuleList(ResBlock(width + skip_channels, channels, embedding, hidden) for width in widths)
        self.attentions = nn.ModuleList(attention(channels) for _ in widths) if attention else None

    def forward(self, x: Tensor, embedding: Tensor, num_views: int, skips: list[Tensor] | None = None):
        """Returns the output and, one per block, the activations that the way up takes as skips."""
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x if skips is None else torch.cat([x, skips.pop()], dim=1), embedding)
            if self.attentions is not None:
                x = self.attentions[index](x, num_views)
            outputs.append(x)
        return x, outputs


class UNet:
    """What the networks of F and G share: layers to add to a module of their own, and the way through these."""

    def add_unet(self, channels: tuple[int, ...], channels_out: int, embedding: int, depths: tuple[int, ...],
                 depth_up: int, attention: tuple[bool, ...], kind: Callable[[int], nn.Module] = MultiviewAttention,
                 hidden: Sequence[int] = ()) -> None:
        """Make the layers of all stages, from fine to coarse and back.

        depths: blocks of each stage on the way down; depth_up: of all on the way up. attention: which stages have it,
        beside the middle; kind: makes it for so many channels. hidden: of the residual blocks of each stage.
        """
        hidden = hidden or (0,) * len(channels)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for stage, width in enumerate(channels):
            self.down.append(UNetStage(width, width, embedding, depths[stage], kind if attention[stage] else None,
                                       hidden=hidden[stage]))
            if stage + 1 < len(channels):
                self.shrink.append(nn.Conv2d(width, channels[stage + 1], 3, stride=2, padding=1))
        self.middle = ResBlock(channels[-1], channels[-1], embedding, hidden[-1])
        self.middle_attention = kind(channels[-1])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for stage, width in reversed(list(enumerate(channels))):
            self.up.append(UNetStage(width, width, embedding, depth_up, kind if attention[stage] else None, width,
                                     hidden[stage]))
            if stage:
                self.grow.append(nn.Conv2d(width, channels[stage - 1], 3, padding=1))
        self.output_norm = group_norm(channels[0])
        self.output = zero_init(nn.Conv2d(channels[0], channels_out, 3, padding=1))

    def run_unet(self, h: Tensor, embedding: Tensor, views: int, added: Sequence[Sequence[Tensor]] = ()) -> Tensor:
        """(B V, C, h, w), with an embedding (B V, E), to (B, V, out, h, w).

        added: features for the input of each stage, on the way down and then up.
        """
        skips: list[Tensor] = []
        added = added or [()] * (2 * len(self.down))
        for stage, blocks in enumerate(self.down):
            for features in added[stage]:
                h = h + features
            h, outputs = blocks(h, embedding, views)
            skips += outputs[-len(self.up[0].blocks):]
            if stage + 1 < len(self.down):
                h = self.shrink[stage](h)
        h = self.middle_attention(self.middle(h, embedding), views)
        for stage, blocks in enumerate(self.up):
            for features in added[len(self.down) + stage]:
                h = h + features
            h, _ = blocks(h, embedding, views, skips)
            if stage + 1 < len(self.up):
                h = self.grow[stage](upsample(h))
        return self.output(F.silu(self.output_norm(h))).unflatten(0, (-1, views))


def upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
