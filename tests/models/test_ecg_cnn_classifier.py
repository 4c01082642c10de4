"""The classifier on the CNN: hidden layers, leads one by one, freezing, checkpoints."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg.checkpoint import load_pretrained
from fairseq_ecg.contract import ContractError
from tests.models.test_nejedly2021resnet import build as build_any
from tests.tiny import save_checkpoint

ENCODER, NAME = "ecg_transform_cnn", "ecg_cnn_classifier"
SMALL = {"widths": [4, 6, 8], "kernels": [8, 5, 4]}
TWELVE = SimpleNamespace(num_leads=12, num_labels=3)


def build(task=None, **cfg):
    return build_any(NAME, task, **{**SMALL, "num_labels": 3, **cfg})


def pretrained(tmp_path, **cfg):
    encoder = build_any(ENCODER, **SMALL, **cfg).eval()
    cfg = {"_name": ENCODER, **SMALL, **cfg}
    return encoder, save_checkpoint(
        tmp_path / "encoder.pt", cfg, encoder, leads=["II"], rate_hz=256.0
    )


def test_the_head_has_the_published_layers():
    sizes = [tuple(layer.weight.shape) for layer in build_any(NAME, num_labels=4).head[::3]]
    assert sizes == [(512, 128), (512, 512), (4, 512)]
    assert len(build(hidden=[]).head) == 1
    assert [layer.p for layer in build(dropout=0.4).head[2::3]] == [0.4, 0.4]


@pytest.mark.parametrize("lead_mode", ["mean", "concat"])
def test_an_encoder_of_one_lead_serves_all_leads_one_by_one(lead_mode, tmp_path):
    encoder, path = pretrained(tmp_path)
    model = build(TWELVE, model_path=path, lead_mode=lead_mode, num_labels=None).eval()
    source = torch.randn(2, 12, 60)
    each = torch.stack([encoder.embed(source[:, k : k + 1]) for k in range(12)])
    expected = each.mean(0) if lead_mode == "mean" else torch.cat(list(each), 1)
    assert torch.allclose(model.embed(source), expected, atol=1e-6)
    output = model(source)
    assert torch.allclose(output["out"], model.head(expected), atol=1e-5)
    width = 8 if lead_mode == "mean" else 96
    assert output["encoder_out"].shape == (2, encoder.n_frames(60), width)
    assert model.extract_features(source).shape == (2, encoder.n_frames(60), width)
    assert model.pretrained_contract.leads is None
    assert model.pretrained_contract.rate_hz == 256


def test_leads_without_signal_do_not_count_in_the_mean():
    model = build(TWELVE, lead_mode="mean").eval()
    source = torch.randn(2, 12, 60)
    source[0, 3:] = 0
    assert torch.allclose(model(source)["out"][:1], model(source[:1, :3])["out"], atol=1e-6)


@pytest.mark.parametrize("lead_mode", ["mean", "concat"])
def test_padding_leaves_no_trace_in_any_lead(lead_mode):
    model = build(TWELVE, lead_mode=lead_mode).eval()
    source = torch.randn(2, 12, 61)
    mask = torch.arange(61)[None] >= torch.tensor([[40], [61]])
    alone = model(source[:1, :, :40])
    for given in (mask, mask[:, None].expand(-1, 12, -1)):
        padded = model(source, given)
        assert torch.allclose(padded["out"][:1], alone["out"], atol=1e-6)
        assert padded["padding_mask"].shape == padded["encoder_out"].shape[:2]


@pytest.mark.parametrize("lead_mode", ["mean", "concat"])
def test_a_checkpoint_opens_by_itself(lead_mode, tmp_path):
    _, path = pretrained(tmp_path)
    asked = {"_name": NAME, "num_labels": 3, "model_path": path, "lead_mode": lead_mode}
    root = OmegaConf.create({"model": {**asked, "hidden": [10]}})
    model = build_model(root.model, TWELVE).eval()
    tuned = save_checkpoint(tmp_path / "tuned.pt", OmegaConf.to_container(root.model), model)
    (tmp_path / "encoder.pt").unlink()
    opened, _ = load_pretrained(tuned)
    source = torch.randn(2, 12, 60)
    assert torch.equal(opened(source)["out"], model(source)["out"])


def test_what_does_not_fit_is_refused_with_the_way_out(tmp_path):
    _, path = pretrained(tmp_path)
    with pytest.raises(ContractError, match="takes 1 leads, but the task gives 12"):
        build(TWELVE, model_path=path)
    joint = save_checkpoint(
        tmp_path / "joint.pt",
        {"_name": ENCODER, **SMALL, "in_d": 12},
        build_any(ENCODER, **SMALL, in_d=12),
    )
    with pytest.raises(ValueError, match="takes 12 leads, but the task gives 1"):
        build(TWELVE, model_path=joint, lead_mode="mean")
    with pytest.raises(ValueError, match="model.num_leads is not set"):
        build(lead_mode="concat")
    model = build(TWELVE, lead_mode="concat")
    with pytest.raises(ValueError, match="have 3 leads, but the head was made for 12"):
        model(torch.randn(2, 3, 60))
    with pytest.raises(ValueError, match=r"model.hidden is \[0\]"):
        type(model).check(
            OmegaConf.create(
                {**SMALL, "hidden": [0], "model_path": path, "no_pretrained_weights": False}
            )
        )


def test_a_frozen_encoder_is_the_same_after_training(tmp_path):
    encoder, path = pretrained(tmp_path)
    model = build(model_path=path, freeze_finetune_updates=100).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    head = [p.detach().clone() for p in model.head.parameters()]
    for update in range(3):
        model.set_num_updates(update)
        optimizer.zero_grad()
        model(torch.randn(4, 1, 60))["out"].pow(2).sum().backward()
        optimizer.step()
    known = encoder.state_dict()
    assert all(torch.equal(known[k], v) for k, v in model.encoder.state_dict().items())
    assert not any(torch.equal(a, b) for a, b in zip(head, model.head.parameters(), strict=True))
