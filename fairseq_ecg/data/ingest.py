"""One recording on disk -> the numbers that a store keeps, or the reason why it keeps none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS, canonical_lead, lead_rows
from fairseq_ecg.data.ledger import EXCLUDED, KEPT, LedgerRow
from fairseq_ecg.data.preprocess import PREPROCESSING_DEFAULTS, like_ecg_fm
from fairseq_ecg.data.quantise import BASE_GAIN, to_stored
from fairseq_ecg.data.record_reader import RecordFacts, RecordReader
from fairseq_ecg.data.signal import MILLIVOLTS, STANDARD_DEVIATIONS, UNITS
from fairseq_ecg.data.store import DTYPES
from fairseq_ecg.data.wfdb_reader import RecordError, read_header, read_raw

FLAT_LEAD_POLICIES = ("keep", "keep_all", "exclude")
DUPLICATE_POLICIES = ("one_split", "keep", "exclude")

Remark = Callable[[str, str], None]

# A header may claim any rate, and with it any number of samples per second of its length.
_LARGEST_RATE_HZ = 8000.0


@dataclass(frozen=True)
class RecordEntry:
    """One recording that a corpus lists.

    Attributes:
        record: Name, unique in the corpus; the first column of our manifests.
        path: The WFDB record without suffix, or the file that ``reader`` reads, relative to the
            corpus folder.
        patient: Whose recording it is; equal names are one person. Empty if only the file says.
        split: ``train``, ``valid`` or ``test``.
        codes: All codes of the source; None if the source says nothing about this record.
        age: Years, or None.
        sex: ``male``, ``female`` or empty.
        reader: Reads ``path``; None for a WFDB record.
    """

    record: str
    path: str
    patient: str
    split: str
    codes: tuple[str, ...] | None = None
    age: float | None = None
    sex: str = ""
    reader: RecordReader | None = None


@dataclass(frozen=True)
class BuildOptions:
    """What decides the content of a store, besides its recordings.

    Attributes:
        rate_hz: Sampling rate of the store; recordings of another rate are resampled.
        dtype: ``int16`` or ``float32``.
        leads: Rows of the store, standard names.
        lead_map: Pairs of a lead's name in the files and the standard lead it stands for, for
            leads that are no standard leads by name, such as ``("MLII", "II")``. Where a file has
            one, another lead that is called II is left out.
        min_seconds: Shorter recordings are left out.
        max_seconds: Longer recordings are left out. Meant for 12 leads: where both the file and
            the store have fewer, a recording may be longer in proportion. It bounds the memory
            that one recording takes.
        flat_leads: ``keep`` recordings with a constant lead, but not those with no other;
            ``keep_all`` also those; or ``exclude`` both.
        duplicates: What becomes of recordings with the samples of an earlier one: ``keep`` them;
            keep them but, if the earlier one is in another split, in no split (``one_split``);
            or ``exclude`` them.
        shard_records: Records per shard; more where that would make over 256 shards.
        preprocessing: ``none``, or ``ecg-fm``: resampled along straight lines and standardised
            (``data/preprocess.py``).
        unit: Unit of the recordings as they are read.
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
    preprocessing: str = "none"
    unit: str = MILLIVOLTS

    def __post_init__(self) -> None:
        _check_range("rate_hz", self.rate_hz, 1.0, _LARGEST_RATE_HZ)
        _check_range("min_seconds", self.min_seconds, 0.0, self.max_seconds)
        _check_range("max_seconds", self.max_seconds, self.min_seconds, 1e6)
        _check_range("shard_records", self.shard_records, 1, 1_000_000)
        _check_choice("dtype", self.dtype, tuple(DTYPES))
        _check_choice("flat_leads", self.flat_leads, FLAT_LEAD_POLICIES)
        _check_choice("duplicates", self.duplicates, DUPLICATE_POLICIES)
        _check_choice("preprocessing", self.preprocessing, tuple(PREPROCESSING_DEFAULTS))
        _check_choice("unit", self.unit, UNITS)
        for lead in (*self.leads, *(standard for _, standard in self.lead_map)):
            _check_choice("leads", lead, STANDARD_LEADS)
        if not self.leads or len(set(self.leads)) != len(self.leads):
            raise ValueError(f"leads must name each lead once, but is {list(self.leads)}")
        if self.preprocessing != "none" and self.dtype != "float32":
            raise ValueError(
                f"preprocessing {self.preprocessing} makes numbers that {self.dtype} would round; "
                "give dtype float32"
            )
        if self.preprocessing != "none" and self.unit == STANDARD_DEVIATIONS:
            raise ValueError(
                f"preprocessing {self.preprocessing} would standardise recordings that are in "
                "standard deviations already; leave it at none"
            )

    @property
    def store_unit(self) -> str:
        """Unit of what the store holds."""
        return self.unit if self.preprocessing == "none" else STANDARD_DEVIATIONS


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


