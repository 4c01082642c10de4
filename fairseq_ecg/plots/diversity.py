"""The diversity-accuracy plane: every pair of models of every arm as a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fairseq_ecg.plots._files import save
from fairseq_ecg.plots.curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
_MARKERS = ("^", "D", "o", "s", "v", "P", "X")


def plot_diversity(
    arms: Mapping[str, Points],
    path: str | Path,
    x: str = "mean macro AUROC of the pair",
    y: str = "disagreement / error",
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw how different pairs of models are against how good they are.

    Args:
        arms: name of each arm to its pairs, (accuracy, diversity) each. A pair with a value that
            is not finite is left out.
        path: the picture, .png, .pdf or .svg.
        x: what the accuracy is.
        y: what the diversity is.
        title: one line above.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: no pair of any arm has two finite values, or the suffix of `path` is unknown.
    """
    return save(draw_diversity(arms, x, y, title, dpi), path)


def draw_diversity(
    arms: Mapping[str, Points],
    x: str = "mean macro AUROC of the pair",
    y: str = "disagreement / error",
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_diversity` saves; a large faint mark is the mean of an arm."""
    from matplotlib.figure import Figure

    points = {
        name: np.array(pairs, dtype=np.float64).reshape(-1, 2) for name, pairs in arms.items()
    }
    points = {name: found[np.isfinite(found).all(axis=1)] for name, found in points.items()}
    if not any(len(found) for found in points.values()):
        raise ValueError(
            "there must be a pair of models with a finite accuracy and diversity, but there is "
            f"none in {', '.join(arms) or 'no arm'}"
        )
    figure = Figure(figsize=(6.4, 4.8), dpi=dpi, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for number, (name, found) in enumerate(points.items()):
        colour = COLOURS[number % len(COLOURS)]
        marker = _MARKERS[number % len(_MARKERS)]
        label = name.replace("$", r"\$")
        axes.scatter(*found.T, s=36, c=colour, marker=marker, label=label, linewidths=0)
        if len(found) > 1:
            axes.scatter(*found.mean(axis=0), s=300, c=colour, marker=marker, alpha=0.25)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title.replace("$", r"\$"), fontsize=12)
    if len(points) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(points), 4), frameon=False)
    return figure
