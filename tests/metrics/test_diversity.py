"""Diversity of models: slow forms of the formulas, vectors worked out by hand, degenerate input."""

import itertools
import math

import numpy as np
import pytest

from fairseq_ecg.metrics import diversity
from fairseq_ecg.metrics.diversity import (
    MEASURES,
    Model,
    describe_arm,
    ensemble_auc,
    exchange_test,
    measure_table,
    pair_diversity,
    sign_test,
)
from fairseq_ecg.metrics.multilabel import auroc


def models(n_models, n_records=40, n_classes=3, seed=0):
    rng = np.random.default_rng([seed, n_records, n_classes])
    labels = rng.random((n_records, n_classes)) < 0.4
    found = []
    for _ in range(n_models):
        logits = rng.normal(size=labels.shape) + 2 * labels - 1
        chance = 1 / (1 + np.exp(-logits))
        found.append(Model(chance, chance > 0.5))
    return labels, found


def slow_pair(labels, one, other):
    """Every measure, one decision after the other."""
    n_records, n_classes = labels.shape
    differ = errors = errors_too = 0
    both = none = first = second = 0
    divergence = 0.0
    for i, k in itertools.product(range(n_records), range(n_classes)):
        a, b, y = one.decisions[i, k], other.decisions[i, k], labels[i, k]
        differ += a != b
        errors, errors_too = errors + (a != y), errors_too + (b != y)
        both, none = both + (a == y and b == y), none + (a != y and b != y)
        first, second = first + (a == y and b != y), second + (a != y and b == y)
        p, q = one.probability[i, k], other.probability[i, k]
        for s, t in ((p, q), (1 - p, 1 - q)):
            for u in (s, t):
                divergence += 0.5 * u * math.log2(u / ((s + t) / 2)) if u else 0.0
    total = n_records * n_classes
    exact_differ = sum((one.decisions[i] != other.decisions[i]).any() for i in range(n_records))
    exact = [
        sum((model.decisions[i] != labels[i]).any() for i in range(n_records))
        for model in (one, other)
    ]
    logits = [np.log(m.probability / (1 - m.probability)) for m in (one, other)]
    right = [(m.decisions == labels).ravel().astype(float) for m in (one, other)]
    return {
        "div_norm": differ / ((errors + errors_too) / 2),
        "div_norm_exact": exact_differ / (sum(exact) / 2),
        "disagreement": differ / total,
        "yule_q": (both * none - first * second) / (both * none + first * second),
        "correlation": np.corrcoef(*right)[0, 1],
        "pearson": np.mean(
            [np.corrcoef(logits[0][:, k], logits[1][:, k])[0, 1] for k in range(n_classes)]
        ),
        "jensen_shannon": divergence / total,
    }


@pytest.mark.parametrize(("n_records", "n_classes"), [(12, 1), (40, 3), (101, 9)])
def test_every_measure_equals_its_slow_form(n_records, n_classes):
    labels, (one, other) = models(2, n_records, n_classes)
    found = pair_diversity(labels, one, other)
    for name, value in slow_pair(labels, one, other).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-9), name
    assert pair_diversity(labels, other, one) == found


def model(decisions, chance=None):
    decisions = np.array(decisions, dtype=bool)
    return Model(np.where(decisions, 0.75, 0.25) if chance is None else chance, decisions)


def test_measures_by_hand():
    labels = [[1, 0], [0, 1], [1, 1], [0, 0]]
    one = model([[1, 0], [1, 1], [1, 0], [0, 0]])  # wrong: (1, 0), (2, 1)
    other = model([[1, 1], [1, 1], [1, 1], [0, 0]])  # wrong: (0, 1), (1, 0)
    found = pair_diversity(labels, one, other)
    assert found.disagreement == 2 / 8
    assert found.div_norm == pytest.approx((2 / 8) / (2 / 8))
    assert found.div_norm_exact == pytest.approx((2 / 4) / (2 / 4))
    # both right 5, none right 1, one alone 1, the other alone 1
    assert found.yule_q == pytest.approx((5 * 1 - 1 * 1) / (5 * 1 + 1 * 1))
    assert found.correlation == pytest.approx((5 - 1) / math.sqrt(6 * 2 * 6 * 2))
    # two of eight decisions with 3/4 against 1/4, the others equal
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert found.jensen_shannon == pytest.approx(2 / 8 * (1 - entropy))


