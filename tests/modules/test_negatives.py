"""Negatives are other masked frames of the same recording, uniformly."""

import pytest
import torch

from fairseq_ecg.modules.negatives import local_negatives, sample_negatives


def test_a_frame_is_never_its_own_negative_and_all_others_are_equally_likely():
    n_masked, drawn = 7, 4000
    negatives = sample_negatives(3, n_masked, drawn, generator=torch.Generator().manual_seed(0))
    assert negatives.shape == (3, n_masked, drawn)
    for frame in range(n_masked):
        counts = torch.bincount(negatives[:, frame].flatten(), minlength=n_masked)
        assert counts[frame] == 0
        others = counts[torch.arange(n_masked) != frame].double()
        chi_square = ((others - 2000) ** 2 / 2000).sum()
        assert chi_square < 25.7  # 5 degrees of freedom, p = 0.0001


def test_two_masked_frames_are_each_others_negatives():
    negatives = sample_negatives(1, 2, 5)
    assert negatives.tolist() == [[[1] * 5, [0] * 5]]


def test_a_single_masked_frame_is_refused():
    with pytest.raises(ValueError, match="1 masked frames, but negatives need at least 2"):
        sample_negatives(1, 1, 5)


def test_flat_indices_become_positions_within_the_row():
    local = sample_negatives(3, 4, 5)
    flat = (local + 4 * torch.arange(3)[:, None, None]).flatten(1)
    assert torch.equal(local_negatives(flat, 3, 4), local)


def test_indices_of_another_row_are_refused():
    with pytest.raises(ValueError, match="masked frames of the same row"):
        local_negatives(torch.tensor([[0, 1, 2, 4]]), 1, 4)
    with pytest.raises(ValueError, match=r"must be \[2, 4 \* N\]"):
        local_negatives(torch.zeros(1, 4, dtype=torch.long), 2, 4)
