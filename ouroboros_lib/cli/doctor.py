"""`ouroboros doctor`: what works on this machine, what is missing, how to get it. No network."""

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import typer

SYMBOLS = {"ok": "ok", "off": "--", "missing": "!!"}
PACKAGES = {name: name for name in ("torch", "torchvision", "diffusers", "numba", "scipy", "plyfile")} | {
    "pillow": "PIL", "imageio-ffmpeg": "imageio_ffmpeg"}  # by the names under which they are installed
REINSTALL = "pip install -e . in the repository, or make demo"


@dataclass
class Check:
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
    """All checks, in the order in which they are shown; a few seconds, most of them importing torch."""
    checks = [_python(), *_packages()]
    if all(check.state == "ok" for check in checks):
        checks += [check() for check in (_gpu, _memory, _rasterizer, _shipped_weights, _ffmpeg, _meshes, _lpips)]
    return [*checks, _rembg()]


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Check("Python", "ok", found)
    return Check("Python", "missing", found, "use Python 3.10 to 3.13")


def _packages() -> list[Check]:
    """Packages that `generate` imports. Compiled ones are loaded, because mismatched builds only fail then."""
    checks = []
    for name, package in PACKAGES.items():
        mismatch = False
        try:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named '{package}'")
            if package == "torchvision":  # its operators fail if it was built for another torch
                mismatch = True
                _load_operators(package)
            elif package != "diffusers":  # plain Python, and importing it takes seconds
                importlib.import_module(package)
            checks.append(Check(name, "ok", metadata.version(name)))
        except Exception as error:  # whatever a broken installation raises is the finding
            checks.append(Check(name, "missing", _shorten(error), "reinstall torch and torchvision together, from one "
                                "package index" if mismatch else REINSTALL))
    return checks


def _load_operators(package: str) -> None:
    """The compiled part alone; importing all of it would take seconds."""
    import torch

    for library in sorted(Path(importlib.util.find_spec(package).origin).parent.glob("_C*")):
        torch.ops.load_library(str(library))


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        why = "torch is built without CUDA" if torch.version.cuda is None else "torch sees no GPU or no driver"
        return Check("GPU", "off", f"none ({why}); the CPU is used")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = [f"cuda:{i} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for i, gpu in enumerate(gpus)]
    return Check("GPU", "ok", f"{'; '.join(names)} (CUDA {torch.version.cuda})")


def _memory() -> Check:
    import torch

    threads = f"{os.cpu_count()} CPU cores, torch uses {torch.get_num_threads()} threads"
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # no sysconf on Windows
        return Check("Memory", "ok", f"size unknown; {threads}")
    advice = "preset small wants about 2 GiB free" if memory < 4 else ""
    return Check("Memory", "ok", f"{memory:.1f} GiB; {threads}", advice)


def _rasterizer() -> Check:
    import numba
    import torch

    cpu = f"numba on the CPU with {numba.config.NUMBA_NUM_THREADS} threads, compiled once (seconds) and cached"
    has_gsplat = importlib.util.find_spec("gsplat") is not None
    if not torch.cuda.is_available():
        gsplat = "gsplat is installed but needs a CUDA GPU" if has_gsplat else "gsplat is not needed without a GPU"
        return Check("Rasterizer", "ok", f"{cpu}; {gsplat}")
    if not has_gsplat:
        return Check("Rasterizer", "off", f"{cpu}; no gsplat for the GPU", "pip install gsplat, or use --device cpu")
    compiler = shutil.which("nvcc") or os.environ.get("CUDA_HOME")
    return Check("Rasterizer", "ok", f"gsplat {metadata.version('gsplat')} on the GPU; {cpu}",
                 "" if compiler else "gsplat compiles itself once and needs nvcc for it; none is on the PATH")


def _shipped_weights() -> Check:
    from ..presets import load_preset

    folder, name = load_preset("small").weights, "Weights small"
    problem = "none ship with this copy" if folder is None else unreadable_weights(folder)
    if problem:
        return Check(name, "missing", problem, "restore them: git checkout -- ouroboros_lib/presets/weights; or name "
                     "your own with --preset FOLDER")
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 2**20
    return Check(name, "ok", f"{size:.1f} MiB, {folder}")


def unreadable_weights(folder: Path) -> str:
    """What is wrong with a pipeline folder's files, or "": headers and lengths are checked, values are not."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.rglob("*.safetensors"))
    if not files or not (folder / "model_index.json").is_file():
        return f"{folder}: no {'model_index.json' if files else '.safetensors file'}"
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            return f"{path}: damaged ({_shorten(error)})"
    return ""


def _ffmpeg() -> Check:
    from ..errors import InputError
    from ..viz.turntable import check_ffmpeg

    try:
        return Check("ffmpeg", "ok", check_ffmpeg())
    except InputError as error:
        return Check("ffmpeg", "missing", "no program found", str(error))


def _lpips() -> Check:
    from ..evaluation.metrics import LPIPS_BACKBONES, lpips_weights

    if importlib.util.find_spec("lpips") is None:
        return Check("LPIPS", "off", "lpips is not installed; only its column in evaluations stays empty", REINSTALL)
    there = [backbone for backbone in LPIPS_BACKBONES if lpips_weights(backbone).is_file()]
    if there:
        return Check("LPIPS", "ok", f"backbones: {', '.join(there)}")
    path = lpips_weights("alex")
    return Check("LPIPS", "off", "backbone not there; only its column in evaluations stays empty",
                 f"put https://download.pytorch.org/models/{path.name} at {path}")


def _meshes() -> Check:
    try:
        importlib.import_module("embreex.rtcore_scene")
    except ImportError as error:
        return Check("Meshes", "off", f"no embreex ({_shorten(error)}): `ouroboros data render` cannot run",
                     "pip install embreex (there is none for Linux on ARM)")
    return Check("Meshes", "ok", f"embreex {metadata.version('embreex')}, trimesh {metadata.version('trimesh')}")


def _rembg() -> Check:
    if importlib.util.find_spec("rembg") is None:
        return Check("rembg", "off", "not installed; backgrounds are guessed from the border of the picture",
                     "pip install 'ouroboros-lib[photo]' for photos on busy backgrounds")
    model = Path(os.environ.get("U2NET_HOME", Path.home() / ".u2net")) / "u2net.onnx"
    if model.is_file():
        return Check("rembg", "ok", f"{metadata.version('rembg')}, model {model}")
    return Check("rembg", "off", f"{metadata.version('rembg')}, but no model at {model}",
                 "run `rembg d u2net` once with a network; until then photos without alpha need --background keep")
