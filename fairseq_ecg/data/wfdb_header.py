"""WFDB header files (`.hea`), parsed field by field.

Source: the WFDB header file format, `header(5)` of the WFDB Applications Guide (PhysioNet).
Where that page leaves room, the semantics are those of wfdb-python.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fairseq_ecg.data.record_file import RecordError, open_regular, read_small_file
from fairseq_ecg.data.wfdb_formats import BYTES_PER_SAMPLE, stored_bytes

MAX_RECORD_BYTES = 4 << 30
"""Largest signal file content that is read in one piece (12 leads of 2 days at 1000 Hz)."""

MAX_HEADER_BYTES = 4 << 20
"""Largest header file that is read."""

# The format allows 255; long lines would also make regular expressions slow.
_MAX_LINE = 1024
_MAX_LEADS = 1000
_MAX_SEGMENTS = 10_000
_DEFAULT_RATE_HZ = 250.0
_DEFAULT_GAIN = 200.0
# Gains beyond these make no signal, and would overflow float32.
_GAIN_RANGE = (1e-9, 1e15)
_LARGEST_BASELINE = 1 << 32

_UNITS_PER_MV = {
    "mv": 1.0, "millivolt": 1.0, "uv": 1e3, "µv": 1e3, "μv": 1e3, "microvolt": 1e3, "nv": 1e6,
    "v": 1e-3, "volt": 1e-3,
}  # fmt: skip

# A header that asks for this much, and for far more than there is, lies; a smaller gap is a
# file that was cut short.
_SURELY_A_LIE_BYTES = 1 << 28
_SURELY_A_LIE_RATIO = 1000

_NUMBER = r"(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?"
_RECORD = re.compile(r"(?P<name>[^/\s]+)(?:/(?P<segments>\d{1,9}))?", re.ASCII)
_RATE = re.compile(rf"(?P<rate>{_NUMBER})(?:/(?:-?{_NUMBER})?(?:\(-?(?:{_NUMBER})?\))?)?", re.ASCII)
_FORMAT = re.compile(
    r"(?P<format>\d{1,3})(?:x(?P<per_frame>\d{1,9}))?(?::(?P<skew>\d{1,9}))?"
    r"(?:\+(?P<offset>\d{1,18}))?",
    re.ASCII,
)
_GAIN = re.compile(
    rf"(?P<gain>[-+]?{_NUMBER})?(?:\((?P<baseline>[-+]?\d{{1,18}})\))?(?:/(?P<units>\S+))?",
    re.ASCII,
)
_INTEGER = re.compile(r"[-+]?\d{1,18}", re.ASCII)
# Python, and with it wfdb, would end a line at these, so that both readers saw different lines.
_HIDDEN_LINE_BREAK = re.compile(rb"[\x0b\x0c\x1c-\x1e]")


@dataclass(frozen=True, slots=True)
class WfdbHeader:
    """One WFDB header. Tuples have one item per lead, in file order.

    Attributes:
        record: Record name as written.
        n_leads: Number of leads, C.
        rate_hz: Samples per second and lead (frames per second where leads differ).
        n_samples: Samples per lead, T; from the size of the signal file if the header omits it.
        leads: Lead names as written; empty where the header has none.
        gains: A/D units per millivolt, whatever the unit; NaN for units that are no voltage.
        baselines: A/D value of 0 physical units.
        formats: Storage format codes, such as "16" or "212".
        files: Signal file names, bare names beside the header.
        byte_offsets: First byte of the samples in the file.
        samples_per_frame: More than 1 where a lead has a higher rate.
        skews: Samples by which a lead lags behind the first.
        units: Physical units as written ("mV" if the header omits them).
        init_values: First sample, or None if the header omits it.
        checksums: 16-bit sum of all samples, or None if the header omits it.
        comments: Comment lines without "#", stripped.
        segments: (name, samples) of each segment of a multi-segment record, else empty.
    """

    record: str
    n_leads: int
    rate_hz: float
    n_samples: int
    leads: tuple[str, ...]
    gains: tuple[float, ...]
    baselines: tuple[int, ...]
    formats: tuple[str, ...]
    files: tuple[str, ...]
    byte_offsets: tuple[int, ...]
    samples_per_frame: tuple[int, ...]
    skews: tuple[int, ...]
    units: tuple[str, ...]
    init_values: tuple[int | None, ...]
    checksums: tuple[int | None, ...]
    comments: tuple[str, ...]
    segments: tuple[tuple[str, int], ...] = ()


# The fields with one item per lead, in the order in which a lead line is parsed.
_LEAD_FIELDS = (
    "leads", "gains", "baselines", "formats", "files", "byte_offsets", "samples_per_frame",
    "skews", "units", "init_values", "checksums",
)  # fmt: skip


def read_header(path: str | Path) -> WfdbHeader:
    """Read a WFDB header.

    Base time and date are ignored, in whatever form they are. A multi-segment record takes its
    lead descriptions from its first segment that exists (the layout segment, if there is one).

    Args:
        path: The record without suffix, or its `.hea` file.

    Returns:
        The header; sizes are as declared, not yet compared with the signal files.

    Raises:
        RecordError: If the header is missing, garbage, empty, unsafe, or contradicts itself.
    """
    stem = record_stem(path)
    header = _read(stem)
    if header.segments:
        header = _with_segment_leads(header, stem)
    elif header.n_samples < 0:
        header = dataclasses.replace(header, n_samples=_samples_in_file(header, stem))
    if header.n_leads == 0 or header.n_samples == 0:
        raise RecordError(
            "empty",
            f"{stem}.hea must declare leads and samples, but declares "
            f"{header.n_leads} leads of {header.n_samples} samples",
        )
    return header


def record_stem(path: str | Path) -> str:
    """Return the path of a record without the suffix `.hea`."""
    text = os.fspath(path)
    return text[:-4] if text.endswith(".hea") else text


def units_per_mv(unit: str) -> float:
    """Return how many of a unit make one millivolt; NaN for what is no voltage."""
    return _UNITS_PER_MV.get(unit.lower(), math.nan)


def frame_samples(header: WfdbHeader, file: str) -> int:
    """Count the samples of all leads that one file holds per frame."""
    return sum(
        n for n, name in zip(header.samples_per_frame, header.files, strict=True) if name == file
    )


def checked_size(header: WfdbHeader, file: str, actual: int) -> int:
    """Compare what a header claims about one signal file with the size of that file.

    Args:
        header: Header that names the file.
        file: Name of the signal file.
        actual: Its size in bytes.

    Returns:
        Number of bytes from the byte offset on that hold the samples.

    Raises:
        RecordError: If the file is too short for the claim, or larger than is read in one piece.
    """
    first = header.files.index(file)
    n_values = header.n_samples * frame_samples(header, file)
    needed = stored_bytes(header.formats[first], n_values)
    claim = needed + header.byte_offsets[first]
    if claim > actual:
        lie = claim > max(_SURELY_A_LIE_BYTES, _SURELY_A_LIE_RATIO * actual)
        raise RecordError(
            "size_mismatch" if lie else "truncated",
            f"record {header.record}: {file} must have {claim} bytes for {n_values} samples in "
            f"format {header.formats[first]}, but has {actual}",
        )
    if needed > MAX_RECORD_BYTES:
        raise RecordError(
            "too_large",
            f"record {header.record}: {file} must not hold more than {MAX_RECORD_BYTES} bytes "
            f"of samples, but holds {needed}",
        )
    return needed


def _read(stem: str) -> WfdbHeader:
    """Parse one header file without following it to segments or signal files."""
    path = stem + ".hea"
    content = read_small_file(path, MAX_HEADER_BYTES)
    try:
        return _parse(content)
    except RecordError as error:
        raise RecordError(error.reason, f"{path}: {error.args[1]}") from error


def _parse(content: bytes) -> WfdbHeader:
    lines, comments = _split_lines(content)
    record, n_segments, n_leads, rate_hz, n_samples = _parse_record_line(lines[0])
    rows: list[tuple] = []
    segments: tuple[tuple[str, int], ...] = ()
    if n_segments is not None:
        segments = _parse_segments(lines[1:], n_segments)
        total = sum(length for _, length in segments)
        if n_samples not in (-1, total):
            raise RecordError(
                "size_mismatch",
                f"the segments must add up to {n_samples} samples, but have {total}",
            )
        n_samples = total
    elif len(lines) - 1 != n_leads or n_leads > _MAX_LEADS:
        raise RecordError(
            "size_mismatch",
            f"declares {n_leads} leads (at most {_MAX_LEADS} are read), "
            f"and describes {len(lines) - 1}",
        )
    else:
        rows = [_parse_signal_line(line) for line in lines[1:]]
    columns: Iterable[Any] = zip(*rows, strict=True) if rows else [()] * len(_LEAD_FIELDS)
    return WfdbHeader(
        record=record,
        n_leads=n_leads,
        rate_hz=rate_hz,
        n_samples=n_samples,
        comments=comments,
        segments=segments,
        **dict(zip(_LEAD_FIELDS, columns, strict=True)),
    )


def _split_lines(content: bytes) -> tuple[list[str], tuple[str, ...]]:
    """Separate header lines, which must be UTF-8, from comments, which only should be."""
    if _HIDDEN_LINE_BREAK.search(content):
        raise RecordError("bad_header", "must not hold line breaks other than CR and LF")
    lines, comments = [], []
    for raw in content.removeprefix(b"\xef\xbb\xbf").splitlines():
        line = raw.strip()
        if line.startswith(b"#"):
            comments.append(line.decode("utf-8", errors="replace").lstrip("#").strip())
        elif len(line) > _MAX_LINE:
            raise RecordError(
                "bad_header", f"a line must not exceed {_MAX_LINE} bytes, but has {len(line)}"
            )
        elif line:
            lines.append(_decode(line))
    if not lines:
        raise RecordError("bad_header", "must begin with a record line, but has none")
    return lines, tuple(comments)


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad("a line", "text in UTF-8", repr(line)) from error


def _parse_record_line(line: str) -> tuple[str, int | None, int, float, int]:
    """Parse `name[/segments] leads [rate[/counter[(base)]] [samples [time [date]]]]`."""
    fields = line.split()
    match = _RECORD.fullmatch(fields[0]) if fields else None
    if match is None or len(fields) < 2:
        raise _bad("the record line", "name[/segments] leads [rate [samples]]", line)
    n_segments = int(match["segments"]) if match["segments"] else None
    n_leads = _count(fields[1], "the number of leads")
    rate_hz = _DEFAULT_RATE_HZ
    if len(fields) > 2:
        rate = _RATE.fullmatch(fields[2])
        rate_hz = float(rate["rate"]) if rate else math.nan
        if not math.isfinite(rate_hz) or rate_hz <= 0:
            raise _bad("the rate", "a finite, positive number", fields[2])
    # Some headers in the wild go from the rate straight to the base time.
    if len(fields) > 3 and ":" not in fields[3]:
        n_samples = _count(fields[3], "the number of samples")
    else:
        n_samples = -1
    return match["name"], n_segments, n_leads, rate_hz, n_samples


def _parse_signal_line(line: str) -> tuple:
    """Parse `file format [gain [resolution zero init checksum block] [description]]`.

    Returns:
        The values of `_LEAD_FIELDS`.
    """
    fields = line.split(None, 8)
    if len(fields) < 2:
        raise _bad("a lead line", "at least a file name and a format", line)
    if not _is_bare_name(fields[0]):
        raise RecordError(
            "unsafe_path", f"signal files must lie beside the header, but one is {fields[0]!r}"
        )
    code, per_frame, skew, offset = _parse_format(fields[1])
    gain, baseline, unit = _parse_gain(fields[2] if len(fields) > 2 else "")
    zero, init, checksum = (_integer(fields[i]) if len(fields) > i else None for i in (4, 5, 6))
    if baseline is None:
        baseline = zero or 0
    if abs(baseline) > _LARGEST_BASELINE:
        raise _bad("a baseline", f"at most {_LARGEST_BASELINE}", str(baseline))
    lead = fields[8].strip() if len(fields) > 8 else ""
    return lead, gain, baseline, code, fields[0], offset, per_frame, skew, unit, init, checksum


@lru_cache(maxsize=256)
def _parse_format(text: str) -> tuple[str, int, int, int]:
    """Parse `format[xN][:skew][+offset]`."""
    match = _FORMAT.fullmatch(text)
    per_frame = int(match["per_frame"] or 1) if match else 0
    if match is None or per_frame == 0:
        raise _bad("a format", "such as 16, 16+24 or 212x2:1+0", text)
    return match["format"], per_frame, int(match["skew"] or 0), int(match["offset"] or 0)


@lru_cache(maxsize=256)
def _parse_gain(text: str) -> tuple[float, int | None, str]:
    """Parse `gain[(baseline)][/units]` into A/D units per mV, baseline and units as written."""
    match = _GAIN.fullmatch(text)
    if match is None:
        raise _bad("a gain", "such as 1000, 1000/mV or 1000.0(0)/mV", text)
    # Zero or no gain means "not calibrated"; WFDB assumes 200 units per mV then.
    gain = float(match["gain"] or 0.0) or _DEFAULT_GAIN
    if not _GAIN_RANGE[0] <= abs(gain) <= _GAIN_RANGE[1]:
        raise _bad("a gain", "finite, from {:g} to {:g} per unit".format(*_GAIN_RANGE), text)
    baseline = int(match["baseline"]) if match["baseline"] else None
    unit = match["units"] or "mV"
    return gain * units_per_mv(unit), baseline, unit


def _parse_segments(lines: Sequence[str], n_segments: int) -> tuple[tuple[str, int], ...]:
    """Parse the `name samples` lines of a multi-segment header."""
    if n_segments != len(lines) or not 0 < n_segments <= _MAX_SEGMENTS:
        raise RecordError(
            "size_mismatch",
            f"declares {n_segments} segments (at most {_MAX_SEGMENTS} are read), "
            f"and describes {len(lines)}",
        )
    segments = []
    for line in lines:
        fields = line.split()
        if len(fields) != 2:
            raise _bad("a segment line", "name and number of samples", line)
        if not _is_bare_name(fields[0]):
            raise RecordError(
                "unsafe_path", f"segments must lie beside the header, but one is {fields[0]!r}"
            )
        segments.append((fields[0], _count(fields[1], "the length of a segment")))
    return tuple(segments)


def _with_segment_leads(header: WfdbHeader, stem: str) -> WfdbHeader:
    """Copy the lead descriptions of the first existing segment into a multi-segment header."""
    name = next((name for name, _ in header.segments if name != "~"), None)
    if name is None:
        raise RecordError("empty", f"{stem}.hea must name a segment, but has only gaps")
    first = _read(os.path.join(os.path.dirname(stem), name))
    if first.segments or first.n_leads != header.n_leads:
        raise RecordError(
            "size_mismatch",
            f"segment {name} of {stem}.hea must be a single segment of {header.n_leads} leads, "
            f"but has {len(first.segments)} segments and {first.n_leads} leads",
        )
    return dataclasses.replace(
        first,
        record=header.record,
        rate_hz=header.rate_hz,
        n_samples=header.n_samples,
        comments=header.comments,
        segments=header.segments,
    )


def _samples_in_file(header: WfdbHeader, stem: str) -> int:
    """Work out the number of samples per lead from the size of the first signal file."""
    if header.n_leads == 0:
        return 0
    file, code = header.files[0], header.formats[0]
    if code not in BYTES_PER_SAMPLE:
        raise RecordError(
            "unsupported_format",
            f"{stem}.hea must declare the number of samples, because it does not follow from "
            f"the file size in format {code}",
        )
    with open_regular(os.path.join(os.path.dirname(stem), file)) as (_, size):
        available = max(0, size - header.byte_offsets[0])
    return int(available / (BYTES_PER_SAMPLE[code] * frame_samples(header, file)))


@lru_cache(maxsize=256)
def _is_bare_name(name: str) -> bool:
    """Tell whether a name stays in its folder and holds nothing unprintable."""
    return name.isprintable() and name not in (".", "..") and not any(c in "/\\:" for c in name)


def _count(text: str, what: str) -> int:
    """Parse a whole number that cannot be negative."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise _bad(what, "a whole number of at most 18 digits, not negative", text)
    return int(text)


def _integer(text: str) -> int:
    """Parse a whole number with or without a sign."""
    if _INTEGER.fullmatch(text) is None:
        raise _bad("a lead field", "a whole number", text)
    return int(text)


def _bad(what: str, expected: str, found: str) -> RecordError:
    return RecordError("bad_header", f"{what} must be {expected}, but is {found[:80]!r}")
