"""Scores of multi-label classifiers: of the ranking (AUROC, AUPRC) and of the decisions (F, G).

A class for which a score has no meaning gets NaN, and a macro average is the mean over the others.
Scores that are not finite are an error unless the caller asks for `nonfinite="zero"`: a network
that puts out NaN is broken, and a silent 0 would hide it behind a mediocre number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics._checks import NonFinite, as_scores, decision_tables, score_tables
from fairseq_ecg.metrics.counts import counts_per_class

Average = Literal["macro", "micro"]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def macro(values: ArrayLike) -> float:
    """Return the mean over the values that are not NaN; NaN if there is none."""
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def auroc_per_class(
    scores: ArrayLike, labels: ArrayLike, nonfinite: NonFinite = "raise"
) -> FloatArray:
    """Return the area under the ROC curve of each class; ties count one half.

    Args:
        scores: real numbers [N, K], larger means more likely.
        labels: 0 or 1, [N, K].
        nonfinite: "raise", or "zero" to count NaN and infinite scores as 0.

    Returns:
        float64 [K]; NaN for a class without positives or without negatives.

    Raises:
        ValueError: the shapes differ, labels are not 0 or 1, or scores are not finite.
    """
    return _per_class(_auroc, scores, labels, nonfinite)


def average_precision_per_class(
    scores: ArrayLike, labels: ArrayLike, nonfinite: NonFinite = "raise"
) -> FloatArray:
    """Return the average precision (area under the precision-recall steps) of each class.

    It is the sum over the distinct scores, from the highest down, of the gain in recall times the
    precision at that score.

    Args:
        scores: real numbers [N, K], larger means more likely.
        labels: 0 or 1, [N, K].
        nonfinite: "raise", or "zero" to count NaN and infinite scores as 0.

    Returns:
        float64 [K]; NaN for a class without positives, 1 for a class without negatives.

    Raises:
        ValueError: the shapes differ, labels are not 0 or 1, or scores are not finite.
    """
    return _per_class(_average_precision, scores, labels, nonfinite)


def auroc(
    scores: ArrayLike,
    labels: ArrayLike,
    average: Average = "macro",
    nonfinite: NonFinite = "raise",
) -> float:
    """Return the area under the ROC curve, averaged over the classes.

    Args:
        scores: real numbers [N, K], larger means more likely.
        labels: 0 or 1, [N, K].
        average: "macro" is the mean over the classes for which it is defined; "micro" treats all
            N*K pairs as one class.
        nonfinite: "raise", or "zero" to count NaN and infinite scores as 0.

    Returns:
        The area, NaN if it is defined for no class.

    Raises:
        ValueError: the input does not fit (see `auroc_per_class`), or `average` is unknown.
    """
    return _averaged(auroc_per_class, scores, labels, average, nonfinite)


def average_precision(
    scores: ArrayLike,
    labels: ArrayLike,
    average: Average = "macro",
    nonfinite: NonFinite = "raise",
) -> float:
    """Return the average precision, averaged over the classes.

    Args:
        scores: real numbers [N, K], larger means more likely.
        labels: 0 or 1, [N, K].
        average: "macro" is the mean over the classes for which it is defined; "micro" treats all
            N*K pairs as one class.
        nonfinite: "raise", or "zero" to count NaN and infinite scores as 0.

    Returns:
        The average precision, NaN if it is defined for no class.

    Raises:
        ValueError: the input does not fit (see `average_precision_per_class`), or `average` is
            unknown.
    """
    return _averaged(average_precision_per_class, scores, labels, average, nonfinite)


def f_measure_per_class(labels: ArrayLike, decisions: ArrayLike) -> FloatArray:
    """Return 2 TP / (2 TP + FP + FN) of each class, float64 [K].

    Args:
        labels: 0 or 1, [N, K].
        decisions: 0 or 1, [N, K].

    Returns:
        NaN for a class with neither a label nor a positive decision.

    Raises:
        ValueError: the shapes differ, or an entry is neither 0 nor 1.
    """
    return counts_per_class(labels, decisions).f_beta(1.0)


def f_measure(labels: ArrayLike, decisions: ArrayLike) -> float:
    """Return the mean of `f_measure_per_class` over the classes for which it is defined."""
    return macro(f_measure_per_class(labels, decisions))


def accuracy(labels: ArrayLike, decisions: ArrayLike) -> float:
    """Return the share of the N * K decisions that are right.

    Args:
        labels: 0 or 1, [N, K].
        decisions: 0 or 1, [N, K].

    Returns:
        A share from 0 to 1; NaN without records.

    Raises:
        ValueError: the shapes differ, or an entry is neither 0 nor 1.
    """
    truth, decided = decision_tables(labels, decisions)
    return float((truth == decided).mean()) if len(truth) else float("nan")


def accuracy_exact(labels: ArrayLike, decisions: ArrayLike) -> float:
    """Return the share of records with every one of the K decisions right.

    Args:
        labels: 0 or 1, [N, K].
        decisions: 0 or 1, [N, K].

    Returns:
        A share from 0 to 1; NaN without records.

    Raises:
        ValueError: the shapes differ, or an entry is neither 0 nor 1.
    """
    truth, decided = decision_tables(labels, decisions)
    return float((truth == decided).all(axis=1).mean()) if len(truth) else float("nan")


def decide(scores: ArrayLike, threshold: ArrayLike, fallback: bool = False) -> NDArray[np.bool_]:
    """Return which classes are decided positive.

    Args:
        scores: real numbers [N, K], larger means more likely.
        threshold: a class is decided where its score is above this; one for all, or [K].
        fallback: decide the most likely class of a record for which none is above its threshold,
            as the benchmarks of CPSC 2018 do; with a single class there is none to choose.

    Returns:
        bool [N, K].

    Raises:
        ValueError: scores are not a table of finite numbers.
    """
    values = as_scores(scores)
    decided: NDArray[np.bool_] = values > np.asarray(threshold)
    if fallback and values.shape[1] > 1:
        silent = np.flatnonzero(~decided.any(axis=1))
        decided[silent, values[silent].argmax(axis=1)] = True
    return decided


def f_beta_g_beta(
    labels: ArrayLike, decisions: ArrayLike, beta: float = 2.0
) -> tuple[float, float]:
    """Return the macro F_beta and G_beta of CinC 2020, also used for CPSC 2018.

    Both use counts in which each record weighs 1 / max(number of its true labels, 1). See Perez
    Alday et al. 2020, "Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology
    Challenge 2020"; semantics of the official evaluation code.

    Args:
        labels: 0 or 1, [N, K].
        decisions: 0 or 1, [N, K].
        beta: how much more a miss weighs than a false alarm.

    Returns:
        F_beta and G_beta, each the mean over the classes with a label or a positive decision.

    Raises:
        ValueError: the shapes differ, or an entry is neither 0 nor 1.
    """
    truth, decided = decision_tables(labels, decisions)
    counts = counts_per_class(truth, decided, 1.0 / np.maximum(truth.sum(axis=1), 1))
    return macro(counts.f_beta(beta)), macro(counts.g_beta(beta))


def _auroc(tp: IntArray, fp: IntArray) -> float:
    if not tp[-1] or not fp[-1]:
        return float("nan")
    area = np.dot(np.diff(fp), tp[1:] + tp[:-1])
    return float(area) / (2.0 * float(tp[-1]) * float(fp[-1]))


def _average_precision(tp: IntArray, fp: IntArray) -> float:
    if not tp[-1]:
        return float("nan")
    return float(np.dot(np.diff(tp), tp[1:] / (tp[1:] + fp[1:])) / tp[-1])


def steps(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """Return the true and false positives at each distinct score, from none to all, int64 [S + 1].

    Args:
        scores: finite, of one class, [N], N at least 1.
        truth: whether each record is positive, [N].
    """
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    last_of_ties = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    tp = np.cumsum(truth[order])[last_of_ties]
    none = np.zeros(1, dtype=np.int64)
    return np.concatenate([none, tp]), np.concatenate([none, last_of_ties + 1 - tp])


def _per_class(
    area: Callable[[IntArray, IntArray], float],
    scores: ArrayLike,
    labels: ArrayLike,
    nonfinite: NonFinite,
) -> FloatArray:
    values, truth = score_tables(scores, labels, nonfinite)
    n_classes = values.shape[1]
    if not len(values):
        return np.full(n_classes, np.nan)
    columns = zip(np.ascontiguousarray(values.T), np.ascontiguousarray(truth.T), strict=True)
    return np.array([area(*steps(*column)) for column in columns], dtype=np.float64)


def _averaged(
    per_class: Callable[[ArrayLike, ArrayLike, NonFinite], FloatArray],
    scores: ArrayLike,
    labels: ArrayLike,
    average: Average,
    nonfinite: NonFinite,
) -> float:
    if average == "macro":
        return macro(per_class(scores, labels, nonfinite))
    if average == "micro":
        values, truth = score_tables(scores, labels, nonfinite)
        return float(per_class(values.reshape(-1, 1), truth.reshape(-1, 1), nonfinite)[0])
    raise ValueError(f'average must be "macro" or "micro", but is {average!r}')
