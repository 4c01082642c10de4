"""Multi-scale convolutions: formula, padding, holes, kernels in milliseconds."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from fairseq_ecg.modules.multi_scale import MultiScaleStem, odd_kernels


def numbers(parameter):
    return parameter.detach().double().numpy()


def convolve(x, weight):
    """Convolve [C, T] with [C', C, k], zeros beyond the ends, sample by sample."""
    k = weight.shape[2]
    padded = np.pad(x, ((0, 0), (k // 2, k // 2)))
    return np.stack(
        [np.einsum("ock,ck->o", weight, padded[:, t : t + k]) for t in range(x.shape[1])], axis=1
    )


def maxima(x):
    padded = np.pad(x, ((0, 0), (1, 1)), constant_values=-np.inf)
    return np.max([padded[:, i : i + x.shape[1]] for i in range(3)], axis=0)


def group_norm(norm, x):
    groups = x.reshape(norm.num_groups, -1)
    scaled = (groups - groups.mean(1, keepdims=True)) / np.sqrt(
        groups.var(1, keepdims=True) + norm.eps
    )
    return scaled.reshape(x.shape) * numbers(norm.weight)[:, None] + numbers(norm.bias)[:, None]


def activate(x, name):
    return np.maximum(x, 0) if name == "relu" else x * (1 + erf(x / np.sqrt(2))) / 2


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize(("channels", "blocks", "n_samples"), [(8, 1, 7), (16, 3, 40)])
def test_the_stem_is_the_formula(channels, blocks, n_samples, activation):
    torch.manual_seed(0)
    stem = MultiScaleStem(3, channels, [3, 5, 9], blocks, activation=activation)
    for norm in (m for m in stem.modules() if isinstance(m, torch.nn.GroupNorm)):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    source = torch.randn(2, 3, n_samples)
    found = stem(source).detach().numpy()
    for row, x in zip(found, source.double().numpy(), strict=True):
        y = x
        for block in stem.blocks:
            narrow = convolve(y, numbers(block.bottleneck.weight))
            parts = [convolve(narrow, numbers(conv.weight)) for conv in block.convs]
            parts.append(convolve(maxima(y), numbers(block.maxima_proj.weight)))
            y = activate(group_norm(block.norm, np.concatenate(parts)), activation)
        beside = group_norm(stem.shortcut_norm, convolve(x, numbers(stem.shortcut.weight)))
        np.testing.assert_allclose(row, activate(y + beside, activation), atol=2e-5)


def test_the_default_stem_has_the_parameters_of_the_specification():
    assert sum(p.numel() for p in MultiScaleStem(12).parameters()) == 225_536


@pytest.mark.parametrize(("left", "right"), [(0, 5), (4, 3)])
def test_a_padded_recording_gives_what_it_gives_alone(left, right):
    torch.manual_seed(0)
    stem = MultiScaleStem(2, 8, [3, 5, 9], 2)
    alone = torch.randn(1, 2, 20)
    padded = torch.nn.functional.pad(alone, (left, right))
    valid = torch.nn.functional.pad(torch.ones(1, 1, 20, dtype=torch.bool), (left, right))
    found = stem(padded, valid)
    assert torch.allclose(found[..., left : left + 20], stem(alone), atol=1e-5)
    assert found.masked_select(~valid).eq(0).all()


def test_holes_are_made_up_for_by_the_visible_share_of_the_taps():
    torch.manual_seed(0)
    stem = MultiScaleStem(1, 4, [5], 1, norm="batch").eval()
    conv = stem.blocks[0].convs[0]
    conv.weight.data.fill_(1.0)
    stem.blocks[0].bottleneck.weight.data.fill_(1.0)
    seen = []
    stem.blocks[0].norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    visible = torch.ones(1, 1, 20)
    visible[..., 6:14] = 0
    stem(visible, None, visible)  # a constant signal with a hole
    convolved = seen[0][0, 0]  # the sum of 2 equal channels x 5 taps is 10 where all are visible
    share = torch.tensor([5.0] * 4 + [4, 3, 2, 1, 0, 0, 0, 0, 1, 2, 3, 4] + [5] * 4)
    share[:2] = 5  # beyond the end counts as visible
    expected = torch.where(share > 0, 10.0, 0.0)
    expected[0], expected[1], expected[-2], expected[-1] = 6, 8, 8, 6  # but gives nothing
    assert torch.allclose(convolved, expected)
    whole = torch.randn(2, 1, 20)
    assert torch.equal(stem(whole, None, torch.ones(2, 1, 20)), stem(whole))


@pytest.mark.parametrize(
    ("widths_ms", "rate_hz", "expected"),
    [
        ([36, 76, 156], 250, [9, 19, 39]),
        ([90, 190, 390], 100, [9, 19, 39]),
        ([90, 190, 390], 250, [23, 47, 97]),
        ([1], 100, [1]),
    ],
)
def test_milliseconds_become_the_nearest_odd_number_of_samples(widths_ms, rate_hz, expected):
    assert odd_kernels(widths_ms, rate_hz) == expected
