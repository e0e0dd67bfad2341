"""`viewer.html`: splat, turntable and sheets in one page that needs no network, no server and no other file; and the
same viewer, smaller, for a notebook's cell."""

import base64
import html
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..cameras import FOV, RADIUS
from ..gaussians import Gaussians
from .encoding import as_webp

TEMPLATE = Path(__file__).with_name("viewer.html")


def write_viewer(path: str | Path, gaussians: Gaussians, elevation: float = 10.0, video: str | Path | None = None,
                 pictures: dict[str, str | Path] | None = None, title: str = "Ouroboros3D") -> None:
    """Write the page.

    gaussians: one set (N). elevation: degrees, where the viewer starts. video: an .mp4 to show. pictures: heading ->
    image file, shown below. Everything is stored inline.
    """
    media = []
    if video is not None:
        data = _encode(Path(video).read_bytes())
        media.append(f'<section><h2>Turntable</h2><video src="data:video/mp4;base64,{data}" '
                     "autoplay loop muted playsinline controls></video></section>")
    for heading, picture in (pictures or {}).items():
        data = _encode(as_webp(Image.open(picture), quality=88))  # a fifth of the PNG's size
        media.append(f'<section class="wide"><h2>{html.escape(heading)}</h2><img alt="{html.escape(heading)}" '
                     f'src="data:image/webp;base64,{data}"></section>')
    scene = {"splat": _encode(gaussians.to_bytes(".splat", axes="y-up")), "elevation": elevation}
    Path(path).write_text(_page(scene, title, "\n".join(media)), encoding="utf-8")


def framed(gaussians: Gaussians) -> Gaussians:
    """Gaussians (N,) as large and central as this library's objects, if they are not: what others have made, to see it.

    They are where they are when 19 of 20 lie in a ball of 0.1 to 1 around the origin; else half of that ball's radius
    and its centre, by medians, become those of our objects.
    """
    def reach(points: torch.Tensor) -> float:
        return float(np.quantile(points.norm(dim=-1).cpu().numpy(), 0.95))

    if 0.1 <= reach(gaussians.means) <= 1:
        return gaussians
    means = gaussians.means - gaussians.means.median(0).values
    scale = 0.55 / max(reach(means), 1e-9)
    return replace(gaussians, means=scale * means, scales=scale * gaussians.scales)


def viewer_iframe(gaussians: Gaussians, elevation: float = 10.0, side: int = 384, min_opacity: float = 0.02) -> str:
    """The viewer inline in an iframe, side x side pixels, for a notebook: turns under the mouse, without a kernel.

    gaussians: one set (N). elevation: degrees, where it starts, in front. To keep the notebook small, Gaussians below
    `min_opacity` are left out, positions keep 10 bits of mantissa (0.2 pixels at 512) and scales 5, and the bytes are
    sorted by their place in the records and deflated: 20 bytes a Gaussian instead of 43.
    """
    kept = gaussians[gaussians.opacities > min_opacity]
    kept.means, kept.scales = _round_mantissa(kept.means, 10), _round_mantissa(kept.scales, 5)
    planes = np.frombuffer(kept.to_bytes(".splat", axes="y-up"), np.uint8).reshape(-1, 32).T.tobytes()
    scene = {"splat": _encode(zlib.compress(planes, 9)), "deflate": True, "elevation": elevation, "bare": True,
             "side": side}
    return (f'<iframe class="splat-viewer" srcdoc="{html.escape(_page(scene, "splat"))}" width="{side + 4}" '
            f'height="{side + 56}" style="border: 0"></iframe>')


def _page(scene: dict, title: str, media: str = "") -> str:
    scene = {"radius": RADIUS, "fov": FOV} | scene
    values = {"TITLE": html.escape(title), "MEDIA": media, "SCENE": json.dumps(scene)}
    return re.sub(r"%%([A-Z]+)%%", lambda match: values[match[1]], TEMPLATE.read_text(encoding="utf-8"))


def _round_mantissa(values: torch.Tensor, bits: int) -> torch.Tensor:
    """float32 with all but the leading `bits` of the mantissa zero, which deflate to little."""
    unit = 1 << (23 - bits)
    words = values.detach().to("cpu", torch.float32).numpy().view(np.uint32)
    return torch.from_numpy(((words + unit // 2) & ~np.uint32(unit - 1)).view(np.float32))


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
