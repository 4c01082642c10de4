"""Searches against brute force, and what they promise on any data."""

import itertools
import time

import numpy as np
import pytest

from fairseq_ecg.metrics.cinc2021 import challenge_score, find_class, load_weights
from fairseq_ecg.metrics.multilabel import accuracy_exact, decide, f_beta_g_beta, f_measure, macro
from fairseq_ecg.metrics.thresholds import (
    search_beta,
    search_challenge,
    search_f_measure,
    search_thresholds,
)
from fairseq_ecg.resources import challenge_weights_file


def problem(seed, n=None, k=None, decimals=None):
    """A tiny problem; rounding makes ties, small sets make classes without positives."""
    rng = np.random.default_rng(seed)
    n, k = n or rng.integers(2, 10), k or rng.integers(1, 5)
    labels = rng.random((n, k)) < 0.4
    chance = np.clip(0.8 * rng.random((n, k)) + 0.2 * labels, 0, 1)
    return np.round(chance, decimals or rng.integers(1, 4)), labels


def table(seed, k):
    weights = np.random.default_rng(seed).random((k, k))
    weights = (weights + weights.T) / 2
    np.fill_diagonal(weights, 1)
    return weights


def says_nothing(chance, labels):
    return [
        k
        for k in range(labels.shape[1])
        if labels[:, k].min() == labels[:, k].max() or chance[:, k].min() == chance[:, k].max()
    ]


def brute_force(chance, labels, score):
    """Try every set of thresholds that decides otherwise, classes that say nothing at 0.5."""
    choices = []
    for k in range(chance.shape[1]):
        levels = np.unique(np.append(chance[:, k], 0.0))
        choices.append([0.5] if k in says_nothing(chance, labels) else [*levels, 1.0])
    return max(score(labels, chance > np.array(t)) for t in itertools.product(*choices))


@pytest.mark.parametrize("seed", range(40))
def test_the_challenge_search_equals_brute_force_on_tiny_problems(seed):
    chance, labels = problem(seed)
    k = labels.shape[1]
    weights, sinus = table(seed, k), seed % k

    def score(truth, decided):
        return challenge_score(truth, decided, weights, sinus)

    found = search_challenge(chance, labels, weights, sinus)
    assert found.score == pytest.approx(score(labels, chance > found.values))
    assert found.score == pytest.approx(brute_force(chance, labels, score))
    assert found.kept == tuple(says_nothing(chance, labels))


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(30))
def test_the_search_for_f_equals_brute_force_on_tiny_problems(seed, beta):
    chance, labels = problem(seed)

    def score(truth, decided):
        hits = (truth & decided).sum(axis=0)
        with np.errstate(invalid="ignore"):
            return macro((1 + beta**2) * hits / (decided.sum(axis=0) + beta**2 * truth.sum(axis=0)))

    found = search_f_measure(chance, labels, beta=beta)
    np.testing.assert_equal(found.score, score(labels, chance > found.values))
    if not np.isnan(found.score):
        assert found.score == pytest.approx(brute_force(chance, labels, score))


@pytest.mark.parametrize("seed", range(4))
def test_the_search_for_any_score_equals_brute_force_on_tiny_problems(seed):
    chance, labels = problem(seed, n=8, k=2)
    found = search_thresholds(chance, labels, accuracy_exact)
    assert found.score == accuracy_exact(labels, chance > found.values)
    assert found.score == brute_force(chance, labels, accuracy_exact)


def slow_grid(chance, truth, measure, beta=2.0):
    """The best of 100 thresholds for one class, the one nearest to 0.5 of equals."""
    best = (-1.0, 0.0, 0.5)
    for limit in np.linspace(0, 1, 100):
        decided = chance > limit
        tp, fp = (decided & truth).sum(), (decided & ~truth).sum()
        fn = (~decided & truth).sum()
        f = (1 + beta**2) * tp / ((1 + beta**2) * tp + fp + beta**2 * fn)
        value = f if measure == "f_beta" else tp / (tp + fp + beta * fn)
        best = max(best, (round(value, 12), -abs(limit - 0.5), limit))
    return best[2]


@pytest.mark.parametrize("measure", ["f_beta", "g_beta"])
@pytest.mark.parametrize("seed", range(12))
def test_the_search_of_the_benchmark_equals_its_loop_over_the_grid(seed, measure):
    chance, labels = problem(seed, n=40, k=4)
    found = search_beta(chance, labels, measure)
    expected = np.array([slow_grid(chance[:, k], labels[:, k], measure) for k in range(4)])
    which = ["f_beta", "g_beta"].index(measure)

    def score(thresholds):
        return f_beta_g_beta(labels, decide(chance, thresholds, fallback=True))[which]

    if score(expected) < score(np.full(4, 0.5)):
        expected[:] = 0.5
    np.testing.assert_allclose(found.values, expected)
    assert found.score == score(expected)
    assert found.score_at_default == score(np.full(4, 0.5))


def test_thresholds_of_the_benchmark_that_are_worse_than_the_default_are_not_taken():
    chance, labels = problem(281, n=9, k=2)
    limits = [slow_grid(chance[:, k], labels[:, k], "g_beta") for k in range(2)]
    chosen = f_beta_g_beta(labels, decide(chance, limits, fallback=True))[1]
    found = search_beta(chance, labels, "g_beta")
    assert found.values.tolist() == [0.5, 0.5]
    assert found.score == found.score_at_default > chosen


