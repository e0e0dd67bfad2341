"""A picture to paint on with the pointer, of ipywidgets alone: strokes come to the kernel through a text field."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ..errors import InputError, needs
from ..gaussians.page import encode
from .encoding import at_once

with needs("course", "what notebooks show"):
    import ipywidgets as widgets

SCRIPT = Path(__file__).with_name("paint.js")
MOST = 5000  # places of one stroke
_numbers = itertools.count()


class PaintBox(widgets.VBox):
    """`show` a square picture; what is painted on it comes to `on_stroke`, as text that `read_places` reads.

    Places may be typed into the field as well, which is how it works without a pointer: "40,52 44,50".
    """

    def __init__(self, on_stroke: Callable[[str], None], side: int = 384):
        self._target = f"ouroboros-paint-{next(_numbers)}"
        self._side = side
        self._picture = widgets.HTML()
        self.places = widgets.Text(description="places", placeholder="x,y x,y ...", continuous_update=False)
        self.places.add_class(self._target)
        self._on_stroke = on_stroke
        self.places.observe(self._came, "value")
        super().__init__([self._picture, self.places])

    def show(self, picture: Image.Image, radius: float, colour: str) -> None:
        """The picture as it is now. radius: of the brush, in its pixels; colour: as CSS writes it, #rrggbb."""
        box = f"position: absolute; left: 0; top: 0; width: {self._side}px; height: {self._side}px"
        script = html.escape(SCRIPT.read_text(), quote=True)
        self._picture.value = (
            f'<div class="ouroboros-paint" style="position: relative; width: {self._side}px; height: {self._side}px">'
            f'<img alt="the render that F is given" style="{box}; image-rendering: pixelated" draggable="false" '
            f'src="data:image/png;base64,{encode(at_once(picture))}" data-size="{picture.width}" '
            f'data-radius="{radius:g}" data-colour="{html.escape(colour)}" data-target="{self._target}" '
            f'onload="{{{script}}}">'
            f'<canvas style="{box}; cursor: crosshair; touch-action: none; outline: 1px solid #bbb"></canvas></div>')

    def _came(self, change: dict) -> None:
        if change["new"]:
            self.places.value = ""  # so that the same stroke may come twice
            self._on_stroke(change["new"])


def read_places(text: str) -> list[tuple[float, float]]:
    """From "x,y x,y ...", in pixels of the picture from its upper left corner. Raises InputError."""
    places = []
    for word in text.split():
        try:
            x, y = (float(number) for number in word.split(","))
        except ValueError:
            raise InputError(f"places: {word!r}: expected two numbers, x,y in pixels of the picture, such as 40,52"
                             ) from None
        if not (math.isfinite(x) and math.isfinite(y)):
            raise InputError(f"places: {word!r}: expected finite numbers")
        places.append((x, y))
    if len(places) > MOST:
        raise InputError(f"places: {len(places)}, at most {MOST} make a stroke: lift the pointer more often")
    return places
