"""The residual network over time: sizes of the published one, formulas, padding, drawn weights."""

import math

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from fairseq_ecg.checkpoint import CheckpointError
from fairseq_ecg.models.ecg_resnet1d import EcgResnet1d, EcgResnet1dConfig
from tests.tiny import TINY_RESNET, shaken

NAME = "ecg_resnet1d"
ARCHS = ["resnet18", "resnet34", "resnet50"]
BLOCKS = ["postact", "preact"]


def build(name=NAME, **cfg):
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": name, **cfg}), None)


def tiny(**cfg):
    return build(**{**TINY_RESNET, "in_d": 2, **cfg})


def trained(module):
    return sum(parameter.numel() for parameter in module.parameters())


def statistics(module):
    return sum(value.numel() for key, value in module.named_buffers() if "running" in key)


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "block", "weights", "means_and_variances"),
    [
        ("resnet18", "postact", 4_482_880, 9_600),
        ("resnet34", "postact", 9_069_632, 17_024),
        ("resnet50", "postact", 16_920_896, 53_120),
        ("resnet18", "preact", 4_481_216, 7_936),
        ("resnet34", "preact", 9_067_968, 15_360),
        ("resnet50", "preact", 16_913_344, 45_568),
    ],
)
def test_parameters_and_statistics_are_those_of_the_published_networks(
    arch, block, weights, means_and_variances
):
    with torch.device("meta"):
        model = build(arch=arch, block=block)
    assert (trained(model), statistics(model)) == (weights, means_and_variances)
    assert model.width == model.embedding_width == (2048 if arch == "resnet50" else 512)


def test_each_block_has_the_parameters_of_the_published_one():
    with torch.device("meta"):
        model = build()
    assert [trained(part) + statistics(part) for part in (model.stem, model.stem_norm)] == [
        448,
        256,
    ]
    blocks = [trained(block) + statistics(block) for stage in model.stages for block in stage]
    assert blocks == [57_856, 57_856, 132_608, 164_864, 527_360, 657_408, 1_316_864, 1_576_960]


def test_kernels_of_three_everywhere_give_the_published_number():
    with torch.device("meta"):
        assert trained(build(kernel_sizes=[3, 3, 3, 3])) == 3_843_904


@pytest.mark.parametrize("tf", ["tf", "symmetric"])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_frame_is_thirty_two_samples(arch, tf):
    model = tiny(arch=arch, same_padding=tf).eval()
    for samples, frames in ((512, 16), (2048, 64), (4096, 128), (16384, 512), (1, 1), (1000, 32)):
        with torch.no_grad():
            features = model.extract_features(torch.randn(1, 2, samples))
        assert features.shape == (1, frames, 8 if arch != "resnet50" else 32)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_fewer_stages_are_the_first_ones(stages):
    model = tiny(stages=stages).eval()
    assert model.width == TINY_RESNET["widths"][stages - 1]
    assert len(model.stages) == stages
    features = model.extract_features(torch.randn(1, 2, 256))
    assert features.shape == (1, 256 // 2 ** (stages + 1), model.width)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("arch", "samples"), [("resnet18", 667), ("resnet34", 1483)])
def test_a_frame_sees_as_many_samples_as_in_the_published_networks(arch, samples, block):
    """Kernels of ones and inputs above zero: every sample that can be seen, is."""
    model = build(arch=arch, block=block, widths=[1, 1, 1, 1]).double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 3:
            nn.init.constant_(parameter, 0.1)
    one_by_one = torch.eye(2048, dtype=torch.float64)[:, None]
    with torch.no_grad():
        seen = model.extract_features(one_by_one)[:, 32, 0] > 0
    assert int(seen.sum()) == samples
    places = seen.nonzero()[:, 0]
    assert int(places[-1] - places[0]) == samples - 1
    assert int(places[0] + places[-1]) == 2 * 32 * 32  # as many on both sides of sample 32 * 32


# --- formula ------------------------------------------------------------------------------------


def postact(block, x):
    y = x
    for i, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True)):
        y = norm(functional.conv1d(y, conv.weight, stride=conv.stride, padding=conv.padding))
        y = torch.relu(y) if i + 1 < len(block.convs) else y
    if block.projection is not None:
        x = functional.conv1d(x, block.projection.weight, stride=block.projection.stride)
        x = block.projection_norm(x)
    return torch.relu(x + y)


