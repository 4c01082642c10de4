"""A recording on ECG paper: 25 mm per second, 10 mm per millivolt, true to scale when printed.

Twelve leads stand in three rows of four, 2.5 s each and continuous in time as a recorder prints
them, above a rhythm strip of lead II. Where the record is shorter than 10 s all columns show its
beginning; of a longer one 10 s are shown. A recording of one or two leads gets whole strips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.data.leads import STANDARD_LEADS, canonical_lead, to_standard
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.plots._files import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MM_PER_S = 25.0
MM_PER_MV = 10.0

Label = tuple[str, float, bool | None]

_GRID = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
_PAGE_S = 10.0
_ROW_MM = 30.0
_PULSE_MM = 12.0
_MAX_STRIPS = 12
_LEFT_MM, _RIGHT_MM, _TOP_MM, _BOTTOM_MM = 6.0, 6.0, 13.0, 9.0
_TABLE_MM = 74.0
_LABEL_ROW_MM = 5.0
_MIN_PAPER_MM = 110.0
_FINE, _COARSE, _INK, _GREY = "#f9dcdc", "#eeb0b0", "#161616", "#8a8a8a"
_RIGHT_COLOUR, _WRONG_COLOUR = "#3b6ea5", "#c0392b"


@dataclass(frozen=True)
class _Panel:
    """One stretch of one lead: where it stands and what it shows (None: not recorded)."""

    lead: str
    row: int
    left_mm: float
    width_mm: float
    values_mv: NDArray[np.float32] | None


@dataclass(frozen=True)
class _Page:
    panels: list[_Panel]
    n_rows: int
    width_mm: float
    caption: str


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
    page = _plan(signal, start_s)
    paper_mm = (page.width_mm, page.n_rows * _ROW_MM)
    side_mm = _TABLE_MM if labels else 0.0
    sheet_mm = (
        _LEFT_MM + paper_mm[0] + side_mm + _RIGHT_MM,
        _BOTTOM_MM + paper_mm[1] + _TOP_MM,
    )
    figure = Figure(figsize=(sheet_mm[0] / 25.4, sheet_mm[1] / 25.4), dpi=dpi, facecolor="white")
    paper = _axes_in_mm(figure, (_LEFT_MM, _BOTTOM_MM), paper_mm, sheet_mm)
    _draw_grid(paper, *paper_mm)
    for row in range(page.n_rows):
        _draw_pulse(paper, _baseline(row, page.n_rows))
    for panel in page.panels:
        _draw_panel(paper, panel, _baseline(panel.row, page.n_rows))
    if title:
        room = int((paper_mm[0] + side_mm) / 2.15)
        paper.text(0, paper_mm[1] + 3.5, _shortened(title, room), fontsize=10, color=_INK)
    paper.text(0, -3.0, page.caption, fontsize=7, color=_GREY, va="top")
    if labels:
        left_mm = _LEFT_MM + paper_mm[0]
        table = _axes_in_mm(figure, (left_mm, _BOTTOM_MM), (side_mm, paper_mm[1]), sheet_mm)
        _draw_table(table, labels, paper_mm[1])
    return figure


def _plan(signal: EcgSignal, start_s: float) -> _Page:
    known = {canonical_lead(name) for name in signal.leads} - {None}
    if len(known) < 3:
        return _plan_strips(signal, start_s)
    return _plan_grid(signal, start_s)


def _plan_grid(signal: EcgSignal, start_s: float) -> _Page:
    standard, present = to_standard(signal)
    rows = dict(zip(STANDARD_LEADS, standard.values_mv, strict=True))
    recorded = {lead for lead, here in zip(STANDARD_LEADS, present, strict=True) if here}
    shown_s = min(_PAGE_S, signal.duration_s - start_s)
    continuous = shown_s > _PAGE_S - 1 / signal.rate_hz
    column_s = _PAGE_S / 4 if continuous else min(_PAGE_S / 4, shown_s)
    panels = []
    for row, leads in enumerate(_GRID):
        for column, lead in enumerate(leads):
            begin_s = start_s + (column * column_s if continuous else 0.0)
            values = _cut(rows[lead], signal.rate_hz, begin_s, column_s)
            left_mm = _PULSE_MM + column * column_s * MM_PER_S
            shown = values if lead in recorded else None
            panels.append(_Panel(lead, row, left_mm, column_s * MM_PER_S, shown))
    strip = "II" if "II" in recorded else next(le for le in STANDARD_LEADS if le in recorded)
    values = _cut(rows[strip], signal.rate_hz, start_s, shown_s)
    panels.append(_Panel(strip, len(_GRID), _PULSE_MM, shown_s * MM_PER_S, values))
    width_mm = _PULSE_MM + max(4 * column_s, shown_s) * MM_PER_S
    note = "" if continuous else f"   columns: first {column_s:g} s each"
    return _Page(
        panels, len(_GRID) + 1, _whole(width_mm), _caption(signal, start_s, shown_s) + note
    )


def _plan_strips(signal: EcgSignal, start_s: float) -> _Page:
    """Give each lead whole strips, and a record of few leads several, one after the other."""
    n_leads = min(signal.n_leads, _MAX_STRIPS)
    left_s = signal.duration_s - start_s
    n_strips = min(max(1, 4 // n_leads), int(np.ceil(left_s / _PAGE_S)))
    width_s = min(_PAGE_S, left_s)
    panels = []
    for strip in range(n_strips):
        for index in range(n_leads):
            begin_s = start_s + strip * _PAGE_S
            values = _cut(signal.values_mv[index], signal.rate_hz, begin_s, width_s)
            width_mm = len(values) / signal.rate_hz * MM_PER_S
            row = strip * n_leads + index
            panels.append(_Panel(signal.leads[index], row, _PULSE_MM, width_mm, values))
    shown_s = min(left_s, n_strips * _PAGE_S)
    caption = _caption(signal, start_s, shown_s)
    if signal.n_leads > n_leads:
        caption += f"   {signal.n_leads - n_leads} more leads not shown"
    return _Page(panels, len(panels), _whole(_PULSE_MM + width_s * MM_PER_S), caption)


def _cut(
    values: NDArray[np.float32], rate_hz: float, begin_s: float, length_s: float
) -> NDArray[np.float32]:
    start = round(begin_s * rate_hz)
    # One sample more than the stretch is long, so that neighbouring stretches touch.
    return values[start : start + round(length_s * rate_hz) + 1]


def _caption(signal: EcgSignal, start_s: float, shown_s: float) -> str:
    part = f"{start_s:g} to {start_s + shown_s:.4g} s of {signal.duration_s:.4g} s"
    return f"{MM_PER_S:g} mm/s   {MM_PER_MV:g} mm/mV   {signal.rate_hz:g} Hz   {part}"


def _whole(width_mm: float) -> float:
    """Round up to whole grid squares of 5 mm, and to a sheet that has room for the caption."""
    return float(max(np.ceil((width_mm + 2) / 5) * 5, _MIN_PAPER_MM))


def _baseline(row: int, n_rows: int) -> float:
    return (n_rows - row - 0.5) * _ROW_MM


def _axes_in_mm(
    figure: Figure,
    corner_mm: tuple[float, float],
    size_mm: tuple[float, float],
    sheet_mm: tuple[float, float],
) -> Axes:
    """Add axes whose data unit is one millimetre on paper."""
    axes = figure.add_axes(
        (
            corner_mm[0] / sheet_mm[0],
            corner_mm[1] / sheet_mm[1],
            size_mm[0] / sheet_mm[0],
            size_mm[1] / sheet_mm[1],
        )
    )
    axes.set(xlim=(0, size_mm[0]), ylim=(0, size_mm[1]))
    axes.set_axis_off()
    return axes


def _draw_grid(axes: Axes, width_mm: float, height_mm: float) -> None:
    from matplotlib.collections import LineCollection

    for step, colour, width in ((1, _FINE, 0.35), (5, _COARSE, 0.55)):
        lines = [[(x, 0), (x, height_mm)] for x in np.arange(0, width_mm + 0.5, step)]
        lines += [[(0, y), (width_mm, y)] for y in np.arange(0, height_mm + 0.5, step)]
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=width, zorder=0, clip_on=False)
        )


def _draw_pulse(axes: Axes, baseline_mm: float) -> None:
    """Draw the calibration pulse, 1 mV for 0.2 s."""
    x = np.array([2.0, 3.5, 3.5, 8.5, 8.5, 10.0])
    y = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]) * MM_PER_MV
    axes.plot(x, baseline_mm + y, color=_INK, linewidth=0.7, gid="pulse")


def _draw_panel(axes: Axes, panel: _Panel, baseline_mm: float) -> None:
    from matplotlib.patches import Rectangle

    axes.text(
        panel.left_mm + 1.0,
        baseline_mm + 10.2,
        _shortened(panel.lead, 24),
        fontsize=8,
        fontweight="bold",
        color=_INK,
        zorder=4,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
    )
    axes.plot([panel.left_mm] * 2, [baseline_mm + 9.5, baseline_mm + 13], color=_INK, linewidth=0.6)
    middle = panel.left_mm + panel.width_mm / 2
    remark = _remark(panel.values_mv)
    if remark:
        axes.text(
            middle,
            baseline_mm + 2.0,
            remark,
            fontsize=7.5,
            color=_GREY,
            ha="center",
            style="italic",
            zorder=4,
        )
    if panel.values_mv is None or not np.isfinite(panel.values_mv).any():
        return
    finite = np.where(np.isfinite(panel.values_mv), panel.values_mv, np.nan)
    values = finite - np.nanmedian(finite)
    x = panel.left_mm + np.linspace(0, panel.width_mm, len(values))
    (line,) = axes.plot(
        x,
        baseline_mm + values * MM_PER_MV,
        color=_INK,
        linewidth=0.75,
        solid_joinstyle="round",
        gid=f"lead {panel.lead}",
    )
    window = Rectangle(
        (panel.left_mm, baseline_mm - _ROW_MM * 0.75),
        panel.width_mm,
        _ROW_MM * 1.5,
        transform=axes.transData,
    )
    line.set_clip_path(window)


def _remark(values_mv: NDArray[np.float32] | None) -> str:
    if values_mv is None:
        return "not recorded"
    finite = values_mv[np.isfinite(values_mv)]
    if not finite.size:
        return "no valid sample"
    if np.ptp(finite) == 0:
        return "flat"
    if np.abs(finite - np.median(finite)).max() * MM_PER_MV > _ROW_MM * 0.75:
        return "off scale"
    return ""


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
        axes.text(x, y, text, fontsize=7.5, color=_GREY, ha=align, va="center")
    room = int((height_mm - 8.0) / _LABEL_ROW_MM)
    shown = labels if len(labels) <= room else labels[: room - 1]
    for name, probability, truth in shown:
        y -= _LABEL_ROW_MM
        predicted = bool(probability >= 0.5)
        wrong = truth is not None and predicted != bool(truth)
        colour = _WRONG_COLOUR if wrong else _RIGHT_COLOUR
        weight = "bold" if predicted else "normal"
        text = _shortened(name, 17)
        axes.text(name_x, y, text, fontsize=8, va="center", fontweight=weight, color=_INK)
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
        axes.text(name_x, y, more, fontsize=7.5, va="center", color=_GREY)


def _shortened(text: str, room: int) -> str:
    """Return one line of at most `room` characters; `$` is shown, not read as mathematics."""
    line = " ".join(text.split())
    line = line if len(line) <= room else line[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return line.replace("$", r"\$")
