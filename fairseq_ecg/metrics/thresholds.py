"""One decision threshold per class, chosen so that a score of a validation set is best.

The winner of CinC 2021 chose his by differential evolution: Nejedly et al., 2021, "Classification
of ECG Using Ensemble of Residual CNNs with Attention Mechanism", Computing in Cardiology 48. So
does `search_thresholds`, for any score. Two scores have something faster: the F measure is a mean
over classes, so that each class has its own best threshold (`search_f_measure`); the challenge
score couples the classes, but how it changes with the threshold of one class, the others held
fixed, is one cumulative sum (`search_challenge`). For the F_beta and G_beta of CPSC 2018
`search_beta` does what the benchmark of Strodthoff et al. 2020 does.

A class is decided where its probability is above its threshold. A class without positives, without
negatives, or with one probability for all records says nothing about where to cut; it keeps the
default. Every function is deterministic, and never worse than the default on the data it is given.
Thresholds fit the records they are chosen on: choose them on validation data, never on test data.
Shapes: N records, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import differential_evolution

from fairseq_ecg.metrics._checks import score_tables
from fairseq_ecg.metrics.cinc2021 import challenge_score
from fairseq_ecg.metrics.counts import Counts, counts_per_class
from fairseq_ecg.metrics.multilabel import decide, f_beta_g_beta, macro

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Score = Callable[[BoolArray, BoolArray], float]

DEFAULT = 0.5
GRID = np.linspace(0.0, 1.0, 100)
_SMALL = 1e-12  # what rounding may add to a score
_MOST_SWEEPS = 100


@dataclass(frozen=True)
class Thresholds:
    """What a search found.

    Attributes:
        values: the threshold of each class, in [0, 1], float64 [K].
        score: of the decisions made with them.
        score_at_default: of the decisions made with the default everywhere.
        kept: the classes that keep the default because the data say nothing about them.
    """

    values: FloatArray
    score: float
    score_at_default: float
    kept: tuple[int, ...]


@dataclass(frozen=True)
class _Cuts:
    """The thresholds of one class that make different decisions.

    Attributes:
        thresholds: from deciding no record to deciding as many as possible, float64 [S].
        decided: how many records each of them decides, int64 [S].
        order: the records by falling probability, int64 [N].
    """

    thresholds: FloatArray
    decided: IntArray
    order: IntArray

    def best(self, values: FloatArray, default: float) -> int:
        """Return the cut of the largest value; of equal ones that nearest to the default."""
        ties = np.flatnonzero(values >= values.max() - _SMALL)
        return int(ties[np.argmin(np.abs(self.thresholds[ties] - default))])

    def of(self, count: int) -> int:
        """Return the cut that decides this many records."""
        return int(np.searchsorted(self.decided, count))


def search_thresholds(
    probability: ArrayLike,
    labels: ArrayLike,
    score: Score,
    *,
    default: float = DEFAULT,
    seed: int = 0,
    population: int = 60,
    generations: int = 60,
) -> Thresholds:
    """Search thresholds for any score by differential evolution.

    The first generation holds the default, the best thresholds for the F measure, equal thresholds
    for all classes, and random ones.

    Args:
        probability: in [0, 1], [N, K].
        labels: 0 or 1, [N, K].
        score: takes labels and decisions, bool [N, K] each; larger is better, NaN is worst.
        default: threshold of the classes that the data say nothing about.
        seed: of the random draws.
        population: how many sets of thresholds there are at a time, at least 8.
        generations: how often they are renewed at most.

    Raises:
        ValueError: shapes differ, probabilities are not in [0, 1], labels are not 0 or 1, or an
            option is out of its range.
    """
    chance, truth = _tables(probability, labels, default)
    if population < 8 or generations < 1:
        raise ValueError(
            "population must be at least 8 and generations at least 1, but they are "
            f"{population} and {generations}"
        )
    start = np.full(chance.shape[1], default)
    free = _informative(chance, truth)
    if free.any():
        rng = np.random.default_rng(seed)
        first = rng.random((population, int(free.sum())))
        equal = np.linspace(0, 1, population // 2 + 2)[1:-1]
        first[: len(equal)] = equal[:, None]
        first[0] = default
        first[1] = search_f_measure(chance, truth, default=default).values[free]

        def loss(values: FloatArray) -> float:
            start[free] = values
            value = score(truth, chance > start)
            return float("inf") if np.isnan(value) else -value

        found = differential_evolution(
            loss,
            bounds=[(0.0, 1.0)] * first.shape[1],
            init=first,
            maxiter=generations,
            polish=False,
            seed=rng,
        )
        candidates = [first[0], np.asarray(found.x)]
        start[free] = min(candidates, key=loss)
        for k in np.flatnonzero(free):
            cuts, count = _cuts(chance[:, k]), int((chance[:, k] > start[k]).sum())
            start[k] = cuts.thresholds[cuts.of(count)]
    return _result(chance, truth, start, default, score)


def search_f_measure(
    probability: ArrayLike, labels: ArrayLike, *, beta: float = 1.0, default: float = DEFAULT
) -> Thresholds:
    """Find the thresholds with the largest macro F measure; exact.

    Args:
        probability: in [0, 1], [N, K].
        labels: 0 or 1, [N, K].
        beta: how much more a miss weighs than a false alarm.
        default: threshold of the classes that the data say nothing about.

    Raises:
        ValueError: shapes differ, probabilities are not in [0, 1], or labels are not 0 or 1.
    """
    chance, truth = _tables(probability, labels, default)
    values = np.full(chance.shape[1], default)
    for k in np.flatnonzero(_informative(chance, truth)):
        cuts = _cuts(chance[:, k])
        hits = _running_sum(truth[cuts.order, k].astype(np.float64))[cuts.decided]
        weighed = cuts.decided + beta**2 * truth[:, k].sum()
        values[k] = cuts.thresholds[cuts.best((1 + beta**2) * hits / weighed, default)]
    return _result(
        chance, truth, values, default, lambda t, d: macro(counts_per_class(t, d).f_beta(beta))
    )


def search_beta(
    probability: ArrayLike,
    labels: ArrayLike,
    measure: Literal["f_beta", "g_beta"],
    *,
    beta: float = 2.0,
    default: float = DEFAULT,
) -> Thresholds:
    """Choose thresholds for the macro F_beta or G_beta of CPSC 2018 as its benchmarks do.

    Each class gets the one of 100 equally spaced thresholds at which its own measure, all records
    weighing 1, is largest. The score that is returned is `multilabel.f_beta_g_beta`, in which
    records weigh differently and one without a decided class gets its most likely one. So the
    choice is not always the best one; where it is worse than the default, that is kept.

    Args:
        probability: in [0, 1], [N, K].
        labels: 0 or 1, [N, K].
        measure: "f_beta" or "g_beta".
        beta: how much more a miss weighs than a false alarm.
        default: threshold of the classes that the data say nothing about.

    Raises:
        ValueError: shapes differ, probabilities are not in [0, 1], or labels are not 0 or 1.
    """
    chance, truth = _tables(probability, labels, default)
    values = np.full(chance.shape[1], default)
    for k in np.flatnonzero(_informative(chance, truth)):
        counts = _counts_above(chance[:, k], truth[:, k], GRID)
        measured = counts.f_beta(beta) if measure == "f_beta" else counts.g_beta(beta)
        ties = np.flatnonzero(measured >= np.nanmax(measured) - _SMALL)
        values[k] = GRID[ties[np.argmin(np.abs(GRID[ties] - default))]]

    def score(thresholds: FloatArray) -> float:
        decisions = decide(chance, thresholds, fallback=True)
        return f_beta_g_beta(truth, decisions, beta)[measure == "g_beta"]

    at_default = score(np.full_like(values, default))
    if score(values) < at_default:
        values[:] = default
    kept = tuple(np.flatnonzero(~_informative(chance, truth)).tolist())
    return Thresholds(values, score(values), at_default, kept)


def search_challenge(
    probability: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    sinus_index: int,
    *,
    default: float = DEFAULT,
    starts: int = 8,
    seed: int = 0,
) -> Thresholds:
    """Search thresholds for the score of CinC 2020 and 2021.

    From each start one class after the other gets its best threshold while the others stay, until
    none can be improved alone. The first starts are the default and the best thresholds for the F
    measure, the others are random.

    Args:
        probability: in [0, 1], [N, K].
        labels: 0 or 1, [N, K].
        weights: the challenge's table, [K, K], see `cinc2021.load_weights`.
        sinus_index: which class is sinus rhythm, see `cinc2021.find_class`.
        default: threshold of the classes that the data say nothing about.
        starts: how many starts there are, at least 1.
        seed: of the random starts.

    Raises:
        ValueError: shapes differ, probabilities are not in [0, 1], labels are not 0 or 1, or an
            option is out of its range.
    """
    chance, truth = _tables(probability, labels, default)
    if starts < 1:
        raise ValueError(f"starts must be at least 1, but is {starts}")

    def score(true: BoolArray, decided: BoolArray) -> float:
        return challenge_score(true, decided, weights, sinus_index)

    default_values = np.full(chance.shape[1], default)
    result = _result(chance, truth, default_values, default, score)  # checks the table too
    classes = np.flatnonzero(_informative(chance, truth))
    if not len(classes):
        return result
    cuts = {int(k): _cuts(chance[:, k]) for k in classes}
    credit = truth @ np.asarray(weights, dtype=np.float64)
    rng = np.random.default_rng(seed)
    for number in range(starts):
        values = default_values.copy()
        if number == 1:
            values = search_f_measure(chance, truth, default=default).values
        elif number > 1:
            values[classes] = rng.random(len(classes))
        found = _ascend(values, chance, truth, credit, cuts, default)
        other = _result(chance, truth, found, default, score)
        if other.score > result.score + _SMALL:
            result = other
    return result


def _ascend(
    values: FloatArray,
    chance: FloatArray,
    truth: BoolArray,
    credit: FloatArray,
    cuts: dict[int, _Cuts],
    default: float,
) -> FloatArray:
    """Improve one threshold after the other until none can be improved alone.

    A record with the classes Y true and D decided earns sum(credit[D]) / max(|Y or D|, 1).
    """
    values = values.copy()
    decided = chance > values
    for _ in range(_MOST_SWEEPS):
        changed = False
        for k, cut in cuts.items():
            others = decided.copy()
            others[:, k] = False
            earned = (credit * others).sum(axis=1)
            named = (truth | others).sum(axis=1)
            if_not = earned / np.maximum(named, 1)
            if_decided = (earned + credit[:, k]) / (named + ~truth[:, k])
            gain = if_decided - if_not
            totals = _running_sum(gain[cut.order])[cut.decided]
            best = cut.best(totals, default)
            if totals[best] > gain[decided[:, k]].sum() + _SMALL:
                values[k] = cut.thresholds[best]
                decided[:, k] = chance[:, k] > values[k]
                changed = True
        if not changed:
            break
    return values


def _cuts(chance: FloatArray) -> _Cuts:
    """Return the different cuts of one class's probabilities [N], halfway between neighbours."""
    order = np.argsort(-chance, kind="stable")
    levels, first = np.unique(-chance[order], return_index=True)
    levels = -levels  # falling
    below = np.append(levels[1:], 0.0)
    halfway = below + (levels - below) / 2
    thresholds = np.append((1.0 + levels[0]) / 2, np.where(halfway < levels, halfway, below))
    decided = np.append(first, len(chance)).astype(np.int64)
    if levels[-1] == 0.0:  # nothing in [0, 1] lies below
        thresholds, decided = thresholds[:-1], decided[:-1]
    return _Cuts(thresholds, decided, order)