def preact(block, x):
    y = beside = x
    for i, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True)):
        y = torch.relu(norm(y))
        if i == 0 and block.projection is not None:
            beside = functional.conv1d(y, block.projection.weight, stride=block.projection.stride)
        y = functional.conv1d(y, conv.weight, stride=conv.stride, padding=conv.padding)
    return y + beside


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("block", BLOCKS)
def test_the_encoder_is_the_formula(block, arch, training):
    model = shaken(tiny(arch=arch, block=block)).train(training)
    source = torch.randn(3, 2, 200)
    with torch.no_grad():
        x = functional.conv1d(source, model.stem.weight, stride=2, padding=3)
        x = nn.MaxPool1d(3, 2, 1)(torch.relu(model.stem_norm(x)))
        for stage in model.stages:
            for part in stage:
                x = postact(part, x) if block == "postact" else preact(part, x)
        if block == "preact":
            x = torch.relu(model.norm(x))
        else:
            assert model.norm is None
        features = model.extract_features(source)
    torch.testing.assert_close(features, x.transpose(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model.pooled({"features": features, "padding_mask": None}), x.mean(2)
    )


def test_projections_stand_where_sizes_change_and_norms_beside_them_only_after_activation():
    for arch, block, first in (
        ("resnet18", "postact", False),
        ("resnet50", "postact", True),
        ("resnet18", "preact", False),
    ):
        model = tiny(arch=arch, block=block)
        for i, stage in enumerate(model.stages):
            projected = [part.projection is not None for part in stage]
            assert projected == [i > 0 or first] + [False] * (len(stage) - 1)
            assert [p.projection_norm is not None for p in stage] == (
                projected if block == "postact" else [False] * len(stage)
            )


def test_the_stride_of_a_bottleneck_is_that_of_its_middle():
    block = tiny(arch="resnet50").stages[1][0]
    assert [conv.stride for conv in block.convs] == [(1,), (2,), (1,)]
    assert [conv.kernel_size for conv in block.convs] == [(1,), (3,), (1,)]
    assert [conv.out_channels for conv in block.convs] == [4, 4, 16]


def test_tensorflows_padding_moves_each_window_by_one_sample_where_lengths_are_even():
    source = torch.randn(1, 2, 1024)
    usual, tf = (shaken(tiny(same_padding=p, stages=1)).eval() for p in ("symmetric", "tf"))
    tf.load_state_dict(usual.state_dict())
    with torch.no_grad():
        moved = usual.stem(source.roll(-1, dims=2))
        torch.testing.assert_close(tf.stem(source)[..., 4:-4], moved[..., 4:-4])
        odd = source[..., :1021]  # 511 and 256 places follow
        torch.testing.assert_close(tf.stem(odd), usual.stem(odd))
        torch.testing.assert_close(tf.extract_features(odd), usual.extract_features(odd))
        assert not torch.allclose(tf.extract_features(source), usual.extract_features(source))


# --- drawn weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_weights_are_drawn_from_a_cut_normal_distribution(arch):
    model = build(arch=arch)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
            continue
        fan_in = parameter.shape[1] * parameter.shape[2]
        wanted = math.sqrt(1 / fan_in)
        cut = 2 * wanted / 0.87962566103423978
        assert parameter.abs().max() <= cut * 1.0001, name
        assert parameter.abs().max() > 0.9 * cut, name
        assert parameter.std().item() == pytest.approx(wanted, rel=0.2 if "stem" in name else 0.03)
        assert abs(parameter.mean()) < 5 * wanted / math.sqrt(parameter.numel()), name
    assert model.stem.weight.abs().max() <= 2 * 0.42969 * 1.0001


# --- padding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked_gap", [False, True])
@pytest.mark.parametrize("in_front", [0, 40, 64, 96, 100])
def test_the_mean_takes_padding_in_or_leaves_it_out(in_front, masked_gap):
    model = shaken(tiny(masked_gap=masked_gap)).eval()
    source = torch.randn(2, 2, 200)
    padding = torch.arange(200) < torch.tensor([[0], [in_front]])
    silent = source.masked_fill(padding[:, None], 0.0)
    with torch.no_grad():
        encoded = model.encode(source, padding)
        torch.testing.assert_close(encoded["features"], model.extract_features(silent))
        found = model.embed(source, padding)
    left_out = in_front // 32
    assert encoded["padding_mask"].sum(1).tolist() == [0, left_out]
    features = encoded["features"]
    rows = [features[0].mean(0), features[1, left_out if masked_gap else 0 :].mean(0)]
    torch.testing.assert_close(found, torch.stack(rows))
    for_each_lead = padding[:, None].expand(-1, 2, -1)
    torch.testing.assert_close(model.embed(source, for_each_lead), found)


def test_a_frame_behind_a_recording_counts_if_the_recording_alone_has_it():
    model = shaken(tiny(masked_gap=True)).eval()
    for length in (1, 31, 32, 33, 199):
        padding = torch.arange(224)[None] >= length
        mask = model.encode(torch.randn(1, 2, 224), padding)["padding_mask"]
        assert int((~mask).sum()) == model.extract_features(torch.randn(1, 2, length)).shape[1]


def test_exact_zeros_count_in_the_mean():
    """What leaves a ReLU is often zero; the mean is over all frames, not over the others."""
    features = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    assert tiny().pooled({"features": features, "padding_mask": None}).tolist() == [[1.0, 0.0]]


# --- numbers of other kinds ---------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS)
def test_autocast_to_bfloat16_agrees_roughly_and_gradients_are_finite(block):
    model = tiny(block=block).train()
    source = torch.randn(8, 2, 256)
    exact = model.embed(source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.embed(source)
    assert functional.cosine_similarity(exact, rough.float()).min() > 0.99
    rough.float().pow(2).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("block", BLOCKS)
def test_it_compiles_as_one_graph(block):
    model = shaken(tiny(block=block, same_padding="tf", stages=2)).eval()
    source, padding = torch.randn(2, 2, 128), torch.arange(128)[None] < torch.tensor([[0], [40]])
    compiled = torch.compile(model.embed, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(source, padding), model.embed(source, padding))
    assert torch.isfinite(compiled(source)).all()


# --- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_sizes_show_in_the_tensors(arch, block, stages):
    sizes = {"arch": arch, "block": block, "kernel_sizes": [9, 7, 5, 3], "widths": [2, 3, 4, 6]}
    found = EcgResnet1d.sizes_of(build(in_d=3, stages=stages, **sizes).state_dict())
    cut = {key: sizes[key][:stages] for key in ("kernel_sizes", "widths")}
    assert found == {**sizes, **cut, "in_d": 3, "stages": stages}
    again = build(**found)
    assert again.state_dict().keys() == build(in_d=3, stages=stages, **sizes).state_dict().keys()


def test_other_state_dicts_are_refused():
    with pytest.raises(CheckpointError, match="this is no ecg_resnet1d: it has no 'stem.weight'"):
        EcgResnet1d.sizes_of({"conv.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="it has no 'stages.0.0.convs.1.weight'"):
        EcgResnet1d.sizes_of({"stem.weight": torch.zeros(4, 1, 7)})


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"stages": 0}, "model.stages is 0; give 1 to 4"),
        ({"stages": 5}, "model.stages is 5; give 1 to 4"),
        ({"widths": [4, 4, 4]}, r"model.widths is \[4, 4, 4\]; .* each of the 4 stages"),
        ({"kernel_sizes": [3, 3, 3, -1]}, "model.kernel_sizes is .*positive number"),
        ({"kernel_sizes": [7, 4, 5, 3]}, "model.kernel_sizes is .*; 4 is not odd"),
    ],
)
def test_what_cannot_be_built_is_refused_before_and_while_building(cfg, message):
    with pytest.raises(ValueError, match=message):
        EcgResnet1d.check(EcgResnet1dConfig(**cfg))
    with pytest.raises(ValueError, match=message):
        build(**cfg)


def test_parameters_have_places_in_the_order_of_blocks():
    model = tiny(block="preact")
    places = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert model.depth == 8
    assert places["stem.weight"] == places["stem_norm.bias"] == 0
    assert places["stages.0.0.convs.0.weight"] == 1
    assert places["stages.2.1.norms.1.bias"] == 6
    assert places["stages.3.1.convs.0.weight"] == 8
    assert places["norm.weight"] == 9
