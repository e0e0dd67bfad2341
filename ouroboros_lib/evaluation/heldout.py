"""The models on held-out procedural objects: raw numbers per view, and a summary with intervals."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..data.ring import MultiviewBatch, held_out_objects
from ..noise import c_noise
from ..pipeline import Ouroboros3DPipeline
from ..rasterization import rasterize
from .metrics import psnr, ssim

COLUMNS = ("protocol", "method", "seed", "object", "view", "is_input_view", "kind", "psnr", "ssim", "lpips")
CLEAN_SIGMA = 0.002


def evaluate_heldout(pipeline: Ouroboros3DPipeline, out: str | Path, split: str = "test", objects: int = 128,
                     feedbacks: tuple[str, ...] = ("both", "none"), seeds: tuple[int, ...] = (0,), steps: int = 25,
                     guidance_scale: float = 1.0, batch: int = 16,
                     projections: tuple[float | None, ...] = (None,)) -> dict:
    """Measure autoencoder, G on clean views, and the recursion with each kind of feedback in the same weights.

    projections: the pipeline's `project_above`; each is measured with each feedback.

    Writes `out`.csv, a row per image (COLUMNS; lpips stays empty here), and `out`.json: how it was made, and the
    summary that is returned. Kinds: autoencoder, render (of G), multiview (F's views), and self-consistency, which
    compares F's views with the renders of their own reconstruction. Views 0 ... V - 1 are the orbit, view 0 the input;
    later ones are novel.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    protocol = f"procedural-{split}-{objects}"
    started, rows = time.monotonic(), []
    device = pipeline.device
    pipeline.set_progress_bar_config(disable=True)
    for first in tqdm(range(0, objects, batch), desc="objects"):
        count = min(batch, objects - first)
        data = held_out_objects(split, count, pipeline.image_size, pipeline.num_views, device=device, start=first)
        for method, seed, kind, scores in _measure(pipeline, data, first, feedbacks, projections, seeds, steps,
                                                   guidance_scale):
            rows += _rows(protocol, method, seed, first, kind, scores)
    summary = summarize(rows, pipeline.num_views)
    record = {"command": "ouroboros " + " ".join(sys.argv[1:]), "date": date.today().isoformat(), "commit": _commit(),
              "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
              "versions": {name: version(name) for name in ("torch", "diffusers")},
              "minutes": round((time.monotonic() - started) / 60, 2),
              "settings": {"split": split, "objects": objects, "seeds": list(seeds), "steps": steps,
                           "guidance_scale": guidance_scale, "project_above": list(projections)}, "summary": summary}
    _write(out.with_suffix(".csv"), rows)
    _replace(out.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    return summary


@torch.no_grad()
def _measure(pipeline, data: MultiviewBatch, first: int, feedbacks, projections, seeds, steps, guidance_scale):
    """Yields (method, seed, kind, (psnr, ssim)), the scores (B, views)."""
    orbit, truth = data.num_orbit_views, data.images
    decoded = pipeline.autoencoder.decode(pipeline.autoencoder.encode(data.orbit_images)).clamp(0, 1)
    yield "autoencoder", 0, "autoencoder", _scores(decoded, data.orbit_images)

    clean = c_noise(torch.full((len(truth),), CLEAN_SIGMA, device=truth.device))
    gaussians = pipeline.reconstructor(data.orbit_images, data.orbit_cameras, clean)
    yield "G-clean", 0, "render", _scores(rasterize(gaussians, data.cameras, truth.shape[-1]).rgb.clamp(0, 1), truth)

    for seed in seeds:
        for feedback, above in product(feedbacks, projections):
            # one generator per object, so that its noise does not depend on the batch; the same for every feedback
            generator = [torch.Generator(truth.device).manual_seed(1_000_003 * seed + first + i)
                         for i in range(len(truth))]
            result = pipeline(truth[:, 0], cameras=data.orbit_cameras, num_inference_steps=steps,
                              guidance_scale=guidance_scale, feedback=feedback, project_above=above,
                              generator=generator)
            renders = rasterize(result.gaussians, data.cameras, truth.shape[-1]).rgb.clamp(0, 1)
            method = f"feedback-{feedback}" + ("" if above is None else f"-projected-above-{above:g}")
            yield method, seed, "multiview", _scores(result.views, data.orbit_images)
            yield method, seed, "render", _scores(renders, truth)
            yield method, seed, "self-consistency", _scores(renders[:, :orbit], result.views)


def _scores(images, truth):
    return psnr(images, truth).cpu(), ssim(images, truth).cpu()


def _rows(protocol, method, seed, first, kind, scores):
    return [(protocol, method, seed, first + i, v, int(v == 0), kind, round(float(scores[0][i, v]), 3),
             round(float(scores[1][i, v]), 4), "") for i in range(len(scores[0])) for v in range(scores[0].shape[1])]


def summarize(rows: list[tuple], num_views: int) -> dict:
    """Means over objects and seeds; for each pair of feedbacks the paired difference with a 95 % bootstrap interval."""
    kinds = {"views 0": ("multiview", lambda v: v == 0), "views 1+": ("multiview", lambda v: v > 0),
             "3D view 0": ("render", lambda v: v == 0), "3D views 1+": ("render", lambda v: 0 < v < num_views),
             "3D novel": ("render", lambda v: v >= num_views), "self-consistency": ("self-consistency", lambda v: True)}
    means, tables = {}, {}
    for method in dict.fromkeys(row[1] for row in rows):
        mine = [row for row in rows if row[1] == method]
        chosen = {"PSNR": ("autoencoder", lambda v: True)} if method == "autoencoder" else kinds
        for name, (kind, keep) in chosen.items():
            table = _per_object([row for row in mine if row[6] == kind and keep(row[4])])
            if table.size:
                tables[method, name] = table  # (objects, seeds, 2)
                means.setdefault(method, {})[name] = {"psnr": round(float(table[..., 0].mean()), 2),
                                                      "ssim": round(float(table[..., 1].mean()), 4)}
    differences = {}
    methods = [method for method in means if method.startswith("feedback-")]
    for a, b in ((a, b) for i, a in enumerate(methods) for b in methods[i + 1:]):
        differences[f"{a} minus {b}"] = {
            name: paired_interval(tables[a, name][..., 0], tables[b, name][..., 0]) for name in means[a]}
    return {"means": means, "paired differences in dB": differences}


def _per_object(rows: list[tuple]) -> np.ndarray:
    """(objects, seeds, 2): PSNR and SSIM, averaged over the views of `rows`."""
    cells: dict[tuple, list] = {}
    for row in rows:
        cells.setdefault((row[3], row[2]), []).append(row[7:9])
    objects, seeds = sorted({key[0] for key in cells}), sorted({key[1] for key in cells})
    return np.array([[np.mean(cells[o, s], axis=0) for s in seeds] for o in objects])


def paired_interval(a: np.ndarray, b: np.ndarray, resamples: int = 2000) -> dict:
    """Mean of a - b, (objects, seeds) each, with a 95 % interval from resampling objects and seeds (Efron 1979)."""
    difference, random = a - b, np.random.default_rng(0)
    objects, seeds = difference.shape
    means = [difference[random.integers(objects, size=objects)][:, random.integers(seeds, size=seeds)].mean()
             for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": round(float(difference.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _write(path: Path, rows: list[tuple]) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    os.replace(partial, path)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                         cwd=Path(__file__).parent)
    return run.stdout.strip() or "unknown"
