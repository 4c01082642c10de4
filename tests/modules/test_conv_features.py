"""The convolutional stack: norms, keys, and what it refuses."""

import pytest
import torch

from fairseq_ecg.modules.conv_features import ConvFeatures


def test_default_mode_has_a_group_norm_in_the_first_block_only():
    keys = set(ConvFeatures([(4, 2, 2)] * 3, 12).state_dict())
    assert keys == {
        "conv_layers.0.0.weight",
        "conv_layers.0.2.weight",
        "conv_layers.0.2.bias",
        "conv_layers.1.0.weight",
        "conv_layers.2.0.weight",
    }


def test_layer_norm_mode_has_a_layer_norm_in_every_block():
    stack = ConvFeatures([(4, 2, 2)] * 2, 12, mode="layer_norm", bias=True)
    assert {"conv_layers.0.2.1.weight", "conv_layers.1.2.1.bias", "conv_layers.1.0.bias"} <= set(
        stack.state_dict()
    )
    first = stack.conv_layers[0]
    normed = first[2](first[0](torch.randn(2, 12, 64)))
    assert torch.allclose(normed.mean(1), torch.zeros(2, 32), atol=1e-5)


def test_group_norm_makes_each_channel_standard_over_time():
    first = ConvFeatures([(4, 2, 2)], 12).conv_layers[0]
    normed = first[2](first[0](5 + 3 * torch.randn(2, 12, 640)))
    assert torch.allclose(normed.mean(2), torch.zeros(2, 4), atol=1e-5)
    assert torch.allclose(normed.std(2, correction=0), torch.ones(2, 4), atol=1e-3)


def test_norms_run_in_float32_under_autocast():
    stack = ConvFeatures([(4, 2, 2)] * 2, 12)
    source = torch.randn(2, 12, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = stack(source)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), stack(source), atol=0.1)


def test_another_number_of_leads_is_refused_by_name():
    with pytest.raises(ValueError, match=r"\[batch, 12 leads, samples\].*\[2, 3, 64\].*in_d"):
        ConvFeatures([(4, 2, 2)], 12)(torch.randn(2, 3, 64))


def test_a_missing_batch_swapped_axes_and_arrays_are_told_what_to_do():
    stack = ConvFeatures([(4, 2, 2)], 12)
    with pytest.raises(ValueError, match=r"shape \[12, 64\]; add the batch: source\[None\]"):
        stack(torch.randn(12, 64))
    with pytest.raises(ValueError, match=r"leads come before samples: source.transpose\(1, 2\)"):
        stack(torch.randn(2, 64, 12))
    with pytest.raises(
        TypeError, match=r"float32 tensor, but is of type ndarray float64; torch.as_te"
    ):
        stack(torch.randn(2, 12, 64).double().numpy())
    with pytest.raises(TypeError, match=r"float32 tensor, but is of type Tensor torch.int16"):
        stack(torch.zeros(2, 12, 64, dtype=torch.int16))


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="15 samples, but one frame takes 16; give longer"):
        ConvFeatures([(4, 2, 2)] * 4, 12)(torch.randn(2, 12, 15))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="extractor_mode is 'batch_norm'"):
        ConvFeatures([(4, 2, 2)], 12, mode="batch_norm")
