"""The recursion explorer: any step, any view, and what to see of it, for several runs side by side.

Everything is linked in the browser (`Stack` and `jslink`), so it works without a kernel: in JupyterLab, in a trusted
notebook that is only opened, and in a static HTML export (see `book.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..errors import needs
from .encoding import as_webp
from .sheets import evenly_chosen, image_grid, to_pil

with needs("course", "what notebooks show"):
    import ipywidgets as widgets

if TYPE_CHECKING:
    from ..pipeline import TraceStep

KINDS = {"noisy": "noisy", "estimate": "views", "RGB render": "rgb", "CCM": "ccm", "difference": None}
DIFFERENCE_GAIN = 4.0
GAP = 6  # pixels between the pictures of a page


def difference_map(views: Tensor, renders: Tensor, gain: float = DIFFERENCE_GAIN) -> Tensor:
    """Where views and renders (..., 3, H, W) part: white where equal, black from 1 / gain mean absolute error on."""
    error = (views - renders).abs().mean(dim=-3, keepdim=True)
    return (1 - gain * error).clamp(0, 1).expand_as(views)


def step_picture(step: TraceStep, kind: str, view: int, batch_index: int = 0) -> Tensor:
    """What KINDS calls `kind` of one view of a recorded step: (3, H, W)."""
    if KINDS[kind] is None:
        return difference_map(step.views[batch_index, view], step.rgb[batch_index, view])
    return getattr(step, KINDS[kind])[batch_index, view]


def explorer_sheet(runs: dict[str, Sequence[TraceStep]], view: int, steps: int = 6,
                   kinds: Sequence[str] = tuple(KINDS)) -> Image.Image:
    """The explorer as a static picture of one view: a row per step, a group of columns per run, a column per kind."""
    chosen = _shared_steps(runs, steps)
    first = next(iter(runs.values()))
    rows = [[step_picture(trace[i], kind, view) for trace in runs.values() for kind in kinds] for i in chosen]
    labels = [f"step {first[i].index + 1}\nsigma {first[i].sigma:.2g}" for i in chosen]
    return image_grid(rows, None, labels, list(kinds) * len(runs), [(name, len(kinds)) for name in runs])


def recursion_explorer(runs: dict[str, Sequence[TraceStep]], views: Sequence[int] = (0, 2, 4, 6), steps: int = 6,
                       truth: Tensor | None = None, width: int = 256) -> widgets.Widget:
    """Controls for step, view and what to see; a page shows the same picture of every run, side by side.

    runs: heading -> the pipeline's trace, all with the same steps. views: those to offer. steps: at most so many,
    evenly spaced, with the first and the last. truth: (V, 3, H, W), shown beside. width: of one picture, in pixels.
    """
    chosen = _shared_steps(runs, steps)
    first = next(iter(runs.values()))
    count = first[0].views.shape[1]
    page_layout = widgets.Layout(width=f"{len(runs) * width + (len(runs) - 1) * GAP}px")
    tile_layout, plain = widgets.Layout(width=f"{width}px"), widgets.Layout()  # shared: each costs a kilobyte

    step = widgets.SelectionSlider(options=[f"{first[i].index + 1} of {first[-1].index + 1}, sigma {first[i].sigma:.2g}"
                                            for i in chosen], index=len(chosen) - 1, description="step",
                                   layout=widgets.Layout(width="420px"))
    view = widgets.ToggleButtons(options=[f"{v} ({360 * v / count:g}\N{DEGREE SIGN})" for v in views],
                                 index=min(1, len(views) - 1), description="view", style={"button_width": "80px"})
    kind = widgets.ToggleButtons(options=list(KINDS), index=list(KINDS).index("estimate"), description="see",
                                 style={"button_width": "100px"})

    def stack(children, control):
        result = widgets.Stack(children, selected_index=control.index, layout=plain)
        widgets.jslink((control, "index"), (result, "selected_index"))
        return result

    def page(name, v, i):
        tiles = [step_picture(trace[i], name, v) for trace in runs.values()]
        return widgets.Image(value=_webp(tiles), format="webp", layout=page_layout)

    pages = stack([stack([stack([page(name, v, i) for i in chosen], step) for v in views], view)
                   for name in KINDS], kind)
    headings = "".join(f'<b style="display: inline-block; width: {width + GAP}px">{name}</b>' for name in runs)
    columns = [widgets.VBox([widgets.HTML(f'<div style="white-space: nowrap">{headings}</div>'), pages])]
    if truth is not None:
        pictures = [widgets.Image(value=_webp([truth[v].cpu()]), format="webp", layout=tile_layout) for v in views]
        columns.append(widgets.VBox([widgets.HTML("<b>ground truth</b>"), stack(pictures, view)]))
    return widgets.VBox([kind, view, step, widgets.HBox(columns)])


def _shared_steps(runs: dict[str, Sequence[TraceStep]], steps: int) -> list[int]:
    indices = [[step.index for step in trace] for trace in runs.values()]
    if not indices or not indices[0] or any(other != indices[0] for other in indices):
        raise ValueError("every run needs a trace, of the same steps: call the pipeline with return_trace=True")
    return evenly_chosen(len(indices[0]), steps)


def _webp(tiles: Sequence[Tensor]) -> bytes:
    """Pictures (3, H, W) side by side, in a format that keeps 120 pages in some 200 kilobytes."""
    gap = torch.ones(3, tiles[0].shape[-2], GAP)
    parts = [part for tile in tiles for part in (gap, tile)][1:]
    return as_webp(to_pil(torch.cat(parts, dim=-1)), quality=50)
