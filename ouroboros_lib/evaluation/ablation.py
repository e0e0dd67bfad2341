"""The rows of an ablation against each other: means, paired differences with intervals, verdicts."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import dump_json, read_json, replace_file
from ..values import checked
from .results import Evaluation
from .rows import METRICS, orbit_quantities, read_rows, read_shapes
from .statistics import digits, mean_interval, paired_interval

QUANTITIES = (*orbit_quantities(8), "difference")  # |metric of views - metric of their 3D renders|, views 1+ (table 2)
DEFAULT_METHOD = "two-stage"
SHAPES = ("chamfer", "f_score", "iou")  # of the splats' surface, see geometry.py
Key = tuple[int | str, int]  # object, training seed
Cell = dict[str, dict[Key, float]]  # one of SHAPES or "METRIC QUANTITY" -> mean over views and seeds of the noise


def collect(folder: str | Path, out: str | Path, compare: list[list[str]]) -> dict:
    """Gather the evaluations of an ablation and compare its cells.

    folder: CSVs that `ouroboros evaluate` wrote, ROW-seedN.csv or ROW.csv. compare: [cell, cell, label], a cell being
    ROW:METHOD (METHOD as in the CSV, two-stage by default). Writes and returns `out`.json: means with intervals for
    each cell, and the comparisons; those have "geometry" where ROW-seedN_geometry.csv are there, too.
    Pairs whose evaluations are not there are left out and named under "missing". Raises InputError.
    """
    folder, out = Path(folder), Path(out)
    files = sorted(path for path in folder.glob("*.csv") if not path.stem.endswith("_geometry"))
    if not files:
        raise InputError(f"{folder}: no evaluations (CSV files) in it; `ouroboros recipe ablation` writes them")
    records = {path: checked(read_json(about), Evaluation, about) for path in files
               for about in [path.with_suffix(".json")]}
    noises: dict[str, dict[str, dict[Key, list[float]]]] = {}
    for path, record in records.items():
        row, seed = re.fullmatch(r"(.*?)(?:-seed(\d+))?", path.stem).groups()
        procedural = "num_views" in record["settings"]  # objects are numbers then, and names in a folder
        if not procedural and not record.get("protocol", {}).get("primary_views"):
            raise InputError(f"{path.with_suffix('.json')}: neither num_views in its settings nor primary_views in its "
                             "protocol; is it of `ouroboros evaluate`?")
        views = record["settings"]["num_views"] if procedural else 1 + max(record["protocol"]["primary_views"])
        for method, name, column, value in _values(path, views):
            cell = noises.setdefault(f"{row}:{method}", {})
            if procedural and not name.isdecimal():
                raise InputError(f"{path}: {name} is no number of a procedural object")
            key = int(name) if procedural else name, int(seed or 0)
            cell.setdefault(column, {}).setdefault(key, []).append(value)
    cells: dict[str, Cell] = {name: {column: {key: float(np.mean(values)) for key, values in table.items()}
                                     for column, table in cell.items()} for name, cell in noises.items()}
    means = {name: _means(cell, name) for name, cell in cells.items()}
    comparisons, missing = [], set()
    for *pair, label in compare:
        a, b = (cell if ":" in cell else f"{cell}:{DEFAULT_METHOD}" for cell in pair)
        if a in cells and b in cells:
            comparisons.append({"label": label, "a": a, "b": b} | _compare(cells[a], cells[b]))
        missing |= {a, b} - cells.keys()
    origin = {path.name: {key: record.get(key) for key in ("command", "date", "commit", "device", "minutes")}
              for path, record in records.items()}
    record = {"made of": origin, "cells": means, "comparisons": comparisons, "missing": sorted(missing)}
    replace_file(out.with_suffix(".json"), dump_json(record))
    return record


def verdict(interval: dict, smaller_is_better: bool = False) -> str:
    """better, worse, or not separable when the 95 % interval holds zero, or is none."""
    if not (interval["low"] > 0 or interval["high"] < 0) or not math.isfinite(interval["mean"]):
        return "not separable"
    return "better" if (interval["mean"] > 0) != smaller_is_better else "worse"


def _values(path: Path, views: int) -> Iterator[tuple[str, str, str, float]]:
    """Method, object, column and value, for each seed of the noise; what was not measured is left out."""
    grouped: dict[tuple, dict[str, list]] = {}
    for row in read_rows(path):
        for quantity, (kind, belongs) in orbit_quantities(views).items():
            if row.kind == kind and belongs(row.view):
                of_object = grouped.setdefault((row.method, row.seed, str(row.object)), {})
                of_object.setdefault(quantity, []).append(
                    [math.nan if getattr(row, metric) == "" else getattr(row, metric) for metric in METRICS])
    for (method, _, name), quantities in grouped.items():
        means = {quantity: np.mean(values, axis=0) for quantity, values in quantities.items()}
        if {"views 1+", "3D views 1+"} <= means.keys():
            means["difference"] = np.abs(means["views 1+"] - means["3D views 1+"])
        for quantity, values in means.items():
            yield from ((method, name, f"{metric} {quantity}", value)
                        for metric, value in zip(METRICS, values, strict=True) if not math.isnan(value))
    for line in read_shapes(path.with_name(path.stem + "_geometry.csv")):
        yield from ((line.method, str(line.object), shape, getattr(line, shape) if line.seen else math.inf)
                    for shape in SHAPES)


def _axes(keys) -> tuple[list[int | str], list[int]]:
    """Objects and training seeds among keys of cells."""
    return sorted({number for number, _ in keys}), sorted({seed for _, seed in keys})


def _table(values: dict[Key, float], objects: list[int | str], seeds: list[int]) -> np.ndarray:
    return np.array([[values[number, seed] for seed in seeds] for number in objects])


def _means(cell: Cell, name: str) -> dict:
    """quantity -> metric -> mean with its interval; objects and training seeds are resampled. Raises InputError."""
    everywhere = set().union(*cell.values())
    objects, seeds = _axes(everywhere)
    if len(everywhere) != len(objects) * len(seeds):
        raise InputError(f"{name}: its training seeds were measured on different objects; evaluate them alike")
    means: dict = {"objects": len(objects), "training seeds": seeds}
    for metric in METRICS:
        for quantity in QUANTITIES:
            values = cell.get(f"{metric} {quantity}", {})
            if values.keys() == everywhere:
                means.setdefault(quantity, {})[metric] = mean_interval(_table(values, objects, seeds), digits(metric))
    return means


def _compare(a: Cell, b: Cell) -> dict:
    """PSNR of a minus b in dB for each quantity that both have; "lpips" and "geometry" where they were measured.

    Paired: by object and training seed, over those that both have. Raises InputError when there are none.
    """
    record = _differences(a, b, {quantity: f"psnr {quantity}" for quantity in QUANTITIES}, digits("psnr"))
    if not record.get("objects"):
        raise InputError("two cells of the ablation share no objects or no training seeds: evaluate them alike")
    further = {"lpips": {quantity: f"lpips {quantity}" for quantity in QUANTITIES},
               "geometry": {name: name for name in SHAPES}}
    found = {kind: _differences(a, b, columns, 4) for kind, columns in further.items()}
    return record | {kind: differences for kind, differences in found.items() if differences["objects"]}


def _differences(a: Cell, b: Cell, columns: dict[str, str], places: int) -> dict:
    """Name -> interval and verdict for the columns that both have, over the objects that all of them have.

    Objects that one of the two left without any splat to see have no distances, and count in neither: "unseen".
    """
    columns = {name: column for name, column in columns.items() if column in a and column in b}
    tables = [cell[column] for column in columns.values() for cell in (a, b)]
    objects, seeds = _axes(set.intersection(*(set(table) for table in tables)) if tables else ())
    seen = [number for number in objects
            if all(math.isfinite(table.get((number, seed), math.nan)) for table in tables for seed in seeds)]
    record: dict = {"objects": len(seen), "training seeds": seeds}
    if len(seen) < len(objects):
        record["unseen"] = len(objects) - len(seen)
    for name, column in columns.items() if seen else ():
        interval = paired_interval(*(_table(cell[column], seen, seeds) for cell in (a, b)), digits=places)
        smaller_is_better = name in ("difference", "chamfer") or columns[name].startswith("lpips")
        record[name] = interval | {"verdict": verdict(interval, smaller_is_better)}
    return record
