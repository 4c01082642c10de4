"""The network of transformation recognition: sizes, formula, variants, padding, checkpoints."""

import numpy as np
import pytest
import torch

from fairseq_ecg.checkpoint import CheckpointError, load_pretrained
from fairseq_ecg.models.ecg_transform_cnn import EcgTransformCnn
from tests.models.test_nejedly2021resnet import build as build_any
from tests.tiny import save_checkpoint

NAME = "ecg_transform_cnn"
SMALL = {"widths": [4, 6, 8], "kernels": [8, 5, 4], "head_hidden": [8]}
EVERYTHING = {"residual_blocks": [1, 2, 3], "se_reduction": 2, "projection_dim": 5}


def build(**cfg):
    return build_any(NAME, **cfg)


def count(module):
    return sum(p.numel() for p in module.parameters())


def difference(**cfg):
    return count(build(**cfg)) - count(build())


# --- sizes --------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_published_network():
    assert count(build(heads="none")) == 329_152
    assert count(build()) == 561_223
    assert [count(head) for head in build().heads] == [33_153] * 7
    pairs = [[count(pair.conv1), count(pair.conv2)] for [pair] in build().blocks]
    assert pairs == [[1_056, 32_800], [32_832, 65_600], [65_664, 131_200]]


@pytest.mark.parametrize(
    ("blocks", "more"), [([], 0), ([1], 64), ([2], 2_112), ([3], 8_320), ([1, 2, 3], 10_496)]
)
def test_parameters_of_the_shortcuts(blocks, more):
    assert difference(residual_blocks=blocks) == more
    assert difference(residual_blocks=blocks, shortcut="projection") == more
    assert difference(residual_blocks=blocks, shortcut="identity_pad") == 0


def test_parameters_of_the_other_variants():
    excitations = [count(pair.excitation) for [pair] in build(se_reduction=8).blocks]
    assert excitations == [292, 1_096, 4_240]
    assert difference(projection_dim=64) == 128 * 128 + 128 + 128 * 64 + 64
    assert difference(pool="max_avg") == 7 * 128 * 128
    assert difference(pool="avg") == 0
    assert difference(pool="attn") == 2 * (128 * 64 + 64) + 64
    assert difference(heads="softmax7") == 33_153 + 6 * 129 - 7 * 33_153
    assert difference(in_d=12) == 11 * 32 * 32


def test_lengths_and_channels_of_every_block():
    model = build().eval()
    shapes = []
    for [pair] in model.blocks:
        pair.register_forward_hook(lambda _, __, out: shapes.append(tuple(out[0].shape[1:])))
    with torch.no_grad():
        output = model(torch.randn(2, 1, 2560))
    assert shapes == [(32, 2560), (64, 1277), (128, 635)]
    assert output["features"].shape == (2, 635, 128)
    assert output["embedding"].shape == (2, 128)
    assert output["logits"].shape == (2, 7)
    assert output["padding_mask"] is None
    assert model.n_frames(2560) == 635


@pytest.mark.parametrize("n_samples", [29, 30, 50, 101])
@pytest.mark.parametrize("cfg", [{}, {"units_per_block": 2, **EVERYTHING}, {"pool_stride": 3}])
def test_any_length_gives_as_many_frames_as_it_says(n_samples, cfg):
    model = build(**SMALL, **cfg)
    features = model.encode(torch.randn(2, 1, n_samples))["features"]
    assert features.shape == (2, model.n_frames(n_samples), 8)


def test_a_recording_too_short_for_a_frame_is_refused():
    with pytest.raises(ValueError, match="21 samples, too few for one frame"):
        build(**SMALL)(torch.randn(2, 1, 21))
    mask = torch.arange(50)[None] >= torch.tensor([[50], [21]])
    with pytest.raises(ValueError, match="row 1 of the batch has 21 valid samples"):
        build(**SMALL)(torch.randn(2, 1, 50), mask)


# --- formula ------------------------------------------------------------------------------------


def leaky(x, slope=0.2):
    return np.where(x > 0, x, slope * x)


