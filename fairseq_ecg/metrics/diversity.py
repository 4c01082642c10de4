"""How differently several classifiers decide, and what an ensemble of them gains.

The headline is disagreement over error, the vertical axis of the diversity-accuracy plane of Fort,
Hu and Lakshminarayanan 2019, "Deep Ensembles: A Loss Landscape Perspective" (arXiv:1912.02757):
0 for equal decisions, 2 (1 - e) for errors of rate e that are independent. Yule's Q and the
correlation of right answers are those of Kuncheva and Whitaker 2003, "Measures of Diversity in
Classifier Ensembles and Their Relationship with the Ensemble Accuracy", Machine Learning 51:181.

A measure that has no meaning for a pair, such as disagreement over error where both models are
always right, is NaN. Shapes: M models, N records, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics._checks import as_scores, as_truth_table, check_same_shape
from fairseq_ecg.metrics.multilabel import accuracy_exact, auroc, macro

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_LEAST_PROBABILITY = 1e-7  # logits of probabilities nearer to 0 or 1 are taken here
_MOST_SUBSETS = 1000
_MOST_SIGNS = 1 << 16
_SMALL = 1e-12


@dataclass(frozen=True)
class Diversity:
    """What two models differ by.

    Attributes:
        div_norm: ``disagreement`` over the mean of both models' shares of wrong decisions.
        div_norm_exact: the same of whole records: the share of records with any different decision
            over the mean share of records with any wrong one.
        disagreement: share of the N * K decisions that differ.
        yule_q: association of being right, from -1 (where one errs the other does not) to 1.
        correlation: Pearson correlation of being right.
        pearson: correlation of the logits over the records, mean over the classes.
        jensen_shannon: divergence of the two probabilities in bits, mean over records and classes.
    """

    div_norm: float
    div_norm_exact: float
    disagreement: float
    yule_q: float
    correlation: float
    pearson: float
    jensen_shannon: float


MEASURES = tuple(field.name for field in fields(Diversity))


@dataclass(frozen=True, eq=False)
class Model:
    """What one model says about a set of records, checked.

    Attributes:
        probability: in [0, 1], float64 [N, K].
        decisions: bool [N, K].
    """

    probability: FloatArray
    decisions: BoolArray

    def __post_init__(self) -> None:
        chance = as_scores(self.probability).astype(np.float64)
        if chance.size and not (chance.min() >= 0 and chance.max() <= 1):
            raise ValueError(
                f"probabilities must be in [0, 1], but they reach from {chance.min():g} to "
                f"{chance.max():g}; pass them through a sigmoid first"
            )
        decided = as_truth_table("decisions", self.decisions)
        check_same_shape(probability=chance, decisions=decided)
        object.__setattr__(self, "probability", chance)
        object.__setattr__(self, "decisions", decided)


def pair_diversity(labels: ArrayLike, one: Model, other: Model) -> Diversity:
    """Compare two models.

    Args:
        labels: 0 or 1, [N, K].
        one: a model.
        other: another one, of the same records and classes.

    Raises:
        ValueError: the shapes differ, there is no record, or labels are not 0 or 1.
    """
    truth = _truth(labels, one, other)
    differ = one.decisions != other.decisions
    right, right_too = one.decisions == truth, other.decisions == truth
    disagreement = float(differ.mean())
    error = 1 - (right.mean() + right_too.mean()) / 2
    error_exact = 1 - (right.all(axis=1).mean() + right_too.all(axis=1).mean()) / 2
    both, none = float((right & right_too).sum()), float((~right & ~right_too).sum())
    first, second = float((right & ~right_too).sum()), float((~right & right_too).sum())
    excess = both * none - first * second
    margins = (both + first) * (second + none) * (both + second) * (first + none)
    return Diversity(
        div_norm=_ratio(disagreement, error),
        div_norm_exact=_ratio(float(differ.any(axis=1).mean()), error_exact),
        disagreement=disagreement,
        yule_q=_ratio(excess, both * none + first * second),
        correlation=_ratio(excess, math.sqrt(margins)),
        pearson=_mean_pearson(_logit(one.probability), _logit(other.probability)),
        jensen_shannon=_jensen_shannon(one.probability, other.probability),
    )


@dataclass(frozen=True, eq=False)
class Arm:
    """Models that were trained in the same way, and what came out.

    Attributes:
        macro_auc: macro AUROC of each model, float64 [M].
        error: share of wrong decisions of each model, float64 [M].
        error_exact: share of records with a wrong decision of each model, float64 [M].
        pairs: the two models of each pair, in lexicographic order.
        diversity: what they differ by, one of each pair.
        ensemble_auc: macro AUROC of the mean probability of m models, mean over the sets of m
            models, float64 [M], m from 1 on.
    """

    macro_auc: FloatArray
    error: FloatArray
    error_exact: FloatArray
    pairs: tuple[tuple[int, int], ...]
    diversity: tuple[Diversity, ...]
    ensemble_auc: FloatArray

    @property
    def gain(self) -> FloatArray:
        """What an ensemble of m models has more than its mean member, [M]."""
        return self.ensemble_auc - self.ensemble_auc[0]

    @property
    def pair_auc(self) -> FloatArray:
        """Mean macro AUROC of the two models of each pair."""
        return np.array([self.macro_auc[list(pair)].mean() for pair in self.pairs])

    def measure(self, name: str) -> FloatArray:
        """Return one of ``MEASURES`` of every pair."""
        return np.array([asdict(found)[name] for found in self.diversity], dtype=np.float64)


def describe_arm(labels: ArrayLike, models: list[Model], seed: int = 0) -> Arm:
    """Compare all pairs of models and average all sets of them.

    Args:
        labels: 0 or 1, [N, K].
        models: two or more.
        seed: of the draw of sets, where there are over 1000 of one size.

    Raises:
        ValueError: there are fewer than two models, or they do not fit the labels.
    """
    if len(models) < 2:
        raise ValueError(
            f"diversity is between models: give two or more, trained with other seeds, not "
            f"{len(models)}"
        )
    truth = _truth(labels, *models)
    pairs = tuple(itertools.combinations(range(len(models)), 2))
    return Arm(
        macro_auc=np.array([auroc(model.probability, truth) for model in models]),
        error=np.array([(model.decisions != truth).mean() for model in models]),
        error_exact=np.array([1 - accuracy_exact(truth, model.decisions) for model in models]),
        pairs=pairs,
        diversity=tuple(pair_diversity(truth, models[i], models[j]) for i, j in pairs),
        ensemble_auc=ensemble_auc(truth, models, seed),
    )


def ensemble_auc(labels: ArrayLike, models: list[Model], seed: int = 0) -> FloatArray:
    """Return the macro AUROC of averaged probabilities of m = 1..M models.

    Args:
        labels: 0 or 1, [N, K].
        models: one or more.
        seed: of the draw of sets, where there are over 1000 of one size.

    Returns:
        float64 [M], the mean over all sets of m models.

    Raises:
        ValueError: the models do not fit the labels.
    """
    truth = _truth(labels, *models)
    stacked = np.stack([model.probability for model in models])
    rng = np.random.default_rng(seed)
    means = []
    for m in range(1, len(models) + 1):
        chosen = _subsets(rng, len(models), m)
        means.append(np.mean([auroc(stacked[rows].mean(axis=0), truth) for rows in chosen]))
    return np.array(means, dtype=np.float64)


def sign_test(differences: ArrayLike, seed: int = 0) -> float:
    """Return how often random signs make a mean difference at least as large, in absolute value.

    The paired permutation test: what belongs together is exchanged between the arms. All signs are
    tried up to 16 differences, else 65536 draws.

    Args:
        differences: of the values that belong together, [D]; NaN is left out.
        seed: of the draws.

    Returns:
        A share from above 0 to 1; NaN without any difference.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan")
    return _share_as_large(_signs(len(values), seed) @ values, abs(float(values.sum())))


