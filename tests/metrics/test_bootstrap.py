"""Draws of patients: against a plain loop, at the edges, and how often intervals and tests are right.

The shares at the end are of simulated data with fixed seeds; each test says how far a share of so
many repetitions may be off by chance.
"""

import math

import numpy as np
import pytest

from fairseq_ecg.metrics.bootstrap import (
    bootstrap_intervals,
    draw_counts,
    paired_difference,
)
from fairseq_ecg.metrics.multilabel import auroc
from fairseq_ecg.metrics.resampled import ResampledSummary
from fairseq_ecg.metrics.summary import Summary

PATIENTS = np.array(["b", "a", "b", "c", "a", "b", "d"])


def simulated(rng, patients=100, shift=1.0, shared=1.0, models=1):
    """Return patients [R], labels [R, 1] and scores of models that are equally good, [M, R].

    A patient has 1 to 5 recordings, one label, and an effect that all recordings and models share.
    """
    numbers = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    positive = (np.arange(patients) % 2 == 0)[numbers]
    effect = shared * rng.standard_normal(patients)[numbers]
    noise = rng.standard_normal((models, len(numbers)))
    return numbers, positive[:, None], shift * positive + effect + noise


def area(scores, labels):
    """Return the metric of counts of one class, squeezed into [0, 1], which keeps the order."""
    chance = 1 / (1 + np.exp(-scores[:, None]))
    return ResampledSummary(Summary(ranking=False), chance, labels, ["x"])


def test_a_draw_takes_whole_patients_as_many_times_as_there_are_patients():
    counts = np.concatenate(list(draw_counts(PATIENTS, 200, seed=3)), axis=1)
    assert counts.shape == (7, 200)
    for name in "abcd":
        rows = counts[name == PATIENTS]
        assert (rows == rows[0]).all()
    of_patient = np.stack([counts[name == PATIENTS][0] for name in "abcd"])
    assert (of_patient.sum(axis=0) == 4).all()
    # each patient is drawn once on average; its count has the variance 3/4
    assert np.abs(of_patient.mean(axis=1) - 1).max() < 4 * math.sqrt(0.75 / 200)
    assert len(np.unique(of_patient, axis=1).T) > 20


