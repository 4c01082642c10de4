"""Where the samples of a manifest come from: our store, or a folder of files.

A source hides the difference: recording ``i`` of the manifest, samples ``start`` to ``stop``, in
the source's unit, in the standard lead order.

Before: data/manifest.py. After: transforms/pipeline.py.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from fairseq_ecg.data.annotated import AnnotatedSource, read_in_place
from fairseq_ecg.data.leads import STANDARD_LEADS, to_standard
from fairseq_ecg.data.manifest import Manifest, ManifestError
from fairseq_ecg.data.preprocess import central_statistics, lead_statistics, standardize
from fairseq_ecg.data.segment_file import Segment, read_segment
from fairseq_ecg.data.signal import MILLIVOLTS, STANDARD_DEVIATIONS, EcgSignal
from fairseq_ecg.data.store import Store
from fairseq_ecg.data.wfdb_reader import RecordError, read_signal

_LOOKED_AT = 8  # files of a folder that tell which leads it has


class Source(Protocol):
    """Recordings by number.

    Attributes:
        names: Path or record name of each recording, for messages and results.
        n_samples: Length of each recording, int64 [N].
        rate_hz: Sampling rate, the same for all.
        unit: Unit of the samples, the same for all: ``mV`` or ``standard deviations``.
        corpus: Name of what the recordings were built from.
    """

    names: list[str]
    n_samples: np.ndarray
    rate_hz: float
    unit: str
    corpus: str

    def read(self, row: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return samples ``start`` to ``stop`` of a recording, float32 [12, T], in ``unit``."""

    def scale_mv(self, row: int) -> np.ndarray:
        """Return millivolts per unit of each lead, float32 [12]; NaN where that is not known."""

    def recorded_leads(self) -> np.ndarray:
        """Tell which leads some recording has, bool [12]; the others are silent rows in all."""

    def identity(self, row: int) -> int:
        """Return a number shared by recordings that contrastive learning takes for one."""

    def patient(self, row: int) -> int:
        """Return a number shared by the recordings of one patient, where patients are known."""

    def label_row(self, row: int) -> int | None:
        """Return the recording's row in a label array; None where its file says none."""

    def label(self, row: int) -> np.ndarray | None:
        """Return the multi-hot label inside the recording's file, float32 [K]; None without one."""

    def people(self) -> list[str]:
        """Return the name of each recording's patient; may be empty."""

    def demographics(self) -> tuple[np.ndarray, list[str]]:
        """Return age in years, float64 [N], and sex of each patient; NaN and empty if unknown."""

    def fingerprints(self) -> np.ndarray:
        """Return one number per recording that depends on its content, uint64 [N]; may be empty."""


def open_source(manifest: Manifest, rate_hz: float | None = None) -> Source:
    """Open the recordings of a manifest.

    Args:
        manifest: Its root may be a store or a folder of files; the files decide. With an
            ``in_place.json`` beside the manifest only the samples asked for are read of a file.
        rate_hz: Rate that the recordings must have; None, or 0 or less as in fairseq-signals, to
            take what is there.

    Raises:
        ValueError: If the root is missing, no recording is listed, or the rate is another one.
    """
    if not manifest.root.is_dir():
        raise ManifestError(
            f"the manifest's root {manifest.root} does not exist; "
            "edit its first line if the recordings were moved"
        )
    if not len(manifest):
        raise ManifestError(f"the manifest lists no recording of {manifest.root}")
    if (manifest.root / "store.json").is_file():
        source: Source = StoreSource(manifest)
    elif read_in_place(manifest.folder) is not None:
        source = AnnotatedSource(manifest, annotations=False)
    else:
        source = FolderSource(manifest)
    if rate_hz is not None and rate_hz > 0 and source.rate_hz != rate_hz:
        raise ValueError(
            f"task.sample_rate={rate_hz:g}, but the recordings in {manifest.root} have "
            f"{source.rate_hz:g} Hz; rebuild with `fairseq-ecg manifest ... --rate {rate_hz:g}`. "
            "task.sample_rate=null takes them as they are, but then whatever is counted in samples "
            "(task.mask_block, the model's kernels and patches) lasts another time"
        )
    return source


def check_not_standardized(source: Source, standardize: str) -> None:
    """Refuse to standardise recordings that are standardised already.

    Args:
        source: The recordings.
        standardize: Value of ``task.standardize``, for the message.

    Raises:
        ValueError: If they are not in millivolts.
    """
    if source.unit != MILLIVOLTS:
        raise ValueError(
            f"task.standardize={standardize} needs recordings in {MILLIVOLTS}, but those of "
            f"{source.corpus} are in {source.unit} already; give task.standardize=none"
        )


