"""A look at the models during training: one sheet of pictures and a few figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data.batches import MultiviewBatch
from ..losses import psnr
from ..pipeline import Ouroboros3DPipeline
from ..plans import Plan
from ..rasterization import rasterize
from ..viz.sheets import image_grid
from .config import TrainingConfig
from .fast.sharding import gathered
from .stages import from_clean_views

if TYPE_CHECKING:
    from .run import Run

INFERENCE_STEPS = 15


def look(run: Run) -> dict[str, float]:
    """`validate` with the averaged weights, logged; the sheet goes to OUT/samples."""
    accelerator, figures = run.accelerator, {}
    if accelerator.is_main_process or run.sharded:  # shares of weights are gathered by all processes together
        path = run.out / "samples" / f"step_{run.step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        # eager: compiling for these few objects would take longer than they do
        with run.averaged(), gathered(list(run.networks.values())), accelerator.autocast(), \
                torch.compiler.set_stance("force_eager"):
            figures = validate(run.pipe, run.validation, run.config, path if accelerator.is_main_process else None)
        accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=run.step)
    if accelerator.is_main_process:
        print(f"step {run.step}, {run.seconds / 60:.1f} min:",
              ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
    accelerator.wait_for_everyone()
    return figures


@torch.no_grad()
def validate(pipe: Ouroboros3DPipeline, objects: MultiviewBatch, config: TrainingConfig,
             path: Path | None) -> dict[str, float]:
    """Figures of the stage's models on `objects`; writes the sheet to `path`: rows truth, views, renders of each.

    path: None for a process that only takes part.
    """
    images, orbit = objects.images, objects.num_orbit_views
    if config.stage == "autoencoder":
        views = pipe.autoencoder.decode(pipe.autoencoder.encode(objects.orbit_images)).clamp(0, 1)
        rows, figures = [objects.orbit_images, views], {"psnr": psnr(views, objects.orbit_images).mean()}
    elif config.stage == "reconstructor":
        gaussians = from_clean_views(pipe.reconstructor, objects, config)
        renders = rasterize(gaussians, objects.cameras, images.shape[-1]).rgb.clamp(0, 1)
        score = psnr(renders, images)
        rows = [images, renders]
        figures = {"input views": score[:, :orbit].mean(), "novel views": score[:, orbit:].mean()}
    else:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator(images.device).manual_seed(0)
        plan = Plan(feedback=config.feedback if config.stage == "joint" else "none")
        out = pipe(images[:, 0], cameras=objects.orbit_cameras, num_inference_steps=INFERENCE_STEPS,
                       plan=plan, generator=generator)
        renders = out.renders.rgb.clamp(0, 1)
        rows = [objects.orbit_images, out.views, renders]
        truth = objects.orbit_images
        figures = {"views 1+": psnr(out.views, truth)[:, 1:].mean(), "3D 1+": psnr(renders, truth)[:, 1:].mean(),
                   "self-consistency": psnr(out.views, renders).mean()}
    if path is not None:
        # the rows of an object under each other
        image_grid(torch.stack(rows, dim=1).flatten(0, 1).float().cpu(), path)
    return {name: float(value) for name, value in figures.items()}
