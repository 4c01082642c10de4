"""Which class is taken for which: a confusion matrix, or where several are true, co-occurrence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._paper import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NUMBERED = 14


def plot_confusion(
    confusion: NDArray[np.int64],
    labels: Sequence[str],
    path: str | Path,
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw a confusion matrix; colours are shares of the records of a row.

    Args:
        confusion: counts, row true, column answered, [K, K].
        labels: names of the classes, [K].
        path: the picture, .png, .pdf or .svg.
        title: one line above.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: the suffix of `path` is unknown.
    """
    return save(draw_confusion(confusion, labels, title, dpi), path)


def draw_confusion(
    confusion: NDArray[np.int64],
    labels: Sequence[str],
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_confusion` saves."""
    figure, (axes,) = _sheet(len(labels), 1, dpi)
    totals = confusion.sum(axis=1)
    texts = [[str(count) for count in row] for row in confusion.tolist()]
    _draw_table(axes, _shares(confusion, totals), texts, labels, totals)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    return figure


def plot_cooccurrence(
    truth: NDArray[np.bool_],
    decisions: NDArray[np.bool_],
    labels: Sequence[str],
    path: str | Path,
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw which classes are true together, and which are decided where each is true.

    Where the network is right both halves are alike; what is darker at the right is decided too
    often where the row's class is true, what is lighter is missed.

    Args:
        truth: what is true, [R, K].
        decisions: what was decided, [R, K].
        labels: names of the classes, [K].
        path: the picture, .png, .pdf or .svg.
        title: one line above.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: the suffix of `path` is unknown.
    """
    return save(draw_cooccurrence(truth, decisions, labels, title, dpi), path)


def draw_cooccurrence(
    truth: NDArray[np.bool_],
    decisions: NDArray[np.bool_],
    labels: Sequence[str],
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_cooccurrence` saves."""
    figure, panels = _sheet(len(labels), 2, dpi)
    given = truth.astype(np.int64)
    totals = given.sum(axis=0)
    for axes, other, name in (
        (panels[0], given, "is true too"),
        (panels[1], decisions.astype(np.int64), "is decided"),
    ):
        shares = _shares(given.T @ other, totals)
        texts = [["" if np.isnan(v) else f"{100 * v:.0f}" for v in row] for row in shares]
        _draw_table(axes, shares, texts, labels, totals)
        axes.set_xlabel(name)
        axes.set_ylabel("true")
        scale = "" if len(labels) <= _MOST_NUMBERED else ", white 0 to dark blue 100"
        axes.set_title(f"{name}: % of the row's recordings{scale}", fontsize=9.5)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    return figure


def _sheet(n_classes: int, panels: int, dpi: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    side = float(np.clip(1.9 + 0.42 * n_classes, 4.2, 9.5))
    size = (panels * (side + 0.6), side + 0.3)
    figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout="compressed")
    return figure, list(np.atleast_1d(figure.subplots(1, panels)))


def _shares(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each row over its total; NaN for a class that is never true."""
    return np.where(totals[:, None] > 0, counts / np.maximum(totals, 1)[:, None], np.nan)


def _draw_table(
    axes: Axes,
    shares: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    labels: Sequence[str],
    totals: NDArray[np.int64],
) -> None:
    axes.set_facecolor("#efefef")
    axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1, aspect="equal")
    places = np.arange(len(labels))
    names = [shortened(label, 16) for label in labels]
    flat = len(labels) <= 6 and max(map(len, names)) <= 6
    rotation = 0 if flat else 30 if len(labels) <= 6 else 90
    size = 9 if len(labels) <= _MOST_NUMBERED else max(4.0, 9 - 0.09 * len(labels))
    axes.set_xticks(places, names, rotation=rotation, fontsize=size)
    rows = [f"{name} ({total})" for name, total in zip(names, totals, strict=True)]
    axes.set_yticks(places, rows, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(labels) > _MOST_NUMBERED:
        return
    for row, column in np.ndindex(shares.shape):
        light = shares[row, column] > 0.55
        axes.text(
            column, row, texts[row][column], ha="center", va="center", fontsize=8.5,
            color="white" if light else "#222222",
        )  # fmt: skip
