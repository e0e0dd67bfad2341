"""`ouroboros doctor`: what works on this machine, what is missing, how to get it. No network."""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import typer

from ..files import one_line
from .options import load_pipeline

SYMBOLS = {"ok": "ok", "off": "--", "missing": "!!"}
PACKAGES = ("torch", "torchvision", "diffusers", "numba", "scipy", "plyfile", "PIL", "imageio_ffmpeg")


class Check(NamedTuple):
    """One line. state: "ok"; "off", an option that is not there; "missing", without which `generate` cannot run."""

    name: str
    state: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"[{SYMBOLS[self.state]}] {self.name:<14} {self.found}"
        return line + (f"\n{'':19} -> {self.advice}" if self.advice else "")


def doctor() -> None:
    """Say what works on this machine, what is missing and how to get it; exit code 1 if `generate` cannot run."""
    checks = run_checks()
    missing = [check.name for check in checks if check.state == "missing"]
    print(*checks, sep="\n")
    print(f"\n`ouroboros generate` cannot run yet: {', '.join(missing)}." if missing
          else "\n`ouroboros generate IMAGE --out DIR` can run.")
    raise typer.Exit(1 if missing else 0)


def run_checks() -> list[Check]:
    """All checks, in the order in which they are shown; some ten seconds, of imports and of loading the weights."""
    reinstall = "pip install -e . in the repository, or make demo; torch and torchvision from one package index"
    return [_check("Python", _python, "missing", "use Python 3.10 to 3.13"),
            *(_check(name, partial(_package, name), "missing", reinstall) for name in PACKAGES),
            _check("GPU", _gpu, "off", "the CPU is used"),
            _check("gsplat", _gsplat, "off", "draws splats on a GPU (compiled once, with nvcc): pip install gsplat"),
            _check("Weights small", _weights, "missing", "restore them: git checkout -- ouroboros_lib/presets/weights; "
                   "or name your own with --preset FOLDER"),
            _check("ffmpeg", _ffmpeg, "missing", "reinstall imageio-ffmpeg"),
            _check("Meshes", _embree, "off", "`ouroboros data render` cannot run: pip install embreex (there is none "
                   "for Linux on ARM)"),
            _check("LPIPS", _lpips, "off", "only its column in evaluations stays empty"),
            _check("rembg", _rembg, "off", "backgrounds are guessed from the border of the picture; for busy ones "
                   "pip install -e '.[photo]', then once `rembg d u2net`")]


def _check(name: str, find: Callable[[], str], otherwise: str, advice: str) -> Check:
    try:
        return Check(name, "ok", find())
    except Exception as error:  # whatever a broken installation raises is the finding
        return Check(name, otherwise, one_line(error, 200), advice)


def _python() -> str:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise RuntimeError(found)
    return found


def _package(name: str) -> str:
    importlib.import_module(name)  # mismatched builds only fail then
    return metadata.version({"PIL": "pillow"}.get(name, name))


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch is built without CUDA" if torch.version.cuda is None else
                           "torch sees no GPU or no driver")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = [f"cuda:{i} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for i, gpu in enumerate(gpus)]
    return f"{'; '.join(names)} (CUDA {torch.version.cuda})"


def _gsplat() -> str:
    found = metadata.version("gsplat")
    if not (shutil.which("nvcc") or os.environ.get("CUDA_HOME")):
        raise RuntimeError(f"{found}, but no nvcc on the PATH to compile it with")
    return found


def _weights() -> str:
    return load_pipeline("small").name_or_path


def _ffmpeg() -> str:
    from ..export.turntable import check_ffmpeg

    return check_ffmpeg()


def _embree() -> str:
    importlib.import_module("embreex.rtcore_scene")
    return f"embreex {metadata.version('embreex')}, trimesh {metadata.version('trimesh')}"


def _lpips() -> str:
    from ..evaluation.metrics import load_lpips

    return f"backbone {load_lpips().backbone}"


def _rembg() -> str:
    model = Path(os.environ.get("U2NET_HOME", Path.home() / ".u2net")) / "u2net.onnx"
    found = metadata.version("rembg")
    if not model.is_file():
        raise RuntimeError(f"{found}, but no model at {model}")
    return f"{found}, model {model}"