def _counts_above(chance: FloatArray, truth: BoolArray, limits: FloatArray) -> Counts:
    """Count the decisions of one class [N] at each threshold, [S]."""
    decided, tp = (
        len(part) - np.searchsorted(np.sort(part), limits, side="right").astype(np.float64)
        for part in (chance, chance[truth])
    )
    fp, positives = decided - tp, float(truth.sum())
    return Counts(tp, fp, positives - tp, len(chance) - positives - fp)


def _running_sum(values: FloatArray) -> FloatArray:
    """Return the sums of the first 0, 1, ..., N values, [N + 1]."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _informative(chance: FloatArray, truth: BoolArray) -> BoolArray:
    """Tell which classes have positives, negatives and more than one probability, [K]."""
    if not len(truth):
        return np.zeros(truth.shape[1], dtype=np.bool_)
    both = truth.any(axis=0) & ~truth.all(axis=0)
    return both & (chance.min(axis=0) < chance.max(axis=0))


def _result(
    chance: FloatArray, truth: BoolArray, values: FloatArray, default: float, score: Score
) -> Thresholds:
    kept: Sequence[int] = np.flatnonzero(~_informative(chance, truth)).tolist()
    return Thresholds(
        values=values.copy(),
        score=float(score(truth, chance > values)),
        score_at_default=float(score(truth, chance > default)),
        kept=tuple(kept),
    )


def _tables(
    probability: ArrayLike, labels: ArrayLike, default: float
) -> tuple[FloatArray, BoolArray]:
    chance, truth = score_tables(probability, labels, "raise")
    chance = chance.astype(np.float64)
    if chance.size and not (chance.min() >= 0 and chance.max() <= 1):
        raise ValueError(
            f"probabilities must be in [0, 1], but they reach from {chance.min():g} to "
            f"{chance.max():g}; pass them through a sigmoid first"
        )
    if not 0 <= default <= 1:
        raise ValueError(f"default must be in [0, 1], but is {default}")
    return chance, truth
