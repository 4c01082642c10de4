"""Random lead masking: how often, which leads, in place."""

import numpy as np
import pytest

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.lead_mask import ConditionalLeadMask, RandomLeadMask


def signal(leads=STANDARD_LEADS, n=3):
    values = 1 + np.arange(len(leads) * n, dtype=np.float32).reshape(len(leads), n)
    return EcgSignal(values, 500.0, tuple(leads))


def masks(transform, count, leads=STANDARD_LEADS, seed=0):
    """Apply a transform to many signals; True = lead silenced, bool [count, C]."""
    rng = np.random.default_rng(seed)
    silent = [~transform(signal(leads), rng).values_mv.any(axis=1) for _ in range(count)]
    return np.array(silent)


@pytest.mark.parametrize("prob", [0.0, 0.2, 0.5, 1.0])
def test_each_lead_is_silenced_with_its_probability(prob):
    share = masks(RandomLeadMask(prob), 4000).mean(axis=0)
    assert np.abs(share - prob).max() <= 4.5 * np.sqrt(prob * (1 - prob) / 4000)


def test_leads_are_silenced_independently_of_each_other():
    drawn = masks(RandomLeadMask(0.5), 4000).astype(float)
    correlation = np.corrcoef(drawn.T) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    counts = np.bincount(drawn.sum(axis=1).astype(int), minlength=13) / 4000
    assert counts[6] == pytest.approx(924 / 4096, abs=0.03)  # binomial, not a fixed number
    assert counts[2] == pytest.approx(66 / 4096, abs=0.01)


def test_all_leads_can_vanish():
    assert masks(RandomLeadMask(0.9), 100).all(axis=1).any()


@pytest.mark.parametrize(
    "transform", [RandomLeadMask(1.0, p=0.3), ConditionalLeadMask(6, 6, p=0.3)]
)
def test_p_decides_over_the_whole_segment(transform):
    touched = masks(transform, 2000)
    assert (touched.all(axis=1) | ~touched.any(axis=1)).all()
    assert touched[:, 0].mean() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    "transform", [RandomLeadMask(1.0, p=0.0), ConditionalLeadMask(6, 6, p=0.0)]
)
def test_p_0_never_touches_a_segment(transform):
    assert not masks(transform, 200).any()


@pytest.mark.parametrize(("limb", "chest"), [(4, 5), (0, 6), (6, 0), (1, 1)])
def test_conditional_masking_silences_a_fixed_number_of_limb_and_chest_leads(limb, chest):
    drawn = masks(ConditionalLeadMask(limb, chest), 2000)
    assert (drawn[:, :6].sum(axis=1) == limb).all()
    assert (drawn[:, 6:].sum(axis=1) == chest).all()
    expected = np.repeat([limb / 6, chest / 6], 6)
    assert np.abs(drawn.mean(axis=0) - expected).max() < 0.05


def test_limb_and_chest_leads_are_told_by_name_not_by_row():
    leads = ("V1", "aVF", "V6", "I", "V3", "II")
    drawn = masks(ConditionalLeadMask(1, 2), 300, leads)
    is_limb = np.array([False, True, False, True, False, True])
    assert (drawn[:, is_limb].sum(axis=1) == 1).all()
    assert (drawn[:, ~is_limb].sum(axis=1) == 2).all()
    assert drawn.any(axis=0).all()


def test_more_leads_to_mask_than_there_are_silence_all_of_them():
    drawn = masks(ConditionalLeadMask(4, 5), 20, ("I", "II", "V1"))
    assert drawn.all()


@pytest.mark.parametrize("transform", [RandomLeadMask(0.5), ConditionalLeadMask()])
def test_leads_are_silenced_in_place_and_the_others_left_alone(transform):
    before = signal()
    kept = before.values_mv.copy()
    after = transform(before, np.random.default_rng(1))
    assert after is before
    silent = ~after.values_mv.any(axis=1)
    assert 0 < silent.sum() < 12
    np.testing.assert_array_equal(after.values_mv[~silent], kept[~silent])


@pytest.mark.parametrize("leads", [("II",), ("I", "V1"), STANDARD_LEADS[:8]])
def test_any_number_of_leads_can_be_masked(leads):
    share = masks(RandomLeadMask(0.5), 1000, leads).mean(axis=0)
    assert share.shape == (len(leads),)
    assert np.abs(share - 0.5).max() < 0.08


@pytest.mark.parametrize("transform", [RandomLeadMask(), ConditionalLeadMask()])
def test_the_generator_decides(transform):
    one, again, other = (masks(transform, 20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
