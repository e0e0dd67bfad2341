"""One sample of each of some families in a sheet: `python -m tools.families [FAMILY,...] [--data DIR] [--out PNG]`.

The first held-out object of each family is shown to the model, nothing is chosen; with --data all objects in a folder,
such as `ouroboros data render` makes of scans. Two rows each: the input and the generated views, below them the renders
of the splat.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from ouroboros_lib.data.batches import MultiviewBatch, held_out_objects
from ouroboros_lib.data.folders import collate, find_objects, read_object
from ouroboros_lib.data.procedural import FAMILIES, HELD_OUT_FAMILY
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.viz.sheets import image_grid

CHOSEN = ("mug", "chair", "car", "house", "airplane", "quadruped", "tree", "robot")


def family_objects(families: Sequence[str], image_size: int, num_views: int) -> Iterator[tuple[str, MultiviewBatch]]:
    """The first held-out object of each; the held-out family is marked as never seen."""
    for family in families:
        split = "heldout" if family == HELD_OUT_FAMILY else "test"
        label = family + ("\n(never seen)" if family == HELD_OUT_FAMILY else "")
        yield label, held_out_objects(split, 1, image_size, num_views, novel_views=0, family=family)


def folder_objects(folder: Path, image_size: int, num_views: int) -> Iterator[tuple[str, MultiviewBatch]]:
    """All that lie in a folder, the words of their names below each other. Raises InputError."""
    settings = {"image_size": image_size, "views": range(num_views), "novel_views": 0, "depth": False}
    for name in find_objects(folder):
        found = read_object(folder / name, name, **settings)
        yield "\n".join(re.sub(r"[\d\W_]+", " ", name).split()[-2:]), collate([found])


def sheet(pipeline: Ouroboros3DPipeline, objects: Iterable[tuple[str, MultiviewBatch]], path: str | Path | None = None,
          seed: int = 0, steps: int = 25) -> Image.Image:
    """A sheet of two rows an object, written to `path` if given."""
    count, rows, labels = pipeline.num_views, [], []
    for label, truth in objects:
        output = pipeline(truth.images[:, 0], cameras=truth.orbit_cameras, num_inference_steps=steps,
                          generator=torch.Generator().manual_seed(seed))
        rows += [[truth.images[0, 0], *output.views[0]], [None, *output.renders.rgb[0]]]
        labels += [label, "3D renders"]
    angles = [f"{360 * view / count:g}\N{DEGREE SIGN}" for view in range(count)]
    return image_grid(rows, path, labels, ["input", *angles])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.families", description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="?", default=",".join((*CHOSEN, HELD_OUT_FAMILY)))
    parser.add_argument("--data", type=Path, help="a folder of rendered objects instead")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, default=Path("outputs/families.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args(arguments)
    families = options.families.split(",")
    if unknown := [family for family in families if family not in FAMILIES]:
        parser.error(f"{unknown[0]} is no family, there are {', '.join(FAMILIES)}")
    pipeline = Ouroboros3DPipeline.from_pretrained(options.preset)
    pipeline.set_progress_bar_config(disable=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    size = pipeline.image_size, pipeline.num_views
    objects = folder_objects(options.data, *size) if options.data else family_objects(families, *size)
    sheet(pipeline, objects, options.out, options.seed, options.steps)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
