"""The network of Nejedly et al.: sizes, formula, lead bits, padding, checkpoints."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from fairseq_ecg.checkpoint import load_pretrained
from fairseq_ecg.models.nejedly2021resnet import leads_present
from tests.tiny import save_checkpoint, shaken

ENCODER = "nejedly2021resnet"
NAME = "nejedly2021resnet_classifier"
SMALL = {"num_blocks": 2, "num_filters": 16, "kernel_size": "[5, 3]"}
BOTH = {"use_mha": True, "indicate_leads": True}


def build(name=NAME, task=None, **cfg):
    torch.manual_seed(0)
    model = build_model(OmegaConf.create({"_name": name, **cfg}), task)
    return model if cfg.get("model_path") else shaken(model)


# --- sizes --------------------------------------------------------------------------------------


def test_parameters_buffers_and_frames_are_those_of_the_reference():
    model = build(num_labels=26, **BOTH).eval()
    assert sum(p.numel() for p in model.parameters()) == 6_547_794
    assert sum(b.numel() for b in model.buffers()) == 5_643
    with torch.no_grad():
        output = model(torch.randn(2, 12, 2500))
    assert output["encoder_out"].shape == (2, 40, 256)
    assert output["out"].shape == (2, 26)
    assert output["padding_mask"] is None


@pytest.mark.parametrize(
    ("cfg", "parameters"),
    [
        ({}, 256 * 26 + 26),
        ({"indicate_leads": True}, 268 * 26 + 26),
        ({"use_mha": True}, 256 * 26 + 26 + 4 * 256 * 257),
        ({"indicate_leads": True, "in_d": 3}, 259 * 26 + 26 - 9 * 256 * 15),
    ],
)
def test_the_head_has_what_is_asked_for(cfg, parameters):
    with torch.device("meta"):
        model = build_model(OmegaConf.create({"_name": NAME, "num_labels": 26, **cfg}), None)
        encoder = build_model(OmegaConf.create({"_name": ENCODER}), None)
    count = sum(p.numel() for p in model.parameters())
    assert count - sum(p.numel() for p in encoder.parameters()) == parameters


def test_the_keys_of_the_state_dict_are_those_of_fairseq_signals():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    encoder = {"conv.weight", *(f"bn.{name}" for name in norm)}
    for block in range(2):
        encoder |= {f"blocks.{block}.{name}.weight" for name in ("conv1", "conv2", "idfunc_1")}
        encoder |= {f"blocks.{block}.{bn}.{name}" for bn in ("bn1", "bn2") for name in norm}
    head = {"mha.in_proj_weight", "mha.in_proj_bias", "mha.out_proj.weight", "mha.out_proj.bias"}
    head |= {"proj.weight", "proj.bias"}
    assert set(build(ENCODER, **SMALL).state_dict()) == encoder
    state = build(num_labels=4, **SMALL, **BOTH).state_dict()
    assert set(state) == {f"encoder.{key}" for key in encoder} | head
    assert state["encoder.conv.weight"].shape == (16, 12, 5)
    assert state["encoder.blocks.1.conv2.weight"].shape == (16, 16, 3)
    assert state["encoder.blocks.1.idfunc_1.weight"].shape == (16, 16, 1)


# --- formula ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("n_samples", [7, 50, 101])
def test_the_encoder_is_the_formula(stride, n_samples):
    model = build(ENCODER, **SMALL, stride=stride, conv_bias=True).eval()
    x = source = torch.randn(2, 12, n_samples)
    with torch.no_grad():
        x = functional.leaky_relu(model.bn(model.conv(x)))
        for block in model.blocks:
            y = functional.leaky_relu(block.bn1(block.conv1(x)))
            y = functional.leaky_relu(block.bn2(block.conv2(y)))
            pooled = nn.AvgPool1d(stride, stride, ceil_mode=True)(x)
            x = y + block.idfunc_1(pooled)
        features = model.extract_features(source)
        torch.testing.assert_close(features, x.transpose(1, 2), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.embed(source), x.mean(-1), atol=1e-5, rtol=1e-5)


def test_the_head_is_the_formula():
    model = build(num_labels=3, **SMALL, **BOTH).eval()
    source = torch.randn(2, 12, 100)
    source[1, 4:] = 0.0
    with torch.no_grad():
        frames = model.extract_features(source).transpose(0, 1)  # frames first, as the reference
        attention = nn.MultiheadAttention(16, 8)
        attention.load_state_dict(model.mha.state_dict())
        mixed, _ = attention(frames, frames, frames)
        bits = torch.tensor([[1.0] * 12, [1.0] * 4 + [0.0] * 8])
        expected = model.proj(torch.cat([mixed.mean(0), bits], dim=1))
        torch.testing.assert_close(model(source)["out"], expected, atol=1e-5, rtol=1e-5)


def test_a_lead_is_present_if_any_of_its_samples_is_not_zero():
    """The reference asks for all of them, which a lead that crosses zero does not have."""
    source = torch.zeros(2, 3, 5)
    source[0, 0] = 1.0
    source[0, 1, 3] = -0.001
    source[1, 2, :4] = 0.5
    expected = [[True, True, False], [False, False, True]]
    assert leads_present(source).tolist() == expected
    np.testing.assert_array_equal(leads_present(source), (source.numpy() ** 2).max(-1) > 0)


# --- padding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 90, 99])
def test_a_padded_recording_gives_what_it_gives_alone(length):
    model = build(num_labels=3, **SMALL, **BOTH).eval()
    source = torch.randn(3, 12, 100)
    padding = torch.arange(100) >= torch.tensor([[100], [length], [50]])
    with torch.no_grad():
        batch = model(source, padding)
        alone = model(source[1:2, :, :length])
        embedded = model.embed(source, padding)[1:2]
        torch.testing.assert_close(embedded, model.embed(source[1:2, :, :length]))
    torch.testing.assert_close(batch["out"][1:2], alone["out"])
    frames = alone["encoder_out"].shape[1]
    assert (~batch["padding_mask"]).sum(1).tolist() == [13, frames, 7]
    torch.testing.assert_close(batch["encoder_out"][1, :frames], alone["encoder_out"][0])
    assert not batch["encoder_out"][1, frames:].any()


def test_nothing_but_padding_and_other_leads_are_refused():
    model = build(ENCODER, **SMALL)
    with pytest.raises(ValueError, match="row 1 of the batch has 0 valid samples"):
        model(torch.randn(2, 12, 9), torch.arange(9) >= torch.tensor([[9], [0]]))
    with pytest.raises(ValueError, match=r"\[batch, 12 leads, samples\].*model.in_d"):
        model(torch.randn(2, 3, 9))


# --- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"kernel_size": "[15]"}, "two kernels are expected"),
        ({"kernel_size": "[15, 8]"}, "8 is not odd"),
        ({"kernel_size": "__import__('os')"}, "a list of positive integers is expected"),
        ({"kernel_size": "[15, -9]"}, "a list of positive integers is expected"),
        ({"leadwise": True}, "model.leadwise is not supported"),
        ({"use_mha": True, "num_filters": 20}, "a multiple of 8 channels.*num_filters is 20"),
    ],
)
def test_what_cannot_be_built_is_refused_before_and_while_building(cfg, message):
    from fairseq_ecg.models.nejedly2021resnet import (
        Nejedly2021ResnetClassifier,
        Nejedly2021ResnetClassifierConfig,
    )

    with pytest.raises(ValueError, match=message):
        Nejedly2021ResnetClassifier.check(Nejedly2021ResnetClassifierConfig(**cfg))
    with pytest.raises(ValueError, match=message):
        build(num_labels=3, **cfg)


def test_numbers_of_labels_and_leads_come_from_the_task():
    task = SimpleNamespace(num_labels=7, num_leads=3)
    model = build(task=task, **SMALL, in_d=None, indicate_leads=True)
    assert model.proj.out_features == 7
    assert model.proj.in_features == 16 + 3
    assert build(ENCODER, task=task, **SMALL, in_d=None).conv.in_channels == 3
    with pytest.raises(ValueError, match="in_d is 12, but the task gives 3 leads"):
        build(task=task, **SMALL)


def test_the_encoder_gets_no_gradient_until_it_is_released():
    model = build(num_labels=3, **SMALL, freeze_finetune_updates=2)
    for updates, trained in ((0, False), (1, False), (2, True)):
        model.zero_grad()
        model.set_num_updates(updates)
        model(torch.randn(2, 12, 64))["out"].sum().backward()
        assert model.proj.weight.grad is not None
        assert (model.encoder.conv.weight.grad is not None) == trained


# --- checkpoints --------------------------------------------------------------------------------


def test_a_checkpoint_opens_by_itself_whatever_its_configuration_says_of_sizes(tmp_path):
    model = build(num_labels=5, **SMALL, **BOTH, in_d=3, conv_bias=True).eval()
    model_cfg = {"_name": NAME, "model_path": "/gone.pt", "stride": 2}
    opened, contract = load_pretrained(
        save_checkpoint(tmp_path / "a.pt", model_cfg, model, labels=["x"] * 5)
    )
    source = torch.randn(2, 3, 64)
    assert torch.equal(opened(source)["out"], model(source)["out"])
    assert contract["labels"] == ["x"] * 5


def test_the_encoder_of_a_checkpoint_is_taken_over_and_noted(tmp_path, caplog):
    first = build(ENCODER, **SMALL, stride=3).eval()
    path = save_checkpoint(tmp_path / "first.pt", {"_name": ENCODER, **SMALL, "stride": 3}, first)
    root = OmegaConf.create({"model": {"_name": NAME, "model_path": path, "indicate_leads": True}})
    tuned = build_model(root.model, SimpleNamespace(num_labels=4)).eval()
    source = torch.randn(2, 12, 64)
    assert torch.equal(tuned.embed(source), first.embed(source))
    assert tuned.pretrained_contract is not None
    tuned_path = save_checkpoint(tmp_path / "tuned.pt", OmegaConf.to_container(root.model), tuned)

    again = build(model_path=tuned_path, num_labels=2).eval()
    assert torch.equal(again.embed(source), first.embed(source))
    (tmp_path / "first.pt").unlink()
    opened, _ = load_pretrained(tuned_path)
    assert torch.equal(opened(source)["out"], tuned(source)["out"])
    # fairseq's own way: build from the stored configuration, then load the weights
    with caplog.at_level(logging.WARNING):
        stock = build_model(root.model, SimpleNamespace(num_labels=4))
    assert "first.pt is not here" in caplog.text
    stock.load_state_dict(tuned.state_dict(), strict=True)
    assert torch.equal(stock.eval()(source)["out"], tuned(source)["out"])


@pytest.mark.parametrize("name", [ENCODER, NAME])
def test_a_file_of_fairseq_signals_opens(name, tmp_path):
    """Its configuration of 2022 calls the width ``dim``."""
    head = {"num_labels": 6, **BOTH} if name == NAME else {}
    model = build(name, **SMALL, **head).eval()
    cfg = {"_name": name, "dim": 16, "stride": 2, "leadwise": False, "num_labels": 6}
    task = {"_name": "ecg_classification", "normalize": False, "sample_rate": 500}
    path = tmp_path / "theirs.pt"
    torch.save({"cfg": {"model": cfg, "task": task}, "model": model.state_dict()}, path)
    opened, contract = load_pretrained(path)
    source = torch.randn(2, 12, 64)
    assert torch.equal(opened.embed(source), model.embed(source))
    assert contract["source_format"] == "fairseq_signals"
    assert contract["rate_hz"] == 500
