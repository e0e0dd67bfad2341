"""Train the network that estimates a picture's elevation, on one core of a CPU.

`python -m tools.train_elevation --meshes DIR --swatches DIR --out outputs/elevation`

Pictures are rendered first, those that are there already are kept: 60 % meshes, each as training sees it, from four
sides and elevations, and 40 % procedural objects. Meshes that the shipped weights never saw are left out here, too. The
network comes into OUT/elevation in half precision, a folder as it lies in a pipeline's.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ouroboros_lib.cameras import Cameras, orbit_cameras
from ouroboros_lib.data.fresh import find_swatches, fresh_views
from ouroboros_lib.data.layouts import find_meshes
from ouroboros_lib.data.procedural import render_objects, sample_objects
from ouroboros_lib.data.renders import RenderSettings, held_out
from ouroboros_lib.models.elevation import ElevationEstimator
from ouroboros_lib.training.mixture import recoloured
from tools.elevation import HELD_OUT

ELEVATIONS = (-5.0, 45.0)  # degrees: further than F's orbits, as photos are
SIZE, SIDES = 64, 4  # of a picture in pixels; pictures of one object
MESHES, PROCEDURAL = 24, 16  # objects in a file
TILT = 2.0  # degrees: F sees objects that lean by more, but here that is noise in what is to be learnt
BATCH, RATE, DECAY, WARMUP = 128, 4e-3, 0.05, 0.05  # of AdamW; warmup: share of the steps
STEEP, SELDOM = 30.0, 0.4  # degrees that F does not know are drawn so much less often: a wrong guess costs more below
ZOOM, SHIFT = 0.18, 0.04  # of the logarithm of the size, and of the picture's side: photos are framed, renders are not
SOFT, PULL = 3.0, 0.1  # degrees by which a label is smeared over bins; weight of the mean's own error


class AllAround(RenderSettings):
    """Each view at an azimuth and an elevation of its own."""

    def cameras(self, name: str) -> Cameras:
        draws = torch.rand(2, self.views, generator=torch.Generator().manual_seed(self.seed))
        low, high = ELEVATIONS
        return orbit_cameras(360 * draws[0], low + (high - low) * draws[1])


def render(number: int, meshes: dict[str, Path], names: list[str], swatches: Sequence[Path]) -> dict[str, np.ndarray]:
    """File `number`: rgba (N, 4, S, S) uint8 on white, and degrees (N,)."""
    draw = random.Random(f"elevation {number}")
    settings = AllAround(SIZE, SIDES, elevation=None, depth=False)
    rgba, degrees = [], []
    for name in draw.sample(names, MESHES):
        views = fresh_views(name, meshes[name], settings, draw, swatches, TILT)
        rgba.append(views.rgba)
        degrees.append(views.cameras.elevations)
    objects = sample_objects("train", range(number * PROCEDURAL, (number + 1) * PROCEDURAL))
    rigs = [AllAround(SIZE, SIDES, elevation=None, seed=draw.getrandbits(31)).cameras("") for _ in range(PROCEDURAL)]
    rig = Cameras(torch.stack([cameras.c2w for cameras in rigs]), rigs[0].intrinsics)
    rgba.append(render_objects(objects, rig, SIZE).rgba.flatten(0, 1))
    degrees.append(rig.elevations.flatten())
    return {"rgba": torch.cat(rgba).numpy(), "degrees": torch.cat(degrees).numpy()}


def render_all(folder: Path, files: int, meshes_folder: Path, swatches_folder: Path) -> None:
    """Into folder/000000.npz ..., those that are missing."""
    meshes, swatches = find_meshes([meshes_folder]), find_swatches(str(swatches_folder))
    names = sorted(set(meshes) - set(held_out(meshes, HELD_OUT)))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for number in range(files):
        path = folder / f"{number:06d}.npz"
        if not path.exists():
            part = path.with_suffix(".part")
            with open(part, "wb") as file:
                np.savez(file, **render(number, meshes, names, swatches))
            part.replace(path)
            print(f"{number + 1} of {files} files, {(time.monotonic() - started) / 60:.1f} min", flush=True)


def read_all(folder: Path, files: int) -> tuple[Tensor, Tensor]:
    """rgba (N, 4, S, S) uint8 and degrees (N,) of the first files."""
    held = [np.load(path) for path in sorted(folder.glob("*.npz"))[:files]]
    return (torch.from_numpy(np.concatenate([file["rgba"] for file in held])),
            torch.from_numpy(np.concatenate([file["degrees"] for file in held])))


def seen_otherwise(rgba: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) in [0, 1] of rgba (N, 4, S, S): other colours and frames, half of them mirrored."""
    images = recoloured(rgba[:, None])[:, 0, :3].float() / 255
    size = (ZOOM * (2 * torch.rand(len(images)) - 1)).exp()
    grid = torch.zeros(len(images), 2, 3)
    grid[:, 0, 0], grid[:, 1, 1] = size * (1 - 2 * (torch.rand(len(images)) < 0.5).float()), size
    grid[:, :, 2] = 2 * SHIFT * (2 * torch.rand(len(images), 2) - 1)
    # what comes in from outside is white
    return 1 - F.grid_sample(1 - images, F.affine_grid(grid, images.shape, align_corners=False), align_corners=False)


def loss_of(model: ElevationEstimator, images: Tensor, degrees: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(images.contiguous(memory_format=torch.channels_last))
    logits = logits.float()
    bins = model.degrees(logits)
    wanted = (-((degrees[:, None] - bins) / SOFT) ** 2 / 2).softmax(-1)
    return F.cross_entropy(logits, wanted) + PULL * F.smooth_l1_loss(logits.softmax(-1) @ bins, degrees, beta=5.0)


def learn(rgba: Tensor, degrees: Tensor, steps: int, seed: int = 0) -> ElevationEstimator:
    """A network that has learnt from so many batches."""
    torch.manual_seed(seed)
    model = ElevationEstimator().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.99), weight_decay=DECAY)
    often = torch.where(degrees > STEEP, SELDOM, 1.0)
    started, mean = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        done = step / steps
        chosen = torch.multinomial(often, BATCH, replacement=True)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, done / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * done))
        loss = loss_of(model, seen_otherwise(rgba[chosen]), degrees[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = 0.99 * mean + 0.01 * loss.item()
        if step % 200 == 0:
            print(f"step {step} of {steps}, loss {mean / (1 - 0.99**step):.3f}, "
                  f"{(time.monotonic() - started) / 60:.1f} min", flush=True)
    return model.eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_elevation", description=__doc__.splitlines()[0])
    parser.add_argument("--meshes", type=Path, required=True, help="free meshes to learn from")
    parser.add_argument("--swatches", type=Path, required=True, help="pictures to paint flat-coloured ones with")
    parser.add_argument("--files", type=int, default=400, help="of 160 pictures each")
    parser.add_argument("--out", type=Path, default=Path("outputs/elevation"))
    parser.add_argument("--steps", type=int, default=5000, help="batches to learn from, after rendering")
    options = parser.parse_args(arguments)
    render_all(options.out / "pictures", options.files, options.meshes, options.swatches)
    model = learn(*read_all(options.out / "pictures", options.files), options.steps)
    model.half().save_pretrained(options.out / "elevation")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
