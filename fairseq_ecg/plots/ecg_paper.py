"""A recording on ECG paper: 25 mm per second, 10 mm per millivolt, true to scale when printed.

Twelve leads stand in three rows of four, 2.5 s each and continuous in time as a recorder prints
them, above a rhythm strip of lead II. Where the record is shorter than 9 s all columns show its
beginning; of one longer than 10 s, 10 s are shown. One or two leads get whole strips.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.data.leads import canonical_lead
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._page import MM_PER_MV, MM_PER_S, Page, Panel, plan_page
from fairseq_ecg.plots._paper import GREY, INK, add_axes, draw_grid, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Label = tuple[str, float, bool | None]


@dataclass(frozen=True)
class Underlay:
    """What is coloured under the traces.

    Attributes:
        values: one number per sample, any scale, float [C, T]; orange above 0, blue below.
        rate_hz: of these samples.
        leads: of these rows.
        caption: what the colours mean, below the paper.
    """

    values: NDArray[np.floating]
    rate_hz: float
    leads: Sequence[str]
    caption: str = ""


_ROW_MM = 30.0
# A trace may run into the row above or below, as on a recorder, but no further.
_TALL_MM = 30.0
_HEADROOM_MM, _FOOTROOM_MM = 10.0, 5.0
_LEFT_MM, _RIGHT_MM, _TOP_MM, _BOTTOM_MM = 6.0, 6.0, 13.0, 9.0
_TABLE_MM = 74.0
_LABEL_ROW_MM = 5.0
_RIGHT_COLOUR, _WRONG_COLOUR = "#3b6ea5", "#c0392b"
_FOR, _AGAINST = (0.90, 0.50, 0.0), (0.20, 0.45, 0.85)
_UNDERLAY_MM = (11.0, 9.0)  # below and above a line
_UNDERLAY_STEP_MM = 0.5
_DARKEST = 0.75


def plot_ecg(
    signal: EcgSignal,
    path: str | Path,
    title: str | None = None,
    labels: Sequence[Label] | None = None,
    start_s: float = 0.0,
    dpi: int = 150,
    decided: Collection[str] | None = None,
    underlay: Underlay | None = None,
) -> Path:
    """Draw a recording on ECG paper.

    Args:
        signal: any leads, rate and length. Each trace is moved so that its median lies on the
            line, as a recorder's high-pass filter does. Samples that are NaN are left out.
        path: the picture, .png, .pdf or .svg.
        title: one line above the paper.
        labels: predictions to list at the side: name, probability, and whether it is true (None
            if that is not known). Predicted ones are bold, wrong ones red.
        start_s: where the 10 s shown begin.
        dpi: pixels per inch of a .png.
        decided: names of the labels that count as predicted; None: those of a probability of 0.5
            or more.
        underlay: what to colour under the traces.

    Returns:
        The path.

    Raises:
        ValueError: `start_s` lies outside the record, or the suffix of `path` is unknown.
    """
    return save(draw_ecg(signal, title, labels, start_s, dpi, decided, underlay), path)


def draw_ecg(
    signal: EcgSignal,
    title: str | None = None,
    labels: Sequence[Label] | None = None,
    start_s: float = 0.0,
    dpi: int = 150,
    decided: Collection[str] | None = None,
    underlay: Underlay | None = None,
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
    if underlay is not None:
        _draw_underlay(paper, page, underlay)
    if title:
        room = int((paper_mm[0] + side_mm) / 2.15)
        paper.text(0, paper_mm[1] + 3.5, shortened(title, room), fontsize=10, color=INK)
    paper.text(0, -3.0, page.caption, fontsize=7, color=GREY, va="top")
    if labels:
        left_mm = _LEFT_MM + paper_mm[0]
        table = add_axes(figure, (left_mm, _BOTTOM_MM), (side_mm, paper_mm[1]), sheet_mm)
        _draw_table(table, labels, paper_mm[1], decided)
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


def _draw_underlay(axes: Axes, page: Page, underlay: Underlay) -> None:
    """Colour under each trace what its lead has there; the strongest is darkest on the page."""
    rows = {canonical_lead(lead) or lead: row for row, lead in enumerate(underlay.leads)}
    strips = []
    for panel in page.panels:
        row = rows.get(canonical_lead(panel.name) or panel.name)
        if row is not None and panel.values_mv is not None:
            strips.append((panel, _strip(underlay, row, panel)))
    largest = max((np.abs(strip).max(initial=0.0) for _, strip in strips), default=0.0)
    for panel, strip in strips:
        if largest == 0 or not strip.size:
            continue
        colours = np.zeros((1, strip.size, 4))
        colours[0, :, :3] = np.where(strip[:, None] > 0, _FOR, _AGAINST)
        colours[0, :, 3] = _DARKEST * np.abs(strip) / largest
        y = _baseline(panel.row, page.n_rows)
        limits = axes.get_xlim(), axes.get_ylim()
        axes.imshow(
            colours,
            extent=(
                panel.left_mm,
                panel.left_mm + strip.size * _UNDERLAY_STEP_MM,
                y - _UNDERLAY_MM[0],
                y + _UNDERLAY_MM[1],
            ),
            aspect="auto",
            interpolation="nearest",
            zorder=0.5,
            gid=f"underlay {panel.lead}",
        )
        axes.set(xlim=limits[0], ylim=limits[1])
    text = underlay.caption + ("" if largest else " (none anywhere)")
    axes.text(page.width_mm, -3.0, text, fontsize=7, color=INK, va="top", ha="right")


def _strip(underlay: Underlay, row: int, panel: Panel) -> NDArray[np.float64]:
    """Return the mean of the values in each step along a panel."""
    edges_s = panel.begin_s + np.arange(0, panel.width_mm + 1e-6, _UNDERLAY_STEP_MM) / MM_PER_S
    edges = np.rint(edges_s * underlay.rate_hz).astype(np.int64)
    values = np.concatenate([[0.0], np.cumsum(underlay.values[row], dtype=np.float64)])
    # A step shorter than a sample takes that sample.
    first = np.clip(edges[:-1], 0, len(values) - 2)
    last = np.clip(np.maximum(edges[1:], edges[:-1] + 1), first + 1, len(values) - 1)
    inside = edges[:-1] < len(values) - 1
    return np.where(inside, (values[last] - values[first]) / (last - first), 0.0)


def _draw_table(
    axes: Axes, labels: Sequence[Label], height_mm: float, decided: Collection[str] | None
) -> None:
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
        predicted = bool(probability >= 0.5) if decided is None else name in decided
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
