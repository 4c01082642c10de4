"""Pooled shortcuts and padding, against loops over places."""

import numpy as np
import pytest
import torch
from torch import nn

from fairseq_ecg.modules.residual import (
    ResidualBlock,
    centred_conv,
    mean_over_stride,
    mean_over_time,
    silence,
    thin_out,
)


def valid_until(*lengths, total):
    return (torch.arange(total) < torch.tensor(lengths)[:, None]).float()[:, None]


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [1, 2, 7, 12])
def test_the_mean_over_a_stride_counts_the_places_that_are_there(stride, total):
    x = torch.randn(2, 3, total)
    lengths = (total, max(1, total // 2))
    valid = valid_until(*lengths, total=total)
    for mask, ends in ((None, (total, total)), (valid, lengths)):
        found = mean_over_stride(x, stride, mask)
        assert found.shape == (2, 3, -(-total // stride))
        for row, end in enumerate(ends):
            for place in range(found.shape[2]):
                part = x[row, :, place * stride : min((place + 1) * stride, end)].numpy()
                expected = part.mean(axis=1) if part.size else np.zeros(3)
                np.testing.assert_allclose(found[row, :, place], expected, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 9, 15])
@pytest.mark.parametrize("total", [1, 2, 5, 16])
def test_convolution_shortcut_and_padding_agree_on_the_length(kernel, stride, total):
    conv = centred_conv(2, 3, kernel, stride)
    x = torch.randn(1, 2, total)
    length = -(-total // stride)
    assert conv(x).shape[2] == mean_over_stride(x, stride).shape[2] == length
    assert thin_out(valid_until(total, total=total), stride).shape[2] == length


def test_a_place_after_a_stride_is_valid_if_a_recording_of_that_length_had_it():
    for length in range(1, 12):
        thinned = thin_out(valid_until(length, total=12), 2)
        assert int(thinned.sum()) == centred_conv(1, 1, 3, 2)(torch.ones(1, 1, length)).shape[2]
    assert thin_out(None, 2) is None


def test_the_mean_over_time_leaves_padding_out():
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(mean_over_time(x), x.mean(-1))
    padded = mean_over_time(x, valid_until(5, 2, total=5))
    torch.testing.assert_close(padded[0], x[0].mean(-1))
    torch.testing.assert_close(padded[1], x[1, :, :2].mean(-1))


def test_padded_places_are_silenced():
    x = torch.ones(2, 3, 4)
    assert silence(x, None) is x
    assert silence(x, valid_until(4, 1, total=4)).sum((1, 2)).tolist() == [12.0, 3.0]


class Doubled(ResidualBlock):
    def residual(self, x, valid):
        return 2 * x[..., :: self.stride]


def test_a_block_is_its_residual_beside_its_shortcut():
    x = torch.randn(1, 4, 6)
    same = Doubled(4, 4, stride=1, bias=False, pooled=False)
    torch.testing.assert_close(same(x), 3 * x)
    pooled = Doubled(4, 4, stride=2, bias=False, pooled=True)
    nn.init.dirac_(pooled.idfunc_1.weight)
    expected = 2 * x[..., ::2] + x.reshape(1, 4, 3, 2).mean(-1)
    torch.testing.assert_close(pooled(x), expected)
