"""Where windows sit at stride 2, against loops over places written from TensorFlow's formula."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fairseq_ecg.modules.same_padding import SameConv1d, SameConv2d, same_max_pool


def zeros_in_front(n, kernel, stride, tf):
    """TensorFlow: all zeros that are needed, the odd one behind."""
    if not tf:
        return kernel // 2
    rest = n % stride or stride
    return max(kernel - rest, 0) // 2


def windows(n, kernel, stride, tf):
    """Return the places that each window covers; those outside of the row are no places."""
    first = -zeros_in_front(n, kernel, stride, tf)
    return [range(first + i * stride, first + i * stride + kernel) for i in range(-(-n // stride))]


def slow_conv(x, weight, stride, tf):
    """Convolve [D, T] with [D', D, k], in float64."""
    out = []
    for places in windows(x.shape[1], weight.shape[2], stride, tf):
        taps = [(j, place) for j, place in enumerate(places) if 0 <= place < x.shape[1]]
        out.append(sum((weight[:, :, j] @ x[:, place] for j, place in taps), np.zeros(len(weight))))
    return np.stack(out, axis=1)


@pytest.mark.parametrize("tf", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 9, 32])
def test_a_convolution_is_the_formula(n, kernel, stride, tf):
    conv = SameConv1d(3, 4, kernel, stride, tf).double()
    x = torch.randn(2, 3, n, dtype=torch.float64)
    found = conv(x).detach().numpy()
    assert found.shape == (2, 4, -(-n // stride))
    for row, expected in zip(found, x.numpy(), strict=True):
        np.testing.assert_allclose(
            row, slow_conv(expected, conv.weight.detach().numpy(), stride, tf), atol=1e-12
        )


@pytest.mark.parametrize("tf", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 33])
def test_a_maximum_is_the_formula(n, tf):
    x = -torch.rand(2, 3, n)  # zeros at the borders would win
    found = same_max_pool(x, tf).numpy()
    for i, places in enumerate(windows(n, 3, 2, tf)):
        inside = [place for place in places if 0 <= place < n]
        np.testing.assert_array_equal(found[..., i], x.numpy()[..., inside].max(-1))
    assert found.shape[-1] == -(-n // 2)


@pytest.mark.parametrize("tf", [False, True])
@pytest.mark.parametrize("shape", [(8, 12), (7, 12), (8, 11), (5, 5)])
def test_two_axes_are_each_for_themselves(shape, tf):
    """A kernel and a maximum that are products of two of one axis each."""
    rows, columns = torch.randn(7), torch.randn(7)
    image = torch.randn(1, 1, *shape)
    conv = SameConv2d(1, 1, 7, 2, tf)
    conv.weight.data[0, 0] = rows[:, None] * columns
    along = [SameConv1d(1, 1, 7, 2, tf) for _ in range(2)]
    for layer, kernel in zip(along, (rows, columns), strict=True):
        layer.weight.data[0, 0] = kernel

    def apply(function_of_rows, function_of_columns, x):
        x = function_of_columns(x[0, 0][:, None])[:, 0]
        return function_of_rows(x.T[:, None])[:, 0].T

    with torch.no_grad():
        torch.testing.assert_close(conv(image)[0, 0], apply(*along, image), atol=1e-5, rtol=1e-5)

    def pool(x):
        return same_max_pool(x, tf)

    torch.testing.assert_close(same_max_pool(image, tf)[0, 0], apply(pool, pool, image))


def test_the_usual_padding_is_that_of_torch():
    conv = SameConv1d(2, 3, 5, 2)
    x = torch.randn(1, 2, 16)
    plain = functional.conv1d(x, conv.weight, stride=2, padding=2)
    assert torch.equal(conv(x), plain)
    assert torch.equal(same_max_pool(x), nn.MaxPool1d(3, 2, 1)(x))
    assert not torch.allclose(SameConv1d(2, 3, 5, 2, tf=True)(x), plain)


def test_gradients_reach_every_tap_and_no_other():
    conv = SameConv1d(1, 1, 7, 2, tf=True)
    conv(torch.ones(1, 1, 32)).sum().backward()
    assert conv.weight.grad.shape == (1, 1, 7)
    assert conv.weight.grad.ne(0).all()


@pytest.mark.parametrize(("kernel", "stride"), [(4, 1), (0, 1), (3, 3), (3, 0)])
def test_other_kernels_and_strides_are_refused(kernel, stride):
    for layer in (SameConv1d, SameConv2d):
        with pytest.raises(ValueError, match=f"kernel {kernel} and stride {stride}; give an odd"):
            layer(1, 1, kernel, stride)
