"""The commands that measure: `ouroboros evaluate`, `ouroboros tables`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..speed.devices import resolve_device
from .options import check_choice, check_range, load_pipeline


def tables(
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder with what `evaluate` wrote, and ablation.json."
                                          )] = Path("results"),
    style: Annotated[str, typer.Option("--format", metavar="text|markdown|latex|csv", help="How to write; text is the "
                                       "default.")] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE|DIR", help="Write here instead of printing: a file with all "
                                             "tables (.md, .tex, .csv and .txt say the format), or a folder with a "
                                             "file for each table, in all formats.")] = None,
) -> None:
    """The paper's tables: published values, and measured ones in columns of their own."""
    from ..evaluation.tables import FORMATS, SUFFIXES, paper_tables, render
    from ..files import check_writable, replace_file

    check_choice("--format", style or "text", FORMATS)
    if not results.is_dir():
        raise InputError(f"{results}: no such folder; give --results, the folder with the measurements")
    found = paper_tables(results)
    if out is None:
        print("\n".join(render(table, style or "text") for table in found), end="")
        return
    if out.suffix and not out.is_dir():
        by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
        style = style or by_suffix.get(out.suffix.lower(), "text")
        files = {out: "\n".join(render(table, style) for table in found)}
    else:
        files = {out / f"{table.name}{SUFFIXES[name]}": render(table, name) for table in found
                 for name in ([style] if style else FORMATS)}
    for path, text in files.items():
        check_writable(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
        print(f"wrote {path}")


def evaluate(
    out: Annotated[Path, typer.Option(metavar="PATH", help="Writes PATH.csv (a row per image) and PATH.json.")],
    preset: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="A preset, a folder or a hub id.")] = "small",
    split: Annotated[str, typer.Option(metavar="val|test|heldout", help="Which held-out objects.")] = "test",
    objects: Annotated[int, typer.Option(help="How many of them.")] = 128,
    seeds: Annotated[str, typer.Option(metavar="N,N,...", help="Seeds of the recursion's noise.")] = "0",
    feedback: Annotated[str, typer.Option(metavar="KIND,KIND,...", help="Kinds of feedback to compare; `default`: what "
                                          "the model does by itself.")] = "both,none",
    feedback_from: Annotated[str, typer.Option(metavar="STEP,...", help="First steps that feed back.")] = "0",
    feedback_share: Annotated[str, typer.Option(
        metavar="SHARE,...", help="Share of the steps that feed back, from 0 to 1.")] = "1",
    feedback_every: Annotated[str, typer.Option(
        metavar="N,...", help="Reconstruct for it every so many steps only.")] = "1",
    feedback_scale: Annotated[str, typer.Option(
        metavar="SCALE,...", help="How far estimates are moved from those without feedback; 1: plain.")] = "1",
    project_above: Annotated[str, typer.Option(
        metavar="off|SIGMA,...", help="Project estimates onto their 3D render above this noise level.")] = "off",
    project_share: Annotated[str, typer.Option(
        metavar="SHARE,...", help="How far towards it, from 0 to 1.")] = "1",
    project_every: Annotated[str, typer.Option(
        metavar="N,...", help="For --project-above, reconstruct so many steps after the last reconstruction.")] = "1",
    keep_input: Annotated[str, typer.Option(
        metavar="off|on|off,on", help="Replace view 0 of every estimate by the input.")] = "off",
    steps: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of denoising steps.")] = "25",
    guidance: Annotated[str, typer.Option(
        metavar="default|SCALE,...", help="Classifier-free guidance, 1 is off; default: what the weights were made for."
    )] = "default",
    eta: Annotated[str, typer.Option(
        metavar="default|SHARE,...", help="Share of the noise that a step renews.")] = "default",
    batch: Annotated[int, typer.Option(help="Objects at a time; does not change the figures.")] = 16,
    lpips: Annotated[str, typer.Option(metavar="alex|vgg|off", help="LPIPS, if its backbone is here.")] = "alex",
    flip: Annotated[bool, typer.Option("--flip", help="Measure FLIP as well: 8 ms a picture.")] = False,
    geometry: Annotated[int, typer.Option(metavar="N", help="Compare the shape of the first N of them with the exact "
                                          "one: PATH_geometry.csv.")] = 0,
    single_view: Annotated[bool, typer.Option(
        "--single-view", help="Measure only a G that was trained with single_view=true.")] = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to run.")] = "auto",
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Measure on the rendered objects in this folder "
                                              "instead of procedural ones made on the fly.")] = None,
    method: Annotated[str, typer.Option(metavar="ours|images:DIR|splat:DIR|mesh:DIR", help="With --data: the model, or "
                                        "another method's outputs, one per object.")] = "ours",
    protocol: Annotated[str, typer.Option(metavar="NAME|FILE", help="With --data: insist that it was rendered for "
                                          "this protocol.")] = "",
    convention: Annotated[str, typer.Option(metavar="NAME", help="Cameras, axes and scale of the other method; "
                                            "see `ouroboros data conventions`.")] = "ouroboros",
    align: Annotated[str, typer.Option(metavar="none|azimuth|scale|both", help="Fit the outputs to the truth first; "
                                       "the rows say so.")] = "none",
    meshes: Annotated[list[Path] | None, typer.Option(metavar="PATH", help="True meshes of --data, repeatable: compare "
                                                      "3D with them.")] = None,
    all_objects: Annotated[bool, typer.Option("--all-objects", help="All that is in --data, whatever the protocol "
                                              "lists.")] = False,
) -> None:
    """Measure a model on held-out procedural objects: its parts, and the recursion in all combinations of the lists.

    With --data, measure the model or any other method on a folder that `ouroboros data render --protocol` made; also
    writes a contact sheet PATH.png. Exit code 1: some objects were skipped, each with a line that says why.
    """
    from ..files import check_writable
    from ..models.feedback import FEEDBACKS

    if out.suffix:
        raise InputError(f"--out {out}: expected a name without a dot; .csv, .json and others are appended")
    check_writable(out.parent)
    for path in (out.with_suffix(".csv"), out.with_suffix(".json"), out.with_suffix(".png")):
        if path.is_dir():
            raise InputError(f"{path}: is a folder where a result must go; choose another --out")
    check_choice("--split", split, ("val", "test", "heldout"))
    check_choice("--lpips", lpips, ("alex", "vgg", "off"))
    check_range("--objects", objects, 1, 100_000)
    check_range("--batch", batch, 1, 4096)
    check_range("--geometry", geometry, 0, objects)
    choices = {"feedback": feedback.split(","), "feedback_from": _numbers("--feedback-from", feedback_from, int),
               "feedback_share": _numbers("--feedback-share", feedback_share, float),
               "feedback_every": _numbers("--feedback-every", feedback_every, int),
               "feedback_scale": _numbers("--feedback-scale", feedback_scale, float),
               "project_above": _numbers("--project-above", project_above, float, "off"),
               "project_share": _numbers("--project-share", project_share, float),
               "project_every": _numbers("--project-every", project_every, int),
               "keep_input": [choice == "on" for choice in keep_input.split(",")],
               "steps": _numbers("--steps", steps, int), "guidance": _numbers("--guidance", guidance, float, "default"),
               "eta": _numbers("--eta", eta, float, "default")}
    for option, shares in (("--eta", choices["eta"]), ("--project-share", choices["project_share"]),
                           ("--feedback-share", choices["feedback_share"])):
        for share in shares:
            if share is not None:
                check_range(option, share, 0, 1)
    for choice in keep_input.split(","):
        check_choice("--keep-input", choice, ("off", "on"))
    for kind in choices["feedback"]:
        check_choice("--feedback", kind, ("default", *FEEDBACKS))
    for name, values, low in (("--steps", choices["steps"], 1), ("--feedback-from", choices["feedback_from"], 0),
                              ("--feedback-every", choices["feedback_every"], 1),
                              ("--project-every", choices["project_every"], 1)):
        for value in values:
            check_range(name, value, low, 1000)
    numbers = tuple(_numbers("--seeds", seeds, int))
    for number in numbers:
        check_range("--seeds", number, 0, 2**32 - 1)
    where = resolve_device(device)
    other = _other_method(data, method, protocol, convention, align, geometry, meshes, all_objects)
    if data is not None:
        for option, given in (("--split", split != "test"), ("--objects", objects != 128), ("--batch", batch != 16),
                              ("--single-view", single_view)):
            if given:
                raise InputError(f"{option}: is for procedural objects made on the fly, not for --data")

    import torch

    from ..evaluation.heldout import all_variants, evaluate_heldout
    from ..evaluation.metrics import flip as flip_error
    from ..evaluation.metrics import load_lpips

    if where.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as in training
    pipeline = None if other else load_pipeline(preset).to(where)
    metrics = {"flip": flip_error} if flip else {}
    if lpips != "off":
        try:
            metrics["lpips"] = load_lpips(lpips, where)
        except InputError as missing:
            print(f"{missing}; its column stays empty")
    if data is not None:
        from ..evaluation.folder_evaluation import Ours, evaluate_folder
        from ..evaluation.protocols import load_protocol
        from ..files import termination_cleans_up

        ours = other or Ours(pipeline, preset, tuple(all_variants(**choices)), numbers)
        with termination_cleans_up():
            summary, skipped = evaluate_folder(data, out, ours, load_protocol(protocol) if protocol else None, align,
                                               metrics, meshes, all_objects)
        print(json.dumps(summary, indent=1))
        print(f"wrote {out.with_suffix('.csv')}, {out.with_suffix('.json')} and {out.with_suffix('.png')}")
        if skipped:
            print(f"{len(skipped)} skipped: {', '.join(skipped)}")
            raise typer.Exit(1)
        return
    summary = evaluate_heldout(pipeline, out, split, objects, all_variants(**choices), numbers, batch, metrics,
                               geometry, single_view)
    print(json.dumps(summary, indent=1))
    print(f"wrote {out.with_suffix('.csv')} and {out.with_suffix('.json')}")


