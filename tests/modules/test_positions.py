"""Positions of tokens: the formula, any length, nothing in the state dict."""

import math

import pytest
import torch

from fairseq_ecg.modules.positions import LearnedPositions, SineCosinePositions


@pytest.mark.parametrize(("width", "count"), [(2, 1), (8, 5), (64, 100)])
def test_fixed_positions_are_sines_and_cosines(width, count):
    table = SineCosinePositions(width)(count)
    assert table.shape == (count + 2, width)
    for place in range(count + 2):
        for i in range(width // 2):
            angle = place / 10000 ** (2 * i / width)
            assert abs(table[place, i] - math.sin(angle)) < 1e-6
            assert abs(table[place, width // 2 + i] - math.cos(angle)) < 1e-6


def test_fixed_positions_grow_and_are_not_saved():
    positions = SineCosinePositions(8, count=3)
    first = positions(3).clone()
    assert torch.equal(positions(40)[:5], first)
    assert torch.equal(positions(3), first)
    assert positions.state_dict() == {}
    assert list(positions.parameters()) == []


def test_learned_positions_end_where_their_table_ends():
    positions = LearnedPositions(8, 4)
    assert positions(4).shape == (6, 8)
    with pytest.raises(ValueError, match=r"5 patches.*for 4 \(model.window\)"):
        positions(5)
