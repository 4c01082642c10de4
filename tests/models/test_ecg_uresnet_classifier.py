"""The classifier around U-ResNet's encoder: sizes, head, what it takes from a checkpoint."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fairseq_ecg.checkpoint import CheckpointError, load_pretrained
from fairseq_ecg.models.ecg_uresnet_classifier import (
    EcgUresnetClassifier,
    EcgUresnetClassifierConfig,
)
from tests.models.test_nejedly2021resnet import build as build_any
from tests.tiny import save_checkpoint

PRETRAINED, NAME = "ecg_uresnet", "ecg_uresnet_classifier"
SMALL = {"filters": [6, 4, 8], "kernel_size": 5}
HEAD = {"n_samples": 64, "num_labels": 3}
SOURCE = torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(3))


def build(**cfg):
    return build_any(NAME, **{**HEAD, **cfg})


def pretrained(folder, **cfg):
    model = build_any(PRETRAINED, **SMALL, **cfg).eval()
    return save_checkpoint(
        folder / "pretrained.pt", {"_name": PRETRAINED, **SMALL, **cfg}, model
    ), model


@pytest.mark.parametrize(("num_labels", "parameters"), [(9, 6_826_153), (71, 7_143_655)])
def test_parameters_are_those_of_the_definition(num_labels, parameters):
    model = build_any(NAME, num_labels=num_labels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.proj.in_features == 5120


@pytest.mark.parametrize("pool", ["flatten", "mean"])
def test_the_head_is_the_formula(pool):
    model = build(**SMALL, pool=pool).eval()
    padding = torch.arange(64) >= torch.tensor([[64], [40]])
    with torch.no_grad():
        output = model(SOURCE, padding)
        features = model.encoder.encode(SOURCE, padding)["features"]
    assert output["padding_mask"].tolist() == [[False] * 4, [False, False, False, True]]
    for row, frames in enumerate((4, 3)):
        if pool == "mean":
            x = features[row, :frames].mean(0)
        else:
            x = torch.stack([features[row, :, d] for d in range(8)]).reshape(-1)
        expected = model.proj.weight @ x + model.proj.bias
        torch.testing.assert_close(output["out"][row], expected, atol=1e-5, rtol=1e-5)


def test_another_length_than_the_heads_is_refused_with_the_key():
    other = torch.randn(2, 12, 96)
    with pytest.raises(ValueError, match="96 samples.*made for model.n_samples=64"):
        build(**SMALL)(other)
    assert build(**SMALL, pool="mean")(other)["out"].shape == (2, 3)
    assert build(**SMALL, n_samples=96)(other)["out"].shape == (2, 3)
    with pytest.raises(ValueError, match="model.n_samples=100 does not fit: .*multiple of 16"):
        build(**SMALL, n_samples=100)
    with pytest.raises(ValueError, match="model.n_samples is 0"):
        EcgUresnetClassifier.check(EcgUresnetClassifierConfig(n_samples=0))


def test_the_encoder_is_taken_over_bit_for_bit_and_the_rest_is_left(tmp_path):
    path, model = pretrained(tmp_path)
    tuned = build(model_path=path)
    state, taken = model.state_dict(), tuned.encoder.state_dict()
    assert {key.partition(".")[0] for key in state} - {key.partition(".")[0] for key in taken} == {
        *("bottleneck", "up", "out1", "out2")
    }
    assert all(torch.equal(value, state[key]) for key, value in taken.items())
    assert torch.equal(tuned.eval().embed(SOURCE), model.embed(SOURCE))


def test_heads_of_two_seeds_differ(tmp_path):
    path, _ = pretrained(tmp_path)
    first = build(model_path=path)
    second = EcgUresnetClassifier.build_model(
        OmegaConf.structured(EcgUresnetClassifierConfig(model_path=path, **HEAD))
    )
    assert not torch.equal(first.proj.weight, second.proj.weight)
    for a, b in zip(first.encoder.parameters(), second.encoder.parameters(), strict=True):
        assert torch.equal(a, b)


def test_dropout_is_the_runs_own(tmp_path):
    path, _ = pretrained(tmp_path, dropout=0.2)
    for asked, expected in (({}, 0.5), ({"dropout": 0.1}, 0.1)):
        modules = build(model_path=path, **asked).encoder.modules()
        assert {m.p for m in modules if isinstance(m, nn.Dropout)} == {expected}


def test_norms_keep_learning_statistics_in_fine_tuning_and_none_in_the_probe(tmp_path):
    path, _ = pretrained(tmp_path)
    for frozen, moves in ((0, True), (10, False)):
        model = build(model_path=path, freeze_finetune_updates=frozen)
        before = model.encoder.stem_norm.running_mean.clone()
        model.train()
        model.set_num_updates(1)
        model(SOURCE)["out"].sum().backward()
        assert torch.equal(model.encoder.stem_norm.running_mean, before) != moves
        assert (model.encoder.stem.weight.grad is not None) == moves
        assert model.proj.weight.grad is not None


# --- bottleneck ---------------------------------------------------------------------------------


def test_the_bottleneck_can_be_kept(tmp_path):
    path, model = pretrained(tmp_path)
    root = OmegaConf.create(
        {"model": {"_name": NAME, "model_path": path, "keep_bottleneck": True, **HEAD}}
    )
    tuned = build_any(**{k if k != "_name" else "name": v for k, v in root.model.items()}).eval()
    encoded = model.encode(SOURCE)
    x, _ = model.bottleneck(*(encoded[k].transpose(1, 2) for k in ("features", "sums")))
    assert torch.equal(tuned.encode(SOURCE)["features"], x.transpose(1, 2))

    tuned_path = save_checkpoint(tmp_path / "tuned.pt", dict(root.model), tuned)
    opened, _ = load_pretrained(tuned_path)
    assert torch.equal(opened(SOURCE)["out"], tuned(SOURCE)["out"])
    again = build(model_path=tuned_path, keep_bottleneck=True).eval()
    assert torch.equal(again.encode(SOURCE)["features"], x.transpose(1, 2))
    without = build(model_path=tuned_path).eval()
    assert torch.equal(without.encode(SOURCE)["features"], encoded["features"])


def test_a_kept_bottleneck_is_frozen_with_the_encoder(tmp_path):
    path, _ = pretrained(tmp_path)
    model = build(model_path=path, keep_bottleneck=True, freeze_finetune_updates=2)
    for updates, trained in ((1, False), (2, True)):
        model.train()
        model.set_num_updates(updates)
        mean = model.bottleneck.bn1.running_mean.clone()
        model(SOURCE)["out"].sum().backward()
        assert (model.bottleneck.conv1.weight.grad is not None) == trained
        assert torch.equal(mean, model.bottleneck.bn1.running_mean) != trained


def test_a_bottleneck_that_is_not_there_is_refused(tmp_path):
    path, _ = pretrained(tmp_path, bottleneck=False)
    with pytest.raises(CheckpointError, match="model.keep_bottleneck is true, but .*bottleneck"):
        build(model_path=path, keep_bottleneck=True)
    other = build_any("se_wrn", num_filters="[4, 8]", num_blocks=1, ratio=4)
    path = save_checkpoint(tmp_path / "other.pt", {"_name": "se_wrn"}, other)
    with pytest.raises(ValueError, match="model.keep_bottleneck needs .* not of SeWrn"):
        build(model_path=path, keep_bottleneck=True)
