"""Which pieces of recordings are the items of a dataset.

Consecutive windows are those of fairseq-signals; balanced ones lose as little as they can (Gedon et
al., Computing in Cardiology 2021, as their earlier code cuts long records); random and evenly
spread ones are the crops of masked autoencoders; the last one is what Weimann & Conrad 2021
(Scientific Reports 11:5251) keep of a long recording.

Before: data/sources.py (lengths of recordings). After: data/dataset.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Windows:
    """Pieces of recordings.

    Args:
        row: Recording of each piece, int64 [W].
        start: First sample of each piece, int64 [W].
        length: Samples of each piece, int64 [W].
        slack: By how many samples each piece may start later, drawn anew each epoch, int64 [W];
            None: they stay where they are.
    """

    row: np.ndarray
    start: np.ndarray
    length: np.ndarray
    slack: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)

    def select(self, kept: np.ndarray) -> Windows:
        """Return the pieces where ``kept`` (bool [W]) is True."""
        slack = None if self.slack is None else self.slack[kept]
        return Windows(self.row[kept], self.start[kept], self.length[kept], slack)


def cut_windows(n_samples: np.ndarray, window: int | None = None) -> Windows:
    """Cut recordings into consecutive windows without overlap.

    A remainder shorter than the window is dropped, as in fairseq-signals; a recording shorter than
    one window is kept whole, so that no recording is lost.

    Args:
        n_samples: Length of each recording, int64 [N].
        window: Samples per window; None keeps every recording whole.

    Raises:
        ValueError: If the window is not positive.
    """
    if window is None:
        return _whole(n_samples)
    n_samples = _checked(n_samples, window)
    row, number = _numbered(np.maximum(n_samples // window, 1))
    return Windows(row, number * window, np.minimum(n_samples[row], window))


def balanced_windows(n_samples: np.ndarray, window: int) -> Windows:
    """Cut recordings into consecutive windows that leave out half a window at most.

    A recording has one window more if more than half of one would remain; the last one is then
    only that remainder. What is left out otherwise is taken evenly from both ends. A recording
    shorter than one window is kept whole.

    Args:
        n_samples: Length of each recording, int64 [N].
        window: Samples per window.

    Raises:
        ValueError: If the window is not positive.
    """
    n_samples = _checked(n_samples, window)
    counts = np.maximum((n_samples + (window - 1) // 2) // window, 1)
    row, number = _numbered(counts)
    dropped = np.maximum(n_samples - counts * window, 0)
    start = dropped[row] // 2 + number * window
    return Windows(row, start, np.minimum(n_samples[row] - start, window))


def random_windows(n_samples: np.ndarray, window: int) -> Windows:
    """Take one window of each recording, wherever the dataset's generator puts it.

    Args:
        n_samples: Length of each recording, int64 [N].
        window: Samples per window; a recording that is shorter is kept whole.

    Raises:
        ValueError: If the window is not positive.
    """
    whole = _whole(_checked(n_samples, window))
    length = np.minimum(whole.length, window)
    return Windows(whole.row, whole.start, length, whole.length - length)


def spread_windows(n_samples: np.ndarray, window: int | None = None, count: int = 1) -> Windows:
    """Take windows spread evenly over each recording, the first at its start, the last at its end.

    Args:
        n_samples: Length of each recording, int64 [N].
        window: Samples per window; None keeps every recording whole, as one that is shorter is.
        count: Windows per recording; they overlap if they must. One is the middle. A recording has
            fewer if it has not so many different ones.

    Raises:
        ValueError: If the window or the count is not positive.
    """
    if count < 1:
        raise ValueError(f"a recording must have at least one window, got {count}")
    if window is None:
        return _whole(n_samples)
    n_samples = _checked(n_samples, window)
    surplus = np.maximum(n_samples - window, 0)
    counts = np.minimum(count, surplus + 1)
    row, number = _numbered(counts)
    gaps = np.where(counts > 1, counts - 1, 2)[row]
    start = np.where(counts[row] > 1, number, 1) * surplus[row] // gaps
    return Windows(row, start, np.minimum(n_samples[row], window))


def last_windows(n_samples: np.ndarray, window: int) -> Windows:
    """Take the last window of each recording.

    Args:
        n_samples: Length of each recording, int64 [N].
        window: Samples per window; a recording that is shorter is kept whole.

    Raises:
        ValueError: If the window is not positive.
    """
    whole = _whole(_checked(n_samples, window))
    length = np.minimum(whole.length, window)
    return Windows(whole.row, whole.length - length, length)


def _whole(n_samples: np.ndarray) -> Windows:
    n_samples = np.asarray(n_samples, dtype=np.int64)
    return Windows(np.arange(len(n_samples)), np.zeros_like(n_samples), n_samples)


def _checked(n_samples: np.ndarray, window: int) -> np.ndarray:
    if window <= 0:
        raise ValueError(f"a window must have at least one sample, got {window}")
    return np.asarray(n_samples, dtype=np.int64)


def _numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recording, and number within it, of each window, given how many each recording has."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
