"""The vectorised mask samplers draw what their definitions say."""

from collections import Counter

import numpy as np
import pytest
import torch

from fairseq_ecg.modules.masking import masked_positions, sample_fixed_mask, sample_span_mask


def slow_mask(batch, n_frames, prob, span, lengths, rng, min_spans=2):
    """The definition, row by row, before and after trimming to the poorest row."""
    shared = rng.random()
    rows = []
    for row in range(batch):
        size = n_frames if lengths is None else lengths[row]
        u = shared if lengths is None else rng.random()
        n_spans = max(min_spans, int(prob * size / span + u))
        room = size - span if size - span > n_spans else n_spans + 1
        starts = rng.choice(room, n_spans, replace=False)
        covered = {start + step for start in starts for step in range(span)}
        rows.append(np.array(sorted(frame for frame in covered if frame < size)))
    least = min(map(len, rows))
    mask = np.zeros((batch, n_frames), bool)
    for row, frames in enumerate(rows):
        mask[row, rng.choice(frames, least, replace=False)] = True
    return mask


def test_every_row_has_equally_many_masked_frames_and_none_is_padding():
    lengths = [156, 100, 60, 30]
    for seed in range(50):
        mask = sample_span_mask(
            4, 156, 0.65, 10, lengths, generator=torch.Generator().manual_seed(seed)
        )
        counts = mask.sum(1)
        assert counts.unique().numel() == 1
        assert 1 <= int(counts[0]) <= 30
        assert not (mask & (torch.arange(156) >= torch.tensor(lengths)[:, None])).any()


def test_a_single_row_consists_of_whole_spans():
    for seed in range(50):
        mask = sample_span_mask(1, 156, 0.65, 10, generator=torch.Generator().manual_seed(seed))[0]
        edges = torch.diff(mask.int(), prepend=torch.zeros(1).int(), append=torch.zeros(1).int())
        runs = (edges == -1).nonzero() - (edges == 1).nonzero()
        assert runs.min() >= 10
        assert not mask[-1:].any(), "the last span must end before the last frame"


@pytest.mark.parametrize(
    ("batch", "share", "repetitions"), [(1, 0.495, 3000), (12, 0.409, 400), (128, 0.355, 100)]
)
def test_masked_share_falls_with_the_batch_as_in_the_reference(batch, share, repetitions):
    generator = torch.Generator().manual_seed(batch)
    counts = [
        int(sample_span_mask(batch, 156, 0.65, 10, generator=generator)[0].sum())
        for _ in range(repetitions)
    ]
    assert np.mean(counts) / 156 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("batch", "lengths"), [(1, None), (3, None), (3, [40, 33, 25]), (2, [12, 6])]
)
def test_counts_and_places_are_distributed_as_in_the_slow_form(batch, lengths):
    repetitions, frames = 4000, 40
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    slow = np.stack(
        [slow_mask(batch, frames, 0.5, 5, lengths, rng) for _ in range(repetitions)]
    )  # [repetitions, B, L]
    fast = np.stack(
        [
            sample_span_mask(batch, frames, 0.5, 5, lengths, generator=generator).numpy()
            for _ in range(repetitions)
        ]
    )
    bins = np.arange(frames + 2)
    for view in (lambda m: m[:, 0].sum(1), lambda m: np.diff(m[:, 0].astype(int)).clip(0).sum(1)):
        share = [np.histogram(view(mask), bins)[0] / repetitions for mask in (slow, fast)]
        assert np.abs(share[0] - share[1]).max() < 0.04  # 4 standard errors of a difference
    assert np.abs(slow.mean(0) - fast.mean(0)).max() < 0.045


def test_without_lengths_all_rows_share_one_draw_of_the_number_of_spans():
    """400 * 0.025 / 4 is 2.5: all rows get 2 spans (at most 8 frames), or all get 3."""
    generator = torch.Generator().manual_seed(0)
    rich = 0
    for _ in range(200):
        mask = sample_span_mask(16, 400, 0.025, 4, min_spans=0, generator=generator)
        rich += int(mask[0].sum()) > 8
    assert rich / 200 == pytest.approx(0.5, abs=0.15)


def test_rows_shorter_than_a_span_are_masked_in_part():
    mask = sample_span_mask(3, 20, 0.65, 10, [20, 8, 4], generator=torch.Generator().manual_seed(1))
    assert mask.sum(1).tolist() == [mask[0].sum().item()] * 3


