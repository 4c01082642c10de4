"""Every encoder has one face, and every model around an encoder takes any of them."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY, build_model
from omegaconf import OmegaConf

import fairseq_ecg
from fairseq_ecg.models._encoder import EcgEncoder, registered_name
from fairseq_ecg.models._finetuning import FinetunedModel
from tests.tiny import TINY_MAE, TINY_RESNET, TINY_SPECTROGRAM, TINY_TRANSFORMER

MASKED = {"apply_mask": True, "mask_prob": 0.65, "mask_length": 2, "final_dim": 8}
SIZES = {
    "ecg_transformer": TINY_TRANSFORMER,
    "ecg_wav2vec2": {**TINY_TRANSFORMER, **MASKED, "num_negatives": 3},
    "wav2vec2_cmsc": {**TINY_TRANSFORMER, **MASKED, "num_negatives": 3},
    "nejedly2021resnet": {"num_filters": 8, "num_blocks": 2, "kernel_size": "[5, 3]"},
    "se_wrn": {"num_filters": "[4, 8, 16]", "num_blocks": 1, "ratio": 4, "kernel_size": 3},
    "ecg_uresnet": {"filters": [4, 6, 8], "kernel_size": 3},
    "ecg_mae": TINY_MAE,
    "ecg_transform_cnn": {"in_d": 12, "widths": [4, 6, 8], "kernels": [8, 4, 3]},
    "ecg_resnet1d": TINY_RESNET,
    "ecg_resnet2d": {**TINY_RESNET, **TINY_SPECTROGRAM},
    "ecg_resnet_cpc": {**TINY_RESNET, "context_layers": 1, "context_heads": 2},
}
# Heads that are made for one length.
OPTIONS = {"ecg_uresnet_classifier": {"n_samples": 96}}


def ours(base):
    return sorted(
        name
        for name, model in MODEL_REGISTRY.items()
        if isinstance(model, type) and issubclass(model, base)
    )


ENCODERS, HEADS = ours(EcgEncoder), ours(FinetunedModel)


def build(name, **cfg):
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": name, **cfg}), None).eval()


def save(path, name, cfg, model):
    content = {"model": {"_name": name, **cfg}, "task": {"_name": "ecg_pretraining"}}
    contract = {"leads": None, "rate_hz": 100.0, "trained_on": {}}
    torch.save(
        {
            "cfg": content,
            "model": model.state_dict(),
            "task_state": {"input_contract": contract},
        },
        path,
    )
    return str(path)


def test_every_model_of_ours_is_an_encoder_or_stands_around_one():
    known = {n for n, m in MODEL_REGISTRY.items() if m.__module__.startswith("fairseq_ecg.")}
    assert known == {*ENCODERS, *HEADS}
    assert set(SIZES) == set(ENCODERS)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_gives_frames_and_one_vector_whatever_the_length(name):
    model = build(name, **SIZES[name])
    source = torch.randn(3, 12, 96)
    features = model.extract_features(source)
    assert features.shape[0] == 3
    assert features.shape[2] == model.width
    assert model.in_d == 12
    expected = features.amax(1) if name == "ecg_transform_cnn" else features.mean(1)
    assert torch.allclose(model.embed(source), expected, atol=1e-5)
    padded = torch.nn.functional.pad(source[:1], (0, 32))
    mask = torch.arange(128)[None] >= 96
    assert model.embed(padded, mask).shape == (1, model.width)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_head_takes_every_encoder_and_the_result_opens_by_itself(name, head, tmp_path):
    encoder = build(name, **SIZES[name])
    path = save(tmp_path / "encoder.pt", name, SIZES[name], encoder)
    asked = {"_name": head, "num_labels": 3, **OPTIONS.get(head, {})}
    root = OmegaConf.create({"model": {**asked, "model_path": path}})
    model = build_model(root.model, None).eval()
    source = torch.randn(2, 12, 96)
    assert torch.equal(model.extract_features(source), encoder.extract_features(source))
    assert root.model.encoder_config._name == registered_name(encoder.encoder_class)

    tuned = save(tmp_path / "tuned.pt", head, OmegaConf.to_container(root.model), model)
    (tmp_path / "encoder.pt").unlink()
    opened, _ = fairseq_ecg.load_pretrained(tuned)
    assert torch.equal(opened(source)["out"], model(source)["out"])
    again = {**asked, "model_path": tuned, "num_labels": 5}
    second = build_model(OmegaConf.create(again), None)
    assert torch.equal(second.eval().embed(source), encoder.embed(source))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", [n for n in ENCODERS if "wav2vec2" not in n])
def test_a_frozen_encoder_does_in_training_what_it_does_in_evaluation(name, head, tmp_path):
    path = save(tmp_path / "encoder.pt", name, SIZES[name], build(name, **SIZES[name]))
    cfg = {"_name": head, "model_path": path, "num_labels": 3, "freeze_finetune_updates": 2}
    cfg |= {"activation_dropout": 0.5, "dropout": 0.5, "drop_path": 0.5, **OPTIONS.get(head, {})}
    known = {f.name for f in fields(MODEL_DATACLASS_REGISTRY[head])} | {"_name"}
    model = build_model(OmegaConf.create({k: v for k, v in cfg.items() if k in known}), None)
    source = torch.randn(4, 12, 96)
    expected = model.eval().extract_features(source)
    buffers = {key: value.clone() for key, value in model.encoder.named_buffers()}
    model.train()
    model.set_num_updates(1)
    assert torch.equal(model.encode(source)["features"], expected)
    assert all(torch.equal(value, buffers[key]) for key, value in model.encoder.named_buffers())
    model.set_num_updates(2)
    assert model.encode(source)["features"].requires_grad
    assert model.encoder.training
    model.eval()
    assert torch.isfinite(model.encode(source)["features"]).all()
    assert not model.encoder.training


def test_another_number_of_leads_is_refused_while_building_with_the_way_out(tmp_path):
    for in_d, way_out in ((12, "task.leads_to_load=P-3"), (1, r"task.leads_to_load='\[II\]'")):
        sizes = {**TINY_TRANSFORMER, "in_d": in_d}
        path = save(
            tmp_path / f"{in_d}.pt", "ecg_transformer", sizes, build("ecg_transformer", **sizes)
        )
        cfg = {"_name": "ecg_transformer_classifier", "model_path": path, "num_labels": 3}
        task = SimpleNamespace(num_leads=3, num_labels=3)
        with pytest.raises(
            ValueError, match=f"takes {in_d} leads, but the task gives 3: .*{way_out}"
        ):
            build_model(OmegaConf.create(cfg), task)
