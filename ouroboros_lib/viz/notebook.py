"""What the notebooks show: sheets as small PNGs, code in colours, and step-through controls that live on in a static
HTML export."""

import inspect
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from ..errors import needs
from ..files import replace_file
from ..gaussians import Gaussians
from ..gaussians.page import viewer_iframe
from .encoding import as_png, as_webp

with needs("course", "what notebooks show"):
    import ipywidgets as widgets
    import matplotlib.pyplot as plt
    from IPython.display import HTML, Markdown, display
    from IPython.display import Image as DisplayedImage
    from matplotlib.figure import Figure

FIGURE_DPI = 90


def show(picture: Image.Image | Figure, path: str | Path | None = None) -> None:
    """Display a sheet or a matplotlib figure, which is closed, as the one PNG that the saved notebook keeps.

    path: also write this PNG there, its folder too if need be.
    """
    png = as_png(picture_of(picture) if isinstance(picture, Figure) else picture)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), png)
    display(DisplayedImage(png, format="png"))


def picture_of(figure: Figure) -> Image.Image:
    """A matplotlib figure, which is closed, as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=FIGURE_DPI, bbox_inches="tight")
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def show_source(function: Callable) -> None:
    """Display a function of the library as it stands in its file, in colours."""
    display(Markdown(f"```python\n{inspect.getsource(function)}```"))


def stepper(sheets: Sequence[Image.Image], description: str = "step", start: int | None = None) -> widgets.Widget:
    """A slider that shows one of `sheets`; linked in the browser, so it needs no running kernel.

    start: the index of the sheet that is shown first, the last one if there are not so many.
    """
    start = len(sheets) - 1 if start is None else min(start, len(sheets) - 1)
    stack = widgets.Stack([_page(sheet) for sheet in sheets], selected_index=start)
    slider = widgets.IntSlider(value=start, min=0, max=len(sheets) - 1, description=description)
    widgets.jslink((slider, "value"), (stack, "selected_index"))
    return widgets.VBox([slider, stack])


def _page(sheet: Image.Image) -> widgets.Image:
    """As a PNG, which suits plots, or WebP, which suits renders: the smaller one."""
    kinds = {"png": as_png(sheet), "webp": as_webp(sheet)}
    kind = min(kinds, key=lambda name: len(kinds[name]))
    return widgets.Image(value=kinds[kind], format=kind)


def splat_viewer(gaussians: Gaussians, elevation: float = 10.0, side: int = 384, min_opacity: float = 0.02) -> None:
    """Show one set of Gaussians (N) in a canvas that turns under the mouse, see `viewer_iframe`."""
    with warnings.catch_warnings():  # IPython would rather have IFrame, which takes an address only
        warnings.simplefilter("ignore", UserWarning)
        display(HTML(viewer_iframe(gaussians, elevation, side, min_opacity)))
