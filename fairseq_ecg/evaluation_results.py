"""What evaluating a checkpoint gives: rows, numbers, intervals, and in words what has no number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairseq_ecg.metrics.bootstrap import CountMetric, Interval, bootstrap_intervals
from fairseq_ecg.metrics.calibration import (
    Reliability,
    answers,
    calibration_error,
    calibration_error_per_class,
    reliability,
)
from fairseq_ecg.metrics.cinc2021 import find_class, load_weights
from fairseq_ecg.metrics.multiclass import SingleLabelSummary
from fairseq_ecg.metrics.resampled import (
    PER_CLASS,
    ResampledSingleLabel,
    ResampledSummary,
    mean_of_classes,
    of_class,
)
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.resources import challenge_labels, challenge_weights_file

START_COLUMN = "start_sample"
"""Of tables whose rows are frames: where in its recording each begins."""

RECORD_COLUMNS = ("record", "patient", "age", "sex", "corpus", "trained_on", "pretrained_on")
"""Columns of ``Evaluation.records``."""

AGE_EDGES = (0, 18, 40, 60, 80)
"""Where age groups begin, years."""

SMALLEST_GROUP = 10
"""Rows that a subgroup must have for numbers of its own."""


@dataclass
class Evaluation:
    """What a classifier says about a split.

    Args:
        names: Record of each row.
        labels: Class names, [K].
        probability: float64 [R, K].
        truth: 0 or 1, float32 [R, K].
        metrics: By name; see ``metrics/summary.py``.
        num_segments: How many segments the rows were averaged from.
        overlap: How many of the recordings the checkpoint was trained on, as far as it knows.
        pretraining_overlap: How many of them its encoder was pretrained on.
        unit: What a row is.
        single_label: Whether exactly one class is true, and the most probable one is decided.
        summary: Which numbers ``metrics`` are; None: the usual ones, cut at 0.5.
        records: What is known of each row's recording, ``RECORD_COLUMNS``; empty or NaN where it
            is not known. None: nothing is.
        intervals: By name, those of each class as ``metrics/resampled.py`` names them; empty
            unless asked for.
        draws: How many draws the intervals are of.
        start: First sample of each row in its recording, int64 [R], where rows are frames.
        checkpoints: Whose mean probability it is.
        data: Folder of the label set.
        split: Which manifest.
    """

    names: list[str]
    labels: list[str]
    probability: np.ndarray
    truth: np.ndarray
    metrics: dict[str, float] = field(default_factory=dict)
    num_segments: int = 0
    overlap: int = 0
    pretraining_overlap: int = 0
    unit: str = "record"
    single_label: bool = False
    summary: Summary | SingleLabelSummary | None = None
    records: pd.DataFrame | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    draws: int = 0
    start: np.ndarray | None = None
    checkpoints: tuple[str, ...] = ()
    data: str = ""
    split: str = ""

    def confusion(self) -> pd.DataFrame:
        """Return how often each class was decided (columns) where each is true (rows).

        Raises:
            ValueError: If classes do not exclude each other.
        """
        if not self.single_label:
            raise ValueError("several classes may be true at once, so there is no confusion matrix")
        counts = SingleLabelSummary().confusion(self.probability, self.truth)
        return pd.DataFrame(counts, index=self.labels, columns=self.labels)

    def table(self) -> pd.DataFrame:
        """Return one row per record: its name, then one probability per class.

        Rows of frames have ``start_sample`` behind the name.
        """
        return self._by_record(self.probability)

    def truth_table(self) -> pd.DataFrame:
        """Return one row per record: its name, then 0 or 1 per class."""
        return self._by_record(self.truth.astype(np.int64))

    def _by_record(self, values: np.ndarray) -> pd.DataFrame:
        table = pd.DataFrame(values, columns=self.labels)
        if self.start is not None:
            table.insert(0, START_COLUMN, self.start)
        table.insert(0, "record", self.names)
        return table

    @property
    def thresholds(self) -> np.ndarray | None:
        """What a class's probability must exceed, float64 [K]; None if the largest decides."""
        if self.single_label:
            return None
        return np.broadcast_to(np.asarray(self._cut, dtype=np.float64), len(self.labels))

    @property
    def _cut(self) -> float | np.ndarray:
        return self.summary.threshold if isinstance(self.summary, Summary) else 0.5

    def decisions(self) -> np.ndarray:
        """Return which classes are decided, bool [R, K]."""
        if self.single_label:
            return np.eye(len(self.labels), dtype=bool)[self.probability.argmax(axis=1)]
        return self.probability > self._cut

    def patients(self) -> np.ndarray:
        """Return whose each row is, names [R]; a recording of nobody known stands for itself."""
        own = np.array([f"record {name}" for name in self.names], dtype=object)
        if self.records is None:
            return own
        known = self.records["patient"].to_numpy(dtype=object)
        return np.where(known == "", own, known)

    def resampled(self) -> CountMetric:
        """Return the numbers as a function of draws, for ``metrics/bootstrap.py``."""
        chance, truth = self.probability, self.truth
        if self.single_label:
            return ResampledSingleLabel(SingleLabelSummary(tuple(self.labels)), chance, truth)
        summary = self.summary if isinstance(self.summary, Summary) else full_summary(self.labels)
        return ResampledSummary(summary, chance, truth, self.labels)

    def add_intervals(self, draws: int = 1000, seed: int = 0) -> None:
        """Fill in ``intervals``: 95 %, drawn by patient.

        Args:
            draws: How many draws; 0: none, and no intervals.
            seed: Of the draws.
        """
        self.draws = draws
        self.intervals = (
            bootstrap_intervals(self.resampled(), self.patients(), draws, seed) if draws else {}
        )

    def per_class(self) -> pd.DataFrame:
        """Return one row per class.

        Its columns: ``positives`` and ``patients`` (who has any), ``threshold`` (NaN if the largest
        decides), the numbers of ``metrics/resampled.py`` and ``ece``; and where there are intervals
        ``<number>_low``, ``<number>_high`` and ``<number>_draws`` (those with a value).
        """
        whole = self.resampled().of_counts(np.ones((len(self.names), 1)))
        errors = calibration_error_per_class(self.probability, self.truth)
        patients, limits = self.patients(), self.thresholds
        rows = {}
        for k, label in enumerate(self.labels):
            positive = self.truth[:, k] == 1
            row = {
                "positives": int(positive.sum()),
                "patients": len(set(patients[positive])),
                "threshold": math.nan if limits is None else float(limits[k]),
            }
            row |= {metric: float(whole[of_class(metric, label)][0]) for metric in PER_CLASS}
            row["ece"] = float(errors[k])
            for metric in PER_CLASS:
                found = self.intervals.get(of_class(metric, label))
                if found is not None:
                    row[f"{metric}_low"], row[f"{metric}_high"] = found.low, found.high
                    row[f"{metric}_draws"] = found.valid
            rows[label] = row
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")

    def calibration(self) -> dict[str, float]:
        """Return the expected calibration error (``ece``) and the Brier score (``brier``).

        Both are means over the classes; of classes that exclude each other ``ece`` is that of the
        answer.
        """
        if self.single_label:
            error = reliability(*answers(self.probability, self.truth)).error
        else:
            error = calibration_error(self.probability, self.truth)
        chance = np.asarray(self.probability, dtype=np.float64)
        squares = (chance - self.truth) ** 2
        return {"ece": error, "brier": float(squares.mean()) if squares.size else math.nan}


