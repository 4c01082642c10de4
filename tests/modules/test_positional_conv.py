"""The positional convolution."""

import math

import pytest
import torch

from fairseq_ecg.modules.positional_conv import PositionalConv


@pytest.mark.parametrize("kernel", [15, 16])
def test_there_are_as_many_frames_out_as_in(kernel):
    assert PositionalConv(8, kernel, 4)(torch.randn(2, 21, 8)).shape == (2, 21, 8)


def test_an_even_kernel_looks_half_its_width_back_and_one_less_ahead():
    layer = PositionalConv(4, 6, 1)
    frames = torch.zeros(1, 20, 4)
    frames[0, 10] = 1.0
    seen = (layer(frames) - layer(torch.zeros_like(frames))).abs().sum(2)[0].nonzero().flatten()
    assert seen.tolist() == list(range(8, 14))


def test_keys_and_shapes_are_those_of_published_checkpoints():
    shapes = {k: tuple(v.shape) for k, v in PositionalConv(8, 16, 4).state_dict().items()}
    assert shapes == {
        "pos_conv.0.bias": (8,),
        "pos_conv.0.parametrizations.weight.original0": (1, 1, 16),
        "pos_conv.0.parametrizations.weight.original1": (8, 2, 16),
    }


def test_weights_start_with_the_width_of_the_paper():
    torch.manual_seed(0)
    weight = PositionalConv(256, 64, 4).pos_conv[0].weight.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(4 / (64 * 256)), rel=0.02)


def test_groups_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"\(10\) must be a multiple of conv_pos_groups \(4\)"):
        PositionalConv(10, 16, 4)
