"""Traces of several runs, checked before they are shown: what is wrong is one line that names the run and the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from ..pipeline import TraceStep

MAPS = ("noisy", "views", "rgb", "ccm")


def check_traces(traces: Mapping[str, Sequence[TraceStep] | None], index: int) -> None:
    """Raise InputError unless all runs recorded the same steps, with maps (B, V, 3, S, S) of one V and S that are
    finite in object `index` of the batch."""
    if not traces:
        raise InputError("there is nothing to show: give at least one run")
    for name, trace in traces.items():
        if not trace:
            raise InputError(f"run {name!r} has no trace: call the pipeline with return_trace=True")
    first = next(iter(traces))
    steps = [step.index for step in traces[first]]
    views, side = traces[first][0].views.shape[1], traces[first][0].views.shape[-1]
    for name, trace in traces.items():
        if [step.index for step in trace] != steps:
            raise InputError(f"the runs {first!r} ({len(steps)} steps) and {name!r} ({len(trace)}) did not record the "
                             "same steps: give both the same num_inference_steps and return_trace, or show them apart")
        batch = len(trace[0].views)
        if not 0 <= index < batch:
            raise InputError(f"run {name!r} has no object {index}: choose one from 0 to {batch - 1}")
        for number, step in enumerate(trace, 1):
            where = f"run {name!r}, {recorded(number, len(trace))}"
            check_finite(step.sigma, f"{where}, sigma")
            for field in MAPS:
                maps = getattr(step, field)
                expected = (batch, views, 3, side, side)
                if maps.shape != expected:
                    raise InputError(f"{where}, {field}: expected {expected}, by the first step of run {first!r}, got "
                                     f"{tuple(maps.shape)}: show runs of one size together")
                check_finite(maps[index], f"{where}, {field}")


def check_finite(values: Tensor | float, where: str) -> None:
    """Raise InputError, with `where` in front, if there is NaN or infinity among the values."""
    values = torch.as_tensor(values)
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise InputError(f"{where}: {wrong} of {values.numel()} numbers are NaN or infinite, which cannot be shown: "
                         "leave it out, or make it anew (in float32, if it was in less)")


def recorded(number: int, count: int) -> str:
    """How a step of a trace is called: they are counted from 1, recorded ones only."""
    return f"recorded step {number} of {count}"