@dataclass
class Identification:
    """For whom a network takes the probes of a split.

    Args:
        names: Recording of each probe.
        patient: Its patient, int64 [N].
        nearest: Gallery recording that is most similar to it.
        nearest_patient: Whose that is, int64 [N].
        similarity: Cosine of the two, float64 [N].
        metrics: By name: rank-1 ``accuracy``, ``rank5_accuracy``; ``auroc`` and ``eer`` of telling
            pairs of one patient from pairs of two.
        num_segments: How many segments of probes and gallery were embedded.
        overlap: As in ``Evaluation``, of probes and gallery; so is ``pretraining_overlap``.
        pretraining_overlap: See ``overlap``.
        unit: What a row is.
        intervals: Of the accuracies, patients of the probes being drawn and the gallery kept; empty
            unless asked for. Pairs share patients on both sides, so their numbers have none.
        draws: How many draws the intervals are of.
    """

    names: list[str]
    patient: np.ndarray
    nearest: list[str]
    nearest_patient: np.ndarray
    similarity: np.ndarray
    metrics: dict[str, float]
    num_segments: int
    overlap: int
    pretraining_overlap: int = 0
    unit: str = "probe"
    intervals: dict[str, Interval] = field(default_factory=dict)
    draws: int = 0

    def table(self) -> pd.DataFrame:
        """Return one row per probe."""
        return pd.DataFrame(
            {
                "record": self.names,
                "patient": self.patient,
                "nearest": self.nearest,
                "nearest_patient": self.nearest_patient,
                "similarity": self.similarity,
            }
        )


