import math

import numpy as np
import pytest

from fairseq_ecg.transforms.resample import (
    resample,
    resample_linear,
    resample_piece,
    samples_before,
)

PAIRS = [(500, 100), (1000, 500), (257, 500), (360, 500), (400, 500), (500, 257), (256.41, 500)]


def tone(rate_hz, frequency_hz, seconds=10):
    t = np.arange(round(rate_hz * seconds)) / rate_hz
    return np.sin(2 * np.pi * frequency_hz * t)[None].astype(np.float32)


def amplitude(values):
    middle = values[0, values.shape[1] // 4 : -values.shape[1] // 4]
    return float(np.sqrt(2) * middle.std())


def test_equal_rates_return_the_same_array():
    values = np.ones((2, 10), np.float32)
    assert resample(values, 500, 500.0) is values


@pytest.mark.parametrize(("rate", "target"), PAIRS)
@pytest.mark.parametrize("n_samples", [1, 7, 1285, 5000])
def test_length_is_the_rounded_product_and_the_result_is_plain_float32(rate, target, n_samples):
    expected = round(n_samples * target / rate)
    if expected == 0:
        with pytest.raises(ValueError, match="too short"):
            resample(np.zeros((3, n_samples), np.float32), rate, target)
        return
    result = resample(np.zeros((3, n_samples), np.float32), rate, target)
    assert result.shape == (3, expected)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous


@pytest.mark.parametrize(
    ("rate", "target", "fraction"),
    [
        (rate, target, fraction)
        for rate, target in [(500, 100), (1000, 500), (500, 257), (500, 250)]
        for fraction in [1.02, 1.2, 1.5, 1.9]
        if fraction * target < rate  # else there is no such tone at the old rate either
    ],
)
def test_a_tone_above_the_new_nyquist_frequency_falls_by_40_db(rate, target, fraction):
    frequency = fraction * target / 2
    assert amplitude(resample(tone(rate, frequency), rate, target)) < 0.01


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.6, 0.8])
@pytest.mark.parametrize(("rate", "target"), PAIRS)
def test_a_tone_in_the_pass_band_keeps_its_values_within_one_percent(rate, target, fraction):
    frequency = fraction * min(rate, target) / 2
    result = resample(tone(rate, frequency), rate, target)
    expected = tone(target, frequency)[:, : result.shape[1]]
    middle = slice(result.shape[1] // 4, -result.shape[1] // 4)
    assert np.abs(result - expected)[:, middle].max() < 0.01


@pytest.mark.parametrize(("rate", "target"), PAIRS)
def test_a_constant_stays_exactly_constant(rate, target):
    result = resample(np.full((2, 1000), 1.2345, np.float32), rate, target)
    assert (result == np.float32(1.2345)).all()


@pytest.mark.parametrize(("rate", "target"), [(500, 100), (257, 500)])
def test_a_ramp_does_not_ring_at_its_ends(rate, target):
    n = 2000
    ramp = np.linspace(5, 8, n, dtype=np.float32)[None]
    result = resample(ramp, rate, target)
    expected = 5 + 3 * np.arange(result.shape[1]) * rate / target / (n - 1)
    assert np.abs(result - expected).max() < 5e-3


def test_leads_do_not_influence_each_other():
    values = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
    together = resample(values, 500, 360)
    alone = np.concatenate([resample(values[i : i + 1], 500, 360) for i in range(3)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("target", [500, 100])
def test_values_that_are_not_finite_are_refused_with_their_row(bad, target):
    values = np.zeros((3, 50), np.float32)
    values[1, 7] = bad
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        resample(values, 500, target)


@pytest.mark.parametrize(
    ("values", "rate", "target", "message"),
    [
        (np.zeros((1, 9)), 500, 100, "float64"),
        (np.zeros(9, np.float32), 500, 100, r"\(9,\)"),
        (np.zeros((1, 0), np.float32), 500, 100, r"\(1, 0\)"),
        (np.zeros((1, 9), np.float32), 0, 100, "rate_hz"),
        (np.zeros((1, 9), np.float32), 500, float("inf"), "target_hz"),
        (np.zeros((1, 9), np.float32), 1, 1e9, "factor of 200"),
    ],
)
def test_unfit_arguments_are_refused_by_name(values, rate, target, message):
    with pytest.raises(ValueError, match=message):
        resample(values, rate, target)


def test_a_real_ecg_keeps_its_shape_on_the_way_down_and_up(shared):
    from fairseq_ecg.data.wfdb_reader import read_signal

    path = sorted((shared / "data/ptb-xl/records500").rglob("*.hea"))[0]
    values = read_signal(path).values_mv
    back = resample(resample(values, 500, 250), 250, 500)
    assert back.shape == values.shape
    error = np.sqrt(np.mean((back - values) ** 2))
    assert error < 0.05 * values.std()


@pytest.mark.parametrize(("rate", "target"), [(400, 500), (500, 400), (257, 500), (1000, 500)])
@pytest.mark.parametrize("n_samples", [8, 101, 1000])
def test_straight_lines_keep_ramps_and_both_ends(rate, target, n_samples):
    ramp = np.linspace(-1, 3, n_samples)[None].repeat(2, 0)
    ramp[1] *= -2
    drawn = resample_linear(ramp, rate, target)
    n_new = int(n_samples * target / rate)
    assert drawn.shape == (2, n_new)
    assert drawn.dtype == np.float64
    expected = np.linspace(-1, 3, n_new)
    np.testing.assert_allclose(drawn, [expected, -2 * expected], atol=1e-12)


def test_straight_lines_leave_the_right_rate_alone_and_need_two_samples():
    values = np.ones((1, 1), dtype=np.float32)
    assert resample_linear(values, 500, 500).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="too short to be drawn"):
        resample_linear(values, 400, 500)


@pytest.mark.parametrize(("rate", "target"), [(360, 250), (250, 360), (500, 250), (257, 250)])
@pytest.mark.parametrize("start", [0, 1, 36, 720, 3100, 4400])
def test_a_piece_is_what_the_whole_recording_becomes(rate, target, start):
    whole = np.cumsum(np.random.default_rng(0).standard_normal((2, 6000)), axis=1)
    whole = (whole / 10).astype(np.float32)
    asked = []

    def read(first, stop):
        asked.append(stop - first)
        return whole[:, first:stop]

    length = 700
    needed = samples_before(length, rate, target)
    assert (length - 1) * rate / target < needed <= length * rate / target + 1
    piece = resample_piece(read, 6000, start, length, rate, target)
    assert piece.shape == (2, length)
    period = rate // math.gcd(rate, target)
    skip = start % period
    first = (start - skip) * target // rate
    expected = resample(np.ascontiguousarray(whole[:, skip:]), rate, target)
    np.testing.assert_allclose(
        piece, expected[:, first : first + length], atol=2e-4 * np.ptp(whole)
    )
    assert asked[0] <= needed + 2 * (20 * max(1, rate / target) + period) + 2


def test_a_piece_at_the_same_rate_is_read_as_it_is():
    whole = np.arange(20, dtype=np.float32)[None]
    piece = resample_piece(lambda a, b: whole[:, a:b], 20, 3, 5, 250, 250)
    assert piece.tolist() == [[3, 4, 5, 6, 7]]
