"""The commands of those who train and measure: `ouroboros train`, `ouroboros evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for checkpoints, samples, logs and the pipeline.")],
    preset: Annotated[str, typer.Option(metavar="NAME", help="Sizes of the models.")] = "small",
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="A training setting, repeatable; see training/config.py.")] = None,
    init: Annotated[list[str] | None, typer.Option(
        metavar="[COMPONENT=]PATH", help="Pipeline folder to start from, repeatable; later ones win.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint in --out.")] = False,
) -> None:
    """Train one stage: autoencoder, reconstructor (G on clean views), multiview (F alone) or joint (Algorithm 1).

    On several GPUs: accelerate launch -m ouroboros_lib train ...
    """
    from .files import check_writable

    check_writable(out)
    from .training import TrainingConfig
    from .training import train as run

    figures = run(preset, out, TrainingConfig.from_settings(settings or []), init, resume)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def recipe(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="small, ablation, or a JSON file of yours.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the runs; those done in it are not repeated.")],
    gpus: Annotated[int, typer.Option(help="How many to use; -1: all there are; 0: the CPU.")] = -1,
    minutes_scale: Annotated[float, typer.Option(help="Multiplies all time limits of the recipe.")] = 1.0,
    only: Annotated[str, typer.Option(metavar="STAGE,...", help="These stages and what they start from.")] = "",
    show: Annotated[bool, typer.Option(help="Print the commands of the stages and stop.")] = False,
) -> None:
    """Run the training stages of a recipe in order, side by side where there are GPUs for it."""
    from .cli import check_range
    from .files import check_writable

    check_range("--gpus", gpus, -1, 1024)
    check_range("--minutes-scale", minutes_scale, 0.001, 10_000)
    check_writable(out)
    from .training.recipe import choose_stages, command_line, load_recipe, run_recipe

    stages = choose_stages(load_recipe(name, minutes_scale), only)
    if show:
        print("\n".join(command_line(stage.arguments(out)) for stage in stages))
        return
    if gpus < 0:
        import torch

        gpus = torch.cuda.device_count()
    run_recipe(stages, out, gpus)


def evaluate(
    out: Annotated[Path, typer.Option(metavar="PATH", help="Writes PATH.csv (a row per image) and PATH.json.")],
    preset: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="A preset, a folder or a hub id.")] = "small",
    split: Annotated[str, typer.Option(metavar="val|test|heldout", help="Which held-out objects.")] = "test",
    objects: Annotated[int, typer.Option(help="How many of them.")] = 128,
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Seeds of the recursion's noise.")] = "0",
    feedback: Annotated[str, typer.Option(metavar="KIND,KIND,...", help="Kinds of feedback to compare.")] = "both,none",
    project_above: Annotated[str, typer.Option(
        metavar="off|SIGMA,...", help="Project estimates onto their 3D render above this noise level.")] = "off",
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is off.")] = 1.0,
    batch: Annotated[int, typer.Option(help="Objects at a time; does not change the figures.")] = 16,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to run.")] = "auto",
) -> None:
    """Measure a model on held-out procedural objects: its parts, and the recursion with and without feedback."""
    from .cli import check_choice, check_range, resolve_device
    from .errors import InputError
    from .files import check_writable
    from .models.feedback import FEEDBACKS

    check_writable(out.parent)
    for path in (out.with_suffix(".csv"), out.with_suffix(".json")):
        if path.is_dir():
            raise InputError(f"{path}: is a folder where a result must go; choose another --out")
    check_choice("--split", split, ("val", "test", "heldout"))
    for name, value, high in (("--objects", objects, 100_000), ("--steps", steps, 1000), ("--batch", batch, 4096)):
        check_range(name, value, 1, high)
    kinds = tuple(feedback.split(","))
    for kind in kinds:
        check_choice("--feedback", kind, tuple(FEEDBACKS))
    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError:
        raise InputError(f"--seeds {seeds}: expected whole numbers separated by commas, for example 0,1,2") from None
    try:
        projections = tuple(None if part == "off" else float(part) for part in project_above.split(","))
    except ValueError:
        raise InputError(f"--project-above {project_above}: expected off or noise levels, for example off,1") from None
    where = resolve_device(device)

    from .evaluation.heldout import evaluate_heldout
    from .pipeline import Ouroboros3DPipeline

    pipeline = Ouroboros3DPipeline.from_pretrained(preset).to(where)
    summary = evaluate_heldout(pipeline, out, split, objects, kinds, numbers, steps, guidance, batch,
                               projections)
    print(json.dumps(summary, indent=1))
    print(f"wrote {out.with_suffix('.csv')} and {out.with_suffix('.json')}")
