"""The compiled CPU rasterizer: numba kernels, forward and backward, behind one autograd function.

The image is cut into tiles. Each Gaussian is entered, front to back, in the list of every tile that its box touches;
tiles are then independent of each other, so threads share nothing and no sum depends on their timing. Within a tile
the loop runs over Gaussians first and over the pixels of their ellipse second: small Gaussians cost what they cover.
"""

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from .kernels import OPTIONS, THREADS, alone
from .projection import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE, Projection
from .tiles import TILE, list_tiles, tiles_along, within

BLOCKS = 2  # to a row of a tile: vector instructions take 8 pixels at once
# Constants are compiled in, and numba's cache watches this file only: after changing another, touch it.
_MIN_ALPHA, _MAX_ALPHA = np.float32(MIN_ALPHA), np.float32(MAX_ALPHA)
_MIN_TRANSMITTANCE = np.float32(MIN_TRANSMITTANCE)
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_FAR = np.float32(20)  # exp(-20) is nothing
_LANES = np.arange(TILE // BLOCKS).astype(np.float32)  # an argument, not a constant: unrolled loops are not vectorised
_WIDE = np.float32(1e9)  # pixels
_SLACK = np.float32(1e-3)  # pixels by which boxes are widened: the test on alpha decides, not their rounding


def composite(projection: Projection, opacities: Tensor, features: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As `dense.composite`, in float32: accumulated (B, V, size, size, C + 1), the depth last, and the transmittance.

    opacities (B, N), features (B, N, C). Differentiable once.
    """
    p = projection
    return _Composite.apply(p.u, p.v, p.conic_uu, p.conic_uv, p.conic_vv, p.depth, opacities, features,
                            p.radius_u, p.radius_v, size)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, v, uu, uv, vv, depth, opacities, features, radius_u, radius_v, size):
        ctx.save_for_backward(u, v, uu, uv, vv, depth, opacities, features)
        ctx.leading = u.shape[:2]
        inputs = _arrays(u, v, uu, uv, vv, depth, opacities, features)
        boxes = [_array(radius.flatten(0, 1)) for radius in (radius_u, radius_v)]
        with alone():
            ctx.starts, ctx.entries = list_tiles(inputs[0], inputs[1], inputs[5], *boxes, size)
        images = len(inputs[0])
        accumulated = np.zeros((images, size, size, features.shape[-1] + 1), np.float32)
        transmittance = np.ones((images, size, size), np.float32)
        ctx.last = np.full((images, size, size), -1, np.int32)
        with alone():
            _forward(*inputs, ctx.starts, ctx.entries, tiles_along(size), _LANES, accumulated, transmittance, ctx.last)
        ctx.transmittance = transmittance
        return (torch.from_numpy(accumulated).unflatten(0, ctx.leading),
                torch.from_numpy(transmittance).unflatten(0, ctx.leading))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_accumulated, grad_transmittance):
        inputs, side = _arrays(*ctx.saved_tensors), tiles_along(ctx.last.shape[-1])
        per_entry = np.zeros((len(ctx.entries), 7 + inputs[-1].shape[-1]), np.float32)
        total = np.zeros((per_entry.shape[1], *inputs[0].shape), np.float32)
        with alone():
            _backward(*inputs, ctx.starts, ctx.entries, side, _LANES, ctx.transmittance, ctx.last,
                      _array(grad_accumulated.flatten(0, 1)), _array(grad_transmittance.flatten(0, 1)), per_entry)
            _gather(per_entry, ctx.starts, ctx.entries, side * side, total)
        per_gaussian = torch.from_numpy(total).unflatten(1, ctx.leading)
        u, v, uu, uv, vv, depth = per_gaussian[:6]
        opacities, features = per_gaussian[6].sum(1), per_gaussian[7:].sum(2).movedim(0, -1)
        return u, v, uu, uv, vv, depth, opacities, features, None, None, None


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    """The kernels' inputs: six planes (B, V, N) as (B * V, N), then opacities (B, N) and features (B, N, C)."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # per thread of Python
    *planes, opacities, features = tensors
    return [*(_array(plane.flatten(0, 1)) for plane in planes), _array(opacities), _array(features)]


def _array(tensor: Tensor) -> np.ndarray:
    """float32 and C-contiguous: one signature, compiled once."""
    return tensor.detach().to(torch.float32).contiguous().numpy()


@njit(**OPTIONS)
def _span(centre, variance, opacity, low, high):
    """Pixels [first, end) of the tile, along one axis, in which the Gaussian can reach MIN_ALPHA."""
    half = np.sqrt(_TWO * np.log(opacity / _MIN_ALPHA) * variance) + _SLACK
    if not half < _WIDE:  # or NaN: a needle whose variance is lost in rounding, so the test on alpha decides
        return low, high
    first, end = np.ceil(centre - half - _HALF), np.floor(centre + half - _HALF) + _ONE
    return within(first, low, high), within(end, low, high)


@njit(**OPTIONS)
def _exp_minus(x):
    """exp(-x) for x >= 0, to 6e-7 relative; any number below 0. 2^whole times a polynomial: vector instructions."""
    y = np.float32(-1.44269504) * (x if x < _FAR else _FAR)
    whole = np.int32(y - _HALF)
    y -= np.float32(whole)
    power = np.float32(1.5403530e-4)
    power = power * y + np.float32(1.3333558e-3)
    power = power * y + np.float32(9.6181291e-3)
    power = power * y + np.float32(5.5504109e-2)
    power = power * y + np.float32(2.4022651e-1)
    power = power * y + np.float32(6.9314718e-1)
    power = power * y + _ONE
    return power * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**OPTIONS)
def _forward_tile(u, v, uu, uv, vv, depth, opacities, features, entries, begin, end, top, left, lanes,
                  accumulated, transmittance, last):
    """Blend the entries begin ... end into the tile at (top, left) of one image.

    The innermost loops run over the pixels of a block, without branches, so that they become vector instructions.
    """
    channels, size = features.shape[1] + 1, transmittance.shape[0]
    bottom, right = min(size, top + TILE), min(size, left + TILE)
    width = len(lanes)
    drawn = np.zeros((TILE, BLOCKS, channels, width), np.float32)
    state = np.full((TILE, BLOCKS, width), -1, np.float32)  # transmittance, negative once the pixel has ended
    latest = np.full((TILE, BLOCKS, width), -1, np.int32)
    for row in range(bottom - top):
        for column in range(right - left):
            state[row, column // width, column % width] = 1
    weight = np.empty(width, np.float32)
    feature = np.empty(channels, np.float32)
    for entry in range(begin, end):
        if (entry - begin) % TILE == 0 and state.max() < 0:
            break
        g = entries[entry]
        cu, cv, a, b, c = u[g], v[g], uu[g], uv[g], vv[g]
        opacity = opacities[g]
        for channel in range(channels - 1):
            feature[channel] = features[g, channel]
        feature[channels - 1] = depth[g]
        determinant = a * c - b * b
        first_row, end_row = _span(cv, a / determinant, opacity, top, bottom)
        first_column, end_column = _span(cu, c / determinant, opacity, left, right)
        index = np.int32(entry)
        for row in range(first_row - top, end_row - top):
            dv = np.float32(top + row) + _HALF - cv
            for block in range((first_column - left) // width, (end_column - left + width - 1) // width):
                du_left = np.float32(left + block * width) + _HALF - cu
                covered = _ZERO
                for i in range(width):
                    du = lanes[i] + du_left
                    exponent = _HALF * (a * du * du + c * dv * dv) + b * du * dv
                    alpha = opacity * _exp_minus(exponent)
                    alpha = alpha if alpha < _MAX_ALPHA else _MAX_ALPHA
                    before = state[row, block, i]
                    after = before * (_ONE - alpha)
                    visible = (alpha >= _MIN_ALPHA) & (exponent >= _ZERO) & (before > _ZERO)
                    draw = visible & (after > _MIN_TRANSMITTANCE)
                    w = alpha * before if draw else _ZERO
                    weight[i] = w
                    covered += w
                    state[row, block, i] = after if draw else (-before if visible else before)
                    latest[row, block, i] = index if draw else latest[row, block, i]
                if covered > _ZERO:
                    for channel in range(channels):
                        value = feature[channel]
                        for i in range(width):
                            drawn[row, block, channel, i] += weight[i] * value
    for row in range(bottom - top):
        for column in range(right - left):
            block, i = column // width, column % width
            transmittance[top + row, left + column] = abs(state[row, block, i])
            last[top + row, left + column] = latest[row, block, i]
            for channel in range(channels):
                accumulated[top + row, left + column, channel] = drawn[row, block, channel, i]


@njit(parallel=THREADS, **OPTIONS)
def _forward(u, v, uu, uv, vv, depth, opacities, features, starts, entries, side, lanes,
             accumulated, transmittance, last):
    """Fills accumulated (I, S, S, C + 1), transmittance (I, S, S) and the last entry drawn in each pixel, (I, S, S)."""
    views, tiles = len(u) // len(opacities), side * side
    for job in prange(len(starts) - 1):
        i, tile = job // tiles, job % tiles
        _forward_tile(u[i], v[i], uu[i], uv[i], vv[i], depth[i], opacities[i // views], features[i // views],
                      entries, starts[job], starts[job + 1], tile // side * TILE, tile % side * TILE, lanes,
                      accumulated[i], transmittance[i], last[i])


@njit(**OPTIONS)
def _backward_tile(u, v, uu, uv, vv, depth, opacities, features, entries, begin, top, left, lanes,
                   transmittance, last, grad_accumulated, grad_transmittance, grads):
    """Gradients of one tile's entries.

    Back to front: the transmittance before each Gaussian is recovered by division, and `behind` holds, per pixel, the
    gradient's product with everything behind it. The sums over pixels run per lane and are reduced once per Gaussian.
    """
    channels, size = features.shape[1] + 1, transmittance.shape[0]
    bottom, right = min(size, top + TILE), min(size, left + TILE)
    width = len(lanes)
    passed = np.ones((TILE, BLOCKS, width), np.float32)
    behind = np.zeros((TILE, BLOCKS, width), np.float32)
    latest = np.full((TILE, BLOCKS, width), -1, np.int32)
    grad = np.zeros((TILE, BLOCKS, channels, width), np.float32)
    last_of_tile = np.int32(-1)
    for row in range(bottom - top):
        for column in range(right - left):
            block, i = column // width, column % width
            passed[row, block, i] = transmittance[top + row, left + column]
            behind[row, block, i] = passed[row, block, i] * grad_transmittance[top + row, left + column]
            latest[row, block, i] = last[top + row, left + column]
            last_of_tile = max(last_of_tile, latest[row, block, i])
            for channel in range(channels):
                grad[row, block, channel, i] = grad_accumulated[top + row, left + column, channel]
    weight, shade = np.empty(width, np.float32), np.empty(width, np.float32)
    alpha, moments = np.empty(width, np.float32), np.empty((3, BLOCKS, width), np.float32)
    feature, grad_feature = np.empty(channels, np.float32), np.empty((channels, width), np.float32)
    for entry in range(last_of_tile, begin - 1, -1):
        g = entries[entry]
        cu, cv, a, b, c = u[g], v[g], uu[g], uv[g], vv[g]
        opacity = opacities[g]
        for channel in range(channels - 1):
            feature[channel] = features[g, channel]
        feature[channels - 1] = depth[g]
        grad_feature[:] = 0
        moments[:] = 0
        determinant = a * c - b * b
        first_row, end_row = _span(cv, a / determinant, opacity, top, bottom)
        first_column, end_column = _span(cu, c / determinant, opacity, left, right)
        index = np.int32(entry)
        for row in range(first_row - top, end_row - top):
            dv = np.float32(top + row) + _HALF - cv
            for block in range((first_column - left) // width, (end_column - left + width - 1) // width):
                du_left = np.float32(left + block * width) + _HALF - cu
                for i in range(width):
                    du = lanes[i] + du_left
                    exponent = _HALF * (a * du * du + c * dv * dv) + b * du * dv
                    alpha[i] = opacity * _exp_minus(exponent) if exponent >= _ZERO else _ZERO
                covered = _ZERO
                for i in range(width):
                    clamped = alpha[i] if alpha[i] < _MAX_ALPHA else _MAX_ALPHA
                    draw = (clamped >= _MIN_ALPHA) & (index <= latest[row, block, i])
                    before = passed[row, block, i] / (_ONE - clamped)
                    w = clamped * before if draw else _ZERO
                    weight[i] = w
                    covered += w
                    passed[row, block, i] = before if draw else passed[row, block, i]
                if not covered > _ZERO:
                    continue
                shade[:] = 0
                for channel in range(channels):
                    value = feature[channel]
                    for i in range(width):
                        shade[i] += grad[row, block, channel, i] * value
                for channel in range(channels):
                    for i in range(width):
                        grad_feature[channel, i] += grad[row, block, channel, i] * weight[i]
                for i in range(width):  # alpha times the gradient of the loss by alpha
                    own = weight[i] * shade[i]
                    slope = own - behind[row, block, i] * (alpha[i] / (_ONE - alpha[i]))
                    alpha[i] = slope if (weight[i] > _ZERO) & (alpha[i] <= _MAX_ALPHA) else _ZERO
                    behind[row, block, i] += own
                for i in range(width):
                    moments[0, block, i] += alpha[i]
                    moments[1, block, i] += alpha[i] * dv
                    moments[2, block, i] += alpha[i] * dv * dv
        m = m_u = m_v = m_uu = m_uv = m_vv = _ZERO  # sums of alpha dL/dalpha times 1, du, dv, du^2, du dv, dv^2
        for block in range(BLOCKS):
            for i in range(width):
                du = np.float32(left + block * width) + lanes[i] + _HALF - cu
                m += moments[0, block, i]
                m_u += moments[0, block, i] * du
                m_v += moments[1, block, i]
                m_uu += moments[0, block, i] * du * du
                m_uv += moments[1, block, i] * du
                m_vv += moments[2, block, i]
        grads[entry, 0], grads[entry, 1] = a * m_u + b * m_v, c * m_v + b * m_u
        grads[entry, 2], grads[entry, 3], grads[entry, 4] = -_HALF * m_uu, -m_uv, -_HALF * m_vv
        grads[entry, 6] = m / opacity
        for channel in range(channels):
            total = _ZERO
            for i in range(width):
                total += grad_feature[channel, i]
            grads[entry, 5 if channel == channels - 1 else 7 + channel] = total


@njit(parallel=THREADS, **OPTIONS)
def _backward(u, v, uu, uv, vv, depth, opacities, features, starts, entries, side, lanes,
              transmittance, last, grad_accumulated, grad_transmittance, grads):
    """Fills the gradients per entry, (E, 7 + C): u, v, uu, uv, vv, depth, opacity, features."""
    views, tiles = len(u) // len(opacities), side * side
    for job in prange(len(starts) - 1):
        i, tile = job // tiles, job % tiles
        _backward_tile(u[i], v[i], uu[i], uv[i], vv[i], depth[i], opacities[i // views], features[i // views],
                       entries, starts[job], tile // side * TILE, tile % side * TILE, lanes,
                       transmittance[i], last[i], grad_accumulated[i], grad_transmittance[i], grads)


@njit(parallel=THREADS, **OPTIONS)
def _gather(grads, starts, entries, tiles, total):
    """Sum the entries of each Gaussian of each image: (E, K) into (K, I, N)."""
    for image in prange(total.shape[1]):
        for entry in range(starts[image * tiles], starts[(image + 1) * tiles]):
            for kind in range(len(total)):
                total[kind, image, entries[entry]] += grads[entry, kind]
