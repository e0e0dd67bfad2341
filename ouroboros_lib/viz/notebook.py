"""What the notebooks show: sheets as small PNGs, and step-through controls that live on in a static HTML export."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display
from IPython.display import Image as DisplayedImage
from matplotlib.figure import Figure
from PIL import Image

from ..gaussians import Gaussians
from .viewer import viewer_iframe

PALETTE = 256  # colours of a saved sheet: keeps an executed notebook under a megabyte
BANDED = 20  # of 255: with larger errors smooth colours, as in coordinate maps, break into patches
FIGURE_DPI = 90


def as_png(sheet: Image.Image) -> bytes:
    """A sheet as a small PNG: with a palette where that suffices, else in full colour with 32 levels a channel."""
    buffer = io.BytesIO()
    pixels = np.asarray(sheet.convert("RGB"), np.int16)
    small = sheet.quantize(PALETTE, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    error = np.abs(np.asarray(small.convert("RGB"), np.int16) - pixels).max(-1)
    if np.percentile(error, 99) > BANDED:
        small = Image.fromarray((np.round(pixels * (31 / 255)) * (255 / 31)).astype(np.uint8))
    small.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def show(picture: Image.Image | Figure, path: str | Path | None = None) -> None:
    """Display a sheet or a matplotlib figure, which is closed, as the one PNG that the saved notebook keeps.

    path: also write this PNG there, its folder too if need be.
    """
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=FIGURE_DPI, bbox_inches="tight")
        plt.close(picture)
        picture = Image.open(buffer).convert("RGB")
    png = as_png(picture)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(png)
    display(DisplayedImage(png, format="png"))


def stepper(sheets: Sequence[Image.Image], description: str = "step", start: int | None = None) -> widgets.Widget:
    """A slider that turns the pages of `sheets`; linked in the browser, so it needs no running kernel."""
    start = len(sheets) - 1 if start is None else start
    stack = widgets.Stack([widgets.Image(value=as_png(sheet), format="png") for sheet in sheets], selected_index=start)
    slider = widgets.IntSlider(value=start, min=0, max=len(sheets) - 1, description=description)
    widgets.jslink((slider, "value"), (stack, "selected_index"))
    return widgets.VBox([slider, stack])


def splat_viewer(gaussians: Gaussians, elevation: float = 10.0, side: int = 384, min_opacity: float = 0.02) -> None:
    """Show one set of Gaussians (N) in a canvas that turns under the mouse, see `viewer_iframe`."""
    with warnings.catch_warnings():  # IPython would rather have IFrame, which takes an address only
        warnings.simplefilter("ignore", UserWarning)
        display(HTML(viewer_iframe(gaussians, elevation, side, min_opacity)))
