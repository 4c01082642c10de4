"""The order of the transforms of a run."""

import numpy as np
import pytest

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.filter import bandpass, clean
from fairseq_ecg.transforms.lead_mask import RandomLeadMask
from fairseq_ecg.transforms.lead_selection import SelectLeads
from fairseq_ecg.transforms.noise import BaselineShift, BaselineWander, EmgNoise, PowerlineNoise
from fairseq_ecg.transforms.normalize import Standardize
from fairseq_ecg.transforms.pipeline import Band, Clean, Pipeline, build_pipeline

ALL = tuple(range(12))
STATISTICS = Standardize(
    np.linspace(1, 2, 12, dtype=np.float32), np.linspace(1, 3, 12, dtype=np.float32)
)


def signal():
    values = np.random.default_rng(0).normal(3, 1, size=(12, 400)).astype(np.float32)
    return EcgSignal(values, 200.0, STANDARD_LEADS)


def run(**options):
    return build_pipeline(**options)(signal(), np.random.default_rng(0))


def test_nothing_asked_is_nothing_done():
    assert build_pipeline(rows=ALL).transforms == ()
    before = signal()
    assert Pipeline()(before, np.random.default_rng(0)) is before


def test_leads_then_filter_then_scale_then_perturbations():
    mask, band = RandomLeadMask(0.5), Band(0.67, 40)
    pipeline = build_pipeline(
        rows=(1, 2),
        filter_signal=True,
        band=band,
        standardize=STATISTICS,
        perturbations=(mask, mask),
    )
    assert pipeline.transforms == (SelectLeads((1, 2)), Clean(), band, STATISTICS, mask, mask)


def test_a_band_keeps_what_the_filter_keeps():
    found = run(rows=ALL, band=Band(None, 20.0)).values_mv
    np.testing.assert_array_equal(found, bandpass(signal().values_mv, 200.0, high_hz=20.0))


def test_the_scale_of_leads_goes_with_them():
    before = signal()
    scaled = EcgSignal(before.values_mv, 200.0, STANDARD_LEADS, np.arange(12, dtype=np.float32))
    pipeline = build_pipeline(rows=(4, 9), filter_signal=True, band=Band(0.67, 40))
    after = pipeline(scaled, np.random.default_rng(0))
    assert after.scale_mv.tolist() == [4, 9]
    assert after.leads == ("aVL", "V4")


def test_the_steps_together_equal_the_steps_by_hand():
    result = run(rows=(4, 9), filter_signal=True, standardize=STATISTICS)
    filtered = clean(signal().values_mv[[4, 9]], 200.0)
    rows = [4, 9]
    expected = (filtered - STATISTICS.mean_mv[rows, None]) / STATISTICS.std_mv[rows, None]
    np.testing.assert_allclose(result.values_mv, expected, rtol=1e-5, atol=1e-6)
    assert result.leads == ("aVL", "V4")


def test_another_order_of_all_twelve_leads_is_a_choice_too():
    result = run(rows=ALL[::-1])
    np.testing.assert_array_equal(result.values_mv, signal().values_mv[::-1])


def test_padded_leads_are_silent_before_scaling_as_in_fairseq_signals():
    result = run(rows=(0,), pad_leads=True, standardize=STATISTICS)
    expected = -STATISTICS.mean_mv / STATISTICS.std_mv
    np.testing.assert_allclose(result.values_mv[1:, 0], expected[1:], rtol=1e-5)


def test_masked_leads_are_silent_also_after_scaling():
    result = run(rows=ALL, standardize=STATISTICS, perturbations=(RandomLeadMask(1.0),))
    assert not result.values_mv.any()


def test_all_randomness_comes_from_the_generator_that_is_given():
    pipeline = build_pipeline(rows=ALL, perturbations=(RandomLeadMask(0.5), RandomLeadMask(0.5)))
    one, again, other = (
        pipeline(signal(), np.random.default_rng(seed)).values_mv for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    silent = [
        (~pipeline(signal(), np.random.default_rng(s)).values_mv.any(axis=1)).mean()
        for s in range(400)
    ]
    assert np.mean(silent) == pytest.approx(0.75, abs=0.03)  # two draws that differ, not one twice


def test_signals_of_a_batch_are_what_they_are_alone_whatever_else_is_in_it():
    noises = [noise(p=0.5) for noise in (PowerlineNoise, EmgNoise, BaselineWander, BaselineShift)]
    pipeline = build_pipeline(
        rows=(0, 2, 7), standardize=STATISTICS, perturbations=(*noises, RandomLeadMask(0.3, p=0.5))
    )

    def rng(row):
        return np.random.default_rng((4, row))

    alone = [pipeline(signal(), rng(row)).values_mv for row in range(10)]
    assert len({values.tobytes() for values in alone}) > 5
    for batch in (range(10), [9, 2, 5], [4]):
        found = pipeline.batch([signal() for _ in batch], [rng(row) for row in batch])
        for row, given in zip(batch, found, strict=True):
            np.testing.assert_array_equal(given.values_mv, alone[row])
            assert given.leads == ("I", "III", "V2")


def test_transforms_of_a_batch_take_turns_with_each_signals_own_generator():
    def add(given, rng):
        given.values_mv[:] += rng.random(dtype=np.float32)
        return given

    pipeline = Pipeline((add, PowerlineNoise(), add))
    together = pipeline.batch([signal(), signal()], [np.random.default_rng(s) for s in (1, 2)])
    for seed, given in zip((1, 2), together, strict=True):
        alone = pipeline(signal(), np.random.default_rng(seed))
        np.testing.assert_array_equal(given.values_mv, alone.values_mv)
