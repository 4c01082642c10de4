"""The label of a frame of a long recording, from the beats and rhythms marked in it.

A mark stands at the END of what it names: of the heartbeat, or of the stretch of a rhythm, that
began at the mark before. Frames are half-open ranges of samples [start, stop).

Source: Weimann & Conrad 2021, Scientific Reports 11:5251, and the code released with it; the
classes are those of Icentia11k (Tan et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.wfdb_annotations import Annotations

BEATS = ("undefined", "normal", "PAC", "aberrated", "PVC")
"""Classes of heartbeats by id: PAC and PVC are premature atrial and ventricular contractions."""

RHYTHMS = ("undefined", "end", "noise", "normal", "AF", "AFL")
"""Classes of rhythms by id: normal sinus rhythm, atrial fibrillation, atrial flutter."""

HEART_RATES = ("tachycardia", "bradycardia", "normal", "noise")
"""Classes of heart rates by id: above 100, below 60, 60 to 100 beats per minute, unknown."""

BEATS_3 = ("normal", "PAC", "PVC")
"""The beats of the paper."""

RHYTHMS_4 = ("noise", "normal", "AF", "AFL")
"""The rhythms of the paper."""

TO_BEATS_3 = (-1, 0, 1, -1, 2)
"""For each of ``BEATS`` its place in ``BEATS_3``; -1 for frames to be skipped."""

TO_RHYTHMS_4 = (-1, 0, 0, 1, 2, 3)
"""For each of ``RHYTHMS`` its place in ``RHYTHMS_4``; -1 for frames to be skipped."""

_UNDEFINED, _NOISE, _RHYTHM_MARK = 0, 2, 28

# Codes of annot(5). Undefined are, besides Q and the learning mark, fusion and paced beats.
_BEAT_OF_CODE = {
    **dict.fromkeys((6, 12, 13, 30, 38), 0),  # F / Q ? f
    **dict.fromkeys((1, 2, 3, 11, 25, 34, 35), 1),  # N L R j B e n
    **dict.fromkeys((7, 8, 9), 2),  # J A S
    4: 3,  # a
    **dict.fromkeys((5, 10, 41), 4),  # V E r
}
# Everything else that annot(5) defines marks no beat: waves, noise, comments, rhythms.
_OTHER_CODES = (14, *range(16, 25), 26, 27, 28, 29, 31, 32, 33, 36, 37, 39, 40)
_NO_BEAT, _UNKNOWN = 254, 255
_KIND_OF_CODE = np.full(256, _UNKNOWN, dtype=np.uint8)
_KIND_OF_CODE[list(_OTHER_CODES)] = _NO_BEAT
_KIND_OF_CODE[list(_BEAT_OF_CODE)] = list(_BEAT_OF_CODE.values())

_RHYTHM_OF_NAME = {"NOISE": 2, "N": 3, "NSR": 3, "AFIB": 4, "AFL": 5}
# Rhythms of the MIT-BIH databases that are none of the classes.
_OTHER_RHYTHMS = ("AB", "ASYS", "B", "BI", "BII", "HGEA", "IVR", "J", "NOD", "P", "PM",
                  "PREX", "SAB", "SBR", "SVTA", "T", "VER", "VF", "VFIB", "VFL", "VT")  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True)
class Marks:
    """The beats and rhythms of one recording.

    Attributes:
        beat_sample: Where a beat ends, int32 [M], ascending.
        beat_id: Its class, position in ``BEATS``, uint8 [M].
        rhythm_sample: Where a stretch of one rhythm ends, int32 [R], ascending.
        rhythm_id: Its class, position in ``RHYTHMS``, uint8 [R].
    """

    beat_sample: np.ndarray
    beat_id: np.ndarray
    rhythm_sample: np.ndarray
    rhythm_id: np.ndarray


def marks_of(annotations: Annotations, n_samples: int) -> tuple[Marks, list[tuple[str, str]]]:
    """Translate annotations into marks.

    Rhythms are understood as Icentia11k writes them, zones "(AFIB" ... ")" from beat to beat, or
    as the MIT-BIH databases do, where "(AFIB" holds until the next one; a file with a closing
    bracket is of the first kind. Outside every zone a rhythm is noise, since Icentia11k writes
    "noise", "end" and "undefined" alike. A known rhythm that is none of the classes is undefined.

    Args:
        annotations: All of a recording.
        n_samples: Its length; what lies past the end is left out, with a remark. Below 2**31.

    Returns:
        The marks, and what was odd: pairs of a reason for the ledger and one line for people.

    Raises:
        RecordError: If ``n_samples`` is too large.
    """
    if n_samples >= 1 << 31:
        raise RecordError(
            "too_large", f"a recording must have less than 2**31 samples, but has {n_samples}"
        )
    remarks = []
    sample, code = annotations.sample, annotations.code
    n_inside = int(np.searchsorted(sample, n_samples))
    if n_inside < len(sample):
        remarks.append(
            (
                "annotation_past_end",
                f"{len(sample) - n_inside} of {len(sample)} annotations lie past the end of the "
                f"recording, from sample {sample[n_inside]} of {n_samples} on",
            )
        )
    sample, code = sample[:n_inside].astype(np.int32), code[:n_inside]
    kind = _KIND_OF_CODE[code]
    unknown = np.unique(code[kind == _UNKNOWN]).tolist()
    if unknown:
        remarks.append(
            (
                "unknown_symbol",
                f"codes that the format does not define, taken for undefined beats: "
                f"{', '.join(map(str, unknown[:5]))} (in {np.count_nonzero(kind == _UNKNOWN)} of "
                f"{len(kind)} annotations)",
            )
        )
    beats = kind != _NO_BEAT
    ids = np.where(kind == _UNKNOWN, np.uint8(_UNDEFINED), kind)[beats]
    names, odd = _rhythm_texts(annotations, code)
    if odd:
        remarks.append(("unknown_symbol", f"unknown rhythms, taken for undefined: {odd}"))
    rhythm_sample, rhythm_id = _rhythms(sample, code, beats, names, n_samples)
    return Marks(sample[beats], ids, rhythm_sample, rhythm_id), remarks


def beat_label(marks: Marks, start: int, stop: int) -> int:
    """Return the class of the beats of a frame, position in ``BEATS``.

    The most frequent of PAC, aberrated and PVC if there is one (of equals the first); else the
    more frequent of undefined and normal (of equals undefined, also without a beat). The beats are
    those that lie in the frame from their beginning; one that ends at ``stop`` counts.

    Args:
        marks: Marks of the recording.
        start: First sample of the frame.
        stop: Sample after its last one.
    """
    counts = np.bincount(marks.beat_id[_complete(marks, start, stop)], minlength=len(BEATS))
    return _first_largest(counts, (2, 3, 4)) or _first_largest(counts, (0, 1)) or _UNDEFINED


def rhythm_label(marks: Marks, start: int, stop: int) -> int:
    """Return the class of the rhythms of a frame, position in ``RHYTHMS``.

    The longest of undefined, AF and AFL if there is one, however short; else the longest of end,
    noise and normal (of equals the first); undefined where no mark follows the frame's start.

    Args:
        marks: Marks of the recording.
        start: First sample of the frame.
        stop: Sample after its last one.
    """
    sample = marks.rhythm_sample
    first, last = np.searchsorted(sample, start, "right"), np.searchsorted(sample, stop, "left")
    ends = sample[first : last + 1].astype(np.int64)
    if not ends.size:
        return _UNDEFINED
    ends[-1] = stop
    seconds = np.diff(ends, prepend=start)
    totals = np.bincount(marks.rhythm_id[first : last + 1], seconds, minlength=len(RHYTHMS))
    if (totals[[0, 4, 5]] > 0).any():
        return _first_largest(totals, (0, 4, 5)) or _UNDEFINED
    return _first_largest(totals, (1, 2, 3)) or _UNDEFINED


def heart_rate_label(marks: Marks, start: int, stop: int, rate_hz: float) -> int:
    """Return the class of the mean heart rate of a frame, position in ``HEART_RATES``.

    Args:
        marks: Marks of the recording.
        start: First sample of the frame.
        stop: Sample after its last one.
        rate_hz: Samples per second.
    """
    sample = marks.beat_sample[_complete(marks, start, stop)]
    if len(sample) < 2 or sample[-1] == sample[0]:
        return 3
    per_minute = 60 * rate_hz * (len(sample) - 1) / float(sample[-1] - sample[0])
    if per_minute > 100:
        return 0
    return 1 if per_minute < 60 else 2


def _complete(marks: Marks, start: int, stop: int) -> slice:
    """Return which beats begin and end in a frame."""
    sample = marks.beat_sample
    first = int(np.searchsorted(sample, start, "left")) + 1
    return slice(first, int(np.searchsorted(sample, stop, "right")))


def _first_largest(counts: np.ndarray, ids: tuple[int, ...]) -> int | None:
    """Return the first of the ids with the largest count; None if all counts are 0."""
    best = max(ids, key=lambda id: counts[id])
    return best if counts[best] > 0 else None


def _rhythm_texts(annotations: Annotations, code: np.ndarray) -> tuple[dict[int, str], str]:
    """Return the text of each rhythm mark by its number, and the unknown ones as a list."""
    texts = {
        number: annotations.aux.get(number, "").rstrip("\0 ")
        for number in np.flatnonzero(code == _RHYTHM_MARK).tolist()
    }
    known = {*_RHYTHM_OF_NAME, *_OTHER_RHYTHMS, ""}
    odd = sorted({text for text in texts.values() if text.strip("()") not in known})
    return texts, ", ".join(map(repr, odd[:5]))


def _rhythms(
    sample: np.ndarray, code: np.ndarray, beats: np.ndarray, texts: dict[int, str], n_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return where stretches of a rhythm end, int32 [R], and its ids, uint8 [R]."""
    at = np.unique(sample[beats | (code == _RHYTHM_MARK)])
    closes = any(text.endswith(")") for text in texts.values())
    if texts and not closes:
        # The last rhythm holds to the end, whatever beats there are.
        at = np.append(at, np.int32(n_samples))
    ids = np.full(len(at), _NOISE, dtype=np.uint8)
    events = [(int(sample[number]), text) for number, text in texts.items() if text]
    for first, last, id in _zones(events, n_samples) if closes else _changes(events, n_samples):
        ids[np.searchsorted(at, first) : np.searchsorted(at, last, "right")] = id
    return at, ids


def _zones(events: list[tuple[int, str]], n_samples: int) -> Iterator[tuple[int, int, int]]:
    """Yield first sample, last sample and id of each zone between brackets."""
    first, id = 0, None
    for sample, text in events:
        if text.startswith("("):
            if id is not None:
                yield first, sample - 1, id
            first, id = sample, _rhythm_id(text)
        if text.endswith(")") and id is not None:
            yield first, sample, id
            id = None
    if id is not None:
        yield first, n_samples, id


def _changes(events: list[tuple[int, str]], n_samples: int) -> Iterator[tuple[int, int, int]]:
    """Yield the same where each rhythm holds until the next; its marks lie after the change."""
    stops = [sample for sample, _ in events[1:]] + [n_samples]
    for (sample, text), stop in zip(events, stops, strict=False):
        yield sample + 1, stop, _rhythm_id(text)


def _rhythm_id(text: str) -> int:
    return _RHYTHM_OF_NAME.get(text.strip("()"), _UNDEFINED)