def convolve(x, layer, more_in_front=False):
    """Correlate [B, D, T] with the kernel of a layer, place by place, as many places as before."""
    weight, bias = (value.detach().numpy() for value in (layer.weight, layer.bias))
    kernel = weight.shape[2]
    sides = [(kernel - 1) // 2, kernel // 2]
    x = np.pad(x, ((0, 0), (0, 0), tuple(sides[::-1] if more_in_front else sides)))
    places = range(x.shape[2] - kernel + 1)
    windows = [np.einsum("bdk,edk->be", x[..., t : t + kernel], weight) for t in places]
    return np.stack(windows, -1) + bias[:, None]


def excite(x, layer):
    w1, b1, w2, b2 = (p.detach().numpy() for p in layer.parameters())
    inner = np.maximum(x.mean(-1) @ w1.T + b1, 0)
    return x / (1 + np.exp(-(inner @ w2.T + b2)))[..., None]


def slow_features(model, x, cfg):
    residual = cfg.get("residual_blocks", [])
    post = cfg.get("residual_act") == "post_add"
    torch_way = cfg.get("same_padding") == "torch"
    for number, block in enumerate(model.blocks, 1):
        if number > 1:
            places = range(0, x.shape[2] - 7, 2)
            x = np.stack([x[..., t : t + 8].max(-1) for t in places], -1)
        for pair in block:
            later = number in residual and post
            y = convolve(leaky(convolve(x, pair.conv1, torch_way)), pair.conv2, torch_way)
            y = y if later else leaky(y)
            y = y if pair.excitation is None else excite(y, pair.excitation)
            if number in residual and pair.projection is not None:
                y = y + convolve(x, pair.projection)
            elif number in residual:
                y = y.copy()
                y[:, : x.shape[1]] += x
            x = leaky(y) if later else y
    return x


@pytest.mark.parametrize(
    "cfg",
    [
        {},
        {"same_padding": "torch"},
        {"residual_blocks": [1, 3]},
        {"residual_blocks": [2, 3], "residual_act": "post_add", "units_per_block": 2},
        {"residual_blocks": [1, 2], "shortcut": "identity_pad", "se_reduction": 4},
        {"residual_blocks": [1], "shortcut": "projection", "units_per_block": 3, "in_d": 4},
        {"residual_blocks": [3], "residual_act": "post_add", "se_reduction": 2, "in_d": 2},
    ],
)
def test_the_network_is_the_formula(cfg):
    model = build(**SMALL, **cfg).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    source = torch.randn(2, model.in_d, 43, dtype=torch.float64)
    with torch.no_grad():
        output = model(source)
    expected = slow_features(model, source.numpy(), cfg)
    np.testing.assert_allclose(output["features"].transpose(1, 2), expected, atol=1e-9)
    np.testing.assert_allclose(output["embedding"], expected.max(-1), atol=1e-9)
    for form, head in enumerate(model.heads):
        w1, b1, w2, b2 = (p.detach().numpy() for p in head.parameters())
        logit = leaky(expected.max(-1) @ w1.T + b1) @ w2.T + b2
        np.testing.assert_allclose(output["logits"][:, form], logit[:, 0], atol=1e-9)


@pytest.mark.parametrize("pool", ["max", "avg", "max_avg", "attn"])
def test_pools_of_frames(pool):
    model = build(**SMALL, pool=pool).eval()
    with torch.no_grad():
        encoded = model.encode(torch.randn(3, 1, 60))
    features = encoded["features"].numpy().astype(float)
    mean, largest = features.mean(1), features.max(1)
    expected = {"max": largest, "avg": mean, "max_avg": np.concatenate([largest, mean], 1)}
    if pool == "attn":
        v, vb, u, ub, w = (p.detach().numpy() for p in model.attention.parameters())
        gated = np.tanh(features @ v.T + vb) / (1 + np.exp(-(features @ u.T + ub)))
        weight = np.exp(gated @ w.T)
        expected["attn"] = (weight * features).sum(1) / weight.sum(1)
    np.testing.assert_allclose(encoded["embedding"], expected[pool], atol=1e-5)
    assert model.embedding_width == expected[pool].shape[1]


def test_the_projection_has_length_one_and_channel_weights_are_shares():
    output = build(**SMALL, **EVERYTHING)(torch.randn(3, 1, 50))
    assert output["projection"].shape == (3, 5)
    assert torch.allclose(output["projection"].norm(dim=1), torch.ones(3))
    assert output["channel_weights"].shape == (3, 4 + 6 + 8)
    assert ((output["channel_weights"] > 0) & (output["channel_weights"] < 1)).all()


# --- what stays the same, what is separate --------------------------------------------------------


def test_without_residual_blocks_it_is_the_plain_network_whatever_the_other_keys():
    plain = build()
    keys = {"shortcut": "projection", "residual_act": "post_add", "residual_init_zero": True}
    other = build(residual_blocks=[], **keys)
    source = torch.randn(2, 1, 300)
    assert torch.equal(plain.eval()(source)["logits"], other.eval()(source)["logits"])
    assert list(plain.state_dict()) == list(other.state_dict())


@pytest.mark.parametrize("cfg", [EVERYTHING, {"residual_blocks": [2]}, {"pool": "attn"}])
def test_variants_start_from_the_convolutions_and_heads_of_the_plain_network(cfg):
    plain, variant = build(**SMALL).state_dict(), build(**SMALL, **cfg).state_dict()
    assert len(variant) > len(plain)
    assert all(torch.equal(variant[key], value) for key, value in plain.items())


def test_a_shortcut_whose_convolutions_begin_at_zero_hands_on_what_came_in():
    cfg = {"residual_blocks": [1, 2, 3], "shortcut": "identity_pad", "residual_init_zero": True}
    model = build(**SMALL, **cfg)
    source = torch.rand(2, 1, 22)
    features = model.encode(source)["features"]
    assert torch.allclose(features[:, 0, 0], source[:, 0].amax(1))
    assert (features[..., 1:] == 0).all()


def test_a_head_gets_gradients_of_its_own_logit_only():
    model = build(**SMALL).train()
    model(torch.randn(4, 1, 60))["logits"][:, 2].sum().backward()
    moved = [
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
        for head in model.heads
    ]
    assert moved == [form == 2 for form in range(7)]


def test_the_order_of_pairs_is_that_of_the_layers():
    model = build(**SMALL, units_per_block=2, **EVERYTHING)
    assert model.depth == 6
    places = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert places["blocks.0.0.conv1.weight"] == 1
    assert places["blocks.0.1.conv2.bias"] == 2
    assert places["blocks.2.1.excitation.fc1.weight"] == 6
    assert places["heads.0.0.weight"] == 7


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["max", "avg", "max_avg", "attn"])
@pytest.mark.parametrize("cfg", [{}, {**EVERYTHING, "units_per_block": 2}])
def test_padding_leaves_no_trace(pool, cfg):
    model = build(**SMALL, pool=pool, **cfg).eval()
    source = torch.randn(2, 1, 61)
    alone = model(source[:1, :, :40])
    mask = torch.arange(61)[None] >= torch.tensor([[40], [61]])
    padded = model(source, mask)
    n_frames = model.n_frames(40)
    assert padded["padding_mask"].sum(1).tolist() == [model.n_frames(61) - n_frames, 0]
    assert torch.allclose(padded["features"][:1, :n_frames], alone["features"], atol=1e-6)
    assert (padded["features"][0, n_frames:] == 0).all()
    for key in ("embedding", "logits"):
        assert torch.allclose(padded[key][:1], alone[key], atol=1e-6), key
    assert torch.allclose(model(source[1:])["logits"], padded["logits"][1:], atol=1e-6)
    three = model(source, mask[:, None])
    assert torch.equal(three["logits"], padded["logits"])


