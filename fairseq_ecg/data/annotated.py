"""Long annotated recordings, read where they lie: any stretch of samples, and the marks in it.

For releases too large to rewrite, such as Icentia11k (Tan et al. 2019; over 1 TiB): the root of
their manifests is the folder of the release itself, WFDB records with ``.atr`` files. A read seeks
to the samples that are wanted. What is known of a record, and its marks, stay in memory for the
records looked at last.

Before: data/manifest.py. After: transforms/pipeline.py; labels of a stretch: data/frame_labels.py.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from fairseq_ecg.data.frame_labels import Marks, marks_of
from fairseq_ecg.data.leads import STANDARD_LEADS, canonical_lead, lead_rows
from fairseq_ecg.data.manifest import Manifest, ManifestError
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.data.wfdb_annotations import read_annotations
from fairseq_ecg.data.wfdb_header import WfdbHeader, read_header
from fairseq_ecg.data.wfdb_reader import read_raw, to_millivolts

IN_PLACE_FILE = "in_place.json"
"""Beside manifests of recordings that are read where they lie; says what they have in common."""

LEAD_OF_NAME = {"ecg": "I", "mlii": "II"}
"""Standard leads that single-lead monitors and MIT-BIH write under names of their own."""

CACHE_SEGMENTS = 1024
"""Records whose header and marks are kept: 16 patients of 50 segments, and some."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Recording:
    """What is known of a recording.

    Attributes:
        header: Its header.
        leads: Position in the file by the row of the standard lead.
    """

    header: WfdbHeader
    leads: dict[int, int]


