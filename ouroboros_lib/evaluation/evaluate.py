"""One evaluation of any method on any source: rows per picture, rows per shape, a summary, a sheet of pictures.

Each object's rows are kept in `OUT.parts/` as soon as they are measured, so that an interrupted evaluation goes on
where it stopped. An object that cannot be measured is skipped, with its reason, and the others are measured all the
same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.folders import MultiviewObject
from ..errors import InputError
from ..files import dump_json, staged
from ..plans import Plan
from .alignment import align_pictures, align_shape
from .geometry import Surface, measure_shape
from .methods import Method, Part
from .metrics import psnr, ssim
from .misreadings import Images, doubt
from .pictures import resized, zoomed
from .results import TILE, PartialResults, contact_sheet, how_made, partial_results, stamp
from .rows import METRICS, ImageRow, ShapeRow, doubts, write_rows
from .sources import Source
from .statistics import digits, summarize, summarize_shapes

SHEET_OBJECTS, SHEET_VIEWS = 12, 3
# batches of objects, the folder of partial results, the settings -> each batch and why objects of it were skipped
Spread = Callable[[list[list], Path, dict], Generator[tuple[list, dict], None, None]]
Metrics = dict[str, Callable[[Tensor, Tensor], Tensor]]  # column -> (prediction, target) to one number an image


def evaluate(source: Source, method: Method, plans: Sequence[Plan | str] = (), *, out: str | Path,
             align: str = "none", metrics: Metrics | None = None, spread: Spread | None = None
             ) -> tuple[dict, dict[str, str]]:
    """Measure a method on a source; returns the summary, and the objects that were skipped with the reason.

    plans: of our pipeline, by default the weights' own and two-stage. align: let the truth choose an azimuth and a
    scale, see alignment.py; the rows' method then ends in -aligned-KIND. metrics: beside PSNR and SSIM, for the columns
    lpips and flip.
    Writes `out`.csv (`ImageRow`s), `out`.json (how it was made, and the summary), `out`.png, and where shapes are
    measured `out`_geometry.csv (`ShapeRow`s). Raises InputError when nothing can be measured.
    """
    started, out = time.monotonic(), Path(out)
    run = prepared(source, method, plans, align, metrics)
    with partial_results(out, run.settings()) as parts:
        return _evaluate(run, out, parts, started, spread)


def prepared(source: Source, method: Method, plans: Sequence[Plan | str], align: str, metrics: Metrics | None) -> Run:
    """What `evaluate` measures, ready to. Raises InputError."""
    if align in ("azimuth", "both") and method.kind == "images":
        raise InputError(f"--align {align}: pictures cannot be turned; scale or none")
    source.prepare(method)
    method.check(source)
    return Run(source, method, method.plans(plans), align, {"psnr": psnr, "ssim": ssim} | (metrics or {}))


def _evaluate(run: Run, out: Path, parts: PartialResults, started: float,
              spread: Spread | None) -> tuple[dict, dict[str, str]]:
    source, skipped, untold, seen = run.source, dict(run.source.skipped), [], 0
    batches = [source.names[first:first + source.batch] for first in range(0, len(source.names), source.batch)]
    results = ((names, run.keep(names, parts)) for names in batches) if spread is None else spread(
        batches, parts.folder, run.settings())
    with tqdm(total=len(source.names), unit=" objects", disable=not sys.stderr.isatty(), leave=False) as bar, \
            closing(results):
        for names, reasons in results:
            skipped |= reasons
            seen += len(names)
            untold += [f"skipped: {reason}" for reason in reasons.values()]
            if len(skipped) < len(source.skipped) + seen:  # else there may be but one error to tell
                while untold:
                    _say(untold.pop(0))
            bar.update(len(names))
    skipped = {name: skipped[name] for name in (*source.skipped, *source.names) if name in skipped}
    done = [name for name in source.names if name not in skipped]
    if not done:
        parts.remove()
        raise InputError(f"{source.label}: none of {len(skipped)} objects could be measured; the first: "
                         f"{next(iter(skipped.values()))}")
    summary = _write(run, out, parts, done, skipped, started)
    if not skipped:
        parts.remove()
    return summary, skipped


def _say(line: str) -> None:
    tqdm.write(" ".join(line.split()), file=sys.stderr)


@dataclass
class Measured:
    """What is kept of one object: its rows, how it was aligned, and tiles for the sheet by method and kind."""

    name: str | int
    rows: list[ImageRow] = field(default_factory=list)
    shapes: list[ShapeRow] = field(default_factory=list)
    alignment: dict = field(default_factory=dict)
    tiles: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Run:
    """A method on a source that has been prepared for it."""

    source: Source
    method: Method
    plans: list[Plan]
    align: str
    metrics: Metrics

    def settings(self) -> dict:
        """All that the figures depend on."""
        names = [f"{name} ({f.backbone})" if hasattr(f, "backbone") else name for name, f in self.metrics.items()]
        missing = [name for name in self.source.metrics  # plain lpips: the backbone is not stated
                   if name not in names and not (name == "lpips" and "lpips" in self.metrics)]
        return {**self.source.settings(), **self.method.settings(self.plans), "align": self.align, "metrics": names,
                "metrics of the protocol that were not measured": missing}

    @property
    def shown(self) -> list[int]:
        """The views of the sheet: the input, then some, spread over those that count."""
        primary = self.source.primary_views
        chosen = [primary[len(primary) * (2 * i + 1) // (2 * SHEET_VIEWS)] for i in range(SHEET_VIEWS)]
        return [self.source.input_view, *chosen]

    def keep(self, names: list, parts: PartialResults) -> dict[str, str]:
        """Measure those of some objects that are not yet; returns the reasons why objects could not be."""
        try:
            stamps = {name: stamp(self.source.files(name) + self.method.files(name)) for name in names}
            missing = [name for name in names if not parts.holds(name, stamps[name])]
            for measured in self.measure(missing) if missing else ():
                record = {name: getattr(measured, name) for name in ("rows", "shapes", "alignment")}
                parts.write(measured.name, stamps[measured.name], record, measured.tiles)
        except InputError as error:
            if len(names) > 1:  # the others can be measured all the same
                return {name: reason for one in names for name, reason in self.keep([one], parts).items()}
            return {names[0]: str(error) if str(names[0]) in str(error) else f"{names[0]}: {error}"}
        return {}

    def measure(self, names: list) -> list[Measured]:
        """Rows and tiles of some objects. Raises InputError."""
        objects = self.source.load(names)
        surfaces = [self.source.surface(truth) for truth in objects]
        found = [Measured(truth.name) for truth in objects]
        for measured, truth in zip(found, objects, strict=True):
            pictures = dict(enumerate(truth.images))
            measured.tiles = {"truth": _tiles(pictures, self.shown)}
        for part in self.method.parts(objects, self.source, self.plans):
            self._add(found[part.index], part, objects[part.index], surfaces[part.index])
        return found

    def _add(self, measured: Measured, part: Part, truth: MultiviewObject, surface: Surface | None) -> None:
        for note in part.shape.notes if part.shape is not None else ():
            _say(f"note: {truth.name}: {note}")
        how = {"scale": 1.0}
        if self.align != "none":
            if part.shape is None and self.method.kind != "images":
                return  # what is aligned is the shape, and then it need not agree with the views that it came from
            part, how = _aligned(part, truth, self.source.primary_views, self.align)
            measured.alignment[part.method] = how
        keys = (self.source.label, part.method, part.seed, truth.name)
        images = part.images
        if part.shape is not None:
            images = dict(enumerate(part.shape.seen(truth.cameras, truth.rgba.shape[-1])[0]))
        doubted = doubt(images, part.misreadings, truth, self.source.primary_views, how["scale"])
        measured.rows += self._rows(keys, part.kind, images, dict(enumerate(truth.images)), doubted)
        if part.views is not None and self.align == "none":
            seen = {view: images[view] for view in part.views}
            measured.rows += self._rows(keys, "self-consistency", seen, part.views)
        if surface is not None and part.shape is not None:
            record = measure_shape(part.shape, surface)
            measured.shapes.append(ShapeRow.measured(*keys, **record))
        if part.kind in ("multiview", "render"):
            measured.tiles.setdefault(f"{part.method}/{part.kind}", _tiles(images, self.shown))

    def _rows(self, keys: tuple, kind: str, images: Images, targets: Images, warning: str = "") -> list[ImageRow]:
        views = sorted(images)
        prediction, target = (torch.stack([pictures[view] for view in views]).to(self.method.device)
                              for pictures in (images, targets))
        scores = {name: [round(value, digits(name)) for value in measure(prediction, target).tolist()]
                  for name, measure in self.metrics.items()}
        return [ImageRow(*keys, view, int(view == self.source.input_view), kind,
                         *(scores[name][i] if name in scores else "" for name in METRICS), warning)
                for i, view in enumerate(views)]


def _aligned(part: Part, truth: MultiviewObject, views: tuple[int, ...], align: str) -> tuple[Part, dict]:
    """A part that fits the truth best, and the azimuth in degrees and scale under which it does."""
    method = f"{part.method}-aligned-{align}"
    if part.shape is not None:
        azimuth, scale = align_shape(part.shape, truth, views, align)
        changed = {"shape": part.shape.turned(azimuth, scale)}
    else:
        azimuth, scale = 0.0, align_pictures(part.images, truth, views)
        changed = {"images": {view: zoomed(image, scale) for view, image in part.images.items()}}
    return replace(part, method=method, **changed), {"azimuth": round(azimuth, 2), "scale": round(scale, 4)}


def _tiles(images: Images, views: list[int]) -> np.ndarray:
    """(len(views), 3, TILE, TILE) uint8; white where there is no picture."""
    blank = torch.ones(3, TILE, TILE)
    small = [resized(images[view], TILE).cpu() if view in images else blank for view in views]
    return (255 * torch.stack(small)).round().byte().numpy()


def _write(run: Run, out: Path, parts: PartialResults, names: list, skipped: dict[str, str], started: float) -> dict:
    records = {name: parts.read(name) for name in names}
    rows = [ImageRow(*row) for record in records.values() for row in record["rows"]]
    shapes = [ShapeRow(*row) for record in records.values() for row in record["shapes"]]
    summary = summarize(rows, run.source.quantities)
    if shapes:
        summary["geometry"] = summarize_shapes(shapes)
    if found := doubts(rows):
        summary["warnings"] = found
        for method, text in found.items():
            _say(f"{method}: {text}: check the convention")
    protocol = run.source.protocol
    record = (how_made(run.method.device, started) | {"settings": run.settings()}
              | ({} if protocol is None else {"protocol": protocol.record()})
              | {"objects": len(names), "skipped": skipped, "summary": summary})
    if run.align != "none":
        record["alignment"] = {name: entry["alignment"] for name, entry in records.items()}
    with staged(out.parent) as stage:
        write_rows(stage / f"{out.name}.csv", ImageRow._fields, rows)
        if shapes:
            write_rows(stage / f"{out.name}_geometry.csv", ShapeRow._fields, shapes)
        sheet = contact_sheet({name: parts.tiles(name) for name in names[:SHEET_OBJECTS]}, run.shown)
        sheet.save(stage / f"{out.name}.png")
        (stage / f"{out.name}.json").write_bytes(dump_json(record))
    return summary