# --- configuration, checkpoints -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"widths": [4, 6]}, "model.widths has 2 blocks, model.kernels 3"),
        ({"kernels": [8, 0, 4]}, r"model.kernels is \[8, 0, 4\]; give a positive number"),
        ({"residual_blocks": [0, 1]}, "give numbers of blocks, from 1 to 3"),
        ({"units_per_block": 0}, "model.units_per_block is 0; give a positive number"),
        ({"se_reduction": 5}, "model.se_reduction is 5, but the narrowest block has 4"),
        (
            {"residual_blocks": [1], "shortcut": "identity_pad", "in_d": 12},
            r"block 1 has fewer than what comes in \(4 of 12\); give model.shortcut=projection",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_key(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(**{**SMALL, **cfg})


def test_recordings_with_other_leads_are_refused():
    with pytest.raises(ValueError, match=r"expected as \[batch, 1 leads, samples\]"):
        build(**SMALL)(torch.randn(2, 12, 50))


@pytest.mark.parametrize(
    "cfg",
    [
        {},
        {"heads": "softmax7", "in_d": 3, "projection_dim": 4},
        {"units_per_block": 2, "se_reduction": 2, "residual_blocks": [2], "head_hidden": []},
    ],
)
def test_a_checkpoint_opens_by_itself_and_its_sizes_are_those_of_the_tensors(cfg, tmp_path):
    cfg = {**SMALL, **cfg}
    model = build(**cfg).eval()
    path = save_checkpoint(tmp_path / "model.pt", {"_name": NAME, **cfg}, model)
    opened, _ = load_pretrained(path)
    source = torch.randn(2, model.in_d, 50)
    assert torch.equal(opened(source)["logits"], model(source)["logits"])
    sizes = EcgTransformCnn.sizes_of(model.state_dict())
    assert {key: sizes[key] for key in cfg if key in sizes} == {
        key: value for key, value in cfg.items() if key in sizes
    }


def test_the_state_dict_of_something_else_is_refused():
    with pytest.raises(CheckpointError, match="this is no ecg_transform_cnn: it has no"):
        EcgTransformCnn.sizes_of({"stem.weight": torch.zeros(1)})
