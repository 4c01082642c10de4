"""Hidden blocks: where they may lie, how many there are, and how the modes differ."""

import itertools

import numpy as np
import pytest

from fairseq_ecg.data.block_mask import MODES, SAMPLINGS, BlockMask

ALL = np.ones(100, dtype=bool)


def drawn(mask, seed=0, n_leads=12, candidates=ALL):
    """Return the (first) mask of one draw."""
    return mask.draw(np.random.default_rng(seed), n_leads, candidates)[0]


# --- candidates -----------------------------------------------------------------------------------


def test_candidates_are_the_blocks_that_touch_the_signal():
    mask = BlockMask(block=64)
    found = np.flatnonzero(mask.candidates(581, 3516, 4096))
    assert found.tolist() == list(range(9, 55))  # the 46 blocks of the published example
    assert np.flatnonzero(mask.candidates(48, 4048, 4096)).tolist() == list(range(64))
    assert np.flatnonzero(mask.candidates(64, 128, 4096)).tolist() == [1]


def test_a_last_block_that_is_not_whole_is_no_candidate():
    assert BlockMask(block=64).candidates(0, 200, 200).tolist() == [True] * 3


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["time", "time_block", "lead_time"])
@pytest.mark.parametrize("n", [1, 2, 5, 46, 64, 100])
@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.5, 0.75, 0.99])
def test_the_number_of_hidden_blocks_is_exact_in_every_lead(mode, n, ratio):
    expected = max(1, round(ratio * n))
    if n > 1:
        expected = min(expected, n - 1)  # something stays visible
    for seed in range(5):
        found = drawn(BlockMask(ratio=ratio, mode=mode), seed, 3, np.ones(n, dtype=bool))
        assert found.sum(axis=1).tolist() == [expected] * 3


def test_three_quarters_of_a_hundred_blocks_and_of_twelve_leads_are_exact():
    assert drawn(BlockMask(25, 0.75)).sum(axis=1).tolist() == [75] * 12
    found = drawn(BlockMask(25, 0.75, "lead"))
    assert sorted(found.sum(axis=1).tolist()) == [0] * 3 + [100] * 9


@pytest.mark.parametrize("sampling", ["without_replacement", "bernoulli"])
@pytest.mark.parametrize("mode", ["time", "time_block", "lead_time"])
def test_the_mean_share_over_1000_draws_is_within_one_percent_of_the_ratio(sampling, mode):
    mask = BlockMask(64, 0.25, mode, sampling)
    rng = np.random.default_rng(0)
    shares = [mask.draw(rng, 2, ALL[:64])[0].mean() for _ in range(1000)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.01)
    assert (np.std(shares) > 0) == (sampling == "bernoulli")


def test_drawing_with_replacement_hides_as_many_as_the_formula_says():
    n, draws = 46, 13
    mask = BlockMask(64, draws / n, "time", "replacement")
    rng = np.random.default_rng(0)
    counts = [mask.draw(rng, 1, ALL[:n])[0].sum() for _ in range(3000)]
    assert np.mean(counts) == pytest.approx(n * (1 - (1 - 1 / n) ** draws), abs=0.05)
    assert max(counts) <= draws


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_something_is_hidden_and_something_stays_visible(mode, sampling):
    for ratio, seed in itertools.product((0.02, 0.98), range(20)):
        masks = BlockMask(64, ratio, mode, sampling).draw(np.random.default_rng(seed), 3, ALL[:4])
        for found in masks:
            assert found.any()
            assert not found.all()


# --- where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_only_candidates_are_hidden(mode):
    candidates = np.zeros(64, dtype=bool)
    candidates[9:55] = True
    for seed in range(10):
        for found in BlockMask(mode=mode).draw(np.random.default_rng(seed), 12, candidates):
            assert found.shape == (12, 64)
            assert not found[:, ~candidates].any()


@pytest.mark.parametrize("mode", ["time", "time_block"])
def test_time_modes_hide_the_same_blocks_in_all_leads(mode):
    found = drawn(BlockMask(mode=mode))
    assert (found == found[0]).all()


def test_every_block_is_hidden_equally_often():
    for mode in ("time", "lead_time"):
        rng = np.random.default_rng(1)
        mask = BlockMask(64, 0.5, mode)
        often = sum(mask.draw(rng, 2, ALL[:10])[0].astype(int) for _ in range(2000))
        assert np.abs(often - 1000).max() < 120  # five deviations


def test_leads_are_hidden_from_end_to_end_of_the_signal():
    candidates = ALL.copy()
    candidates[:10] = False
    found = drawn(BlockMask(mode="lead", ratio=0.75), candidates=candidates)
    assert set(found.sum(axis=1).tolist()) == {0, 90}


def test_blocks_of_each_lead_on_its_own_differ_between_leads():
    found = drawn(BlockMask(mode="lead_time"))
    assert len({row.tobytes() for row in found}) == 12


def test_with_one_lead_both_modes_over_time_are_the_same():
    for seed in range(5):
        one, other = (drawn(BlockMask(mode=m), seed, 1) for m in ("time", "lead_time"))
        assert np.array_equal(one, other)


def test_random_leads_share_the_blocks_and_every_number_of_leads_occurs():
    rng = np.random.default_rng(0)
    numbers = []
    for _ in range(500):
        (found,) = BlockMask(mode="random_leads").draw(rng, 4, ALL)
        touched = found.any(axis=1)
        assert (found[touched] == found[touched][0]).all()
        assert found[touched][0].sum() == 25
        numbers.append(int(touched.sum()))
    assert np.abs(np.bincount(numbers, minlength=5)[1:] - 125).max() < 50


def test_two_masks_are_one_over_time_and_one_over_leads():
    time, lead = BlockMask(ratio=0.75, mode="time_and_lead").draw(np.random.default_rng(0), 12, ALL)
    assert (time == time[0]).all()
    assert time[0].sum() == 75
    assert sorted(lead.sum(axis=1).tolist()) == [0] * 3 + [100] * 9


def test_spans_are_of_two_to_six_blocks():
    """With few hidden blocks spans seldom touch, so that runs are spans."""
    lengths = []
    for seed in range(400):
        row = drawn(BlockMask(ratio=0.05, mode="time_block"), seed)[0]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
        lengths += (edges[1::2] - edges[::2]).tolist()
    assert min(lengths) == 2
    assert set(lengths) == {2, 3, 5}  # the ways to make five blocks


@pytest.mark.parametrize("mode", MODES)
def test_a_draw_depends_on_its_generator_only(mode):
    mask = BlockMask(mode=mode)
    for seed in range(3):
        same, again, other = (
            np.stack(mask.draw(np.random.default_rng(s), 12, ALL)) for s in (seed, seed, seed + 9)
        )
        assert np.array_equal(same, again)
        assert not np.array_equal(same, other)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ratio": 0.0}, r"^mask_ratio must be above 0 .* and below 1 .*, got 0$"),
        ({"ratio": 1.0}, r"^mask_ratio must .*, got 1$"),
        ({"ratio": -0.5}, "^mask_ratio must .*, got -0.5$"),
        ({"ratio": float("nan")}, "^mask_ratio must .*, got nan$"),
        ({"block": 0}, "^mask_block must be at least 1 sample, got 0$"),
        ({"mode": "times"}, "^mask_mode must be one of time, time_block, .*, got 'times'$"),
        ({"sampling": "x"}, "^mask_sampling must be one of without_replacement, .*, got 'x'$"),
    ],
)
def test_values_that_cannot_work_are_refused_with_their_key(keys, message):
    with pytest.raises(ValueError, match=message):
        BlockMask(**keys)