def test_the_same_generator_gives_the_same_mask():
    draws = [
        sample_span_mask(4, 156, 0.65, 10, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    ]
    assert torch.equal(*draws)


def test_no_spans_are_drawn_where_none_are_asked_for():
    assert not sample_span_mask(2, 64, 0.0, 10, min_spans=0).any()


def test_masked_positions_are_the_columns_of_each_row():
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    assert masked_positions(mask).tolist() == [[1, 2], [0, 3]]


@pytest.mark.parametrize("second", [[1, 1, 1, 0], [1, 1, 1, 1]])
def test_a_mask_with_unequal_rows_is_refused(second):
    mask = torch.tensor([[0, 1, 1, 0], second], dtype=torch.bool)
    with pytest.raises(ValueError, match="equally many frames in every row, not 2 to"):
        masked_positions(mask)


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match=r"mask_prob must be in \[0, 1\]"):
        sample_span_mask(2, 64, 65, 10)


# --- the same share in any batch ------------------------------------------------------------------


def runs_of(row):
    """Return the lengths of the runs of True."""
    edges = torch.diff(row.int(), prepend=torch.zeros(1).int(), append=torch.zeros(1).int())
    return ((edges == -1).nonzero() - (edges == 1).nonzero())[:, 0]


@pytest.mark.parametrize(
    ("frames", "prob", "span"), [(156, 0.49, 10), (156, 0.65, 10), (40, 0.5, 5), (30, 1.0, 7)]
)
@pytest.mark.parametrize("batch", [1, 8, 128])
def test_the_fixed_share_does_not_depend_on_the_batch_and_spans_stay_whole(
    batch, frames, prob, span
):
    mask = sample_fixed_mask(batch, frames, prob, span, generator=torch.Generator().manual_seed(0))
    assert mask.shape == (batch, frames)
    assert mask.sum(1).tolist() == [round(prob * frames)] * batch
    for row in mask:
        assert runs_of(row).min() >= span
    assert masked_positions(mask).shape == (batch, round(prob * frames))


def test_with_padding_the_shortest_row_decides_and_no_padding_is_masked():
    lengths = [156, 60, 100, 30]
    for seed in range(50):
        mask = sample_fixed_mask(4, 156, 0.65, 10, lengths, torch.Generator().manual_seed(seed))
        assert mask.sum(1).tolist() == [20] * 4  # 0.65 * 30, rounded: two spans
        assert not (mask & (torch.arange(156) >= torch.tensor(lengths)[:, None])).any()
        assert all(runs_of(row).min() >= 10 for row in mask)


def slow_arrangements(frames, sizes):
    """Return every way to place spans of these sizes in this order, as sets of frames."""
    if not sizes:
        return [frozenset()]
    rest = sum(sizes[1:])
    return [
        frozenset(range(start, start + sizes[0])) | {frame + start + sizes[0] for frame in others}
        for start in range(frames - sizes[0] - rest + 1)
        for others in slow_arrangements(frames - start - sizes[0], sizes[1:])
    ]


@pytest.mark.parametrize(("frames", "prob", "sizes"), [(9, 0.45, [2, 2]), (8, 0.62, [3, 2])])
def test_every_arrangement_of_fixed_spans_is_equally_likely(frames, prob, sizes):
    """Arrangements with a longer span count once per place that the longer one can take."""
    orders = {tuple(sizes), tuple(reversed(sizes))}
    expected = Counter(
        tuple(sorted(found)) for order in orders for found in slow_arrangements(frames, order)
    )
    repetitions = 20000
    mask = sample_fixed_mask(
        repetitions, frames, prob, 2, generator=torch.Generator().manual_seed(0)
    )
    drawn = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in mask)
    assert set(drawn) == set(expected)
    total = expected.total()
    for arrangement, count in expected.items():
        assert drawn[arrangement] / repetitions == pytest.approx(count / total, abs=0.015)


def test_rows_shorter_than_a_span_are_masked_whole_by_the_fixed_share():
    mask = sample_fixed_mask(2, 20, 0.5, 10, [20, 4], torch.Generator().manual_seed(0))
    assert mask.sum(1).tolist() == [4, 4]
    assert mask[1, :4].all()


def test_a_fixed_share_above_one_is_refused():
    with pytest.raises(ValueError, match=r"mask_prob must be in \[0, 1\]"):
        sample_fixed_mask(2, 64, 65, 10)


def test_a_fixed_share_of_nothing_masks_nothing():
    assert not sample_fixed_mask(3, 40, 0.0, 10).any()
