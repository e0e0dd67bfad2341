"""The recursion explorer: a page that steps through every step, view and map of several runs, side by side.

One HTML page with everything inline, no server, network or kernel: `explorer.html` and its scripts, with a JSON of
pictures (WebP), splats (packing.py), cameras and figures. A notebook shows it in an iframe.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..cameras import OBJECT_RADIUS, Cameras, field_of_view
from ..errors import InputError
from ..files import replace_file
from ..gaussians.page import encode, filled
from ..losses import psnr
from .encoding import as_webp
from .explorer import explorer_sheet
from .packing import pack_splats
from .sheets import to_pil
from .traces import check_finite, check_traces, recorded

if TYPE_CHECKING:
    from ..pipeline import Ouroboros3DOutput, TraceStep

TEMPLATE = Path(__file__).with_name("explorer.html")
SCRIPTS = {"PICTURES": "explorer_scene.js", "EXPLORER": "explorer.js"}
QUALITY = {"estimate": 80, "noisy": 25}  # of WebP
MOST_BYTES = 4_000_000  # in a notebook
COARSER = (0, 1, 2)  # bits fewer, tried in this order: renders of what is stored are at 50, 43 and 35 dB
TRUST = ("This is a picture of the recursion explorer, a page with a script: to use it, trust this notebook (in "
         "JupyterLab: Trust Notebook in the command palette), run the cell, or open the book.")


@dataclass(repr=False)
class RecursionExplorer:
    """page: HTML. picture: what is shown of it where scripts are not allowed."""

    page: str
    picture: Image.Image

    def save(self, path: str | Path) -> None:
        """Write the page as one file, to be opened in a browser."""
        replace_file(Path(path), self.page.encode())

    def __repr__(self) -> str:
        return f"RecursionExplorer({len(self.page) / 1e6:.1f} MB of HTML)"

    def _repr_html_(self) -> str:
        """The page in an iframe. An untrusted notebook drops iframe and style, and so shows the picture instead."""
        data = encode(as_webp(self.picture))
        return (f'<div class="recursion-explorer-untrusted"><img style="max-width: 100%" alt="steps of the recursion" '
                f'src="data:image/webp;base64,{data}"><p>{TRUST}</p></div>'
                "<style>.recursion-explorer-untrusted { display: none; }</style>"
                f'<iframe class="recursion-explorer" title="recursion explorer" srcdoc="{html.escape(self.page)}" '
                'width="100%" height="1000" style="border: 0" allow="fullscreen *"></iframe>')


def recursion_explorer(runs: Mapping[str, Ouroboros3DOutput], truth: Tensor | None = None, index: int = 0,
                       most_bytes: int = MOST_BYTES) -> RecursionExplorer:
    """The explorer of several runs of one picture.

    runs: heading -> what the pipeline returned with `return_trace=True`, all with the same steps and cameras. truth:
    (V, 3, S, S), to compare with. index: which object of a batch. most_bytes: of what a notebook keeps; where it would
    be more, splats are rounded to fewer bits. Raises InputError when the runs do not fit together, or not into that,
    and for numbers that are not finite.
    """
    traces = {name: output.trace for name, output in runs.items()}
    check_traces(traces, index)
    first = next(iter(traces.values()))
    shown = first[0].views[index]
    cameras = _shared_cameras({name: output.cameras[index].to("cpu") for name, output in runs.items()}, len(shown))
    if truth is not None:
        _check_truth(truth, shown)
    picture = explorer_sheet(traces, len(shown) // 2, steps=3, kinds=("estimate", "CCM"), index=index)
    scene = {"size": first[0].views.shape[-1], "box": 2 * OBJECT_RADIUS, "fov": float(field_of_view(cameras)[0]),
             "views": _views(cameras), "steps": [{"index": step.index, "sigma": step.sigma} for step in first],
             "truth": None if truth is None else _strip(truth.cpu(), QUALITY["estimate"]),
             "designs": [_design(name, trace, truth, index) for name, trace in traces.items()]}
    for coarser in COARSER:
        for design, trace in zip(scene["designs"], traces.values(), strict=True):
            design["splats"] = _packed(design["name"], trace, index, coarser)
        explorer = RecursionExplorer(_page(scene), picture)
        found = len(explorer._repr_html_().encode())
        if found <= most_bytes:
            return explorer
    raise InputError(f"the recursion explorer takes {found / 1e6:.1f} MB, but most_bytes is {most_bytes / 1e6:.1f} MB: "
                     "show fewer runs, or record fewer steps (return_trace=[0, 4, 8, ...])")


def _page(scene: dict) -> str:
    scripts = {name: TEMPLATE.with_name(file).read_text(encoding="utf-8") for name, file in SCRIPTS.items()}
    return filled(TEMPLATE, SCENE=_inline(scene), **scripts)


def _inline(scene: dict) -> str:
    """JSON that no name in it can end, or make a part of the page's markup."""
    return json.dumps(scene, allow_nan=False).replace("<", "\\u003c")


