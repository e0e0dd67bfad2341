"""The page that shows a splat, and the same viewer, smaller, for a notebook's cell."""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..cameras import FOV, RADIUS
from ..errors import InputError

if TYPE_CHECKING:
    from . import Gaussians

TEMPLATE = Path(__file__).with_name("viewer.html")
SPLAT_VIEW = Path(__file__).with_name("splat_view.js")  # what every page with a splat draws it with


def splat_page(scene: dict, title: str, media: str = "") -> str:
    """viewer.html with a scene: what its script reads, of which `splat` is a `.splat` in base64, y up."""
    scene = {"radius": RADIUS, "fov": FOV} | scene
    return filled(TEMPLATE, TITLE=html.escape(title), MEDIA=media, SCENE=json.dumps(scene))


def filled(template: Path, **values: str) -> str:
    """A page's template with a value in place of each %%NAME%%; SPLAT_VIEW need not be given."""
    values["SPLAT_VIEW"] = SPLAT_VIEW.read_text(encoding="utf-8")
    return re.sub(r"%%([A-Z_]+)%%", lambda match: values[match[1]], template.read_text(encoding="utf-8"))


def viewer_iframe(gaussians: Gaussians, elevation: float = 10.0, side: int = 384, min_opacity: float = 0.02,
                  turning: bool = False) -> str:
    """The viewer inline in an iframe, side x side pixels, for a notebook: turns under the mouse, without a kernel.

    gaussians: one set (N). elevation: degrees, where it starts, in front. turning: by itself, until it is touched.
    To keep the notebook small, Gaussians below `min_opacity` are left out, positions keep 10 bits of mantissa (0.2
    pixels at 512) and scales 5, and the bytes are sorted by their place in the records and deflated: 20 bytes a
    Gaussian instead of 43.
    """
    kept = gaussians[gaussians.opacities > min_opacity]
    kept.means, kept.scales = _round_mantissa(kept.means, 10), _round_mantissa(kept.scales, 5)
    planes = np.frombuffer(kept.to_bytes(".splat", axes="y-up"), np.uint8).reshape(-1, 32).T.tobytes()
    scene = {"splat": encode(zlib.compress(planes, 9)), "deflate": True, "elevation": elevation, "bare": True,
             "side": side, "turning": turning}
    return (f'<iframe class="splat-viewer" srcdoc="{html.escape(splat_page(scene, "splat"))}" width="{side + 4}" '
            f'height="{side + 56}" style="border: 0"></iframe>')


def gaussians_cell(gaussians: Gaussians, elevation: float = 10.0, side: int = 256) -> str:
    """What a notebook shows of Gaussians (..., N): the first set, turning, under its description."""
    first = gaussians.detach()
    while first.means.ndim > 2:
        first = first[0]
    which = "" if first.shape == gaussians.shape else ", the first set"
    try:
        frame = viewer_iframe(first, elevation, side, turning=True)
    except InputError as error:
        frame = html.escape(str(error))
    return f"<div><code>{html.escape(repr(gaussians))}</code>{which}<br>{frame}</div>"


def _round_mantissa(values: torch.Tensor, bits: int) -> torch.Tensor:
    """float32 with all but the leading `bits` of the mantissa zero, which deflate to little."""
    unit = 1 << (23 - bits)
    words = values.detach().to("cpu", torch.float32).numpy().view(np.uint32)
    return torch.from_numpy(((words + unit // 2) & ~np.uint32(unit - 1)).view(np.float32))


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
