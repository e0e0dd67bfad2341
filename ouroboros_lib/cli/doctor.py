"""`ouroboros doctor`: what works on this machine, what is missing, how to get it. No network."""

import importlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import typer

from ..files import check_writable, one_line
from ..speed.devices import resolve_device
from .options import load_pipeline

SYMBOLS = {"ok": "ok", "off": "--", "missing": "!!"}
PACKAGES = ("torch", "diffusers", "accelerate", "numba", "scipy", "plyfile", "PIL", "imageio_ffmpeg")
EXTRAS = {  # of pyproject.toml: what needs them, and modules of the packages that they bring
    "eval": ("`evaluate`, rendering meshes", ("pytorch_msssim", "flip_evaluator", "lpips", "torchvision", "trimesh")),
    "train": ("`train` and `recipe`", ("tensorboard", "webdataset")),
    "paper": ("`convert` and models of the paper's sizes", ("transformers",)),
    "course": ("the notebooks", ("matplotlib", "plotly", "ipywidgets", "jupyterlab", "papermill")),
    "export": ("meshes, and splats in other formats than .ply and .splat",
               ("gsply", "trimesh", "skimage", "xatlas", "fast_simplification")),
    "app": ("`app`", ("gradio",)),
    "cluster": ("--cluster, and shards in s3://", ("dask", "distributed", "s3fs")),
}
SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "snowman.png"


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
    """All checks, in the order in which they are shown; some twenty seconds, most of them of imports and of a step."""
    reinstall = "pip install -e . in the repository, or make demo"
    return [_check("Python", _python, "missing", "use Python 3.10 to 3.13"),
            *(_check(name, partial(_package, name), "missing", reinstall) for name in PACKAGES),
            _check("GPU", _gpu, "off", "the CPU is used"),
            _check("gsplat", _gsplat, "off", "draws splats on a CUDA GPU, compiled once with the toolkit's nvcc"),
            _check("Weights small", _weights, "missing", "restore them: git checkout -- ouroboros_lib/presets/weights; "
                   "or name your own with --preset FOLDER"),
            _check("One step", _step, "missing", f"where a GPU is to blame, use --device cpu; else {reinstall}"),
            _check("Kernels", _kernels, "off", "set NUMBA_CACHE_DIR to a folder that can be written"),
            _check("Temp folder", _temporary, "missing", "set TMPDIR to a folder that can be written"),
            _check("This folder", _here, "off", "give --out a folder elsewhere, or work elsewhere"),
            _check("ffmpeg", _ffmpeg, "missing", "reinstall imageio-ffmpeg"),
            *(_check(f"[{extra}]", partial(_extra, modules), "off", f"{purpose}: pip install -e '.[{extra}]'")
              for extra, (purpose, modules) in EXTRAS.items()),
            _check("Meshes", _embree, "off", "`ouroboros data render` cannot run: pip install -e '.[eval]' (embreex is "
                   "not there for Linux on ARM)"),
            _check("LPIPS", _lpips, "off", "`evaluate` needs --lpips off"),
            _check("Cut-outs", _cut_outs, "off", "backgrounds are guessed from the border of the picture: "
                   "pip install onnxruntime"),
            _check("rembg", _rembg, "off", "a larger model for --background u2net: pip install -e '.[photo]', then "
                   "once `rembg d u2net`")]


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


def _step() -> str:
    import torch

    from ..data.photo import load_photo

    device = resolve_device("auto")
    start, pipe = time.perf_counter(), load_pipeline("small").to(device)
    pipe.set_progress_bar_config(disable=True)
    output = pipe(load_photo(SAMPLE, pipe.image_size).image[None], num_inference_steps=1,
                  generator=torch.Generator().manual_seed(0))
    if not output.views.isfinite().all():
        raise RuntimeError(f"the recursion on {device} gives numbers that are not finite")
    return f"of the recursion, on {device}: {time.perf_counter() - start:.0f} s with loading and compiling"


def _kernels() -> str:
    from ..rasterization.kernels import CACHED

    if not CACHED:
        raise RuntimeError("numba finds no folder to keep them in, and compiles them at every start: half a minute")
    return f"for the CPU are compiled once and kept{os.environ.get('NUMBA_CACHE_DIR', '') and ' in '}" + (
        os.environ.get("NUMBA_CACHE_DIR", ""))


def _temporary() -> str:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(2**20))
    return _room(Path(tempfile.gettempdir()))


def _here() -> str:
    check_writable(Path.cwd())
    return _room(Path.cwd())


def _room(folder: Path) -> str:
    free = shutil.disk_usage(folder).free / 2**30
    if free < 0.1:
        raise RuntimeError(f"{folder}: only {free * 1024:.0f} MiB are free")
    return f"{folder}, {free:.0f} GiB free"


def _extra(modules: tuple[str, ...]) -> str:
    missing = []
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            missing.append(module)
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}")
    return "is all there"


def _ffmpeg() -> str:
    from ..export.turntable import check_ffmpeg

    return check_ffmpeg()


def _embree() -> str:
    importlib.import_module("embreex.rtcore_scene")
    return f"embreex {metadata.version('embreex')}, trimesh {metadata.version('trimesh')}"


def _lpips() -> str:
    from ..evaluation.backbones import SHIPPED, lpips_network, weight_files

    lpips_network("alex")
    file = next(file for file in weight_files("alex") if file.is_file())
    return "AlexNet, which ships" if file == SHIPPED else f"AlexNet, {file}"


def _cut_outs() -> str:
    from ..data.mattes import U2NETP, u2netp_session

    u2netp_session()
    return f"{U2NETP.stem}, which ships; onnxruntime {metadata.version('onnxruntime')}"


def _rembg() -> str:
    from ..data.mattes import u2net_file

    found = metadata.version("rembg")
    if u2net_file() is None:
        raise RuntimeError(f"{found}, but not its model u2net (176 MB, Apache-2.0)")
    return f"{found}, model {u2net_file()}"
