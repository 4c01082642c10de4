"""How a metric grows with the labels that a head is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._paper import shortened
from fairseq_ecg.plots.curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[float, NDArray[np.floating]]
"""By share of the training recordings the value of each seed."""
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def plot_label_efficiency(
    panels: Mapping[str, Mapping[str, Curve]],
    path: str | Path,
    y: str = "macro AUROC",
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw the curves of one or more heads beside each other.

    Args:
        panels: for each head, for each kind of features, its values.
        path: the picture, .png, .pdf or .svg.
        y: what the values are.
        title: one line above.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: no value is finite, or the suffix of `path` is unknown.
    """
    return save(draw_label_efficiency(panels, y, title, dpi), path)


def draw_label_efficiency(
    panels: Mapping[str, Mapping[str, Curve]],
    y: str = "macro AUROC",
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_label_efficiency` saves: means, and from least to largest."""
    from matplotlib.figure import Figure

    values = [v for curves in panels.values() for curve in curves.values() for v in curve.values()]
    if not values or not np.isfinite(np.concatenate(values)).any():
        raise ValueError("there must be a finite value to draw, but there is none")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    shares = sorted({share for curves in panels.values() for c in curves.values() for share in c})
    width = 1.4 + 3.6 * len(panels)
    figure = Figure(figsize=(width, 4.4), dpi=dpi, facecolor="white", layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (head, curves) in zip(grid, panels.items(), strict=True):
        for name, curve in curves.items():
            number = names.index(name)
            _draw_curve(axes, curve, shares, number, len(names), name)
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{100 * share:g}" for share in shares])
        axes.minorticks_off()
        axes.set_xlabel("% of the training recordings")
        axes.set_title(head.replace("$", r"\$"), fontsize=11)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel(y)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    handles, texts = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="outside lower center", ncols=min(len(names), 3), frameon=False
    )
    return figure


def _draw_curve(
    axes: object, curve: Curve, shares: list[float], number: int, of: int, name: str
) -> None:
    """Draw mean and range; curves are moved aside a little, so that their ranges do not overlap."""
    known = {
        share: np.asarray(curve[share], dtype=np.float64) for share in shares if share in curve
    }
    known = {share: found[np.isfinite(found)] for share, found in known.items()}
    known = {share: found for share, found in known.items() if found.size}
    if not known:
        return
    aside = 1.0 + 0.05 * (number - (of - 1) / 2)
    x = np.array(list(known)) * aside
    mean = np.array([found.mean() for found in known.values()])
    low = mean - np.array([found.min() for found in known.values()])
    high = np.array([found.max() for found in known.values()]) - mean
    axes.errorbar(  # type: ignore[attr-defined]
        x, mean, yerr=[low, high], color=COLOURS[number % len(COLOURS)],
        marker=_MARKERS[number % len(_MARKERS)], markersize=5, linewidth=1.4, elinewidth=1.0,
        capsize=2.5, label=shortened(name, 32), gid=name,
    )  # fmt: skip
