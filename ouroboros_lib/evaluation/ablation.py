"""The rows of an ablation against each other: means, paired differences with intervals, verdicts."""

import json
import math
import re
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_json, replace_file
from .rows import GEOMETRY, METRICS, orbit_quantities, read_rows, read_shapes, write_rows
from .statistics import digits, mean_interval, paired_interval

QUANTITIES = (*orbit_quantities(8), "difference")  # |metric of views - metric of their 3D renders|, views 1+ (table 2)
KEYS = ("row", "training_seed", "method", "seed", "object")
COLUMNS = {f"{metric} {quantity}": metric for metric in METRICS for quantity in QUANTITIES}
DEFAULT_METHOD = "two-stage"
SHAPES = ("chamfer", "f_score", "iou")  # of the splats' surface, see geometry.py
Lines = dict[tuple, dict[str, float]]  # KEYS -> column -> value, averaged over views
Cell = dict[tuple[int, int], dict[str, float]]  # (object, training seed) -> the same, averaged over seeds of the noise


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
    images: Lines = {}
    shapes: Lines = {}
    for path, record in records.items():
        row, seed = re.fullmatch(r"(.*?)(?:-seed(\d+))?", path.stem).groups()
        start = (row, int(seed or 0))
        images |= {start + key: line for key, line in _image_lines(path, record["settings"]["num_views"]).items()}
        shapes |= {(*start, line.method, line.seed, int(line.object)): dict(zip(GEOMETRY, line[4:], strict=True))
                   for line in read_shapes(path.with_name(path.stem + "_geometry.csv"))}
    names = dict.fromkeys(f"{row}:{method}" for row, _, method, *_ in images)
    cells = {name: _complete(_cell(images, name), name) for name in names}
    comparisons, missing = [], []
    for *pair, label in compare:
        a, b = (cell if ":" in cell else f"{cell}:{DEFAULT_METHOD}" for cell in pair)
        if a in cells and b in cells:
            comparisons.append({"label": label, "a": a, "b": b} | _compare_images(cells[a], cells[b])
                               | _compare_shapes(_cell(shapes, a), _cell(shapes, b)))
        missing += [cell for cell in (a, b) if cell not in cells]
    origin = {path.name: {key: record[key] for key in ("command", "date", "commit", "device", "minutes")}
              for path, record in records.items()}
    record = {"made of": origin, "cells": {name: _means(cell) for name, cell in cells.items()},
              "comparisons": comparisons, "missing": sorted(set(missing))}
    measured = [name for name in COLUMNS if any(name in line for line in images.values())]
    write_rows(out.with_suffix(".csv"), (*KEYS, *measured), (
        [*key, *(round(line[name], 4) if name in line else "" for name in measured)] for key, line in images.items()))
    if shapes:
        write_rows(out.with_name(out.name + "_geometry.csv"), (*KEYS, *GEOMETRY),
                   ([*key, *line.values()] for key, line in shapes.items()))
    replace_file(out.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    return record


def verdict(interval: dict, smaller_is_better: bool = False) -> str:
    """better, worse, or not separable when the 95 % interval holds zero, or is none."""
    if not (interval["low"] > 0 or interval["high"] < 0) or not math.isfinite(interval["mean"]):
        return "not separable"
    return "better" if (interval["mean"] > 0) != smaller_is_better else "worse"


def _image_lines(path: Path, views: int) -> Lines:
    """(method, noise seed, object) to the columns of one evaluation; what was not measured is left out."""
    grouped: dict[tuple, dict[str, list]] = {}
    for row in read_rows(path):
        for quantity, (kind, belongs) in orbit_quantities(views).items():
            if row.kind == kind and belongs(row.view):
                of_object = grouped.setdefault((row.method, row.seed, int(row.object)), {})
                of_object.setdefault(quantity, []).append([math.nan if value == "" else value for value in row[7:]])
    lines = {}
    for key, quantities in grouped.items():
        means = {quantity: np.mean(values, axis=0) for quantity, values in quantities.items()}
        if "views 1+" in means:
            means["difference"] = np.abs(means["views 1+"] - means["3D views 1+"])
        lines[key] = {f"{metric} {quantity}": float(value) for quantity, values in means.items()
                      for metric, value in zip(METRICS, values, strict=True) if not math.isnan(value)}
    return lines


def _cell(lines: Lines, name: str) -> Cell:
    """The lines of one ROW:METHOD; columns that some of them lack are left out."""
    found: dict[tuple[int, int], list[dict]] = {}
    for (row, seed, method, _, number), line in lines.items():
        if f"{row}:{method}" == name:
            found.setdefault((number, seed), []).append(line)
    everywhere = [set(line) for group in found.values() for line in group]
    columns = sorted(set.intersection(*everywhere)) if everywhere else ()
    return {key: {column: np.mean([line[column] for line in group]) for column in columns}
            for key, group in found.items()}


def _axes(keys) -> tuple[list[int], list[int]]:
    """Objects and training seeds among keys of cells."""
    return sorted({number for number, _ in keys}), sorted({seed for _, seed in keys})


def _complete(cell: Cell, name: str) -> Cell:
    objects, seeds = _axes(cell)
    if len(cell) != len(objects) * len(seeds):
        raise InputError(f"{name}: its training seeds were measured on different objects; evaluate them alike")
    return cell


def _table(cell: Cell, column: str, objects: list[int], seeds: list[int]) -> np.ndarray:
    return np.array([[cell[number, seed][column] for seed in seeds] for number in objects])


def _means(cell: Cell) -> dict:
    """quantity -> metric -> mean with its interval; objects and training seeds are resampled."""
    objects, seeds = _axes(cell)
    means: dict = {"objects": len(objects), "training seeds": seeds}
    for column in (column for column in COLUMNS if column in cell[objects[0], seeds[0]]):
        metric, quantity = column.split(" ", 1)
        interval = mean_interval(_table(cell, column, objects, seeds), digits(metric))
        means.setdefault(quantity, {})[metric] = interval
    return means


def _compare_images(a: Cell, b: Cell) -> dict:
    """PSNR of a minus b in dB, with interval and verdict, for each quantity that both have.

    Paired: by object and training seed, over those that both have. Raises InputError when there are none.
    """
    objects, seeds = _axes(a.keys() & b.keys())
    if not objects:
        raise InputError("two cells of the ablation share no objects or no training seeds: evaluate them alike")
    return {"objects": len(objects), "training seeds": seeds} | _differences(
        a, b, objects, seeds, {quantity: f"psnr {quantity}" for quantity in QUANTITIES}, digits("psnr"))


def _compare_shapes(a: Cell, b: Cell) -> dict:
    """Geometry of a minus b, paired in the same way; nothing where the shapes were not measured.

    Objects that one of them left without any splat to see have no distances, and count in neither.
    """
    both = a.keys() & b.keys()
    objects, seeds = _axes(both)
    seen = [number for number in objects if all(math.isfinite(value) for cell in (a, b) for seed in seeds
                                                for value in cell.get((number, seed), {}).values())]
    if not seen or len(both) != len(seeds) * len(objects):
        return {}
    return {"geometry": {"objects": len(seen), "unseen": len(objects) - len(seen), "training seeds": seeds}
            | _differences(a, b, seen, seeds, {name: name for name in SHAPES}, 4)}


def _differences(a: Cell, b: Cell, objects: list[int], seeds: list[int], columns: dict[str, str],
                 places: int) -> dict[str, dict]:
    """Name -> interval and verdict for the columns that both have."""
    found = {}
    for name, column in columns.items():
        if all(column in cell[objects[0], seeds[0]] for cell in (a, b)):
            interval = paired_interval(*(_table(cell, column, objects, seeds) for cell in (a, b)), digits=places)
            found[name] = interval | {"verdict": verdict(interval, name in ("difference", "chamfer"))}
    return found
