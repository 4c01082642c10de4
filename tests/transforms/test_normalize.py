"""Scaling by the statistics of two text files, or by those of the window."""

import numpy as np
import pytest

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.normalize import Standardize, StandardizeWindow

RNG = np.random.default_rng(0)
MEAN, STD = np.linspace(-0.5, 0.6, 12), np.linspace(0.1, 1.2, 12)


@pytest.fixture
def files(tmp_path):
    for name, values in (("mean", MEAN), ("std", STD)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{v}\n" for v in values))
    return str(tmp_path / "mean.txt"), str(tmp_path / "std.txt")


def test_each_lead_is_shifted_and_scaled_by_its_own_numbers(files):
    values = np.random.default_rng(1).normal(size=(12, 50)).astype(np.float32)
    kept = values.copy()
    scaled = Standardize.from_files(*files)(EcgSignal(values, 500.0, STANDARD_LEADS), RNG)
    np.testing.assert_allclose(
        scaled.values_mv, (kept - MEAN[:, None]) / STD[:, None], rtol=1e-4, atol=1e-6
    )
    assert scaled.values_mv.dtype == np.float32
    assert (scaled.rate_hz, scaled.leads) == (500.0, STANDARD_LEADS)
    np.testing.assert_array_equal(values, kept)


def test_statistics_are_found_by_the_name_of_the_lead(files):
    """fairseq-signals takes the first rows of the files for any subset; ours are the lead's own."""
    leads, rows = ("V6", "II"), [11, 1]
    values = np.ones((2, 5), dtype=np.float32)
    scaled = Standardize.from_files(*files)(EcgSignal(values, 500.0, leads), RNG)
    np.testing.assert_allclose(scaled.values_mv[:, 0], (1 - MEAN[rows]) / STD[rows], rtol=1e-5)


def test_a_mean_recording_becomes_zero_and_one_deviation_more_becomes_one(files):
    transform = Standardize.from_files(*files)
    for extra, expected in ((0, 0.0), (1, 1.0)):
        values = np.repeat((MEAN + extra * STD)[:, None], 3, axis=1).astype(np.float32)
        scaled = transform(EcgSignal(values, 100.0, STANDARD_LEADS), RNG).values_mv
        np.testing.assert_allclose(scaled, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        ("mean", "1\n2\n3\n", r"mean.txt: expected twelve finite numbers, got \[1.0, 2.0, 3.0\]"),
        ("mean", "1\n" * 11 + "nan\n", "mean.txt: expected twelve finite numbers"),
        ("mean", "one\n" * 12, "mean.txt: expected twelve numbers, one a line.*one"),
        ("std", "1\n" * 11 + "0\n", "std.txt: standard deviations must be positive, got 0"),
        ("std", "1\n" * 11 + "-2\n", "std.txt: standard deviations must be positive, got -2"),
        ("std", "", "std.txt: expected twelve finite numbers"),
    ],
)
def test_files_that_hold_no_statistics_are_refused_by_name(
    files, tmp_path, which, content, message
):
    (tmp_path / f"{which}.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        Standardize.from_files(*files)


def test_a_missing_file_is_named(files):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        Standardize.from_files(files[0], "nowhere.txt")


@pytest.mark.parametrize("leads", [("I",), STANDARD_LEADS])
def test_one_pair_of_numbers_scales_all_leads_alike(leads):
    values = np.random.default_rng(1).normal(size=(len(leads), 50)).astype(np.float32)
    scaled = Standardize.from_numbers(0.0075, 0.2373)(EcgSignal(values, 250.0, leads), RNG)
    np.testing.assert_allclose(scaled.values_mv, (values - 0.0075) / 0.2373, rtol=1e-5, atol=1e-6)
    assert scaled.values_mv.dtype == np.float32


@pytest.mark.parametrize("numbers", [(0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, np.inf)])
def test_numbers_that_cannot_scale_are_refused(numbers):
    with pytest.raises(ValueError, match="must be finite, the deviation above 0 mV, but are"):
        Standardize.from_numbers(*numbers)


# --- by the statistics of a window ----------------------------------------------------------------


def window(*rows):
    values = np.array(rows, dtype=np.float32)
    return EcgSignal(values, 100.0, STANDARD_LEADS[: len(rows)], np.ones(len(rows), np.float32))


@pytest.mark.parametrize("shape", [(1, 2), (2, 7), (12, 500)])
@pytest.mark.parametrize("per_lead", [False, True])
def test_a_window_is_scaled_by_its_own_statistics(shape, per_lead):
    values = np.random.default_rng(0).normal(3, 2, shape)
    scaled = StandardizeWindow(per_lead)(window(*values), RNG)
    rows = values.astype(np.float32).astype(float)
    parts = list(rows) if per_lead else [rows] * len(rows)
    for row, part, found, scale in zip(rows, parts, scaled.values_mv, scaled.scale_mv, strict=True):
        mean = sum(part.ravel()) / part.size
        std = (sum((part.ravel() - mean) ** 2) / part.size) ** 0.5
        np.testing.assert_allclose(found, (row - mean) / std, rtol=1e-4, atol=1e-5)
        assert scale == pytest.approx(std, rel=1e-5)
    assert scaled.values_mv.dtype == scaled.scale_mv.dtype == np.float32


def test_common_statistics_keep_the_ratios_of_leads():
    rows = np.random.default_rng(0).normal(size=50)
    scaled = StandardizeWindow()(window(rows - rows.mean(), 3 * (rows - rows.mean())), RNG)
    np.testing.assert_allclose(scaled.values_mv[1], 3 * scaled.values_mv[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_lead", [False, True])
def test_silent_leads_stay_silent_and_do_not_count(per_lead):
    rows = np.random.default_rng(0).normal(5, 1, (2, 50))
    alone = StandardizeWindow(per_lead)(window(*rows), RNG)
    among = StandardizeWindow(per_lead)(window(rows[0], np.zeros(50), rows[1]), RNG)
    np.testing.assert_array_equal(among.values_mv[[0, 2]], alone.values_mv)
    np.testing.assert_array_equal(among.scale_mv[[0, 2]], alone.scale_mv)
    assert not among.values_mv[1].any()


@pytest.mark.parametrize("per_lead", [False, True])
@pytest.mark.parametrize("level", [0.0, 0.3, -70.0])
def test_a_constant_window_becomes_zero(per_lead, level):
    scaled = StandardizeWindow(per_lead)(window(*np.full((3, 20), level)), RNG)
    np.testing.assert_allclose(scaled.values_mv, 0, atol=1e-6)
    np.testing.assert_allclose(scaled.scale_mv, 1e-3)


def test_the_last_digit_of_a_flat_lead_is_not_blown_up():
    flicker = np.tile([0.0, 1e-4], 10)
    assert np.abs(StandardizeWindow(True)(window(flicker), RNG).values_mv).max() < 0.06


def test_a_scale_goes_on_from_the_one_before_and_is_not_made_up(files):
    before = EcgSignal(
        np.ones((12, 5), np.float32), 100.0, STANDARD_LEADS, np.full(12, 2, np.float32)
    )
    found = Standardize.from_files(*files)(before, RNG).scale_mv
    np.testing.assert_allclose(found, 2 * STD, rtol=1e-6)
    unasked = EcgSignal(np.ones((12, 5), np.float32), 100.0, STANDARD_LEADS)
    assert StandardizeWindow()(unasked, RNG).scale_mv is None
