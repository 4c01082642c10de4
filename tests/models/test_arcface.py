"""The identification model: sizes, keys, embeddings of length 1, cosines in float32."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg.checkpoint import build_model as build_from_checkpoint
from fairseq_ecg.checkpoint import load_pretrained, read_checkpoint
from fairseq_ecg.models.arcface import ArcFace, ArcFaceConfig
from tests.tiny import TINY_TRANSFORMER

TINY = {**TINY_TRANSFORMER, "feature_grad_mult": 1.0}


def build(**cfg) -> ArcFace:
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": "arcface", **TINY, **cfg}), None)


def save(path, model, **cfg):
    model_cfg = {"_name": "arcface", **TINY, **cfg}
    torch.save(
        {
            "cfg": {"task": {}, "model": model_cfg},
            "model": model.state_dict(),
            "task_state": {"input_contract": {"rate_hz": 500.0}},
        },
        path,
    )
    return str(path)


@pytest.mark.parametrize(
    ("sizes", "patients", "total"),
    [
        ({}, 100, 90_450_048),
        ({"encoder_embed_dim": 512, "encoder_attention_heads": 8}, 10, 53_059_712),
    ],
)
def test_the_sizes_have_the_published_numbers_of_parameters(sizes, patients, total):
    with torch.device("meta"):
        cfg = ArcFaceConfig(num_labels=patients, feature_grad_mult=0.1, **sizes)
        model = ArcFace.build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == total
    keys = set(model.state_dict())
    assert {key for key in keys if not key.startswith("encoder.")} == {"kernel"}
    assert "encoder.encoder.layers.0.fc1.weight" in keys
    assert model.kernel.shape == (patients, cfg.encoder_embed_dim)


def test_outputs_are_cosines_of_embeddings_and_directions_of_length_1():
    model = build(num_labels=7).eval()
    np.testing.assert_allclose(model.kernel.detach().norm(dim=1), 1, rtol=1e-6)
    with torch.no_grad():
        model.kernel.mul_(3)  # training changes lengths, which do not count
    source = torch.randn(5, 12, 200)
    output = model(source)
    pooled, kernel = model.embed(source).detach(), model.kernel.detach()
    expected = [
        [torch.nn.functional.cosine_similarity(e, k, dim=0).item() for k in kernel] for e in pooled
    ]
    np.testing.assert_allclose(output["out"].detach(), expected, atol=1e-6)
    np.testing.assert_allclose(output["embedding"].detach().norm(dim=1), 1, rtol=1e-6)
    assert output["out"].abs().max() <= 1
    assert output["padding_mask"] is None


def test_padding_does_not_change_an_embedding_that_is_long_enough():
    """Padded frames are left out of the mean (the reference counts them)."""
    model = build(num_labels=2).eval()
    source = torch.zeros(2, 12, 400)
    source[:, :, :256] = torch.randn(12, 256)
    mask = torch.zeros(2, 400, dtype=torch.bool)
    mask[1, 256:] = True
    output = model(source, mask)
    frames = model.encode(source, mask)
    kept = frames["features"][1][~frames["padding_mask"][1]]
    expected = torch.nn.functional.normalize(kept.mean(0), dim=0)
    np.testing.assert_allclose(output["embedding"][1].detach(), expected.detach(), atol=1e-5)


def test_cosines_stay_float32_under_autocast():
    model = build(num_labels=3).eval()
    source = torch.randn(2, 12, 200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(source)
    assert output["out"].dtype == output["embedding"].dtype == torch.float32
    np.testing.assert_allclose(output["embedding"].detach().norm(dim=1), 1, rtol=1e-5)


def test_a_recording_is_never_compared_with_more_than_it_is():
    model = build(num_labels=1).eval()
    source = torch.randn(1, 12, 200)
    with torch.no_grad():
        model.kernel.copy_(model.embed(source))
    assert model(source)["out"].item() == pytest.approx(1.0, abs=1e-6)
    assert model(source)["out"].item() <= 1.0


def test_gradients_reach_encoder_and_directions_unless_frozen():
    model = build(num_labels=3, freeze_finetune_updates=1).train()
    source = torch.randn(2, 12, 200)
    for updates, trained in ((0, False), (1, True)):
        model.zero_grad()
        model.set_num_updates(updates)
        model(source)["out"][:, 0].sum().backward()
        weight = model.encoder.encoder.layers[0].fc1.weight
        assert (weight.grad is not None) == trained
        assert model.kernel.grad.abs().sum() > 0


def test_a_checkpoint_opens_without_task_and_number_of_patients(tmp_path):
    model = build(num_labels=4).eval()
    path = save(tmp_path / "id.pt", model, num_labels=None, model_path="gone.pt")
    again, contract = load_pretrained(path)
    source = torch.randn(2, 12, 200)
    assert torch.equal(again(source)["embedding"], model(source)["embedding"])
    assert contract["rate_hz"] == 500.0
    assert isinstance(build_from_checkpoint(read_checkpoint(path)), ArcFace)


def test_a_pretrained_encoder_is_taken_over(tmp_path):
    first = build(num_labels=4)
    path = save(tmp_path / "id.pt", first)
    second = build(num_labels=9, model_path=path, encoder_layers=3)
    assert second.kernel.shape == (9, 16)
    for key, value in first.encoder.state_dict().items():
        assert torch.equal(second.encoder.state_dict()[key], value)


def test_the_number_of_patients_is_the_tasks_and_must_agree_with_it():
    task = SimpleNamespace(num_labels=6)
    cfg = OmegaConf.create({"_name": "arcface", **TINY})
    assert build_model(cfg, task).kernel.shape == (6, 16)
    cfg.num_labels = 5
    with pytest.raises(ValueError, match="model.num_labels is 5, but the task gives 6 labels"):
        build_model(cfg, task)
