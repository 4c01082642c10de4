"""How much frozen features say about labels: linear probe and nearest neighbours.

Features are standardised by mean and deviation of the training recordings at hand; what is missing
in them takes the training median. A linear probe is a logistic regression with a quadratic penalty,
one for each class (or multinomial where classes exclude each other); the neighbours are those of
largest cosine. The strength of the penalty and the number of neighbours are those of the smallest
cross-entropy on the validation split, one for all classes; the test split is looked at once.

A label-efficiency curve repeats this with shares of the training patients. They are drawn in a
random order of the patients, so that a smaller share is part of a larger one, and a patient's
recordings are together; several orders (seeds) show the spread. The validation split stays whole.
Shapes: N recordings, D features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.manifest import LABELS_FILE, ManifestError, read_manifest
from fairseq_ecg.data.sources import Source, open_source
from fairseq_ecg.embedding_files import Embeddings
from fairseq_ecg.evaluation import describe_recordings
from fairseq_ecg.evaluation_results import Evaluation, full_summary
from fairseq_ecg.metrics.multiclass import SingleLabelSummary
from fairseq_ecg.metrics.multilabel import auroc
from fairseq_ecg.metrics.resampled import split_name
from fairseq_ecg.shallow_features import feature_names, shallow_features
from fairseq_ecg.tasks.ecg_classification import encode_labels

FloatArray = NDArray[np.float64]

PENALTIES = tuple(float(10.0**power) for power in range(-5, 3))
"""Values of scikit-learn's C, the inverse strength of the penalty."""
NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100)
SHARES = (0.01, 0.1, 1.0)
HEADS = ("linear", "knn")
SHALLOW = "shallow features"

_TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "f_max": "Fmax",
    "f_beta": "F2",
    "g_beta": "G2",
    "cinc_score": "CinC 2021 score",
    "f1_cinc": "CinC 2017 score",
    "brier": "Brier score",
}
_SMALL = 1e-9
_MOST_STEPS = 1000
_ROWS_AT_ONCE = 1024


