"""The models on held-out procedural objects: raw numbers per view, and a summary with intervals."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.batches import MultiviewBatch, held_out_objects
from ..data.procedural import sample_objects
from ..files import replace_file
from ..gaussians import Gaussians
from ..noise import c_noise
from ..pipeline import Ouroboros3DPipeline
from ..rasterization import rasterize
from .geometry import GEOMETRY_COLUMNS, measure_geometry
from .metrics import psnr, ssim

KEYS = ("protocol", "method", "seed", "object")
COLUMNS = (*KEYS, "view", "is_input_view", "kind", "psnr", "ssim", "lpips", "flip")
KINDS = {  # quantity -> kind of rows, and whether view v of V orbit views belongs to it
    "views 0": ("multiview", lambda v, views: v == 0), "views 1+": ("multiview", lambda v, views: v > 0),
    "3D view 0": ("render", lambda v, views: v == 0), "3D views 1+": ("render", lambda v, views: 0 < v < views),
    "3D novel": ("render", lambda v, views: v >= views),
    "self-consistency": ("self-consistency", lambda v, views: True)}
CLEAN_SIGMA = 0.002
Metrics = dict[str, Callable[[Tensor, Tensor], Tensor]]  # column -> (prediction, target) to one number per image


@dataclass(frozen=True)
class Variant:
    """One way to run the recursion with the same weights: the pipeline's arguments, and the rows' `method`."""

    feedback: str = "both"
    feedback_from: int = 0
    feedback_share: float = 1.0
    feedback_scale: float = 1.0
    project_above: float | None = None
    project_share: float = 1.0
    keep_input: bool = False
    steps: int = 25
    guidance: float | None = None
    eta: float | None = None
    feedback_every: int = 1
    project_every: int = 1

    @property
    def method(self) -> str:
        """feedback-KIND, and what differs from the defaults."""
        parts = [f"-{field.name.replace('_', '-')}-{getattr(self, field.name):g}" for field in fields(self)[1:]
                 if getattr(self, field.name) != field.default]
        return f"feedback-{self.feedback}" + "".join(parts)

    @property
    def arguments(self) -> dict:
        """Of the pipeline. feedback "default": what the pipeline does by itself; otherwise nothing is left to it."""
        common = {"guidance_scale": self.guidance, "num_inference_steps": self.steps, "eta": self.eta}
        if self.feedback == "default":
            return common
        return {"feedback": self.feedback, "feedback_from_step": self.feedback_from,
                "feedback_share": self.feedback_share, "feedback_every": self.feedback_every,
                "feedback_scale": self.feedback_scale,
                "project_above": math.inf if self.project_above is None else self.project_above,
                "project_share": self.project_share, "project_every": self.project_every,
                "keep_input": self.keep_input} | common


DETAILS = ("feedback_from", "feedback_share", "feedback_every", "feedback_scale")  # of the feedback
PROJECTION = ("project_above", "project_share", "project_every", "keep_input")


def all_variants(**choices: Iterable) -> list[Variant]:
    """All combinations of the values given for Variant's fields; details of what is off do not matter."""
    combinations = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    for entry in combinations:
        kind = entry.get("feedback")
        unused = {"none": DETAILS, "default": DETAILS + PROJECTION}.get(kind, ())
        if entry.get("project_above") is None:
            unused += ("project_share", "project_every")
        for detail in unused:
            entry.pop(detail, None)
    return list(dict.fromkeys(Variant(**entry) for entry in combinations))


def arguments_of(variants: Iterable[Variant], pipeline: Ouroboros3DPipeline) -> dict[str, dict]:
    """Method to arguments, for the record, with what the pipeline has by default."""
    config, arguments = pipeline.config, {}
    for variant in variants:
        told = dict(variant.arguments)
        if variant.guidance is None:
            told["guidance_scale"] = config.guidance_scale
        if variant.feedback == "default":
            told["feedback_options"] = config.feedback_options
        elif variant.project_above is None:
            told["project_above"] = None  # JSON has no infinity
        arguments[variant.method] = told
    return arguments


