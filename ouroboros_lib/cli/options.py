"""What several commands share: checks of options, warnings, and loading a pipeline without bars."""

from __future__ import annotations

import gc
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..pipeline import Ouroboros3DPipeline
    from ..speed.cluster import Cluster

SMALL = {"Autoencoder", "ElevationEstimator", "EDMNoise", "GaussianReconstructor", "MultiviewUNet"}
VAE = "diffusers.models.autoencoders.autoencoder_kl"  # through which all its other models would come
UNUSED = ("boto3", "onnxruntime", "scipy", "torchvision", "transformers")  # of what diffusers imports, by small models
own_process = False  # whether this is the program `ouroboros` and nothing else, as `main` knows
OnCluster = Annotated[str, typer.Option("--cluster", metavar="tcp://HOST:PORT|local:N|slurm:FILE", help="Let Dask's "
                                        "workers do it, which share the folders: docs/cluster.md.")]


def warn(message: str) -> None:
    """One line on stderr; the command goes on."""
    print("warning: " + " ".join(message.split()), file=sys.stderr)


def check_choice(option: str, value: str, allowed: Sequence[str]) -> None:
    """Raise InputError unless the value is one of those allowed."""
    if value not in allowed:
        raise InputError(f"{option} {value}: expected one of {', '.join(allowed)}")


def check_range(option: str, value: float, low: float, high: float) -> None:
    """Raise InputError unless low <= value <= high."""
    if not low <= value <= high:  # False for NaN too
        raise InputError(f"{option} {value:g}: expected a number from {low:g} to {high:g}")


def parse_cluster(text: str) -> Cluster | None:
    """What --cluster names, None without it. Raises InputError."""
    if not text:
        return None
    from ..speed.cluster import Cluster

    return Cluster(text)


def parse_elevation(text: str, word: str) -> float | None:
    """Degrees of --elevation, or None for the word that is allowed in their place. Raises InputError."""
    if text == word:
        return None
    try:
        degrees = float(text)
    except ValueError:
        raise InputError(f"--elevation {text}: expected degrees or {word}") from None
    check_range("--elevation", degrees, -90, 90)
    return degrees


def result_folders(inputs: list[Path], out: Path) -> dict[Path, Path]:
    """Where the results of each input go: DIR for one, DIR/<stem> for several; where stems repeat, as in a/000.png and
    b/000.png, DIR/<the part of the path that differs>. Raises InputError."""
    if len(inputs) == 1:
        return {inputs[0]: out}
    full = [Path(os.path.abspath(path)) for path in inputs]
    above = os.path.commonpath([path.parent for path in full])
    for names in ([Path(_stem(path)) for path in full],
                  [path.parent.relative_to(above) / _stem(path) for path in full]):
        if not (clash := _clash(names)):
            return {path: out / name for path, name in zip(inputs, names, strict=True)}
    one, other = (inputs[number] for number in clash)
    raise InputError(f"{other}: its results would go to the same folder as those of {one}; rename one or run them "
                     "apart")


def _stem(path: Path) -> str:
    """Of a file's name; the whole name where dots are all that is left, as of "...png", which would lead upwards."""
    return path.stem if path.stem.strip(".") else path.name


def _clash(names: list[Path]) -> tuple[int, ...]:
    """The numbers of two that are one folder on some system, or of which one lies in the other; none if all differ.

    Systems differ in capitals, in how accents are written, and in blanks and dots at the end.
    """
    taken: dict[tuple[str, ...], int] = {}
    keys = [tuple(unicodedata.normalize("NFC", part).casefold().rstrip(" .") for part in name.parts) for name in names]
    for number, key in enumerate(keys):
        if taken.setdefault(key, number) != number:
            return taken[key], number
    for number, key in enumerate(keys):
        for length in range(len(key)):
            if key[:length] in taken:
                return taken[key[:length]], number
    return ()


def silence_diffusers() -> None:
    """Its loading bars and hints would hide an error's one line."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from diffusers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@contextmanager
def quick_imports(preset: str) -> Iterator[None]:
    """Around imports by a program that runs a pipeline. Python does not look for garbage meanwhile, and diffusers
    leaves out what pipelines of small models that are not compiled never use of it.
    """
    if not own_process:
        yield
        return
    gc.disable()
    try:
        with without_unused() if is_small(preset) and "torch._dynamo" not in sys.modules else nullcontext():
            yield
    finally:
        gc.enable()


@contextmanager
def without_unused() -> Iterator[None]:
    """Around imports of diffusers: without what it would import for others, which takes longer than importing torch."""
    vae = ModuleType(VAE)
    vae.AutoencoderKL = type("AutoencoderKL", (), {})  # type: ignore[attr-defined]  # no small model is one
    hidden = {"torch._dynamo": _no_compiler(), VAE: vae} | dict.fromkeys(UNUSED)  # None: as if it was not installed
    before = {name: sys.modules[name] for name in hidden if name in sys.modules}
    sys.modules.update(hidden)
    packages = metadata.packages_distributions  # reads the list of files of every package that is there
    metadata.packages_distributions = dict  # type: ignore[assignment]
    try:
        yield
    finally:
        metadata.packages_distributions = packages  # type: ignore[method-assign]
        for name, stand_in in hidden.items():
            if sys.modules[name] is stand_in:
                del sys.modules[name]
        sys.modules.update(before)
        vars(sys.modules.get("diffusers.models", ModuleType(""))).pop("AutoencoderKL", None)  # which it would remember


def _no_compiler() -> ModuleType:
    """What diffusers asks of torch._dynamo where nothing is compiled; who asks for more gets the module itself."""
    def itself(name: str):
        if name.startswith("__"):  # imports look whether it is a package
            raise AttributeError(name)
        del sys.modules[module.__name__]
        return getattr(import_module(module.__name__), name)

    module = ModuleType("torch._dynamo")
    module.allow_in_graph = lambda function: function  # type: ignore[attr-defined]
    module.disable = lambda function, *_, **__: function or (lambda other: other)  # type: ignore[attr-defined]
    module.eval_frame = SimpleNamespace(OptimizedModule=())  # type: ignore[attr-defined]  # none of the models is one
    module.__getattr__ = itself  # type: ignore[method-assign]
    return module


def is_small(name: str) -> bool:
    """Whether a preset with weights or a folder is a pipeline of small models only; False for what cannot be read."""
    from ..files import read_json
    from ..presets import SHIPPED_WEIGHTS, preset_names

    try:
        index = read_json((SHIPPED_WEIGHTS if name in preset_names() else Path()) / name / "model_index.json")
        parts = {entry[1] for entry in index.values() if isinstance(entry, list) and isinstance(entry[0], str)}
        return index["_class_name"] == "Ouroboros3DPipeline" and parts <= SMALL
    except (InputError, LookupError, TypeError, AttributeError):  # loading says what is wrong, or asks the hub
        return False


def load_pipeline(name: str) -> Ouroboros3DPipeline:
    """A pipeline by preset, folder or hub id, in silence. Raises InputError."""
    silence_diffusers()
    from ..pipeline import Ouroboros3DPipeline

    return Ouroboros3DPipeline.from_pretrained(name)
