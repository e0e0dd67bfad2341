"""The rows of an ablation against each other: means, paired differences with intervals, verdicts."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_json, replace_file
from .rows import GEOMETRY, METRICS, orbit_quantities, read_rows, read_shapes, write_rows
from .statistics import mean_interval, paired_interval

QUANTITIES = (*orbit_quantities(8), "difference")  # |metric of views - metric of their 3D renders|, views 1+ (table 2)
COLUMNS = ("row", "training_seed", "method", "seed", "object")
DEFAULT_METHOD = "two-stage"
SHAPES = ("chamfer", "f_score", "iou")  # of the splats' surface, see geometry.py


def collect(folder: str | Path, out: str | Path, compare: list[list[str]]) -> dict:
    """Gather the evaluations of an ablation and compare its cells.

    folder: CSVs that `ouroboros evaluate` wrote, ROW-seedN.csv or ROW.csv. compare: [cell, cell, label], a cell being
    ROW:METHOD (METHOD as in the CSV, two-stage by default). Writes `out`.csv, a line per object with a
    column per metric and quantity (averaged over views), and `out`.json: means with intervals for each cell, and the
    comparisons. Returns the latter.
    Where ROW-seedN_geometry.csv are there, `out`_geometry.csv holds their lines, and comparisons have "geometry", too.
    Pairs whose evaluations are not there are left out and named under "missing". Raises InputError.
    """
    folder, out = Path(folder), Path(out)
    files = sorted(path for path in folder.glob("*.csv") if not path.stem.endswith("_geometry"))
    if not files:
        raise InputError(f"{folder}: no evaluations (CSV files) in it; `ouroboros recipe ablation` writes them")
    records = {path: read_json(path.with_suffix(".json")) for path in files}
    lines = [line for path, record in records.items() for line in _lines(path, record["settings"]["num_views"])]
    cells = {name: _cell(lines, name) for name in dict.fromkeys(f"{line[0]}:{line[2]}" for line in lines)}
    shapes = [line for path in files for line in _shapes(path.with_name(path.stem + "_geometry.csv"))]
    comparisons, missing = [], []
    for first, second, label in compare:
        a, b = (cell if ":" in cell else f"{cell}:{DEFAULT_METHOD}" for cell in (first, second))
        if a in cells and b in cells:
            comparisons.append({"label": label, "a": a, "b": b} | compare_cells(cells[a], cells[b])
                               | compare_shapes(shapes, a, b))
        else:
            missing += [cell for cell in (a, b) if cell not in cells]
    origin = {path.name: {key: record[key] for key in ("command", "date", "commit", "device", "minutes")}
              for path, record in records.items()}
    record = {"made of": origin, "cells": {name: _means(cell) for name, cell in cells.items()},
              "comparisons": comparisons, "missing": sorted(set(missing))}
    _write_lines(out.with_suffix(".csv"), lines)
    if shapes:
        write_rows(out.with_name(out.name + "_geometry.csv"), (*COLUMNS, *GEOMETRY), shapes)
    replace_file(out.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    return record


def _write_lines(path: Path, lines: list[tuple]) -> None:
    """Write lines (row, training seed, method, noise seed, object, quantity, metrics...) as a CSV, one line an object.

    Columns are `METRIC QUANTITY`; those that nobody measured are left out.
    """
    table: dict[tuple, dict[str, float]] = {}
    for line in lines:
        measured = zip(METRICS, map(float, line[6:]), strict=True)
        table.setdefault(line[:5], {}).update((f"{metric} {line[5]}", round(value, 4)) for metric, value in measured
                                              if not math.isnan(value))
    columns = [f"{metric} {quantity}" for metric in METRICS for quantity in QUANTITIES]
    columns = [name for name in columns if any(name in values for values in table.values())]
    write_rows(path, (*COLUMNS, *columns), ([*key, *(values.get(name, "") for name in columns)]
                                            for key, values in table.items()))


@dataclass
class Cell:
    """What one row of the ablation reached with one method. values: quantity -> metric -> (objects, training seeds)."""

    objects: list[int]
    seeds: list[int]
    values: dict[str, dict[str, np.ndarray]]

    def at(self, quantity: str, objects: list[int], seeds: list[int]) -> np.ndarray:
        """PSNR at some of the objects and seeds."""
        rows, columns = ([mine.index(i) for i in chosen] for mine, chosen in ((self.objects, objects),
                                                                             (self.seeds, seeds)))
        return self.values[quantity]["psnr"][np.ix_(rows, columns)]


def compare_cells(a: Cell, b: Cell) -> dict:
    """PSNR of a minus b in dB, with interval and verdict, for each quantity that both have.

    Paired: by object and training seed, over those that both have. Raises InputError when there are none.
    """
    objects, seeds = ([i for i in mine if i in theirs] for mine, theirs in ((a.objects, b.objects), (a.seeds, b.seeds)))
    if not objects or not seeds:
        raise InputError("two cells of the ablation share no objects or no training seeds: evaluate them alike")
    result = {"objects": len(objects), "training seeds": seeds}
    for quantity in a.values.keys() & b.values.keys():
        interval = paired_interval(a.at(quantity, objects, seeds), b.at(quantity, objects, seeds))
        # the smaller the difference between views and renders, the better
        result[quantity] = interval | {"verdict": verdict(interval, smaller_is_better=quantity == "difference")}
    return {key: result[key] for key in ("objects", "training seeds", *QUANTITIES) if key in result}


def compare_shapes(lines: list[tuple], a: str, b: str) -> dict:
    """Geometry of cell a minus that of b, paired as in `compare_cells`; nothing where the shapes were not measured.

    Objects that one of them left without any splat to see have no distances, and count in neither.
    """
    first, second = (_shape_means(lines, cell) for cell in (a, b))
    both = sorted(first.keys() & second.keys())
    seeds, objects = ([*dict.fromkeys(pair[i] for pair in both)] for i in range(2))
    if not both or len(both) != len(seeds) * len(objects):
        return {}
    seen = [number for number in objects if all(np.isfinite(cell[seed, number]).all()
                                                for cell in (first, second) for seed in seeds)]
    unseen, objects = len(objects) - len(seen), seen
    if not objects:
        return {}
    result = {"objects": len(objects), "unseen": unseen, "training seeds": seeds}
    for name in SHAPES:
        column = GEOMETRY.index(name)
        tables = (np.array([[cell[seed, number][column] for seed in seeds] for number in objects])
                  for cell in (first, second))
        interval = paired_interval(*tables, digits=4)
        result[name] = interval | {"verdict": verdict(interval, smaller_is_better=name == "chamfer")}
    return {"geometry": result}


def verdict(interval: dict, smaller_is_better: bool = False) -> str:
    """better, worse, or not separable when the 95 % interval holds zero, or is none."""
    if not (interval["low"] > 0 or interval["high"] < 0) or not math.isfinite(interval["mean"]):
        return "not separable"
    return "better" if (interval["mean"] > 0) != smaller_is_better else "worse"


def _shape_means(lines: list[tuple], name: str) -> dict[tuple, np.ndarray]:
    """(training seed, object) to the geometry of one ROW:METHOD, averaged over seeds of the noise."""
    found: dict[tuple, list] = {}
    for row, seed, method, _, number, *values in lines:
        if f"{row}:{method}" == name:
            found.setdefault((seed, number), []).append(values)
    return {key: np.mean(values, axis=0) for key, values in found.items()}


def _shapes(path: Path) -> list[tuple]:
    """The shapes that one evaluation measured: (row, training seed, method, noise seed, object, geometry...)."""
    row, seed = _row_and_seed(path.stem.removesuffix("_geometry"))
    return [(row, seed, line.method, line.seed, int(line.object), *line[4:]) for line in read_shapes(path)]


def _row_and_seed(stem: str) -> tuple[str, int]:
    row, seed = re.fullmatch(r"(.*?)(?:-seed(\d+))?", stem).groups()
    return row, int(seed or 0)


def _lines(path: Path, views: int) -> list[tuple]:
    """One evaluation, averaged over views: (row, training seed, method, noise seed, object, quantity, metrics...)."""
    row, seed = _row_and_seed(path.stem)
    grouped: dict[tuple, list] = {}
    for line in read_rows(path):
        for quantity, (kind, belongs) in orbit_quantities(views).items():
            if line.kind == kind and belongs(line.view):
                key = (line.method, line.seed, int(line.object), quantity)
                grouped.setdefault(key, []).append([math.nan if value == "" else value for value in line[7:]])
    means = {key: np.mean(values, axis=0) for key, values in grouped.items()}
    for (method, noise, number, quantity), value in list(means.items()):
        if quantity == "views 1+":
            renders = means[method, noise, number, "3D views 1+"]
            means[method, noise, number, "difference"] = np.abs(value - renders)
    return [(row, seed, *key, *value) for key, value in means.items()]


def _cell(lines: list[tuple], name: str) -> Cell:
    """The lines of one ROW:METHOD, averaged over seeds of the noise; metrics that were not measured are left out."""
    row, method = name.split(":")
    found: dict[tuple, list] = {}
    for line in lines:
        if line[0] == row and line[2] == method:
            found.setdefault((line[5], line[4], line[1]), []).append(line[6:])
    quantities, objects, seeds = (sorted({key[i] for key in found}) for i in range(3))
    if len(found) != len(quantities) * len(objects) * len(seeds):
        raise InputError(f"{name}: its training seeds were measured on different objects; evaluate them alike")
    values = {}
    for quantity in quantities:
        table = np.array([[np.mean(found[quantity, o, s], axis=0) for s in seeds] for o in objects])
        values[quantity] = {metric: table[..., i] for i, metric in enumerate(METRICS)
                            if not np.isnan(table[..., i]).any()}
    return Cell(objects, seeds, values)


def _means(cell: Cell) -> dict:
    """quantity -> metric -> mean with its interval; objects and training seeds are resampled."""
    return {"objects": len(cell.objects), "training seeds": cell.seeds} | {
        quantity: {name: mean_interval(table, digits=3 if name == "psnr" else 4)
                   for name, table in cell.values[quantity].items()}
        for quantity in QUANTITIES if quantity in cell.values}
