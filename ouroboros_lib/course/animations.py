"""Moving pictures of what a notebook has just computed: five films, and the `Animation` that shows them.

The first frame is a still that says it all: it is seen in print, by who asks for less motion, and where nothing moves.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..cameras import Cameras, to_canonical
from ..errors import needs
from ..files import replace_file
from ..gaussians.page import encode
from ..losses import psnr
from ..noise import c_in
from ..viz.encoding import as_png, as_webp
from ..viz.explorer import difference_map
from ..viz.sheets import evenly_chosen

with needs("course", "what notebooks show"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from ..pipeline import TraceStep

LIMIT = 150_000  # bytes of a film, so that notebooks stay small
QUALITIES = (80, 65, 50, 35)  # of WebP, tried in this order until a film keeps the limit
COLOURS = 48  # of what is drawn, and kept as it is
MOST_DRAWN, MOST = 40, 20  # steps of a film that is drawn, and of one with renders; of more some are left out, evenly
SLOW, QUICK, DECIDED = 300, 80, 5.0  # milliseconds of a step; quick above this sigma, where little is to be seen
DPI = 90
PAIRS = 100
BLUE, RED, GREEN, GREY = "#4878cf", "#b2433f", "#3a8f5c", "#9aa7bd"
FLOOR = 0.02  # the place of sigma = 0 on a logarithmic axis
HIDDEN = 0.03  # world units that a point may lie behind the surface that a view sees, and count as seen
# A page that captions its pictures itself, as the book does, needs no second caption.
HTML = """<style>figure figure.moving figcaption {{display: none}}</style><figure class="moving" style="margin: 0">\
<picture><source media="print, (prefers-reduced-motion: reduce)" srcset="data:image/webp;base64,{still}">\
<img src="data:image/webp;base64,{film}" alt="{alt}" width="{width}" style="max-width: 100%; height: auto"></picture>\
<figcaption>{caption}</figcaption></figure>"""


@dataclass(frozen=True)
class Animation:
    """Frames of one size that play in a loop, each for its milliseconds; a notebook shows it without a kernel.

    frames: the still, then the film from its beginning. alt: what is seen, for who does not see it. caption: one line
    that says what to watch. drawn: lines and few colours, not photos or renders. Raises ValueError where something is
    missing or does not fit.
    """

    frames: Sequence[Image.Image]
    milliseconds: Sequence[int]
    alt: str
    caption: str
    drawn: bool = False

    def __post_init__(self):
        if len(self.frames) < 2 or len(self.milliseconds) != len(self.frames):
            raise ValueError(f"expected two frames or more, and a time for each: got {len(self.frames)} frames and "
                             f"{len(self.milliseconds)} times")
        if len({frame.size for frame in self.frames}) != 1:
            raise ValueError("the frames differ in size")
        if not self.alt.strip() or not self.caption.strip() or "\n" in self.caption:
            raise ValueError("a film needs a text for who does not see it, and a caption of one line")

    def webp(self) -> bytes:
        """As an animated WebP of at most `LIMIT` bytes. Raises ValueError if it stays larger at the lowest quality."""
        frames, ways = list(self.frames), [{"quality": quality} for quality in QUALITIES]
        if self.drawn:
            shown = [np.asarray(frames[number]) for number in evenly_chosen(len(frames), 4)]
            palette = Image.fromarray(np.concatenate(shown)).quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=1)
            frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB") for frame in frames]
            ways = [{"lossless": True, "minimize_size": True}]
        for way in ways:
            buffer = io.BytesIO()
            frames[0].save(buffer, "webp", save_all=True, append_images=frames[1:], duration=list(self.milliseconds),
                           loop=0, method=4, **way)
            if buffer.tell() <= LIMIT:
                return buffer.getvalue()
        raise ValueError(f"{buffer.tell()} bytes, more than {LIMIT}: take fewer or smaller frames")

    def save_still(self, path: str | Path) -> None:
        """Write the first frame as a PNG, its folder too if need be."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), as_png(self.frames[0]))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        page = HTML.format(still=encode(as_webp(self.frames[0])), film=encode(self.webp()), alt=html.escape(self.alt),
                           width=self.frames[0].width, caption=html.escape(self.caption))
        return {"text/html": page, "image/png": encode(as_png(self.frames[0])),
                "text/plain": f"Animation of {len(self.frames)} frames: {self.caption}"}


