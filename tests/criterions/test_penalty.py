"""What the penalty of kernels leaves out."""

import pytest
import torch
from torch import nn

from fairseq_ecg.criterions._penalty import kernel_penalty


class Around(nn.Module):
    """A head on an encoder that may be at rest."""

    def __init__(self, frozen):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2))
        self.head = nn.Linear(2, 3)
        self.frozen = frozen


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_encoder_has_no_penalty(frozen):
    model = Around(frozen)
    squares = model.head.weight.square().sum()
    if not frozen:
        squares = squares + model.encoder[0].weight.square().sum()
    penalty = kernel_penalty(model)
    assert penalty.item() == pytest.approx(0.5 * squares.item())
    penalty.backward()
    assert torch.allclose(model.head.weight.grad, model.head.weight)
    assert (model.encoder[0].weight.grad is None) == frozen
    assert model.head.bias.grad is None


def test_nothing_that_is_trained_has_no_penalty():
    assert kernel_penalty(nn.BatchNorm1d(3)) == 0