class AnnotatedSource:
    """The recordings of an ``identification`` manifest whose root is a folder of WFDB records.

    All methods of ``Source``, and the marks of a recording. The third column of the manifest is
    the number of the patient.

    Args:
        manifest: As the corpora that are read in place write it; an ``in_place.json`` in its
            folder tells rate, leads and name of the set, otherwise the first record does.
        annotations: Whether marks are going to be asked for. Those of the first recording are
            then read at once, so that a folder without any is refused at the start.
        lead_map: Names of leads in the files and the standard leads they stand for; None for what
            ``in_place.json`` says. ``ecg`` is lead I and ``MLII`` lead II unless it says otherwise.
        cache_segments: Recordings of which header and marks are kept in memory.

    Attributes:
        names: Path of each recording below the root, without suffix.
        n_samples: Its length, int64 [N].
        rate_hz: Sampling rate of all.
        unit: ``mV``.
        corpus: Name of the set.

    Raises:
        ManifestError: If the manifest is of another kind or lists nothing.
        RecordError: If the first recording cannot be read.
    """

    unit = MILLIVOLTS

    def __init__(
        self,
        manifest: Manifest,
        annotations: bool = True,
        lead_map: Mapping[str, str] | None = None,
        cache_segments: int = CACHE_SEGMENTS,
    ) -> None:
        _check_kind(manifest)
        self._root = manifest.root
        self.names, self.n_samples = manifest.paths, manifest.n_samples
        self._patient_of = np.array([int(label) for label in manifest.labels], dtype=np.int64)
        facts = read_in_place(manifest.folder) or {}
        self.corpus = str(facts.get("corpus", self._root.name))
        self._lead_map = facts.get("lead_map", {}) if lead_map is None else dict(lead_map)
        self.rate_hz = float(facts["rate_hz"]) if facts else self._read_header(0).rate_hz
        self._recordings = _Recent(self._load_recording, cache_segments)
        self._marks = _Recent(self._load_marks, cache_segments)
        leads = facts.get("leads") or [STANDARD_LEADS[lead] for lead in self._recordings(0).leads]
        self._recorded = np.isin(STANDARD_LEADS, leads)
        if annotations:
            self.marks(0)

    def read(
        self,
        row: int,
        start: int,
        stop: int,
        rows: Sequence[int] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return samples ``start`` to ``stop`` of a recording, float32 [len(rows), T], in mV.

        Leads that were not recorded are silent, and so are samples that the file marks as invalid.

        Args:
            row: Number of the recording.
            start: First sample.
            stop: Sample after the last one.
            rows: Rows of the standard leads; None for all twelve.
            out: Array to write to, float32; may be a view.

        Raises:
            RecordError: If the file is missing, broken or shorter than the manifest says.
        """
        rows = range(len(STANDARD_LEADS)) if rows is None else rows
        if out is None:
            out = np.empty((len(rows), stop - start), dtype=np.float32)
        out.fill(0)
        recording = self._recordings(row)
        raw = read_raw(self._root / self.names[row], recording.header, start, stop)
        values = to_millivolts(raw)
        if raw.invalid is not None:
            values[raw.invalid] = 0
        for position, lead in enumerate(rows):
            if lead in recording.leads:
                out[position] = values[recording.leads[lead]]
        return out

    def marks(self, row: int) -> Marks:
        """Return the beats and rhythms of a recording.

        Args:
            row: Number of the recording.

        Raises:
            RecordError: If its ``.atr`` is missing, broken, or counts samples of another rate.
        """
        return self._marks(row)

    @cached_property
    def patients(self) -> list[np.ndarray]:
        """Recordings of each patient, int64, patients in the manifest's order."""
        _, first, inverse = np.unique(self._patient_of, return_index=True, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
        return [groups[patient] for patient in np.argsort(first)]

    def scale_mv(self, row: int) -> np.ndarray:
        """See ``Source.scale_mv``."""
        del row
        return np.ones(len(STANDARD_LEADS), dtype=np.float32)

    def recorded_leads(self) -> np.ndarray:
        """See ``Source.recorded_leads``; those of the first recording if nothing else is known."""
        return self._recorded

    def identity(self, row: int) -> int:
        """Return the number of the recording: only its own windows are positives."""
        return row

    def patient(self, row: int) -> int:
        """See ``Source.patient``; the number in the manifest."""
        return int(self._patient_of[row])

    def label_row(self, row: int) -> int | None:
        """Return None: there is no label array."""
        del row

    def label(self, row: int) -> np.ndarray | None:
        """Return None: labels follow from the marks."""
        del row

    def people(self) -> list[str]:
        """See ``Source.people``."""
        return [str(patient) for patient in self._patient_of.tolist()]

    def demographics(self) -> tuple[np.ndarray, list[str]]:
        """See ``Source.demographics``: not known."""
        return np.full(len(self.names), np.nan), [""] * len(self.names)

    def recordings_of(self, row: int) -> Iterator[np.ndarray]:
        """Yield the recordings of the patient of ``row``, float32 [12, T], in mV."""
        for other in np.flatnonzero(self._patient_of == self._patient_of[row]).tolist():
            yield self.read(other, 0, int(self.n_samples[other]))

    def fingerprints(self) -> np.ndarray:
        """Return nothing: the whole files would have to be read for it."""
        return np.empty(0, dtype=np.uint64)

    def _read_header(self, row: int) -> WfdbHeader:
        return read_header(self._root / self.names[row])

    def _load_recording(self, row: int) -> _Recording:
        header = self._read_header(row)
        name = self._root / self.names[row]
        if header.rate_hz != self.rate_hz:
            raise RecordError(
                "wrong_rate",
                f"{name} has {header.rate_hz:g} Hz, but {self.corpus} {self.rate_hz:g} Hz; a "
                "manifest must hold recordings of one rate",
            )
        if header.n_samples != self.n_samples[row]:
            raise RecordError(
                "size_mismatch",
                f"{name} has {header.n_samples} samples, but its manifest says "
                f"{self.n_samples[row]}; run `fairseq-ecg manifest` again",
            )
        leads = standard_leads(header, self._lead_map)
        return _Recording(header, {STANDARD_LEADS.index(name): lead for lead, name in leads})

    def _load_marks(self, row: int) -> Marks:
        try:
            return load_marks(self._root / self.names[row], self._recordings(row).header)[0]
        except RecordError as error:
            if error.reason != "missing_file":
                raise
            raise RecordError(
                "no_annotation",
                f"{error.args[1]}, and labels are made of it; manifests with _all in their names "
                "list such recordings, too: give the one without",
            ) from None


def load_marks(path: Path, header: WfdbHeader) -> tuple[Marks, list[tuple[str, str]]]:
    """Read the marks of a record.

    Args:
        path: The record without suffix.
        header: Its header.

    Returns:
        As ``marks_of``.

    Raises:
        RecordError: If its ``.atr`` is missing, broken, or counts samples of another rate.
    """
    annotations = read_annotations(f"{path}.atr")
    if annotations.rate_hz is not None and annotations.rate_hz != header.rate_hz:
        raise RecordError(
            "wrong_rate",
            f"{path}.atr counts {annotations.rate_hz:g} samples per second, but the recording has "
            f"{header.rate_hz:g} Hz",
        )
    return marks_of(annotations, header.n_samples)


def standard_leads(header: WfdbHeader, lead_map: Mapping[str, str]) -> list[tuple[int, str]]:
    """Find the standard leads of a record.

    Args:
        header: Its header.
        lead_map: Names of leads in the files and the standard leads they stand for, before
            ``LEAD_OF_NAME``.

    Returns:
        Position in the file and standard name of each lead that has one.

    Raises:
        RecordError: If no lead, or one lead twice, is a standard lead.
    """
    mapped = LEAD_OF_NAME | {name.casefold(): lead for name, lead in lead_map.items()}
    names = [
        mapped.get(name.strip().casefold(), canonical_lead(name) or name) for name in header.leads
    ]
    try:
        rows = lead_rows(names)
    except ValueError as error:
        raise RecordError("wrong_leads", f"record {header.record}: {error}") from error
    found = [(row, lead) for row, lead in zip(rows, STANDARD_LEADS, strict=True) if row >= 0]
    if not found:
        raise RecordError(
            "wrong_leads",
            f"record {header.record} has no standard lead, only "
            f"{', '.join(map(repr, header.leads))}; name one with --lead-map NAME=LEAD",
        )
    return found


def read_in_place(folder: Path | None) -> dict[str, Any] | None:
    """Read what the recordings of the manifests in a folder have in common.

    Args:
        folder: Folder of manifests.

    Returns:
        ``corpus``, ``rate_hz``, ``leads`` and ``lead_map``; None where there is no such file.

    Raises:
        ManifestError: If the file is damaged.
    """
    path = None if folder is None else folder / IN_PLACE_FILE
    if path is None or not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not facts["rate_hz"] > 0 or not isinstance(facts["lead_map"], dict):
            raise ValueError("the rate or the map of leads makes no sense")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path} is damaged ({error}); run `fairseq-ecg manifest` again"
        ) from error
    return facts


class _Recent(Generic[Value]):
    """Results of a function of a number, kept for the numbers asked for last."""

    def __init__(self, load: Callable[[int], Value], size: int) -> None:
        self._load, self._size = load, size
        self._kept: OrderedDict[int, Value] = OrderedDict()

    def __call__(self, number: int) -> Value:
        if number in self._kept:
            self._kept.move_to_end(number)
        else:
            self._kept[number] = self._load(number)
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return self._kept[number]


def _check_kind(manifest: Manifest) -> None:
    if manifest.kind != "identification" or not manifest.labels:
        raise ManifestError(
            f"a manifest of {manifest.root} must list recordings as path TAB n_samples TAB number "
            f"of the patient, but is of the kind {manifest.kind} and lists {len(manifest)}; "
            "write it with `fairseq-ecg manifest`"
        )
