"""`viewer.html`: splat, turntable and sheets in one page that needs no network, no server and no other file."""

import html
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..cameras import OBJECT_RADIUS
from ..files import replace_file
from ..gaussians import Gaussians
from ..gaussians.page import encode, splat_page
from .encoding import as_webp


def write_viewer(path: str | Path, gaussians: Gaussians, elevation: float = 10.0, video: str | Path | None = None,
                 pictures: dict[str, str | Path] | None = None, title: str = "Ouroboros3D") -> None:
    """Write the page.

    gaussians: one set (N). elevation: degrees, where the viewer starts. video: an .mp4 to show. pictures: heading ->
    image file, shown below. Everything is stored inline.
    """
    media = []
    if video is not None:
        data = encode(Path(video).read_bytes())
        media.append(f'<section><h2>Turntable</h2><video src="data:video/mp4;base64,{data}" '
                     "autoplay loop muted playsinline controls></video></section>")
    for heading, picture in (pictures or {}).items():
        data = encode(as_webp(Image.open(picture), quality=88, effort=2))  # a fifth of the PNG's size
        media.append(f'<section class="wide"><h2>{html.escape(heading)}</h2><img alt="{html.escape(heading)}" '
                     f'src="data:image/webp;base64,{data}"></section>')
    scene = {"splat": encode(gaussians.to_bytes(".splat", axes="y-up")), "elevation": elevation}
    replace_file(Path(path), splat_page(scene, title, "\n".join(media)).encode())


def framed(gaussians: Gaussians) -> Gaussians:
    """Gaussians (N,) of any size and place as the viewer's camera can see them.

    They stay where they are when the ball around the origin that holds 19 of 20 has a radius of 0.1 to 1; else their
    median moves to the origin, and that radius becomes 0.55, our objects' own.
    """
    def radius(points: torch.Tensor) -> float:
        return float(np.quantile(points.double().norm(dim=-1).cpu().numpy(), 0.95))

    if 0.1 <= radius(gaussians.means) <= 1:
        return gaussians
    means = gaussians.means - gaussians.means.median(0).values
    scale = OBJECT_RADIUS / max(radius(means), 1e-9)
    return replace(gaussians, means=scale * means, scales=scale * gaussians.scales)
