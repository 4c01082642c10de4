"""Intervals and paired tests by drawing patients again, with replacement.

The bootstrap of Efron 1979, Annals of Statistics 7. Recordings of one patient are alike, so whole
patients are drawn, with all their recordings, as many times as there are patients (the cluster
bootstrap; Field and Welsh 2007, Journal of the Royal Statistical Society B 69). Drawing single
recordings instead would take one patient's ten recordings for ten witnesses, and make intervals
too narrow.

Intervals are percentiles of the drawn values. These stay in the range of the score, do not depend
on its scale, and ask nothing of the score but to be computed again, where an interval from the
standard error leaves [0, 1] near 1, and the bias-corrected one needs every patient left out once.
The price: of few patients (below about thirty) they are too narrow.

A draw in which a score has no meaning, such as an AUROC without a positive, gives it no value. Such
draws are counted (``valid``), never drawn anew: that would answer another question, what the score
is of sets that happen to have positives. Shapes: R records, C patients, B draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
RowMetric = Callable[[IntArray], Mapping[str, float]]
"""Takes the rows that were drawn, int64 [any], some repeatedly; returns scores by name."""

_AT_ONCE = 1 << 21  # counts held at a time, 16 MiB


@runtime_checkable
class CountMetric(Protocol):
    """Scores of many draws at once, such as those of ``resampled.py``."""

    def of_counts(self, counts: FloatArray) -> Mapping[str, FloatArray]:
        """Return scores by name, float64 [B], NaN without a value.

        Args:
            counts: How often each record was drawn, whole numbers as float64 [R, B].
        """


Metric = RowMetric | CountMetric


@dataclass(frozen=True)
class Interval:
    """A score and how far it may be off.

    Attributes:
        value: The score of all records.
        low: Lower end; NaN if no draw has a value, or there is one patient only.
        high: Upper end.
        valid: In how many draws it had a value.
    """

    value: float
    low: float
    high: float
    valid: int


@dataclass(frozen=True)
class Difference:
    """What a second model has more than a first one on the same records.

    Attributes:
        first: Score of the first.
        second: Score of the second.
        value: ``second`` minus ``first``.
        low: Lower end of its interval; NaN as in ``Interval``.
        high: Upper end.
        p: How often a difference of 0 would look as extreme, two-sided; see ``paired_difference``.
        valid: In how many draws both had a value.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    valid: int


def bootstrap_intervals(
    metric: Metric, clusters: ArrayLike, n: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Return each score with its interval.

    Args:
        metric: The scores of drawn rows, or of counts, which is faster.
        clusters: Patient of each record, numbers or names, [R].
        n: How many draws.
        seed: Of the draws; the same seed and patients give the same draws to every metric.
        level: Share of the drawn values that the interval holds.

    Raises:
        ValueError: There is no record, or an option is out of its range.
    """
    base, drawn = _distribution(metric, clusters, n, seed, level)
    intervals = {}
    for name, values in drawn.items():
        low, high, valid = _percentiles(values, level)
        intervals[name] = Interval(base[name], low, high, valid)
    return intervals


def paired_difference(
    first: Metric,
    second: Metric,
    clusters: ArrayLike,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Compare two models on the same records, each draw being given to both.

    The test inverts the interval: p is twice the share of draws whose difference lies on the rarer
    side of 0 (one draw added on that side, so that p is never 0), so p is below 0.05 where the 95 %
    interval leaves 0 out, up to that one draw. It is at least 2 / (n + 1); equal predictions have
    p = 1.

    Args:
        first: Scores of one model, of drawn rows or of counts.
        second: Scores of the other one; scores that only one of them has are left out.
        clusters: Patient of each record, numbers or names, [R].
        n: How many draws.
        seed: Of the draws.
        level: Share of the drawn differences that the interval holds.

    Raises:
        ValueError: There is no record, no score that both have, or an option is out of its range.
    """
    base, drawn = _distribution(first, clusters, n, seed, level)
    other, other_drawn = _distribution(second, clusters, n, seed, level)
    shared = [name for name in base if name in other]
    if not shared:
        raise ValueError(
            f"both models must have a score in common, but one has {', '.join(base)} and the other "
            f"{', '.join(other)}"
        )
    differences = {}
    for name in shared:
        values = other_drawn[name] - drawn[name]
        low, high, valid = _percentiles(values, level)
        difference = other[name] - base[name]
        p = _two_sided(values)
        differences[name] = Difference(base[name], other[name], difference, low, high, p, valid)
    return differences


def draw_counts(clusters: ArrayLike, n: int, seed: int = 0) -> Iterator[FloatArray]:
    """Yield how often each record was drawn, some draws at a time, float64 [R, up to n].

    Args:
        clusters: Patient of each record, [R].
        n: How many draws in all.
        seed: Of the draws; how many come at a time does not change them.
    """
    of_record = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)
    size = int(of_record.max()) + 1
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // len(of_record))
    for start in range(0, n, step):
        width = min(step, n - start)
        drawn = rng.integers(size, size=(width, size))
        cells = drawn * width + np.arange(width)[:, None]
        counts = np.bincount(cells.ravel(), minlength=size * width).reshape(size, width)
        yield counts.astype(np.float64)[of_record]


def _distribution(
    metric: Metric, clusters: ArrayLike, n: int, seed: int, level: float
) -> tuple[dict[str, float], dict[str, FloatArray]]:
    """Return each score of all records, and of every draw, [n]; NaN without a value."""
    of_record = np.asarray(clusters)
    if of_record.ndim != 1 or not of_record.size:
        raise ValueError(
            f"clusters must name the patient of each record, [R], but their shape is "
            f"{list(of_record.shape)}"
        )
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n must be at least 1 and level in (0, 1), but they are {n} and {level}")
    whole = _values(metric, np.ones((len(of_record), 1)))
    base = {name: float(values[0]) for name, values in whole.items()}
    if (of_record == of_record[0]).all():  # every draw is the same set, which says nothing
        return base, {name: np.full(n, np.nan) for name in base}
    parts = [_values(metric, counts) for counts in draw_counts(of_record, n, seed)]
    return base, {name: np.concatenate([part[name] for part in parts]) for name in base}


def _values(metric: Metric, counts: FloatArray) -> dict[str, FloatArray]:
    if isinstance(metric, CountMetric):
        return dict(metric.of_counts(counts))
    rows = np.arange(len(counts))
    found = [metric(np.repeat(rows, draw.astype(np.int64))) for draw in counts.T]
    return {name: np.array([values[name] for values in found]) for name in found[0]}


def _percentiles(values: FloatArray, level: float) -> tuple[float, float, int]:
    """Return both ends of the middle ``level`` of the values, and how many there are."""
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan"), 0
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high), len(known)


def _two_sided(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan")
    rarer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(known) + 1))
