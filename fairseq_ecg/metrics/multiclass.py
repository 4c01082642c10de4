"""Scores of single-label classifiers: one class of K is true, one is answered.

A class has a meaning on a set of records if it occurs there, as truth or as answer. Of such a class
a share without a denominator (the precision of a class that is never answered) is 0, so that a
network that always gives one answer does not look precise. A class that occurs nowhere gets NaN,
and a macro average is the mean over the others: the numbers of scikit-learn over the classes that
occur.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics import cinc2017
from fairseq_ecg.metrics._checks import as_truth_table, score_tables
from fairseq_ecg.metrics.counts import Counts
from fairseq_ecg.metrics.multilabel import macro

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

OVERALL = ("accuracy", "f1", "precision", "recall", "f1_of_macro")
"""Names of the numbers that are not those of one class."""


@dataclass(frozen=True)
class ClassRates:
    """Shares of each class, float64 [K]; NaN for a class that occurs nowhere.

    Attributes:
        precision: Share of its answers that are right.
        recall: Share of its records that were found.
        f1: 2 TP / (2 TP + FP + FN).
    """

    precision: FloatArray
    recall: FloatArray
    f1: FloatArray


def true_classes(labels: ArrayLike) -> IntArray:
    """Return the class of each record.

    Args:
        labels: 0 or 1, [N, K], exactly one 1 in each row.

    Returns:
        int64 [N].

    Raises:
        ValueError: A row has no 1 or several, or the table holds something else.
    """
    table = as_truth_table("labels", labels)
    wrong = np.flatnonzero(table.sum(axis=1) != 1)
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"labels must have exactly one 1 in each row, but row {row} has "
            f"{int(table[row].sum())} ({wrong.size} rows of {len(table)} are wrong)"
        )
    return table.argmax(axis=1)


def confusion_matrix(truth: ArrayLike, answers: ArrayLike, n_classes: int) -> IntArray:
    """Count how often each class was answered where each class is true.

    Args:
        truth: Class of each record, integers [N] in 0 .. K - 1.
        answers: Class answered, integers [N] in 0 .. K - 1.
        n_classes: K.

    Returns:
        int64 [K, K], row true, column answered.

    Raises:
        ValueError: The lengths differ, or a number is no class.
    """
    rows, columns = np.asarray(truth), np.asarray(answers)
    if rows.shape != columns.shape or rows.ndim != 1:
        raise ValueError(
            f"truth and answers must be as long as each other, [N], but they are "
            f"{list(rows.shape)} and {list(columns.shape)}"
        )
    for name, values in (("truth", rows), ("answers", columns)):
        whole = values.dtype.kind in "iu" or not values.size
        if not whole or (values < 0).any() or (values >= n_classes).any():
            raise ValueError(f"{name} must hold whole numbers from 0 to {n_classes - 1}")
    cells = np.bincount(rows.astype(np.int64) * n_classes + columns, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes).astype(np.int64)


def class_rates(confusion: ArrayLike) -> ClassRates:
    """Return precision, recall and F1 of each class.

    Args:
        confusion: Counts [K, K], row true, column answered.
    """
    table = np.asarray(confusion, dtype=np.float64)
    tp, true, answered = np.diagonal(table), table.sum(axis=1), table.sum(axis=0)
    fp, fn = answered - tp, true - tp
    counts = Counts(tp, fp, fn, table.sum() - tp - fp - fn)
    occurs = true + answered > 0
    return ClassRates(
        *(
            np.where(occurs, np.nan_to_num(share), np.nan)
            for share in (counts.precision, counts.recall, counts.f_beta(1.0))
        )
    )


def metric_names(labels: list[str]) -> list[str]:
    """Return the names under which F1 of each class is logged, ``f1_<class>``.

    Args:
        labels: Names of the classes; blanks become underscores.
    """
    return [f"f1_{'_'.join(label.split())}" for label in labels]


@dataclass(frozen=True)
class SingleLabelSummary:
    """The numbers of a single-label classifier on one set of recordings, under their logged names.

    The class of the largest probability is answered, the first of equal ones.

    Attributes:
        labels: Names of the classes, [K]; none: F1 of each class is left out.
    """

    labels: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the numbers, in the order of ``__call__``."""
        names = [*OVERALL, *metric_names(list(self.labels))]
        return [*names, cinc2017.METRIC] if self._is_cinc2017 else names

    @property
    def _is_cinc2017(self) -> bool:
        return cinc2017.has_challenge_classes(self.labels)

    def confusion(
        self, probability: NDArray[np.floating], labels: NDArray[np.floating]
    ) -> IntArray:
        """Return the confusion matrix, int64 [K, K], row true, column answered.

        Args:
            probability: Finite, float [N, K].
            labels: 0 or 1, [N, K], exactly one 1 in each row.
        """
        scores, _ = score_tables(probability, labels, "raise")
        truth = true_classes(labels)
        return confusion_matrix(truth, scores.argmax(axis=1), scores.shape[1])

    def __call__(
        self, probability: NDArray[np.floating], labels: NDArray[np.floating]
    ) -> dict[str, float]:
        """Return the numbers.

        Args:
            probability: Finite, float [N, K].
            labels: 0 or 1, [N, K], exactly one 1 in each row.

        Returns:
            By name: ``accuracy``; ``f1``, ``precision`` and ``recall``, means over the classes that
            occur; ``f1_of_macro``, the harmonic mean of these two means (Sarkar & Etemad 2022);
            F1 of each class, NaN if it occurs nowhere; and of the classes of CinC 2017
            ``f1_cinc``, the score of that challenge.
        """
        confusion = self.confusion(probability, labels)
        rates = class_rates(confusion)
        total = int(confusion.sum())
        precision, recall = macro(rates.precision), macro(rates.recall)
        both = precision + recall
        values = (
            float(np.trace(confusion)) / total if total else float("nan"),
            macro(rates.f1),
            precision,
            recall,
            2 * precision * recall / both if both else both,
            *(rates.f1.tolist() if self.labels else ()),
            *((cinc2017.challenge_f1(self.labels, rates.f1),) if self._is_cinc2017 else ()),
        )
        return dict(zip(self.names, values, strict=True))
