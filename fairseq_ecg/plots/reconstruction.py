"""A recording, what of it was hidden from a network, and what the network put there.

All leads stand one below the other on ECG paper, 25 mm per second and 10 mm per millivolt, true to
scale when printed; each has as much height as its own course needs. What was hidden is shaded, lead
by lead, and the reconstruction is drawn there only.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.data.signal import MILLIVOLTS, EcgSignal
from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._page import MM_PER_MV, MM_PER_S
from fairseq_ecg.plots._paper import GREY, INK, add_axes, draw_grid, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHADE, _COVERED, _MADE = "#d6e2f0", "#3c3c3c", "#d9480f"
_LEFT_MM, _RIGHT_MM, _TOP_MM, _BOTTOM_MM = 16.0, 6.0, 16.0, 14.0
# What title, legend and caption need, and one line of the note.
_MIN_TEXT_MM, _LINE_MM = 125.0, 4.2
_MIN_ROW_MM, _MAX_ROW_MM, _GAP_MM = 10.0, 55.0, 3.0
# A reconstruction may leave the range of its lead by this much before it is cut off.
_LEEWAY_MM = 8.0


@dataclass(frozen=True)
class _Row:
    """One lead: its name, where its line and its limits are, and its courses in mm, [T] each."""

    lead: str
    line_mm: float
    below_mm: float
    above_mm: float
    original: NDArray[np.float64]
    made: NDArray[np.float64]
    hidden: NDArray[np.bool_]


def plot_reconstruction(
    original: EcgSignal,
    made: NDArray[np.float32],
    hidden: NDArray[np.bool_],
    path: str | Path,
    title: str | None = None,
    note: str | None = None,
    unit: str = MILLIVOLTS,
    dpi: int = 110,
    start_s: float = 0.0,
) -> Path:
    """Draw a recording and its reconstruction where it was hidden.

    Args:
        original: any leads, without missing samples; each is moved so that its median lies on its
            line, and the reconstruction with it.
        made: the reconstruction in the unit of the original, [C, T]; looked at where it was hidden.
        hidden: what the network did not see, [C, T].
        path: the picture, .png, .pdf or .svg.
        title: above the paper, such as the recording's name.
        note: below the title in grey, such as how well it was reconstructed.
        unit: of the samples; others than millivolts are drawn with 10 mm for one.
        dpi: pixels per inch of a .png.
        start_s: what second of the recording the first sample is, for the numbers below the paper.

    Returns:
        The path.

    Raises:
        ValueError: the shapes differ, or the suffix of `path` is unknown.
    """
    figure = draw_reconstruction(original, made, hidden, title, note, unit, dpi, start_s)
    return save(figure, path)


def draw_reconstruction(
    original: EcgSignal,
    made: NDArray[np.float32],
    hidden: NDArray[np.bool_],
    title: str | None = None,
    note: str | None = None,
    unit: str = MILLIVOLTS,
    dpi: int = 110,
    start_s: float = 0.0,
) -> Figure:
    """Return the figure that `plot_reconstruction` saves; its axes' unit is a millimetre."""
    from matplotlib.figure import Figure

    if not original.values_mv.shape == made.shape == hidden.shape:
        raise ValueError(
            "original, reconstruction and hidden must have one shape, but have "
            f"{original.values_mv.shape}, {made.shape} and {hidden.shape}"
        )
    rows, height_mm = _rows(original, made, hidden)
    seconds = np.arange(original.n_samples) / original.rate_hz
    width_mm = float(np.ceil(original.duration_s * MM_PER_S / 5) * 5)
    text_mm = max(width_mm, _MIN_TEXT_MM)
    note_lines = _wrapped(note or "", text_mm)
    top_mm = _TOP_MM + _LINE_MM * len(note_lines)
    sheet_mm = (_LEFT_MM + text_mm + _RIGHT_MM, _BOTTOM_MM + height_mm + top_mm)
    size = (sheet_mm[0] / 25.4, sheet_mm[1] / 25.4)
    figure = Figure(figsize=size, dpi=dpi, facecolor="white")
    paper = add_axes(figure, (_LEFT_MM, _BOTTOM_MM), (width_mm, height_mm), sheet_mm)
    draw_grid(paper, width_mm, height_mm)
    for row in rows:
        _draw_row(paper, row, seconds * MM_PER_S, MM_PER_S / original.rate_hz)
    _draw_seconds(paper, start_s, original.duration_s)
    room = int(text_mm / 2.9)
    _write_above(paper, height_mm, shortened(title, room) if title else "", note_lines)
    paper.text(0, -7.0, _caption(original, unit), fontsize=7, color=GREY, va="top")
    return figure


def _wrapped(note: str, width_mm: float) -> list[str]:
    """Return the lines of a note, parted between words."""
    return [shortened(line, len(line)) for line in textwrap.wrap(note, int(width_mm / 1.65))]


def _rows(
    original: EcgSignal, made: NDArray[np.float32], hidden: NDArray[np.bool_]
) -> tuple[list[_Row], float]:
    """Place the leads from top to bottom; also return the height of the paper, mm."""
    rows, from_top_mm = [], 0.0
    for lead, values, course, covered in zip(
        original.leads, original.values_mv, made, hidden, strict=True
    ):
        middle = float(np.median(values))
        here = (values.astype(np.float64) - middle) * MM_PER_MV
        there = (course.astype(np.float64) - middle) * MM_PER_MV
        there = np.where(covered, there, np.nan)
        above_mm, below_mm = _room(here, there)
        from_top_mm += above_mm + _GAP_MM / 2
        rows.append(_Row(lead, from_top_mm, below_mm, above_mm, here, there, covered))
        from_top_mm += below_mm + _GAP_MM / 2
    height_mm = float(np.ceil(from_top_mm / 5) * 5)
    lifted = [
        _Row(r.lead, height_mm - r.line_mm, r.below_mm, r.above_mm, r.original, r.made, r.hidden)
        for r in rows
    ]
    return lifted, height_mm