class ProbingError(ValueError):
    """Features cannot be probed as asked; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class LabelledSplit:
    """Recordings of a split and their labels.

    Args:
        records: Their ``record``, ``patient``, ``age``, ``sex`` and ``corpus``, [N].
        truth: 0 or 1, float32 [N, K].
        source: Where they are read from.
    """

    records: pd.DataFrame
    truth: np.ndarray
    source: Source

    def patients(self) -> np.ndarray:
        """Return whose each recording is, [N]; a recording of nobody known stands for itself."""
        people = self.records["patient"].to_numpy(dtype=object)
        own = np.array([f"record {name}" for name in self.records["record"]], dtype=object)
        return np.where(people == "", own, people)


@dataclass(frozen=True, eq=False)
class LabelSet:
    """A label set: classes, and the splits that are trained, chosen and tested on.

    Args:
        folder: Where its manifests are.
        labels: Names of the classes, [K].
        names: Of the splits ``train``, ``valid`` and ``test``.
        train: What heads are fitted on.
        valid: What the strength of the penalty and the number of neighbours are chosen on.
        test: What is scored.
        single_label: Whether exactly one class is true.
    """

    folder: str
    labels: list[str]
    names: tuple[str, str, str]
    train: LabelledSplit
    valid: LabelledSplit
    test: LabelledSplit
    single_label: bool

    @property
    def splits(self) -> tuple[LabelledSplit, LabelledSplit, LabelledSplit]:
        """``train``, ``valid`` and ``test``."""
        return self.train, self.valid, self.test


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a label set's recordings, in the order of its rows.

    Args:
        name: What they are called in tables.
        train: float [N, D]; NaN where a recording lacks a number.
        valid: The same of the validation split.
        test: The same of the test split.
        seen: How many recordings of the test split the network was trained or pretrained on.
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seen: int = 0


@dataclass
class Probing:
    """What came out of probing.

    Args:
        table: One row per features, head, share and seed: ``records`` and ``patients`` trained on,
            ``chosen`` (C, or the number of neighbours), ``cross_entropy`` on the validation split,
            then the metrics of the test split.
        evaluations: Predictions of each features and head on the test split, trained on all.
        metrics: Names of the metrics in ``table``.
        remarks: In words what a reader must know.
    """

    table: pd.DataFrame
    evaluations: dict[tuple[str, str], Evaluation]
    metrics: list[str]
    remarks: list[str] = field(default_factory=list)

    def summary(self) -> pd.DataFrame:
        """Return mean and spread over the seeds of each metric.

        Returns:
            One row per features, head, share and metric: ``mean``, ``sd`` (NaN of one seed),
            ``min``, ``max``, over ``seeds`` that have a value.
        """
        long = self.table.melt(
            id_vars=["features", "head", "share"], value_vars=self.metrics, var_name="metric"
        )
        keys = ["features", "head", "share", "metric"]
        grouped = long.groupby(keys, sort=False)["value"]
        return grouped.agg(mean="mean", sd="std", min="min", max="max", seeds="count").reset_index()


def probe(
    label_set: LabelSet,
    features: Sequence[Features],
    *,
    heads: Sequence[str] = HEADS,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0, 1, 2),
) -> Probing:
    """Probe features of a label set with each head, on shares of the training patients.

    Args:
        label_set: What ``read_label_set`` returned.
        features: What ``features_of`` or ``shallow_features_of`` returned, one or more.
        heads: Some of ``HEADS``.
        shares: Of the training recordings, above 0 and up to 1. All of them are one run; others are
            drawn anew for each seed.
        seeds: Of the orders of the patients.

    Raises:
        ProbingError: If an option is out of range, or two features have one name.
    """
    _check_options(features, heads, shares, seeds)
    rows, evaluations, remarks = [], {}, _remarks(label_set, features)
    metrics: list[str] = []
    for one in features:
        for share in sorted(set(shares)):
            for seed in seeds if share < 1 else seeds[:1]:
                kept = draw_patients(label_set.train.patients(), share, seed)
                for head in heads:
                    result, row = _run(label_set, one, head, kept)
                    key = {"features": one.name, "head": head, "share": share, "seed": seed}
                    metrics = list(result.metrics)
                    rows.append({**key, **row, **result.metrics})
                    if share == 1:
                        evaluations[one.name, head] = result
    table = pd.DataFrame(rows)
    unconverged = int(table.pop("unconverged").sum())
    if unconverged:
        remarks.append(
            f"{unconverged} logistic regressions had not converged after {_MOST_STEPS} steps"
        )
    absent = table.pop("absent")
    for share in sorted(set(table["share"])):
        most = int(absent[table["share"] == share].max())
        if most:
            remarks.append(
                f"with {100 * share:g} % of the training recordings up to {most} of "
                f"{len(label_set.labels)} classes had no positive (or no negative) to learn from"
            )
    return Probing(table, evaluations, metrics, remarks)


def read_label_set(
    folder: str | Path,
    train: str = "train",
    valid: str = "valid",
    test: str = "test",
    single_label: bool | None = None,
) -> LabelSet:
    """Read labels, patients and recordings of three splits.

    Args:
        folder: With ``labels.txt`` and a manifest for each split.
        train: Which manifest heads are fitted on.
        valid: Which one they are chosen on.
        test: Which one is scored.
        single_label: Whether exactly one class is true; None: if it is so in all three splits.

    Raises:
        ProbingError: If the splits are not three different ones, have other classes, or classes
            that shall exclude each other do not.
        ManifestError: If a manifest is missing, or has no labels.
    """
    names = (train, valid, test)
    if len(set(names)) < 3:
        raise ProbingError(
            f"training, validation and test split must be three, but are {', '.join(names)}; what "
            "is chosen on the recordings that are scored says nothing about new ones"
        )
    found = [read_labelled(folder, name) for name in names]
    labels = found[0][0]
    for (others, _), name in zip(found, names, strict=True):
        if others != labels:
            raise ProbingError(f"{folder}: {name} has other classes than {train}")
    parts = [split for _, split in found]
    exclusive = all((part.truth.sum(axis=1) == 1).all() for part in parts)
    if single_label and not exclusive:
        raise ProbingError(
            f"{folder}: some recordings have no class or several, so the classes do not exclude "
            "each other; leave --single-label out"
        )
    single = exclusive if single_label is None else single_label
    return LabelSet(str(folder), labels, names, *parts, single_label=single)


def read_labelled(folder: str | Path, split: str) -> tuple[list[str], LabelledSplit]:
    """Read the labels of a split.

    Args:
        folder: With ``labels.txt`` and the manifest.
        split: Which manifest.

    Returns:
        The classes and the recordings.

    Raises:
        ManifestError: If the manifest is missing, or has no names of classes.
    """
    path = Path(folder) / f"{split}.tsv"
    if not path.is_file() and Path(folder).is_dir():
        there = sorted(found.stem for found in Path(folder).glob("*.tsv"))
        raise ManifestError(
            f"{folder} has no split {split!r}{did_you_mean(split, there)}; "
            f"there are: {', '.join(there) or 'none'}"
        )
    manifest = read_manifest(path)
    if manifest.classes is None:
        raise ManifestError(
            f"{path} has no names of classes; give the folder of a label set, with {LABELS_FILE} "
            "(for .mat segments and a label array, the folder that `fairseq-ecg pack` makes)"
        )
    source = open_source(manifest)
    labels = list(manifest.classes)
    records = describe_recordings(source)
    return labels, LabelledSplit(records, encode_labels(manifest, labels), source)


def features_of(found: Embeddings, label_set: LabelSet, name: str) -> Features:
    """Return the embeddings of a label set's recordings.

    Args:
        found: What ``extract`` wrote of these recordings or of more, per record; a recording may be
            in any of its splits.
        label_set: Whose recordings.
        name: What the features are called.

    Raises:
        ProbingError: If they are per frame, or a recording is missing or has other samples.
    """
    if "windows" not in found.table:
        raise ProbingError(
            f"{name}: the embeddings are of frames, but labels are of recordings; extract per "
            "record (--per record)"
        )
    table = found.table.drop_duplicates(["record", "fingerprint"])
    row_of: dict[str, list[int]] = {}
    for row, record in zip(table.index, table["record"], strict=True):
        row_of.setdefault(record, []).append(row)
    fingerprints = found.table["fingerprint"].to_numpy(dtype=np.uint64)
    rows = [_rows_of(split, row_of, fingerprints, name) for split in label_set.splits]
    seen = int(found.table["seen"].to_numpy()[rows[2]].sum())
    return Features(name, *(np.asarray(found.values[of]) for of in rows), seen=seen)


def shallow_features_of(label_set: LabelSet) -> Features:
    """Return the features of ``shallow_features.py`` of a label set's recordings.

    They are those of the leads that some training recording has, of whole recordings as they are
    stored.

    Args:
        label_set: Whose recordings.
    """
    recorded = np.flatnonzero(label_set.train.source.recorded_leads())
    return Features(SHALLOW, *(_shallow(split, recorded) for split in label_set.splits))


def draw_patients(patients: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose the recordings of as many patients as give a share of the recordings.

    Args:
        patients: Whose each recording is, [N].
        share: Of the recordings, above 0 and up to 1.
        seed: Of the order of the patients; the choice of a share is part of that of a larger one.

    Returns:
        Rows, ascending, int64; those of the fewest first patients that are the share or more.
    """
    people, of_record = np.unique(patients, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(people))
    counts = np.bincount(of_record)[order]
    needed = np.ceil(share * len(patients) - _SMALL)
    last = int(np.searchsorted(np.cumsum(counts), needed))
    return np.flatnonzero(np.isin(of_record, order[: last + 1]))


