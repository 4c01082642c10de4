"""The ledger: every record that was left out of a store, or kept with a remark, and why."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from fairseq_ecg.data.atomic import write_text

EXCLUDED = "excluded"
KEPT = "kept"
IN_NO_SPLIT = "in_no_split"
SIGNAL_ONLY = "signal_only"

REASONS: dict[str, str] = {
    "all_flat": "every recorded lead is constant",
    "annotation_past_end": "annotations beyond the last sample; those are left out",
    "coarse_step": "the amplitude needs a quantisation step above 1/1000 mV",
    "duplicate": "the same samples as an earlier record",
    "error": "an unexpected error; see the detail",
    "flat_lead": "some leads are constant",
    "missing_leads": "some leads of the store were not recorded; their rows are zero",
    "missing_patient": "a patient is listed, but the folder absent",
    "nan": "samples that are missing or not finite",
    "no_annotation": "no annotation file",
    "no_label": "the source lists no code for it",
    "no_standard_leads": "none of the store's leads",
    "repeated_lead": "one lead occurs twice",
    "too_long": "longer than the stated maximum",
    "too_short": "shorter than the stated minimum",
    "unknown_symbol": "annotations with a symbol or rhythm that is not known",
    "unsafe_name": "a record name that no manifest can hold",
}
"""Our own reasons; those of the readers are listed at ``RecordError``."""


@dataclass(frozen=True, order=True)
class LedgerRow:
    """One remark on one record.

    Attributes:
        record: Record name.
        path: Where it lies below the corpus folder.
        reason: Short code (``REASONS``, or the ``reason`` of a ``RecordError``).
        detail: One line of text for people.
        action: ``excluded``, ``kept``, ``in_no_split``: in the store, but in no manifest, or
            ``signal_only``: in no manifest of labelled recordings.
    """

    record: str
    path: str
    reason: str
    detail: str
    action: str


def write_ledger(path: str | Path, rows: Iterable[LedgerRow]) -> None:
    """Write a ledger as CSV, whole or not at all, sorted by record and reason.

    Args:
        path: File to write.
        rows: Its rows.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(LedgerRow))
    writer.writerows(astuple(row) for row in sorted(rows, key=_order))
    write_text(path, text.getvalue())


def read_ledger(path: str | Path) -> list[LedgerRow]:
    """Read a ledger that ``write_ledger`` wrote.

    Args:
        path: A ``ledger.csv``.
    """
    with open(path, encoding="utf-8", newline="") as file:
        return [LedgerRow(**row) for row in csv.DictReader(file)]


def count_reasons(rows: Iterable[LedgerRow]) -> dict[str, dict[str, int]]:
    """Count a ledger's rows.

    Args:
        rows: Rows of a ledger.

    Returns:
        For each action the number of rows per reason, both sorted.
    """
    counts = Counter((row.action, row.reason) for row in rows)
    result: dict[str, dict[str, int]] = {}
    for (action, reason), count in sorted(counts.items()):
        result.setdefault(action, {})[reason] = count
    return result


def _order(row: LedgerRow) -> tuple[str, str, str]:
    return row.record, row.reason, row.detail
