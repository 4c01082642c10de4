"""A recording on ECG paper: 25 mm per second, 10 mm per millivolt, true to scale when printed.

Twelve leads stand in three rows of four, 2.5 s each and continuous in time as a recorder prints
them, above a rhythm strip of lead II. Where the record is shorter than 9 s all columns show its
beginning; of one longer than 10 s, 10 s are shown. One or two leads get whole strips.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._page import MM_PER_MV, Panel, plan_page
from fairseq_ecg.plots._paper import GREY, INK, add_axes, draw_grid, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Label = tuple[str, float, bool | None]

_ROW_MM = 30.0
# A trace may run into the row above or below, as on a recorder, but no further.
_TALL_MM = 30.0
_HEADROOM_MM, _FOOTROOM_MM = 10.0, 5.0
_LEFT_MM, _RIGHT_MM, _TOP_MM, _BOTTOM_MM = 6.0, 6.0, 13.0, 9.0
_TABLE_MM = 74.0
_LABEL_ROW_MM = 5.0
_RIGHT_COLOUR, _WRONG_COLOUR = "#3b6ea5", "#c0392b"


def plot_ecg(
    signal: EcgSignal,
    path: str | Path,
    title: str | None = None,
    labels: Sequence[Label] | None = None,
    start_s: float = 0.0,
    dpi: int = 150,
) -> Path:
    """Draw a recording on ECG paper.

    Args:
        signal: any leads, rate and length. Each trace is moved so that its median lies on the
            line, as a recorder's high-pass filter does. Samples that are NaN are left out.
        path: the picture, .png, .pdf or .svg.
        title: one line above the paper.
        labels: predictions to list at the side: name, probability, and whether it is true (None
            if that is not known). A probability of 0.5 or more counts as predicted; wrong ones are
            red.
        start_s: where the 10 s shown begin.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: `start_s` lies outside the record, or the suffix of `path` is unknown.
    """
    return save(draw_ecg(signal, title, labels, start_s, dpi), path)


def draw_ecg(
    signal: EcgSignal,
    title: str | None = None,
    labels: Sequence[Label] | None = None,
    start_s: float = 0.0,
    dpi: int = 150,
) -> Figure:
    """Return the figure that `plot_ecg` saves; its first axes are the paper, in millimetres."""
    from matplotlib.figure import Figure

    if not 0 <= start_s < signal.duration_s:
        raise ValueError(
            f"start_s must lie in the record of {signal.duration_s:g} s, but is {start_s:g}"
        )
    page = plan_page(signal, start_s)
    paper_mm = (page.width_mm, page.n_rows * _ROW_MM + _HEADROOM_MM + _FOOTROOM_MM)
    side_mm = _TABLE_MM if labels else 0.0
    sheet_mm = (
        _LEFT_MM + paper_mm[0] + side_mm + _RIGHT_MM,
        _BOTTOM_MM + paper_mm[1] + _TOP_MM,
    )
    figure = Figure(figsize=(sheet_mm[0] / 25.4, sheet_mm[1] / 25.4), dpi=dpi, facecolor="white")
    paper = add_axes(figure, (_LEFT_MM, _BOTTOM_MM), paper_mm, sheet_mm)
    draw_grid(paper, *paper_mm)
    for row in range(page.n_rows):
        _draw_pulse(paper, _baseline(row, page.n_rows))
    for panel in page.panels:
        _draw_panel(paper, panel, _baseline(panel.row, page.n_rows))
    if title:
        room = int((paper_mm[0] + side_mm) / 2.15)
        paper.text(0, paper_mm[1] + 3.5, shortened(title, room), fontsize=10, color=INK)
    paper.text(0, -3.0, page.caption, fontsize=7, color=GREY, va="top")
    if labels:
        left_mm = _LEFT_MM + paper_mm[0]
        table = add_axes(figure, (left_mm, _BOTTOM_MM), (side_mm, paper_mm[1]), sheet_mm)
        _draw_table(table, labels, paper_mm[1])
    return figure


def _baseline(row: int, n_rows: int) -> float:
    return (n_rows - row - 0.5) * _ROW_MM + _FOOTROOM_MM


def _draw_pulse(axes: Axes, baseline_mm: float) -> None:
    """Draw the calibration pulse, 1 mV for 0.2 s."""
    x = np.array([2.0, 3.5, 3.5, 8.5, 8.5, 10.0])
    y = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]) * MM_PER_MV
    axes.plot(x, baseline_mm + y, color=INK, linewidth=0.7, gid="pulse")


def _draw_panel(axes: Axes, panel: Panel, baseline_mm: float) -> None:
    from matplotlib.patches import Rectangle

    below_mm, above_mm = _space(axes, baseline_mm)
    _draw_name(axes, panel, baseline_mm, _remark(panel, below_mm, above_mm))
    values = panel.values_mv
    if values is None or not np.isfinite(values).any():
        return
    finite = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    (line,) = axes.plot(
        panel.left_mm + panel.x_mm,
        baseline_mm + (finite - np.nanmedian(finite)) * MM_PER_MV,
        color=INK,
        linewidth=0.75,
        solid_joinstyle="round",
        gid=f"lead {panel.lead}",
    )
    corner = (panel.left_mm, baseline_mm - below_mm)
    window = Rectangle(corner, panel.width_mm, below_mm + above_mm, transform=axes.transData)
    line.set_clip_path(window)


def _space(axes: Axes, baseline_mm: float) -> tuple[float, float]:
    """Return how far a trace may go down and up from its line, at most to the paper's edge."""
    return min(_TALL_MM, baseline_mm), min(_TALL_MM, axes.get_ylim()[1] - baseline_mm)