@pytest.mark.parametrize("at_once", [1, 20, 10_000])
def test_the_draws_depend_on_the_seed_only(monkeypatch, at_once):
    whole = np.concatenate(list(draw_counts(PATIENTS, 50, seed=1)), axis=1)
    monkeypatch.setattr("fairseq_ecg.metrics.bootstrap._AT_ONCE", at_once)
    parts = list(draw_counts(PATIENTS, 50, seed=1))
    assert len(parts) == {1: 50, 20: 25, 10_000: 1}[at_once]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    other = np.concatenate(list(draw_counts(PATIENTS, 50, seed=2)), axis=1)
    assert not np.array_equal(other, whole)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_are_those_of_a_plain_loop_for_rows_and_for_counts(level):
    numbers, labels, scores = simulated(np.random.default_rng(0), patients=20)
    chance = 1 / (1 + np.exp(-scores[0]))[:, None]

    def of_rows(rows):
        return {"auroc/x": auroc(chance[rows], labels[rows])}

    values = []
    for counts in np.concatenate(list(draw_counts(numbers, 90, seed=5)), axis=1).T:
        rows = [row for row, count in enumerate(counts) for _ in range(int(count))]
        values.append(auroc(chance[rows], labels[rows]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    counted = area(scores[0], labels)
    for metric in (of_rows, counted):
        found = bootstrap_intervals(metric, numbers, 90, seed=5, level=level)["auroc/x"]
        assert found.value == pytest.approx(auroc(chance, labels), abs=1e-12)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
        assert found.valid == 90


def test_draws_without_a_value_are_counted_and_not_drawn_anew():
    labels, scores = np.array([[1], [0], [0], [0]]), np.array([0.9, 0.1, 0.2, 0.95])
    found = bootstrap_intervals(area(scores, labels), np.arange(4), 4000)["auroc/x"]
    without = (3 / 4) ** 4 + (1 / 4) ** 4  # no positive drawn, or nothing else
    assert found.valid == pytest.approx(4000 * (1 - without), abs=4 * math.sqrt(4000 / 4))
    assert found.value == pytest.approx(2 / 3)


def test_a_score_without_a_value_has_no_interval():
    found = bootstrap_intervals(area(np.arange(4.0), np.zeros((4, 1))), np.arange(4), 50)
    assert math.isnan(found["auroc/x"].value)
    assert math.isnan(found["auroc/x"].low)
    assert found["auroc/x"].valid == 0
    assert found["specificity/x"].valid == 50


def test_one_patient_alone_has_values_but_no_interval():
    labels, scores = np.array([[1], [0], [1]]), np.array([0.9, 0.1, 0.7])
    found = bootstrap_intervals(area(scores, labels), ["p", "p", "p"], 50)["auroc/x"]
    assert (found.value, found.valid) == (1.0, 0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    found = paired_difference(area(scores, labels), area(-scores, labels), ["p"] * 3, 50)
    assert found["auroc/x"].value == -1
    assert math.isnan(found["auroc/x"].p)


def test_equal_predictions_differ_by_nothing():
    numbers, labels, scores = simulated(np.random.default_rng(0))
    metric = area(scores[0], labels)
    found = paired_difference(metric, area(scores[0], labels), numbers, 200)["auroc/x"]
    assert (found.value, found.low, found.high, found.p, found.valid) == (0, 0, 0, 1, 200)


def test_a_difference_is_that_of_equal_draws_and_p_agrees_with_the_interval():
    rng = np.random.default_rng(1)
    agree = 0
    for shift in (0.0, 0.2, 0.3, 0.4, 0.5, 0.8):
        numbers, labels, scores = simulated(rng, models=2)
        scores[1] += shift * labels[:, 0]
        one, other = (area(model, labels) for model in scores)
        found = paired_difference(one, other, numbers, 500, seed=2)["auroc/x"]
        differences = np.concatenate(
            [
                other.of_counts(counts)["auroc/x"] - one.of_counts(counts)["auroc/x"]
                for counts in draw_counts(numbers, 500, seed=2)
            ]
        )
        expected = np.quantile(differences, [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
        assert found.value == pytest.approx(found.second - found.first)
        rarer = min((differences <= 0).sum(), (differences >= 0).sum())
        assert found.p == pytest.approx(min(1, 2 * (rarer + 1) / 501))
        agree += (found.p < 0.05) == (not found.low <= 0 <= found.high)
    assert agree == 6
    assert found.p == pytest.approx(2 / 501)


def test_swapped_models_have_the_opposite_difference_and_the_same_p():
    numbers, labels, scores = simulated(np.random.default_rng(4), models=2)
    one, other = (area(model, labels) for model in scores)
    there = paired_difference(one, other, numbers, 300)["auroc/x"]
    back = paired_difference(other, one, numbers, 300)["auroc/x"]
    assert (back.value, back.p) == (-there.value, there.p)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-15)


@pytest.mark.parametrize(
    ("clusters", "n", "level", "message"),
    [
        ([], 10, 0.95, "clusters must name the patient"),
        ([[0], [1]], 10, 0.95, r"their shape is \[2, 1\]"),
        ([0, 1], 0, 0.95, "n must be at least 1"),
        ([0, 1], 10, 1.0, r"level in \(0, 1\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(clusters, n, level, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(lambda rows: {"n": len(rows)}, clusters, n, level=level)


def test_models_without_a_score_in_common_are_refused():
    with pytest.raises(ValueError, match="one has a and the other b"):
        paired_difference(lambda rows: {"a": 1.0}, lambda rows: {"b": 1.0}, [0, 1], 3)


# --- how often they are right ---------------------------------------------------------------------

REPEATS, DRAWS = 400, 300
MAY_BE_OFF = 3 * math.sqrt(0.05 * 0.95 / REPEATS)  # 0.033: three standard errors


def coverage(by_patient):
    """Return the share of intervals that hold the true AUROC of the distribution."""
    rng = np.random.default_rng(11)
    truth = 0.5 * (1 + math.erf(1.0 / math.sqrt(2 * (1 + 1)) / math.sqrt(2)))
    held = 0
    for repeat in range(REPEATS):
        numbers, labels, scores = simulated(rng)
        clusters = numbers if by_patient else np.arange(len(numbers))
        metric = area(scores[0], labels)
        found = bootstrap_intervals(metric, clusters, DRAWS, seed=repeat)["auroc/x"]
        held += found.low <= truth <= found.high
    return held / REPEATS


def test_intervals_by_patient_hold_the_true_value_95_times_in_100():
    assert coverage(by_patient=True) == pytest.approx(0.95, abs=MAY_BE_OFF)


def test_intervals_by_recording_would_not():
    assert coverage(by_patient=False) < 0.85


def test_the_paired_test_finds_a_difference_that_is_not_there_5_times_in_100():
    rng = np.random.default_rng(12)
    found = []
    for repeat in range(REPEATS):
        numbers, labels, scores = simulated(rng, models=2)
        one, other = (area(model, labels) for model in scores)
        found.append(paired_difference(one, other, numbers, DRAWS, seed=repeat)["auroc/x"].p)
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=MAY_BE_OFF)
    assert np.mean(np.array(found) < 0.5) == pytest.approx(0.5, abs=3 * math.sqrt(0.25 / REPEATS))
