"""Tracings of the Telehealth Network of Minas Gerais (CODE-15%), many to one HDF5 file.

A file holds ``exam_id`` [n] and ``tracings`` [n, T, 12]: zeros before and after make recordings
equally long, and a last row of zeros has the id 0. Needs the package h5py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.record_file import RecordError, open_regular
from fairseq_ecg.data.record_reader import RecordFacts, Recording
from fairseq_ecg.data.signal import EcgSignal

CODE_RATE_HZ = 400.0

_IDS, _TRACINGS = "exam_id", "tracings"


class MissingPackageError(ValueError):
    """A package that an extra of ours installs is not there."""


@dataclass(frozen=True)
class TracingReader:
    """Reads one row of a file of tracings; a ``RecordReader``.

    Attributes:
        exam_id: What stands in ``exam_id`` at that row.
        row: The row; -1 if no row has this id.
        units_per_mv: Numbers are divided by this.
    """

    exam_id: int
    row: int
    units_per_mv: float = 1.0

    def facts(self, path: Path) -> RecordFacts:
        """See ``RecordReader.facts``; the length is that with the zeros around the recording."""
        with open_hdf5(path) as file:
            self._check(path, file)
            return RecordFacts(file[_TRACINGS].shape[1], CODE_RATE_HZ, STANDARD_LEADS)

    def read(self, path: Path) -> Recording:
        """See ``RecordReader.read``."""
        with open_hdf5(path) as file:
            self._check(path, file)
            tracing = file[_TRACINGS][self.row]
        values = strip_padding(np.asarray(tracing, dtype=np.float32).T)
        if not values.shape[1]:
            raise RecordError("empty", f"{path}: the tracing of exam {self.exam_id} is all zero")
        if self.units_per_mv != 1.0:
            values = values / np.float32(self.units_per_mv)
        return Recording(EcgSignal(np.ascontiguousarray(values), CODE_RATE_HZ, STANDARD_LEADS))

    def _check(self, path: Path, file: Any) -> None:
        ids = _ids(path, file)
        if self.row < 0 or self.row >= len(ids) or ids[self.row] != self.exam_id:
            raise RecordError("missing_key", f"{path} has no tracing of exam {self.exam_id}")
        shape = file[_TRACINGS].shape
        if len(shape) != 3 or shape[0] != len(ids) or shape[2] != len(STANDARD_LEADS):
            raise RecordError(
                "bad_header", f"{path}: {_TRACINGS} must be [{len(ids)}, T, 12], but is {shape}"
            )


def read_exam_ids(path: Path) -> np.ndarray:
    """Return the exams of a file, int64 [n], in row order.

    Args:
        path: The HDF5 file.

    Raises:
        RecordError: If the file cannot be read, or is none of tracings.
        MissingPackageError: If h5py is not installed.
    """
    with open_hdf5(path) as file:
        return _ids(path, file)


def find_tracings(root: Path, files: Iterable[str]) -> dict[tuple[str, int], int]:
    """Return the row of each exam in its file.

    Args:
        root: Folder of the files.
        files: Their names. One that cannot be read is passed over: the reader of each of its exams
            says why.

    Returns:
        Rows by file name and exam.
    """
    places: dict[tuple[str, int], int] = {}
    for name in sorted(set(files)):
        with contextlib.suppress(RecordError):
            ids = read_exam_ids(root / name)
            places |= {(name, exam_id): row for row, exam_id in enumerate(ids.tolist())}
    return places


def strip_padding(values: np.ndarray) -> np.ndarray:
    """Return the part between the first and the last sample at which any lead is not 0.

    Args:
        values: [C, T].

    Returns:
        [C, T'], a view; T' = 0 if there is none.
    """
    used = np.flatnonzero((values != 0).any(axis=0))
    return values[:, used[0] : used[-1] + 1] if used.size else values[:, :0]


def _ids(path: Path, file: Any) -> np.ndarray:
    for name, kinds in ((_IDS, "iu"), (_TRACINGS, "f")):
        if getattr(file.get(name), "shape", None) is None:
            raise RecordError("missing_key", f"{path} must hold {name!r}, but holds {list(file)}")
        if file[name].dtype.kind not in kinds:
            raise RecordError("bad_header", f"{path}: {name} must not be {file[name].dtype}")
    if len(file[_IDS].shape) != 1:
        raise RecordError("bad_header", f"{path}: {_IDS} must be [n], but is {file[_IDS].shape}")
    return np.asarray(file[_IDS][:], dtype=np.int64)


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Args:
        path: The file.

    Yields:
        The ``h5py.File``.

    Raises:
        RecordError: If it cannot be read.
        MissingPackageError: If h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingPackageError(
            f"reading {path} needs h5py: pip install 'fairseq-ecg[hdf5]'"
        ) from None
    with open_regular(str(path)):
        pass
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise RecordError("unreadable_file", f"{path} cannot be read as HDF5: {error}") from error
