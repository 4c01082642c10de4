"""The encoder against torch's own attention, with padding, in both norm orders."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fairseq_ecg.modules.transformer import (
    DropPath,
    SelfAttention,
    TransformerEncoder,
    TransformerSizes,
)


def _encoder(**changes):
    torch.manual_seed(0)
    sizes = {"layers": 2, "width": 16, "ffn_width": 24, "heads": 4, "dropout": 0.0}
    return TransformerEncoder(TransformerSizes(**{**sizes, "attention_dropout": 0.0, **changes}))


def _padding():
    return torch.arange(9) >= torch.tensor([9, 5, 1])[:, None]


@pytest.mark.parametrize("padded", [False, True])
def test_attention_equals_torchs_with_the_same_weights(padded):
    ours, theirs = SelfAttention(16, 4, 0.0), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        names = ("q_proj", "k_proj", "v_proj")
        theirs.in_proj_weight.copy_(torch.cat([getattr(ours, n).weight for n in names]))
        theirs.in_proj_bias.copy_(torch.cat([getattr(ours, n).bias for n in names]))
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    x = torch.randn(3, 9, 16)
    padding = _padding() if padded else None
    attended = None if padding is None else ~padding[:, None, None]
    mixed, weights = theirs(x, x, x, key_padding_mask=padding)
    assert torch.allclose(ours(x, attended), mixed, atol=1e-5)
    assert torch.allclose(ours.weights(x, attended), weights, atol=1e-6)


def test_scores_may_be_divided_by_the_root_of_the_width():
    """As if the queries were divided by the root of the number of heads."""
    by_width, usual = SelfAttention(16, 4, 0.0, scale_by_width=True), SelfAttention(16, 4, 0.0)
    usual.load_state_dict(by_width.state_dict())
    with torch.no_grad():
        for parameter in usual.q_proj.parameters():
            parameter /= 2
    x = torch.randn(3, 9, 16)
    torch.testing.assert_close(by_width(x), usual(x))
    torch.testing.assert_close(by_width.weights(x), usual.weights(x))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_the_encoder_equals_torchs_layers_with_the_same_weights(pre_norm, activation):
    encoder = _encoder(pre_norm=pre_norm, activation=getattr(functional, activation)).eval()
    x = torch.randn(3, 9, 16)
    expected = x if pre_norm else encoder.layer_norm(x)
    for layer in encoder.layers:
        torchs = nn.TransformerEncoderLayer(
            16, 4, 24, 0.0, activation, batch_first=True, norm_first=pre_norm
        )
        attention = layer.self_attn
        with torch.no_grad():
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            torchs.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
            torchs.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        torchs.self_attn.out_proj.load_state_dict(attention.out_proj.state_dict())
        for name, module in (
            ("linear1", layer.fc1),
            ("linear2", layer.fc2),
            ("norm1", layer.self_attn_layer_norm),
            ("norm2", layer.final_layer_norm),
        ):
            getattr(torchs, name).load_state_dict(module.state_dict())
        expected = torchs(expected)
    expected = encoder.layer_norm(expected) if pre_norm else expected
    assert torch.allclose(encoder(x), expected, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_padded_frames_never_change_valid_ones(pre_norm):
    encoder, padding, x = _encoder(pre_norm=pre_norm).eval(), _padding(), torch.randn(3, 9, 16)
    found = encoder(x, padding)
    other = encoder(torch.where(padding[..., None], 7.0, x), padding)
    assert torch.equal(found[~padding], other[~padding])
    assert torch.allclose(found[1, :5], encoder(x[1:2, :5])[0], atol=1e-5)
    assert found.isfinite().all()


def test_attention_weights_are_those_of_every_layer_and_skip_padding():
    encoder, padding, x = _encoder().eval(), _padding(), torch.randn(3, 9, 16)
    weights = encoder.attention_weights(x, padding)
    assert weights.shape == (3, 2, 9, 9)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 9), atol=1e-5)
    assert not weights.masked_select(padding[:, None, None, :]).any()


def test_layers_are_dropped_in_training_only_and_as_often_as_asked():
    encoder = _encoder(layers=1, layerdrop=0.25)
    x = torch.randn(1, 9, 16)
    untouched = encoder.layer_norm(x)
    torch.manual_seed(0)
    dropped = sum(torch.equal(encoder(x), untouched) for _ in range(400))
    assert dropped / 400 == pytest.approx(0.25, abs=0.08)
    encoder.eval()
    assert not torch.equal(encoder(x), untouched)


def test_weights_start_as_in_bert():
    layer = _encoder(width=64, ffn_width=64).layers[0]
    for linear in (layer.fc1, layer.self_attn.q_proj):
        assert float(linear.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"\(16\) must be a multiple of encoder_attention_heads"):
        TransformerSizes(width=16, heads=5)


def test_dropped_paths_leave_the_row_as_it_came_and_keep_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    dropped = drop(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))  # whole rows
    assert dropped.mean() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(x), x)
