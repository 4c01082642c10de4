"""Reliability against loops over the bins, and what is refused."""

import numpy as np
import pytest

from fairseq_ecg.metrics.calibration import (
    answers,
    calibration_error,
    calibration_error_per_class,
    reliability,
)


def slow_error(chance, labels, bins):
    """Return the expected calibration error by looking at every bin ((b - 1) / B, b / B]."""
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        own = [
            (c, t)
            for c, t in zip(chance, labels, strict=True)
            if low < c <= high or (b == 0 and c == 0)
        ]
        if own:
            gap = sum(c for c, _ in own) / len(own) - sum(t for _, t in own) / len(own)
            total += len(own) / len(chance) * abs(gap)
    return total


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
@pytest.mark.parametrize("n", [1, 2, 30, 400])
def test_the_error_is_that_of_a_loop_over_the_bins(n, bins):
    rng = np.random.default_rng(n)
    chance, labels = rng.random(n), rng.integers(2, size=n)
    assert reliability(chance, labels, bins).error == pytest.approx(
        slow_error(chance, labels, bins), abs=1e-12
    )


def test_bins_hold_their_mean_probability_and_share_and_empty_ones_are_left_out():
    found = reliability([0.0, 0.5, 0.5, 1.0, 0.8], [0, 1, 0, 1, 1], bins=2)
    assert found.count.tolist() == [3, 2]  # an edge belongs to the bin below it
    assert found.predicted == pytest.approx([1 / 3, 0.9])
    assert found.observed == pytest.approx([1 / 3, 1.0])
    assert found.error == pytest.approx(2 / 5 * 0.1)
    assert reliability([0.1], [0], bins=10).count.tolist() == [1]


def test_probabilities_that_mean_what_they_say_have_a_small_error_and_others_a_large_one():
    rng = np.random.default_rng(0)
    chance = rng.random((20_000, 2))
    labels = rng.random((20_000, 2)) < chance
    assert calibration_error(chance, labels) < 0.015
    assert calibration_error(chance**3, labels) > 0.2
    each = calibration_error_per_class(np.stack([chance[:, 0], chance[:, 1] ** 3], axis=1), labels)
    assert each[0] < 0.015 < 0.2 < each[1]


def test_of_classes_that_exclude_each_other_the_answer_is_looked_at():
    chance = [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.5, 0.5, 0.0]]
    sure, right = answers(chance, np.eye(3)[[0, 2, 1]])
    assert sure.tolist() == [0.7, 0.4, 0.5]
    assert right.tolist() == [True, False, False]


def test_nothing_has_no_error():
    found = reliability(np.zeros(0), np.zeros(0))
    assert found.count.size == 0
    assert np.isnan(found.error)
    assert np.isnan(calibration_error(np.zeros((0, 2)), np.zeros((0, 2))))


@pytest.mark.parametrize(
    ("chance", "labels", "bins", "message"),
    [
        ([0.5], [1], 0, "bins must be at least 1"),
        ([0.5, 0.5], [1], 5, r"one shape, but they are \[2\] and \[1\]"),
        ([1.5], [1], 5, r"in \[0, 1\], but they reach from 1.5"),
        ([np.nan], [1], 5, "scores must be finite"),
        ([0.5], [0.5], 5, "must hold only 0 and 1"),
    ],
)
def test_what_is_no_probability_is_refused(chance, labels, bins, message):
    with pytest.raises(ValueError, match=message):
        reliability(chance, labels, bins)