def flow(sigmas: Tensor, path: Tensor, density: Callable[[Tensor, Tensor], Tensor]) -> Animation:
    """Numbers on their way from noise to data.

    sigmas: (T + 1,), falling to 0. path: (T + 1, N), the numbers at each. density(x, sigma): of the noisy numbers.
    Everything is drawn at unit variance, as x / sqrt(1 + sigma^2).
    """
    levels = torch.logspace(torch.tensor(FLOOR).log10(), sigmas[0].log10(), 160)
    heights = torch.linspace(-2.6, 2.6, 241)

    def scaled(sigma: Tensor) -> Tensor:
        return density(heights / c_in(sigma), sigma) / c_in(sigma)

    figure = _figure(7.6, 3.2, left=0.08, right=0.985, bottom=0.16, top=0.89, wspace=0.05)
    road, now = figure.subplots(1, 2, sharey=True, width_ratios=(3.4, 1))
    road.contourf(levels, heights, torch.stack([scaled(level) for level in levels], dim=1), torch.linspace(0, 1, 9),
                  cmap="Blues", extend="max")
    road.set(xscale="log", xlim=(float(sigmas[0]), FLOOR), ylim=(-2.6, 2.6), xlabel="sigma (time runs to the right)",
             ylabel="x / sqrt(1 + sigma²)")
    now.set(xlim=(0, 1.7), xlabel="density", xticks=[])
    places, ways = sigmas.clamp_min(FLOOR), path * c_in(sigmas)[:, None]
    lines = road.plot(places, ways, color=RED, lw=0.9, alpha=0.75)
    dots = road.plot(places[-1:].expand(path.shape[1]), ways[-1], "o", color=RED, markersize=3.5, clip_on=False)[0]
    curve = now.plot(scaled(sigmas[-1]), heights, color=BLUE, lw=2)[0]

    def frame(step: int) -> Image.Image:
        for number, line in enumerate(lines):
            line.set_data(places[:step + 1], ways[:step + 1, number])
        dots.set_data(places[step].expand(path.shape[1]), ways[step])
        curve.set_xdata(scaled(sigmas[step]))
        road.set_title(f"{path.shape[1]} numbers, sigma {float(sigmas[step]):.2g}")
        return _picture(figure)

    return _film(frame, _paces(sigmas), f"{path.shape[1]} lines run from noise on the left to one of two values on the "
                 "right; beside them the density of the noisy number, one wide bump that splits into two narrow ones",
                 "Watch sigma between 2 and 0.3: there the one bump splits, and nearly every number takes a side.",
                 drawn=True)


def coins(levels: Tensor, ways: Mapping[str, Tensor]) -> Animation:
    """Pairs of views on their way to a side of the coin each, sampled in different ways.

    levels: (T + 1,), falling to 0. ways: title -> (T + 1, N, 2), the pairs at each level, of which PAIRS are drawn.
    """
    figure = _figure(7.6, 3.9, left=0.08, right=0.985, bottom=0.13, top=0.84, wspace=0.16)
    axes = figure.subplots(1, len(ways), squeeze=False)[0]
    steps = len(levels) - 1

    def frame(step: int) -> Image.Image:
        for axis, (title, path) in zip(axes, ways.items(), strict=True):
            axis.clear()
            scaled = path * c_in(levels)[:, None, None]
            agree = path[step].prod(dim=-1) > 0
            trails = scaled[:step + 1, :PAIRS].movedim(1, 0).numpy()
            axis.add_collection(LineCollection(list(trails), colors=GREY, lw=0.4))
            for chosen, look in ((agree, {"color": GREEN, "marker": "o"}), (~agree, {"color": RED, "marker": "X"})):
                axis.plot(*scaled[step, :PAIRS][chosen[:PAIRS]].T, markersize=4, linestyle="none", **look)
            axis.set(xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), xlabel="view 1", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            axis.set_title(f"{title}:\n{100 * agree.float().mean():.0f} % agree, sigma {float(levels[step]):.2g}")
            if step == steps:
                _count_corners(axis, path[-1])
        axes[0].set_ylabel("view 2")
        return _picture(figure)

    return _film(frame, _paces(levels), "Two panels of pairs of views that start as noise. " + "; ".join(
        f"{title}: {100 * (path[-1].prod(dim=-1) > 0).float().mean():.0f} % of the pairs end where both views agree"
        for title, path in ways.items()),
        "Watch the red pairs, whose views disagree: on the right they are drawn over to one of the two green corners.",
        drawn=True)


