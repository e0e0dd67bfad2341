"""The commands that measure: `ouroboros evaluate`, `ouroboros tables`."""

from __future__ import annotations

import io
import json
import sys
import uuid
from collections.abc import Generator
from contextlib import closing, redirect_stderr
from dataclasses import fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from ..evaluation.config import EvaluationConfig as Config
from ..speed.devices import resolve_device
from .options import OnCluster, load_pipeline, parse_cluster

if TYPE_CHECKING:
    import torch

    from ..evaluation.evaluate import Run
    from ..evaluation.methods import Method
    from ..evaluation.results import PartialResults
    from ..evaluation.sources import Source
    from ..speed.cluster import Cluster

_ready: dict[str, tuple[Run, PartialResults]] = {}  # in a worker: of the command that it works for


def evaluate(
    out: Annotated[Path, typer.Option(metavar="PATH", help="Writes PATH.csv (a row per image), PATH.json and PATH.png, "
                                      "a sheet of pictures.")],
    preset: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="A preset, a folder or a hub id.")] = "small",
    plan: Annotated[list[str] | None, typer.Option(
        metavar="NAME[,FIELD=VALUE,...]", show_default=False, help="A plan to compare, repeatable: paper, calm, "
        "two-stage, projection, or a change of one such as calm,every=3; by default the weights' own and two-stage."
    )] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; by default the weights' own.",
                                              show_default=False)] = Config.steps,
    guidance: Annotated[float | None, typer.Option(
        show_default=False, help="Guidance scale, 1 is off; by default the weights' own.")] = Config.guidance,
    eta: Annotated[float | None, typer.Option(show_default=False, help="Share of the noise that a step renews, from 0 "
                                              "to 1; by default the scheduler's.")] = Config.eta,
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds of the recursion's noise, 0 to N - 1.")] = Config.seeds,
    split: Annotated[str, typer.Option(metavar="val|test|heldout", help="Which procedural objects.")] = Config.split,
    objects: Annotated[int, typer.Option(help="How many of them.")] = Config.objects,
    batch: Annotated[int, typer.Option(help="Objects at a time; does not change the figures.")] = Config.batch,
    geometry: Annotated[int, typer.Option(metavar="N", help="Compare the shape of the first N with the exact one: "
                                          "PATH_geometry.csv.")] = Config.geometry,
    single_view: Annotated[bool, typer.Option("--single-view", help="Measure only a G that was trained with "
                                              "single_view=true.")] = False,
    data: Annotated[str, typer.Option(metavar="DIR", help="Measure on rendered objects in a folder.")] = Config.data,
    protocol: Annotated[str, typer.Option(metavar="NAME|FILE", help="With --data: insist that it was rendered for "
                                          "this protocol.")] = Config.protocol,
    all_objects: Annotated[bool, typer.Option("--all-objects", help="All in --data, beyond the protocol's.")] = False,
    method: Annotated[str, typer.Option(metavar="ours|images:DIR|splat:DIR|mesh:DIR", help="With --data: the model, or "
                                        "another method's outputs, one per object.")] = Config.method,
    convention: Annotated[str, typer.Option(metavar="NAME", help="Cameras, axes and scale of the other method; "
                                            "see `ouroboros data conventions`.")] = Config.convention,
    sample: Annotated[int, typer.Option(metavar="N", help="Of several outputs an object, such as SyncDreamer's N.png."
                                        )] = Config.sample,
    names: Annotated[str, typer.Option(metavar="CSV", help="Lines file,object for outputs that are numbered; default: "
                                       "in order of the objects' names.")] = Config.names,
    mirror: Annotated[str, typer.Option(metavar="yes|no", help="Whether InstantMesh's OBJ without texture is mirrored."
                                        )] = Config.mirror,
    align: Annotated[str, typer.Option(metavar="none|azimuth|scale|both", help="Fit the outputs to the truth first; "
                                       "the rows say so.")] = Config.align,
    meshes: Annotated[list[str] | None, typer.Option(metavar="PATH", show_default=False, help="True meshes of --data, "
                                                     "repeatable: compare 3D with them.")] = None,
    lpips: Annotated[str, typer.Option(metavar="alex|vgg|off", help="LPIPS by this network; alex ships.")
                     ] = Config.lpips,
    flip: Annotated[bool, typer.Option("--flip", help="Measure FLIP as well: 8 ms a picture.")] = Config.flip,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]|mps", help="Where to run.")] = Config.device,
    cluster: OnCluster = "",
) -> None:
    """Compare plans of a model on held-out procedural objects, and measure its parts.

    With --data, measure the model or any other method on a folder that `ouroboros data render --protocol` made. Exit
    code 1: some objects were skipped, each with a line that says why. An evaluation that was interrupted goes on where
    it stopped. The defaults' reasons: evaluation/config.py.
    """
    options = dict(locals(), plan=plan or (), meshes=meshes or ())
    config = Config(**{field.name: options[field.name] for field in fields(Config)})
    elsewhere = parse_cluster(cluster)
    _check_out(out)
    where = resolve_device(config.device)
    source = _source(config)
    measured = _method(config, preset, where)

    from ..evaluation.evaluate import evaluate as run
    from ..files import termination_cleans_up

    with termination_cleans_up():
        summary, skipped = run(source, measured, config.plan, out=out, align=config.align,
                               metrics=_metrics(config, where),
                               spread=None if elsewhere is None else partial(_spread, elsewhere, config, preset))
    print(json.dumps(summary, indent=1))
    print(f"wrote {out.with_suffix('.csv')}, {out.with_suffix('.png')} and {out.with_suffix('.json')}")
    if skipped:
        print(f"{len(skipped)} skipped: {', '.join(map(str, skipped))}")
        raise typer.Exit(1)


