"""What of a recording is printed where on a page of ECG paper, in millimetres."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.data.leads import STANDARD_LEADS, canonical_lead, to_standard
from fairseq_ecg.data.signal import EcgSignal

MM_PER_S = 25.0
MM_PER_MV = 10.0
PULSE_MM = 12.0

_GRID = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
_PAGE_S = 10.0
# From here on the last column has enough to show.
_CONTINUOUS_FROM_S = 9.0
_MAX_STRIPS = 12
_MIN_PAPER_MM = 110.0


@dataclass(frozen=True)
class Panel:
    """One stretch of one lead.

    Attributes:
        lead: what is written above it.
        row: from the top.
        left_mm: where it begins.
        width_mm: how long it is.
        x_mm: where its N samples stand, from `left_mm`, [N].
        values_mv: the samples, [N]; None if the lead was not recorded.
        begin_s: time in the recording at its left end.
        name: the lead as the recording names it, without what is written besides.
    """

    lead: str
    row: int
    left_mm: float
    width_mm: float
    x_mm: NDArray[np.float64]
    values_mv: NDArray[np.float32] | None
    begin_s: float
    name: str


@dataclass(frozen=True)
class Page:
    """All panels, how many rows they fill, how wide the paper is and what is written below it."""

    panels: list[Panel]
    n_rows: int
    width_mm: float
    caption: str


def plan_page(signal: EcgSignal, start_s: float) -> Page:
    """Decide what of a recording is shown where: twelve leads, or strips of one or two."""
    known = {canonical_lead(name) for name in signal.leads} - {None}
    if len(known) < 3:
        return _plan_strips(signal, start_s)
    return _plan_grid(signal, start_s)


def _plan_grid(signal: EcgSignal, start_s: float) -> Page:
    standard, present = to_standard(signal)
    rows = dict(zip(STANDARD_LEADS, standard.values_mv, strict=True))
    recorded = {lead for lead, here in zip(STANDARD_LEADS, present, strict=True) if here}
    shown_s = min(_PAGE_S, signal.duration_s - start_s)
    continuous = shown_s >= _CONTINUOUS_FROM_S
    column_s = _PAGE_S / 4 if continuous else min(_PAGE_S / 4, shown_s)
    panels = []
    for row, leads in enumerate(_GRID):
        for column, lead in enumerate(leads):
            begin_s = start_s + (column * column_s if continuous else 0.0)
            left_mm = PULSE_MM + column * column_s * MM_PER_S
            values = rows[lead] if lead in recorded else None
            panels.append(_cut(lead, row, left_mm, values, signal.rate_hz, begin_s, column_s))
    strip = "II" if "II" in recorded else next(le for le in STANDARD_LEADS if le in recorded)
    panels.append(_cut(strip, len(_GRID), PULSE_MM, rows[strip], signal.rate_hz, start_s, shown_s))
    width_mm = PULSE_MM + max(4 * column_s, shown_s) * MM_PER_S
    note = "" if continuous else f"   columns: first {column_s:g} s each"
    return Page(panels, len(_GRID) + 1, _whole(width_mm), _caption(signal, start_s, shown_s) + note)


def _plan_strips(signal: EcgSignal, start_s: float) -> Page:
    """Give each lead whole strips, and a record of few leads several, one after the other."""
    n_leads = min(signal.n_leads, _MAX_STRIPS)
    left_s = signal.duration_s - start_s
    n_strips = min(max(1, 4 // n_leads), int(np.ceil(left_s / _PAGE_S)))
    width_s = min(_PAGE_S, left_s)
    panels = []
    for strip in range(n_strips):
        for index in range(n_leads):
            begin_s = start_s + strip * _PAGE_S
            row = strip * n_leads + index
            values = signal.values_mv[index]
            lead = signal.leads[index]
            panel = _cut(lead, row, PULSE_MM, values, signal.rate_hz, begin_s, width_s)
            written = lead + (f"   {begin_s:g} s" if n_strips > 1 else "")
            panels.append(replace(panel, lead=written))
    shown_s = min(left_s, n_strips * _PAGE_S)
    caption = _caption(signal, start_s, shown_s)
    if signal.n_leads > n_leads:
        caption += f"   {signal.n_leads - n_leads} more leads not shown"
    return Page(panels, len(panels), _whole(PULSE_MM + width_s * MM_PER_S), caption)


def _cut(
    lead: str,
    row: int,
    left_mm: float,
    values_mv: NDArray[np.float32] | None,
    rate_hz: float,
    begin_s: float,
    length_s: float,
) -> Panel:
    width_mm = length_s * MM_PER_S
    if values_mv is None:
        return Panel(lead, row, left_mm, width_mm, np.zeros(0), None, begin_s, lead)
    # From the sample before to the one after the stretch, so that neighbouring stretches touch.
    start, stop = int(begin_s * rate_hz), int(np.ceil((begin_s + length_s) * rate_hz)) + 1
    shown = values_mv[start:stop]
    x_mm = ((start + np.arange(len(shown))) / rate_hz - begin_s) * MM_PER_S
    return Panel(lead, row, left_mm, width_mm, x_mm, shown, begin_s, lead)


def _caption(signal: EcgSignal, start_s: float, shown_s: float) -> str:
    part = f"{start_s:g} to {start_s + shown_s:.4g} s of {signal.duration_s:.4g} s"
    return f"{MM_PER_S:g} mm/s   {MM_PER_MV:g} mm/mV   {signal.rate_hz:g} Hz   {part}"


def _whole(width_mm: float) -> float:
    """Round up to whole grid squares of 5 mm, and to a sheet that has room for the caption."""
    return float(max(np.ceil((width_mm + 2) / 5) * 5, _MIN_PAPER_MM))
