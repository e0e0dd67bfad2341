"""What the evaluations in a folder of results reached, as rows for the paper's table 1."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_json
from .heldout import COLUMNS, paired_interval, per_object

TASKS = {"multiview": "image to multi-view", "render": "image to 3D"}  # by kind of rows
SEE_THE_TRUTH = ("autoencoder", "G-clean")  # methods that are given more than one image
METRICS = COLUMNS[7:10]


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
    settings, rows = record["settings"], _rows(path.with_suffix(".csv"))
    primary = record["protocol"]["primary_views"] if "protocol" in record else range(1, settings.get("num_views", 8))
    preset = re.search(r"--preset[ =](\S+)", record.get("command", ""))
    model = settings.get("preset") or (preset[1] if preset else "small")
    found = []
    for method in dict.fromkeys(row[1] for row in rows):
        for kind, task in TASKS.items():
            mine = [row for row in rows if row[1] == method and row[6] == kind and row[4] in primary]
            if not mine or method in SEE_THE_TRUTH:
                continue
            table = per_object(mine)  # (objects, seeds, metrics)
            names = [name for name, value in zip(COLUMNS[7:], mine[0][7:], strict=False) if value != ""]
            values = {name: paired_interval(table[..., i], np.zeros_like(table[..., i]), digits=4)
                      for i, name in enumerate(names) if name in METRICS}
            pixels = re.search(r"-(\d+)(-all)?$", mine[0][0]) if "protocol" in record else None
            found.append(Measurement(task, method, model if settings.get("method", "ours") == "ours" else "",
                                     pixels[1] if pixels else "", mine[0][0], len(table), values, path.stem))
    return found


def _rows(path: Path) -> list[tuple]:
    """A CSV of results with its numbers as numbers."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
        header = tuple(lines[0])  # earlier versions wrote no flip
        if header != COLUMNS[:len(header)] or "psnr" not in header or len(lines) < 2:
            raise ValueError("its columns are not those of `ouroboros evaluate`, or it has no rows")
        return [(*line[:4], int(line[4]), int(line[5]), line[6], *(float(cell) if cell else "" for cell in line[7:]))
                for line in lines[1:]]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, but there is a {path.stem}.json") from None
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path}: not the rows of an evaluation ({' '.join(str(error).split())})") from None
