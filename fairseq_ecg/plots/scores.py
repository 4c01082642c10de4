"""How well each class is ranked: receiver operating characteristic, and precision over recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.metrics.bootstrap import Interval
from fairseq_ecg.metrics.multilabel import auroc, average_precision, macro, steps
from fairseq_ecg.metrics.resampled import of_class
from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._paper import shortened
from fairseq_ecg.plots.curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMED = 10
_GREY, _GRID = "#6b6b6b", "#e4e4e4"


def plot_scores(
    probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    labels: Sequence[str],
    path: str | Path,
    areas: Mapping[str, Interval] | None = None,
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw both curves of every class that has positives and negatives.

    Args:
        probability: finite, [R, K].
        truth: what is true, [R, K].
        labels: names of the classes, [K].
        path: the picture, .png, .pdf or .svg.
        areas: intervals of the areas by the names of ``metrics/resampled.py``, for the legend.
        title: one line above.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: the suffix of `path` is unknown.
    """
    return save(draw_scores(probability, truth, labels, areas, title, dpi), path)


def draw_scores(
    probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    labels: Sequence[str],
    areas: Mapping[str, Interval] | None = None,
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_scores` saves; of over ten classes the rarer ones are grey."""
    from matplotlib.figure import Figure

    positives = truth.sum(axis=0)
    shown = np.flatnonzero((positives > 0) & (positives < len(truth)))
    named = shown[np.argsort(-positives[shown], kind="stable")][:_MOST_NAMED]
    legend_height = 0.35 + 0.205 * len(named)
    figure = Figure(
        figsize=(10.4, 5.4 + legend_height), dpi=dpi, facecolor="white", layout="constrained"
    )
    grid = figure.subplots(2, 2, height_ratios=[5.4, legend_height])
    left, right = grid[0]
    _prepare(left, "false positive rate", "sensitivity (recall)")
    _prepare(right, "sensitivity (recall)", "precision")
    left.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":", gid="chance")
    for k in [*(k for k in shown if k not in named), *named[::-1]]:
        place = int(np.flatnonzero(named == k)[0]) if k in named else None
        _draw_class(left, right, probability[:, k], truth[:, k], labels[k], place, areas or {})
    for axes, below, name in zip(grid[0], grid[1], ("auroc", "auprc"), strict=True):
        _write_areas(axes, name, probability, truth, areas or {})
        below.set_axis_off()
        handles, texts = axes.get_legend_handles_labels()
        if handles:
            below.legend(
                handles[::-1], texts[::-1], loc="upper center", frameon=False, fontsize=9,
                borderaxespad=0, title=_legend_title(len(shown), len(named), len(labels)),
                title_fontsize=8.5,
            )  # fmt: skip
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    return figure


def _legend_title(n_shown: int, n_named: int, n_classes: int) -> str:
    """Say which classes have no name or no curve."""
    parts = []
    if n_shown > n_named:
        parts.append(f"{n_shown - n_named} rarer classes in grey")
    if n_classes > n_shown:
        parts.append(f"{n_classes - n_shown} without positives or negatives have no curve")
    return "; ".join(parts)


def _prepare(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_class(
    left: Axes,
    right: Axes,
    scores: NDArray[np.floating],
    truth: NDArray[np.bool_],
    label: str,
    place: int | None,
    areas: Mapping[str, Interval],
) -> None:
    tp, fp = steps(scores, truth)
    recall, alarms = tp / tp[-1], fp / fp[-1]
    gains = np.flatnonzero(np.diff(tp)) + 1  # the area under these steps is the average precision
    precision = tp[gains] / (tp[gains] + fp[gains])
    style: dict[str, object] = {"color": "#c9c9c9", "linewidth": 0.8}
    if place is not None:
        dash = "-" if place < len(COLOURS) else "--"
        style = {"color": COLOURS[place % len(COLOURS)], "linewidth": 1.5, "linestyle": dash}
    names = [None, None]
    if place is not None:
        values = (auroc(scores[:, None], truth[:, None]), average_precision(
            scores[:, None], truth[:, None]
        ))  # fmt: skip
        names = [
            f"{shortened(label, 28)} {_written(value, areas.get(of_class(metric, label)))}"
            for metric, value in zip(("auroc", "auprc"), values, strict=True)
        ]
    left.plot(alarms, recall, label=names[0], gid=f"roc {label}", **style)
    right.plot(
        np.append(0, recall[gains]), np.append(precision[0], precision), drawstyle="steps-pre",
        label=names[1], gid=f"precision {label}", **style,
    )  # fmt: skip


def _write_areas(
    axes: Axes,
    metric: str,
    probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    areas: Mapping[str, Interval],
) -> None:
    """Write the mean area above the axes."""
    name = {"auroc": "AUROC", "auprc": "AUPRC"}[metric]
    per_class = auroc if metric == "auroc" else average_precision
    value = macro(per_class(probability, truth)) if len(truth) else float("nan")
    text = f"macro {name} {_written(value, areas.get(f'macro_{metric}', areas.get(metric)))}"
    axes.set_title(text, fontsize=10)


def _written(value: float, interval: Interval | None) -> str:
    if np.isnan(value):
        return "-"
    ends = "" if interval is None or np.isnan(interval.low) else (
        f" ({interval.low:.3f}-{interval.high:.3f})"
    )  # fmt: skip
    return f"{value:.3f}{ends}"