def _draw_name(axes: Axes, panel: Panel, baseline_mm: float, remark: str) -> None:
    """Write the lead's name where its trace begins, under the trace and over the grid."""
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    axes.text(
        panel.left_mm + 1.0,
        baseline_mm + 10.2,
        shortened(panel.lead, 24),
        fontsize=8,
        fontweight="bold",
        color=INK,
        zorder=1.5,
        bbox=box,
    )
    axes.plot([panel.left_mm] * 2, [baseline_mm + 9.5, baseline_mm + 13], color=INK, linewidth=0.6)
    if remark:
        axes.text(
            panel.left_mm + 1.0,
            baseline_mm + 6.6,
            remark,
            fontsize=7,
            color=GREY,
            style="italic",
            zorder=1.5,
            bbox=box,
        )


def _remark(panel: Panel, below_mm: float, above_mm: float) -> str:
    if panel.values_mv is None:
        return "not recorded"
    finite = panel.values_mv[np.isfinite(panel.values_mv)].astype(np.float64)
    if not finite.size:
        return "no valid sample"
    if np.ptp(finite) == 0:
        return "flat"
    heights = (finite - np.median(finite)) * MM_PER_MV
    return "off scale" if heights.max() > above_mm or heights.min() < -below_mm else ""


def _draw_table(axes: Axes, labels: Sequence[Label], height_mm: float) -> None:
    from matplotlib.patches import Rectangle

    name_x, bar_x, bar_mm, value_x, truth_x = 6.0, 38.0, 16.0, 56.0, 69.0
    truth_known = any(truth is not None for _, _, truth in labels)
    y = height_mm - 4.0
    for x, text, align in (
        (name_x, "finding", "left"),
        (bar_x, "probability", "left"),
        (truth_x, "true" if truth_known else "", "center"),
    ):
        axes.text(x, y, text, fontsize=7.5, color=GREY, ha=align, va="center")
    room = int((height_mm - 8.0) / _LABEL_ROW_MM)
    shown = labels if len(labels) <= room else labels[: room - 1]
    for name, probability, truth in shown:
        y -= _LABEL_ROW_MM
        predicted = bool(probability >= 0.5)
        wrong = truth is not None and predicted != bool(truth)
        colour = _WRONG_COLOUR if wrong else _RIGHT_COLOUR
        weight = "bold" if predicted else "normal"
        text = shortened(name, 17)
        axes.text(name_x, y, text, fontsize=8, va="center", fontweight=weight, color=INK)
        axes.add_patch(Rectangle((bar_x, y - 1.3), bar_mm, 2.6, facecolor="#ececec"))
        length = bar_mm * float(np.clip(np.nan_to_num(probability), 0, 1))
        axes.add_patch(Rectangle((bar_x, y - 1.3), length, 2.6, facecolor=colour))
        value = f"{probability:.2f}" if np.isfinite(probability) else "?"
        axes.text(value_x, y, value, fontsize=8, va="center", color=colour)
        if truth is not None:
            mark = "yes" if truth else "no"
            axes.text(truth_x, y, mark, fontsize=8, va="center", ha="center", color=colour)
    if len(shown) < len(labels):
        y -= _LABEL_ROW_MM
        more = f"and {len(labels) - len(shown)} more"
        axes.text(name_x, y, more, fontsize=7.5, va="center", color=GREY)