def _spread(cluster: Cluster, config: Config, preset: str, batches: list[list], parts: Path,
            settings: dict) -> Generator[tuple[list, dict], None, None]:
    """A batch is a task, which writes what it measured into the folder of partial results; see `Spread`."""
    command = uuid.uuid4().hex
    jobs = [(names, command, config, preset, parts, settings) for names in batches]
    with closing(cluster.run(_measure_there, jobs, parts)) as results:
        for (names, *_), reasons in results:
            yield names, ({name: f"{name}: {reasons}" for name in names} if isinstance(reasons, InputError)
                          else reasons)


def _measure_there(names: list, command: str, config: Config, preset: str, parts: Path, settings: dict) -> dict:
    """In a worker: why objects of a batch could not be measured. What is loaded for a command stays for its batches."""
    from ..evaluation.evaluate import prepared
    from ..evaluation.results import PartialResults
    from ..speed.cluster import Unfit

    if command not in _ready:
        _ready.clear()
        where = resolve_device(config.device)
        with redirect_stderr(io.StringIO()):  # the command says it
            run = prepared(_source(config), _method(config, preset, where), config.plan, config.align,
                           _metrics(config, where))
        if run.settings() != settings:
            raise Unfit("a worker has other weights, another version of the library or other files")
        _ready[command] = run, PartialResults(parts, settings)
    run, kept = _ready[command]
    return run.keep(names, kept)


def _check_out(out: Path) -> None:
    from ..files import check_writable

    if out.suffix:
        raise InputError(f"--out {out}: expected a name without a dot; .csv, .json and others are appended")
    check_writable(out.parent)
    for path in (out.with_suffix(".csv"), out.with_suffix(".json"), out.with_suffix(".png")):
        if path.is_dir():
            raise InputError(f"{path}: is a folder where a result must go; choose another --out")


def _source(config: Config) -> Source:
    from ..evaluation.protocols import load_protocol
    from ..evaluation.sources import Folder, Procedural

    if not config.data:
        return Procedural(config.split, config.objects, config.batch, config.geometry)
    if not Path(config.data).is_dir():
        raise InputError(f"--data {config.data}: no such folder")
    return Folder(config.data, load_protocol(config.protocol) if config.protocol else None, config.all_objects,
                  config.meshes, config.batch)


def _method(config: Config, preset: str, device: torch.device) -> Method:
    from ..evaluation.methods import Ours, SingleView, parse_method
    from ..noise import EDMNoise

    if config.method != "ours":
        return parse_method(config.method, config.convention, config.sample, config.names, config.mirror)
    if device.type == "cuda":
        import torch

        torch.set_float32_matmul_precision("high")  # TF32, as in training
    pipeline = load_pipeline(preset).to(device)
    if config.eta is not None:
        pipeline.scheduler = EDMNoise.from_config(pipeline.scheduler.config, eta=config.eta)
    kind = SingleView if config.single_view else Ours
    return kind(pipeline, preset, config.steps, config.guidance, range(config.seeds), components=True)


def _metrics(config: Config, device: torch.device) -> dict:
    """Those beside PSNR and SSIM."""
    from ..evaluation.metrics import flip, load_lpips

    found = {"flip": flip} if config.flip else {}
    if config.lpips != "off":
        found["lpips"] = load_lpips(config.lpips, device)
    return found


def tables(
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder with what `evaluate` wrote, and ablation.json."
                                          )] = Path("results"),
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Instead of printing them, write each table here as "
                                             "text, Markdown, LaTeX and CSV.")] = None,
) -> None:
    """The paper's tables: published values, and measured ones in columns of their own.

    Exit code 1: some files were skipped, each with a line that says why.
    """
    from ..evaluation.tables import SUFFIXES, paper_tables, render
    from ..files import check_writable, staged

    if not results.is_dir():
        raise InputError(f"{results}: no such folder; give --results, the folder with the measurements")
    skipped: list[InputError] = []
    found = paper_tables(results, skipped.append)
    for error in skipped:
        print("skipped: " + " ".join(str(error).split()), file=sys.stderr)
    if out is None:
        print("\n".join(map(render, found)), end="")
    else:
        check_writable(out)
        with staged(out) as stage:
            for table, (style, suffix) in product(found, SUFFIXES.items()):
                (stage / f"{table.name}{suffix}").write_bytes(render(table, style).encode())
        print(f"wrote {len(found)} tables to {out}")
    if skipped:
        raise typer.Exit(1)
