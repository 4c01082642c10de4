"""U-ResNet: sizes, formula, what it must not see, padding, checkpoints."""

import numpy as np
import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from fairseq_ecg.checkpoint import load_pretrained
from fairseq_ecg.models.ecg_uresnet import TwoLaneBlock, down_block, up_block
from fairseq_ecg.resources import examples_dir
from tests.by_heart import error_learned, recordings
from tests.models.test_nejedly2021resnet import build as build_any
from tests.tiny import save_checkpoint, shaken

NAME = "ecg_uresnet"
SMALL = {"filters": [6, 4, 8], "kernel_size": 5}  # two blocks: a frame is 16 samples


def build(**cfg):
    return build_any(NAME, **cfg)


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- sizes --------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_definition():
    model = build()
    assert count(model) == 18_486_732
    assert count(model.bottleneck) == 3_482_880
    assert count(model.up) == 8_071_456
    assert count(model.out1) + count(model.out2) == 152_332
    assert count(build(decoder=False)) == 6_780_064


def test_lengths_and_channels_of_every_stage():
    model = build().eval()
    shapes = []
    for block in (model.stem, *model.down, model.bottleneck, *model.up, model.out1, model.out2):
        block.register_forward_hook(
            lambda _, __, out: shapes.append(
                tuple((out[0] if isinstance(out, tuple) else out).shape)
            )
        )
    with torch.no_grad():
        output = model(torch.randn(2, 12, 4096))
    down = [(64, 4096), (128, 1024), (196, 256), (256, 64), (320, 16)]
    expected = [*down, (320, 16), *down[-2::-1], (64, 4096), (12, 4096)]
    assert [shape[1:] for shape in shapes] == expected
    assert output["prediction"].shape == (2, 12, 4096)
    assert output["features"].shape == (2, 16, 320)


@pytest.mark.parametrize("n_samples", [16, 48, 80])
@pytest.mark.parametrize("cfg", [{}, {"bottleneck": False}, {"filters": [4, 6, 6], "in_d": 3}])
def test_any_multiple_of_a_frame_is_a_length(n_samples, cfg):
    model = build(**{**SMALL, **cfg})
    output = model(torch.randn(2, model.in_d, n_samples))
    assert output["prediction"].shape == (2, model.in_d, n_samples)
    assert output["features"].shape == (2, n_samples // 16, model.width)


@pytest.mark.parametrize("n_samples", [0, 8, 40, 4004])
def test_another_length_is_refused_with_the_keys(n_samples):
    with pytest.raises(ValueError, match=r"of 16: give task.segment_s .*task.pad_segments=centre"):
        build(**SMALL)(torch.randn(2, 12, n_samples))


# --- formula ------------------------------------------------------------------------------------


def convolve(x, weight, stride=1, padding=None):
    """Correlate [B, D, T] with a kernel [E, D, K], place by place."""
    kernel = weight.shape[2]
    padding = kernel // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    places = range(0, x.shape[2] - kernel + 1, stride)
    return np.stack([np.einsum("bdk,edk->be", x[..., t : t + kernel], weight) for t in places], -1)


def spread(x, weight, padding):
    """Write each sample through a kernel [D, E, K] to every fourth place; four times as long."""
    kernel, length = weight.shape[2], 4 * x.shape[2]
    out = np.zeros((len(x), weight.shape[1], length + 2 * kernel))
    for t in range(x.shape[2]):
        first = 4 * t - padding + kernel
        out[..., first : first + kernel] += np.einsum("bd,dek->bek", x[..., t], weight)
    return out[..., kernel : kernel + length]


def norm_relu(x, bn):
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    mean, scale, bias = (v.detach().double().numpy() for v in (bn.running_mean, scale, bn.bias))
    return np.maximum((x - mean[:, None]) * scale[:, None] + bias[:, None], 0)


def lanes(channels, length):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, channels, length, generator=generator, dtype=torch.float64)


def check_block(block, x, y, conv2, skip):
    block = shaken(block).double().eval()
    with torch.no_grad():
        new_x, new_y = block(x, y)
    weights = {name: value.detach().numpy() for name, value in block.named_parameters()}
    inner = norm_relu(convolve(x.numpy(), weights["conv1.weight"]), block.bn1)
    sums = conv2(inner, weights["conv2.weight"]) + skip(y.numpy(), weights)
    np.testing.assert_allclose(new_y.numpy(), sums, atol=1e-6)
    np.testing.assert_allclose(new_x.numpy(), norm_relu(sums, block.bn2), atol=1e-6)


