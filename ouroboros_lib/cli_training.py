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
    from .training import TrainingConfig
    from .training import train as run

    figures = run(preset, out, TrainingConfig.from_settings(settings or []), init, resume)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def evaluate(
    out: Annotated[Path, typer.Option(metavar="PATH", help="Writes PATH.csv (a row per image) and PATH.json.")],
    preset: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="A preset, a folder or a hub id.")] = "small",
    split: Annotated[str, typer.Option(metavar="val|test|heldout", help="Which held-out objects.")] = "test",
    objects: Annotated[int, typer.Option(help="How many of them.")] = 128,
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Seeds of the recursion's noise.")] = "0",
    feedback: Annotated[str, typer.Option(metavar="KIND,KIND,...", help="Kinds of feedback to compare.")] = "both,none",
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is off.")] = 1.0,
    batch: Annotated[int, typer.Option(help="Objects at a time; does not change the figures.")] = 16,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to run.")] = "auto",
) -> None:
    """Measure a model on held-out procedural objects: its parts, and the recursion with and without feedback."""
    from .cli import check_choice, check_range, resolve_device
    from .errors import InputError
    from .models.feedback import FEEDBACKS

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
    where = resolve_device(device)

    from .evaluation.heldout import evaluate_heldout
    from .pipeline import Ouroboros3DPipeline

    pipeline = Ouroboros3DPipeline.from_pretrained(preset).to(where)
    summary = evaluate_heldout(pipeline, out, split, objects, kinds, numbers, steps, guidance, batch)
    print(json.dumps(summary, indent=1))
    print(f"wrote {out.with_suffix('.csv')} and {out.with_suffix('.json')}")
