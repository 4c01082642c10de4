"""The numbers of a classifier on many draws of its recordings at once, for ``bootstrap.py``.

Equal to the functions of ``multilabel.py``, ``multiclass.py``, ``ptbxl.py`` and ``cinc2021.py`` on
the drawn rows, but recordings are sorted once, and a draw is a column of counts: a curve is then
one cumulative sum, and everything made of decisions one matrix product. Beside the numbers of the
set there are those of each class, named ``auroc/<class>``.

Shapes: R records, K classes, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics import cinc2017, multilabel, ptbxl
from fairseq_ecg.metrics._checks import score_tables
from fairseq_ecg.metrics.multiclass import SingleLabelSummary, metric_names, true_classes
from fairseq_ecg.metrics.summary import Summary

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
IntArray32 = NDArray[np.int32]
BoolArray = NDArray[np.bool_]

PER_CLASS = ("auroc", "auprc", "f1", "precision", "recall", "specificity", "brier")
"""Names of the numbers of each class."""

_IN_CACHE = 1 << 17  # counts summed up at a time, 512 KiB
_SMALL = 1e-12


def of_class(metric: str, label: str) -> str:
    """Return the name under which a number of one class is found."""
    return f"{metric}/{label}"


def split_name(name: str) -> tuple[str, str]:
    """Return metric and class of a name; the class is empty for a number of the whole set."""
    metric, _, label = name.partition("/")
    return metric, label


def mean_of_classes(values: FloatArray) -> FloatArray:
    """Return the mean over the classes that have a value in a draw.

    Args:
        values: Of each class, NaN without a value, [K, B].

    Returns:
        float64 [B]; NaN where no class has one.
    """
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0).astype(np.float64))


@dataclass(frozen=True, eq=False)
class ResampledSummary:
    """The numbers of a ``Summary`` on draws.

    Args:
        summary: Which numbers.
        probability: In [0, 1], float [R, K].
        labels: 0 or 1, [R, K].
        names: Of the classes, [K]; none: their numbers are left out.
    """

    summary: Summary
    probability: ArrayLike
    labels: ArrayLike
    names: Sequence[str] = ()
    _tables: _Tables = field(init=False, repr=False)
    _additive: dict[str, FloatArray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        chance, truth = score_tables(self.probability, self.labels, "raise")
        decided = chance > self.summary.threshold
        object.__setattr__(self, "_tables", _Tables(chance, truth, decided))
        object.__setattr__(self, "_additive", self._sums_of_records(chance, truth, decided))

    def of_counts(self, counts: FloatArray) -> dict[str, FloatArray]:
        """Return the numbers by name, float64 [B]: those of ``summary.names``, then per class."""
        rates = self._tables.rates(counts)
        sums = {name: table.T @ counts for name, table in self._additive.items()}
        values = {"f1": mean_of_classes(rates["f1"])}
        if self.summary.ranking:
            micro = dict(zip(("auroc", "auprc"), self._tables.micro(counts), strict=True))
            for name, whole in micro.items():
                values[f"macro_{name}"] = mean_of_classes(rates[name])
                values[f"micro_{name}"] = whole
                values[name] = values[f"{self.summary.average}_{name}"]
        total = counts.sum(axis=0)
        for name in ("accuracy", "em_accuracy"):
            if name in sums:
                values[name] = sums[name][0] / total
        if self.summary.f_beta:
            tp, fp, fn = np.split(sums["weighted"], 3)
            values["f_beta"] = mean_of_classes(_ratio(5 * tp, 5 * tp + fp + 4 * fn))
            values["g_beta"] = mean_of_classes(_ratio(tp, tp + fp + 2 * fn))
        if self.summary.f_max:
            values["f_max"] = _f_max(sums["f_max"])
        if self.summary.cinc_weights is not None:
            values["cinc_score"] = _challenge_score(*sums["cinc_score"])
        overall = {name: values[name] for name in self.summary.names}
        return overall | _by_class(rates, self.names)

    def _sums_of_records(
        self, chance: NDArray[np.floating], truth: BoolArray, decided: BoolArray
    ) -> dict[str, FloatArray]:
        """Return what each record adds to a sum, float64 [R, any], by the number made of it."""
        summary, tables = self.summary, {}
        if summary.accuracy:
            right = truth == decided
            tables["accuracy"] = right.mean(axis=1, keepdims=True)
            tables["em_accuracy"] = right.all(axis=1, keepdims=True).astype(np.float64)
        if summary.f_beta:
            complete = multilabel.decide(chance, summary.threshold, fallback=True)
            share = 1.0 / np.maximum(truth.sum(axis=1, keepdims=True), 1)
            parts = (truth & complete, ~truth & complete, truth & ~complete)
            tables["weighted"] = np.concatenate([share * part for part in parts], axis=1)
        if summary.f_max:
            tables["f_max"] = np.concatenate(
                [*ptbxl.rates_of_records(chance, truth), truth.any(axis=1)[:, None]], axis=1
            )
        if summary.cinc_weights is not None:
            sinus = np.zeros_like(truth)
            sinus[:, summary.sinus_index] = True
            credit = truth @ np.asarray(summary.cinc_weights, dtype=np.float64)
            earned = [
                (credit * answer).sum(axis=1) / np.maximum((truth | answer).sum(axis=1), 1)
                for answer in (decided, truth, sinus)
            ]
            tables["cinc_score"] = np.stack(earned, axis=1)
        return tables


@dataclass(frozen=True, eq=False)
class ResampledSingleLabel:
    """The numbers of a ``SingleLabelSummary`` on draws.

    Each class against the others has a curve too: ``auroc`` and ``auprc``, their means.

    Args:
        summary: Which numbers; its labels name the classes.
        probability: In [0, 1], float [R, K].
        labels: 0 or 1, [R, K], exactly one 1 in each row.
    """

    summary: SingleLabelSummary
    probability: ArrayLike
    labels: ArrayLike
    _tables: _Tables = field(init=False, repr=False)

    def __post_init__(self) -> None:
        true_classes(self.labels)
        chance, truth = score_tables(self.probability, self.labels, "raise")
        decided = np.eye(chance.shape[1], dtype=np.bool_)[chance.argmax(axis=1)]
        object.__setattr__(self, "_tables", _Tables(chance, truth, decided))

    def of_counts(self, counts: FloatArray) -> dict[str, FloatArray]:
        """Return the numbers by name, float64 [B]: those of ``summary.names``, then per class."""
        rates = self._tables.rates(counts)
        occurs = ~np.isnan(rates["f1"])
        for name in ("precision", "recall"):
            rates[name] = np.where(occurs, np.nan_to_num(rates[name]), np.nan)
        precision, recall = mean_of_classes(rates["precision"]), mean_of_classes(rates["recall"])
        values = {
            "accuracy": self._tables.hits(counts).sum(axis=0) / counts.sum(axis=0),
            "f1": mean_of_classes(rates["f1"]),
            "precision": precision,
            "recall": recall,
            "f1_of_macro": np.where(
                precision + recall == 0, 0.0, _ratio(2 * precision * recall, precision + recall)
            ),
        }
        labels = self.summary.labels
        values |= dict(zip(metric_names(list(labels)), rates["f1"], strict=False))
        if cinc2017.METRIC in self.summary.names:
            scored = [labels.index(name) for name in cinc2017.SCORED]
            values[cinc2017.METRIC] = mean_of_classes(rates["f1"][scored])
        values |= {name: mean_of_classes(rates[name]) for name in ("auroc", "auprc")}
        return values | _by_class(rates, labels)


class _Tables:
    """What is the same in every draw: who is true, who is decided, and the order of the scores."""

    def __init__(self, chance: NDArray[np.floating], truth: BoolArray, decided: BoolArray) -> None:
        self._truth, self._decided = truth.astype(np.float64), decided.astype(np.float64)
        self._both = (truth & decided).astype(np.float64)
        self._squares = (chance.astype(np.float64) - self._truth) ** 2
        self._rankings = [_Ranking.of(chance[:, k], truth[:, k]) for k in range(chance.shape[1])]
        self._n_classes = chance.shape[1]
        self._chance, self._is_true = chance, truth
        self._whole: _Ranking | None = None

    def hits(self, counts: FloatArray) -> FloatArray:
        """Return the positives that were found, [K, B]."""
        return self._both.T @ counts

    def rates(self, counts: FloatArray) -> dict[str, FloatArray]:
        """Return the numbers of ``PER_CLASS``, [K, B] each, NaN without a value."""
        total, tp = counts.sum(axis=0), self.hits(counts)
        positives, answers = self._truth.T @ counts, self._decided.T @ counts
        whole = counts.astype(np.int32)
        areas = np.stack([ranking.areas(whole) for ranking in self._rankings], axis=1)
        negatives = total - positives
        return {
            "auroc": areas[0],
            "auprc": areas[1],
            "f1": _ratio(2 * tp, positives + answers),
            "precision": _ratio(tp, answers),
            "recall": _ratio(tp, positives),
            "specificity": _ratio(negatives - answers + tp, negatives),
            "brier": self._squares.T @ counts / total,
        }

    def micro(self, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return both areas with all pairs of record and class taken for one class, [B] each."""
        if self._whole is None:
            flat = _Ranking.of(self._chance.reshape(-1), self._is_true.reshape(-1))
            self._whole = flat.of_rows(self._n_classes)
        auroc, auprc = self._whole.areas(counts.astype(np.int32))
        return auroc, auprc


