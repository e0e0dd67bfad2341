"""The picture that a notebook shows of a pipeline's output."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..gaussians.page import encode, gaussians_cell
from .encoding import as_webp
from .sheets import multiview_sheet, to_pil

if TYPE_CHECKING:
    from ..pipeline import Ouroboros3DOutput

MOST = 4  # objects of a batch
SIDE = 256  # pixels, of the input and of the viewer


def result_cell(output: Ouroboros3DOutput) -> str:
    """HTML: each object's input, turning splat, and views above the renders of their reconstruction."""
    count = len(output.input)
    rows = [_object_cell(output, index) for index in range(min(count, MOST))]
    more = f"<p>and {count - MOST} more</p>" if count > MOST else ""
    return f"<div><code>{html.escape(repr(output))}</code>{''.join(rows)}{more}</div>"


def _object_cell(output: Ouroboros3DOutput, index: int) -> str:
    elevation = float(output.cameras.elevations[index, 0])
    sheet = multiview_sheet(_as_tensor(output.views[index]), output.renders.rgb[index].float().cpu().clamp(0, 1))
    shown = to_pil(output.input[index])
    return ('<div style="display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start">'
            f"<div><code>input</code><br>{_image(shown, SIDE)}</div>"
            f"{gaussians_cell(output.gaussians[index], elevation, SIDE)}</div>{_image(sheet, sheet.width)}")


def _image(picture: Image.Image, width: int) -> str:
    data = encode(as_webp(picture, quality=88))
    return f'<img style="max-width: 100%" width="{width}" src="data:image/webp;base64,{data}">'


def _as_tensor(views: Tensor | np.ndarray | list[Image.Image]) -> Tensor:
    """The views of one object in any output type, as (V, 3, H, W) on the CPU."""
    if torch.is_tensor(views):
        return views.float().cpu()
    pixels = np.stack([np.asarray(view) for view in views])
    return torch.from_numpy(pixels / 255 if pixels.dtype == np.uint8 else pixels).float().movedim(-1, -3)