def read_recording(path: str | Path) -> EcgSignal:
    """Read one file as a folder of files is read.

    Args:
        path: A ``.mat`` segment of fairseq-signals, or a WFDB record, without suffix or its
            ``.hea``.

    Returns:
        The twelve standard leads, in mV; those that it does not have are silent.

    Raises:
        RecordError: If the file cannot be read, samples are missing, or they are not in mV.
    """
    path = Path(path)
    segment = path.suffix == ".mat" and not path.with_suffix(".hea").exists()
    loaded = read_segment(path) if segment else _load_wfdb(path)
    if loaded.unit != MILLIVOLTS:
        raise RecordError(
            "wrong_unit", f"{path} is in {loaded.unit}; give a recording in millivolts"
        )
    return EcgSignal(loaded.values, loaded.rate_hz, STANDARD_LEADS)


class StoreSource:
    """The recordings of a manifest whose root is a store; see ``Source`` for the methods.

    Args:
        manifest: Any kind; for ``cmsc`` every segment is a record of its own.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._store = Store(manifest.root)
        self.names, lengths = manifest.recordings()
        self._rows = np.array([self._store.row_of(name) for name in self.names], dtype=np.int64)
        self.n_samples = self._store.n_samples[self._rows]
        _check_lengths(manifest.root, self.names, lengths, self.n_samples)
        self.rate_hz = float(self._store.rate_hz)
        self.unit = self._store.unit
        self.corpus = _corpus_name(manifest.root)
        self._patients = np.unique(self.people(), return_inverse=True)[1]
        self._leads = [STANDARD_LEADS.index(lead) for lead in self._store.leads]

    def read(self, row: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See ``Source.read``; written straight from the memory map into ``out``.

        Leads that the store does not have are silent rows.
        """
        if self._store.leads == STANDARD_LEADS:
            return self._store.read(int(self._rows[row]), start, stop, out=out)
        if out is None:
            out = np.empty((len(STANDARD_LEADS), stop - start), dtype=np.float32)
        out.fill(0)
        out[self._leads] = self._store.read(int(self._rows[row]), start, stop)
        return out

    def scale_mv(self, row: int) -> np.ndarray:
        """See ``Source.scale_mv``."""
        return _scale_mv(self.unit)

    def recorded_leads(self) -> np.ndarray:
        """See ``Source.recorded_leads``."""
        recorded = np.zeros(len(STANDARD_LEADS), dtype=bool)
        recorded[self._leads] = self._store.lead_mask(self._rows).any(axis=0)
        return recorded

    def identity(self, row: int) -> int:
        """Return the number of the record's group, or its own: its windows alone are positives."""
        return int(self._store.groups[self._rows[row]])

    def patient(self, row: int) -> int:
        """See ``Source.patient``."""
        return int(self._patients[row])

    def label_row(self, row: int) -> int | None:
        """Return None: the labels of a store are in manifests."""
        return None

    def label(self, row: int) -> np.ndarray | None:
        """Return None: the labels of a store are in manifests."""
        return None

    def people(self) -> list[str]:
        """See ``Source.people``."""
        return [self._store.patients[row] for row in self._rows]

    def demographics(self) -> tuple[np.ndarray, list[str]]:
        """See ``Source.demographics``."""
        known = self._store.columns("age", "sex").iloc[self._rows]
        return known["age"].to_numpy(dtype=np.float64), known["sex"].fillna("").tolist()

    def recordings_of(self, row: int) -> Iterator[np.ndarray]:
        """Yield the recordings of the patient of ``row``, also those in other manifests.

        Each is float32 [12, T], in ``unit``.
        """
        patient = self._store.patients[self._rows[row]]
        for other in self._rows_of[patient]:
            values = np.zeros((len(STANDARD_LEADS), int(self._store.n_samples[other])), np.float32)
            values[self._leads] = self._store.read(other)
            yield values

    @cached_property
    def _rows_of(self) -> dict[str, list[int]]:
        """Rows of the store by patient."""
        rows: dict[str, list[int]] = {}
        for row, patient in enumerate(self._store.patients):
            rows.setdefault(patient, []).append(row)
        return rows

    def fingerprints(self) -> np.ndarray:
        """See ``Source.fingerprints``: first eight bytes of the SHA-256 of each signal."""
        return self._store.hashes[self._rows]


