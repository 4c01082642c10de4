"""Plain arrays of samples: ``.npy``, ``.csv``, and one array of an HDF5 file.

Such files say neither rate nor unit, and leads only where a ``.csv`` has a line of names, so that
whoever reads one must. Only numbers are read: nothing in a file can be executed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fairseq_ecg.data.hdf5_reader import open_hdf5
from fairseq_ecg.data.leads import canonical_lead
from fairseq_ecg.data.record_file import RecordError, open_regular
from fairseq_ecg.data.record_reader import RecordFacts, Recording
from fairseq_ecg.data.signal import EcgSignal

UNITS_PER_MV = {"mV": 1.0, "uV": 1000.0, "V": 0.001}
HDF5_SUFFIXES = (".h5", ".hdf5")
ARRAY_SUFFIXES = (".npy", ".csv", *HDF5_SUFFIXES)

# What an ECG at the skin reaches at most, and at least, in any lead; both with much room.
_LARGEST_MV, _SMALLEST_MV = 50.0, 0.005


@dataclass(frozen=True)
class ArrayReader:
    """Reads a recording from an array [C, T] or [T, C]; a ``RecordReader``.

    Attributes:
        rate_hz: Its rate.
        leads: Names of its C leads, in the order of the array; empty if the first line of a
            ``.csv`` names them.
        unit: Of the numbers, one of ``UNITS_PER_MV``.
        array: Which array of an HDF5 file; empty if it has one of two dimensions only.
    """

    rate_hz: float
    leads: tuple[str, ...] = ()
    unit: str = "mV"
    array: str = ""

    def facts(self, path: Path) -> RecordFacts:
        """See ``RecordReader.facts``; the file is read for it."""
        signal = self.read(path).signal
        return RecordFacts(signal.n_samples, signal.rate_hz, signal.leads)

    def read(self, path: Path) -> Recording:
        """See ``RecordReader.read``."""
        with open_regular(str(path)):
            pass
        read: Callable[[Path], tuple[np.ndarray, tuple[str, ...]]] = {
            ".npy": _read_npy,
            ".csv": _read_csv,
        }.get(path.suffix.lower(), self._read_hdf5)
        values, named = read(path)
        leads = self.leads or named
        values = _leads_first(path, values, leads) / UNITS_PER_MV[self.unit]
        _check_unit(path, values, self.unit)
        signal = EcgSignal(np.ascontiguousarray(values, dtype=np.float32), self.rate_hz, leads)
        return Recording(signal)

    def _read_hdf5(self, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
        with open_hdf5(path) as file:
            names: list[str] = []

            def note(name: str, item: object) -> None:
                if len(getattr(item, "shape", None) or ()) == 2 and item.dtype.kind in "fiu":
                    names.append(name)

            file.visititems(note)
            wanted = [name for name in names if self.array in ("", name)]
            if len(wanted) != 1:
                raise RecordError(
                    "missing_key",
                    f"{path} must hold one array of leads and samples, but holds "
                    f"{', '.join(names) or 'none'}; give {path}/NAME",
                )
            return np.asarray(file[wanted[0]]), ()


def _read_npy(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        return np.load(path, allow_pickle=False), ()
    except (OSError, ValueError, EOFError) as error:
        raise RecordError(
            "unreadable_file",
            f"{path} is no .npy file of numbers, or a damaged one; write it with numpy.save of an "
            "array of leads and samples",
        ) from error


def _read_csv(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read columns of samples; the first line may name them, and those of no lead are left out."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
        mark = max(",;\t", key=first.count)
        names = next(csv.reader([first], delimiter=mark), [])
        has_names = not all(map(_is_number, names))
        table = pd.read_csv(path, sep=mark, header=0 if has_names else None, encoding="utf-8-sig")
        leads = [name.strip() for name in names] if has_names else []
        if any(map(canonical_lead, leads)):
            kept = [column for column, name in enumerate(leads) if canonical_lead(name)]
            table, leads = table.iloc[:, kept], [leads[column] for column in kept]
        return table.to_numpy(dtype=np.float64), tuple(leads)
    except (OSError, ValueError) as error:
        raise RecordError("unreadable_file", f"{path} is no table of numbers: {error}") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _leads_first(path: Path, values: np.ndarray, leads: tuple[str, ...]) -> np.ndarray:
    """Return an array as float64 [C, T]."""
    if values.dtype.kind not in "fiu":
        raise RecordError("wrong_leads", f"{path} must hold numbers, but holds {values.dtype}")
    values = values[None] if values.ndim == 1 else values
    if not leads:
        raise RecordError(
            "wrong_leads", f"{path} does not say what its leads are; name them (--leads I,II,...)"
        )
    if values.ndim != 2 or len(leads) not in values.shape:
        raise RecordError(
            "wrong_leads",
            f"{path} must be [{len(leads)} leads, samples] or the other way round, for "
            f"{', '.join(leads)}, but is {list(values.shape)}; name all its leads (--leads)",
        )
    values = values if values.shape[0] == len(leads) else values.T
    if not values.shape[1]:
        raise RecordError("empty", f"{path} has no samples")
    return values.astype(np.float64)


def _check_unit(path: Path, values_mv: np.ndarray, unit: str) -> None:
    """Refuse what can be no ECG in this unit."""
    finite = np.where(np.isfinite(values_mv), values_mv, np.nan)
    if np.isnan(finite).all():
        return
    with np.errstate(invalid="ignore"):
        away = np.abs(finite - np.nanmedian(finite, axis=1, keepdims=True))
    size = float(np.nanpercentile(away, 99.9))
    if size > _LARGEST_MV or 0 < size < _SMALLEST_MV:
        others = " or ".join(f"--unit {name}" for name in UNITS_PER_MV if name != unit)
        raise RecordError(
            "wrong_unit",
            f"{path} reaches {size:.3g} mV if its numbers are in {unit}, which no ECG does; say in "
            f"which unit they are ({others})",
        )
