"""Classes from the residual network over time: head, and the way from checkpoint to checkpoint."""

import logging
from types import SimpleNamespace

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import nn

from fairseq_ecg.checkpoint import CheckpointError, load_pretrained
from fairseq_ecg.contract import ContractError
from tests.tiny import TINY_RESNET, TINY_TRANSFORMER, save_checkpoint, shaken

ENCODER = "ecg_resnet1d"
NAME = "ecg_resnet1d_classifier"
TINY = {**TINY_RESNET, "in_d": 1}


def build(name=NAME, task=None, **cfg):
    torch.manual_seed(0)
    model = build_model(OmegaConf.create({"_name": name, **cfg}), task)
    return model if cfg.get("model_path") else shaken(model)


def pretrained(folder, name=NAME, **cfg):
    """Write a pretraining checkpoint of five classes; return its path and its state dict."""
    cfg = {**TINY, **({"num_labels": 5} if name == NAME else {}), **cfg}
    model = build(name, **cfg)
    contract = {"rate_hz": 250.0, "leads": ["I"], "present_leads": ["I"], "labels": list("QNSaV")}
    path = save_checkpoint(folder / "pretrained.pt", {"_name": name, **cfg}, model, **contract)
    return path, model.state_dict()


# --- head ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "five", "four"),
    [
        ({"arch": "resnet18"}, 4_495_045, 4_494_532),
        ({"arch": "resnet34"}, 9_089_221, 9_088_708),
        ({"arch": "resnet50"}, 16_984_261, 16_982_212),
        ({"arch": "resnet18", "block": "preact"}, 4_491_717, 4_491_204),
        ({"arch": "resnet34", "block": "preact"}, 9_085_893, 9_085_380),
        ({"arch": "resnet50", "block": "preact"}, 16_969_157, 16_967_108),
    ],
)
def test_parameters_and_statistics_with_a_head_are_those_of_the_published_networks(cfg, five, four):
    for num_labels, expected in ((5, five), (4, four)):
        with torch.device("meta"):
            model = build_model(
                OmegaConf.create({"_name": NAME, "num_labels": num_labels, **cfg}), None
            )
        statistics = sum(v.numel() for key, v in model.named_buffers() if "running" in key)
        assert sum(p.numel() for p in model.parameters()) + statistics == expected


@pytest.mark.parametrize("masked_gap", [False, True])
def test_the_head_is_linear_on_the_pooled_vector(masked_gap):
    model = build(num_labels=3, masked_gap=masked_gap, **TINY).eval()
    source = torch.randn(2, 1, 256)
    padding = torch.arange(256) < torch.tensor([[0], [128]])
    with torch.no_grad():
        output = model(source, padding)
        features = model.extract_features(source, padding)
        vectors = features.mean(1)
        if masked_gap:
            vectors = torch.stack([features[0].mean(0), features[1, 4:].mean(0)])
        torch.testing.assert_close(output["out"], model.proj(vectors))
        torch.testing.assert_close(model.embed(source, padding), vectors)
    assert output["encoder_out"].shape == (2, 8, 8)
    assert output["padding_mask"].sum(1).tolist() == [0, 4]
    assert model(source)["padding_mask"] is None


def test_the_head_is_drawn_as_glorot_and_bengio_do():
    proj = build(num_labels=5, arch="resnet18").proj
    bound = (6 / (512 + 5)) ** 0.5
    assert 0.98 * bound < proj.weight.abs().max() <= bound
    assert (proj.bias == 0).all()


def test_numbers_of_labels_and_leads_come_from_the_task():
    model = build(task=SimpleNamespace(num_labels=7, num_leads=3), **TINY_RESNET | {"in_d": None})
    assert model.proj.out_features == 7
    assert model.encoder.in_d == 3


# --- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["postact", "preact"])
def test_the_backbone_of_a_pretraining_gets_a_new_head(block, tmp_path, caplog):
    path, state = pretrained(tmp_path, block=block, same_padding="tf", masked_gap=True)
    with caplog.at_level(logging.INFO):
        model = build(model_path=path, num_labels=4, block="postact", widths=[1, 2, 3, 4])
    backbone = {key[8:]: value for key, value in state.items() if key.startswith("encoder.")}
    assert model.encoder.state_dict().keys() == backbone.keys()
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, backbone[key]), key
    assert model.proj.weight.shape == (4, 8)
    assert (model.proj.bias == 0).all()
    assert f"{len(backbone)} tensors, none missing" in caplog.text
    assert "left out of the checkpoint: proj.weight, proj.bias" in caplog.text
    assert model.encoder.tf
    assert not model.encoder.masked_gap  # the run's own
    assert model.pretrained_contract.rate_hz == 250.0


def test_the_backbone_of_future_prediction_gets_a_head(tmp_path, caplog):
    path, state = pretrained(tmp_path, "ecg_resnet_cpc", context_layers=2, context_heads=2)
    with caplog.at_level(logging.INFO):
        model = build(model_path=path, num_labels=4)
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert "left out of the checkpoint: context.*" in caplog.text
    assert not [key for key in model.state_dict() if "context" in key]


