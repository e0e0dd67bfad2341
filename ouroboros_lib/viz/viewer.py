"""`viewer.html`: splat, turntable and sheets in one page that needs no network, no server and no other file."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import tempfile
from pathlib import Path

from PIL import Image

from ..cameras import FOV, RADIUS
from ..gaussians import Gaussians

TEMPLATE = Path(__file__).with_name("viewer.html")
INVISIBLE = 1 / 255  # the rasterizer skips contributions below this; such Gaussians never show


def write_viewer(path: str | Path, gaussians: Gaussians, elevation: float = 10.0, video: str | Path | None = None,
                 pictures: dict[str, str | Path] | None = None, title: str = "Ouroboros3D") -> None:
    """Write the page.

    gaussians: one set (N). elevation: degrees, where the viewer starts. video: an .mp4 to show. pictures: heading ->
    image file, shown below. Everything is stored inline.
    """
    with tempfile.TemporaryDirectory() as folder:
        splat = Path(folder) / "gaussians.splat"
        gaussians[gaussians.opacities > INVISIBLE].save_splat(splat)
        record = {"splat": _encode(splat.read_bytes()), "elevation": elevation, "radius": RADIUS, "fov": FOV}
    media = []
    if video is not None:
        data = _encode(Path(video).read_bytes())
        media.append(f'<section><h2>Turntable</h2><video src="data:video/mp4;base64,{data}" '
                     "autoplay loop muted playsinline controls></video></section>")
    for heading, picture in (pictures or {}).items():
        webp = io.BytesIO()  # a fifth of the PNG's size
        Image.open(picture).convert("RGB").save(webp, "WEBP", quality=88)
        media.append(f'<section class="wide"><h2>{html.escape(heading)}</h2><img alt="{html.escape(heading)}" '
                     f'src="data:image/webp;base64,{_encode(webp.getvalue())}"></section>')
    values = {"TITLE": html.escape(title), "MEDIA": "\n".join(media), "SCENE": json.dumps(record)}
    page = re.sub(r"%%([A-Z]+)%%", lambda match: values[match[1]], TEMPLATE.read_text(encoding="utf-8"))
    Path(path).write_text(page, encoding="utf-8")


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
