"""The commands that train: `ouroboros train`, `ouroboros recipe`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError


def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for checkpoints, samples, logs and the pipeline.")],
    preset: Annotated[str, typer.Option(metavar="NAME", help="Sizes of the models.")] = "small",
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="A training setting, repeatable; see training/config.py.")] = None,
    init: Annotated[list[str] | None, typer.Option(
        metavar="[COMPONENT=]PATH", help="Pipeline folder to start from, repeatable; later ones win.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint in --out.")] = False,
    data: Annotated[str | None, typer.Option(metavar="DIR|URL", help="Learn from rendered objects in this folder, of "
                                             "multi-view folders or shards, or from meshes, or from shards at an "
                                             "address, instead of procedural ones; --set procedural_share mixes both."
                                             )] = None,
) -> None:
    """Train one stage: autoencoder, reconstructor (G on clean views), multiview (F alone) or joint (Algorithm 1).

    On several GPUs: accelerate launch -m ouroboros_lib train ...; see docs/training.md. Exit code 1: trained, but some
    objects of --data were left out, each with a line that says why.
    """
    from ..files import check_writable

    check_writable(out)
    source = None if data is None else _source(data)
    from ..training import TrainingConfig
    from ..training import train as run

    figures = run(preset, out, TrainingConfig.from_settings(settings or []), init, resume, source)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    if "left out" in figures and int(os.environ.get("WORLD_SIZE", 1)) == 1:  # of several, none may look as if it failed
        raise typer.Exit(1)


def _source(data: str) -> str | Path:
    """The folder or the address that --data names. Raises InputError."""
    from ..data.streaming import folder_address, is_remote

    if is_remote(data):
        try:
            return folder_address(data)
        except InputError as error:
            raise InputError(f"--data: {error}") from None
    if not Path(data).is_dir():
        raise InputError(f"--data {data}: no such folder" +
                         ("; an address begins with http://, https:// or s3://" if "://" in data else ""))
    return Path(data)


def recipe(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="small, ablation, architecture, twins, "
                                        "paper, or a JSON file of yours.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the runs; those done in it are not repeated.")],
    gpus: Annotated[int, typer.Option(min=-1, max=1024, help="How many to use; -1: all; 0: the CPU. Stages for "
                               "several keep their global batch and GPU minutes on any number.")] = -1,
    per_gpu: Annotated[int, typer.Option(min=1, max=64, help="How many stages may share a GPU.")] = 1,
    only: Annotated[str, typer.Option(metavar="STAGE,...", help="These stages, or all seeds of these rows, and what "
                                      "they start from.")] = "",
    show: Annotated[bool, typer.Option(help="Print the commands of the stages and stop; without --gpus, as the "
                               "recipe has them.")] = False,
    init: Annotated[str, typer.Option(metavar="DIR", help="Pipeline folder in which stages start that do not say "
                                      "where.")] = "",
    data: Annotated[str, typer.Option(metavar="DIR|URL", help="Rendered objects or meshes to learn from, as for "
                                      "train.")] = "",
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="[STAGE.]KEY=VALUE", help="Another setting for all stages or for one, on "
                                       "the number of GPUs that the recipe names; repeatable.")] = None,
    test: Annotated[list[str] | None, typer.Option(metavar="DIR", help="Rendered objects to measure on as well, "
                                                   "repeatable.")] = None,
) -> None:
    """Run the training stages of a recipe in order, side by side where there are GPUs for it."""
    from ..files import check_writable

    check_writable(out)
    from ..training.recipe import (
        check_needs,
        choose_stages,
        command_line,
        load_comparisons,
        load_recipe,
        run_recipe,
        spread,
    )

    stages = choose_stages(load_recipe(name, init, data, settings or (), test or ()), only)
    check_needs(name, init=init, data=data)
    for folder in test or ():
        if not Path(folder).is_dir():
            raise InputError(f"--test {folder}: no such folder")
    if show:
        if gpus >= 0:
            spread(stages, max(gpus, 1))
        print("\n".join(command_line(stage.arguments(out), stage.gpus) for stage in stages))
        return
    if gpus < 0:
        import torch

        gpus = torch.cuda.device_count()
    run_recipe(stages, out, gpus, per_gpu)
    if (comparisons := load_comparisons(name)) and any(stage.evaluates for stage in stages):
        from ..evaluation.ablation import collect
        from ..evaluation.tables import paper_tables, render

        collect(out / "evaluation", out / "ablation", comparisons)
        for folder in map(Path, test or ()):
            collect(out / f"evaluation-{folder.name}", out / f"ablation-{folder.name}", comparisons)
        print("\n".join(render(table) for table in paper_tables(out)[1:]))
        print(f"wrote {out / 'ablation.json'}")
