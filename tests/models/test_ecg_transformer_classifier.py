"""Fine-tuning: where encoder, sizes and number of labels come from, and what is frozen."""

import logging
from types import SimpleNamespace

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg.checkpoint import CheckpointError, load_pretrained
from fairseq_ecg.models.ecg_transformer_classifier import (
    EcgTransformerClassifier,
    EcgTransformerClassifierConfig,
)
from tests.golden import RELATIVE, distance, load
from tests.tiny import TINY_TRANSFORMER

NAME = "ecg_transformer_classifier"


@pytest.fixture(scope="module")
def golden(shared):
    return load(shared / "golden" / "w2v_cmsc")


def build(task=None, **cfg) -> EcgTransformerClassifier:
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": NAME, **cfg}), task)


def save(path, root, model, **contract):
    torch.save(
        {
            "cfg": {"task": {}, **OmegaConf.to_container(root)},
            "model": model.state_dict(),
            "task_state": {"input_contract": contract},
        },
        path,
    )
    return str(path)


def test_the_base_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        cfg = EcgTransformerClassifierConfig(num_labels=26, feature_grad_mult=0.1)
        model = EcgTransformerClassifier.build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == 90_393_242


def test_the_encoder_of_a_pretrained_checkpoint_is_taken_over(golden):
    model = build(model_path=str(golden.checkpoint), num_labels=5, encoder_layers=12).eval()
    output = model(golden.arrays["source"])
    assert distance(output["encoder_out"], golden.arrays["encoder_output"]) < RELATIVE
    expected = model.proj(golden.arrays["pooled"])
    assert torch.allclose(output["out"], expected, atol=1e-4)
    assert distance(model.embed(golden.arrays["source"]), golden.arrays["pooled"]) < RELATIVE
    keys = set(model.state_dict())
    assert keys == {
        f"encoder.{k}"
        for k in golden.model().state_dict()
        if not k.startswith(("mask_emb", "quantizer", "project_q", "final_proj"))
    } | {"proj.weight", "proj.bias"}


def test_dropouts_and_gradient_factor_are_those_of_fine_tuning(golden):
    model = build(
        model_path=str(golden.checkpoint), num_labels=5, activation_dropout=0.3, dropout=0.2
    )
    layer = model.encoder.encoder.layers[0]
    assert (layer.dropout[0].p, layer.activation_dropout.p, layer.self_attn.dropout) == (
        0.2,
        0.3,
        0,
    )
    assert model.encoder.feature_grad_mult == 0.0
    assert model.encoder.mask_prob == 0.0


def test_the_convolutions_of_a_checkpoint_stay_frozen_by_default(golden):
    model = build(model_path=str(golden.checkpoint), num_labels=5)
    model(golden.arrays["source"])["out"].sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {n for n, _ in model.named_parameters() if ".feature_extractor." in n}


def test_random_convolutions_are_trained_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        model = build(**TINY_TRANSFORMER, num_labels=3)
    assert "random convolutions" in caplog.text
    model(torch.randn(2, 12, 400))["out"].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_no_pretrained_weights_ignores_the_checkpoint(golden):
    model = build(
        **TINY_TRANSFORMER,
        model_path=str(golden.checkpoint),
        no_pretrained_weights=True,
        num_labels=3,
    )
    assert model.proj.in_features == 16


def test_the_encoder_gets_no_gradient_until_it_is_released():
    model = build(
        **TINY_TRANSFORMER, num_labels=3, freeze_finetune_updates=2, feature_grad_mult=1.0
    )
    for updates, trained in ((0, False), (1, False), (2, True)):
        model.zero_grad()
        model.set_num_updates(updates)
        model(torch.randn(2, 12, 400))["out"].sum().backward()
        assert model.proj.weight.grad is not None
        assert (model.encoder.post_extract_proj.weight.grad is not None) == trained


def test_the_number_of_labels_comes_from_the_task():
    assert build(SimpleNamespace(num_labels=7), **TINY_TRANSFORMER).proj.out_features == 7


def test_a_number_of_labels_that_differs_from_the_tasks_is_refused():
    with pytest.raises(ValueError, match=r"num_labels is 26, but the task gives 5 labels"):
        build(SimpleNamespace(num_labels=5), **TINY_TRANSFORMER, num_labels=26)


def test_an_unknown_number_of_labels_is_refused():
    with pytest.raises(ValueError, match="num_labels is not set and the task does not know it"):
        build(**TINY_TRANSFORMER)


def test_an_encoder_keeps_what_it_was_pretrained_with_and_a_fresh_one_expects_nothing(golden):
    """The task compares it with the recordings that it opens; see tests/test_contract.py."""
    contract = build(model_path=str(golden.checkpoint), num_labels=5).pretrained_contract
    assert (contract.rate_hz, contract.normalize, len(contract.leads)) == (500.0, False, 12)
    assert build(**TINY_TRANSFORMER, num_labels=3).pretrained_contract is None