@dataclass(frozen=True)
class _Ranking:
    """The records of one class by falling score; records of one score are a group.

    Attributes:
        order: Every record, int64 [R].
        positives: Those that are positive, in the same order, int64 [P].
        starts: First positive of each group that has any, int64 [G].
        above: How many records lie above the group, int64 [G].
        upto: How many lie above or in it, int64 [G].
    """

    order: IntArray
    positives: IntArray
    starts: IntArray
    above: IntArray
    upto: IntArray

    @classmethod
    def of(cls, scores: NDArray[np.floating], truth: BoolArray) -> _Ranking:
        """Sort once.

        Args:
            scores: Finite, [R].
            truth: Whether each record is positive, [R].
        """
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        first = np.append(True, ordered[1:] != ordered[:-1])[: len(order)]
        edges = np.append(np.flatnonzero(first), len(order))
        group = np.cumsum(first) - 1
        found = truth[order]
        groups, starts = np.unique(group[found], return_index=True)
        return cls(order, order[found], starts, edges[groups], edges[groups + 1])

    def of_rows(self, per_row: int) -> _Ranking:
        """Return the same of the rows that the ranked numbers are from, ``per_row`` in each."""
        order, positives = self.order // per_row, self.positives // per_row
        return _Ranking(order, positives, self.starts, self.above, self.upto)

    def areas(self, counts: IntArray32) -> FloatArray:
        """Return AUROC and average precision, [2, B]; NaN as in ``multilabel.py``.

        Args:
            counts: How often each row was drawn, int32 [R, B].
        """
        if not len(self.starts):
            return np.full((2, counts.shape[1]), np.nan)
        # Whole numbers, a few draws at a time: what is summed up stays in the cache.
        width = int(np.clip(_IN_CACHE // len(self.order), 16, 64))
        starts = range(0, counts.shape[1], width)
        return np.concatenate([self._areas(counts[:, i : i + width]) for i in starts], axis=1)

    def _areas(self, counts: IntArray32) -> FloatArray:
        total = np.zeros((len(self.order) + 1, counts.shape[1]), dtype=np.int32)
        np.cumsum(counts[self.order], axis=0, out=total[1:])
        hits = np.add.reduceat(counts[self.positives], self.starts, axis=0).astype(np.float64)
        tp, upto = np.cumsum(hits, axis=0), total[self.upto]
        positives, negatives = tp[-1], total[-1] - tp[-1]
        wrong = upto - tp + total[self.above] - (tp - hits)  # twice the share of ties included
        wins = (hits * (2 * negatives - wrong)).sum(axis=0)
        gained = (hits * tp / np.maximum(upto, 1)).sum(axis=0)
        return np.stack([_ratio(wins, 2 * positives * negatives), _ratio(gained, positives)])


def _by_class(rates: dict[str, FloatArray], labels: Sequence[str]) -> dict[str, FloatArray]:
    return {
        of_class(metric, label): rates[metric][k]
        for metric in PER_CLASS
        for k, label in enumerate(labels)
    }


def _f_max(sums: FloatArray) -> FloatArray:
    """Return the largest F of mean precision and mean recall, [B].

    Args:
        sums: Precision, records with an output and recall at each threshold, and records with a
            label, [3 S + 1, B].
    """
    precision, outputs, recall = np.split(sums[:-1], 3)
    precision = precision / np.maximum(outputs, 1)
    recall = recall / np.maximum(sums[-1], 1)
    both = precision + recall
    best = (2 * precision * recall / np.where(both > 0, both, 1)).max(axis=0)
    return np.where(sums[-1] > 0, best, np.nan)


def _challenge_score(observed: FloatArray, correct: FloatArray, inactive: FloatArray) -> FloatArray:
    span = correct - inactive
    equal = np.abs(span) <= _SMALL * np.maximum(1, np.abs(correct))  # but for rounding
    return np.where(equal, 0.0, (observed - inactive) / np.where(equal, 1, span))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    nowhere = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=nowhere, where=denominator != 0)
