"""The pictures that the course is built around: the recursion as a ring, and the paper's three designs.

Models are boxes on the ring; between them stands what travels: latents, pictures, a splat, renders. Each notebook
lights the part that it is about (`LESSONS`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from ..errors import needs
from ..viz.sheets import to_pil
from . import diagram
from .diagram import COORDINATE_RENDER, FAINT, GRADIENT, IMAGE, INK, LATENT, RENDER, SPLAT, Point, Size

with needs("course", "what notebooks show"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CENTRE, RADII = (6.15, 2.75), (2.75, 2.1)
# what stands where: degrees on the ring, counted from the right and upwards; or a place outside of it
STATIONS = {"F": 142, "pred_x": 90, "decoder": 38, "pred_i": 0, "G": -38, "splat": -90, "render": -142,
            "self_cond": 180}
OUTSIDE = {"x_t": (1.0, 4.8), "cond": (1.0, 2.75), "solver": (3.3, 5.65)}
MODELS = {"F": "F", "decoder": "decoder", "G": "G", "render": "rasterizer", "solver": "solver"}
# under their names: what they are, and the line of the paper's algorithm 1 (training) or 2
NOTES = {1: {"F": "multi-view diffusion, lines 2, 5", "decoder": "line 3", "G": "Gaussian reconstructor, line 4",
             "render": "line 4", "solver": "not here"},
         2: {"F": "multi-view diffusion, line 3", "decoder": "line 4", "G": "Gaussian reconstructor, line 5",
             "render": "line 5", "solver": "line 6"}}
CAPTIONS = {"x_t": ("x_t: noisy latents\nof eight views", LATENT),
            "pred_x": ("pred_x: clean\nlatents, estimated", LATENT),
            "cond": ("input picture,\ncameras, noise level", IMAGE), "pred_i": ("pred_i:\neight pictures", IMAGE),
            "splat": ("a splat:\n3D Gaussians", SPLAT), "self_cond": ("self_cond:\nRGB and CCM", RENDER)}
ASIDE = {"pred_i": (0.55, 0.0), "self_cond": (0.45, 0.0), "splat": (0.0, 0.68)}  # of captions that do not stand below
BENDS = {("x_t", "F"): 0.0, ("cond", "F"): 0.1, ("F", "pred_x"): -0.1, ("pred_x", "decoder"): -0.1,
         ("decoder", "pred_i"): -0.1, ("pred_i", "G"): -0.1, ("G", "splat"): -0.1, ("splat", "render"): -0.1,
         ("render", "self_cond"): -0.1, ("self_cond", "F"): -0.1, ("pred_x", "solver"): 0.12, ("solver", "x_t"): 0.12}
PARTS = frozenset(STATIONS) | frozenset(OUTSIDE)

LESSONS: dict[str, frozenset[str]] = {
    "00": PARTS,
    "01": frozenset({"x_t", "F", "pred_x", "solver"}),
    "02": frozenset({"x_t", "cond", "F", "pred_x", "solver", "decoder", "pred_i"}),
    "03": frozenset({"pred_i", "G", "splat", "render"}),
    "04": frozenset({"F", "splat", "render", "self_cond"}),
    "05": PARTS - {"solver"},
    "06": frozenset({"pred_i", "splat", "render"}),
    "07": frozenset({"F", "decoder", "G"}),
}

# Algorithm 1: the arrows along which the gradients of its losses flow back
OWN_LOSSES = [("F", "pred_x"), ("splat", "render"), ("G", "splat")]
THROUGH_DECODER = [("pred_i", "G"), ("decoder", "pred_i"), ("pred_x", "decoder")]
THROUGH_FEEDBACK = [("self_cond", "F"), ("render", "self_cond")]


def lesson_ring(lesson: str) -> Figure:
    """The ring of a notebook, "00" to "07"."""
    if lesson == "05":
        return ring(LESSONS[lesson], title="a training step:\none noise level", algorithm=1)
    return ring(LESSONS[lesson])


def ring(lit: Collection[str] = PARTS, gradients: Sequence[tuple[str, str]] = (),
         title: str = "25 rounds,\neach with less noise", algorithm: int = 2) -> Figure:
    """The recursion as a ring.

    lit: names of `PARTS` that are drawn in full; the others are faint. gradients: arrows, from what to what, along
    which a gradient flows back: drawn in red. title: what stands in the middle. algorithm: whose line numbers are
    given, the paper's 1 or 2. Raises ValueError for an unknown name.
    """
    if unknown := [name for name in lit if name not in PARTS] + [pair for pair in gradients if pair not in BENDS]:
        raise ValueError(f"{unknown[0]!r} is no part of the ring: {', '.join(sorted(PARTS))}")
    figure, axis = diagram.canvas(-0.15, 10.75, 0.0, 6.05)
    for (start, end), bend in BENDS.items():
        if (start, end) in gradients:
            diagram.arrow(axis, _thing(end), _thing(start), -bend, GRADIENT, strong=True)
        else:
            diagram.arrow(axis, _thing(start), _thing(end), bend, alpha=1.0 if {start, end} <= set(lit) else FAINT)
    for name in sorted(PARTS):
        _draw(axis, name, 1.0 if name in lit else FAINT, algorithm)
    axis.text(*CENTRE, title, ha="center", va="center", fontsize=12, color=INK, linespacing=1.5)
    return figure


def gradient_ring(decoder_gradient: bool, detach_feedback: bool) -> Figure:
    """The ring of Algorithm 1 with the ways of its gradients under two switches of training, see `joint_losses`."""
    flows = OWN_LOSSES + THROUGH_DECODER * decoder_gradient + THROUGH_FEEDBACK * (not detach_feedback)
    words = ["through the decoder\ninto F"] * decoder_gradient + ["through the renders\ninto G"] * (not detach_feedback)
    return ring(LESSONS["05"], flows, "gradients\n" + ("\nand ".join(words) or "of each model's\nown loss alone"), 1)


def _thing(name: str) -> tuple[Point, Size]:
    """The centre and size of a part."""
    size = {"F": (2.5, 0.8), "G": (2.6, 0.8), "self_cond": (0.55, 0.95)}.get(
        name, (1.25, 0.66) if name in MODELS else (0.76, 0.76))
    if name in OUTSIDE:
        return OUTSIDE[name], size
    angle = np.deg2rad(STATIONS[name])
    return (CENTRE[0] + RADII[0] * np.cos(angle), CENTRE[1] + RADII[1] * np.sin(angle)), size


def _draw(axis: Axes, name: str, alpha: float, algorithm: int) -> None:
    centre, size = _thing(name)
    if name in MODELS:
        diagram.model(axis, centre, size, MODELS[name], NOTES[algorithm][name], alpha)
        return
    if name in ("x_t", "pred_x"):
        diagram.latents(axis, centre, name == "x_t", alpha)
    elif name == "splat":
        diagram.splat(axis, centre, alpha)
    elif name == "self_cond":
        diagram.snowmen(axis, (centre[0], centre[1] + 0.25), RENDER, alpha=alpha, count=2, side=0.42)
        diagram.snowmen(axis, (centre[0], centre[1] - 0.25), RENDER, COORDINATE_RENDER, alpha, count=2, side=0.42)
    else:
        diagram.snowmen(axis, centre, IMAGE, alpha=alpha, count=3 if name == "pred_i" else 1)
    (text, colour), (dx, dy) = CAPTIONS[name], ASIDE.get(name, (0.0, -0.7))
    axis.text(centre[0] + dx, centre[1] + dy, text, color=colour, alpha=max(alpha, 0.35), ha="left" if dx else "center",
              va="center", fontsize=11, zorder=5)


DESIGNS = {"(a) two stages": "two-stage", "(b) projection": "projection", "(c) feedback: Ouroboros3D": "paper"}


def design_picture(views: Mapping[str, Tensor], renders: Mapping[str, Tensor], step: str = "") -> Figure:
    """The paper's three designs side by side, with what each makes of one object.

    views, renders: for each plan, `two-stage`, `projection` and `paper`, one of F's views and the render of the
    reconstruction there, (3, H, W) in [0, 1]. step: at which step that was, in words.
    """
    figure, axis = diagram.canvas(0.0, 11.1, -0.3, 6.1)
    for column, (title, plan) in enumerate(DESIGNS.items()):
        _design(axis, 1.95 + 3.7 * column, title, plan, views[plan], renders[plan])
    axis.text(5.55, -0.12, step, ha="center", va="center", fontsize=10, color=INK)
    return figure


def _design(axis: Axes, x: float, title: str, plan: str, view: Tensor, render: Tensor) -> None:
    noisy, picture, shown = ((x, 5.1), (0.7, 0.7)), ((x, 2.95), (1.2, 1.2)), ((x, 0.75), (1.2, 1.2))
    first, second = ((x, 4.1), (0.9, 0.5)), ((x, 1.85), (0.9, 0.5))
    axis.text(x, 5.8, title, ha="center", va="center", fontsize=13, weight="bold", color=INK)
    diagram.latents(axis, noisy[0], noisy=True)
    diagram.model(axis, *first, "F", "")
    diagram.model(axis, *second, "G", "", alpha=0.45 if plan == "two-stage" else 1.0)
    for (centre, (width, _)), tile, colour in ((picture, view, IMAGE), (shown, render, RENDER)):
        left, bottom = diagram.cards(axis, centre, colour, count=1, side=width)
        axis.imshow(to_pil(tile), extent=(left + 0.02, left + width - 0.02, bottom + 0.02, bottom + width - 0.02),
                    zorder=4, aspect="equal")
    for start, end in ((noisy, first), (first, picture), (picture, second), (second, shown)):
        diagram.arrow(axis, start, end, alpha=0.45 if plan == "two-stage" and start in (picture, second) else 1.0)
    source, bend = (shown, -0.42) if plan == "projection" else (picture, -0.55)
    diagram.arrow(axis, source, noisy, bend, LATENT)
    beside = 1.45 if plan == "projection" else 1.05
    axis.text(x - beside, 4.1, "next\nx_t", color=LATENT, ha="center", va="center", fontsize=11)
    if plan == "paper":
        diagram.arrow(axis, shown, first, 0.62, RENDER)
        axis.text(x + 1.42, 2.6, "self_\ncond", color=RENDER, ha="center", va="center", fontsize=11)
    if plan == "two-stage":
        axis.text(x + 0.62, 1.85, "once, after\nthe last step", color=INK, ha="left", va="center", fontsize=10)