@pytest.mark.parametrize("kernel", [3, 5, 17])
@pytest.mark.parametrize(("channels", "stride"), [((5, 3), 4), ((4, 4), 4), ((4, 4), 1)])
def test_a_block_of_the_encoder_is_the_formula(kernel, channels, stride):
    def skip(y, weights):
        if stride > 1:
            y = y.reshape(*y.shape[:2], -1, stride).max(-1)
        key = "skip.1.weight"
        return convolve(y, weights[key]) if key in weights else y

    block = down_block(*channels, kernel, stride, 0.5)
    assert any("skip" in name for name in block.state_dict()) == (channels[0] != channels[1])
    padding = (kernel - stride + 1) // 2
    check_block(block, *lanes(channels[0], 20), lambda x, w: convolve(x, w, stride, padding), skip)


@pytest.mark.parametrize("kernel", [3, 5, 17])
@pytest.mark.parametrize("up_skip", ["transposed", "nearest1x1"])
def test_a_block_of_the_decoder_is_the_formula(kernel, up_skip):
    def skip(y, weights):
        if up_skip == "transposed":
            return spread(y, weights["skip.weight"], 0)
        return convolve(np.repeat(y, 4, -1), weights["skip.1.weight"])

    block = up_block(6, 4, kernel, 0.5, up_skip)
    check_block(block, *lanes(6, 7), lambda x, w: spread(x, w, (kernel - 3) // 2), skip)


@pytest.mark.parametrize("out_act", ["none", "relu"])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_the_wiring_is_that_of_the_figure(bottleneck, out_act):
    """Each lane of the decoder gets the same lane of the encoder beside it."""
    model = build(**SMALL, bottleneck=bottleneck, out_act=out_act).eval()
    source = torch.randn(2, 12, 64)

    def cat(a, b):
        return [torch.cat(pair, 1) for pair in zip(a, b, strict=True)]

    with torch.no_grad():
        x = y = stem = model.stem_norm(model.stem(source))
        one = model.down[0](x, y)
        two = model.down[1](*one)
        end = cat(model.bottleneck(*two), two) if bottleneck else two
        x, _ = model.up[1](*cat(model.up[0](*end), one))
        x = model.out1(torch.cat([x, stem], 1))
        expected = model.out2(functional.relu(x) if out_act == "relu" else x)
        output = model(source)
    assert torch.equal(output["prediction"], expected)
    assert torch.equal(output["features"], two[0].transpose(1, 2))
    encoded = model.encode(source)
    assert torch.equal(encoded["features"], output["features"])
    assert torch.equal(encoded["sums"], two[1].transpose(1, 2))


def test_weights_are_drawn_as_he_et_al_do():
    model = build_any(NAME, filters=[64, 96])
    for layer, inputs in (
        (model.stem, 12 * 17),
        (model.down[0].conv2, 96 * 17),
        (model.up[0].conv2, 64 * 17 / 4),
        (model.up[0].skip, 2 * 96),
    ):
        std = layer.weight.std().item()
        assert std == pytest.approx((2 / inputs) ** 0.5, rel=0.05)
    assert not model.out2.bias.any()


# --- what it must not see -----------------------------------------------------------------------


def test_nothing_of_the_hidden_samples_reaches_the_output():
    model = build(**SMALL).eval()
    source = torch.randn(2, 12, 96, requires_grad=True)
    mask = torch.rand(2, 12, 6, generator=torch.Generator().manual_seed(2)) < 0.4
    samples = mask.repeat_interleave(16, -1)
    output = model(source, mask=mask)
    sum(output[key].square().sum() for key in ("prediction", "features")).backward()
    assert not source.grad[samples].any()
    assert (source.grad[~samples] != 0).float().mean() > 0.99
    other = torch.where(samples, 1e6, source.detach())
    assert torch.equal(model(other, mask=mask)["prediction"], output["prediction"])
    assert not torch.equal(model(other)["prediction"], output["prediction"])


def test_a_second_mask_and_an_encoder_alone_are_refused():
    source, mask = torch.randn(2, 12, 32), torch.zeros(2, 12, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="task.mask_mode=time_and_lead gives two"):
        build(**SMALL)(source, mask=mask, lead_mask=mask)
    with pytest.raises(ValueError, match="an encoder alone.*model.decoder=true"):
        build(**SMALL, decoder=False)(source, mask=mask)


# --- padding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_lead", [False, True])
def test_padding_is_zeros_and_a_frame_counts_if_one_of_its_samples_does(per_lead):
    model = build(**SMALL).eval()
    source = torch.randn(2, 12, 96)
    time = torch.arange(96)
    padding = torch.stack([time >= 96, (time < 17) | (time >= 63)])
    zeros = source.masked_fill(padding[:, None], 0.0)
    given = padding[:, None].expand(2, 12, 96) if per_lead else padding
    with torch.no_grad():
        output, expected = model(source, given), model(zeros)
        embedded = model.embed(source, given)
    assert torch.equal(output["prediction"], expected["prediction"])
    assert output["padding_mask"].tolist() == [[False] * 6, [True, *[False] * 3, True, True]]
    torch.testing.assert_close(embedded[1], expected["features"][1, 1:4].mean(0))


# --- configuration and checkpoints --------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"kernel_size": 16}, "model.kernel_size is 16; give an odd number, 3 or more"),
        ({"kernel_size": 1}, "model.kernel_size is 1; give an odd number"),
        ({"filters": [64]}, r"model.filters is \[64\]; give two numbers or more"),
        ({"filters": [8, 0]}, "all positive"),
    ],
)
def test_what_cannot_be_built_is_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(**cfg)


