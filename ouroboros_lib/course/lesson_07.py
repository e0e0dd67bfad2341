"""Exercises of 07: sizes of layers, tensors and memory at the paper's scale, published names, and the released map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..cameras import evenly_spaced_orbit
from ..models.feedback import released_coordinate_map
from .checking import Exercise, curve

LAYERS = 64  # of the network whose memory is drawn


def _count(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())


def _convolution(side: int, channels_in: int, channels_out: int, bias: bool = True) -> int:
    return _count(nn.Conv2d(channels_in, channels_out, side, bias=bias, device="meta"))


def _shapes(views: int, pixels: int, channels: int = 4, fold: int = 8, first: int = 1) -> tuple:
    side = pixels // fold
    return (views, channels, side, side), [side // (first * 2**stage) for stage in range(4)]


def _names() -> list[tuple]:
    file = {"conv_in.weight": 1.0, "conv_in.bias": 2.0, "mid_block.attn.weight": 3.0}
    model = {f"unet.{name}": 0.0 for name in file} | {"camera_plucker.weight": 0.5, "cond_encoder.weight": 0.6}
    return [(file, model)]


def _renamed(file: Mapping[str, float]) -> dict[str, float]:
    return {f"unet.{name}": value for name, value in file.items()}


def _training(trained: float, frozen: float, weight: int = 4, gradients: int = 4, moments: int = 8,
              frozen_gradients: int = 0, frozen_weight: int = 2) -> dict[str, float]:
    return {"weights": weight * trained + frozen_weight * frozen,
            "gradients": gradients * trained + frozen_gradients * frozen, "moments": moments * trained}


def _segments(memory: Callable[[int], float], longest: int = LAYERS) -> Figure:
    figure, lengths = Figure(), range(1, longest + 1)
    figure.subplots().plot(lengths, [memory(length) for length in lengths])
    return figure


def _kept(answer: Figure, length: int) -> float:
    """The memory that is drawn for the segments nearest to this length."""
    return min(curve(answer).tolist(), key=lambda point: abs(point[0] - length))[1]


def _focal() -> float:
    return float(evenly_spaced_orbit(1, 0.0).intrinsics[0, 0, 0])


def _pixels() -> list[tuple]:
    return [(column, size, 1.7, _focal()) for column, size in ((3, 32), (100, 128), (450, 512))]


def _coordinates(column: int, size: int, depth: float, focal: float) -> tuple[Tensor, Tensor]:
    """The x that the right and the released map have at a pixel of view 0."""
    camera, depths = evenly_spaced_orbit(1, 0.0), torch.full((1, 1, size, size), depth)
    return tuple(ccm[0, 0, 0, column] for ccm in (camera.canonical_map(depths),
                                                  released_coordinate_map(depths, camera)))


def _by_hand(column: int, size: int, depth: float, focal: float, half: float = 0.5, side: float = 1.1,
             middle: float = 0.5, per_pixel: bool = True, clamped: bool = True) -> tuple[float, float]:
    right = depth * ((column + half) / size - 0.5) / focal / side + middle
    released = 0.001 * depth * (column / (1 if per_pixel else size) - 0.5) / focal + 0.5
    return right, min(max(released, 0.0), 1.0) if clamped else released


EXERCISES = {
    "1": Exercise(
        examples=lambda: [(3, 320, 640), (1, 640, 1280), (3, 192, 320)], solution=_convolution,
        mistakes=[
            (lambda *sizes: _convolution(*sizes, bias=False),
             "the bias is missing: one number for each channel that comes out."),
            (lambda side, channels_in, channels_out: side * channels_in * channels_out + channels_out,
             "the kernel has side x side places."),
            (lambda side, channels_in, channels_out: (side**2 + 1) * channels_in * channels_out,
             "one bias for each pair of channels is too much: one for each channel that comes out."),
            (lambda side, channels_in, channels_out: side**2 * channels_in + channels_out,
             "each channel that comes out has a kernel of its own over all that come in."),
        ],
        says="The size of the picture is not in it: a convolution costs memory for its weights once, and time at every "
             "pixel."),
    "2": Exercise(
        examples=lambda: [(8, 512), (4, 256)], solution=_shapes,
        mistakes=[
            (lambda views, pixels: _shapes(views, pixels, channels=3),
             "latents have four channels: pictures have three."),
            (lambda views, pixels: _shapes(views, pixels, channels=8),
             "eight channels are those of the preset `small`; SVD's autoencoder has four."),
            (lambda views, pixels: _shapes(views, pixels, first=2),
             "the first stage works at the latents' own size; three times it is halved."),
            (lambda views, pixels: _shapes(views, pixels, fold=16),
             "the autoencoder folds 8 x 8 pixels into one place, so 512 become 64."),
        ],
        says="From 8 x 3 x 512 x 512 to 8 x 4 x 64 x 64: 48 times fewer numbers, on which F works 25 times."),
    "3": Exercise(
        examples=_names, solution=lambda file, model: model | _renamed(file),
        mistakes=[
            (lambda file, model: model | file,
             "the file's names lack the prefix: the model would look for unet.conv_in.weight and keep its random "
             "numbers."),
            (lambda file, model: _renamed(file),
             "what the file lacks is missing: cameras and feedback keep the model's own values."),
            (lambda file, model: _renamed(file) | model,
             "the fresh values win: in a | b, those of b stay."),
            (lambda file, model: {name.removeprefix("unet."): value
                                  for name, value in (model | _renamed(file)).items()},
             "the names have to be the model's. SVD's U-Net lies in it as `unet`: add the prefix to the file's names."),
        ],
        says="At full size 1,428 names get the prefix and 144 stay fresh. A name that fits nowhere has to be an error: "
             "skipped quietly, it leaves random numbers in the model."),
    "4": Exercise(
        examples=lambda: [(2189.0, 729.9), (100.0, 0.0)], solution=_training,
        mistakes=[
            (lambda *sizes: _training(*sizes, weight=2, gradients=2, moments=4),
             "not everything is in 16 bits: an update of a thousandth would be rounded away. What is trained stays in "
             "float32."),
            (lambda *sizes: _training(*sizes, moments=4),
             "AdamW has two moments: the mean of the gradients, and that of their squares."),
            (lambda *sizes: _training(*sizes, frozen_gradients=2), "frozen parameters have no gradients."),
            (lambda *sizes: _training(*sizes, frozen_weight=4),
             "what is not trained is read only, so it lies there in bfloat16: 2 bytes."),
        ],
        says="16 bytes for each trained parameter, whatever the layers compute in. What bfloat16 saves are activations "
             "and time."),
    "5": Exercise(
        solution=lambda: _segments(lambda length: LAYERS / length + length),
        mistakes=[
            (lambda: _segments(lambda length: LAYERS / length + length, 16),
             "draw all segment lengths from 1 to 64."),
            (lambda: _segments(lambda length: LAYERS / length),
             "it never rises again: while a segment is computed once more, all of its layers' inputs are in memory."),
            (lambda: _segments(lambda length: length),
             "it does not fall at first: one input is kept for each of the 64 / k segments."),
            (lambda: _segments(lambda length: 2 * max(LAYERS / length, length)),
             "the way between is not right: 64 / k kept inputs, and k of the one open segment."),
            (lambda: _segments(lambda length: LAYERS / length + 2 * length),
             "it is smallest elsewhere than at 8: count 64 / k kept inputs, and k of the one open segment."),
        ],
        properties=[
            (lambda answer: curve(answer)[0, 0] == 1 and curve(answer)[-1, 0] == LAYERS,
             "draw all segment lengths from 1 to 64."),
            (lambda answer: _kept(answer, LAYERS) > 1.5 * curve(answer)[:, 1].min(),
             "it never rises again: while a segment is computed once more, all of its layers' inputs are in memory."),
            (lambda answer: _kept(answer, 1) > 1.5 * curve(answer)[:, 1].min(),
             "it does not fall at first: one input is kept for each of the 64 / k segments."),
            (lambda answer: 7 <= curve(answer)[curve(answer)[:, 1].argmin(), 0] <= 9,
             "it is smallest elsewhere than at 8: count 64 / k kept inputs, and k of the one open segment."),
            (lambda answer: math.isclose(curve(answer)[:, 1].min(), 16, rel_tol=0.05),
             "the smallest value should be 16 inputs: 8 kept, and 8 of the open segment."),
            (lambda answer: len(set(curve(answer)[:, 0])) >= 7, "draw more segment lengths between 1 and 64."),
            (lambda answer: all(abs(kept - LAYERS / length - length) < 1.01 for length, kept in curve(answer)),
             "the way between is not right: 64 / k kept inputs, and k of the one open segment."),
        ],
        says="Smallest at the square root: 16 instead of 64 inputs, for one more forward pass. A backward pass costs "
             "about two forward ones, so a step takes 4 in place of 3."),
    "6": Exercise(
        examples=_pixels, solution=_coordinates,
        mistakes=[
            (lambda *given: _by_hand(*given, per_pixel=False),
             "the released index is not divided by the size: that is its flaw. The intrinsics are for an image of side "
             "1, and the point lands `size` times too far out."),
            (lambda *given: _by_hand(*given, clamped=False), "the released code clamps its map to [0, 1]."),
            (lambda *given: _by_hand(*given, half=0.0),
             "the right map looks through the pixel's centre: (column + 0.5) / size."),
            (lambda *given: _by_hand(*given, side=1.0, middle=0.0),
             "the right one is still in world units: map the box from -0.55 to 0.55 to [0, 1]."),
        ],
        says="The released value is about 0.5 at 32 pixels and runs into 1 at 512, for the same surface: it tells the "
             "pixel, not the place on the object."),
}
