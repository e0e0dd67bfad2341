"""Layers of Stable Video Diffusion's networks in fewer passes over the memory: the same mathematics, names and shapes.

Without gradients and not compiled: training goes through diffusers' own code, and a compiler fuses by itself.
"""

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

TRITON_IS_THERE = find_spec("triton") is not None


def use_fused_layers(model: nn.Module) -> None:
    """Exchange residual blocks, upsampling and the last norm of SVD's decoder, in place. For F it does not pay."""
    for name, module in model.named_modules():
        if type(module) is SpatioTemporalResBlock:
            module.__class__ = FusedResBlock
        elif type(module) is Upsample2D:
            module.__class__ = FusedUpsample
        elif type(module) is nn.GroupNorm and name.endswith("conv_norm_out"):
            module.__class__ = FusedGroupNorm


def use_single_token_attention(model: nn.Module) -> None:
    """Exchange the cross-attention of F's transformer blocks, in place."""
    for module in model.modules():
        if isinstance(module, (BasicTransformerBlock, TemporalBasicTransformerBlock)):
            module.attn2.set_processor(SingleTokenAttention())


def fusible(x: Tensor) -> bool:
    """Whether the kernels can take over: they are triton's, which does not come with every build of torch for CUDA."""
    return x.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_compiling() and TRITON_IS_THERE


class FusedGroupNorm(nn.GroupNorm):
    """nn.GroupNorm, without a change of the memory's layout."""

    def forward(self, x: Tensor) -> Tensor:
        if not fusible(x):
            return super().forward(x)
        from .group_norm_triton import group_norm

        return group_norm(self, x)


class FusedResBlock(SpatioTemporalResBlock):
    """A residual block over pixels, then one over views, blended: s + (1 - a) h instead of a s + (1 - a) (s + h).

    All in channels-last memory, in which views lie beside each other without a copy.
    """

    def forward(self, hidden_states: Tensor, temb: Tensor | None = None, image_only_indicator: Tensor | None = None
                ) -> Tensor:
        """hidden_states (B V, C, H, W), temb None as in a decoder, image_only_indicator (B, V)."""
        spatial, temporal, views = self.spatial_res_block, self.temporal_res_block, image_only_indicator.shape[-1]
        if not fusible(hidden_states) or temb is not None or temporal.conv_shortcut is not None:
            return super().forward(hidden_states, temb, image_only_indicator)
        x = hidden_states.contiguous(memory_format=torch.channels_last)
        shortcut = x if spatial.conv_shortcut is None else spatial.conv_shortcut(x)
        s = self._add_branch(shortcut, spatial, x)
        s = s.unflatten(0, (-1, views)).transpose(1, 2)  # (B, C, V, H, W)
        alpha = self.time_mixer.get_alpha(image_only_indicator, s.ndim).flatten()[:1]  # every frame belongs to a video
        share = alpha if self.time_mixer.switch_spatial_to_temporal_mix else 1 - alpha
        return self._add_branch(s, temporal, s, share).transpose(1, 2).flatten(0, 1)

    @staticmethod
    def _add_branch(s: Tensor, block: nn.Module, x: Tensor, share: Tensor | None = None) -> Tensor:
        """s + share h, h of the block's two convolutions of x (N, C, ...), whose biases later passes add."""
        from .group_norm_triton import add_scaled, group_norm

        h = _without_bias(block.conv1, group_norm(block.norm1, x, silu=True))
        h = _without_bias(block.conv2, group_norm(block.norm2, h, silu=True, bias=block.conv1.bias))
        return add_scaled(s, h, block.conv2.bias, share)


def _without_bias(convolution: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    return convolution._conv_forward(x, convolution.weight, None)


class FusedUpsample(Upsample2D):
    """Each pixel twice in both directions, then a 3 x 3 convolution: one transposed convolution of stride 2, with 16
    products for a pixel's four neighbours instead of 36, and no enlarged copy in memory."""

    def forward(self, hidden_states: Tensor, output_size: int | None = None, *args, **kwargs) -> Tensor:
        """(N, C, H, W) to (N, C, 2 H, 2 W)."""
        if not fusible(hidden_states) or output_size is not None:
            return super().forward(hidden_states, output_size, *args, **kwargs)
        x = hidden_states.contiguous(memory_format=torch.channels_last)
        weight = upsampling_kernel(self.conv.weight).contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)


def upsampling_kernel(weight: Tensor) -> Tensor:
    """Of a 3 x 3 convolution (out, in, 3, 3) after nearest-neighbour upsampling: (in, out, 4, 4), transposed.

    A pixel reaches four pixels of the enlarged picture, so the kernel is the sum of four copies, each moved by one.
    """
    moved = (F.pad(weight.float().flip(2, 3), (x, 1 - x, y, 1 - y)) for x in (0, 1) for y in (0, 1))
    return sum(moved, weight.new_zeros(4, 4).float()).transpose(0, 1).to(weight.dtype)


class SingleTokenAttention(AttnProcessor2_0):
    """Cross-attention to one token, which is that token's value, whatever the query: softmax over one number is 1.

    With gradients the whole is computed: queries and keys then get theirs, which are zero.
    """

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, *args, **kwargs) -> Tensor:
        """hidden_states (N, L, C), encoder_hidden_states (N, 1, D)."""
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] != 1 or torch.is_grad_enabled():
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        return attn.to_out[0](attn.to_v(encoder_hidden_states)).expand_as(hidden_states)