def test_a_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such checkpoint file"):
        build(model_path=str(tmp_path / "gone.pt"), num_labels=5)


def test_a_fine_tuned_checkpoint_opens_where_the_pretrained_one_does_not_exist(golden, tmp_path):
    copy = tmp_path / "pretrained.pt"
    copy.write_bytes(golden.checkpoint.read_bytes())
    root = OmegaConf.create({"model": {"_name": NAME, "model_path": str(copy)}})
    torch.manual_seed(0)
    tuned = build_model(root.model, SimpleNamespace(num_labels=5)).eval()
    path = save(tmp_path / "tuned.pt", root, tuned, labels=list("abcde"))
    copy.unlink()
    opened, contract = load_pretrained(path)
    source = golden.arrays["source"]
    assert torch.equal(opened(source)["out"], tuned(source)["out"])
    assert contract["labels"] == list("abcde")
    # fairseq's own way: build from the stored configuration, then load the weights
    again = build_model(root.model, SimpleNamespace(num_labels=5))
    again.load_state_dict(tuned.state_dict(), strict=True)
    assert torch.equal(again.eval()(source)["out"], tuned(source)["out"])


def test_the_encoder_of_a_fine_tuned_checkpoint_is_taken_over(golden, tmp_path):
    root = OmegaConf.create({"model": {"_name": NAME, "model_path": str(golden.checkpoint)}})
    tuned = build_model(root.model, SimpleNamespace(num_labels=5)).eval()
    with torch.no_grad():
        tuned.encoder.encoder.layer_norm.weight.mul_(1.5)
    path = save(tmp_path / "tuned.pt", root, tuned)
    model = build(model_path=path, num_labels=3).eval()
    source = golden.arrays["source"]
    assert torch.equal(model.embed(source), tuned.embed(source))
    assert model.proj.out_features == 3


def test_sizes_come_from_the_tensors_where_the_configuration_is_silent(golden, tmp_path):
    """The reference's fine-tuned checkpoints keep the defaults of the fine-tuning configuration."""
    tuned = build(model_path=str(golden.checkpoint), num_labels=5).eval()
    model_cfg = {"_name": NAME, "encoder_attention_heads": 4, "num_labels": 5}
    model_cfg["conv_feature_layers"] = golden.expected["model"]["conv_feature_layers"]
    path = tmp_path / "tuned.pt"
    cfg = {"model": model_cfg, "task": {"_name": "ecg_classification"}}
    torch.save({"cfg": cfg, "model": tuned.state_dict()}, path)
    opened, contract = load_pretrained(path)
    assert contract["source_format"] == "fairseq_signals"
    source = golden.arrays["source"]
    assert torch.equal(opened(source)["out"], tuned(source)["out"])
    assert torch.equal(build(model_path=str(path), num_labels=2).eval().embed(source),
                       tuned.embed(source))  # fmt: skip


def test_a_classifier_checkpoint_without_an_encoder_is_refused_with_its_path(tmp_path):
    cfg = {"model": {"_name": NAME}, "task": {}}
    torch.save({"cfg": cfg, "model": {"proj.bias": torch.zeros(3)}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt.*no transformer encoder"):
        load_pretrained(tmp_path / "a.pt")


def test_a_checkpoint_whose_tensors_are_not_the_encoders_is_refused(tmp_path):
    cfg = {"model": {"_name": "ecg_transformer"}, "task": {}}
    torch.save({"cfg": cfg, "model": {"cls_token": torch.zeros(3)}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"model_path .*a\.pt.*no transformer encoder.*give"):
        build(model_path=str(tmp_path / "a.pt"), num_labels=3)


def test_a_missing_pretrained_file_is_survived_only_with_the_stored_encoder(tmp_path, caplog):
    stored = dict(TINY_TRANSFORMER)
    with caplog.at_level(logging.WARNING):
        model = build(model_path=str(tmp_path / "gone.pt"), num_labels=3, encoder_config=stored)
    assert "is not here" in caplog.text
    assert model.proj.in_features == 16


def test_saliency_and_padding_are_passed_on():
    model = build(**TINY_TRANSFORMER, num_labels=3, saliency=True, feature_grad_mult=1.0).eval()
    padding = torch.arange(400) >= torch.tensor([[400], [320]])
    output = model(torch.randn(2, 12, 400), padding)
    assert output["saliency"].shape == (2, 1, 25, 25)
    assert output["padding_mask"].sum(1).tolist() == [0, 5]
    assert not output["encoder_out"].requires_grad
