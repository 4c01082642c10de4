"""Resampling along lines and standardising, against slow forms written from the words."""

import numpy as np
import pytest

from fairseq_ecg.data.preprocess import lead_statistics, like_ecg_fm, standardize


def slow_linear(lead, rate_hz, target_hz):
    """Draw straight lines between the samples, one new sample after the other."""
    n_new = int(len(lead) * target_hz / rate_hz)
    place = [(n_new - 1) * i / (len(lead) - 1) for i in range(len(lead))]
    values = []
    for x in range(n_new):
        i = max(j for j in range(len(lead) - 1) if place[j] <= x)
        share = (x - place[i]) / (place[i + 1] - place[i])
        values.append((1 - share) * lead[i] + share * lead[i + 1])
    return np.array(values)


def slow_standardise(lead):
    mean = sum(lead) / len(lead)
    std = (sum((v - mean) ** 2 for v in lead) / len(lead)) ** 0.5
    return [0.0 if max(lead) == min(lead) else (v - mean) / std for v in lead], mean, std


@pytest.mark.parametrize("n_samples", [4, 7, 50, 293])
@pytest.mark.parametrize(("rate", "target"), [(400, 500), (500, 500), (1000, 500), (257, 500)])
def test_against_the_slow_form(n_samples, rate, target):
    values = np.random.default_rng(n_samples).normal(0.3, 1, (3, n_samples))
    values[1] = 0.7
    done = like_ecg_fm(values, rate, target)
    for row, lead in enumerate(values):
        resampled = lead if rate == target else slow_linear(lead.tolist(), rate, target)
        if row == 1:
            assert (done.values[row] == 0).all()
            assert done.std[row] == 0
            continue
        expected, mean, std = slow_standardise(list(resampled))
        np.testing.assert_allclose(done.values[row], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose([done.mean[row, 0], done.std[row, 0]], [mean, std], rtol=1e-9)


def test_statistics_do_not_depend_on_the_layout_in_memory():
    values = np.random.default_rng(0).normal(5, 1, (12, 5000))
    for one, other in zip(
        lead_statistics(values), lead_statistics(np.asfortranarray(values)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_power_of_two_in_the_amplitude_changes_no_bit():
    values = np.random.default_rng(0).normal(0, 1, (2, 700)).astype(np.float32)
    np.testing.assert_array_equal(
        like_ecg_fm(values, 400, 500).values, like_ecg_fm(values / 2, 400, 500).values
    )


def test_a_part_is_scaled_like_the_whole():
    values = np.random.default_rng(0).normal(0, 1, (2, 700))
    mean, std = lead_statistics(values)
    whole = standardize(values, mean, std)
    np.testing.assert_array_equal(standardize(values[:, 100:200], mean, std), whole[:, 100:200])


def test_a_single_sample_cannot_be_resampled():
    with pytest.raises(ValueError, match="too short"):
        like_ecg_fm(np.ones((1, 1)), 400, 500)