def metric_title(metric: str) -> str:
    """Return what a metric is called in a paper.

    Args:
        metric: Its name, such as ``macro_auroc`` or ``auroc/NORM``.
    """
    name, label = split_name(metric)
    average, _, rest = name.partition("_")
    if average in ("macro", "micro") and rest in _TITLES:
        title = f"{average} {_TITLES[rest]}"
    else:
        title = _TITLES.get(name, name.replace("_", " "))
    return f"{title} of {label}" if label else title


# --- heads ----------------------------------------------------------------------------------------


class Head(Protocol):
    """What turns standardised features into probabilities."""

    chosen: float

    def predict(self, features: np.ndarray) -> FloatArray:
        """Return probabilities, float64 [N, K]."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean, deviation and median of training features.

    Args:
        mean: float64 [D].
        deviation: float64 [D]; a constant feature has 1, and becomes 0.
        median: float64 [D]; takes the place of NaN.
    """

    mean: FloatArray
    deviation: FloatArray
    median: FloatArray

    @classmethod
    def of(cls, features: np.ndarray) -> Scaling:
        """Measure training features, [N, D]."""
        values = np.asarray(features, dtype=np.float64)
        known = ~np.isnan(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column of NaN alone
            median = np.where(known.any(axis=0), np.nanmedian(values, axis=0), 0.0)
        filled = np.where(known, values, median)
        deviation = filled.std(axis=0)
        constant = deviation <= 1e-12 * np.maximum(1, np.abs(filled).max(axis=0, initial=0))
        return cls(filled.mean(axis=0), np.where(constant, 1.0, deviation), median)

    def apply(self, features: np.ndarray) -> FloatArray:
        """Return features standardised, float64 [N, D]."""
        values = np.asarray(features, dtype=np.float64)
        return (np.where(np.isnan(values), self.median, values) - self.mean) / self.deviation


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Logistic regressions.

    Args:
        chosen: C of scikit-learn.
        weights: float64 [D, K].
        biases: float64 [K]; minus infinity: a class that was not there to be learnt.
        single_label: Whether the probabilities of the classes add up to 1.
        unconverged: How many regressions stopped before they were done.
    """

    chosen: float
    weights: FloatArray
    biases: FloatArray
    single_label: bool
    unconverged: int = 0

    def predict(self, features: np.ndarray) -> FloatArray:
        """See ``Head``."""
        logits = features @ self.weights + self.biases
        if not self.single_label:
            return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class NeighbourHead:
    """Labels of the most similar training recordings.

    Args:
        chosen: How many.
        features: Of the training recordings, each of length 1, float64 [N, D].
        truth: 0 or 1, [N, K].
        share: Of each class among the training recordings, float64 [K]; counts as one neighbour
            more, so that no probability is 0 or 1.
    """

    chosen: int
    features: FloatArray
    truth: np.ndarray
    share: FloatArray

    def predict(self, features: np.ndarray) -> FloatArray:
        """See ``Head``."""
        return next(self.each(features, [self.chosen]))

    def each(self, features: np.ndarray, counts: Sequence[int]) -> Iterator[FloatArray]:
        """Yield the probabilities of several numbers of neighbours.

        Args:
            features: Standardised, [N, D].
            counts: How many neighbours.
        """
        nearest = self._nearest(_directions(features), max(counts))
        for count in counts:
            found = self.truth[nearest[:, :count]].sum(axis=1, dtype=np.float64)
            yield (found + self.share) / (count + 1)

    def _nearest(self, directions: FloatArray, count: int) -> np.ndarray:
        """Return the training rows of the largest cosines, the first of equal ones, [N, count]."""
        parts = []
        for start in range(0, len(directions), _ROWS_AT_ONCE):
            cosines = directions[start : start + _ROWS_AT_ONCE] @ self.features.T
            parts.append(np.argsort(-cosines, axis=1, kind="stable")[:, :count])
        return np.concatenate(parts) if parts else np.empty((0, count), dtype=np.int64)


def fit_linear(
    train: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray,
    valid_truth: np.ndarray,
    single_label: bool,
) -> LinearHead:
    """Fit logistic regressions with each of ``PENALTIES`` and keep what is best on validation.

    A class without positives (or negatives) in training gets a constant probability, its share
    with one positive and one negative added; where classes exclude each other it gets 0.

    Args:
        train: Standardised features, [N, D].
        truth: 0 or 1, [N, K].
        valid: The same of the validation recordings.
        valid_truth: Their labels.
        single_label: Fit one multinomial regression in place of one for each class.
    """
    fit = _fit_multinomial if single_label else _fit_each_class
    heads = [fit(train, truth, penalty) for penalty in PENALTIES]
    losses = [cross_entropy(head.predict(valid), valid_truth, single_label) for head in heads]
    best = heads[int(np.argmin(losses))]
    unconverged = sum(head.unconverged for head in heads)
    return LinearHead(best.chosen, best.weights, best.biases, single_label, unconverged)


def fit_neighbours(
    train: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray,
    valid_truth: np.ndarray,
    single_label: bool,
) -> NeighbourHead:
    """Keep the training recordings, and the number of ``NEIGHBOURS`` that is best on validation.

    Args:
        train: As for ``fit_linear``, as are the others.
        truth: See ``train``.
        valid: See ``train``.
        valid_truth: See ``train``.
        single_label: See ``train``.
    """
    head = NeighbourHead(1, _directions(train), truth, truth.mean(axis=0, dtype=np.float64))
    counts = [count for count in NEIGHBOURS if count <= len(train)]
    losses = [
        cross_entropy(chance, valid_truth, single_label) for chance in head.each(valid, counts)
    ]
    return NeighbourHead(counts[int(np.argmin(losses))], head.features, truth, head.share)


def cross_entropy(probability: np.ndarray, truth: np.ndarray, single_label: bool) -> float:
    """Return the mean cross-entropy, of recordings, or of recordings and classes.

    Args:
        probability: In [0, 1], [N, K]; counts as at least 1e-9 and at most 1 - 1e-9.
        truth: 0 or 1, [N, K].
        single_label: Whether exactly one class is true.
    """
    chance = np.clip(np.asarray(probability, dtype=np.float64), _SMALL, 1 - _SMALL)
    if single_label:
        return float(-np.log(chance[truth == 1]).mean())
    return float(-np.where(truth == 1, np.log(chance), np.log1p(-chance)).mean())


def _fit_each_class(train: np.ndarray, truth: np.ndarray, penalty: float) -> LinearHead:
    weights, biases = np.zeros((train.shape[1], truth.shape[1])), np.zeros(truth.shape[1])
    unconverged = 0
    for k, column in enumerate(truth.T):
        positives = float(column.sum())
        if 0 < positives < len(column):
            model, converged = _regression(train, column.astype(np.int64), penalty)
            weights[:, k], biases[k] = model.coef_[0], model.intercept_[0]
            unconverged += not converged
        else:
            biases[k] = np.log((positives + 1) / (len(column) - positives + 1))
    return LinearHead(penalty, weights, biases, False, unconverged)


def _fit_multinomial(train: np.ndarray, truth: np.ndarray, penalty: float) -> LinearHead:
    weights = np.zeros((train.shape[1], truth.shape[1]))
    biases = np.full(truth.shape[1], -np.inf)
    classes = truth.argmax(axis=1)
    there = np.unique(classes)
    if len(there) == 1:
        biases[there] = 0
        return LinearHead(penalty, weights, biases, True)
    model, converged = _regression(train, classes, penalty)
    if len(there) == 2:  # scikit-learn then has one regression, of the second class
        weights[:, there[1]] = model.coef_[0]
        biases[there] = 0, model.intercept_[0]
    else:
        weights[:, there], biases[there] = model.coef_.T, model.intercept_
    return LinearHead(penalty, weights, biases, True, int(not converged))


def _regression(
    features: np.ndarray, target: np.ndarray, penalty: float
) -> tuple[LogisticRegression, bool]:
    """Fit one regression; tell whether it converged."""
    model = LogisticRegression(C=penalty, max_iter=_MOST_STEPS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, target)
    return model, not any(issubclass(one.category, ConvergenceWarning) for one in caught)


def _directions(features: np.ndarray) -> FloatArray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.divide(features, length, out=np.zeros_like(features), where=length > 0)


# --- one run --------------------------------------------------------------------------------------

_FIT = {"linear": fit_linear, "knn": fit_neighbours}


def _run(
    label_set: LabelSet, features: Features, head: str, kept: np.ndarray
) -> tuple[Evaluation, dict[str, Any]]:
    """Fit a head on some training recordings and score it."""
    truth = label_set.train.truth[kept]
    scaling = Scaling.of(features.train[kept])
    train, valid, test = map(scaling.apply, (features.train[kept], features.valid, features.test))
    single = label_set.single_label
    fitted = _FIT[head](train, truth, valid, label_set.valid.truth, single)
    result = _evaluation(label_set, features, fitted.predict(test))
    positives = truth.sum(axis=0)
    return result, {
        "records": len(kept),
        "patients": len(set(label_set.train.patients()[kept])),
        "chosen": float(fitted.chosen),
        "cross_entropy": cross_entropy(fitted.predict(valid), label_set.valid.truth, single),
        "unconverged": getattr(fitted, "unconverged", 0),
        "absent": int(((positives == 0) | (positives == len(truth))).sum()),
    }


def _evaluation(label_set: LabelSet, features: Features, probability: FloatArray) -> Evaluation:
    """Return the predictions as an evaluation of a checkpoint has them, decided at 0.5."""
    labels, split = label_set.labels, label_set.test
    single = label_set.single_label
    summary = SingleLabelSummary(tuple(labels)) if single else full_summary(labels)
    metrics = summary(probability, split.truth)
    if single:  # of each class against the others, as intervals have it
        metrics["auroc"] = auroc(probability, split.truth)
    return Evaluation(
        names=split.records["record"].tolist(),
        labels=labels,
        probability=probability,
        truth=split.truth,
        metrics=metrics,
        num_segments=len(probability),
        pretraining_overlap=features.seen,
        single_label=single,
        summary=summary,
        records=split.records.assign(trained_on=False, pretrained_on=False),
        checkpoints=(features.name,),
        data=label_set.folder,
        split=label_set.names[2],
    )


def _rows_of(
    split: LabelledSplit, row_of: Mapping[str, list[int]], fingerprints: np.ndarray, name: str
) -> np.ndarray:
    """Return the row of each recording of a split among the embeddings."""
    own = split.source.fingerprints()
    rows = []
    for number, record in enumerate(split.records["record"]):
        there = row_of.get(record)
        if there is None:
            missing = sum(found not in row_of for found in split.records["record"])
            raise ProbingError(
                f"{name} has no embedding of {record} ({missing} of {len(split.records)} "
                "recordings are missing); extract them from this label set, or from its store"
            )
        alike = [
            row
            for row in there
            if not len(own) or not fingerprints[row] or fingerprints[row] == own[number]
        ]
        if not alike:
            raise ProbingError(
                f"{name} has an embedding of {record}, but of other samples than this label set "
                "has; extract them from this label set, or from its store"
            )
        rows.append(alike[0])
    return np.array(rows, dtype=np.int64)


def _shallow(split: LabelledSplit, leads: np.ndarray) -> FloatArray:
    source, names = split.source, [STANDARD_LEADS[row] for row in leads]
    found = np.empty((len(source.names), len(feature_names(names))))
    for row, n_samples in enumerate(source.n_samples.tolist()):
        found[row] = shallow_features(source.read(row, 0, n_samples)[leads], source.rate_hz)
    return found


def _remarks(label_set: LabelSet, features: Sequence[Features]) -> list[str]:
    remarks = []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        shared = set(label_set.splits[one].patients()) & set(label_set.splits[other].patients())
        if shared:
            remarks.append(
                f"{len(shared)} patients are in both {label_set.names[one]} and "
                f"{label_set.names[other]}, so that numbers say less about new patients"
            )
    remarks += [
        f"the encoder of {one.name} was trained or pretrained on {one.seen} of "
        f"{len(label_set.test.truth)} recordings of {label_set.names[2]}"
        for one in features
        if one.seen
    ]
    return remarks


def _check_options(
    features: Sequence[Features],
    heads: Sequence[str],
    shares: Sequence[float],
    seeds: Sequence[int],
) -> None:
    names = [one.name for one in features]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        raise ProbingError(
            f"two features are called {repeated[0]}; give each a name of its own"
            if repeated
            else "there are no features to probe; give one or more"
        )
    for head in heads:
        if head not in HEADS:
            raise ProbingError(f"no head is called {head!r}; there are: {', '.join(HEADS)}")
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong or not len(shares):
        raise ProbingError(
            f"shares of the training recordings must be above 0 and up to 1, got {wrong or 'none'}"
        )
    if not heads or not seeds:
        raise ProbingError("there must be a head and a seed, but one of them is missing")
