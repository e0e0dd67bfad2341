"""Steps of the recursion as a picture: one view of several runs, side by side. As a page: recursion_page.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from ..errors import InputError
from .sheets import evenly_chosen, image_grid
from .traces import check_traces

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


def explorer_sheet(runs: Mapping[str, Sequence[TraceStep] | None], view: int, steps: int = 6,
                   kinds: Sequence[str] = tuple(KINDS), index: int = 0, side: int | None = None) -> Image.Image:
    """One view of the recursion: a row per step, a group of columns per run, a column per kind.

    runs: heading -> trace, all of the same steps. index: which object of a batch. side: pixels of a picture's side, its
    own without. Raises InputError for runs that do not fit together, and for a view or an object that they do not have.
    """
    check_traces(runs, index)
    first = next(iter(runs.values()))
    views = first[0].views.shape[1]
    if not 0 <= view < views:
        raise InputError(f"the runs have no view {view}: choose one from 0 to {views - 1}")
    chosen = evenly_chosen(len(first), steps)
    rows = [[step_picture(trace[i], kind, view, index) for trace in runs.values() for kind in kinds] for i in chosen]
    labels = [f"step {first[i].index + 1}\nsigma {first[i].sigma:.2g}" for i in chosen]
    return image_grid(rows, None, labels, list(kinds) * len(runs), [(name, len(kinds)) for name in runs], side=side)
