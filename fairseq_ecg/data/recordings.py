"""Recordings that somebody names, in any format that can be read: which there are, what reads each.

A name is a WFDB record, a ``.mat`` segment of fairseq-signals, an array (``data/array_reader.py``),
a file of tracings (``data/hdf5_reader.py``) or one exam of it, a store or one record of it, or a
folder of all of these. What cannot be read is a fault of that name; the others go on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from fairseq_ecg.data.array_reader import (
    ARRAY_SUFFIXES,
    HDF5_SUFFIXES,
    UNITS_PER_MV,
    ArrayReader,
)
from fairseq_ecg.data.hdf5_reader import (
    MissingPackageError,
    TracingReader,
    open_hdf5,
    read_exam_ids,
)
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.record_reader import RecordFacts, Recording, RecordReader
from fairseq_ecg.data.segment_file import read_segment
from fairseq_ecg.data.signal import MILLIVOLTS, EcgSignal
from fairseq_ecg.data.store import STORE_FILE, Store, StoreError
from fairseq_ecg.data.wfdb_header import read_header
from fairseq_ecg.data.wfdb_reader import read_signal

_UNREADABLE = (RecordError, StoreError, MissingPackageError)


@dataclass(frozen=True)
class ArrayFacts:
    """What files of plain arrays do not say.

    Attributes:
        rate_hz: Their rate; None: not known, and such files are not read.
        leads: Names of their leads, in order; empty if the files name them.
        unit: Of their numbers.

    Raises:
        ValueError: If the unit is not known, or the rate is not positive.
    """

    rate_hz: float | None = None
    leads: tuple[str, ...] = ()
    unit: str = "mV"

    def __post_init__(self) -> None:
        if self.unit not in UNITS_PER_MV:
            raise ValueError(
                f"the unit must be one of {', '.join(UNITS_PER_MV)}, but is {self.unit}"
            )
        if self.rate_hz is not None and not self.rate_hz > 0:
            raise ValueError(f"the rate must be above 0 Hz, but is {self.rate_hz:g}")


@dataclass(frozen=True)
class NamedRecording:
    """A recording, and what reads it.

    Attributes:
        name: Short and, among those found together, unique.
        place: Where it is, as it was named.
        path: The file, the WFDB record without suffix, or the folder of its store.
        reader: Reads ``path``; None for a WFDB record.
        unit: Of its samples.
    """

    name: str
    place: str
    path: Path
    reader: RecordReader | None
    unit: str = MILLIVOLTS

    @property
    def stored_as(self) -> str | None:
        """Its name in the store ``path``; None if it is in none."""
        return self.reader.record if isinstance(self.reader, StoredReader) else None

    def facts(self) -> RecordFacts:
        """Return length, rate and leads.

        Raises:
            RecordError: If it cannot be read.
        """
        if self.reader is not None:
            return self.reader.facts(self.path)
        header = read_header(self.path)
        return RecordFacts(header.n_samples, header.rate_hz, tuple(header.leads))

    def read(self) -> EcgSignal:
        """Return the samples, in ``unit``.

        Raises:
            RecordError: If it cannot be read.
        """
        return read_signal(self.path) if self.reader is None else self.reader.read(self.path).signal


@dataclass(frozen=True)
class Fault:
    """A recording that cannot be used.

    Attributes:
        place: As in ``NamedRecording``.
        reason: Short code, as in a ledger.
        detail: One line for people.
    """

    place: str
    reason: str
    detail: str


@dataclass(frozen=True)
class StoredReader:
    """Reads one record of the store at a path; a ``RecordReader``.

    Attributes:
        record: Its name.
    """

    record: str

    def facts(self, path: Path) -> RecordFacts:
        """See ``RecordReader.facts``."""
        store = _opened(path)
        row = store.row_of(self.record)
        return RecordFacts(int(store.n_samples[row]), store.rate_hz, self._leads(store, row))

    def read(self, path: Path) -> Recording:
        """See ``RecordReader.read``; leads that were not recorded are left out."""
        store = _opened(path)
        row = store.row_of(self.record)
        values = store.read(row)[store.lead_mask(row)]
        return Recording(EcgSignal(values, store.rate_hz, self._leads(store, row)))

    def _leads(self, store: Store, row: int) -> tuple[str, ...]:
        pairs = zip(store.leads, store.lead_mask(row), strict=True)
        return tuple(lead for lead, recorded in pairs if recorded)


@dataclass(frozen=True)
class LoneSegmentReader:
    """Reads a ``.mat`` segment that belongs to no folder; a ``RecordReader``."""

    def facts(self, path: Path) -> RecordFacts:
        """See ``RecordReader.facts``; the file is read for it."""
        segment = read_segment(path)
        return RecordFacts(segment.values.shape[1], segment.rate_hz, STANDARD_LEADS)

    def read(self, path: Path) -> Recording:
        """See ``RecordReader.read``."""
        segment = read_segment(path)
        return Recording(EcgSignal(segment.values, segment.rate_hz, STANDARD_LEADS))


def find_recordings(
    places: Sequence[str | Path], arrays: ArrayFacts | None = None
) -> list[NamedRecording | Fault]:
    """Return what is named, in the order of the names; a folder's content by its paths.

    Args:
        places: What to look for; what is named twice is found once.
        arrays: What files of plain arrays do not say; None: they are not read.
    """
    arrays = arrays or ArrayFacts()
    found: dict[object, NamedRecording | Fault] = {}
    for place in places:
        try:
            for item in _find(Path(place), arrays):
                key = (item.path, item.reader) if isinstance(item, NamedRecording) else item.place
                found.setdefault(key, item)
        except _UNREADABLE as error:
            found[str(place)] = _fault(place, error)
    return _named_apart(list(found.values()))


def _named_apart(found: list[NamedRecording | Fault]) -> list[NamedRecording | Fault]:
    """Give recordings of one name the names of their places."""
    count = Counter(item.name for item in found if isinstance(item, NamedRecording))
    return [
        replace(item, name=item.place)
        if isinstance(item, NamedRecording) and count[item.name] > 1
        else item
        for item in found
    ]


def _find(place: Path, arrays: ArrayFacts) -> Iterator[NamedRecording | Fault]:
    if place.is_dir():
        yield from _in_folder(place, arrays)
        return
    beside = [place.with_name(f"{place.name}.hea"), place.with_suffix(".hea")]
    header = next((path for path in beside if path.is_file()), None)
    if header is not None and (not place.is_file() or place.suffix in (".hea", ".dat", ".mat")):
        record = header.with_suffix("")
        yield NamedRecording(record.name, str(place), record.resolve(), None)
    elif place.is_file():
        yield from _in_file(place, arrays)
    else:
        yield _inside(place, arrays)


def _in_folder(folder: Path, arrays: ArrayFacts) -> Iterator[NamedRecording | Fault]:
    store = _store_of(folder)
    if store is not None:
        for record in _opened(store).records:
            yield _of_store(folder, store, record)
        return
    suffixes = (".hea", ".mat", *(ARRAY_SUFFIXES if arrays.rate_hz else HDF5_SUFFIXES))
    files = sorted(path for path in _files(folder) if path.suffix.lower() in suffixes)
    files = [path for path in files if path.suffix == ".hea" or not _has_header(path)]
    if not files:
        raise RecordError(
            "empty",
            f"{folder} holds no store, no WFDB record and no .mat segment"
            + ("" if arrays.rate_hz else "; arrays (.npy, .csv, .h5) need their rate (--rate)"),
        )
    for path in files:
        try:
            for item in _find(path, arrays):
                yield _below(folder, path, item)
        except _UNREADABLE as error:
            yield _fault(path, error)


def _below(folder: Path, path: Path, item: NamedRecording | Fault) -> NamedRecording | Fault:
    """Call the only recording of a file in a folder by its path below it."""
    if isinstance(item, Fault) or isinstance(item.reader, TracingReader):
        return item
    return replace(item, name=path.relative_to(folder).with_suffix("").as_posix())


def _fault(place: str | Path, error: ValueError) -> Fault:
    reason = error.reason if isinstance(error, RecordError) else "unreadable_file"
    return Fault(str(place), reason, str(error.args[-1]))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in names if not name.startswith("."))


def _has_header(path: Path) -> bool:
    return path.with_suffix(".hea").is_file()


def _in_file(path: Path, arrays: ArrayFacts) -> Iterator[NamedRecording]:
    suffix = path.suffix.lower()
    if suffix == ".mat":
        unit = read_segment(path).unit
        yield NamedRecording(path.stem, str(path), path.resolve(), LoneSegmentReader(), unit)
    elif suffix in HDF5_SUFFIXES and _holds_tracings(path):
        for row, exam in enumerate(read_exam_ids(path).tolist()):
            if exam:
                yield _tracing(path, row, exam)
    elif suffix in ARRAY_SUFFIXES:
        reader = _array_reader(path, arrays)
        yield NamedRecording(path.stem, str(path), path.resolve(), reader)
    else:
        raise RecordError(
            "unsupported_format",
            f"{path} is no format that can be read: give a WFDB record, a .mat segment, or "
            f"{', '.join(ARRAY_SUFFIXES)}",
        )


def _inside(place: Path, arrays: ArrayFacts) -> NamedRecording:
    """Return a record of a store, or a part of an HDF5 file, that a path goes on into."""
    for parent in place.parents:
        inner = place.relative_to(parent).as_posix()
        store = _store_of(parent)
        if store is not None:
            _opened(store).row_of(inner)
            return _of_store(parent, store, inner)
        if parent.suffix.lower() in HDF5_SUFFIXES and parent.is_file():
            return _inside_hdf5(parent, inner, arrays)
    raise RecordError(
        "missing_file",
        f"{place}: there is no WFDB record, file or folder of this name, and no store with such a "
        "record (STORE/RECORD)",
    )


def _inside_hdf5(path: Path, inner: str, arrays: ArrayFacts) -> NamedRecording:
    if _holds_tracings(path):
        exams = [str(exam) for exam in read_exam_ids(path).tolist()]
        if inner not in exams:
            raise RecordError("missing_key", f"{path} has no tracing of exam {inner}")
        return _tracing(path, exams.index(inner), int(inner))
    reader = replace(_array_reader(path, arrays), array=inner)
    name = inner.rsplit("/", 1)[-1]
    return NamedRecording(name, f"{path}/{inner}", path.resolve(), reader)


def _tracing(path: Path, row: int, exam: int) -> NamedRecording:
    return NamedRecording(str(exam), f"{path}/{exam}", path.resolve(), TracingReader(exam, row))


def _array_reader(path: Path, arrays: ArrayFacts) -> ArrayReader:
    if arrays.rate_hz is None:
        raise RecordError("bad_header", f"{path} does not say its rate; give it (--rate, in Hz)")
    return ArrayReader(arrays.rate_hz, arrays.leads, arrays.unit)


def _holds_tracings(path: Path) -> bool:
    with open_hdf5(path) as file:
        return "exam_id" in file and "tracings" in file


def _store_of(folder: Path) -> Path | None:
    """Return the store that a folder is, or that lies in it beside manifests."""
    for store in (folder, folder / "store"):
        if (store / STORE_FILE).is_file():
            return store
    return None


def _of_store(folder: Path, store: Path, record: str) -> NamedRecording:
    unit = _opened(store).unit
    reader = StoredReader(record)
    return NamedRecording(record, f"{folder}/{record}", store.resolve(), reader, unit)


@lru_cache(maxsize=4)
def _open_store(path: Path, changed_ns: int) -> Store:
    del changed_ns
    return Store(path)


def _opened(path: Path) -> Store:
    """Return a store, opened once as long as it stays as it is."""
    return _open_store(path.resolve(), (path / STORE_FILE).stat().st_mtime_ns)
