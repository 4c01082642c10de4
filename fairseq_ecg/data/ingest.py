"""One recording on disk -> the numbers that a store keeps, or the reason why it keeps none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS, canonical_lead, lead_rows
from fairseq_ecg.data.ledger import EXCLUDED, KEPT, LedgerRow
from fairseq_ecg.data.quantise import BASE_GAIN, to_stored
from fairseq_ecg.data.store import DTYPES
from fairseq_ecg.data.wfdb_reader import RecordError, WfdbHeader, read_header, read_raw

FLAT_LEAD_POLICIES = ("keep", "exclude")
DUPLICATE_POLICIES = ("one_split", "keep", "exclude")

Remark = Callable[[str, str], None]

# A header may claim any rate, and with it any number of samples per second of its length.
_LARGEST_RATE_HZ = 8000.0


@dataclass(frozen=True)
class RecordEntry:
    """One recording that a corpus lists.

    Attributes:
        record: Name, unique in the corpus; the first column of our manifests.
        path: The WFDB record without suffix, relative to the corpus folder.
        patient: Whose recording it is; equal names are one person.
        split: ``train``, ``valid`` or ``test``.
        codes: All codes of the source; None if the source says nothing about this record.
        age: Years, or None.
        sex: ``male``, ``female`` or empty.
    """

    record: str
    path: str
    patient: str
    split: str
    codes: tuple[str, ...] | None = None
    age: float | None = None
    sex: str = ""


@dataclass(frozen=True)
class BuildOptions:
    """What decides the content of a store, besides its recordings.

    Attributes:
        rate_hz: Sampling rate of the store; recordings of another rate are resampled.
        dtype: ``int16`` or ``float32``.
        leads: Rows of the store, standard names.
        lead_map: Pairs of a lead's name in the files and the standard lead it stands for, for
            leads that are no standard leads by name, such as ``("MLII", "II")``.
        min_seconds: Shorter recordings are left out.
        max_seconds: Longer recordings are left out. Meant for 12 leads: where both the file and
            the store have fewer, a recording may be longer in proportion. It bounds the memory
            that one recording takes.
        flat_leads: ``keep`` or ``exclude`` recordings with a constant lead.
        duplicates: What becomes of recordings with the samples of an earlier one: ``keep`` them;
            keep them but, if the earlier one is in another split, in no split (``one_split``);
            or ``exclude`` them.
        shard_records: Records per shard; more where that would make over 256 shards.
    """

    rate_hz: float = 500.0
    dtype: str = "int16"
    leads: tuple[str, ...] = STANDARD_LEADS
    lead_map: tuple[tuple[str, str], ...] = ()
    min_seconds: float = 1.0
    max_seconds: float = 3600.0
    flat_leads: str = "keep"
    duplicates: str = "one_split"
    shard_records: int = 256

    def __post_init__(self) -> None:
        _check_range("rate_hz", self.rate_hz, 1.0, _LARGEST_RATE_HZ)
        _check_range("min_seconds", self.min_seconds, 0.0, self.max_seconds)
        _check_range("max_seconds", self.max_seconds, self.min_seconds, 1e6)
        _check_range("shard_records", self.shard_records, 1, 1_000_000)
        _check_choice("dtype", self.dtype, tuple(DTYPES))
        _check_choice("flat_leads", self.flat_leads, FLAT_LEAD_POLICIES)
        _check_choice("duplicates", self.duplicates, DUPLICATE_POLICIES)
        for lead in (*self.leads, *(standard for _, standard in self.lead_map)):
            _check_choice("leads", lead, STANDARD_LEADS)
        if not self.leads or len(set(self.leads)) != len(self.leads):
            raise ValueError(f"leads must name each lead once, but is {list(self.leads)}")


@dataclass(frozen=True)
class Ingested:
    """What became of one recording.

    Attributes:
        remarks: Rows for the ledger.
        stored: Numbers to store, [C, T]; None if the recording is left out.
        facts: Its columns of the index, apart from its place; None if left out.
    """

    remarks: list[LedgerRow]
    stored: np.ndarray | None = None
    facts: dict[str, Any] | None = None


class _Excluded(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def ingest(entry: RecordEntry, root: Path, options: BuildOptions) -> Ingested:
    """Read one recording and make it ready for the store.

    Args:
        entry: The recording.
        root: Folder that ``entry.path`` is relative to.
        options: Options of the store.

    Returns:
        Its numbers and facts, or the remark that says why it is left out. Only a lack of memory
        is raised: everything else that is wrong with a recording becomes a remark.
    """
    remarks: list[LedgerRow] = []

    def remark(reason: str, detail: str, action: str = KEPT) -> None:
        text = " ".join(detail.replace(f"{root}{os.sep}", "").split())[:500]
        row = (_printable(part) for part in (entry.record, entry.path, reason, text, action))
        remarks.append(LedgerRow(*row))

    try:
        stored, facts = _ingest(entry, root, options, remark)
        return Ingested(remarks, stored, facts)
    except _Excluded as error:
        remark(error.reason, error.detail, EXCLUDED)
    except RecordError as error:
        remark(error.reason, str(error.args[-1]), EXCLUDED)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - one recording must never stop a build
        remark("error", f"{type(error).__name__}: {error}", EXCLUDED)
    return Ingested([row for row in remarks if row.action == EXCLUDED])


def _ingest(
    entry: RecordEntry, root: Path, options: BuildOptions, remark: Remark
) -> tuple[np.ndarray, dict[str, Any]]:
    if _printable(entry.record) != entry.record:
        raise _Excluded("unsafe_name", "the name has characters that no manifest can hold")
    path = _inside(root, entry.path)
    header = read_header(path)
    _check_duration(header, options)
    raw = read_raw(path, header)
    header = raw.header
    rows = _find_rows(header, options)
    present = rows >= 0
    adu = raw.adu[rows[present]]
    if raw.invalid is not None and (n_invalid := int(raw.invalid[rows[present]].sum())):
        raise _Excluded("nan", f"{n_invalid} samples are missing or not finite")
    gain = np.array(header.gains, dtype=np.float64)[rows[present]]
    baseline = np.array(header.baselines, dtype=np.float64)[rows[present]]
    if not np.isfinite(gain).all():
        units = ", ".join(sorted({header.units[row] for row in rows[present]}))
        raise _Excluded("unknown_unit", f"units of the leads are {units}, not a voltage")
    _check_flat(adu, present, options, remark)
    if not present.all():
        names = [lead for lead, there in zip(options.leads, present, strict=True) if not there]
        remark("missing_leads", ", ".join(names))
    if entry.codes == ():
        remark("no_label", "no code in the source")
    stored, new_gain, baseline = to_stored(
        adu, gain, baseline, header.rate_hz, options.rate_hz, options.dtype
    )
    if options.dtype == "int16" and new_gain is not gain and new_gain.min() < BASE_GAIN:
        remark("coarse_step", f"quantised in steps of {1 / new_gain.min():.4g} mV")
    facts = {
        "record": entry.record,
        "patient": entry.patient,
        "rate_hz": options.rate_hz,
        "n_samples": stored.shape[1],
        "gain": _spread(new_gain, present, 1.0),
        "baseline": _spread(baseline, present, 0.0),
        "lead_present": present,
        "codes": None if entry.codes is None else list(entry.codes),
        "split": entry.split,
        "age": entry.age,
        "sex": entry.sex,
        "source_rate_hz": header.rate_hz,
        "source_n_samples": raw.adu.shape[1],
    }
    return _spread(stored, present, 0), facts


def _printable(text: str) -> str:
    """Replace what is no valid text (names of files need not be) or would break a line."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", text)


