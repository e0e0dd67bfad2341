"""`ouroboros generate`: pictures to views and splats."""

import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..speed.devices import resolve_device
from .options import check_choice, check_range, load_pipeline, parse_elevation, quick_imports, result_folders, warn

BACKGROUNDS = ("auto", "alpha", "keep", "u2net")
PRECISIONS = ("fp32", "fp16", "bf16")
MAX_STEPS = 1000


def generate(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Pictures of one object each (PNG, JPEG, WebP, "
                                                 "...). With several, each gets its own folder in --out.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    preset: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="A preset, a folder or a hub id.")] = "small",
    steps: Annotated[int | None, typer.Option(min=1, max=MAX_STEPS, help="Denoising steps; by default as many as the "
                                              "weights need.", show_default=False)] = None,
    plan: Annotated[str | None, typer.Option(
        metavar="NAME[,FIELD=VALUE,...]", help="What the run changes in Algorithm 2: paper (nothing), calm, two-stage, "
        "projection, or a change of one such as calm,every=3 (see plans.py); by default what the weights were made "
        "for.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same result.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]|mps", help="Where to run.")] = "auto",
    background: Annotated[str, typer.Option(
        metavar="|".join(BACKGROUNDS), help="auto: the alpha channel, else cut out by what ships; u2net: else by "
        "rembg's larger model; alpha: insist on the channel; keep: the whole picture.")] = "auto",
    elevation: Annotated[str | None, typer.Option(metavar="DEGREES|auto", help="By how many the camera looked down on "
                                                  "the object; auto: estimated. By default auto where the weights can, "
                                                  "else 10.", show_default=False)] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale, 1 is off; by default what the "
                                                   "weights were made for.", show_default=False)] = None,
    precision: Annotated[str, typer.Option(metavar="|".join(PRECISIONS), help="Half precision: half the memory of the "
                                           "paper's models, faster on GPUs; small ones: on CPUs with bf16.")] = "fp32",
    low_memory: Annotated[bool, typer.Option("--low-memory", help="For GPUs of 16 GB: a model stays on the CPU until "
                                             "it is used, and few views are decoded at a time. Slower.")] = False,
    export: Annotated[str | None, typer.Option(metavar="NAME[,NAME,...]", help="Files for other programs beside the "
                                               "results, see `ouroboros export`: spz, glb, views, ...",
                                               show_default=False)] = None,
) -> None:
    """Turn pictures into eight views and a 3D Gaussian splat each."""
    check_range("--guidance", 1 if guidance is None else guidance, 0, 100)
    check_choice("--background", background, BACKGROUNDS)
    check_choice("--precision", precision, PRECISIONS)
    if missing := next((image for image in images if _is_missing(image)), None):  # said before torch is imported
        raise InputError(f"{missing}: no such file")
    settings = {"preset": preset, "steps": steps, "plan": plan, "seed": seed, "background": background,
                "elevation": elevation if elevation in (None, "auto") else parse_elevation(elevation, "auto"),
                "guidance": guidance, "precision": precision, "low_memory": low_memory}
    _generate(result_folders(images, out), settings, device, export)


