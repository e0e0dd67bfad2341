"""How well the elevation of a picture is estimated, and what a wrong one costs.

`python -m tools.elevation --procedural 256 --meshes DIR --scans DIR --runs 12 --steps 5 --out results/elevation.json`

Objects are seen from elevations at random in the training range, meshes turned at random as well; a name gives the same
ones again. Scans are seen from 20 degrees, too, and not turned, as elsewhere in results. What is in the file already is
not measured again, so that a run can be given in parts.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ouroboros_lib.cameras import ELEVATION_RANGE, evenly_spaced_orbit
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.data.layouts import find_meshes
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.data.renders import held_out
from ouroboros_lib.evaluation.results import how_made
from ouroboros_lib.losses import psnr
from ouroboros_lib.pipeline import Ouroboros3DPipeline

GUESS = sum(ELEVATION_RANGE) / 2  # degrees, the mean: what an estimate has to beat
HELD_OUT = 128  # meshes that the shipped weights never saw
FIXED = 20.0  # degrees, of the scans that everything else is measured on

View = tuple[str, float, Tensor]  # name, true elevation, (V, 3, S, S) on white


def procedural(count: int, pipe: Ouroboros3DPipeline) -> Iterator[View]:
    """Held-out objects of the split `val`."""
    for number in range(count):
        truth = held_out_objects("val", 1, pipe.image_size, pipe.num_views, novel_views=0, start=number)
        yield f"val {number}", float(truth.orbit_cameras.elevations[0, 0]), truth.images[0]


def meshes(folder: Path, count: int, pipe: Ouroboros3DPipeline, only_held_out: bool, fixed: float | None = None
           ) -> Iterator[View]:
    """`count` of the meshes in a folder, by a hash of their names. fixed: degrees for all, and none is turned."""
    found = find_meshes([folder])
    names = held_out(found, HELD_OUT) if only_held_out else list(found)
    for name in sorted(names, key=lambda name: zlib.crc32(name.encode()))[:count]:
        draw = random.Random(name)
        elevation, yaw = (draw.uniform(*ELEVATION_RANGE), draw.uniform(0, 360)) if fixed is None else (fixed, 0.0)
        mesh, rig = load_mesh(found[name], yaw=yaw), evenly_spaced_orbit(pipe.num_views, elevation)
        yield name, elevation, render_mesh(mesh, rig, pipe.image_size).images


def estimate(pipe: Ouroboros3DPipeline, elevation: float, images: Tensor) -> dict:
    """What view 0 says of its elevation."""
    return {"true": round(elevation, 2), "estimated": round(float(pipe.estimate_elevation(images[:1])), 2)}


def cost(pipe: Ouroboros3DPipeline, row: dict, images: Tensor, steps: int) -> dict:
    """PSNR of views 1-7 in dB, and of the splat at these, by the elevation that a run is told."""
    told = {"given": row["true"], "estimated": row["estimated"], "guess": GUESS}
    output = pipe(images[:1].expand(3, -1, -1, -1).contiguous(), elevation=torch.tensor([*told.values()]),
                  num_inference_steps=steps, generator=[torch.Generator().manual_seed(0) for _ in told])
    shown = {"views": output.views, "3D": output.renders.rgb.clamp(0, 1)}
    return {key: {name: round(value, 3) for name, value in zip(
        told, psnr(of, images)[:, 1:].mean(1).tolist(), strict=True)} for key, of in shown.items()}


def summary(rows: list[dict]) -> dict:
    """Errors in degrees of the estimate and of always guessing the mean; means of PSNR over views 1-7 in dB."""
    true = np.array([row["true"] for row in rows])
    found: dict = {"objects": len(rows)}
    for name, told in (("estimated", np.array([row["estimated"] for row in rows])), ("guess", GUESS)):
        error = np.abs(told - true)
        found[name] = {"median_error": round(float(np.median(error)), 2), "mean_error": round(float(error.mean()), 2),
                       "within_5": round(float((error <= 5).mean()), 3),
                       "within_10": round(float((error <= 10).mean()), 3)}
    for key in ("views", "3D"):
        if run := [row[key] for row in rows if key in row]:
            found[key] = {"objects": len(run)} | {name: round(float(np.mean([one[name] for one in run])), 2)
                                                  for name in run[0]}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.elevation", description=__doc__.splitlines()[0])
    parser.add_argument("--procedural", type=int, default=0, help="so many procedural objects")
    parser.add_argument("--meshes", type=Path, help="the meshes that weights learned from")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="so many of those that they never saw")
    parser.add_argument("--scans", type=Path, help="meshes that nothing is chosen on")
    parser.add_argument("--limit", type=int, default=1000, help="so many of the scans")
    parser.add_argument("--runs", type=int, default=6, help="objects of each kind on which PSNR is measured")
    parser.add_argument("--steps", type=int, default=10, help="of these runs")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, default=Path("outputs/elevation.json"))
    options = parser.parse_args(arguments)
    pipe = Ouroboros3DPipeline.from_pretrained(options.preset)
    pipe.set_progress_bar_config(disable=True)
    kinds = {"procedural": procedural(options.procedural, pipe)}
    if options.meshes:
        kinds["held-out meshes"] = meshes(options.meshes, options.held_out, pipe, True)
    if options.scans:
        kinds["scans"] = meshes(options.scans, options.limit, pipe, False)
        kinds[f"scans at {FIXED:.0f}"] = meshes(options.scans, options.limit, pipe, False, FIXED)
    record = json.loads(options.out.read_text()) if options.out.exists() else {"minutes": 0.0, "rows": {}}
    before, started, rows = record["minutes"], time.monotonic(), record["rows"]
    for kind, views in kinds.items():
        done = rows.setdefault(kind, {})
        for number, (name, elevation, images) in enumerate(views):
            if name not in done:
                done[name] = estimate(pipe, elevation, images)
            if number < options.runs and "3D" not in done[name]:
                done[name] |= cost(pipe, done[name], images, options.steps)
            print(kind, name, done[name], flush=True)
            write(options, pipe, started, before, rows)
    print(json.dumps(write(options, pipe, started, before, rows), indent=1))


def write(options: argparse.Namespace, pipe: Ouroboros3DPipeline, started: float, before: float, rows: dict) -> dict:
    """All that was measured; returns its summary. before: minutes of earlier runs."""
    record = how_made(torch.device("cpu"), started) | {
        "command": command(options), "settings": settings(options, pipe),
        "figures": {kind: summary([*of.values()]) for kind, of in rows.items() if of}, "rows": rows}
    record["minutes"] = round(before + record["minutes"], 2)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    return record["figures"]


def command(options: argparse.Namespace) -> str:
    """As it was given, without where folders lie."""
    words = [f"--procedural {options.procedural}"] * bool(options.procedural)
    if options.meshes:
        words += [f"--meshes {options.meshes.name}", f"--held-out {options.held_out}"]
    if options.scans:
        words += [f"--scans {options.scans.name}"]
    return " ".join(["python -m tools.elevation", *words, f"--runs {options.runs}", f"--steps {options.steps}"])


def settings(options: argparse.Namespace, pipe: Ouroboros3DPipeline) -> dict:
    return {"preset": options.preset, "seed": 0, "guess": GUESS,
            "psnr": {"steps": options.steps, "plan": pipe.config.plan}}


if __name__ == "__main__":
    main()