@pytest.mark.parametrize("seed", range(12))
def test_no_search_is_worse_than_the_default(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random((60, 6)) < rng.random(6)
    chance = rng.random((60, 6))  # has nothing to do with the labels
    weights = table(seed, 6)
    for found in (
        search_f_measure(chance, labels),
        search_beta(chance, labels, "f_beta"),
        search_challenge(chance, labels, weights, 1, starts=2),
        search_thresholds(chance, labels, accuracy_exact, generations=3, population=10),
    ):
        assert found.score >= found.score_at_default
        assert ((found.values >= 0) & (found.values <= 1)).all()


def test_a_shifted_output_is_cut_where_the_classes_part():
    labels = np.arange(20)[:, None] >= [12, 5]
    chance = np.linspace(0, 0.3, 20)[:, None] * [1, 1]
    found = search_f_measure(chance, labels)
    assert found.score == 1.0
    assert found.score_at_default == 0.0
    halfway = [(chance[11, 0] + chance[12, 0]) / 2, (chance[4, 0] + chance[5, 0]) / 2]
    np.testing.assert_allclose(found.values, halfway)


def test_of_equal_cuts_the_one_nearest_to_the_default_is_taken():
    labels = np.array([[0], [1], [1], [0]])
    chance = np.array([[0.1], [0.45], [0.65], [0.9]])
    weights = np.eye(1)
    found = search_challenge(chance, labels, weights, 0)
    assert found.score == found.score_at_default  # all cuts that matter are worth the same here
    assert found.values[0] == 0.5


def test_classes_that_say_nothing_keep_the_default_and_are_named():
    rng = np.random.default_rng(0)
    labels = np.zeros((30, 4), dtype=int)
    labels[:, 1] = 1  # no negatives; class 0 has no positives
    labels[:, 2:] = rng.random((30, 2)) < 0.5
    chance = rng.random((30, 4))
    chance[:, 2] = 0.3  # constant
    for found in (
        search_f_measure(chance, labels, default=0.4),
        search_beta(chance, labels, "f_beta", default=0.4),
        search_challenge(chance, labels, table(0, 4), 3, default=0.4),
        search_thresholds(chance, labels, f_measure, default=0.4, generations=2),
    ):
        assert found.kept == (0, 1, 2)
        assert found.values[:3].tolist() == [0.4] * 3
        assert found.score >= found.score_at_default


def test_nothing_at_all_to_learn_from_gives_the_default():
    for n in (0, 3):
        chance, labels = np.zeros((n, 2)), np.zeros((n, 2))
        for found in (
            search_f_measure(chance, labels),
            search_challenge(chance, labels, np.eye(2), 0),
            search_thresholds(chance, labels, f_measure),
        ):
            assert found.values.tolist() == [0.5, 0.5]
            assert found.kept == (0, 1)
            np.testing.assert_equal(found.score, found.score_at_default)


def test_neighbouring_numbers_and_0_and_1_are_cut_between():
    chance = np.array([[0.0], [0.5], [np.nextafter(0.5, 1)], [1.0]])
    for count in range(1, 4):
        labels = np.arange(4)[:, None] >= 4 - count
        found = search_f_measure(chance, labels)
        assert (chance > found.values).tolist() == labels.tolist()
    single = chance.astype(np.float32)
    found = search_f_measure(single[[0, 1, 3]], [[0], [1], [1]])
    assert (single[[0, 1, 3]] > found.values).ravel().tolist() == [False, True, True]


def test_the_result_depends_on_the_seed_only():
    chance, labels = problem(5, n=40, k=5, decimals=6)
    weights = table(5, 5)

    def both(seed):
        np.random.seed(seed + 10)  # noqa: NPY002 - nothing may depend on it
        return (
            search_challenge(chance, labels, weights, 2, seed=3).values.tolist(),
            search_thresholds(chance, labels, accuracy_exact, seed=3).values.tolist(),
        )

    assert both(0) == both(1)


def test_four_thousand_recordings_of_the_challenge_take_seconds_at_most():
    classes, weights = load_weights(challenge_weights_file())
    rng = np.random.default_rng(0)
    labels = rng.random((4000, 26)) < rng.random(26) * 0.2
    chance = 1 / (1 + np.exp(-(2 * rng.normal(size=(4000, 26)) + 3 * labels - 3)))
    start = time.perf_counter()
    found = search_challenge(chance, labels, weights, find_class(classes))
    assert time.perf_counter() - start < 20
    assert found.score > found.score_at_default + 0.05
    any_score = search_thresholds(
        chance,
        labels,
        lambda t, d: challenge_score(t, d, weights, find_class(classes)),
        generations=5,
    )
    assert found.score > any_score.score > found.score_at_default


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": [[1.2], [0.1]]}, "must be in .0, 1., but they reach from 0.1 to 1.2"),
        ({"probability": [[np.nan], [0.1]]}, "finite"),
        ({"labels": [[2], [0]]}, "only 0 and 1"),
        ({"labels": [[1]]}, "one shape"),
        ({"default": 2.0}, "default must be in"),
    ],
)
def test_what_is_no_probability_is_refused(change, message):
    given = {"probability": [[0.2], [0.1]], "labels": [[1], [0]], **change}
    tables = given.pop("probability"), given.pop("labels")
    with pytest.raises(ValueError, match=message):
        search_f_measure(*tables, **given)
    with pytest.raises(ValueError, match=message):
        search_challenge(*tables, np.eye(1), 0, **given)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="starts must be at least 1"):
        search_challenge([[0.2]], [[1]], np.eye(1), 0, starts=0)
    with pytest.raises(ValueError, match="population must be at least 8"):
        search_thresholds([[0.2]], [[1]], accuracy_exact, population=3)
    with pytest.raises(ValueError, match="weights must have the shape"):
        search_challenge([[0.2]], [[1]], np.eye(2), 0)