def _other_method(data: Path | None, method: str, protocol: str, convention: str, align: str, geometry: int,
                  meshes: list[Path] | None, all_objects: bool):
    """The outputs that `evaluate --method` names, None for the model itself. Raises InputError."""
    if data is None:
        given = {"--method": method != "ours", "--protocol": protocol, "--align": align != "none", "--meshes": meshes,
                 "--convention": convention != "ouroboros", "--all-objects": all_objects}
        if names := [name for name, value in given.items() if value]:
            raise InputError(f"{names[0]}: needs --data, a folder of rendered objects")
        return None
    if geometry and not meshes:
        raise InputError("--geometry: with --data, give the true meshes instead, --meshes PATH")
    from ..evaluation.alignment import check_alignment
    from ..evaluation.methods import parse_method
    from ..evaluation.protocols import load_protocol

    found = None if method == "ours" else parse_method(method, convention)
    if found is None and convention != "ouroboros":
        raise InputError(f"--convention {convention}: is for other methods' outputs, not for --method ours")
    check_alignment(align, found.kind if found else "splat")
    if protocol:
        load_protocol(protocol)
    if not data.is_dir():
        raise InputError(f"--data {data}: no such folder")
    return found


def _numbers(option: str, text: str, kind: type, none: str = "") -> list:
    """The values of a list like 0,1,2; the word `none` among them, if there is one, gives None. Raises InputError."""
    try:
        numbers = [None if none and part == none else kind(part) for part in text.split(",")]
        if any(number is not None and math.isnan(number) for number in numbers):
            raise ValueError
        return numbers
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"{option} {text}: expected {none + ' or ' if none else ''}{what} separated by commas, for "
                         f"example {none + ',1' if none else '1,2'}") from None
