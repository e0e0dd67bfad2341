"""Whatever users have at hand, as the condition views that the pipeline takes; and its views as they want them back."""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .photo import check_size, cut_out_pixels, picture_name, read_rgba

WHITE = 0.98  # a background this bright in all channels is white
DEEPEST = 4  # lists in lists
ROUNDING = 1e-3  # by so much values may lie outside [0, 1]
OUTPUT_TYPES = ("pt", "np", "pil")
_FULL_RANGE = {torch.uint8: 255, torch.uint16: 65535, torch.bool: 1}

_log = logging.getLogger(__name__)


def condition_views(images, size: int) -> Tensor:
    """One picture or several, of any kind and size, as (B, 3, size, size) in [0, 1] on white.

    images: a tensor (B, 3, size, size) or (3, size, size) is ready, and taken as it is. Else one picture or a list of
    them: a path, a PIL picture, an array (H, W) or (H, W, C), a tensor (C, H, W), or a batch of these; C is 3, 4 with
    alpha, or 1. Floats lie in [0, 1], integers of 8 and 16 bits span their range. Of these, too, a picture is ready
    that has the size, no alpha and a white border. Any other is cut out and framed (`photo.cut_out`), and one line of
    the log says which were, and how. Raises InputError.
    """
    if torch.is_tensor(images) and images.ndim == 4 and images.shape[1:] == (3, size, size) and len(images):
        return _in_unit_range(images, "images")
    pictures = _one_by_one(images)
    if not pictures:
        raise InputError("no image to start from: give at least one")
    views, framed = [], []
    for index, picture in enumerate(pictures):
        name = f"picture {index}" if len(pictures) > 1 else "the picture"
        view, note = _condition_view(picture, name, size)
        views.append(view)
        framed += [note] if note else []
    if framed:
        _log.warning("cut out and framed to %d x %d on white: %s", size, size, "; ".join(framed))
    return torch.stack(views)


def _one_by_one(images, depth: int = 0) -> list:
    if isinstance(images, (list, tuple)):
        if depth == DEEPEST:
            raise InputError(f"lists of pictures within more than {DEEPEST} others, or within themselves")
        return [picture for item in images for picture in _one_by_one(item, depth + 1)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def _condition_view(picture, name: str, size: int) -> tuple[Tensor, str | None]:
    """(3, size, size) on the CPU, and how it was cut out if it was."""
    if isinstance(picture, (Tensor, np.ndarray)):
        planes = _planes(picture, name)
        if planes.shape == (3, size, size) and (torch.is_tensor(picture) or _on_white(planes)):
            return planes, None
        channels = planes if len(planes) > 1 else planes.expand(3, -1, -1)
        picture = Image.fromarray((channels * 255).round().byte().movedim(0, -1).contiguous().numpy())
    elif isinstance(picture, (str, Path, Image.Image)):
        name = picture_name(picture, name)
    else:
        raise InputError(f"{name}: expected a path, a PIL picture, an array (H, W, C) or a tensor (C, H, W), or a list "
                         f"of these, got {type(picture).__name__}")
    rgba, original_size, notes = read_rgba(picture, name)
    planes = torch.from_numpy(rgba).movedim(-1, 0)
    if planes.shape == (4, size, size) and bool((planes[3] == 1).all()) and _on_white(planes[:3]):
        return planes[:3], None
    photo = cut_out_pixels(name, rgba, original_size, notes).frame(size)
    return photo.image, "; ".join([f"{name} ({photo.matte})", *photo.notes])


def _planes(values: Tensor | np.ndarray, name: str) -> Tensor:
    """An array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W), as (C, H, W) float32. Raises InputError."""
    if isinstance(values, np.ndarray):
        kind, layout = "an array", "(H, W, 3), with alpha (H, W, 4), or grey (H, W)"
        shape = values.shape[-1:] + values.shape[:-1] if values.ndim == 3 else (1, *values.shape)
    else:
        kind, layout = "a tensor", "(3, H, W), with alpha (4, H, W), or grey (1, H, W)"
        shape = tuple(values.shape) if values.ndim == 3 else (1, *values.shape)
    if len(shape) != 3 or shape[0] not in (1, 3, 4):
        raise InputError(f"{name}: {kind} of shape {tuple(values.shape)}; expected {layout}")
    check_size(name, shape[2], shape[1])
    if isinstance(values, np.ndarray):
        try:
            values = torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))
        except TypeError:
            raise InputError(f"{name}: an array of type {values.dtype}; expected floats in 0 to 1 or bytes") from None
        values = values.movedim(-1, 0) if values.ndim == 3 else values
    return _in_unit_range(values, name).cpu().reshape(shape)


def _in_unit_range(values: Tensor, name: str) -> Tensor:
    """In [0, 1] as float32, without a copy where that is what was given. Raises InputError."""
    if values.is_meta or values.layout != torch.strided:
        raise InputError(f"{name}: a {'meta' if values.is_meta else 'sparse'} tensor, expected a dense one with values")
    if values.dtype in _FULL_RANGE:
        return values.float() / _FULL_RANGE[values.dtype]
    if not values.is_floating_point():
        raise InputError(f"{name}: values of type {str(values.dtype).removeprefix('torch.')}; expected floats in 0 to "
                         "1 or bytes (uint8)")
    values = values.float()
    low, high = (float(value) for value in values.detach().aminmax())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{name}: holds values that are not finite numbers")
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(f"{name}: values from {low:.4g} to {high:.4g}, expected 0 to 1; divide bytes by 255, map -1 "
                         "to 1 by (x + 1) / 2, clamp what a resize overshot")
    return values


def _on_white(rgb: Tensor) -> bool:
    """Whether (3, H, W) has a white border, and something in it."""
    white = (rgb >= WHITE).all(0)
    return bool(white[[0, -1]].all() and white[:, [0, -1]].all() and not white.all())


def as_output_type(images: Tensor, output_type: str):
    """Images (B, V, 3, H, W) in [0, 1] as they are ("pt"), as an array (B, V, H, W, 3) ("np"), or as PIL pictures in B
    lists of V ("pil")."""
    if output_type == "pt":
        return images
    arrays = images.float().movedim(-3, -1).cpu().numpy()
    if output_type == "np":
        return arrays
    return [[Image.fromarray(view) for view in views] for views in (arrays * 255).round().astype(np.uint8)]
