"""The command line: `ouroboros ...` or `python -m ouroboros_lib ...`.

Commands import what they need when they run, so that --help is quick. Bad input ends in one line on stderr and exit
code 2, an interrupt in one line and 130; results appear only when they are complete.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError

# typer brings its own copy of click in some versions and uses the package in others: find its exceptions through typer
_UsageError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
_ClickException = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

FEEDBACKS = ("both", "rgb", "ccm", "none")
BACKGROUNDS = ("auto", "alpha", "keep")
PRECISIONS = ("fp32", "fp16", "bf16")
MAX_STEPS = 1000

app = typer.Typer(name="ouroboros", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
                  pretty_exceptions_enable=False,
                  help="Image-to-3D by a recursion of multi-view diffusion and 3D reconstruction.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0, 1 (doctor: something is missing), 2 or 130."""
    try:
        code = app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="ouroboros",
                   standalone_mode=False)
    except InputError as error:
        code = _complain(str(error))
    except _UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        code = _complain(error.format_message() + hint) if error.format_message() else 2
    except _ClickException as error:
        code = _complain(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # newer typer turns Ctrl-C into this code by itself
        print("\ninterrupted, nothing was left half-written", file=sys.stderr)
    sys.exit(code or 0)


def _complain(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def warn(message: str) -> None:
    print("warning: " + " ".join(message.split()), file=sys.stderr)


def check_choice(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{option} {value}: expected one of {', '.join(allowed)}")


def check_range(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # False for NaN too
        raise InputError(f"{option} {value:g}: expected a number from {low:g} to {high:g}")


def resolve_device(name: str):
    """"auto", "cpu", "cuda" or "cuda:N" to a torch.device that is there. Raises InputError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise InputError(f"--device {name}: expected one of auto, cpu, cuda, cuda:N")
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            why = "torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU or no driver"
            raise InputError(f"--device {name}: no usable CUDA GPU here ({why}); use --device cpu or auto, "
                             "`ouroboros doctor` says more")
        count = torch.cuda.device_count()
        if int(name.partition(":")[2] or 0) >= count:
            raise InputError(f"--device {name}: there is only cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}")
    return torch.device(name)


# ---- doctor ---------------------------------------------------------------------------------------------------------


@app.command()
def doctor() -> None:
    """Say what works on this machine, what is missing and how to get it; exit code 1 if `generate` cannot run."""
    from .doctor import report

    text, ready = report()
    print(text)
    raise typer.Exit(0 if ready else 1)


# ---- generate -------------------------------------------------------------------------------------------------------


@app.command()
def generate(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Pictures of one object each (PNG, JPEG, WebP, "
                                                 "...). With several, each gets its own folder in --out.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    preset: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="A preset, a folder or a hub id.")] = "small",
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to run.")] = "auto",
    feedback: Annotated[str, typer.Option(metavar="|".join(FEEDBACKS), help="Which renders go back into F.")] = "both",
    background: Annotated[str, typer.Option(
        metavar="|".join(BACKGROUNDS), help="auto: the alpha channel, else rembg, else guessed from the border; alpha: "
        "insist on the channel; keep: the whole picture.")] = "auto",
    elevation: Annotated[float, typer.Option(help="Degrees by which the camera looked down on the object.")] = 10.0,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale, 1 is off; by default what the "
                                                   "weights were made for.", show_default=False)] = None,
    fast: Annotated[int | None, typer.Option(metavar="N", help="Decode and reconstruct every N-th step only: faster. "
                                             "Small does so with 5 by itself.", show_default=False)] = None,
    precision: Annotated[str, typer.Option(metavar="fp32|fp16|bf16", help="Half precision: half the memory of the "
                                           "paper's models, faster on GPUs; small ones: on CPUs with bf16.")] = "fp32",
    low_memory: Annotated[bool, typer.Option("--low-memory", help="For GPUs of 16 GB: models wait on the CPU for their "
                                             "turn and few views are decoded at a time. Slower.")] = False,
) -> None:
    """Turn pictures into eight views and a 3D Gaussian splat each."""
    check_range("--steps", steps, 1, MAX_STEPS)
    check_range("--seed", seed, 0, 2**63 - 1)
    check_range("--elevation", elevation, -90, 90)
    check_range("--guidance", 1 if guidance is None else guidance, 0, 100)
    check_range("--fast", 1 if fast is None else fast, 1, MAX_STEPS)
    check_choice("--feedback", feedback, FEEDBACKS)
    check_choice("--background", background, BACKGROUNDS)
    check_choice("--precision", precision, PRECISIONS)
    folders = _result_folders(images, out)
    settings = {"preset": preset, "steps": steps, "seed": seed, "feedback": feedback, "background": background,
                "elevation": elevation, "guidance": guidance, "fast": fast,
                "precision": precision, "low_memory": low_memory}
    _generate(folders, settings, device)


def _result_folders(images: list[Path], out: Path) -> dict[Path, Path]:
    """Where the results of each picture go: DIR for one, DIR/<stem> for several."""
    folders = {image: out / image.stem if len(images) > 1 else out for image in images}
    taken: dict[str, Path] = {}
    for image in images:
        other = taken.setdefault(image.stem.lower(), image)
        if other is not image:
            raise InputError(f"{image}: its results would go to the same folder as those of {other}; rename one "
                             "or run them apart")
    return folders


def _generate(folders: dict[Path, Path], settings: dict, device_name: str) -> None:
    from ..data.photo import cut_out
    from ..viz.outputs import Stopwatch, check_output_folder, write_outputs
    from ..viz.sheets import evenly_chosen

    # everything that can be checked without the weights comes before they are loaded
    cutouts = {image: cut_out(image, settings["background"]) for image in folders}
    for folder in folders.values():
        check_output_folder(folder)
    device = resolve_device(device_name)
    for cutout in cutouts.values():
        for note in cutout.notes:
            warn(note)

    import torch

    loading = Stopwatch()
    with loading("load"):
        pipe = _placed(load_pipeline(settings["preset"]), settings, device)
    if settings["guidance"] is None:
        settings["guidance"] = pipe.config.guidance_scale
    shortcuts = {} if settings["fast"] is None else dict.fromkeys(("feedback_every", "project_every"), settings["fast"])
    options = shortcuts if settings["feedback"] == "none" else (pipe.config.feedback_options or {}) | shortcuts
    for image, folder in folders.items():
        watch = Stopwatch()
        watch.seconds |= loading.seconds
        photo = cutouts.pop(image).frame(pipe.image_size)
        pipe.set_progress_bar_config(desc=image.name, disable=not sys.stderr.isatty(), leave=False)
        with watch("recursion"), _autocast(pipe, settings["precision"], device):
            output = pipe(photo.image[None], elevation=settings["elevation"], num_inference_steps=settings["steps"],
                          guidance_scale=settings["guidance"], feedback=settings["feedback"],
                          return_trace=evenly_chosen(settings["steps"]),
                          generator=torch.Generator().manual_seed(settings["seed"]), **shortcuts)
        told = {"image": str(image), **settings, "feedback_options": options, "device": str(device)}
        record = write_outputs(folder, photo, output, told, watch)
        _announce(image, folder, record)


def _placed(pipe, settings: dict, device):
    """The pipeline on its device, in the precision and with the memory that were asked for. Raises InputError."""
    from ..pipeline import HALF_PRECISION, convert_weights, takes_half_weights

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

    from ..pipeline import HALF_PRECISION, takes_half_weights

    return torch.autocast(device.type, HALF_PRECISION.get(precision),
                          enabled=precision in HALF_PRECISION and not takes_half_weights(pipe))


def load_pipeline(name: str):
    """The pipeline in silence: diffusers' loading bars would hide an error's one line."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from diffusers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    from ..pipeline import Ouroboros3DPipeline

    return Ouroboros3DPipeline.from_pretrained(name)


def _announce(image: Path, folder: Path, record: dict) -> None:
    seconds, figures = record["seconds"], record["figures"]
    print(f"{image} -> {folder}{os.sep}  ({math.fsum(seconds.values()):.1f} s, of which recursion "
          f"{seconds['recursion']:.1f} s; self-consistency {figures['self_consistency_psnr']:.1f} dB)")
    for name, what in (("input.png", "what the model saw"), ("multiview.png", "the views above their 3D renders"),
                       ("recursion.png", "from noise to views, step by step"),
                       ("gaussians.ply", f"{figures['gaussians']} Gaussians for any 3DGS viewer"),
                       ("turntable.mp4", "once round the object"),
                       ("result.json", "settings, versions, seconds, figures"),
                       ("viewer.html", "open this in a browser first")):
        print(f"  {folder / name}  {what}")


# ---- further commands ------------------------------------------------------------------------------------------------

from .convert import convert_app  # noqa: E402
from .data import data_app  # noqa: E402
from .training import evaluate, recipe, tables, train  # noqa: E402

app.command()(train)
app.command()(recipe)
app.command()(evaluate)
app.add_typer(data_app, name="data")
app.command()(tables)
app.add_typer(convert_app, name="convert")

if __name__ == "__main__":
    main()
