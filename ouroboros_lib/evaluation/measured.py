"""What the evaluations in a folder of results reached, as rows for the paper's table 1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..files import read_json
from .rows import COMPONENTS, read_rows
from .statistics import mean_interval, per_object

TASKS = {"multiview": "image to multi-view", "render": "image to 3D"}  # by kind of rows
METRICS = ("psnr", "ssim", "lpips")  # the table's


@dataclass
class Measurement:
    """One method's views or 3D renders in one evaluation.

    method as in its CSV; model: preset or folder of our weights, "" for other methods; pixels "" where not stated;
    values: metric -> mean, low and high over objects and seeds, only those that were measured; file: the results' stem.
    """

    task: str
    method: str
    model: str
    pixels: str
    protocol: str
    objects: int
    values: dict[str, dict[str, float]]
    file: str


def measurements(results: Path) -> tuple[list[Measurement], dict[str, str]]:
    """All that the results of `ouroboros evaluate` directly in a folder hold, and the command of each by file.

    Means are over the protocol's primary views; on procedural objects over the orbit without view 0. Raises InputError
    for an evaluation whose CSV is missing or not one.
    """
    found, commands = [], {}
    for path in sorted(results.glob("*.json")):
        record = read_json(path)
        if not isinstance(record, dict) or not {"settings", "summary"} <= record.keys():
            continue  # something else, as ablation.json is
        commands[path.stem] = record.get("command", "")
        found += _of_one(path, record)
    return found, commands


def _of_one(path: Path, record: dict) -> list[Measurement]:
    settings, rows = record["settings"], read_rows(path.with_suffix(".csv"))
    primary = record["protocol"]["primary_views"] if "protocol" in record else range(1, settings.get("num_views", 8))
    preset = re.search(r"--preset[ =](\S+)", record.get("command", ""))
    model = settings.get("preset") or (preset[1] if preset else "small")
    found = []
    for method in dict.fromkeys(row.method for row in rows if row.method not in COMPONENTS):
        for kind, task in TASKS.items():
            mine = [row for row in rows if row.method == method and row.kind == kind and row.view in primary]
            if not mine:
                continue
            tables = {name: table for name, table in per_object(mine).items() if name in METRICS}
            values = {name: mean_interval(table, digits=4) for name, table in tables.items()}
            label = mine[0].protocol
            pixels = re.search(r"-(\d+)(-all)?$", label) if "protocol" in record else None
            found.append(Measurement(task, method, model if settings.get("method", "ours") == "ours" else "",
                                     pixels[1] if pixels else "", label, len(tables["psnr"]), values, path.stem))
    return found
