"""WFDB annotation files (`.atr`): where something was marked, and as what.

Source: the MIT annotation format, `annot(5)` of the WFDB Applications Guide (PhysioNet). A file is
a row of 16-bit words, six bits of code and ten of value. Most codes mark something, the value
samples after the mark before; four add to the mark before them, one is a larger step in time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_ecg.data.record_file import RecordError, read_small_file

MAX_ANNOTATION_BYTES = 16 << 20
"""Largest annotation file that is read (two weeks of beats, each with a text)."""

COMMENT = 22
"""Code of a comment; those at sample 0 describe the file."""

_SKIP, _AUX = 59, 63
# Codes from here on mark nothing of their own.
_FIRST_MODIFIER = 59
# What is written for "no text" where None was turned into text, as in all of Icentia11k.
_NO_TEXT = (int.from_bytes(b"No", "little"), int.from_bytes(b"ne", "little"))
_TIME_RESOLUTION = re.compile(r"## time resolution: (\d{1,9}(?:\.\d{0,9})?)", re.ASCII)


@dataclass(frozen=True, eq=False, slots=True)
class Annotations:
    """The marks of one annotation file.

    Attributes:
        sample: Where, in samples from the beginning of the record, int64 [M], ascending.
        code: What, as the format numbers it (1 is ``N``, 28 is ``+``), uint8 [M].
        aux: Text of the marks that have one, by their number; often ends with NUL.
        rate_hz: Samples per second that the file counts in; None if it does not say.
    """

    sample: np.ndarray
    code: np.ndarray
    aux: dict[int, str]
    rate_hz: float | None


def read_annotations(path: str | Path) -> Annotations:
    """Read an annotation file of the MIT format.

    Subtype, number and channel of the marks are skipped, and so are the comments at sample 0,
    which say how the file counts time and defines codes of its own. The text "None" counts as no
    text. Marks that are out of order are sorted.

    Args:
        path: The file, with its suffix.

    Returns:
        Its marks.

    Raises:
        RecordError: If the file is missing, too large, cut short or no annotation file.
    """
    path = str(path)
    content = read_small_file(path, MAX_ANNOTATION_BYTES)
    words = np.frombuffer(content, dtype="<u2", count=len(content) // 2)
    code, value = (words >> 10).astype(np.uint8), (words & 0x3FF).astype(np.int32)
    at = _elements(words, code, value, path)
    code, value = code[at], value[at]
    marks = np.flatnonzero(code < _FIRST_MODIFIER)
    sample = np.cumsum(_steps(words, at, code, value), dtype=np.int64)[marks]
    if sample.size and sample.min() < 0:
        raise RecordError(
            "bad_annotations", f"{path} must mark samples from 0 on, but marks {sample.min()}"
        )
    aux = _read_aux(words, at, code, value, path)
    return _tidy(sample, code[marks], aux)


def _elements(words: np.ndarray, code: np.ndarray, value: np.ndarray, path: str) -> np.ndarray:
    """Return the first word of each element up to the end mark, int32 [E].

    An element is one word, a step in time three, a text one and its characters. Which word
    follows which is doubled again and again: of the first 2**k elements, the 2**k-th followers
    are the next 2**k.
    """
    n_words = len(words)
    size = np.ones(n_words, dtype=np.int32)
    size[code == _SKIP] = 3
    texts = code == _AUX
    size[texts] += (value[texts] + 1) // 2
    follower = np.arange(n_words + 1, dtype=np.int32)
    follower[:-1] = np.minimum(follower[:-1] + size, n_words)
    at = np.zeros(1, dtype=np.int32)
    while at[-1] != n_words:
        at = np.append(at, follower[at])
        follower = follower[follower]
    at = at[at < n_words]
    ends = np.flatnonzero(words[at] == 0)
    if not ends.size:
        raise RecordError(
            "truncated", f"{path} must end with a mark of two zero bytes, but has none: cut short?"
        )
    return at[: ends[0]]


def _steps(words: np.ndarray, at: np.ndarray, code: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return by how many samples each element moves on, int32 [E]."""
    steps = np.where(code < _FIRST_MODIFIER, value, 0)
    skips = np.flatnonzero(code == _SKIP)
    high, low = (words[at[skips] + i].astype(np.uint32) for i in (1, 2))
    steps[skips] = (high << 16 | low).view(np.int32)
    return steps


def _read_aux(
    words: np.ndarray, at: np.ndarray, code: np.ndarray, value: np.ndarray, path: str
) -> dict[int, str]:
    """Return the texts by the number of their mark."""
    texts = np.flatnonzero(code == _AUX)
    owners = np.cumsum(code < _FIRST_MODIFIER)[texts] - 1
    if owners.size and owners[0] < 0:
        raise RecordError("bad_annotations", f"{path} must begin with a mark, but begins with text")
    following = np.append(words, (0, 0))
    first, second = (following[at[texts] + i] for i in (1, 2))
    none = (value[texts] == 4) & (first == _NO_TEXT[0]) & (second == _NO_TEXT[1])
    aux = {}
    for owner, text in zip(owners[~none].tolist(), texts[~none].tolist(), strict=True):
        begin = at[text] + 1
        content = words[begin : begin + (value[text] + 1) // 2].tobytes()
        aux[owner] = content[: value[text]].decode("latin-1")
    return aux


def _tidy(sample: np.ndarray, code: np.ndarray, aux: dict[int, str]) -> Annotations:
    """Take out what marks nothing, read the rate, and sort."""
    comments = (code == COMMENT) & (sample == 0)
    rate_hz = None
    for number in np.flatnonzero(comments).tolist():
        match = _TIME_RESOLUTION.match(aux.get(number, ""))
        rate_hz = float(match[1]) if match and rate_hz is None else rate_hz
    kept = np.flatnonzero((code != 0) & ~comments)
    kept = kept[np.argsort(sample[kept], kind="stable")]
    number_of = np.full(len(code), -1)
    number_of[kept] = np.arange(len(kept))
    aux = {int(number_of[old]): text for old, text in aux.items() if number_of[old] >= 0}
    return Annotations(sample[kept], code[kept], dict(sorted(aux.items())), rate_hz)
