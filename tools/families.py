"""What the weights make of objects they never saw, in a sheet: `python -m tools.families [FAMILY,...] [--data DIR]`.

The first held-out object of each procedural family, nothing is chosen; with --data objects in folders, such as
`ouroboros data render` makes of meshes and scans, all or the first few by a hash of their names; with --photo pictures.
Two rows each: the input and the generated views, below them the renders of the splat.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from PIL import Image

from ouroboros_lib.data.batches import MultiviewBatch, held_out_objects
from ouroboros_lib.data.folders import collate, find_objects, read_object
from ouroboros_lib.data.procedural import FAMILIES, HELD_OUT_FAMILY
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.viz.sheets import image_grid
from tools import one_line_for_bad_input

CHOSEN = ("mug", "chair", "car", "house", "airplane", "quadruped", "tree", "robot")


def family_objects(families: Sequence[str], image_size: int, num_views: int) -> Iterator[tuple[str, MultiviewBatch]]:
    """The first held-out object of each; the held-out family is marked as never seen."""
    for family in families:
        split = "heldout" if family == HELD_OUT_FAMILY else "test"
        label = family + ("\n(never seen)" if family == HELD_OUT_FAMILY else "")
        yield label, held_out_objects(split, 1, image_size, num_views, novel_views=0, family=family)


def folder_objects(folder: Path, take: int, image_size: int, num_views: int) -> Iterator[tuple[str, MultiviewBatch]]:
    """The first `take` in a folder by a hash of their names, 0: all in order; the last words of a name are its label.
    Raises InputError."""
    settings = {"image_size": image_size, "views": range(num_views), "novel_views": 0, "depth": False}
    names = list(find_objects(folder))
    if take:
        names = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:take]
    for name in names:
        found = read_object(folder / name, name, **settings)
        yield "\n".join(re.sub(r"[\d\W_]+", " ", name).split()[-2:]), collate([found])


def photos(files: Sequence[Path], elevation: float) -> Iterator[tuple[str, dict]]:
    """Pictures, cut out and framed as the pipeline does it."""
    for file in files:
        yield f"{file.stem}\n(photo)", {"images": file, "elevation": elevation}


def sheet(pipeline: Ouroboros3DPipeline, objects: Iterable[tuple[str, MultiviewBatch | dict]],
          path: str | Path | None = None, seed: int = 0, steps: int | None = None) -> Image.Image:
    """A sheet of two rows an object, written to `path` if given. objects: labels, and true views with their cameras or
    what the pipeline is to be called with."""
    count, rows, labels = pipeline.num_views, [], []
    for label, given in objects:
        if isinstance(given, MultiviewBatch):
            given = {"images": given.images[:, 0], "cameras": given.orbit_cameras}
        output = pipeline(**given, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed))
        rows += [[output.input[0], *output.views[0]], [None, *output.renders.rgb[0]]]
        labels += [label, "3D renders"]
    angles = [f"{360 * view / count:g}\N{DEGREE SIGN}" for view in range(count)]
    return image_grid(rows, path, labels, ["input", *angles])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.families", description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="?", default="", help="all nine if nothing else is shown")
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder of rendered objects, repeatable")
    parser.add_argument("--take", type=natural, default=0,
                        help="so many of each folder, by a hash of their names; 0: all")
    parser.add_argument("--photo", type=Path, action="append", default=[], help="a picture, repeatable")
    parser.add_argument("--elevation", type=float, default=20.0, help="of the pictures, degrees")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, default=Path("outputs/families.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="by default the weights' own")
    options = parser.parse_args(arguments)
    given = options.families or ("" if options.data or options.photo else ",".join((*CHOSEN, HELD_OUT_FAMILY)))
    families = given.split(",") if given else []
    if unknown := [family for family in families if family not in FAMILIES]:
        parser.error(f"{unknown[0]} is no family, there are {', '.join(FAMILIES)}")
    for path in (*options.data, *options.photo):
        if not path.exists():
            parser.error(f"{path} is not there")
    with one_line_for_bad_input():
        _write(options, families)
        print(f"wrote {options.out}")


def natural(text: str) -> int:
    """A whole number of at least 0. Raises ValueError."""
    if int(text) < 0:
        raise ValueError(text)
    return int(text)


def _write(options: argparse.Namespace, families: Sequence[str]) -> None:
    pipeline = Ouroboros3DPipeline.from_pretrained(options.preset)
    pipeline.set_progress_bar_config(disable=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    size = pipeline.image_size, pipeline.num_views
    folders = (folder_objects(data, options.take, *size) for data in options.data)
    objects = chain(family_objects(families, *size), *folders, photos(options.photo, options.elevation))
    sheet(pipeline, objects, options.out, options.seed, options.steps)


if __name__ == "__main__":
    main()