def exchange_test(values: ArrayLike, seed: int = 0) -> float:
    """Return how often exchanging whole models between two arms makes as large a difference.

    Pairs of one arm share models, so that they are not independent, and a test over pairs finds
    differences too easily. Here the models are what is exchanged: model i of one arm for model i
    of the other one.

    Args:
        values: a measure of every two of the 2M models, symmetric [2M, 2M]; those of the first arm
            come first, the diagonal is not looked at.
        seed: of the draws, where there are over 65536 exchanges.

    Returns:
        A share from above 0 to 1; NaN if a value is NaN.

    Raises:
        ValueError: the table is not square, or has an odd number of models or fewer than four.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) % 2 or len(table) < 4:
        raise ValueError(
            "values must be a square table of two arms of equally many models, two or more, but "
            f"has the shape {list(table.shape)}"
        )
    table = np.where(np.eye(len(table), dtype=bool), 0.0, table)
    if np.isnan(table).any():
        return float("nan")
    half = len(table) // 2
    kept = (1 + _signs(half, seed)) / 2  # 1 where a model stays in its arm
    members = np.concatenate([kept, 1 - kept], axis=1)
    sums = np.einsum("si,ij,sj->s", members, table, members)
    others = np.einsum("si,ij,sj->s", 1 - members, table, 1 - members)
    observed = table[:half, :half].sum() - table[half:, half:].sum()
    return _share_as_large(sums - others, abs(float(observed)))


def measure_table(labels: ArrayLike, models: list[Model], name: str) -> FloatArray:
    """Return one of ``MEASURES`` of every two models, symmetric [M, M], NaN on the diagonal."""
    table = np.full((len(models), len(models)), np.nan)
    for i, j in itertools.combinations(range(len(models)), 2):
        value = asdict(pair_diversity(labels, models[i], models[j]))[name]
        table[i, j] = table[j, i] = value
    return table


def _truth(labels: ArrayLike, *models: Model) -> BoolArray:
    truth = as_truth_table("labels", labels)
    if not truth.size:
        raise ValueError(f"there must be records and classes, but labels are {list(truth.shape)}")
    for model in models:
        check_same_shape(labels=truth, probability=model.probability)
    return truth


def _ratio(above: float, below: float) -> float:
    return above / below if below > _SMALL else float("nan")


def _logit(chance: FloatArray) -> FloatArray:
    inside = np.clip(chance, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.log(inside) - np.log1p(-inside)


def _mean_pearson(one: FloatArray, other: FloatArray) -> float:
    """Average the correlation over the columns in which both vary."""
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    nowhere = np.full_like(scale, np.nan)
    return macro(np.divide((a * b).sum(axis=0), scale, out=nowhere, where=scale > _SMALL))


def _jensen_shannon(one: FloatArray, other: FloatArray) -> float:
    middle = _entropy((one + other) / 2)
    return float(np.maximum(middle - (_entropy(one) + _entropy(other)) / 2, 0.0).mean())


def _entropy(chance: FloatArray) -> FloatArray:
    """Return the entropy of a yes with this probability, in bits."""
    parts = np.stack([chance, 1 - chance])
    return -(parts * np.log2(np.where(parts > 0, parts, 1.0))).sum(axis=0)


def _subsets(rng: np.random.Generator, size: int, m: int) -> Iterator[list[int]]:
    """Yield all sets of m of `size` models, or 1000 random ones where there are more."""
    if math.comb(size, m) <= _MOST_SUBSETS:
        yield from map(list, itertools.combinations(range(size), m))
    else:
        for _ in range(_MOST_SUBSETS):
            yield rng.choice(size, m, replace=False).tolist()


def _signs(count: int, seed: int) -> FloatArray:
    """Return all rows of signs, the first all positive, or 65536 of which the others are random."""
    if 2**count <= _MOST_SIGNS:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return 1.0 - 2.0 * bits
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_MOST_SIGNS, count))
    signs[0] = 1.0
    return signs


def _share_as_large(values: FloatArray, observed: float) -> float:
    return float((np.abs(values) >= observed - _SMALL * max(1.0, observed)).mean())
