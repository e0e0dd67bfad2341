"""What the course's diagrams are drawn with: boxes for models, cards for what travels between them, arrows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import needs

with needs("course", "what notebooks show"):
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle

INK, FAINT = "#20242c", 0.22
LATENT, IMAGE, SPLAT, RENDER, GRADIENT = "#7b5ea7", "#3d7ab5", "#c8742c", "#3f8f6b", "#c2313a"
COLOUR_RENDER = ("#a9c3dc", "#bcd1e5", "#cfdfee")  # of the snowman's three balls
COORDINATE_RENDER = ("#3fa36b", "#c9b23c", "#d0623f")

Point = tuple[float, float]
Size = tuple[float, float]


def canvas(left: float, right: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """An empty drawing whose unit is an inch."""
    figure, axis = plt.subplots(figsize=(right - left, top - bottom))
    axis.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axis.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return figure, axis


def border(centre: Point, size: Size, margin: float = 0.0) -> FancyBboxPatch:
    corner = (centre[0] - size[0] / 2, centre[1] - size[1] / 2)
    return FancyBboxPatch(corner, *size, boxstyle=f"round,pad={margin},rounding_size=0.12")


def model(axis: Axes, centre: Point, size: Size, title: str, note: str, alpha: float = 1.0) -> None:
    """A box. Where it is faint it still hides what passes under it."""
    for colour, opacity in (("white", 1.0), (INK, alpha)):
        axis.add_patch(border(centre, size)).set(fc=colour, ec="none", alpha=opacity, zorder=3)
    x, y = centre
    axis.text(x, y + 0.12 * bool(note), title, color="white", ha="center", va="center", zorder=4, weight="bold",
              fontsize=15 if len(title) == 1 else 12)
    axis.text(x, y - 0.19, note, color="white", ha="center", va="center", fontsize=9.5, zorder=4)


def arrow(axis: Axes, start: tuple[Point, Size], end: tuple[Point, Size], bend: float = 0.0, colour: str = INK,
          alpha: float = 1.0, strong: bool = False) -> None:
    """From the border of one thing, given by its centre and size, to that of another."""
    borders = [axis.add_patch(border(*thing, margin=0.06)) for thing in (start, end)]
    for patch in borders:
        patch.set(fc="none", ec="none")
    axis.add_patch(FancyArrowPatch(start[0], end[0], patchA=borders[0], patchB=borders[1], shrinkA=0, shrinkB=0,
                                   connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>",
                                   mutation_scale=20 if strong else 16, lw=3.0 if strong else 1.8, color=colour,
                                   alpha=alpha, zorder=2))


def cards(axis: Axes, centre: Point, colour: str, alpha: float = 1.0, count: int = 3, side: float = 0.56) -> Point:
    """A stack of square cards. Returns the lower left corner of the front one."""
    for index in reversed(range(count)):
        shift = 0.08 * (index - (count - 1) / 2)
        corner = (centre[0] - side / 2 + shift, centre[1] - side / 2 + shift)
        for edge, opacity in (("none", 1.0), (colour, alpha)):
            axis.add_patch(Rectangle(corner, side, side, fc="white", ec=edge, lw=1.4, alpha=opacity, zorder=3))
    return corner


def latents(axis: Axes, centre: Point, noisy: bool, alpha: float = 1.0, side: float = 0.56) -> None:
    """Coarse pictures: of noise, or of a soft blob where the noise is gone."""
    left, bottom = cards(axis, centre, LATENT, alpha, side=side)
    across = np.linspace(-1.4, 1.4, 6)
    grid = np.random.default_rng(0).normal(size=(6, 6)) if noisy else (
        2.5 * np.exp(-(across[:, None] ** 2 + across**2)) - 1)
    axis.imshow(grid, extent=(left, left + side, bottom, bottom + side), cmap="Purples", vmin=-2, vmax=2, alpha=alpha,
                zorder=3, interpolation="nearest", aspect="equal")
    axis.add_patch(Rectangle((left, bottom), side, side, fill=False, ec=LATENT, lw=1.4, alpha=alpha, zorder=4))


def snowmen(axis: Axes, centre: Point, colour: str, balls: Sequence[str] = COLOUR_RENDER, alpha: float = 1.0,
            count: int = 3, side: float = 0.56) -> None:
    """Pictures of an object, the course's snowman. balls: their colours, from below."""
    left, bottom = cards(axis, centre, colour, alpha, count, side)
    for height, width, ball in zip((0.28, 0.56, 0.78), (0.46, 0.34, 0.24), balls, strict=True):
        axis.add_patch(Ellipse((left + side / 2, bottom + side * height), side * width, side * width * 0.92, fc=ball,
                               ec="none", alpha=alpha, zorder=4))


def splat(axis: Axes, centre: Point, alpha: float = 1.0) -> None:
    """The same snowman, of Gaussians."""
    random = np.random.default_rng(3)
    for height, radius in ((-0.17, 0.26), (0.1, 0.19), (0.28, 0.12)):
        for _ in range(14):
            angle, share = random.uniform(0, 2 * np.pi), radius * np.sqrt(random.uniform())
            place = (centre[0] + share * np.cos(angle), centre[1] + height + share * np.sin(angle))
            axis.add_patch(Ellipse(place, 0.22, 0.11, angle=random.uniform(0, 180), fc=SPLAT, ec="white", lw=0.5,
                                   alpha=0.75 * alpha, zorder=4))
