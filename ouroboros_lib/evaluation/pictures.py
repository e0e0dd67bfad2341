"""Pictures of other methods: read, brought to another size, enlarged about their centre."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.folders import on_white
from ..data.pictures import eight_bit, open_picture
from ..errors import InputError
from ..files import one_line, read_bytes


def read_picture(path: Path) -> Tensor:
    """A square picture, composited on white if it has alpha, (3, S, S). Raises InputError."""
    pixels = read_pixels(path)
    if pixels.shape[1] != pixels.shape[2]:
        raise InputError(f"{path}: {pixels.shape[2]} x {pixels.shape[1]} pixels, expected a square picture")
    return pixels


def read_pixels(path: Path) -> Tensor:
    """The same for a picture of any sides, (3, H, W)."""
    data = read_bytes(path)
    try:
        with open_picture(data) as image:
            pixels = eight_bit(image, alpha=True)
    except Exception as error:  # decoders raise many kinds
        raise InputError(f"{path}: cannot be read as a picture ({one_line(error)})") from None
    pixels = on_white(pixels) if pixels.shape[-1] == 4 else pixels.copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)[:3].float() / 255


def resized(images: Tensor, size: int) -> Tensor:
    """(..., 3, H, H) to (..., 3, size, size): means over pixels when it becomes smaller, bilinear when larger."""
    if images.shape[-1] == size:
        return images
    flat = images.flatten(0, -4) if images.ndim > 3 else images[None]
    flat = F.interpolate(flat, size=(size, size), mode="bilinear", antialias=images.shape[-1] > size)
    return flat.view(*images.shape[:-2], size, size).clamp(0, 1)


def zoomed(images: Tensor, factor: float) -> Tensor:
    """(..., 3, S, S) on white, enlarged by `factor` about the centre; what comes in from outside is white."""
    if abs(factor - 1) < 1e-6:
        return images
    flat = images.flatten(0, -4) if images.ndim > 3 else images[None]
    theta = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], dtype=flat.dtype).expand(len(flat), 2, 3)
    grid = F.affine_grid(theta.to(flat.device), list(flat.shape), align_corners=False)
    if factor < 1:  # every pixel stands for several: smooth them first
        small = max(1, round(images.shape[-1] * factor))
        flat = F.interpolate(F.interpolate(flat, size=(small, small), mode="bilinear", antialias=True),
                             size=flat.shape[-2:], mode="bilinear")
    return (1 - F.grid_sample(1 - flat, grid, align_corners=False)).view(images.shape)