def test_opposite_certainties_are_one_bit_apart():
    one, other = Model([[1.0], [0.0]], [[1], [0]]), Model([[0.0], [1.0]], [[0], [1]])
    found = pair_diversity([[1], [0]], one, other)
    assert found.jensen_shannon == pytest.approx(1.0)
    assert found.pearson == pytest.approx(-1.0)
    assert found.div_norm == pytest.approx(2.0)


def test_independent_errors_of_rate_e_have_two_times_one_minus_e():
    rng = np.random.default_rng(0)
    labels = rng.random((20000, 2)) < 0.5
    one, other = (model(labels ^ (rng.random(labels.shape) < 0.2)) for _ in range(2))
    found = pair_diversity(labels, one, other)
    assert found.div_norm == pytest.approx(2 * (1 - 0.2), abs=0.02)
    assert found.yule_q == pytest.approx(0.0, abs=0.05)


def test_equal_models_do_not_differ():
    labels, (one,) = models(1)
    found = pair_diversity(labels, one, one)
    assert (found.div_norm, found.div_norm_exact, found.disagreement) == (0.0, 0.0, 0.0)
    assert (found.yule_q, found.jensen_shannon) == (1.0, 0.0)
    assert found.correlation == pytest.approx(1.0)
    assert found.pearson == pytest.approx(1.0)


def test_models_without_errors_have_no_share_of_them():
    labels = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    found = pair_diversity(labels, model(labels), model(labels))
    assert found.disagreement == 0.0
    undefined = {name for name in MEASURES if math.isnan(getattr(found, name))}
    assert undefined == {"div_norm", "div_norm_exact", "yule_q", "correlation"}


def test_constant_logits_have_no_correlation_and_extreme_ones_stay_finite():
    labels = [[1, 0], [0, 1], [1, 0]]
    one = Model([[0.0, 0.3], [1.0, 0.3], [0.5, 0.3]], [[0, 0]] * 3)
    other = Model([[0.2, 0.1], [1.0, 0.5], [0.4, 0.9]], [[0, 1]] * 3)
    found = pair_diversity(labels, one, other)
    assert 0 < found.pearson <= 1  # of the first class alone
    assert math.isfinite(found.jensen_shannon)


# --- arms and ensembles -------------------------------------------------------------------------


def test_an_arm_has_all_pairs_in_lexicographic_order():
    labels, found = models(4)
    arm = describe_arm(labels, found)
    assert arm.pairs == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert arm.diversity[4] == pair_diversity(labels, found[1], found[3])
    assert arm.measure("yule_q").tolist() == [pair.yule_q for pair in arm.diversity]
    aucs = [auroc(m.probability, labels) for m in found]
    assert arm.macro_auc.tolist() == aucs
    assert arm.pair_auc[4] == pytest.approx((aucs[1] + aucs[3]) / 2)
    assert arm.error[2] == pytest.approx((found[2].decisions != labels).mean())
    assert arm.error_exact[2] == pytest.approx((found[2].decisions != labels).any(axis=1).mean())


def test_the_gain_is_the_mean_over_all_sets_of_models():
    labels, found = models(4)
    expected = []
    for m in range(1, 5):
        values = []
        for chosen in itertools.combinations(found, m):
            mean = sum(member.probability for member in chosen) / m
            members = np.mean([auroc(member.probability, labels) for member in chosen])
            values.append(auroc(mean, labels) - members)
        expected.append(np.mean(values))
    arm = describe_arm(labels, found)
    np.testing.assert_allclose(arm.gain, expected, atol=1e-12)
    assert arm.gain[0] == 0.0
    assert arm.gain[-1] > 0.01


