"""What an evaluation writes, a row per picture and a row per shape, and which rows a quantity is the mean of."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from ..errors import InputError
from ..files import one_line
from ..values import Between, Natural, rows_from_text

COMPONENTS = ("autoencoder", "G-clean")  # rows of parts of our model, which are given more than one image


Measured = float | Literal[""]
Row = TypeVar("Row", "ImageRow", "ShapeRow")


class ImageRow(NamedTuple):
    """One picture against its target. A metric that was not measured is "".

    protocol: the label of what was compared with what; method: a plan, another method's name, or one of COMPONENTS;
    kind: autoencoder, multiview (F's views), render (of a splat or mesh), or self-consistency, the renders against the
    views that they were reconstructed from. warning: which misreading of its object fits better, see misreadings.py.
    """

    protocol: str
    method: str
    seed: Natural
    object: str | int
    view: Natural
    is_input_view: Annotated[int, Between(0, 1)]
    kind: str
    psnr: Measured
    ssim: Measured = ""
    lpips: Measured = ""
    flip: Measured = ""
    warning: str = ""


class ShapeRow(NamedTuple):
    """One splat or mesh against the true surface, see geometry.py. A shape that no camera sees has no distances: ""."""

    protocol: str
    method: str
    seed: Natural
    object: str | int
    accuracy: Measured
    completeness: Measured
    chamfer: Measured
    f_score: float
    iou: float

    @classmethod
    def measured(cls, *keys: str | int, **record: float) -> "ShapeRow":
        """protocol, method, seed and object, and what `measure_shape` says."""
        return cls(*keys, *(round(record[name], 5) if math.isfinite(record[name]) else "" for name in cls._fields[4:]))

    @property
    def seen(self) -> bool:
        return "" not in self


METRICS = ImageRow._fields[7:11]
GEOMETRY = ShapeRow._fields[4:]
Quantities = dict[str, tuple[str, Callable[[int], bool]]]  # name -> kind of rows, and whether a view belongs to it


def orbit_quantities(num_views: int) -> Quantities:
    """Of procedural objects: views 0 ... num_views - 1 are the orbit, view 0 the input, later ones are novel."""
    return {"views 0": ("multiview", lambda v: v == 0), "views 1+": ("multiview", lambda v: v > 0),
            "3D view 0": ("render", lambda v: v == 0), "3D views 1+": ("render", lambda v: 0 < v < num_views),
            "3D novel": ("render", lambda v: v >= num_views), "self-consistency": ("self-consistency", lambda v: True)}


def protocol_quantities(primary: Sequence[int], input_view: int, orbit: int) -> Quantities:
    """Of a folder: the protocol says which views count; from number `orbit` on they are novel."""
    views = {"primary views": lambda v: v in primary, "input view": lambda v: v == input_view,
             "novel": lambda v: v >= orbit}
    return ({"PSNR": ("autoencoder", lambda v: True)}
            | {name: ("multiview", belongs) for name, belongs in views.items()}
            | {f"3D {name}": ("render", belongs) for name, belongs in views.items()}
            | {"self-consistency": ("self-consistency", lambda v: True)})


def doubts(rows: Sequence[ImageRow]) -> dict[str, str]:
    """By method, how many of its objects fit better if they are read otherwise, and how; only where some do."""
    found: dict[str, str] = {}
    for method in dict.fromkeys(row.method for row in rows):
        objects = {row.object: row.warning for row in rows if row.method == method and row.kind != "self-consistency"}
        if counts := Counter(filter(None, objects.values())).most_common():
            found[method] = ", ".join(f"{count} of {len(objects)} objects fit better {how}" for how, count in counts)
    return found


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_rows(path: Path) -> list[ImageRow]:
    """The images' CSV of an evaluation, numbers as numbers and objects as text. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, but there is a {path.stem}.json")
    rows = _read(path, ImageRow, needed="psnr")
    if fault := _incomplete(rows):
        raise InputError(f"{path}: not the rows of a whole evaluation ({fault})")
    return rows


def read_shapes(path: Path) -> list[ShapeRow]:
    """The shapes' CSV beside it, none where shapes were not measured. Raises InputError."""
    return _read(path, ShapeRow, needed="iou") if path.is_file() else []


def _incomplete(rows: Sequence[ImageRow]) -> str:
    """What means over objects and seeds would miss: a seed of an object, or a metric of a row."""
    seeds: dict[tuple, set] = {}
    pictures: dict[tuple, set] = {}
    metrics: dict[tuple, list[bool]] = {}
    for row in rows:
        group, measured = (row.method, row.kind), [getattr(row, name) != "" for name in METRICS]
        seeds.setdefault(group, set()).add(row.seed)
        pictures.setdefault((group, row.object, row.view), set()).add(row.seed)
        if metrics.setdefault(group, measured) != measured:
            return f"{row.method}, {row.object}, view {row.view}: other metrics than in rows before"
    return next((f"{group[0]}, {name}, view {view}: not the seeds of the others"
                 for (group, name, view), found in pictures.items() if found != seeds[group]), "")


def _read(path: Path, kind: type[Row], needed: str) -> list[Row]:
    where = f"{path}: not the rows of an evaluation"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{where} ({one_line(error)})") from None
    if tuple(header) != kind._fields[:len(header)] or needed not in header or not lines:  # once there were fewer
        raise InputError(f"{where}: its columns are not those of `ouroboros evaluate`, or it has no rows")
    return rows_from_text(kind, lines, where)