def _count_corners(axis: Axes, ends: Tensor) -> None:
    for x in (-1, 1):
        for y in (-1, 1):
            count = int(((ends[:, 0] * x > 0) & (ends[:, 1] * y > 0)).sum())
            axis.text(1.75 * x, 1.75 * y, f"{count} pairs", ha="center", va="center")


def fit(truth: Tensor, moments: Sequence[tuple[int, Tensor, float]], count: int) -> Animation:
    """Gaussians while they are fitted: a view that is not fitted, and the PSNR of such views.

    truth: (3, H, W). moments: the step, the render (3, H, W) in [0, 1] and the PSNR in dB of each that was looked at.
    count: how many Gaussians.
    """
    figure = _figure(9.2, 2.7, left=0.005, right=0.99, bottom=0.2, top=0.89, wspace=0.05)
    *tiles, plot = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.35))
    box = plot.get_position()  # what stands left of it needs a place
    plot.set_position((box.x0 + 0.06, box.y0, box.width - 0.06, box.height))
    steps, scores = [step for step, *_ in moments], [score for *_, score in moments]

    def frame(number: int) -> Image.Image:
        step, render, score = moments[number]
        _tiles(tiles, {"truth": truth, f"{count:,} Gaussians": render, "error x 4": difference_map(render, truth)})
        plot.clear()
        plot.plot(steps, scores, color=GREY, lw=0.8)
        plot.plot(steps[:number + 1], scores[:number + 1], ".-", color=BLUE)
        plot.set(xlabel="step of the fit", ylabel="PSNR, dB")
        plot.set_title(f"step {step}: {score:.1f} dB")
        return _picture(figure)

    return _film(frame, [450] * len(moments), f"An object, the render of {count:,} Gaussians fitted to it, and the "
                 f"error, over {steps[-1]} steps; the PSNR climbs from {scores[0]:.1f} to {scores[-1]:.1f} dB",
                 "Watch which comes first: the colours settle in a few steps, the edges sharpen to the end.")


def agreement(runs: Mapping[str, Sequence[TraceStep]], played: str, views: Sequence[int]) -> Animation:
    """The views of one run and the renders of their own reconstruction, step by step, and how alike they are.

    runs: name -> trace of one object, all of the same steps. played: whose pictures are shown. views: which.
    """
    figure = _figure(9.2, 4.5, left=0.035, right=0.985, bottom=0.11, top=0.93, wspace=0.03, hspace=0.03)
    grid = figure.add_gridspec(2, len(views) + 1, width_ratios=(*[1] * len(views), 1.45))
    rows = [[figure.add_subplot(grid[row, column]) for column in range(len(views))] for row in range(2)]
    plot = figure.add_subplot(grid[:, -1])
    box = plot.get_position()  # what stands left of it needs a place
    plot.set_position((box.x0 + 0.06, box.y0, box.width - 0.06, box.height))
    curves = {name: ([step.sigma for step in trace], [float(psnr(step.views, step.rgb).mean()) for step in trace])
              for name, trace in runs.items()}

    def frame(number: int) -> Image.Image:
        step = runs[played][number]
        for axes, images, title in zip(rows, (step.views[0], step.rgb[0]), (True, False), strict=True):
            _tiles(axes, {f"view {view}" if title else " " * view: images[view] for view in views})
        rows[0][0].set_ylabel("F's views")
        rows[1][0].set_ylabel("their own 3D")
        plot.clear()
        for (name, (sigmas, scores)), colour in zip(curves.items(), (GREY, GREEN, RED), strict=False):
            colour = RED if name == played else colour
            plot.semilogx(sigmas, scores, color=colour, lw=0.8, alpha=0.6)
            plot.semilogx(sigmas[:number + 1], scores[:number + 1], ".-", color=colour, label=name)
        plot.set(xlabel="sigma (time runs to the right)", ylabel="self-consistency, dB")
        plot.invert_xaxis()
        plot.margins(y=0.2)
        plot.legend(frameon=False, loc="lower left", fontsize=9)
        plot.set_title(f"step {step.index + 1}: {curves[played][1][number]:.1f} dB")
        return _picture(figure)

    last = "; ".join(f"{name}: {scores[-1]:.1f} dB" for name, (_, scores) in curves.items())
    return _film(frame, [700] * len(runs[played]), f"Views {', '.join(map(str, views))} of F above the renders of "
                 f"their own reconstruction, step by step, and the curve of their self-consistency, at the end {last}",
                 "Watch where the two rows differ: there F's views are not views of one object. The curve counts it.")


