"""Whether probabilities mean what they say: of recordings called 70 %, are 70 % positive?

Bins of equal width and the expected calibration error as in Guo et al. 2017, "On Calibration of
Modern Neural Networks", ICML, PMLR 70. Of classes that exclude each other the probability of the
answered one is looked at, as there; of others the probability of each class by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics._checks import score_tables
from fairseq_ecg.metrics.multilabel import macro

FloatArray = NDArray[np.float64]

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """What was predicted and what was found, bin by bin; bins without a record are left out.

    Attributes:
        count: Records in each bin, int64 [S].
        predicted: Their mean probability, float64 [S].
        observed: The share of them that is positive, float64 [S].
    """

    count: NDArray[np.int64]
    predicted: FloatArray
    observed: FloatArray

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of both over the records; NaN without any."""
        total = int(self.count.sum())
        if not total:
            return float("nan")
        return float(self.count @ np.abs(self.predicted - self.observed)) / total


def reliability(probability: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Reliability:
    """Compare predicted with observed shares.

    Args:
        probability: In [0, 1], [N] or a table of any shape, which is taken as one list.
        labels: 0 or 1, of the same shape.
        bins: How many, of equal width; a probability on an edge belongs to the bin below it.

    Raises:
        ValueError: The shapes differ, labels are not 0 or 1, probabilities are not in [0, 1], or
            there is no bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, but is {bins}")
    chance, truth = (np.asarray(values) for values in (probability, labels))
    if chance.shape != truth.shape:
        raise ValueError(
            f"probability and labels must have one shape, but they are {list(chance.shape)} and "
            f"{list(truth.shape)}"
        )
    chance, truth = score_tables(chance.reshape(-1, 1), truth.reshape(-1, 1), "raise")
    values, positive = chance[:, 0].astype(np.float64), truth[:, 0]
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"probabilities must be in [0, 1], but they reach from {values.min():g} to "
            f"{values.max():g}; pass them through a sigmoid first"
        )
    place = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    sums = (np.bincount(place, weights, minlength=bins) for weights in (values, positive))
    predicted, observed = (total[filled] / count[filled] for total in sums)
    return Reliability(count[filled].astype(np.int64), predicted, observed)


def calibration_error_per_class(
    probability: ArrayLike, labels: ArrayLike, bins: int = BINS
) -> FloatArray:
    """Return the expected calibration error of each class by itself, float64 [K].

    Args:
        probability: In [0, 1], [N, K].
        labels: 0 or 1, [N, K].
        bins: As for `reliability`.

    Raises:
        ValueError: As `reliability`.
    """
    chance, truth = score_tables(probability, labels, "raise")
    columns = range(chance.shape[1])
    return np.array([reliability(chance[:, k], truth[:, k], bins).error for k in columns])


def calibration_error(probability: ArrayLike, labels: ArrayLike, bins: int = BINS) -> float:
    """Return the mean of `calibration_error_per_class`; NaN without a record."""
    return macro(calibration_error_per_class(probability, labels, bins))


def answers(probability: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return how sure each answer is and whether it is right, where classes exclude each other.

    Args:
        probability: In [0, 1], [N, K]; the class of the largest is answered.
        labels: 0 or 1, [N, K].

    Returns:
        Probability of the answer, float64 [N], and whether it is true, bool [N].
    """
    chance, truth = score_tables(probability, labels, "raise")
    answer = chance.argmax(axis=1)[:, None]
    found = (np.take_along_axis(table, answer, axis=1)[:, 0] for table in (chance, truth))
    sureness, right = found
    return sureness.astype(np.float64), right
