"""Group normalisation with SiLU in two passes over channels-last memory, and a residual sum in one: no gradients.

torch's own copies such tensors into another layout first, and back for the next convolution. See fused.py for when
this is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

ROWS, CHANNELS = 32, 128  # of the tile that a program holds at a time
PROGRAMS = 1024  # that share out the rows of a tensor in the first pass, about


def group_norm(norm: nn.GroupNorm, x: Tensor, silu: bool = False, bias: Tensor | None = None) -> Tensor:
    """norm(x + bias) for x (N, C, ...) and bias (C,), in channels-last memory; silu: of that y, y sigmoid(y)."""
    channels, groups = x.shape[1], norm.num_groups
    pixels = x.movedim(1, -1).contiguous()  # no copy if x is channels-last
    count, rows = len(x), pixels[0].numel() // channels
    tile = min(CHANNELS, triton.next_power_of_2(channels))
    blocks = triton.cdiv(channels, tile)
    chunks = max(1, min(triton.cdiv(rows, ROWS), PROGRAMS // (count * blocks)))
    sums = x.new_empty((count, chunks, 2, channels), dtype=torch.float32)
    _channel_sums[(chunks, count, blocks)](pixels, sums, rows, triton.cdiv(rows, chunks), channels, ROWS, tile)
    moments = sums.sum(1) / rows  # (N, 2, C): means of x and x^2
    if bias is not None:
        mean, square = moments.unbind(1)
        moments = torch.stack([mean + bias, square + bias * (2 * mean + bias)], dim=1)
    moments = moments.unflatten(-1, (groups, -1)).mean(-1)
    mean, square = moments.repeat_interleave(channels // groups, dim=-1).unbind(1)
    scale = (square - mean.square()).clamp_min(0).add(norm.eps).rsqrt() * norm.weight.float()
    shift = norm.bias.float() - (mean if bias is None else mean - bias) * scale
    result = torch.empty_like(pixels)
    _scale_and_shift[(triton.cdiv(rows, ROWS), count, blocks)](pixels, result, scale, shift, rows, channels, silu, ROWS,
                                                              tile)
    return result.movedim(-1, 1)


def add_scaled(s: Tensor, h: Tensor, bias: Tensor, share: Tensor | None = None) -> Tensor:
    """s + share (h + bias), s and h (N, C, ...), bias (C,), share (1,) or None for 1; in channels-last memory."""
    channels = s.shape[1]
    first, second = s.movedim(1, -1).contiguous(), h.movedim(1, -1).contiguous()
    result, rows, tile = torch.empty_like(first), first.numel() // channels, triton.next_power_of_2(channels)
    share = bias.new_ones(1) if share is None else share
    each = max(1, ROWS * CHANNELS // tile)
    _add_scaled[(triton.cdiv(rows, each),)](first, second, bias, share, result, rows, channels, each, tile)
    return result.movedim(-1, 1)


@triton.jit
def _channel_sums(x, sums, rows, rows_each, channels, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Sums of x and of x^2 over a chunk of rows, for each channel: x (N, rows, C) to sums (N, chunks, 2, C)."""
    chunk, n = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel = tl.program_id(2) * TILE + tl.arange(0, TILE)
    first, last = chunk * rows_each, tl.minimum((chunk + 1) * rows_each, rows)
    total, squares = tl.zeros((ROWS, TILE), tl.float32), tl.zeros((ROWS, TILE), tl.float32)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & (channel < channels)[None, :]
        value = tl.load(x + (n * rows + row)[:, None] * channels + channel[None, :], inside, 0.0).to(tl.float32)
        total += value
        squares += value * value
    out = sums + (n * tl.num_programs(0) + chunk) * 2 * channels + channel
    tl.store(out, tl.sum(total, 0), channel < channels)
    tl.store(out + channels, tl.sum(squares, 0), channel < channels)


@triton.jit
def _scale_and_shift(x, y, scale, shift, rows, channels, SILU: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):
    """y = x scale + shift, then SiLU if asked for; x and y (N, rows, C), scale and shift (N, C)."""
    n = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(2) * TILE + tl.arange(0, TILE)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    place = (n * rows + row)[:, None] * channels + channel[None, :]
    value = tl.load(x + place, inside, 0.0).to(tl.float32)
    at = n * channels + channel
    value = value * tl.load(scale + at, channel < channels, 0.0)[None, :]
    value += tl.load(shift + at, channel < channels, 0.0)[None, :]
    if SILU:
        value = value / (1 + tl.exp(-value))
    tl.store(y + place, value.to(y.dtype.element_ty), inside)


@triton.jit
def _add_scaled(s, h, bias, share, y, rows, channels, ROWS: tl.constexpr, TILE: tl.constexpr):
    """y = s + share (h + bias); s, h and y (rows, C), bias (C,), share (1,)."""
    row, channel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, TILE)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    place = row[:, None] * channels + channel[None, :]
    value = tl.load(h + place, inside, 0.0).to(tl.float32)
    value += tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)[None, :]
    value = tl.load(s + place, inside, 0.0).to(tl.float32) + tl.load(share).to(tl.float32) * value
    tl.store(y + place, value.to(y.dtype.element_ty), inside)