class FolderSource:
    """The recordings of a manifest whose root is a folder: ``.mat`` of fairseq-signals, or WFDB.

    The file read last is kept, so that the windows of one recording cost one read.

    Args:
        manifest: Any kind; for ``cmsc`` every segment file is a recording of its own.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._root = manifest.root
        self.names, self.n_samples = manifest.recordings()
        self._lines = manifest.lines()
        self.corpus = self._root.name
        self._last: tuple[int, Segment] | None = None
        first = self._load(0)
        self.rate_hz, self.unit = first.rate_hz, first.unit

    def read(self, row: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See ``Source.read``.

        Raises:
            RecordError: If the file is broken, has another rate or unit than the first one, or is
                shorter than the manifest says; the message names the file.
        """
        segment = self._load(row)
        if segment.rate_hz != self.rate_hz:
            raise RecordError(
                "wrong_rate",
                f"{self.names[row]} has {segment.rate_hz:g} Hz, {self.names[0]} {self.rate_hz:g} "
                "Hz; a manifest must hold recordings of one rate",
            )
        if segment.unit != self.unit:
            raise RecordError(
                "wrong_unit",
                f"{self.names[row]} is in {segment.unit}, {self.names[0]} in {self.unit}; a "
                "manifest must hold recordings of one preprocessing",
            )
        values = segment.values
        if values.shape[1] < stop:
            raise RecordError(
                "truncated",
                f"{self._root / self.names[row]} has {values.shape[1]} samples, but its manifest "
                f"says {stop} or more; correct the manifest",
            )
        if out is None:
            return values[:, start:stop].copy()
        np.copyto(out, values[:, start:stop])
        return out

    def scale_mv(self, row: int) -> np.ndarray:
        """See ``Source.scale_mv``."""
        return _scale_mv(self.unit)

    def recorded_leads(self) -> np.ndarray:
        """Return the leads that some of a few recordings have, from the first to the last.

        For those of all recordings all files would have to be read.
        """
        return self._recorded

    def identity(self, row: int) -> int:
        """Return the file's ``idx``, else its ``patient_id``, else the line of the manifest."""
        group = self._load(row).group
        return int(self._lines[row]) if group is None else group

    def patient(self, row: int) -> int:
        """Return the file's ``patient_id``; where it has none, its ``identity``."""
        patient = self._load(row).patient_id
        return self.identity(row) if patient is None else patient

    def label_row(self, row: int) -> int | None:
        """Return the file's ``idx``, its row in a label array; None where it has none."""
        return self._load(row).idx

    def label(self, row: int) -> np.ndarray | None:
        """Return the file's own multi-hot ``label``, float32 [K]; None where it has none."""
        return self._load(row).label

    def people(self) -> list[str]:
        """Return nothing: the files would have to be read once more for it."""
        return []

    def demographics(self) -> tuple[np.ndarray, list[str]]:
        """Return what is not known: only a store has it."""
        return np.full(len(self.names), np.nan), [""] * len(self.names)

    def recordings_of(self, row: int) -> Iterator[np.ndarray]:
        """Yield the recordings of the patient of ``row`` in this manifest.

        Each is float32 [12, T], in ``unit``. All files are read once to see whose they are.
        """
        for other in np.flatnonzero(self._patients == self._patients[row]).tolist():
            yield self.read(other, 0, int(self.n_samples[other]))

    @cached_property
    def _recorded(self) -> np.ndarray:
        looked_at = np.unique(np.linspace(0, len(self.names) - 1, _LOOKED_AT, dtype=np.int64))
        recorded = np.zeros(len(STANDARD_LEADS), dtype=bool)
        for row in looked_at.tolist():
            recorded |= self._load(row).values.any(axis=1)
            if recorded.all():
                break
        return recorded

    @cached_property
    def _patients(self) -> np.ndarray:
        """Patient of each recording, int64 [N]."""
        return np.array([self.patient(row) for row in range(len(self.names))], dtype=np.int64)

    def fingerprints(self) -> np.ndarray:
        """Return nothing: all files would have to be read for it; ``names`` tell them apart."""
        return np.empty(0, dtype=np.uint64)

    def _load(self, row: int) -> Segment:
        if self._last is None or self._last[0] != row:
            path = self._root / self.names[row]
            self._last = (row, read_segment(path) if path.suffix == ".mat" else _load_wfdb(path))
        return self._last[1]


