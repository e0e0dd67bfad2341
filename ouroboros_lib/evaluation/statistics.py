"""Means over objects and seeds with 95 % bootstrap intervals, and paired differences between methods."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np

from .rows import COMPONENTS, GEOMETRY, METRICS, ImageRow, Quantities, ShapeRow


def paired_interval(a: np.ndarray, b: np.ndarray, resamples: int = 2000, digits: int = 3) -> dict[str, float]:
    """Mean of a - b, (objects, seeds) each, with a 95 % interval from resampling objects and seeds (Efron 1979)."""
    difference = a - b
    rows, columns = _draws(*difference.shape, resamples)
    means = difference[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return {name: round(float(value), digits) for name, value in (("mean", difference.mean()), ("low", low),
                                                                  ("high", high))}


@lru_cache(maxsize=8)
def _draws(objects: int, seeds: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the drawn objects (resamples, objects) and seeds (resamples, seeds); always the same ones."""
    random = np.random.default_rng(0)
    drawn = [(random.integers(objects, size=objects), random.integers(seeds, size=seeds)) for _ in range(resamples)]
    return tuple(np.stack(numbers) for numbers in zip(*drawn, strict=True))


def mean_interval(values: np.ndarray, digits: int = 3) -> dict[str, float]:
    """The mean of values, (objects, seeds), with its interval."""
    return paired_interval(values, np.zeros_like(values), digits=digits)


def per_object(rows: Sequence[ImageRow]) -> dict[str, np.ndarray]:
    """Metric -> (objects, seeds), averaged over the views of `rows`; metrics that were not measured are left out."""
    measured = [name for name in METRICS if getattr(rows[0], name) != ""]
    cells: dict[tuple, list] = {}
    for row in rows:
        cells.setdefault((row.object, row.seed), []).append([getattr(row, name) for name in measured])
    objects, seeds = sorted({key[0] for key in cells}), sorted({key[1] for key in cells})
    table = np.array([[np.mean(cells[o, s], axis=0) for s in seeds] for o in objects])
    return {name: table[..., i] for i, name in enumerate(measured)}


def summarize(rows: Sequence[ImageRow], quantities: Quantities) -> dict:
    """Per method and quantity the mean of each metric with its interval; between methods the paired differences.

    Differences are those of each pair of methods that both have a quantity; parts of our model are in none.
    """
    tables: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for method in dict.fromkeys(row.method for row in rows):
        for name, (kind, belongs) in quantities.items():
            if chosen := [row for row in rows if row.method == method and row.kind == kind and belongs(row.view)]:
                tables.setdefault(method, {})[name] = per_object(chosen)
    means = {method: {name: {"objects": len(table["psnr"])} | {
        metric: mean_interval(values, digits(metric)) for metric, values in table.items()}
        for name, table in of_method.items()} for method, of_method in tables.items()}
    differences: dict[str, dict] = {}
    for a, b in combinations([method for method in tables if method not in COMPONENTS], 2):
        for name in (name for name in tables[a] if name in tables[b]):
            for metric, values in tables[a][name].items():
                unit = "in dB" if metric == "psnr" else f"of {metric}"
                pairs = differences.setdefault(f"paired differences {unit}", {}).setdefault(f"{a} minus {b}", {})
                pairs[name] = paired_interval(values, tables[b][name][metric], digits=digits(metric))
    return {"means": means, **differences}


def digits(metric: str) -> int:
    """Decimal places that results show."""
    return 3 if metric == "psnr" else 4


def summarize_shapes(rows: Sequence[ShapeRow]) -> dict:
    """Per method, the mean over objects and seeds of what a camera sees, None if that is nothing, and how many splats
    none sees."""
    summary = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        seen = [row for row in mine if row.seen]
        summary[method] = {name: round(float(np.mean([getattr(row, name) for row in seen])), 4) if seen else None
                           for name in GEOMETRY}
        summary[method]["unseen"] = len(mine) - len(seen)
    return summary
