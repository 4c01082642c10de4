"""The paper of an ECG: axes in millimetres, its grid, its inks, and lines of text that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY = "#161616", "#8a8a8a"
_FINE, _COARSE = "#f9dcdc", "#eeb0b0"


def add_axes(
    figure: Figure,
    corner_mm: tuple[float, float],
    size_mm: tuple[float, float],
    sheet_mm: tuple[float, float],
) -> Axes:
    """Add axes whose data unit is one millimetre on paper.

    Args:
        figure: where.
        corner_mm: left and bottom of the axes on the sheet.
        size_mm: their width and height.
        sheet_mm: width and height of the figure.
    """
    axes = figure.add_axes(
        (
            corner_mm[0] / sheet_mm[0],
            corner_mm[1] / sheet_mm[1],
            size_mm[0] / sheet_mm[0],
            size_mm[1] / sheet_mm[1],
        )
    )
    axes.set(xlim=(0, size_mm[0]), ylim=(0, size_mm[1]))
    axes.set_axis_off()
    return axes


def draw_grid(axes: Axes, width_mm: float, height_mm: float) -> None:
    """Draw the grid of 1 mm and 5 mm behind everything."""
    from matplotlib.collections import LineCollection

    for step, colour, width in ((1, _FINE, 0.35), (5, _COARSE, 0.55)):
        lines = [[(x, 0), (x, height_mm)] for x in np.arange(0, width_mm + 0.5, step)]
        lines += [[(0, y), (width_mm, y)] for y in np.arange(0, height_mm + 0.5, step)]
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=width, zorder=0, clip_on=False)
        )


def shortened(text: str, room: int) -> str:
    """Return one line of at most `room` characters; `$` is shown, not read as mathematics."""
    line = " ".join(text.split())
    line = line if len(line) <= room else line[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return line.replace("$", r"\$")
