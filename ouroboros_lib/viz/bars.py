"""Bars of several parts, side by side or one after the other."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK_ON_BAR, NARROWEST = "white", 0.03  # a part below this share of the axis has no room for its name


def stacked_bars(rows: Mapping[str, Mapping[str, float]], colors: Mapping[str, str], unit: str,
                 marks: Mapping[str, float] | None = None, marked: str = "", decimals: int = 1) -> Axes:
    """One horizontal bar for each of `rows`, its parts from left to right in the order of `colors`, with their values.

    colors: of each part that may occur. marks: for some rows a value to be marked by a dotted line, named `marked`.
    Returns the axes of a new figure, to be finished and shown as `axes.figure`.
    """
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.5 * len(rows)))
    longest = max([sum(parts.values()) for parts in rows.values()] + list((marks or {}).values()))
    for place, (row, parts) in enumerate(rows.items()):
        left = 0.0
        for part, color in colors.items():
            width = parts.get(part, 0.0)
            axis.barh(place, width, left=left, color=color)
            if width > NARROWEST * longest:
                axis.text(left + width / 2, place, f"{width:,.{decimals}f}", ha="center", va="center", size=8,
                          color=INK_ON_BAR)
            left += width
        if marks and row in marks:
            axis.plot([marks[row]] * 2, [place - 0.4, place + 0.4], "k:")
            axis.text(marks[row] + 0.01 * longest, place, f"{marks[row]:g}", va="center", size=8)
    axis.set_yticks(range(len(rows)), rows)
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    names = list(colors)
    if marks:
        handles.append(plt.Line2D([], [], color="k", linestyle=":"))
        names.append(marked)
    axis.legend(handles, names, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return axis