@dataclass
class ReconstructionErrors:
    """How well a network rebuilds what is hidden from it.

    Args:
        names: Recording of each row.
        errors: By name as in ``metrics``, float64 [R] each, NaN where there is no value.
        metrics: By name, over all that was hidden: ``mse`` per sample and ``nmse``, its share of
            the mean square, in the space of the target; ``mse_masked_uv2`` and, over all samples,
            ``mse_all_uv2`` where targets are the samples themselves (see
            ``criterions/ecg_masked_mse.py``).
        num_segments: How many segments the rows were computed from.
        overlap: As in ``Evaluation``.
        pretraining_overlap: As in ``Evaluation``.
        unit: What a row is.
        intervals: Of ``metrics``; empty unless asked for.
        draws: How many draws the intervals are of.
    """

    names: list[str]
    errors: dict[str, np.ndarray]
    metrics: dict[str, float]
    num_segments: int
    overlap: int
    pretraining_overlap: int = 0
    unit: str = "record"
    intervals: dict[str, Interval] = field(default_factory=dict)
    draws: int = 0

    def table(self) -> pd.DataFrame:
        """Return one row per record: its name, then its errors."""
        return pd.DataFrame({"record": self.names, **self.errors})


def full_summary(
    labels: list[str],
    threshold: float | np.ndarray = 0.5,
    average: str = "macro",
    weights_file: str | None = None,
) -> Summary:
    """Return all numbers there are of classes that do not exclude each other.

    Args:
        labels: Names of the classes; those of CinC 2021 get its score.
        threshold: A class is decided where its probability is above this; one for all, or [K].
        average: Which average ``auroc`` and ``auprc`` are.
        weights_file: The challenge's table; None, or a file that is gone: the official one.
    """
    challenge: dict[str, Any] = {}
    if labels == challenge_labels():
        given = weights_file is not None and Path(weights_file).is_file()
        classes, weights = load_weights(weights_file if given else challenge_weights_file())
        challenge = {"cinc_weights": weights, "sinus_index": find_class(classes)}
    return Summary(threshold, average, f_max=True, f_beta=True, accuracy=True, **challenge)


def check_same_rows(first: Evaluation, found: Evaluation, reference: str, folder: str) -> None:
    """Refuse predictions of other recordings, classes or truths than the first ones.

    Args:
        first: What is compared with.
        found: What is compared.
        reference: Where the first one is from.
        folder: Where the other one is from.

    Raises:
        ValueError: Naming what differs.
    """
    for what, one, other in (
        ("classes", first.labels, found.labels),
        ("recordings", first.names, found.names),
        ("true classes", first.truth.tolist(), found.truth.tolist()),
    ):
        if one != other:
            raise ValueError(
                f"{folder} and {reference} have other {what} ({len(other)} and {len(one)}); models "
                "are compared on the same recordings: evaluate all on one split"
            )


