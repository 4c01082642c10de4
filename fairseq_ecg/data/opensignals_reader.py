"""Text files of OpenSignals (PLUX), the raw recordings of a RespiBAN, as WESAD has them.

Three lines of header, then one line per sample, columns separated by TAB::

    # OpenSignals Text File Format
    # {"<address>": {"sensor": ["ECG", ...], "column": ["nSeq", "DI", "CH1", ...],
                     "sampling rate": 700, "resolution": [16, ...], ...}}
    # EndOfHeader

Numbers are counts of a converter of n bits. A count c of the electrocardiogram of a RespiBAN stands
for (c / 2^n - 1/2) * 3 mV (readme of WESAD).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairseq_ecg.data.record_file import RecordError, open_regular
from fairseq_ecg.data.signal import EcgSignal

_MAGIC = "# OpenSignals Text File Format"
_END = "# EndOfHeader"
_RANGE_MV = 3.0
_MAX_HEADER_BYTES = 1 << 16
_MAX_BYTES = 2 << 30


@dataclass(frozen=True)
class _Header:
    lines: int
    column: int
    rate_hz: float
    bits: int


def read_opensignals_ecg(path: Path) -> EcgSignal:
    """Read the electrocardiogram of a recording.

    Args:
        path: The text file.

    Returns:
        float32 [1, T] in mV, its lead called ``ECG``.

    Raises:
        RecordError: If it is no such file, of several devices, has no sensor ``ECG`` or several, or
            a line is no line of numbers.
    """
    with open_regular(str(path)) as (_, size):
        if size > _MAX_BYTES:
            raise RecordError("too_large", f"{path} must not exceed {_MAX_BYTES} bytes, has {size}")
    header = _read_header(path)
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            header=None,
            skiprows=header.lines,
            usecols=[header.column],
            dtype=np.float64,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise RecordError(
            "unreadable_file",
            f"{path} must have a number in column {header.column + 1} of each line after "
            f"'{_END}': {' '.join(str(error).split())}",
        ) from error
    counts = table.iloc[:, 0].to_numpy()
    top = 2**header.bits
    wrong = np.flatnonzero(~((counts >= 0) & (counts < top)))
    if wrong.size:
        raise RecordError(
            "nan",
            f"{path}, line {header.lines + 1 + wrong[0]}: column {header.column + 1} (ECG) must be "
            f"a count from 0 to {top - 1}, but is {counts[wrong[0]]:g} ({wrong.size} are wrong)",
        )
    values = ((counts / top - 0.5) * _RANGE_MV).astype(np.float32)
    return EcgSignal(values[None], header.rate_hz, ("ECG",))


def _read_header(path: Path) -> _Header:
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(_MAX_HEADER_BYTES)
    lines = [line.rstrip() for line in text.split("\n")]
    if not lines[0].startswith(_MAGIC) or _END not in lines:
        raise RecordError("bad_header", f"{path} must begin with {_MAGIC!r} and hold {_END!r}")
    end = lines.index(_END)
    try:
        devices = json.loads(lines[1].lstrip("# "))
        (device,) = devices.values()
        return _Header(end + 1, *_facts_of_ecg(device))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RecordError(
            "bad_header",
            f"{path}, line 2 must describe one device with one sensor ECG, its columns, resolution "
            f"and sampling rate: {error}",
        ) from error


def _facts_of_ecg(device: dict[str, Any]) -> tuple[int, float, int]:
    sensors = list(device["sensor"])
    if sensors.count("ECG") != 1:
        raise ValueError(f"its sensors are {', '.join(map(str, sensors))}")
    place = sensors.index("ECG")
    column = len(device["column"]) - len(sensors) + place
    rate_hz, bits = float(device["sampling rate"]), int(device["resolution"][place])
    if column < 0 or not rate_hz > 0 or not 1 <= bits <= 32:
        raise ValueError(f"column {column + 1}, {rate_hz:g} Hz, {bits} bits")
    return column, rate_hz, bits