def test_of_many_sets_a_seeded_draw_is_taken(monkeypatch):
    labels, found = models(6)
    exact = ensemble_auc(labels, found)
    monkeypatch.setattr(diversity, "_MOST_SUBSETS", 10)
    drawn = ensemble_auc(labels, found, seed=1)
    assert np.array_equal(drawn, ensemble_auc(labels, found, seed=1))
    assert not np.array_equal(drawn, ensemble_auc(labels, found, seed=2))
    np.testing.assert_allclose(drawn, exact, atol=0.02)
    assert drawn[0] == exact[0]
    assert drawn[-1] == exact[-1]


def test_equal_models_gain_nothing():
    labels, (one,) = models(1)
    arm = describe_arm(labels, [one, one, one])
    np.testing.assert_allclose(arm.gain, 0.0, atol=1e-12)
    assert arm.measure("div_norm").tolist() == [0.0] * 3


# --- tests between arms -------------------------------------------------------------------------


def test_the_sign_test_counts_all_signs():
    differences = [0.3, -0.1, 0.2, 0.4]
    observed = abs(sum(differences))
    large = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - 1e-12
        for signs in itertools.product([1, -1], repeat=4)
    ]
    assert sign_test(differences) == np.mean(large)
    assert sign_test([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_test([0.0, 0.0]) == 1.0
    assert sign_test([np.nan, 1.0]) == 1.0
    assert math.isnan(sign_test([np.nan]))
    assert math.isnan(sign_test([]))


def test_many_differences_are_tried_at_random_and_never_give_zero():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=40)
    assert sign_test(noise, seed=3) == sign_test(noise, seed=3)
    assert sign_test(noise - noise.mean() + 0.05) > 0.05
    assert 0 < sign_test(np.ones(40)) < 1e-4


def test_the_exchange_of_models_equals_its_loops():
    labels, found = models(6, n_records=25)
    table = measure_table(labels, found, "disagreement")
    assert np.array_equal(table, table.T, equal_nan=True)
    assert table[1, 4] == pair_diversity(labels, found[1], found[4]).disagreement

    def statistic(stay):
        one = [i if s else i + 3 for i, s in enumerate(stay)]
        other = [i + 3 if s else i for i, s in enumerate(stay)]
        return sum(table[a, b] for a, b in itertools.combinations(one, 2)) - sum(
            table[a, b] for a, b in itertools.combinations(other, 2)
        )

    observed = abs(statistic([True] * 3))
    large = [
        abs(statistic(stay)) >= observed - 1e-12
        for stay in itertools.product([True, False], repeat=3)
    ]
    assert exchange_test(table) == np.mean(large)


def test_arms_that_differ_clearly_reach_the_least_share_that_there_is():
    table = np.full((10, 10), 0.5)
    table[:5, :5], table[5:, 5:] = 0.1, 0.9
    assert exchange_test(table) == 2 / 2**5
    assert exchange_test(np.ones((4, 4))) == 1.0
    table[0, 1] = table[1, 0] = np.nan
    assert math.isnan(exchange_test(table))


# --- refusals -----------------------------------------------------------------------------------


def test_one_model_alone_is_refused():
    labels, found = models(1)
    with pytest.raises(ValueError, match="give two or more, trained with other seeds, not 1"):
        describe_arm(labels, found)


@pytest.mark.parametrize("shape", [(3, 3), (2, 2), (4, 2), (4,)])
def test_a_table_of_other_than_two_equal_arms_is_refused(shape):
    with pytest.raises(ValueError, match="two arms of equally many models"):
        exchange_test(np.ones(shape))


def test_what_does_not_fit_is_refused():
    labels, (one, other) = models(2)
    with pytest.raises(ValueError, match="labels and probability must have one shape"):
        pair_diversity(labels[:-1], one, other)
    with pytest.raises(ValueError, match="must be in .0, 1., but they reach from -1 to 2"):
        Model([[-1.0, 2.0]], [[0, 1]])
    with pytest.raises(ValueError, match="probability and decisions must have one shape"):
        Model([[0.1, 0.2]], [[0]])
    with pytest.raises(ValueError, match="there must be records and classes"):
        pair_diversity(np.zeros((0, 2)), *[Model(np.zeros((0, 2)), np.zeros((0, 2)))] * 2)