@dataclass(frozen=True)
class _Samples:
    """A recording as read, whatever its format.

    Attributes:
        values: int16, int32 or float32 [C, T].
        leads: Names of its C leads.
        rate_hz: Its rate.
        gain: Units per mV, float64 [C]; NaN where the unit is no voltage.
        baseline: Value at 0 mV, float64 [C].
        units: Unit of each lead, for messages.
        invalid: bool [C, T], or None if every sample is valid.
        patient: As in ``Recording``, like those that follow.
        group: See there.
        codes: See there.
        age: See there.
        sex: See there.
    """

    values: np.ndarray
    leads: tuple[str, ...]
    rate_hz: float
    gain: np.ndarray
    baseline: np.ndarray
    units: tuple[str, ...]
    invalid: np.ndarray | None = None
    patient: str | None = None
    group: int | None = None
    codes: tuple[str, ...] | None = None
    age: float | None = None
    sex: str = ""


def record_facts(entry: RecordEntry, root: Path) -> RecordFacts:
    """Return length, rate and leads of a recording, without reading its samples.

    Args:
        entry: The recording.
        root: Folder that ``entry.path`` is relative to.

    Raises:
        RecordError: If its header cannot be read.
    """
    path = root / entry.path
    if entry.reader is not None:
        return entry.reader.facts(path)
    header = read_header(path)
    return RecordFacts(header.n_samples, header.rate_hz, tuple(header.leads))


def _ingest(
    entry: RecordEntry, root: Path, options: BuildOptions, remark: Remark
) -> tuple[np.ndarray, dict[str, Any]]:
    if _printable(entry.record) != entry.record:
        raise _Excluded("unsafe_name", "the name has characters that no manifest can hold")
    path = _inside(root, entry.path)
    found = _read(entry, path, options)
    rows = _find_rows(found.leads, options)
    present = rows >= 0
    values = found.values[rows[present]]
    if found.invalid is not None and (n_invalid := int(found.invalid[rows[present]].sum())):
        raise _Excluded("nan", f"{n_invalid} samples are missing or not finite")
    gain, baseline = found.gain[rows[present]], found.baseline[rows[present]]
    if not np.isfinite(gain).all():
        units = ", ".join(sorted({found.units[row] for row in rows[present]}))
        raise _Excluded("unknown_unit", f"units of the leads are {units}, not a voltage")
    _check_flat(values, present, options, remark)
    if not present.all():
        names = [lead for lead, there in zip(options.leads, present, strict=True) if not there]
        unused = [lead for row, lead in enumerate(found.leads) if row not in rows]
        hint = f"; not used: {', '.join(unused)} (see --lead-map)" if unused else ""
        remark("missing_leads", ", ".join(names) + hint)
    codes = found.codes if entry.codes is None else entry.codes
    if codes == ():
        remark("no_label", "no code in the source")
    stored, new_gain, baseline = _store(values, gain, baseline, found.rate_hz, options)
    if options.dtype == "int16" and new_gain is not gain and new_gain.min() < BASE_GAIN:
        remark("coarse_step", f"quantised in steps of {1 / new_gain.min():.4g} mV")
    facts = {
        "record": entry.record,
        "patient": entry.patient or found.patient or entry.record,
        "rate_hz": options.rate_hz,
        "n_samples": stored.shape[1],
        "gain": _spread(new_gain, present, 1.0),
        "baseline": _spread(baseline, present, 0.0),
        "lead_present": present,
        "codes": None if codes is None else list(codes),
        "split": entry.split,
        "age": found.age if entry.age is None else entry.age,
        "sex": entry.sex or found.sex,
        "source_rate_hz": found.rate_hz,
        "source_n_samples": found.values.shape[1],
        "group": found.group,
    }
    return _spread(stored, present, 0), facts


