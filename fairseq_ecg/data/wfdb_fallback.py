"""Rare kinds of WFDB records, read by wfdb-python once their claims have been checked."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from fairseq_ecg.data.record_file import RecordError, open_regular, read_small_file
from fairseq_ecg.data.wfdb_formats import BYTES_PER_SAMPLE, INVALID
from fairseq_ecg.data.wfdb_header import (
    MAX_HEADER_BYTES,
    WfdbHeader,
    checked_size,
    read_header,
    units_per_mv,
)

_COMPRESSED = ("508", "516", "524")
_WIDE = {"8", "24", "32", "524"}
# Compression, gaps between segments and repeated segments let a small record become a large
# array; real ones stay far below this.
_LARGEST_GROWTH = 64
_ALWAYS_ALLOWED_BYTES = 64 << 20
# Format 8 has no mark for invalid samples; no sample reaches this value.
_NO_MARK = -(1 << 62)


def read_with_wfdb(
    stem: str, header: WfdbHeader
) -> tuple[WfdbHeader, np.ndarray, np.ndarray | None]:
    """Read a record with wfdb-python.

    Args:
        stem: The record without suffix.
        header: Its header.

    Returns:
        The header with the lead fields that belong to the samples; A/D values, int16 or
        int32 [C, T], skew removed and several samples per frame averaged, as wfdb does; and
        bool [C, T], True where they are invalid, or None.

    Raises:
        RecordError: If the sizes are implausible, or wfdb-python is absent or fails.
    """
    _check_ascii(stem)
    held = _check_segments(stem, header) if header.segments else _check_files(stem, header)
    needed = header.n_leads * header.n_samples * 8
    if needed > max(_ALWAYS_ALLOWED_BYTES, _LARGEST_GROWTH * held):
        raise RecordError(
            "size_mismatch",
            f"{stem}.hea claims {header.n_samples} samples of {header.n_leads} leads, "
            f"but its files hold only {held} bytes",
        )
    try:
        import wfdb
    except ImportError as error:
        raise RecordError(
            "unsupported_format", f"{stem} needs the package wfdb to be read: pip install wfdb"
        ) from error
    try:
        record = wfdb.rdrecord(os.path.abspath(stem), physical=False)
        return _convert(record, header, stem)
    except RecordError:
        raise
    except Exception as error:  # noqa: BLE001 - wfdb raises whatever its parts happen to raise
        raise RecordError(
            "unsupported_format", f"{stem} cannot be read by wfdb: {type(error).__name__}: {error}"
        ) from error


def _convert(
    record: Any, header: WfdbHeader, stem: str
) -> tuple[WfdbHeader, np.ndarray, np.ndarray | None]:
    """Bring what wfdb returned into our form."""
    adu = record.d_signal
    if adu.shape != (header.n_samples, header.n_leads):
        raise RecordError(
            "size_mismatch",
            f"{stem} must have {header.n_samples} samples of {header.n_leads} leads, "
            f"but wfdb returned {adu.shape}",
        )
    invalid = adu == np.array([INVALID.get(code, _NO_MARK) for code in record.fmt])
    if header.segments:
        gains = zip(record.adc_gain, record.units, strict=True)
        header = dataclasses.replace(
            header,
            leads=tuple(name or "" for name in record.sig_name),
            gains=tuple(float(gain * units_per_mv(unit)) for gain, unit in gains),
            baselines=tuple(int(baseline) for baseline in record.baseline),
            formats=tuple(record.fmt),
            units=tuple(record.units),
        )
    adu = adu.astype(np.int32 if _WIDE.intersection(record.fmt) else np.int16)
    return header, adu.T, invalid.T if invalid.any() else None


def _check_ascii(stem: str) -> None:
    """Refuse a header that wfdb, which drops all but ASCII, would read differently."""
    lines = read_small_file(stem + ".hea", MAX_HEADER_BYTES).splitlines()
    if not all(line.isascii() for line in lines if not line.lstrip().startswith(b"#")):
        raise RecordError(
            "unsupported_format",
            f"{stem}.hea is of a kind that only wfdb reads, and must be ASCII for that",
        )


def _check_segments(stem: str, header: WfdbHeader) -> int:
    """Check every segment; return the bytes that all of them hold."""
    folder, held = os.path.dirname(stem), 0
    for name, n_samples in dict.fromkeys(header.segments):
        if name == "~" or n_samples == 0:
            continue
        part = os.path.join(folder, name)
        inner = read_header(part)
        if inner.segments or inner.n_samples < n_samples:
            raise RecordError(
                "size_mismatch",
                f"segment {name} of {stem}.hea must be a single segment of {n_samples} samples, "
                f"but has {len(inner.segments)} segments and {inner.n_samples} samples",
            )
        _check_ascii(part)
        held += _check_files(part, inner)
    return held


def _check_files(stem: str, header: WfdbHeader) -> int:
    """Check the claims about each signal file; return the bytes that all of them hold."""
    unknown = set(header.formats) - set(BYTES_PER_SAMPLE) - set(_COMPRESSED)
    if unknown:
        raise RecordError(
            "unsupported_format",
            f"{stem}.hea names unknown storage formats: {', '.join(sorted(unknown))}",
        )
    if max(header.skews) > header.n_samples:
        raise RecordError(
            "bad_header",
            f"{stem}.hea: the skew must not exceed the {header.n_samples} samples, "
            f"but is {max(header.skews)}",
        )
    held = 0
    for file in dict.fromkeys(header.files):
        with open_regular(os.path.join(os.path.dirname(stem), file)) as (_, size):
            if header.formats[header.files.index(file)] not in _COMPRESSED:
                checked_size(header, file, size)
            held += size
    return held