def _inside(root: Path, path: str) -> Path:
    """Join without leaving the corpus folder; links inside it may point anywhere."""
    parts = os.path.normpath(path).split(os.sep)
    if os.path.isabs(path) or os.pardir in parts:
        raise _Excluded("unsafe_path", f"the path {path!r} leads out of the corpus folder")
    return root / path


def _check_duration(header: WfdbHeader, options: BuildOptions) -> None:
    seconds = header.n_samples / header.rate_hz
    n_leads = max(header.n_leads, len(options.leads))
    limit = options.max_seconds * len(STANDARD_LEADS) / n_leads
    if seconds > limit or header.n_samples > limit * _LARGEST_RATE_HZ:
        raise _Excluded(
            "too_long",
            f"{header.n_samples} samples at {header.rate_hz:g} Hz are {seconds:.6g} s, more than "
            f"{limit:g} s for {n_leads} leads; see --max-seconds and --leads",
        )
    if seconds < options.min_seconds or round(seconds * options.rate_hz) < 1:
        raise _Excluded("too_short", f"{seconds:.6g} s, less than {options.min_seconds:g} s")


def _find_rows(header: WfdbHeader, options: BuildOptions) -> np.ndarray:
    """Return, for each lead of the store, its row in the file or -1."""
    mapped = {name.casefold(): standard for name, standard in options.lead_map}
    names = [mapped.get(name.strip().casefold(), name) for name in header.leads]
    try:
        found = lead_rows(names)
    except ValueError as error:
        raise _Excluded("repeated_lead", str(error)) from error
    rows = np.array([found[STANDARD_LEADS.index(lead)] for lead in options.leads])
    if (rows < 0).all():
        hint = "; name one with --lead-map" if not any(map(canonical_lead, names)) else ""
        raise _Excluded(
            "no_standard_leads", f"its leads are {', '.join(map(repr, header.leads))}{hint}"
        )
    return rows


def _check_flat(
    adu: np.ndarray, present: np.ndarray, options: BuildOptions, remark: Remark
) -> None:
    flat = adu.max(axis=1) == adu.min(axis=1)
    if not flat.any():
        return
    recorded = [lead for lead, there in zip(options.leads, present, strict=True) if there]
    names = ", ".join(lead for lead, is_flat in zip(recorded, flat, strict=True) if is_flat)
    if flat.all():
        raise _Excluded("all_flat", names)
    if options.flat_leads == "exclude":
        raise _Excluded("flat_lead", names)
    remark("flat_lead", names)


def _spread(values: np.ndarray, present: np.ndarray, fill: float) -> np.ndarray:
    """Put the rows of the recorded leads where they belong among all leads of the store."""
    if present.all():
        return np.ascontiguousarray(values)
    spread = np.full((len(present), *values.shape[1:]), fill, dtype=values.dtype)
    spread[present] = values
    return spread


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, but is {value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but is {value!r}")
