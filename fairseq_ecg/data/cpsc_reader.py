"""One recording of CPSC 2018 as it was first distributed: a ``.mat`` file with one struct.

``ECG`` has the fields ``data`` [12, T] in millivolts at 500 Hz, ``sex`` and ``age``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.mat_reader import read_mat_struct
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.record_reader import RecordFacts, Recording
from fairseq_ecg.data.signal import EcgSignal

CPSC_RATE_HZ = 500.0

_STRUCT = "ECG"
_MAX_BYTES = 64 << 20  # minutes; recordings have 6 to 60 s


@dataclass(frozen=True)
class CpscReader:
    """Reads one file; a ``RecordReader``."""

    def facts(self, path: Path) -> RecordFacts:
        """See ``RecordReader.facts``; a struct says its length only when it is read."""
        return RecordFacts(_read_data(_read(path), path).shape[1], CPSC_RATE_HZ, STANDARD_LEADS)

    def read(self, path: Path) -> Recording:
        """See ``RecordReader.read``."""
        fields = _read(path)
        values = np.ascontiguousarray(_read_data(fields, path), dtype=np.float32)
        return Recording(
            EcgSignal(values, CPSC_RATE_HZ, STANDARD_LEADS),
            age=_read_age(fields.get("age")),
            sex=_read_sex(fields.get("sex")),
        )


def _read(path: Path) -> dict[str, np.ndarray]:
    return read_mat_struct(path, _STRUCT, _MAX_BYTES)


def _read_data(fields: dict[str, np.ndarray], path: Path) -> np.ndarray:
    data = fields.get("data")
    if data is None:
        raise RecordError("missing_key", f"{path}: {_STRUCT} must have data, has {list(fields)}")
    if data.dtype.kind not in "fiu":
        raise RecordError("bad_mat", f"{path}: data must hold numbers, but has {data.dtype}")
    if data.ndim != 2 or data.shape[0] != len(STANDARD_LEADS):
        raise RecordError("wrong_leads", f"{path}: data must be [12, T], but is {data.shape}")
    if data.shape[1] == 0:
        raise RecordError("empty", f"{path}: data must have samples, but has none")
    return data


def _read_age(value: np.ndarray | None) -> float | None:
    if value is None or value.size != 1 or value.dtype.kind not in "fiu":
        return None
    age = float(value.item())
    return age if math.isfinite(age) and age >= 0 else None


def _read_sex(value: np.ndarray | None) -> str:
    text = str(value.item()).strip().casefold() if value is not None and value.size == 1 else ""
    return text if text in ("male", "female") else ""