def _shared_cameras(rigs: dict[str, Cameras], views: int) -> Cameras:
    (first, cameras), *others = rigs.items()
    for name, rig in rigs.items():
        if rig.shape[-1] != views:
            raise InputError(f"run {name!r} has {views} views, but {rig.shape[-1]} cameras: give it one for each view")
        check_finite(torch.cat([rig.c2w.flatten(), rig.intrinsics.flatten()]), f"run {name!r}, cameras")
    for name, other in others:
        if other.shape != cameras.shape or not torch.allclose(other.c2w, cameras.c2w, atol=1e-4):
            raise InputError(f"the runs {first!r} and {name!r} have different cameras, so a point has no one place "
                             "in a view: show them apart")
    return cameras


def _check_truth(truth: Tensor, views: Tensor) -> None:
    if truth.shape != views.shape:
        raise InputError(f"truth: expected {tuple(views.shape)}, as the views of the runs, got {tuple(truth.shape)}: "
                         "give the pictures of one object at the cameras of the runs")
    check_finite(truth, "truth")


def _views(cameras: Cameras) -> list[dict]:
    """Of each view what WebGL takes, and where its camera stands on the orbit, in degrees and world units."""
    records = []
    for pose, k, eye, elevation in zip(cameras.world_to_camera(), cameras.intrinsics, cameras.positions,
                                       cameras.elevations, strict=True):
        lens = [float(k[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2))]
        records.append({"view": pose.T.flatten().tolist(), "lens": lens,
                        "azimuth": float(torch.rad2deg(torch.atan2(eye[0], eye[2]))) % 360,
                        "elevation": float(elevation), "radius": float(eye.norm())})
    return records


def _design(name: str, trace: list[TraceStep], truth: Tensor | None, index: int) -> dict:
    """One run: of each step the pictures, and PSNR in dB of each view. Noise is kept at half the size."""
    def figure(number: int, views: Tensor, other: Tensor, what: str) -> list[float]:
        decibels = psnr(views, other)
        check_finite(decibels, f"run {name!r}, {recorded(number, len(trace))}, PSNR of views to {what}")  # of 1e30, say
        return [round(float(value), 2) for value in decibels]

    small = [F.avg_pool2d(step.noisy[index], 2) for step in trace]
    numbered = [(number, step.views[index], step.rgb[index]) for number, step in enumerate(trace, 1)]
    figures = {"agreement": [figure(number, views, rgb, "rgb") for number, views, rgb in numbered]}
    if truth is not None:
        figures["psnr"] = [figure(number, views, truth.cpu(), "truth") for number, views, _ in numbered]
    return {"name": name, "figures": figures, "noisy": [_strip(noisy, QUALITY["noisy"]) for noisy in small],
            "estimate": [_strip(step.views[index], QUALITY["estimate"]) for step in trace]}


def _packed(name: str, trace: list[TraceStep], index: int, coarser: int) -> dict:
    try:
        return pack_splats([step.gaussians[index] for step in trace], coarser)
    except InputError as error:
        raise InputError(f"run {name!r}: {error}") from None


def _strip(views: Tensor, quality: int) -> str:
    """(V, 3, S, S) side by side, as a WebP in base64."""
    return encode(as_webp(to_pil(torch.cat(list(views), dim=-1)), quality))