def _generate(folders: dict[Path, Path], settings: dict, device_name: str, export: str | None) -> None:
    with quick_imports(settings["preset"]):
        from ..data.photo import cut_out
        from ..export.formats import parse_formats
        from ..plans import Plan
        from ..viz.outputs import FILES, Stopwatch, check_targets, write_outputs

    # everything that can be checked without the weights comes before they are loaded
    if settings["plan"] is not None:
        Plan.parse(settings["plan"])
    exports = parse_formats(export) if export is not None else []
    for known in exports:
        known.check()
    notes = []
    for image in folders:
        cutout = cut_out(image, settings["background"])
        notes += cutout.notes
    only = cutout if len(folders) == 1 else None  # each costs up to 16 MB: others are cut out once more
    del cutout
    for folder in folders.values():
        check_targets(folder, FILES, exports)
    device = resolve_device(device_name)
    for note in notes:
        warn(note)

    import torch

    loading = Stopwatch()
    with loading("load"), quick_imports(settings["preset"]):
        pipe = _placed(load_pipeline(settings["preset"]), settings, device)
    assumed = False
    if settings["elevation"] is None:
        settings["elevation"] = 10.0 if pipe.elevation is None else "auto"
        assumed = pipe.elevation is None
    if settings["elevation"] == "auto" and pipe.elevation is None:
        raise InputError(f"--elevation auto: the weights {settings['preset']} cannot estimate it; give degrees")
    if settings["guidance"] is None:
        settings["guidance"] = pipe.config.guidance_scale
    if settings["steps"] is None:
        settings["steps"] = pipe.config.num_inference_steps
    settings["plan"] = str(Plan.parse(pipe.config.plan if settings["plan"] is None else settings["plan"]))
    for image, folder in folders.items():
        watch = Stopwatch()
        watch.seconds |= loading.seconds
        photo = (only or cut_out(image, settings["background"])).frame(pipe.image_size)
        pipe.set_progress_bar_config(desc=image.name, disable=not sys.stderr.isatty(), leave=False)
        told = {"image": str(image), **settings, "device": str(device)}
        if settings["elevation"] == "auto":
            with watch("elevation"):
                degrees = round(float(pipe.estimate_elevation(photo.image[None])), 1)
            told |= {"elevation": degrees, "elevation_estimated": True}
        with watch("recursion"), _autocast(pipe, settings["precision"], device):
            output = pipe(photo.image[None], elevation=told["elevation"], num_inference_steps=settings["steps"],
                          plan=settings["plan"], guidance_scale=settings["guidance"],
                          return_trace=_shown(pipe, settings),
                          generator=torch.Generator().manual_seed(settings["seed"]))
        record = write_outputs(folder, photo, output, told, watch, exports)
        _announce(image, folder, record)
        if assumed:
            print(f"  elevation {settings['elevation']:.0f} degrees, for these weights cannot estimate it; --elevation "
                  "sets another")
        for known in exports:
            print(f"  {folder / known.name}  {known.what}")


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # reading it says what is wrong
        pass
    return False


def _shown(pipe, settings: dict) -> list[int]:
    """The steps for recursion.png: of those that the plan reconstructs, if they are four at least, since each other one
    is decoded, reconstructed and rendered for the picture alone."""
    from ..plans import Plan
    from ..viz.sheets import evenly_chosen

    plan, sigmas = Plan.parse(settings["plan"]), pipe.scheduler.sigmas(settings["steps"])
    shown = evenly_chosen(settings["steps"])
    made = [t for t in range(settings["steps"]) if plan.reconstructs(t, sigmas)]
    return [made[i] for i in evenly_chosen(len(made))] if len(made) >= min(4, len(shown)) else shown


def _placed(pipe, settings: dict, device):
    """The pipeline on its device, in the precision and with the memory that were asked for. Raises InputError."""
    from ..loading import HALF_PRECISION, convert_weights, takes_half_weights

    if settings["precision"] in HALF_PRECISION and takes_half_weights(pipe):
        convert_weights(pipe, HALF_PRECISION[settings["precision"]])
    if not settings["low_memory"]:
        return pipe.to(device)
    if device.type != "cuda":
        raise InputError(f"--low-memory: is for GPUs, this runs on {device}")
    pipe.enable_low_memory(device)
    return pipe


def _autocast(pipe, precision: str, device):
    """What small models run under in half precision."""
    import torch

    from ..loading import HALF_PRECISION, takes_half_weights

    return torch.autocast(device.type, HALF_PRECISION.get(precision),
                          enabled=precision in HALF_PRECISION and not takes_half_weights(pipe))


def _announce(image: Path, folder: Path, record: dict) -> None:
    seconds, figures = record["seconds"], record["figures"]
    print(f"{image} -> {folder}{os.sep}  ({math.fsum(seconds.values()):.1f} s, of which recursion "
          f"{seconds['recursion']:.1f} s; self-consistency {figures['self_consistency_psnr']:.1f} dB)")
    if record["settings"].get("elevation_estimated"):
        print(f"  elevation {record['settings']['elevation']:.0f} degrees, estimated; --elevation sets another")
    for name, what in (("input.png", "what the model saw"), ("multiview.png", "the views above their 3D renders"),
                       ("recursion.png", "from noise to views, step by step"),
                       ("gaussians.ply", f"{figures['gaussians_visible']} Gaussians for any 3DGS viewer, y down"),
                       ("turntable.mp4", "once round the object"),
                       ("result.json", "settings, versions, seconds, figures"),
                       ("viewer.html", "open this in a browser first")):
        print(f"  {folder / name}  {what}")
