"""A recording before and after a perturbation, lead by lead: the whole of it, and one beat closer.

Before stands in grey on top, so that it can be seen inside the noise, after in blue behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.plots._files import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Two leads that are drawn freely, two that follow from them, and two of the chest.
LEADS = ("I", "II", "III", "aVR", "V1", "V5")

_BEFORE, _AFTER, _CLOSE = "#b4b4b4", "#1f5fa8", "#f4f1e4"
_GREY, _GRID = "#666666", "#e9e9e9"
_CLOSE_S = 0.6
_WIDTH_IN, _ROW_IN, _ABOVE_IN, _BELOW_IN = 9.0, 0.82, 0.72, 0.4
_SHORT, _LETTER, _TICKS = 3, 0.009, 0.017  # letters of a name beside the axes, shares of the width
_SIDES = {"left": 0.09, "right": 0.985, "wspace": 0.06, "hspace": 0.14}


def plot_perturbation(
    before: EcgSignal,
    after: EcgSignal,
    path: str | Path,
    title: str | None = None,
    values: str | None = None,
    leads: Sequence[str] | None = None,
    dpi: int = 80,
) -> Path:
    """Draw some leads before and after a perturbation.

    Args:
        before: any leads; without missing samples.
        after: the same recording, perturbed.
        path: the picture, .png, .pdf or .svg.
        title: above the picture, such as the perturbation's name.
        values: beside the title in grey, such as its options.
        leads: which leads; `LEADS`, as far as they are there, if None, else the first six.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: the recordings differ in shape, rate or leads, a lead is not there, or the
            suffix of `path` is unknown.
    """
    return save(draw_perturbation(before, after, title, values, leads, dpi), path)


def draw_perturbation(
    before: EcgSignal,
    after: EcgSignal,
    title: str | None = None,
    values: str | None = None,
    leads: Sequence[str] | None = None,
    dpi: int = 80,
) -> Figure:
    """Return the figure that `plot_perturbation` saves: two columns of axes, a row per lead."""
    from matplotlib.figure import Figure

    rows = _chosen_rows(before, after, leads)
    height = _ABOVE_IN + _ROW_IN * len(rows) + _BELOW_IN
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=dpi, facecolor="white")
    longest = max(len(before.leads[row]) for row in rows)
    left = _SIDES["left"] + _LETTER * max(0, longest - _SHORT)
    margins = {**_SIDES, "left": left, "top": 1 - _ABOVE_IN / height, "bottom": _BELOW_IN / height}
    grid = figure.subplots(
        len(rows), 2, sharex="col", squeeze=False, width_ratios=(3.2, 1), gridspec_kw=margins
    )
    seconds = np.arange(before.n_samples) / before.rate_hz
    old, new = before.values_mv[rows], after.values_mv[rows]
    close = _close_up(old, new, before.rate_hz)
    limits = _limits(old, new)
    for index, (row, (whole, near)) in enumerate(zip(rows, grid, strict=True)):
        for axes, part in ((whole, slice(None)), (near, close)):
            _draw_lead(axes, seconds[part], old[index, part], new[index, part])
            axes.set_ylim(limits[index])
        whole.set_xlim(0, before.duration_s)
        near.set_xlim(close.start / before.rate_hz, close.stop / before.rate_hz)
        whole.axvspan(*near.get_xlim(), color=_CLOSE, zorder=0)
        near.set_yticklabels([])
        box = whole.get_position()
        whole.annotate(
            before.leads[row], (left / 2 - _TICKS, (box.y0 + box.y1) / 2),
            xycoords="figure fraction", fontsize=10, fontweight="bold", va="center", ha="center",
        )  # fmt: skip
    grid[0, 0].annotate(
        "mV", (-0.012, 1.08), xycoords="axes fraction", fontsize=8, color=_GREY, ha="right"
    )
    for axes in grid[-1]:
        axes.set_xlabel("s", fontsize=8.5, color=_GREY, labelpad=1)
    _write_above(figure, height, title, values)
    return figure


def _chosen_rows(before: EcgSignal, after: EcgSignal, leads: Sequence[str] | None) -> list[int]:
    same = before.leads == after.leads and before.rate_hz == after.rate_hz
    if not same or before.values_mv.shape != after.values_mv.shape:
        raise ValueError(
            "before and after must be one recording, but have the shapes "
            f"{before.values_mv.shape} and {after.values_mv.shape}, the rates "
            f"{before.rate_hz:g} and {after.rate_hz:g} Hz and the leads "
            f"{', '.join(before.leads)} and {', '.join(after.leads)}"
        )
    if leads is None:
        leads = [lead for lead in LEADS if lead in before.leads] or before.leads[: len(LEADS)]
    missing = [lead for lead in leads if lead not in before.leads]
    if missing or not leads:
        raise ValueError(
            f"leads must be some of {', '.join(before.leads)}, but are {', '.join(leads) or 'none'}"
        )
    return [before.leads.index(lead) for lead in leads]


def _close_up(before: np.ndarray, after: np.ndarray, rate_hz: float) -> slice:
    """Return the samples around the steep place, a beat, where the perturbation shows most."""
    n_samples = before.shape[1]
    width = min(n_samples, max(2, round(_CLOSE_S * rate_hz)))
    steepness = np.abs(np.diff(before, axis=1, prepend=before[:, :1]))
    centre = int(np.argmax((steepness * np.abs(after - before)).sum(axis=0)))
    start = int(np.clip(centre - width // 2, 0, n_samples - width))
    return slice(start, start + width)


def _limits(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return a range in mV for each lead, equally wide for all of them, [C, 2]."""
    both = np.concatenate([before, after], axis=1).astype(np.float64)
    low, high = both.min(axis=1), both.max(axis=1)
    half = max(0.2, 0.54 * float((high - low).max()))
    middle = (low + high) / 2
    return np.stack([middle - half, middle + half], axis=1)


def _draw_lead(axes: Axes, seconds: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    axes.plot(seconds, after, color=_AFTER, linewidth=1.2, gid="after")
    axes.plot(seconds, before, color=_BEFORE, linewidth=0.8, gid="before")
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7.5, colors=_GREY, length=2, pad=2)
    axes.locator_params(axis="y", nbins=4, steps=[1, 2, 5, 10])
    axes.locator_params(axis="x", steps=[1, 2, 5, 10])
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")


def _write_above(figure: Figure, height: float, title: str | None, values: str | None) -> None:
    """Write two lines of text, and which colour is which at their right."""
    from matplotlib.lines import Line2D

    styles = ({"fontsize": 12, "fontweight": "bold"}, {"fontsize": 8.5, "color": _GREY})
    for line, text, style in zip((0.22, 0.45), (title, values), styles, strict=True):
        if text:
            escaped = text.replace("$", r"\$")
            figure.text(_SIDES["left"], 1 - line / height, escaped, va="center", **style)
    handles = [
        Line2D([], [], color=_BEFORE, linewidth=2, label="before"),
        Line2D([], [], color=_AFTER, linewidth=1.5, label="after"),
    ]
    figure.legend(
        handles=handles, loc="center right", bbox_to_anchor=(0.99, 1 - 0.22 / height), ncols=2,
        frameon=False, fontsize=9, handlelength=1.2, columnspacing=1.2, borderpad=0,
    )  # fmt: skip
