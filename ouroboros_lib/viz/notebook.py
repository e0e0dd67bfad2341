"""What the notebooks show: sheets as small PNGs, and step-through controls that live on in a static HTML export."""

from __future__ import annotations

import io
from collections.abc import Sequence

import ipywidgets as widgets
from IPython.display import Image as DisplayedImage
from IPython.display import display
from PIL import Image

PALETTE = 128  # colours of a saved sheet: keeps an executed notebook under a megabyte


def as_png(sheet: Image.Image) -> bytes:
    """A sheet as a palette PNG, about a third of the full-colour size."""
    buffer = io.BytesIO()
    sheet.quantize(PALETTE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def show(sheet: Image.Image) -> None:
    """Display a sheet as the one PNG that the saved notebook keeps."""
    display(DisplayedImage(as_png(sheet), format="png"))


def stepper(sheets: Sequence[Image.Image], description: str = "step", start: int | None = None) -> widgets.Widget:
    """A slider that turns the pages of `sheets`; linked in the browser, so it needs no running kernel."""
    start = len(sheets) - 1 if start is None else start
    stack = widgets.Stack([widgets.Image(value=as_png(sheet), format="png") for sheet in sheets], selected_index=start)
    slider = widgets.IntSlider(value=start, min=0, max=len(sheets) - 1, description=description)
    widgets.jslink((slider, "value"), (stack, "selected_index"))
    return widgets.VBox([slider, stack])