def evaluate_heldout(pipeline: Ouroboros3DPipeline, out: str | Path, split: str = "test", objects: int = 128,
                     variants: Iterable[Variant] = (Variant("both"), Variant("none")), seeds: tuple[int, ...] = (0,),
                     batch: int = 16, metrics: Metrics | None = None, geometry: int = 0,
                     single_view: bool = False) -> dict:
    """Measure autoencoder, G on clean views, and the recursion in several variants of the same weights.

    metrics: beside PSNR and SSIM, for the columns lpips and flip, which stay empty otherwise. geometry: of so many
    objects, the first ones, also write `out`_geometry.csv, see `measure_geometry`. single_view: a reconstructor that
    was trained on the condition view alone is measured (method single-view) and nothing else.

    Writes `out`.csv, a row per image (COLUMNS), and `out`.json: how it was made, and the summary that is returned.
    Kinds: autoencoder, render (of G), multiview (F's views), and self-consistency, which compares F's views with the
    renders of their own reconstruction. Views 0 ... V - 1 are the orbit, view 0 the input; later ones are novel.
    """
    out, variants = Path(out), list(variants)
    out.parent.mkdir(parents=True, exist_ok=True)
    protocol = f"procedural-{split}-{objects}"
    started, rows, shapes = time.monotonic(), [], []
    device = pipeline.device
    pipeline.set_progress_bar_config(disable=True)
    metrics = {"psnr": psnr, "ssim": ssim} | (metrics or {})
    for first in tqdm(range(0, objects, batch), desc="objects"):
        numbers = range(first, min(first + batch, objects))
        data = held_out_objects(split, len(numbers), pipeline.image_size, pipeline.num_views, device=device,
                                start=first)
        shaped = range(first, min(numbers.stop, geometry))
        exact = sample_objects(split, shaped).to(device) if shaped else None
        parts = _single_view(pipeline, data) if single_view else _measure(pipeline, data, first, variants, seeds)
        for method, seed, kind, pairs, gaussians in parts:
            scores = {name: f(*pairs) for name, f in metrics.items()}
            rows += image_rows((protocol, method, seed), numbers, kind, scores)
            if exact is not None and gaussians is not None:
                records = measure_geometry(gaussians[: len(shaped)], exact)
                shapes += [(protocol, method, seed, number, *(round(record[c], 5) for c in GEOMETRY_COLUMNS))
                           for number, record in zip(shaped, records, strict=True)]
    summary = summarize(rows, pipeline.num_views)
    if geometry:
        summary["geometry"] = summarize_geometry(shapes)
    settings = {"split": split, "objects": objects, "num_views": pipeline.num_views, "seeds": list(seeds),
                "metrics": list(metrics),
                "variants": {} if single_view else arguments_of(variants, pipeline)}
    record = how_made(device, started) | {"settings": settings, "summary": summary}
    write_rows(out.with_suffix(".csv"), COLUMNS, rows)
    if geometry:
        write_rows(out.with_name(out.name + "_geometry.csv"), (*KEYS, *GEOMETRY_COLUMNS), shapes)
    replace_file(out.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    return summary


Part = tuple[str, int, str, tuple[Tensor, Tensor], "Gaussians | None"]  # method, seed, kind, images and truth, splats


@torch.no_grad()
def _measure(pipeline, data: MultiviewBatch, first: int, variants, seeds) -> Iterator[Part]:
    orbit, truth = data.num_orbit_views, data.images
    decoded = pipeline.autoencoder.decode(pipeline.autoencoder.encode(data.orbit_images)).clamp(0, 1)
    yield "autoencoder", 0, "autoencoder", (decoded, data.orbit_images), None
    gaussians = _from_clean_views(pipeline, data, data.orbit_images)
    yield "G-clean", 0, "render", (_renders(gaussians, data), truth), gaussians
    for seed, variant in product(seeds, variants):
        # one generator per object, so that its noise does not depend on the batch; the same for every variant
        generator = [torch.Generator(truth.device).manual_seed(1_000_003 * seed + first + i)
                     for i in range(len(truth))]
        result = pipeline(truth[:, 0], cameras=data.orbit_cameras, generator=generator, **variant.arguments)
        renders = _renders(result.gaussians, data)
        yield variant.method, seed, "multiview", (result.views, data.orbit_images), None
        yield variant.method, seed, "render", (renders, truth), result.gaussians
        yield variant.method, seed, "self-consistency", (renders[:, :orbit], result.views), None


@torch.no_grad()
def _single_view(pipeline, data: MultiviewBatch) -> Iterator[Part]:
    gaussians = _from_clean_views(pipeline, data, data.condition_everywhere)
    yield "single-view", 0, "render", (_renders(gaussians, data), data.images), gaussians


def _from_clean_views(pipeline, data: MultiviewBatch, views: Tensor) -> Gaussians:
    clean = c_noise(torch.full((len(views),), CLEAN_SIGMA, device=views.device))
    return pipeline.reconstructor(views, data.orbit_cameras, clean)


def _renders(gaussians: Gaussians, data: MultiviewBatch) -> Tensor:
    return rasterize(gaussians, data.cameras, data.rgba.shape[-1]).rgb.clamp(0, 1)


def image_rows(keys: tuple, objects: Sequence, kind: str, scores: dict[str, Tensor],
               views: Sequence[int] | None = None, input_view: int = 0) -> list[tuple]:
    """A row (COLUMNS) per object and view; scores: (objects, views) for each metric; views: their numbers."""
    scores = {name: value.cpu() for name, value in scores.items()}
    views = range(scores["psnr"].shape[1]) if views is None else views

    def cell(name: str, i: int, v: int) -> float | str:
        return round(float(scores[name][i, v]), 3 if name == "psnr" else 4) if name in scores else ""

    return [(*keys, name, view, int(view == input_view), kind,
             *(cell(column, i, v) for column in ("psnr", "ssim", "lpips", "flip")))
            for i, name in enumerate(objects) for v, view in enumerate(views)]


def summarize(rows: list[tuple], num_views: int) -> dict:
    """Means over objects and seeds; paired differences of each pair of feedbacks with 95 % bootstrap intervals."""
    measured = [name for name, value in zip(COLUMNS[7:], rows[0][7:], strict=True) if value != ""]
    means, tables = {}, {}
    for method in dict.fromkeys(row[1] for row in rows):
        mine = [row for row in rows if row[1] == method]
        chosen = {"PSNR": ("autoencoder", lambda v, views: True)} if method == "autoencoder" else KINDS
        for name, (kind, keep) in chosen.items():
            table = per_object([row for row in mine if row[6] == kind and keep(row[4], num_views)])
            if table.size:
                tables[method, name] = table  # (objects, seeds, metrics)
                means.setdefault(method, {})[name] = {
                    metric: round(float(table[..., i].mean()), 2 if metric == "psnr" else 4)
                    for i, metric in enumerate(measured)}
    differences: dict[str, dict] = {f"paired differences {_unit(metric)}": {} for metric in measured}
    methods = [method for method in means if method.startswith("feedback-")]
    for a, b in ((a, b) for i, a in enumerate(methods) for b in methods[i + 1:]):
        for i, metric in enumerate(measured):
            differences[f"paired differences {_unit(metric)}"][f"{a} minus {b}"] = {
                name: paired_interval(tables[a, name][..., i], tables[b, name][..., i], digits=3 if i == 0 else 4)
                for name in means[a]}
    return {"means": means} | differences


def _unit(metric: str) -> str:
    return "in dB" if metric == "psnr" else f"of {metric}"


def summarize_geometry(rows: list[tuple]) -> dict:
    """Per method, the mean over objects and seeds of what is finite, and how many splats nobody sees."""
    summary = {}
    for method in dict.fromkeys(row[1] for row in rows):
        table = np.array([row[4:] for row in rows if row[1] == method])
        seen = np.isfinite(table).all(axis=1)
        means = table[seen].mean(axis=0) if seen.any() else np.full(table.shape[1], np.nan)
        summary[method] = {name: round(float(mean), 4) for name, mean in zip(GEOMETRY_COLUMNS, means, strict=True)}
        summary[method]["unseen"] = int((~seen).sum())
    return summary


def per_object(rows: list[tuple]) -> np.ndarray:
    """(objects, seeds, metrics): averaged over the views of `rows`, metrics that were not measured left out."""
    cells: dict[tuple, list] = {}
    for row in rows:
        cells.setdefault((row[3], row[2]), []).append([value for value in row[7:] if value != ""])
    objects, seeds = sorted({key[0] for key in cells}), sorted({key[1] for key in cells})
    return np.array([[np.mean(cells[o, s], axis=0) for s in seeds] for o in objects])


def paired_interval(a: np.ndarray, b: np.ndarray, resamples: int = 2000, digits: int = 3) -> dict:
    """Mean of a - b, (objects, seeds) each, with a 95 % interval from resampling objects and seeds (Efron 1979)."""
    difference, random = a - b, np.random.default_rng(0)
    objects, seeds = difference.shape
    means = [difference[random.integers(objects, size=objects)][:, random.integers(seeds, size=seeds)].mean()
             for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {name: round(float(value), digits) for name, value in (("mean", difference.mean()), ("low", low),
                                                                  ("high", high))}


def how_made(device: torch.device, started: float) -> dict:
    """Command, date, commit, device, versions and minutes of a run that began at `started` (time.monotonic)."""
    return {"command": "ouroboros " + " ".join(sys.argv[1:]), "date": date.today().isoformat(), "commit": _commit(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "versions": {name: version(name) for name in ("torch", "diffusers")},
            "minutes": round((time.monotonic() - started) / 60, 2)}


def write_rows(path: Path, columns: tuple[str, ...], rows: Iterable[tuple]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    replace_file(path, text.getvalue().encode())


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                         cwd=Path(__file__).parent)
    return run.stdout.strip() or "unknown"