def test_a_fine_tuned_checkpoint_opens_by_itself_and_serves_again(tmp_path):
    path, _ = pretrained(tmp_path, kernel_sizes=[7, 5, 5, 3], stages=3)
    root = OmegaConf.create({"model": {"_name": NAME, "model_path": path, "masked_gap": True}})
    tuned = build_model(root.model, SimpleNamespace(num_labels=4)).eval()
    tuned_path = save_checkpoint(tmp_path / "t.pt", OmegaConf.to_container(root.model), tuned)
    (tmp_path / "pretrained.pt").unlink()
    source, padding = torch.randn(2, 1, 256), torch.arange(256)[None] < torch.tensor([[99], [7]])
    opened, _ = load_pretrained(tuned_path)
    assert opened.encoder.masked_gap
    assert torch.equal(opened(source, padding)["out"], tuned(source, padding)["out"])
    again = build(model_path=tuned_path, num_labels=2, masked_gap=True).eval()
    assert torch.equal(again.embed(source, padding), tuned.embed(source, padding))


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_names(tmp_path):
    path, _ = pretrained(tmp_path)
    raw = torch.load(path, weights_only=True)
    state = raw["model"]
    state["encoder.stages.9.0.convs.5.weight"] = torch.zeros(1)
    state["encoder.extra"] = torch.zeros(1)
    del state["encoder.stages.1.0.projection.weight"]
    torch.save(raw, path)
    with pytest.raises(CheckpointError, match="it has no 'stages.4.0.convs.1.weight'"):
        build(model_path=path, num_labels=4)
    del state["encoder.stages.9.0.convs.5.weight"]
    torch.save(raw, path)
    message = r"1 missing \(stages.1.0.projection.weight\); 1 unexpected \(extra\)"
    with pytest.raises(CheckpointError, match=message):
        build(model_path=path, num_labels=4)


def test_a_checkpoint_of_which_nothing_fits_is_refused(tmp_path):
    other = {"_name": ENCODER, **TINY}
    path = save_checkpoint(tmp_path / "other.pt", other, nn.Linear(2, 2))
    message = "holds the model ecg_resnet1d: this is no ecg_resnet1d: it has no 'stem.weight'; give"
    with pytest.raises(CheckpointError, match=message):
        build(model_path=path, num_labels=4)


# --- leads --------------------------------------------------------------------------------------


def test_an_encoder_of_one_lead_takes_twelve_and_says_of_equal_ones_the_same(tmp_path):
    path, state = pretrained(tmp_path)
    task = SimpleNamespace(num_labels=4, num_leads=12)
    with pytest.raises(
        ContractError, match="takes 1 leads, .* gives 12: .*model.inflate_in_channels"
    ):
        build(task=task, model_path=path)
    root = OmegaConf.create({"model": {"_name": NAME, "model_path": path}})
    root.model.inflate_in_channels = True
    model = build_model(root.model, task).eval()
    assert model.encoder.in_d == root.model.encoder_config.in_d == 12
    stem = model.encoder.stem.weight
    torch.testing.assert_close(stem, state["encoder.stem.weight"].expand(-1, 12, -1) / 12)
    others = {k: v for k, v in model.encoder.state_dict().items() if k != "stem.weight"}
    assert all(torch.equal(value, state[f"encoder.{key}"]) for key, value in others.items())
    one = build(model_path=path, num_labels=4).eval()
    source = torch.randn(2, 1, 256)
    torch.testing.assert_close(
        model.embed(source.expand(-1, 12, -1)), one.embed(source), atol=1e-5, rtol=1e-5
    )
    assert model.pretrained_contract.leads is None
    assert model.pretrained_contract.rate_hz == 250.0

    tuned = save_checkpoint(tmp_path / "t.pt", OmegaConf.to_container(root.model), model)
    opened, _ = load_pretrained(tuned)
    source = torch.randn(2, 12, 256)
    assert torch.equal(opened(source)["out"], model(source)["out"])
    three = SimpleNamespace(num_labels=4, num_leads=3)
    with pytest.raises(ValueError, match="takes an encoder of one lead, but this one has 12"):
        build(task=three, model_path=tuned, inflate_in_channels=True)


def test_one_lead_stays_what_it_is(tmp_path):
    path, state = pretrained(tmp_path)
    task = SimpleNamespace(num_labels=4, num_leads=1)
    model = build(task=task, model_path=path, inflate_in_channels=True)
    assert torch.equal(model.encoder.stem.weight, state["encoder.stem.weight"])
    assert model.pretrained_contract.leads == ("I",)


def test_families_that_cannot_be_inflated_say_so(tmp_path):
    cfg = {**TINY_TRANSFORMER, "in_d": 1}
    other = build("ecg_transformer", **cfg)
    path = save_checkpoint(tmp_path / "other.pt", {"_name": "ecg_transformer", **cfg}, other)
    with pytest.raises(
        ValueError, match="not known for the encoder EcgTransformer; give model.inf"
    ):
        build(
            task=SimpleNamespace(num_labels=4, num_leads=12),
            model_path=path,
            inflate_in_channels=True,
        )