Result = Evaluation | Identification | ReconstructionErrors


def remarks(result: Result) -> list[str]:
    """Return in words why numbers are missing, or mean less than they seem to.

    Args:
        result: Whose numbers.
    """
    if not isinstance(result, Evaluation):
        return []
    return [*_remarks_on_rows(result), *_remarks_on_classes(result)]


def _remarks_on_rows(result: Evaluation) -> Iterator[str]:
    patients = set(result.patients())
    unknown = result.records is None or (result.records["patient"] == "").all()
    if unknown:
        yield (
            f"patients are not known: every {'recording' if result.unit == 'record' else 'row'} is "
            "taken for one of its own, so that intervals are too narrow if some have several"
        )
    if len(patients) == 1:
        yield "all rows are of one patient: there is nobody else to draw, so there is no interval"
    elif result.draws and len(patients) < 30:
        yield f"intervals from {len(patients)} patients are too narrow"


def _remarks_on_classes(result: Evaluation) -> Iterator[str]:
    """Yield one line for each kind of class whose numbers are missing or weak."""
    table, rows = result.per_class(), len(result.names)
    positives, patients = table["positives"], table["patients"]
    equal = result.probability.min(axis=0) == result.probability.max(axis=0)
    kinds = {
        f"classes without a positive {result.unit}, which have no AUROC, AUPRC or recall and are "
        "left out of means": positives == 0,
        f"classes without a negative {result.unit}, which have no AUROC or specificity, and an "
        "AUPRC of 1 whatever the scores": positives == rows,
        "classes with positives of one patient only, of whom alone their numbers speak": (
            patients == 1
        ),
        "classes with one score for all, so that nothing is ranked and AUROC is 0.5 where it has a "
        "value": equal & (rows > 1),
    }
    for kind, of in kinds.items():
        if of.any():
            yield f"{kind}: {', '.join(map(str, table.index[of]))}"
    if "auroc_draws" in table:
        known = (positives > 0) & (positives < rows)
        left_out = (result.draws - table.loc[known, "auroc_draws"]).astype(int)
        left_out = left_out[(left_out > 0) & (left_out < result.draws)]
        if len(left_out):
            counts = ", ".join(f"{label} {count}" for label, count in left_out.items())
            yield (
                f"draws without positives or negatives, which their intervals leave out, of "
                f"{result.draws}: {counts}"
            )


