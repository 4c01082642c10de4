"""Windows of 10 s as records of their own, cut from trials, so that none straddles two labels.

A trial is resampled as a whole with the polyphase filter of the package and cut then, so windows
have no edges of their own. (The fork of Sarkar & Etemad's network interpolates linearly, which lets
tones above the new Nyquist frequency return.)
"""

from __future__ import annotations

import abc
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.record_reader import RecordFacts, Recording
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.resample import resample

RATE_HZ = 256.0
"""Rate of the windows."""
WINDOW = 2560
"""Samples of a window, 10 s."""

_LEAST_RATE_HZ, _LARGEST_RATE_HZ = 100.0, 8000.0
# The filter between two rates from the least one on reaches less far than this.
_REACH_S = 0.25


@dataclass(frozen=True)
class Trace:
    """A trial, as its file holds it and at the rate of the windows.

    Attributes:
        source: The trial as read, NaN where a sample is missing, float32 [C, T].
        rate_hz: Its rate.
        leads: Names of its leads.
        columns: What each lead is called in the file, for messages.
        values: The trial at ``RATE_HZ``, with 0 for what is missing, float32 [C, T'].
    """

    source: np.ndarray
    rate_hz: float
    leads: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray


def make_trace(
    source: np.ndarray, rate_hz: float, leads: tuple[str, ...], columns: tuple[str, ...]
) -> Trace:
    """Resample a trial.

    Args:
        source: float32 [C, T], perhaps with NaN.
        rate_hz: Its rate.
        leads: Names of its leads.
        columns: What each lead is called in the file.

    Raises:
        ValueError: If the rate is not from 100 to 8000 Hz, or the trial has not even a sample.
    """
    if not _LEAST_RATE_HZ <= rate_hz <= _LARGEST_RATE_HZ:
        raise ValueError(
            f"{', '.join(columns)} must have a rate from {_LEAST_RATE_HZ:g} to "
            f"{_LARGEST_RATE_HZ:g} Hz, but is said to have {rate_hz:g} Hz"
        )
    missing = ~np.isfinite(source)
    whole = np.where(missing, np.float32(0), source) if missing.any() else source
    return Trace(source, rate_hz, leads, columns, resample(whole, rate_hz, RATE_HZ))


def window_starts(n_samples: int, first: int = 0) -> list[int]:
    """Return the first sample of each whole window of a trial, one after the other.

    A trial that is too short has one window nevertheless, so that the ledger of a build names it.

    Args:
        n_samples: Samples of the trial at ``RATE_HZ``.
        first: Where the first window begins.
    """
    return list(range(first, n_samples - WINDOW + 1, WINDOW)) or [first]


def samples_at_rate(n_samples: int, rate_hz: float) -> int:
    """Return how many samples a trial has at ``RATE_HZ``.

    Args:
        n_samples: Its samples in the file.
        rate_hz: Its rate there.
    """
    return round(n_samples * RATE_HZ / rate_hz)


@dataclass(frozen=True)
class WindowReader(abc.ABC):
    """Reads one window of one trial; a ``RecordReader``. Subclasses are frozen dataclasses.

    The trials of the file that was read last are kept, so that its windows cost one read.

    Attributes:
        leads: Names of the leads.
        start: First sample of the window in its trial, at ``RATE_HZ``.
    """

    leads: ClassVar[tuple[str, ...]]
    start: int

    @property
    def trial(self) -> Hashable:
        """Which of the file's trials; an empty name where the file is one trial."""
        return ""

    @property
    def options(self) -> tuple[Any, ...]:
        """What ``load`` needs besides the path."""
        return ()

    @staticmethod
    @abc.abstractmethod
    def load(path: Path, *options: Any) -> Mapping[Any, Trace]:
        """Return the trials of a file.

        Raises:
            ValueError: If it cannot be read, or makes no trace.
        """

    def facts(self, path: Path) -> RecordFacts:
        """See ``RecordReader.facts``."""
        del path
        return RecordFacts(WINDOW, RATE_HZ, self.leads)

    def read(self, path: Path) -> Recording:
        """See ``RecordReader.read``.

        Raises:
            RecordError: If the file cannot be read, has no such trial, the trial is too short, or
                samples of the window are missing; names file, trial, column and samples.
        """
        trials = load_trials(type(self), path, *self.options)
        if self.trial not in trials:
            raise RecordError("missing_key", f"{path} has no trial {self.trial}")
        trace = trials[self.trial]
        stop = self.start + WINDOW
        if trace.values.shape[1] < stop:
            raise RecordError(
                "truncated",
                f"{path}: {', '.join(trace.columns)} must last {stop / RATE_HZ:g} s, but ends "
                f"after {trace.values.shape[1] / RATE_HZ:g} s",
            )
        values = trace.values[:, self.start : stop].copy()
        self._check_source(path, trace, values)
        return Recording(EcgSignal(values, RATE_HZ, trace.leads))

    def _check_source(self, path: Path, trace: Trace, values: np.ndarray) -> None:
        """Refuse what is missing or silent in the file; a silent lead of several is made flat."""
        scale = trace.rate_hz / RATE_HZ
        reach = 0 if trace.rate_hz == RATE_HZ else math.ceil(_REACH_S * trace.rate_hz)
        first, last = round(self.start * scale), round((self.start + WINDOW) * scale)
        around = trace.source[:, max(first - reach, 0) : last + reach]
        missing = (~np.isfinite(around)).sum(axis=1)
        if missing.any():
            counts = zip(trace.columns, missing, strict=True)
            found = ", ".join(f"{column} ({count})" for column, count in counts if count)
            raise RecordError(
                "nan", f"{path}: samples {first} to {last} must be finite, but are not in {found}"
            )
        inside = trace.source[:, first:last]
        flat = inside.max(axis=1) == inside.min(axis=1)
        if flat.all():
            raise RecordError(
                "all_flat",
                f"{path}: samples {first} to {last} are constant in {', '.join(trace.columns)}",
            )
        values[flat] = inside[flat, :1]


def load_trials(reader: type[WindowReader], path: Path, *options: Any) -> Mapping[Any, Trace]:
    """Return the trials of a file; those of the file that was read last are kept.

    Args:
        reader: The class that knows the format.
        path: The file.
        *options: As ``reader.options``.

    Raises:
        RecordError: If it cannot be read.
    """
    try:
        info = path.stat()
    except OSError as error:
        raise RecordError("missing_file", f"{path} does not exist") from error
    return _load(reader, path, (info.st_mtime_ns, info.st_size), options)


@lru_cache(maxsize=1)
def _load(
    reader: type[WindowReader], path: Path, stamp: tuple[int, int], options: tuple[Any, ...]
) -> Mapping[Any, Trace]:
    del stamp  # another one is another content
    try:
        return reader.load(path, *options)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError("unreadable_file", f"{path}: {error}") from error
