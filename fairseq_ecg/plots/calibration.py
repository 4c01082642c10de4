"""Reliability diagrams: what share of recordings is positive where a probability was predicted.

The diagonal is a network whose probabilities mean what they say. The area of a mark grows with the
recordings in its bin; a bin with few of them says little, however far off it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.metrics.calibration import (
    Reliability,
    answers,
    calibration_error,
    reliability,
)
from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._paper import shortened
from fairseq_ecg.plots.curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 12
_GREY, _GRID = "#6b6b6b", "#e4e4e4"


def plot_calibration(
    probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    labels: Sequence[str],
    path: str | Path,
    exclusive: bool = False,
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw a diagram of all classes together, and of each of the most frequent ones.

    Args:
        probability: in [0, 1], [R, K].
        truth: what is true, [R, K].
        labels: names of the classes, [K].
        path: the picture, .png, .pdf or .svg.
        exclusive: whether classes exclude each other; the first diagram is then of the answers.
        title: one line above.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: the suffix of `path` is unknown.
    """
    return save(draw_calibration(probability, truth, labels, exclusive, title, dpi), path)


def draw_calibration(
    probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    labels: Sequence[str],
    exclusive: bool = False,
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_calibration` saves."""
    from matplotlib.figure import Figure

    order = np.argsort(-truth.sum(axis=0), kind="stable")[: _MOST_PANELS - 1]
    count = 1 + len(order)
    columns = min(count, 3 if count in (5, 6, 9) else 4)
    rows = -(-count // columns)
    size = (2.75 * columns + 0.5, 3.0 * rows + 0.35)
    figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    if exclusive:
        found = reliability(*answers(probability, truth))
        draw_reliability(grid[0], {"": found})
        grid[0].set_title(f"the answer, ECE {found.error:.3f}", fontsize=10)
        grid[0].set_ylabel("share that is right", fontsize=9)
    else:
        draw_reliability(grid[0], {"": reliability(probability, truth)})
        error = calibration_error(probability, truth)
        grid[0].set_title(f"all classes, mean ECE {error:.3f}", fontsize=10)
    for axes, k in zip(grid[1:], order, strict=False):
        found = reliability(probability[:, k], truth[:, k])
        draw_reliability(axes, {"": found})
        name = shortened(labels[k], 18)
        axes.set_title(f"{name}, ECE {found.error:.3f}", fontsize=10)
    for axes in grid[count:]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    return figure


def draw_reliability(
    axes: Axes, found: Mapping[str, Reliability], colours: Sequence[int] | None = None
) -> None:
    """Draw one or more reliability diagrams into axes.

    Args:
        axes: where.
        found: by name, which stands in the legend; an empty one does not.
        colours: number of the colour of each; None: 0, 1, ...
    """
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":", gid="diagonal")
    numbers = range(len(found)) if colours is None else colours
    for number, (name, one) in zip(numbers, found.items(), strict=True):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(
            one.predicted, one.observed, color=colour, linewidth=1.0, alpha=0.7, gid=f"line {name}"
        )
        sizes = 6 + 90 * one.count / max(1, int(one.count.sum()))
        axes.scatter(
            one.predicted, one.observed, s=sizes, c=colour, linewidths=0, zorder=3,
            label=name.replace("$", r"\$") or None, gid=f"bins {name}",
        )  # fmt: skip
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_xlabel("predicted probability", fontsize=9)
    axes.set_ylabel("share that is positive", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if any(found):
        legend = axes.legend(frameon=False, fontsize=8, loc="upper left")
        for handle in legend.legend_handles:
            handle.set_sizes([24])
