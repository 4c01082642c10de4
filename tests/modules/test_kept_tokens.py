"""Tokens taken out of a row and put back: places, rows of different lengths."""

import pytest
import torch

from fairseq_ecg.modules.kept_tokens import KeptTokens


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_tokens_come_back_to_where_they_were(share):
    torch.manual_seed(0)
    kept = torch.rand(6, 20) < share
    kept[:, 3] = True
    tokens = torch.randn(6, 20, 4)
    filling = torch.tensor([9.0, 8, 7, 6])
    chosen = KeptTokens.of(kept)
    taken = chosen.take(tokens)
    assert taken.shape == (6, kept.sum(1).max(), 4)
    for row in range(6):
        count = kept[row].sum()
        assert torch.equal(taken[row, :count], tokens[row][kept[row]])
        if chosen.valid is not None:
            assert chosen.valid[row].tolist() == [i < count for i in range(taken.shape[1])]
    expected = torch.where(kept[..., None], tokens, filling)
    assert torch.equal(chosen.put_back(taken, filling), expected)


def test_equal_rows_need_no_filling_and_whole_rows_nothing_at_all():
    kept = torch.tensor([[True, False, True], [False, True, True]])
    assert KeptTokens.of(kept).valid is None
    assert KeptTokens.of(torch.ones(2, 3, dtype=torch.bool)) is None


def test_a_row_without_tokens_keeps_its_first():
    kept = torch.tensor([[False, False, False], [False, True, True]])
    chosen = KeptTokens.of(kept)
    assert chosen.valid.tolist() == [[True, False], [True, True]]
    assert chosen.index[0, 0] == 0
