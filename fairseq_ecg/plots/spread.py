"""Means over runs, and how far the runs lie apart: a score over the amount of data, or over time.

As the figures of Weimann & Conrad 2021: training with a band from the worst to the best run, and
a score with error bars beside what is reached without pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._rows import Rows, check_keys, points
from fairseq_ecg.plots.curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Spread = Literal["range", "deviation"]
_MOST_TICKS = 12
_MARKERS = ("o", "s", "^", "D")


def plot_spread(
    series: Mapping[str, Rows],
    path: str | Path,
    y: str,
    x: str,
    spread: Spread = "range",
    levels: Mapping[str, Sequence[float]] | None = None,
    log_x: bool = False,
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw the mean of a value over that of another, and its spread.

    Args:
        series: name of each line to the rows of all its runs; rows with the same `x` are averaged.
            Rows that lack a value, or have one that is not finite, are left out.
        path: the picture, .png, .pdf or .svg.
        y: the key to draw.
        x: the key of the horizontal axis.
        spread: "range" fills the area from the smallest to the largest value, "deviation" draws
            bars of one standard deviation (n - 1) on both sides; a single run has none.
        levels: values that do not depend on `x`, such as those of a reference: name of each line to
            its runs. Drawn dashed over the whole width, with a band of one standard deviation.
        log_x: logarithmic horizontal axis.
        title: one line above the panel.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: there is neither a series nor a level, a key occurs in no row, a level has no
            values, or the suffix of `path` is unknown.
    """
    return save(draw_spread(series, y, x, spread, levels, log_x, title, dpi), path)


def draw_spread(
    series: Mapping[str, Rows],
    y: str,
    x: str,
    spread: Spread = "range",
    levels: Mapping[str, Sequence[float]] | None = None,
    log_x: bool = False,
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_spread` saves."""
    from matplotlib.figure import Figure

    levels = levels or {}
    if not series and not levels:
        raise ValueError("there must be at least one line to draw, but there is none")
    if series:
        check_keys(series, [x, y])
    figure = Figure(figsize=(7.2, 4.3), dpi=dpi, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(levels.items()):
        _draw_level(axes, name, values, COLOURS[-1 - number % len(COLOURS)])
    for number, (name, rows) in enumerate(series.items()):
        means, low, high = _summary(points(rows, x, y), spread)
        _draw_line(axes, name, number, means, low, high, spread)
    if log_x:
        _set_log_x(axes, [points(rows, x, y)[:, 0] for rows in series.values()])
    axes.set_xlabel(x.replace("_", " "))
    axes.set_ylabel(y.replace("_", " "))
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(_plain(title), fontsize=12)
    if len(series) + len(levels) > 1:
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _summary(
    pairs: NDArray[np.float64], spread: Spread
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean [N, 2] and lower and upper end [N] over the runs of each place."""
    places = np.unique(pairs[:, 0])
    runs = [pairs[pairs[:, 0] == place, 1] for place in places]
    means = np.array([values.mean() for values in runs])
    if spread == "range":
        low, high = np.array([(v.min(), v.max()) for v in runs]).reshape(-1, 2).T
    else:
        deviation = np.array([_deviation(values) for values in runs])
        low, high = means - deviation, means + deviation
    return np.stack([places, means], axis=1), low, high


def _deviation(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _draw_line(
    axes: Axes,
    name: str,
    number: int,
    means: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    spread: Spread,
) -> None:
    colour = COLOURS[number % len(COLOURS)]
    if spread == "range":
        axes.fill_between(means[:, 0], low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(*means.T, color=colour, linewidth=1.5, label=_plain(name))
        return
    axes.errorbar(
        *means.T,
        yerr=(means[:, 1] - low, high - means[:, 1]),
        color=colour,
        linewidth=1.5,
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=5,
        capsize=3,
        label=_plain(name),
    )


def _draw_level(axes: Axes, name: str, values: Sequence[float], colour: str) -> None:
    if not len(values):
        raise ValueError(f"{name} has no values to draw")
    found = np.asarray(values, dtype=np.float64)
    mean, deviation = float(found.mean()), _deviation(found)
    axes.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(mean, color=colour, linewidth=1.5, linestyle="--", label=_plain(name))


def _set_log_x(axes: Axes, places: Sequence[NDArray[np.float64]]) -> None:
    """Make the axis logarithmic, with a tick where there is a point, in plain numbers."""
    axes.set_xscale("log")
    found = np.unique(np.concatenate(places)) if places else np.array([])
    if 0 < len(found) <= _MOST_TICKS:
        axes.set_xticks(found, [f"{place:,.6g}" for place in found])
        axes.minorticks_off()


def _plain(text: str) -> str:
    """Keep matplotlib from reading mathematics into a name."""
    return text.replace("$", r"\$")
