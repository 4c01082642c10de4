"""The residual network on spectrograms: sizes, formula, padding, checkpoints."""

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from fairseq_ecg.models.ecg_resnet2d import EcgResnet2d, EcgResnet2dConfig
from tests.tiny import TINY_RESNET, TINY_SPECTROGRAM, save_checkpoint, shaken

NAME = "ecg_resnet2d"
TINY = {**TINY_RESNET, **TINY_SPECTROGRAM, "in_d": 2}


def build(name=NAME, task=None, **cfg):
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": name, **cfg}), task)


@pytest.mark.parametrize(
    ("widths", "expected"), [([64, 128, 256, 512], 11_170_240), ([40, 80, 160, 320], 4_366_360)]
)
def test_it_has_as_many_parameters_as_published_or_as_the_network_over_time(widths, expected):
    with torch.device("meta"):
        model = build(widths=widths)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(
    ("settings", "samples", "image", "last"),
    [
        ({}, 4096, (64, 128), (2, 4)),
        ({"n_freqs": 128}, 4096, (128, 128), (4, 4)),
        ({"n_freqs": 128}, 16384, (128, 512), (4, 16)),
        ({"n_fft": 512, "win_length": 356, "hop": 16, "n_freqs": 256}, 4096, (256, 256), (8, 8)),
    ],
)
def test_images_and_maps_have_the_sizes_of_their_recordings(settings, samples, image, last):
    model = build(**settings, widths=[2, 2, 2, 3]).eval()
    source = torch.randn(1, 1, samples)
    with torch.no_grad():
        planes = model.planes(source)
        assert planes.shape == (1, 1, *image)
        assert model.convolve(planes).shape == (1, 3, *last)
        assert model.extract_features(source).shape == (1, last[1], 3)


@pytest.mark.parametrize("block", ["postact", "preact"])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_the_encoder_is_the_formula(arch, block):
    model = shaken(build(**TINY, arch=arch, block=block)).eval()
    source = torch.randn(2, 2, 256)
    with torch.no_grad():
        x = functional.conv2d(model.spectrogram(source), model.stem.weight, stride=2, padding=3)
        x = nn.MaxPool2d(3, 2, 1)(torch.relu(model.stem_norm(x)))
        for part in (part for stage in model.stages for part in stage):
            y = beside = x
            layers = list(zip(part.convs, part.norms, strict=True))
            for i, (conv, norm) in enumerate(layers):
                if block == "preact":
                    y = torch.relu(norm(y))
                    beside = y if i == 0 and part.projection is not None else beside
                y = functional.conv2d(y, conv.weight, stride=conv.stride, padding=conv.padding)
                if block == "postact":
                    y = norm(y)
                    y = torch.relu(y) if i + 1 < len(layers) else y
            if part.projection is not None:
                beside = part.projection(beside)
                beside = beside if block == "preact" else part.projection_norm(beside)
            x = y + beside if block == "preact" else torch.relu(y + beside)
        x = torch.relu(model.norm(x)) if block == "preact" else x
        torch.testing.assert_close(model.embed(source), x.mean((2, 3)), atol=1e-5, rtol=1e-5)
        expected = x.mean(2).transpose(1, 2)
        torch.testing.assert_close(model.extract_features(source), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked_gap", [False, True])
def test_the_mean_takes_padding_in_or_leaves_it_out(masked_gap):
    """A frame is 32 columns, 4 samples each."""
    model = shaken(build(**TINY, masked_gap=masked_gap)).eval()
    source = torch.randn(3, 2, 500)
    padding = torch.arange(500) < torch.tensor([[0], [128], [300]])
    with torch.no_grad():
        encoded = model.encode(source, padding)
        found = model.embed(source, padding)
    assert encoded["padding_mask"].sum(1).tolist() == [0, 1, 2]
    assert encoded["features"].shape == (3, 4, 8)
    for row, left_out in enumerate((0, 1, 2)):
        valid = encoded["features"][row, left_out if masked_gap else 0 :]
        torch.testing.assert_close(found[row], valid.mean(0))


def test_autocast_and_tensorflows_padding_work_and_gradients_are_finite():
    model = build(**TINY, same_padding="tf").train()
    source = torch.randn(4, 2, 512)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.planes(source).dtype == torch.float32
        rough = model.embed(source)
    exact = model.embed(source)
    assert functional.cosine_similarity(exact, rough.float()).min() > 0.99
    exact.pow(2).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_it_compiles():
    model = shaken(build(**TINY, same_padding="tf", stages=2)).eval()
    source = torch.randn(2, 2, 256)
    compiled = torch.compile(model.embed, backend="aot_eager")
    torch.testing.assert_close(compiled(source), model.embed(source))


def test_settings_of_the_image_and_padding_come_from_the_checkpoint(tmp_path):
    cfg = {**TINY, "scale": "db", "spectrogram_norm": "global", "spectrogram_mean": -30.0}
    cfg |= {"spectrogram_std": 12.0, "same_padding": "tf", "power": 2}
    first = shaken(build(**cfg)).eval()
    path = save_checkpoint(tmp_path / "a.pt", {"_name": NAME, **cfg}, first)
    model = build("ecg_resnet2d_classifier", model_path=path, num_labels=3).eval()
    source = torch.randn(2, 2, 256)
    assert torch.equal(model.embed(source), first.embed(source))
    assert model.encoder.spectrogram.settings == first.spectrogram.settings


def test_sizes_show_in_the_tensors():
    sizes = {"arch": "resnet34", "block": "preact", "kernel_sizes": [5, 3], "widths": [3, 4]}
    model = build(in_d=3, stages=2, **sizes)
    assert EcgResnet2d.sizes_of(model.state_dict()) == {**sizes, "in_d": 3, "stages": 2}


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"n_freqs": 200}, "model.n_freqs is 200; .* 128"),
        ({"power": 0}, "model.power is 0"),
        ({"kernel_sizes": [3, 2, 3, 3]}, "2 is not odd"),
    ],
)
def test_what_cannot_be_built_is_refused_before_and_while_building(cfg, message):
    with pytest.raises(ValueError, match=message):
        EcgResnet2d.check(EcgResnet2dConfig(**cfg))
    with pytest.raises(ValueError, match=message):
        build(**cfg)


def test_a_recording_without_one_column_is_refused():
    with pytest.raises(ValueError, match="3 samples, less than model.hop=4"):
        build(**TINY)(torch.randn(1, 2, 3))
