"""Every command that writes, at its smallest: for the tests of full disks, second writers and kills."""

import json
from pathlib import Path

import numpy as np
import trimesh
from fuel import Fuel, gso_zip
from gaussian_inputs import random_gaussians
from library_inputs import kaykit_zip
from PIL import Image, ImageDraw

from ouroboros_lib.data.renders import render_procedural

STAGE = {"steps": 2, "batch_size": 2, "reconstruction_batch": 1, "objects": 2, "refresh_objects": 2, "novel_views": 0,
         "validation_objects": 1, "checkpoint_every": 1, "stage": "reconstructor"}


def make_inputs(folder: Path) -> Path:
    """A picture, a splat, meshes, multi-view folders and a recipe, for the commands below."""
    (folder / "meshes").mkdir(parents=True)
    picture = Image.new("RGBA", (40, 40))
    ImageDraw.Draw(picture).ellipse((10, 10, 30, 30), fill=(200, 80, 40, 255))
    picture.save(folder / "cup.png")
    random_gaussians(50).save(folder / "splat.ply")
    for name in ("one", "two", "three"):
        ball = trimesh.creation.icosphere(1)
        ball.visual.vertex_colors = np.tile(np.uint8([200, 40, 0, 255]), (len(ball.vertices), 1))
        ball.export(folder / "meshes" / f"{name}.ply")
    render_procedural("val", range(3), folder / "views", 32, 4, 0, 0, 1, lambda name: None)
    recipe = {"preset": "tiny", "settings": STAGE, "stages": [{"name": "first"}]}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "results").mkdir()
    return folder


def served() -> Fuel:
    """A server with three objects."""
    fuel = Fuel()
    fuel.archives = {f"Thing_{i}": gso_zip(i) for i in range(3)}
    fuel.files["kit"] = kaykit_zip()
    return fuel


def words(command: str, inputs: Path, out: Path, server: str = "") -> list[str]:
    """The arguments of a command that writes into the folder `out`, which need not exist."""
    found = {
        "generate": ["generate", inputs / "cup.png", "--preset", "tiny", "--steps", 1, "--out", out],
        "export": ["export", inputs / "splat.ply", "--format", "ply,splat,views", "--views", 2, "--size", 32,
                   "--out", out],
        "view": ["view", inputs / "splat.ply", "--no-open", "--out", out / "page.html"],
        "data objects": ["data", "objects", "--out", out, "--count", 2, "--size", 16, "--views", 3, "--novel", 0],
        "data render": ["data", "render", inputs / "meshes", "--out", out, "--size", 24, "--views", 3, "--workers", 1],
        "data shards": ["data", "shards", inputs / "views", "--out", out, "--shard-mb", 0.01],
        "data gso download": ["data", "gso", "download", "--server", server, "--all", "--out", out, "--workers", 2],
        "data library": ["data", "library", out, "--only", "kaykit/armchair,kaykit/bed_double_A", "--archive",
                         f"kaykit={server}/kit.zip"],
        "evaluate": ["evaluate", "--split", "val", "--objects", 2, "--batch", 1, "--preset", "tiny", "--steps", 1,
                     "--plan", "two-stage", "--lpips", "off", "--out", out / "figures"],
        "tables": ["tables", "--results", inputs / "results", "--out", out],
        "train": ["train", "--preset", "tiny", "--out", out,
                  *(word for key, value in STAGE.items() for word in ("--set", f"{key}={value}"))],
        "recipe": ["recipe", inputs / "recipe.json", "--gpus", 0, "--out", out]}
    return [str(word) for word in found[command]]


COMMANDS = ("generate", "export", "view", "data objects", "data render", "data shards", "data gso download",
            "data library", "evaluate", "tables", "train", "recipe")


def files(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, hidden or not; empty folders as well."""
    return {path.relative_to(folder).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
            for path in sorted(folder.rglob("*"))}