class StandardizedSource:
    """A source in millivolts, each lead of each recording standardised as it is read.

    Mean and population standard deviation are those of the whole recording (ECG-FM), whatever part
    of it is read; a constant lead becomes 0. They are computed at the first look at a recording and
    kept: 24 numbers per recording in each process.

    Args:
        source: The source around which this one is.

    Raises:
        ValueError: If its recordings are standardised already.
    """

    unit = STANDARD_DEVIATIONS
    kind = "record"
    """What ``task.standardize`` calls it."""

    def __init__(self, source: Source) -> None:
        check_not_standardized(source, self.kind)
        self.source = source
        self.names, self.n_samples = source.names, source.n_samples
        self.rate_hz, self.corpus = source.rate_hz, source.corpus
        # Both in double precision, so that the result is that of scaling the file once and for all.
        self._statistics = np.empty((len(self.names), 2, len(STANDARD_LEADS), 1))
        self._known = np.zeros(len(self.names), dtype=bool)

    def read(self, row: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See ``Source.read``."""
        if self._known[row]:
            values = self.source.read(row, start, stop)
        else:
            values = self._look_at(row)[:, start:stop]
        mean, std = self._statistics[row]
        if out is None:
            out = np.empty(values.shape, dtype=np.float32)
        np.copyto(out, standardize(values, mean, std), casting="same_kind")
        return out

    def scale_mv(self, row: int) -> np.ndarray:
        """See ``Source.scale_mv``: the standard deviations."""
        if not self._known[row]:
            self._look_at(row)
        return self._statistics[row, 1, :, 0].astype(np.float32)

    def recorded_leads(self) -> np.ndarray:
        """See ``Source.recorded_leads``."""
        return self.source.recorded_leads()

    def identity(self, row: int) -> int:
        """See ``Source.identity``."""
        return self.source.identity(row)

    def patient(self, row: int) -> int:
        """See ``Source.patient``."""
        return self.source.patient(row)

    def label_row(self, row: int) -> int | None:
        """See ``Source.label_row``."""
        return self.source.label_row(row)

    def label(self, row: int) -> np.ndarray | None:
        """See ``Source.label``."""
        return self.source.label(row)

    def people(self) -> list[str]:
        """See ``Source.people``."""
        return self.source.people()

    def demographics(self) -> tuple[np.ndarray, list[str]]:
        """See ``Source.demographics``."""
        return self.source.demographics()

    def fingerprints(self) -> np.ndarray:
        """See ``Source.fingerprints``: those of the recordings before they are standardised."""
        return self.source.fingerprints()

    def _look_at(self, row: int) -> np.ndarray:
        """Read a whole recording and keep its statistics."""
        whole = self.source.read(row, 0, int(self.n_samples[row]))
        self._statistics[row] = lead_statistics(whole)
        self._known[row] = True
        return whole


class PersonStandardizedSource(StandardizedSource):
    """A source in millivolts, each lead scaled by statistics of all recordings of its person.

    The mean is that of all samples, the deviation that of the central 95 % of them (Sarkar & Etemad
    2022; ``central_statistics``). Of a store all recordings of the person count, also those in
    other manifests; no label is looked at. They are read at the first look at the person, together.

    Args:
        source: The source around which this one is; it must know ``recordings_of``.

    Raises:
        ValueError: If its recordings are standardised already.
    """

    kind = "person"

    def __init__(self, source: StoreSource | FolderSource | AnnotatedSource) -> None:
        super().__init__(source)
        self._recordings_of = source.recordings_of
        self._of_person: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _look_at(self, row: int) -> np.ndarray:
        """Read a whole recording and keep the statistics of its person."""
        person = self.source.patient(row)
        if person not in self._of_person:
            together = np.concatenate(list(self._recordings_of(row)), axis=1)
            self._of_person[person] = central_statistics(together)
        self._statistics[row] = self._of_person[person]
        self._known[row] = True
        return self.source.read(row, 0, int(self.n_samples[row]))


def _scale_mv(unit: str) -> np.ndarray:
    known = unit == MILLIVOLTS
    return np.full(len(STANDARD_LEADS), 1.0 if known else np.nan, dtype=np.float32)


def _load_wfdb(path: Path) -> Segment:
    signal, _ = to_standard(read_signal(path.with_suffix("") if path.suffix == ".hea" else path))
    if not np.isfinite(signal.values_mv).all():
        raise RecordError("nan", f"{path}: the signal has missing samples; build a store instead")
    return Segment(signal.values_mv, signal.rate_hz, MILLIVOLTS, None, None, None)


def _check_lengths(root: Path, names: list[str], listed: np.ndarray, actual: np.ndarray) -> None:
    wrong = np.flatnonzero(listed != actual)
    if wrong.size:
        row = int(wrong[0])
        raise ManifestError(
            f"{names[row]}: the manifest says {listed[row]} samples, the store in {root} has "
            f"{actual[row]}; run `fairseq-ecg manifest` again"
        )


def _corpus_name(store: Path) -> str:
    return str(json.loads((store / "store.json").read_text()).get("corpus", store.parent.name))