def _room(original: NDArray[np.float64], made: NDArray[np.float64]) -> tuple[float, float]:
    """Return how far a lead goes up and down from its line, mm, within what is sensible."""
    sides = []
    for sign in (1.0, -1.0):
        own = float(np.max(sign * original))
        other = float(np.max(sign * made, where=np.isfinite(made), initial=-np.inf))
        reach = max(own, min(other, own + _LEEWAY_MM))
        sides.append(float(np.clip(reach, _MIN_ROW_MM / 2, _MAX_ROW_MM / 2)))
    return sides[0], sides[1]


def _draw_row(axes: Axes, row: _Row, x_mm: NDArray[np.float64], step_mm: float) -> None:
    from matplotlib.patches import Rectangle

    bottom_mm, height_mm = row.line_mm - row.below_mm, row.below_mm + row.above_mm
    for start, stop in _spans(row.hidden):
        left_mm, right_mm = x_mm[start] - step_mm / 2, x_mm[stop - 1] + step_mm / 2
        span = Rectangle(
            (left_mm, bottom_mm - 0.4), right_mm - left_mm, height_mm + 0.8,
            facecolor=_SHADE, edgecolor="none", zorder=0.5, gid=f"hidden {row.lead}",
        )  # fmt: skip
        axes.add_patch(span)
    window = Rectangle(
        (0, bottom_mm - 0.6), axes.get_xlim()[1], height_mm + 1.2, transform=axes.transData
    )
    covered = row.hidden
    courses = (
        ("seen", np.where(_widened(~covered), row.original, np.nan), INK, 0.8, 2.0),
        ("made", row.made, _MADE, 1.5, 2.1),
        ("original", np.where(_widened(covered), row.original, np.nan), _COVERED, 0.6, 2.2),
    )
    for name, values, colour, width, order in courses:
        (line,) = axes.plot(
            x_mm, row.line_mm + values, color=colour, linewidth=width, zorder=order,
            solid_joinstyle="round", gid=f"{name} {row.lead}",
        )  # fmt: skip
        line.set_clip_path(window)
    axes.text(
        -2.5, row.line_mm, shortened(row.lead, 6), fontsize=9, fontweight="bold", color=INK,
        ha="right", va="center",
    )  # fmt: skip
    if row.original.max() > row.above_mm or row.original.min() < -row.below_mm:
        axes.text(
            -2.5, row.line_mm - 3.6, "off scale", fontsize=6.5, style="italic", color=GREY,
            ha="right", va="center",
        )  # fmt: skip


def _spans(hidden: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield start and stop of every run of hidden samples."""
    edges = np.flatnonzero(np.diff(hidden.astype(np.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _widened(shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add one sample at the end of every run, so that neighbouring courses touch."""
    return shown | np.append(False, shown[:-1])


def _draw_seconds(axes: Axes, start_s: float, duration_s: float) -> None:
    """Mark the whole seconds of the recording; of a window without any, its start."""
    first = math.ceil(round(start_s, 6))
    last = math.floor(round(start_s + duration_s, 6))
    seconds = range(first, last + 1) or [start_s]
    for second in seconds:
        x_mm = (second - start_s) * MM_PER_S
        axes.plot([x_mm, x_mm], [0, -1.2], color=GREY, linewidth=0.6, clip_on=False)
        text = f"{second:g} s" if second == seconds[0] else f"{second}"
        axes.text(x_mm, -1.8, text, fontsize=7, color=GREY, ha="center", va="top")


def _caption(signal: EcgSignal, unit: str) -> str:
    scale = f"{MM_PER_MV:g} mm/{'mV' if unit == MILLIVOLTS else 'unit'}"
    text = f"{MM_PER_S:g} mm/s   {scale}   {signal.rate_hz:g} Hz"
    if unit != MILLIVOLTS:
        text += f"   samples in {unit}: their size in mV is not known"
    return text


def _write_above(axes: Axes, height_mm: float, title: str, note_lines: list[str]) -> None:
    """Write title, note and legend above the paper."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    line_mm = height_mm + 7.2
    for line in reversed(note_lines):
        axes.text(0, line_mm, line, fontsize=8.5, color=GREY)
        line_mm += _LINE_MM
    axes.text(0, line_mm + 1.0, title, fontsize=12, fontweight="bold", color=INK)
    handles = [
        Line2D([], [], color=INK, linewidth=1.4, label="seen"),
        Patch(facecolor=_SHADE, edgecolor="none", label="hidden"),
        Line2D([], [], color=_COVERED, linewidth=0.7, label="original there"),
        Line2D([], [], color=_MADE, linewidth=1.6, label="reconstruction"),
    ]
    axes.figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, height_mm + 0.7),
        bbox_transform=axes.transData, ncols=4, frameon=False, fontsize=8.5, handlelength=1.4,
        columnspacing=1.2, borderpad=0,
    )  # fmt: skip
