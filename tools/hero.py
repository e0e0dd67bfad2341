"""The README's two pictures of the recursion: `python -m tools.hero [IMAGE] [--out DIR]`.

hero.webp: the input, eight views forming out of noise beside the latest splat, then the turning splat, in a loop; with
the weights' own plan and steps. It begins with its end, which is all that is seen where pictures do not move.
algorithm.png: one view that the input does not show, in some steps of Algorithm 2 as printed: x_t, F's estimate, G's
two renders.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ouroboros_lib.algorithms import Step
from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.photo import load_photo
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.plans import Plan
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.speed.devices import resolve_device
from ouroboros_lib.viz.sheets import FAINT, INK, image_grid, to_pil

SAMPLE = Path(__file__).parents[1] / "ouroboros_lib" / "data" / "samples" / "mustard.webp"
TILE, GAP, TOP, TURN = 112, 4, 30, 36  # pixels of a view, between views, of the captions; frames of the last circle
PANEL = 2 * TILE + GAP  # the splat is as high as two rows of views
LEFT, MIDDLE, RIGHT = GAP, 2 * GAP + TILE + 12, 2 * GAP + TILE + 12 + 4 * (TILE + GAP) + 12
SHOWN, PRINTED = (0, 10, 15, 20, 24), 25  # steps of algorithm.png, and of how many


@torch.no_grad()
def run(pipe: Ouroboros3DPipeline, image: Tensor, elevation: float, plan: Plan, steps: int, seed: int) -> list[Step]:
    """All steps of the recursion for one image (1, 3, S, S)."""
    cameras = evenly_spaced_orbit(pipe.num_views, torch.tensor([elevation])).to(pipe.device)
    generator = torch.Generator().manual_seed(seed)
    cond = pipe.condition(image.to(pipe.device), cameras, plan, pipe.config.guidance_scale, generator)
    return list(pipe.iterate(cond, cameras, plan, steps, generator))


def _frame(image: Tensor, views: Sequence[Tensor | None], splat: Tensor | None, captions: tuple[str, str]
           ) -> Image.Image:
    frame = Image.new("RGB", (RIGHT + PANEL + GAP, TOP + PANEL + GAP), "white")
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(14)

    def place(tile: Tensor | None, x: int, y: int, side: int) -> None:
        if tile is not None:
            frame.paste(to_pil(tile).resize((side, side), Image.LANCZOS), (x, y))
        draw.rectangle((x - 1, y - 1, x + side, y + side), outline=FAINT)

    place(image, LEFT, TOP + (PANEL - TILE) // 2, TILE)
    for x, text in zip((LEFT, MIDDLE, RIGHT), ("one image", *captions), strict=True):
        draw.text((x, TOP - 22), text, INK, font)
    for v, view in enumerate(views):
        place(view, MIDDLE + v % 4 * (TILE + GAP), TOP + v // 4 * (TILE + GAP), TILE)
    place(splat, RIGHT, TOP, PANEL)
    return frame


@torch.no_grad()
def moving_picture(pipe: Ouroboros3DPipeline, image: Tensor, steps: list[Step], elevation: float, path: Path) -> None:
    """Write the loop as an animated WebP; its first frame, the finished one, stays for a moment."""
    orbit = evenly_spaced_orbit(TURN, elevation).to(pipe.device)

    def splat(step: Step, angle: int) -> Tensor:
        return rasterize(step.gaussians[0], orbit.views(slice(angle, angle + 1)), PANEL).rgb[0].clamp(0, 1)

    def finished(angle: int) -> Image.Image:
        return _frame(image[0], steps[-1].views[0], splat(steps[-1], angle), ("eight views", "a 3D Gaussian splat"))

    frames, milliseconds = [finished(0), _frame(image[0], [None] * pipe.num_views, None, ("", ""))], [1200, 900]
    latest, caption = None, ""
    for step in steps:
        if step.gaussians is not None:
            latest = splat(step, 0)
            caption = f"3D of step {step.t + 1}" + ", rendered, fed back" * (step is not steps[-1])
        frames.append(_frame(image[0], pipe.noisy_views(step)[0], latest,
                             (f"eight views, step {step.t + 1} of {len(steps)}", caption)))
        milliseconds.append((2000 if step.sigma > 5 else 5500) // len(steps))
    for angle in range(TURN):
        frames.append(finished(angle))
        milliseconds.append(90)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, quality=60, method=4)


@torch.no_grad()
def algorithm_sheet(pipe: Ouroboros3DPipeline, steps: list[Step], view: int, path: Path) -> None:
    """Rows x_t, pred_i and both renders of one view; columns the steps, as wide as the README. All reconstruct."""
    chosen = [step for step in steps if step.t in SHOWN] or steps
    rows = [[pipe.noisy_views(step)[0, view] for step in chosen],
            *([maps(step)[0, view].clamp(0, 1) for step in chosen]
              for maps in (lambda step: step.views, lambda step: step.renders.rgb, lambda step: step.renders.ccm))]
    image_grid(rows, path, ["x_t", "F: pred_i", "G: RGB", "G: CCM"],
               [f"step {step.t + 1}, sigma {float(step.sigma):.2g}" for step in chosen], side=160)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.hero", description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--elevation", type=float, default=20.0)
    parser.add_argument("--plan", help="of hero.webp; by default the weights' own")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int,
                        help=f"by default the weights' own for hero.webp, and {PRINTED} for algorithm.png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--view", type=int, default=3, help="the view of algorithm.png")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    options = parser.parse_args(arguments)
    pipe = Ouroboros3DPipeline.from_pretrained(options.preset).to(resolve_device("auto"))
    image = load_photo(options.image, pipe.image_size).image[None]
    plan = Plan.parse(options.plan or pipe.config.plan)
    steps = run(pipe, image, options.elevation, plan, options.steps or pipe.config.num_inference_steps, options.seed)
    printed = run(pipe, image, options.elevation, Plan(), options.steps or PRINTED, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    moving_picture(pipe, image, steps, options.elevation, options.out / "hero.webp")
    algorithm_sheet(pipe, printed, options.view, options.out / "algorithm.png")
    print(f"wrote {options.out / 'hero.webp'} and {options.out / 'algorithm.png'}")


if __name__ == "__main__":
    main()
