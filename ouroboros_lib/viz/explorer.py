"""Steps of the recursion as a picture: one view of several runs, side by side. As a page: recursion_page.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from .sheets import evenly_chosen, image_grid

if TYPE_CHECKING:
    from ..pipeline import TraceStep

KINDS = {"noisy": "noisy", "estimate": "views", "RGB render": "rgb", "CCM": "ccm", "difference": None}
DIFFERENCE_GAIN = 4.0


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
    """One view of the recursion: a row per step, a group of columns per run, a column per kind."""
    chosen = _shared_steps(runs, steps)
    first = next(iter(runs.values()))
    rows = [[step_picture(trace[i], kind, view) for trace in runs.values() for kind in kinds] for i in chosen]
    labels = [f"step {first[i].index + 1}\nsigma {first[i].sigma:.2g}" for i in chosen]
    return image_grid(rows, None, labels, list(kinds) * len(runs), [(name, len(kinds)) for name in runs])


def _shared_steps(runs: dict[str, Sequence[TraceStep]], steps: int) -> list[int]:
    indices = [[step.index for step in trace] for trace in runs.values()]
    if not indices or not indices[0] or any(other != indices[0] for other in indices):
        raise ValueError("every run needs a trace, of the same steps: call the pipeline with return_trace=True")
    return evenly_chosen(len(indices[0]), steps)