@pytest.mark.parametrize(
    "cfg", [{}, {"bottleneck": False, "out_act": "relu"}, {"decoder": False}, {"in_d": 2}]
)
def test_a_checkpoint_opens_by_itself_whatever_its_configuration_says_of_sizes(cfg, tmp_path):
    model = build(**SMALL, **cfg).eval()
    said = {key: value for key, value in cfg.items() if key == "out_act"}
    opened, _ = load_pretrained(save_checkpoint(tmp_path / "a.pt", {"_name": NAME, **said}, model))
    source = torch.randn(2, model.in_d, 64)
    assert torch.equal(opened.embed(source), model.embed(source))
    assert opened.has_decoder == model.has_decoder
    if model.has_decoder:
        assert torch.equal(opened(source)["prediction"], model(source)["prediction"])


def test_the_two_lanes_have_norms_of_their_own_and_no_other_biases():
    biased = {
        name.rpartition(".")[0]
        for name, _ in build(**SMALL).named_parameters()
        if name.endswith(".bias")
    }
    model = build(**SMALL)
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm1d)}
    assert biased == norms | {"out2"}
    assert len(norms) == 1 + 2 * sum(isinstance(m, TwoLaneBlock) for m in model.modules())


# --- training -----------------------------------------------------------------------------------


def test_it_fills_in_what_is_hidden_of_eight_recordings():
    """Over-fitting: the error falls below a twentieth of the power of what is hidden."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    time = np.arange(256) / 64
    waves = [
        sum(generator.normal() * np.sin(2 * np.pi * f * time + generator.random()) for f in (1, 3))
        for _ in range(16)
    ]
    source = torch.from_numpy(np.stack(waves).reshape(8, 2, 256)).float()
    mask = torch.zeros(8, 2, 16, dtype=torch.bool)
    for row in mask:
        row[:, torch.randperm(16)[:4]] = True
    hidden = mask.repeat_interleave(16, -1)
    model = build_any(NAME, filters=[12, 16, 24], kernel_size=9, in_d=2, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        error = (model(source, mask=mask)["prediction"] - source)[hidden].square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error / source[hidden].square().mean() < 0.05


def test_the_small_network_learns_eight_recordings_by_heart(shared):
    """Real recordings of PTB-XL, 5.12 s at 100 Hz, a quarter of the blocks of 160 ms hidden."""
    cfg = OmegaConf.load(next(examples_dir().rglob("uresnet_small.yaml"))).model
    mask = torch.zeros(8, 12, 32, dtype=torch.bool)
    for number, row in enumerate(mask):
        row[:, torch.randperm(32, generator=torch.Generator().manual_seed(number))[:8]] = True
    torch.manual_seed(0)
    model = build_model(OmegaConf.merge(cfg, {"in_d": 12, "dropout": 0.0}), None)
    assert error_learned(model, recordings(shared, 8, 512), mask, lr=5e-3, updates=250) < 0.05