def subgroups(result: Evaluation, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return how well each age group, sex and corpus is served.

    Groups of one attribute are compared over the same classes: those that each of them (but those
    that are too small) has with and without.

    Args:
        result: What is looked at.
        draws: For the intervals, by patient; 0: none.
        seed: Of the draws.

    Returns:
        One row per group of an attribute that has two or more: ``attribute``, ``group``, ``rows``,
        ``patients``, ``classes``, macro ``auroc`` and ``brier`` with ``_low`` and ``_high``, and
        ``ece``; NaN where a group has fewer than ``SMALLEST_GROUP`` rows, or there is no class.
    """
    rows, patients = [], result.patients()
    for attribute, groups in _group_rows(result).items():
        shared = _shared_classes(result, groups)
        for group, members in groups.items():
            row = {
                "attribute": attribute,
                "group": group,
                "rows": int(members.sum()),
                "patients": len(set(patients[members])),
                "classes": len(shared),
            }
            served = members.sum() >= SMALLEST_GROUP and len(shared) > 0
            rows.append(row | (_numbers(result, members, shared, draws, seed) if served else {}))
    numbers = ("auroc", "auroc_low", "auroc_high", "brier", "brier_low", "brier_high", "ece")
    columns = ["attribute", "group", "rows", "patients", "classes", *numbers]
    return pd.DataFrame(rows).reindex(columns=columns)


def subgroup_reliability(result: Evaluation) -> dict[str, dict[str, Reliability]]:
    """Return the reliability of the groups of ``subgroups`` that have numbers, by attribute.

    An attribute of which fewer than two groups have numbers is left out.

    Of classes that exclude each other it is that of the answers, else of the shared classes.

    Args:
        result: What is looked at.
    """
    found: dict[str, dict[str, Reliability]] = {}
    for attribute, groups in _group_rows(result).items():
        shared = _shared_classes(result, groups)
        large = {name: rows for name, rows in groups.items() if rows.sum() >= SMALLEST_GROUP}
        if len(shared) and len(large) > 1:
            found[attribute] = {
                name: _reliability(result, rows, shared) for name, rows in large.items()
            }
    return found


def _reliability(result: Evaluation, rows: np.ndarray, classes: np.ndarray) -> Reliability:
    chance, truth = result.probability[rows], result.truth[rows]
    if result.single_label:
        return reliability(*answers(chance, truth))
    return reliability(chance[:, classes], truth[:, classes])


def _shared_classes(result: Evaluation, groups: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the classes that every group that is large enough has with and without."""
    large = [members for members in groups.values() if members.sum() >= SMALLEST_GROUP]
    if not large:
        return np.empty(0, dtype=np.int64)
    positive = [result.truth[members] == 1 for members in large]
    both = [found.any(axis=0) & ~found.all(axis=0) for found in positive]
    return np.flatnonzero(np.logical_and.reduce(both))


def _group_rows(result: Evaluation) -> dict[str, dict[str, np.ndarray]]:
    """Return which rows belong to each group of each attribute that has two or more, bool [R]."""
    if result.records is None:
        return {}
    ages = result.records["age"].to_numpy(dtype=np.float64)
    by_attribute: dict[str, Mapping[str, np.ndarray]] = {
        "age": {name: (ages >= low) & (ages < high) for name, low, high in _age_groups()}
    }
    for attribute in ("sex", "corpus"):
        values = result.records[attribute].to_numpy(dtype=object)
        found = sorted({str(value) for value in values} - {""})
        by_attribute[attribute] = {name: values == name for name in found}
    filled = {
        attribute: {name: members for name, members in groups.items() if members.any()}
        for attribute, groups in by_attribute.items()
    }
    return {attribute: groups for attribute, groups in filled.items() if len(groups) > 1}


def _age_groups() -> Iterator[tuple[str, float, float]]:
    for low, high in zip(AGE_EDGES, (*AGE_EDGES[1:], math.inf), strict=True):
        text = f"{low}-{high - 1:g}" if low and high < math.inf else f"under {high:g}"
        yield (text if high < math.inf else f"{low} and over"), low, high


def _numbers(
    result: Evaluation, members: np.ndarray, classes: np.ndarray, draws: int, seed: int
) -> dict[str, float]:
    chance, truth = result.probability[members][:, classes], result.truth[members][:, classes]
    names = [result.labels[k] for k in classes]
    part = _MeanOfClasses(ResampledSummary(Summary(ranking=False), chance, truth, names), names)
    found = bootstrap_intervals(part, result.patients()[members], max(draws, 1), seed)
    row = {}
    for name, interval in found.items():
        row[name] = interval.value
        if draws:
            row[f"{name}_low"], row[f"{name}_high"] = interval.low, interval.high
    if result.single_label:
        return row | {"ece": _reliability(result, members, classes).error}
    return row | {"ece": calibration_error(chance, truth)}


@dataclass(frozen=True)
class _MeanOfClasses:
    """Macro AUROC and mean Brier score on draws."""

    metric: ResampledSummary
    names: list[str]

    def of_counts(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """See ``CountMetric``."""
        values = self.metric.of_counts(counts)
        areas, squares = (
            np.stack([values[of_class(metric, name)] for name in self.names])
            for metric in ("auroc", "brier")
        )
        return {"auroc": mean_of_classes(areas), "brier": mean_of_classes(squares)}
