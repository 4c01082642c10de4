"""WFDB records, read as fast as their bytes allow and with every claim of the header checked.

The common formats (16, 212, 24, 32, 61, 80) are decoded here; records with skewed leads, several
samples per frame, several segments or rarer formats go to wfdb-python, after the same checks.

Source: the WFDB signal file formats, `signal(5)` of the WFDB Applications Guide (PhysioNet), and
the MATLAB level 4 file layout, in which PhysioNet's challenges wrap format 16.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_ecg.data.record_file import RecordError, open_regular, read_exactly
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.wfdb_fallback import read_with_wfdb
from fairseq_ecg.data.wfdb_formats import DECODERS, INVALID, VALUES_PER_GROUP, stored_bytes
from fairseq_ecg.data.wfdb_header import (
    WfdbHeader,
    checked_size,
    frame_samples,
    read_header,
    record_stem,
)

__all__ = [
    "RawRecord",
    "RecordError",
    "WfdbHeader",
    "read_header",
    "read_raw",
    "read_signal",
    "to_millivolts",
    "verify_checksum",
]

# MATLAB level 4 type numbers (little-endian, full matrix): int16, int32, uint8.
_V4_TYPE = {"16": 30, "32": 20, "80": 50}


@dataclass(frozen=True, eq=False, slots=True)
class RawRecord:
    """The samples of a record as they are stored.

    Attributes:
        header: The header they belong to.
        adu: A/D values, int16 or int32 [C, T]; often a transposed view, so not C-contiguous.
        invalid: bool [C, T], True where the format's mark for "invalid" stands; None if nowhere.
    """

    header: WfdbHeader
    adu: np.ndarray
    invalid: np.ndarray | None


def read_raw(
    path: str | Path, header: WfdbHeader | None = None, start: int = 0, stop: int | None = None
) -> RawRecord:
    """Read a WFDB record, or part of it, without scaling it.

    Of a part only its own bytes are read, except in the formats that wfdb-python decodes.

    Args:
        path: The record without suffix, or its `.hea` file.
        header: Its header, if already read; sizes in it are compared with the files each time.
        start: First sample.
        stop: Sample after the last one, more than `start`; None for the end.

    Returns:
        The stored samples. For records read through wfdb-python the header's gains, baselines,
        units and lead names are those that belong to the samples returned.

    Raises:
        RecordError: If header and files contradict each other, are unsafe, or cannot be read.
    """
    stem = record_stem(path)
    header = header or read_header(stem)
    stop = header.n_samples if stop is None else stop
    if not 0 <= start < stop <= header.n_samples:
        raise RecordError(
            "truncated",
            f"record {header.record} has samples 0 to {header.n_samples}, not {start} to {stop}",
        )
    if _needs_wfdb(header):
        header, adu, invalid = read_with_wfdb(stem, header)
        invalid = None if invalid is None else invalid[:, start:stop]
        return RawRecord(header, adu[:, start:stop], invalid)
    folder = os.path.dirname(stem)
    files = list(dict.fromkeys(header.files))
    if len(files) == 1:
        block, invalid = _read_file(folder, files[0], header, start, stop)
        return RawRecord(header, block.T, None if invalid is None else invalid.T)
    return _read_files(folder, files, header, start, stop)


def to_millivolts(raw: RawRecord) -> np.ndarray:
    """Scale stored samples: (A/D value - baseline) / gain, NaN where they are invalid.

    Args:
        raw: A record.

    Returns:
        float32 [C, T], mV, C-contiguous; each value is the double-precision result, rounded.

    Raises:
        RecordError: If a lead has a unit that is no voltage.
    """
    header = raw.header
    foreign = {u for u, gain in zip(header.units, header.gains, strict=True) if gain != gain}
    if foreign:
        raise RecordError(
            "unknown_unit",
            f"record {header.record}: all leads must be in mV, uV, nV or V, "
            f"but some are in {', '.join(sorted(foreign))}; read them with read_raw",
        )
    n_samples = raw.adu.shape[1]
    values = np.empty(raw.adu.shape, dtype=np.float32)
    # With operands that float32 holds exactly, its division rounds the true quotient just once.
    exact = _float32_is_exact(raw)
    for row, (baseline, gain) in enumerate(zip(header.baselines, header.gains, strict=True)):
        lead = values[row] if exact else np.empty(n_samples, dtype=np.float64)
        lead[:] = raw.adu[row]
        if baseline:
            lead -= baseline
        np.divide(lead, lead.dtype.type(gain), out=values[row], casting="same_kind")
    if raw.invalid is not None:
        values[raw.invalid] = np.nan
    return values


def read_signal(path: str | Path) -> EcgSignal:
    """Read a WFDB record in millivolts.

    Args:
        path: The record without suffix, or its `.hea` file.

    Returns:
        The recording; samples that the file marks as invalid are NaN.

    Raises:
        RecordError: If the record cannot be read, or a lead is no voltage.
    """
    raw = read_raw(path)
    return EcgSignal(to_millivolts(raw), raw.header.rate_hz, raw.header.leads)


def verify_checksum(raw: RawRecord) -> list[str]:
    """Compare the samples with the checksums of the header.

    A checksum that is absent, or 0 as in CinC 2017, says nothing, and neither does that of a lead
    whose samples were realigned or averaged on reading.

    Args:
        raw: A record.

    Returns:
        Names of the leads whose 16-bit sum differs from the header, in row order.
    """
    header = raw.header
    if header.segments:
        return []
    sums = raw.adu.sum(axis=1, dtype=np.int64)
    rows = zip(
        header.leads, header.checksums, header.skews, header.samples_per_frame, sums, strict=True
    )
    return [
        lead
        for lead, checksum, skew, per_frame, total in rows
        if checksum and skew == 0 and per_frame == 1 and (int(total) - checksum) % 65536
    ]


def _needs_wfdb(header: WfdbHeader) -> bool:
    return bool(
        header.segments
        or any(code not in DECODERS for code in header.formats)
        or any(header.skews)
        or any(n != 1 for n in header.samples_per_frame)
    )


def _read_files(
    folder: str, files: list[str], header: WfdbHeader, start: int, stop: int
) -> RawRecord:
    """Read a record whose leads lie in several files."""
    shape = (header.n_leads, stop - start)
    blocks = [_read_file(folder, file, header, start, stop) for file in files]
    adu = np.empty(shape, dtype=np.result_type(*[block.dtype for block, _ in blocks]))
    invalid = None
    for file, (block, marked) in zip(files, blocks, strict=True):
        rows = [row for row, name in enumerate(header.files) if name == file]
        adu[rows] = block.T
        if marked is not None:
            invalid = np.zeros(shape, dtype=bool) if invalid is None else invalid
            invalid[rows] = marked.T
    return RawRecord(header, adu, invalid)


def _read_file(
    folder: str, file: str, header: WfdbHeader, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read from one signal file: A/D values [T, leads in the file] and where they are invalid."""
    first = header.files.index(file)
    code, offset = header.formats[first], header.byte_offsets[first]
    codes = {c for c, name in zip(header.formats, header.files, strict=True) if name == file}
    if len(codes) > 1:
        raise RecordError(
            "bad_header",
            f"record {header.record}: all leads in {file} must have one format, "
            f"but have {', '.join(sorted(codes))}",
        )
    path = os.path.join(folder, file)
    per_sample = frame_samples(header, file)
    n_values = (stop - start) * per_sample
    # Of the values that share bytes the first ones are decoded too, and dropped.
    before = start * per_sample % VALUES_PER_GROUP.get(code, 1)
    offset_of_part = stored_bytes(code, start * per_sample - before)
    with open_regular(path) as (descriptor, size):
        checked_size(header, file, size)
        if file.lower().endswith(".mat") and code in _V4_TYPE:
            head = bytearray(min(size, 20))
            read_exactly(descriptor, memoryview(head), path)
            whole = header.n_samples * per_sample
            _check_v4(bytes(head), path, code, offset, whole, header.n_samples)
        try:
            stored = np.empty(stored_bytes(code, before + n_values), dtype=np.uint8)
            read_exactly(descriptor, stored.data, path, offset + offset_of_part)
            values = DECODERS[code](stored, before + n_values)[before:]
            block = values.reshape(stop - start, per_sample)
        except MemoryError as error:
            raise RecordError("too_large", f"{path} does not fit into memory") from error
    marker = INVALID[code]
    return block, (block == marker if block.min() == marker else None)


def _check_v4(
    head: bytes, path: str, code: str, offset: int, n_values: int, n_samples: int
) -> None:
    """Compare a MATLAB level 4 matrix header with the WFDB header that describes its data."""
    expected = (_V4_TYPE[code], n_values // n_samples, n_samples, 0, offset - 20)
    found = struct.unpack("<5i", head) if len(head) == 20 else ()
    if found != expected:
        raise RecordError(
            "mat_mismatch",
            f"{path}: the MATLAB header must say (type, rows, columns, imaginary, name length) = "
            f"{expected} to agree with the .hea, but says {found}",
        )


def _float32_is_exact(raw: RawRecord) -> bool:
    """Tell whether float32 holds every A/D value less baseline, and every gain, exactly."""
    return (
        raw.adu.dtype == np.int16
        and all(abs(baseline) < 1 << 23 for baseline in raw.header.baselines)
        and all(float(np.float32(gain)) == gain for gain in raw.header.gains)
    )