def _read(entry: RecordEntry, path: Path, options: BuildOptions) -> _Samples:
    if entry.reader is None:
        header = read_header(path)
        _check_duration(RecordFacts(header.n_samples, header.rate_hz, tuple(header.leads)), options)
        raw = read_raw(path, header)
        header = raw.header
        return _Samples(
            raw.adu,
            tuple(header.leads),
            header.rate_hz,
            np.array(header.gains, dtype=np.float64),
            np.array(header.baselines, dtype=np.float64),
            tuple(header.units),
            raw.invalid,
        )
    _check_duration(entry.reader.facts(path), options)
    recording = entry.reader.read(path)
    signal = recording.signal
    _check_duration(RecordFacts(signal.n_samples, signal.rate_hz, signal.leads), options)
    finite = np.isfinite(signal.values_mv)
    return _Samples(
        signal.values_mv,
        signal.leads,
        signal.rate_hz,
        np.ones(signal.n_leads),
        np.zeros(signal.n_leads),
        (options.unit,) * signal.n_leads,
        None if finite.all() else ~finite,
        recording.patient,
        recording.group,
        recording.codes,
        recording.age,
        recording.sex,
    )


def _store(
    values: np.ndarray,
    gain: np.ndarray,
    baseline: np.ndarray,
    rate_hz: float,
    options: BuildOptions,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what is stored, its gain and its baseline (see ``to_stored``)."""
    if options.preprocessing == "none":
        return to_stored(values, gain, baseline, rate_hz, options.rate_hz, options.dtype)
    if values.dtype != np.float32:
        values = (values - baseline[:, None]) / gain[:, None]
    standardised = like_ecg_fm(values, rate_hz, options.rate_hz).values
    stored = np.ascontiguousarray(standardised, dtype=DTYPES[options.dtype])
    return stored, np.ones(len(stored)), np.zeros(len(stored))


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


def _check_duration(facts: RecordFacts, options: BuildOptions) -> None:
    seconds = facts.n_samples / facts.rate_hz
    n_leads = max(len(facts.leads), len(options.leads))
    limit = options.max_seconds * len(STANDARD_LEADS) / n_leads
    if seconds > limit or facts.n_samples > limit * _LARGEST_RATE_HZ:
        raise _Excluded(
            "too_long",
            f"{facts.n_samples} samples at {facts.rate_hz:g} Hz are {seconds:.6g} s, more than "
            f"{limit:g} s for {n_leads} leads; see --max-seconds and --leads",
        )
    if seconds < options.min_seconds or round(seconds * options.rate_hz) < 1:
        raise _Excluded("too_short", f"{seconds:.6g} s, less than {options.min_seconds:g} s")


def _find_rows(leads: tuple[str, ...], options: BuildOptions) -> np.ndarray:
    """Return, for each lead of the store, its row in the file or -1."""
    names = _map_leads(leads, options.lead_map)
    try:
        found = lead_rows(names)
    except ValueError as error:
        raise _Excluded("repeated_lead", str(error)) from error
    rows = np.array([found[STANDARD_LEADS.index(lead)] for lead in options.leads])
    if (rows < 0).all():
        hint = "; name one with --lead-map" if not any(map(canonical_lead, names)) else ""
        raise _Excluded("no_standard_leads", f"its leads are {', '.join(map(repr, leads))}{hint}")
    return rows


def _map_leads(names: Sequence[str], lead_map: Sequence[tuple[str, str]]) -> list[str]:
    """Rename leads; one that is mapped to a standard lead takes the place of any other one."""
    mapped = {name.casefold(): standard for name, standard in lead_map}
    renamed = [mapped.get(name.strip().casefold()) for name in names]
    taken = {new for new in renamed if new}
    return [
        new or ("" if canonical_lead(name) in taken else name)
        for name, new in zip(names, renamed, strict=True)
    ]


def _check_flat(
    values: np.ndarray, present: np.ndarray, options: BuildOptions, remark: Remark
) -> None:
    flat = values.max(axis=1) == values.min(axis=1)
    if not flat.any():
        return
    recorded = [lead for lead, there in zip(options.leads, present, strict=True) if there]
    names = ", ".join(lead for lead, is_flat in zip(recorded, flat, strict=True) if is_flat)
    if flat.all() and options.flat_leads != "keep_all":
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