def followed_point(point: Tensor, ccm: Tensor, depth: Tensor, cameras: Cameras) -> Animation:
    """One surface point in all views of a coordinate map: where it is seen, and the colour that is found there.

    point: (3,) in the world. ccm: (V, 3, S, S) in [0, 1]. depth: (V, 1, S, S), along z. cameras: (V).
    """
    count, size = len(ccm), ccm.shape[-1]
    uv, z = (values[:, 0].cpu() for values in cameras.project(point[None]))
    maps = torch.cat([ccm, depth], dim=1).cpu()
    found = F.grid_sample(maps, (uv * 2 - 1)[:, None, None], align_corners=False)[..., 0, 0]
    seen = (found[:, 3] - z).abs() < HIDDEN
    place = to_canonical(point.cpu())
    columns = -(-count // 2)
    figure = _figure(8.0, 4.7, left=0.01, right=0.99, bottom=0.02, top=0.83, wspace=0.03, hspace=0.2)
    axes = figure.subplots(2, columns).flatten()
    figure.text(0.5, 0.955, "the point's place as a colour: " + _three(place), ha="center", va="center", fontsize=12)
    figure.add_artist(_swatch(figure, 0.16, 0.925, 0.05, 0.06, place))
    for axis in axes[count:]:
        axis.axis("off")

    def frame(number: int) -> Image.Image:
        for view, axis in enumerate(axes[:count]):
            axis.clear()
            reached = view <= number
            _tiles([axis], {f"view {view}" + (f": {_three(found[view, :3])}" if seen[view] else ": hidden") * reached:
                            ccm[view]}, size=10)
            if reached:
                axis.plot(*(uv[view] * size - 0.5), "o", markersize=15, markerfacecolor="none", markeredgewidth=2,
                          color="w" if seen[view] else "0.6", linestyle="none", fillstyle="none")
            if reached and seen[view]:
                axis.add_artist(_corner(size, found[view, :3]))
            for spine in axis.spines.values():
                spine.set(visible=True, color=RED if view == number < count - 1 else "0.8", linewidth=2)
        return _picture(figure)

    return _film(frame, [800] * count, f"The coordinate maps of {count} views with a ring around one surface point. "
                 f"It is seen in {int(seen.sum())} of them, each time in nearly one colour, {_three(place)}",
                 "Watch the ring move from view to view, and the small square in the corner: its colour stays.")


def _three(values: Tensor) -> str:
    return "(" + ", ".join(f"{float(value):.2f}" for value in values) + ")"


def _swatch(figure: Figure, x: float, y: float, width: float, height: float, colour: Tensor):
    return Rectangle((x, y), width, height, transform=figure.transFigure, facecolor=colour.clamp(0, 1).tolist(),
                     edgecolor="0.4")


def _corner(size: int, colour: Tensor):
    return Rectangle((0.02 * size, 0.02 * size), 0.16 * size, 0.16 * size, facecolor=colour.clamp(0, 1).tolist(),
                     edgecolor="w")


def _figure(width: float, height: float, **margins: float) -> Figure:
    """Inches; a figure whose axes stay where they are, whatever is written on them."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="none")
    FigureCanvasAgg(figure)
    figure.subplots_adjust(**margins)
    return figure


def _tiles(axes: Sequence[Axes], images: Mapping[str, Tensor], size: int = 11) -> None:
    for axis, (title, image) in zip(axes, images.items(), strict=True):
        axis.clear()
        axis.imshow(image.detach().cpu().clamp(0, 1).movedim(0, -1), interpolation="bilinear")
        axis.set_title(title, fontsize=size)
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(visible=True, color="0.88")


def _picture(figure: Figure) -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())


def _paces(sigmas: Tensor) -> list[int]:
    return [QUICK if sigma > DECIDED else SLOW for sigma in sigmas]


def _film(frame: Callable[[int], Image.Image], paces: Sequence[int], alt: str, caption: str, drawn: bool = False
          ) -> Animation:
    """The last frame as the still, which stays for two seconds, then the film. paces: milliseconds of each step."""
    chosen = evenly_chosen(len(paces), MOST_DRAWN if drawn else MOST)
    frames = [frame(number) for number in chosen]
    times = [paces[number] for number in chosen[:-1]]
    return Animation([frames[-1], *frames], [2000, *times, 1200], alt, caption, drawn)
