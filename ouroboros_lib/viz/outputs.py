"""What `ouroboros generate` leaves behind: written beside, moved into place when everything is there."""

import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..export.formats import Format, Settings, Source
from ..export.turntable import check_ffmpeg, render_turntable, write_mp4
from ..files import check_writable, dump_json, staged
from ..gaussians import INVISIBLE
from ..losses import psnr
from .sheets import multiview_sheet, recursion_sheet
from .viewer import write_viewer

FILES = ("input.png", "multiview.png", "recursion.png", "gaussians.ply", "turntable.mp4", "viewer.html", "result.json")


def check_targets(folder: Path, files: Iterable[str], exports: Iterable[Format] = ()) -> None:
    """Raise InputError unless these can be written into `folder`, which need not exist. Leaves nothing behind."""
    check_writable(folder)
    for name, is_file in [*((name, True) for name in files), *((known.name, known.suffix) for known in exports)]:
        path = folder / name
        if path.is_dir() if is_file else path.is_file():
            kind = "folder" if is_file else "file"
            raise InputError(f"{path}: is a {kind} where a result must go; choose another --out")


class Stopwatch:
    """Seconds per named stage."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 3)


def write_outputs(folder: Path, photo, output, settings: dict, watch: Stopwatch,
                  exports: Sequence[Format] = ()) -> dict:
    """Write FILES for one photo into `folder` and return the record that result.json holds.

    photo: `data.photo.Photo`. output: the pipeline's, for a batch of one, with its trace. settings: what the user asked
    for, with "elevation" in degrees. exports: what goes beside them.
    """
    check_ffmpeg()
    views, renders = output.views[0].float().cpu(), output.renders.rgb[0].float().cpu().clamp(0, 1)
    gaussians = output.gaussians[0].float()
    elevation = settings["elevation"]
    with staged(folder) as stage, ThreadPoolExecutor(1) as beside:
        with watch("turntable"):
            frames = render_turntable(gaussians, elevation)
            video = beside.submit(write_mp4, stage / "turntable.mp4", frames)  # which mostly waits for ffmpeg
        with watch("sheets"):
            photo.to_pil().save(stage / "input.png")
            multiview_sheet(views, renders, stage / "multiview.png")
            recursion_sheet(output.trace, stage / "recursion.png")
            gaussians.save(stage / "gaussians.ply")
        with watch("turntable"):
            video.result()
        with watch("viewer"):
            write_viewer(stage / "viewer.html", gaussians, elevation, stage / "turntable.mp4",
                         {"Views and their 3D renders": stage / "multiview.png", "Recursion": stage / "recursion.png"},
                         title=f"Ouroboros3D: {Path(settings['image']).name}")
        if exports:
            with watch("exports"):
                for known in exports:
                    known.write(stage / known.name, Source(gaussians, elevation, settings["image"]), Settings())
        record = {"settings": settings, "input": {"original_size": list(photo.original_size), "matte": photo.matte,
                                                  "notes": photo.notes},
                  "figures": figures(photo.image, views, renders, gaussians), "seconds": watch.seconds,
                  "versions": versions(), "files": list(dict.fromkeys((*FILES, *(known.name for known in exports))))}
        (stage / "result.json").write_bytes(dump_json(record, indent=2))
    return record


def figures(image: Tensor, views: Tensor, renders: Tensor, gaussians) -> dict:
    """Numbers that need no ground truth. image (3, S, S); views and renders (V, 3, S, S); PSNR in dB, mean over views.

    Self-consistency: views against the renders of their own reconstruction; view 0, the condition view, apart.
    """
    def mean_psnr(a, b):
        return round(float(psnr(a, b).mean()), 2)

    others = {"self_consistency_psnr_other_views": mean_psnr(views[1:], renders[1:])} if len(views) > 1 else {}
    return {"self_consistency_psnr": mean_psnr(views, renders),
            "self_consistency_psnr_view_0": mean_psnr(views[:1], renders[:1]), **others,
            "input_psnr_view_0": mean_psnr(views[:1], image[None].cpu()), "gaussians": gaussians.shape[-1],
            "gaussians_visible": int((gaussians.opacities > INVISIBLE).sum())}


def versions() -> dict:
    """Of Python, the packages that the figures depend on, and the machine."""
    found = {}
    for name in ("ouroboros-lib", "torch", "diffusers", "numba", "numpy", "pillow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout that was not installed
            found[name] = None
    return {"python": platform.python_version(), **found, "platform": platform.platform(),
            "threads": torch.get_num_threads()}
