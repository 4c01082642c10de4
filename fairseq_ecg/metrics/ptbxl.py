"""F_max, the sample-centric score of the PTB-XL benchmark (its other score is the macro AUROC)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics._checks import NonFinite, score_tables

THRESHOLDS = np.linspace(0.0, 1.0, 101)
_ROWS_AT_ONCE = 8192


def f_max(
    scores: ArrayLike,
    labels: ArrayLike,
    thresholds: ArrayLike | None = None,
    nonfinite: NonFinite = "raise",
) -> float:
    """Return the sample-centric F_max that is reported for PTB-XL.

    At each threshold a class is decided positive where its score is greater. Precision is the mean
    over the records with at least one positive decision, recall the mean over the records with at
    least one label; the result is the largest 2PR / (P + R). See Strodthoff et al. 2020, "Deep
    Learning for ECG Analysis: Benchmarks and Insights from PTB-XL". Deciding where the score equals
    the threshold too makes a difference only for scores that are thresholds; the published figure
    of the validation fold comes out either way.

    Args:
        scores: real numbers [N, K], larger means more likely.
        labels: 0 or 1, [N, K].
        thresholds: ascending [S]; 0, 0.01 .. 1 if absent, which gives the published figures.
        nonfinite: "raise", or "zero" to count NaN and infinite scores as 0.

    Returns:
        A value from 0 to 1; NaN if no record has a label.

    Raises:
        ValueError: the shapes differ, labels are not 0 or 1, scores are not finite, or the
            thresholds do not ascend.
    """
    values, truth = score_tables(scores, labels, nonfinite)
    limits = THRESHOLDS if thresholds is None else np.asarray(thresholds)
    if limits.ndim != 1 or not limits.size or (np.diff(limits) <= 0).any():
        raise ValueError(f"thresholds must ascend and be at least one, but are {limits}")
    n_labels = truth.sum(axis=1)
    if not n_labels.any():
        return float("nan")
    precision, outputs, recall = (np.zeros(len(limits)) for _ in range(3))
    for start in range(0, len(truth), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        parts = rates_of_records(values[rows], truth[rows], limits)
        for total, part in zip((precision, outputs, recall), parts, strict=True):
            total += part.sum(axis=0)
    precision /= np.maximum(outputs, 1)
    recall /= np.count_nonzero(n_labels)
    total = precision + recall
    return float((2 * precision * recall / np.where(total > 0, total, 1)).max())


def rates_of_records(
    values: NDArray[np.floating],
    truth: NDArray[np.bool_],
    limits: NDArray[np.floating] = THRESHOLDS,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return what each record adds to the sums of `f_max` at each threshold, [N, S] each.

    Args:
        values: finite scores [N, K].
        truth: labels [N, K].
        limits: ascending thresholds [S].

    Returns:
        Share of its decisions that are right, 0 without any; whether it has any; share of its
        labels that were found, 0 without any.
    """
    decided, hits = _count_above(values, truth, limits)
    n_labels = np.maximum(truth.sum(axis=1), 1)[:, None]
    return hits / np.maximum(decided, 1), decided > 0, hits / n_labels


def _count_above(
    values: NDArray[np.floating], truth: NDArray[np.bool_], limits: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count per record and threshold the positive decisions and those that are right, [N, S]."""
    n_records, n_limits = len(values), len(limits)
    # A score exceeds the first `exceeded` thresholds, so a histogram of it, summed from the end,
    # says how many scores exceed each: one pass over the scores instead of one per threshold.
    exceeded = np.searchsorted(limits, values, side="left")
    cell = exceeded + np.arange(n_records)[:, None] * (n_limits + 1)

    def summed(cells: NDArray[np.intp]) -> NDArray[np.float64]:
        histogram = np.bincount(cells.ravel(), minlength=n_records * (n_limits + 1))
        table = histogram.reshape(n_records, n_limits + 1)
        return table[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:].astype(np.float64)

    return summed(cell), summed(cell[truth])
