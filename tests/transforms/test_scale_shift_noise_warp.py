"""What the views of contrastive learning draw, and what they make of a recording."""

import numpy as np
import pytest

from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.recognition import add_noise, warp
from fairseq_ecg.transforms.scale_shift_noise_warp import ScaleShiftNoiseWarp

RATE_HZ = 256.0


def signal(n_leads=2, n_samples=2560):
    values = np.random.default_rng(9).normal(size=(n_leads, n_samples)).astype(np.float32)
    return EcgSignal(values, RATE_HZ, tuple("ab"[:n_leads]))


def drawn(perturbation, seed):
    return perturbation.draw(signal(), np.random.default_rng(seed))[0]


def test_each_is_drawn_with_its_chance_and_one_at_least():
    changes = [drawn(ScaleShiftNoiseWarp(), seed) for seed in range(2000)]
    assert all(changes)
    for name in ("scaling", "shift", "noise", "warp"):
        share = np.mean([name in change for change in changes])
        # a half, and a quarter of the cases in which none of the four was chosen
        assert share == pytest.approx(1 / 2 + 1 / 16 / 4, abs=0.04)
    assert all(len(drawn(ScaleShiftNoiseWarp(view_chance=0.0), seed)) == 1 for seed in range(20))
    assert all(len(drawn(ScaleShiftNoiseWarp(view_chance=1.0), seed)) == 4 for seed in range(20))


def test_draws_fill_their_ranges():
    changes = [drawn(ScaleShiftNoiseWarp(view_chance=1.0), seed) for seed in range(500)]
    ranges = {
        "scaling": (0.8, 1.2, [change["scaling"] for change in changes]),
        "shift": (-128, 128, [change["shift"] for change in changes]),
        "noise": (10, 25, [change["noise"][0] for change in changes]),
        "slope": (284 / 313, 284 / 259, [np.diff(c["warp"][50:60]).mean() for c in changes]),
    }
    for low, high, values in ranges.values():
        assert low - 1e-9 <= min(values) < max(values) <= high + 1e-9
        assert max(values) - min(values) > 0.9 * (high - low)


@pytest.mark.parametrize("n_leads", [1, 2])
def test_they_are_applied_one_after_the_other_to_all_leads(n_leads):
    perturbation = ScaleShiftNoiseWarp(view_chance=1.0)
    before = signal(n_leads)
    (change,) = perturbation.draw(before, np.random.default_rng(4))
    expected = np.roll(before.values_mv * np.float32(change["scaling"]), change["shift"], axis=1)
    expected = warp(add_noise(expected, change["noise"][1], change["noise"][0]), change["warp"])
    perturbation.apply([before], [change])
    np.testing.assert_array_equal(before.values_mv, expected)


def test_what_is_not_chosen_is_not_done():
    for name in ("scaling", "shift"):
        change = drawn(ScaleShiftNoiseWarp(view_chance=1.0), 0)
        before, after = signal(), signal()
        ScaleShiftNoiseWarp().apply([after], [{name: change[name]}])
        other = np.roll(before.values_mv, change["shift"], axis=1)
        expected = other if name == "shift" else before.values_mv * np.float32(change[name])
        np.testing.assert_array_equal(after.values_mv, expected)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"view_chance": 1.5}, r"view_chance must lie in \[0, 1\]"),
        ({"view_scaling": (1.2, 0.8)}, "view_scaling must be two finite numbers in order from 0"),
        ({"view_scaling": 1.2}, "view_scaling must be two finite numbers"),
        ({"view_snr_db": (10, np.inf)}, "view_snr_db must be two finite numbers in order, got"),
        ({"view_warp_factor": (0.9, 1.1)}, "view_warp_factor must be .* in order from 1 on"),
        ({"view_warp_pieces": 1}, "view_warp_pieces must be finite and at least 2"),
        ({"view_shift_s": -1.0}, "view_shift_s must be finite and at least 0"),
    ],
)
def test_values_that_cannot_work_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        ScaleShiftNoiseWarp(**keys)
