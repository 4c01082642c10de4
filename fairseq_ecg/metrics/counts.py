"""Right and wrong decisions per class, and the rates made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics._checks import decision_tables

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Per class how many records were decided rightly and wrongly; parts of a set can be added.

    Attributes:
        tp: positives decided positive, float64 [K].
        fp: negatives decided positive, float64 [K].
        fn: positives decided negative, float64 [K].
        tn: negatives decided negative, float64 [K].
    """

    tp: FloatArray
    fp: FloatArray
    fn: FloatArray
    tn: FloatArray

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of both sets of records together."""
        return Counts(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn
        )

    @property
    def precision(self) -> FloatArray:
        """Share of the positive decisions that are right, [K]; NaN without any."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> FloatArray:
        """Share of the positives that were found (sensitivity), [K]; NaN without any."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> FloatArray:
        """Share of the negatives that were left out, [K]; NaN without any."""
        return _ratio(self.tn, self.tn + self.fp)

    def f_beta(self, beta: float = 1.0) -> FloatArray:
        """Weighted harmonic mean of precision and recall, [K]; NaN with no label and no output."""
        gain = (1 + beta**2) * self.tp
        return _ratio(gain, gain + self.fp + beta**2 * self.fn)

    def g_beta(self, beta: float = 1.0) -> FloatArray:
        """Jaccard measure with misses weighted by beta, [K]; NaN with no label and no output."""
        return _ratio(self.tp, self.tp + self.fp + beta * self.fn)


def counts_per_class(
    labels: ArrayLike, decisions: ArrayLike, record_weights: ArrayLike | None = None
) -> Counts:
    """Count the right and wrong decisions of each class.

    Args:
        labels: 0 or 1, [N, K].
        decisions: 0 or 1, [N, K].
        record_weights: what each record counts, [N]; 1 if absent.

    Raises:
        ValueError: the shapes differ, or an entry is neither 0 nor 1.
    """
    truth, decided = decision_tables(labels, decisions)
    if record_weights is None:
        weights = np.ones(len(truth))
    else:
        weights = np.asarray(record_weights, dtype=np.float64)
        if weights.shape != (len(truth),):
            raise ValueError(
                f"record_weights must have the shape [{len(truth)}], but it is "
                f"{list(weights.shape)}"
            )
    tp = weights @ (truth & decided)
    positives, outputs = weights @ truth, weights @ decided
    fp, fn = weights @ (decided & ~truth), weights @ (truth & ~decided)
    return Counts(tp, fp, fn, weights.sum() - positives - outputs + tp)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    nowhere = np.full_like(denominator, np.nan)
    return np.divide(numerator, denominator, out=nowhere, where=denominator != 0)
