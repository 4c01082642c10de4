"""How well each group of patients is served: areas, Brier scores and reliability side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fairseq_ecg.metrics.calibration import Reliability
from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._paper import shortened
from fairseq_ecg.plots.calibration import draw_reliability
from fairseq_ecg.plots.curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY, _GRID = "#6b6b6b", "#e4e4e4"


def plot_subgroups(
    table: pd.DataFrame,
    found: Mapping[str, Mapping[str, Reliability]],
    path: str | Path,
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw each group's macro AUROC and Brier score with their intervals, and its reliability.

    Args:
        table: one row per group: ``attribute``, ``group``, ``rows``, ``auroc`` and ``brier``, each
            with ``_low`` and ``_high``; NaN where there is no value.
        found: the reliability of the groups of each attribute; an attribute that is not here is
            left out.
        path: the picture, .png, .pdf or .svg.
        title: one line above.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: there is no attribute, or the suffix of `path` is unknown.
    """
    return save(draw_subgroups(table, found, title, dpi), path)


def draw_subgroups(
    table: pd.DataFrame,
    found: Mapping[str, Mapping[str, Reliability]],
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_subgroups` saves; one row of panels for each attribute."""
    from matplotlib.figure import Figure

    if not found:
        raise ValueError("there must be a group to draw, but there is none")
    size = (10.6, 3.3 * len(found) + 0.2)
    figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout="constrained")
    grid = figure.subplots(len(found), 3, squeeze=False)
    for row, (attribute, groups) in zip(grid, found.items(), strict=True):
        own = table[table["attribute"] == attribute].reset_index(drop=True)
        _draw_numbers(row[0], own, "auroc", "macro AUROC")
        _draw_numbers(row[1], own, "brier", "Brier score (lower is better)")
        row[1].set_yticklabels([])
        places = dict(zip(own["group"], range(len(own)), strict=True))
        draw_reliability(row[2], groups, [places[name] for name in groups])
        row[0].set_title(attribute, fontsize=11, fontweight="bold", loc="left")
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    return figure


def _draw_numbers(axes: Axes, table: pd.DataFrame, name: str, text: str) -> None:
    for place, row in table.iterrows():
        colour = COLOURS[place % len(COLOURS)]
        if np.isnan(row[name]):
            axes.text(
                0.03, place, "too few, or no class in common", transform=axes.get_yaxis_transform(),
                fontsize=8, color=_GREY, va="center",
            )  # fmt: skip
            continue
        axes.plot(
            [row[f"{name}_low"], row[f"{name}_high"]], [place, place], color=colour, linewidth=2,
            alpha=0.5, solid_capstyle="butt", gid=f"{name} {row['group']}",
        )  # fmt: skip
        axes.plot([row[name]], [place], "o", color=colour, markersize=6)
    names = [
        f"{shortened(str(group), 20)} ({rows})"
        for group, rows in zip(table["group"], table["rows"], strict=True)
    ]
    axes.set_yticks(range(len(table)), names, fontsize=9)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel(text, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="y", labelsize=9, length=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
