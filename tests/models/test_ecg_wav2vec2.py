"""wav2vec 2.0 pretraining: draws, options, what it refuses."""

import copy
import math

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg.criterions.ecg_wav2vec2 import infonce_loss
from fairseq_ecg.models import wav2vec2_cmsc
from fairseq_ecg.models.ecg_wav2vec2 import EcgWav2Vec2
from tests.tiny import TINY_WAV2VEC2

PAPER = {
    "apply_mask": True,
    "mask_prob": 0.65,
    "quantize_targets": True,
    "final_dim": 256,
    "feature_grad_mult": 0.1,
}
SMALL = {**TINY_WAV2VEC2, "feature_grad_mult": 0.1, "num_negatives": 20}


def build(name="ecg_wav2vec2", **cfg) -> EcgWav2Vec2:
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": name, **cfg}), None)


@pytest.mark.parametrize("name", ["ecg_wav2vec2", "wav2vec2_cmsc"])
@pytest.mark.parametrize(("layers", "expected"), [(12, 90_883_072), (8, 62_531_584)])
def test_numbers_of_parameters_are_the_published_ones(name, layers, expected):
    with torch.device("meta"):
        model = build(name, **PAPER, encoder_layers=layers)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert not list(model.buffers())


def test_the_second_name_is_the_same_network():
    assert wav2vec2_cmsc.Wav2Vec2Cmsc is EcgWav2Vec2


@pytest.mark.parametrize("padded", [False, True])
def test_a_batch_is_masked_drawn_and_scored(padded):
    model, source = build(**SMALL), torch.randn(3, 12, 1600)
    padding = None
    if padded:
        padding = torch.arange(1600) >= torch.tensor([1600, 1200, 900])[:, None]
    output = model(source, padding)
    n_negatives, batch, n_masked = output["logits"].shape
    assert (n_negatives, batch) == (21, 3)
    assert 10 <= n_masked < 100
    assert output["features"].shape == (3, 100, 16)
    assert (output["padding_mask"] is not None) == padded
    assert output["num_vars"] == 20
    assert 2 <= float(output["code_perplexity"].detach()) <= 20
    infonce_loss(output["logits"]).backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == set()


def test_infonce_of_a_random_network_is_near_that_of_a_uniform_guess():
    model = build(**{**SMALL, "num_negatives": 100, "logit_temp": 1.0}).eval()
    logits = model(torch.randn(4, 12, 2500))["logits"]
    per_frame = float(infonce_loss(logits).detach()) / logits[0].numel()
    assert per_frame == pytest.approx(math.log(101), rel=0.1)


def test_the_torch_seed_decides_every_draw():
    model, source = build(**SMALL), torch.randn(3, 12, 1600)
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        outputs.append(model(source)["logits"])
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], model(source)["logits"])


def test_masked_frames_see_the_mask_vector_and_others_do_not():
    model = build(**SMALL)
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[:, 3:5] = True
    hidden = model.hide(torch.zeros(2, 10, 16), mask)
    assert torch.equal(hidden[0, 3], model.mask_emb)
    assert not hidden[:, 5:].any()


def test_the_number_of_updates_drives_the_temperature():
    model = build(**SMALL)
    model.set_num_updates(1_000_000)
    assert model(torch.randn(2, 12, 800))["temp"] == 0.5


def test_without_quantizer_targets_are_the_projected_features():
    model = build(**{**SMALL, "quantize_targets": False})
    output = model(torch.randn(2, 12, 800))
    assert output["logits"].isfinite().all()
    assert output["prob_perplexity"] is None
    assert model.project_q.in_features == 8


def test_a_gated_unit_on_targets_is_used():
    model = build(**SMALL, target_glu=True)
    infonce_loss(model(torch.randn(2, 12, 800))["logits"]).backward()
    assert model.target_glu[0].weight.grad.abs().sum() > 0


def test_bf16_autocast_gives_nearly_the_same_loss_and_finite_gradients():
    model, source = build(**SMALL).eval(), torch.randn(3, 12, 1600)
    losses = []
    for enabled in (False, True):
        torch.manual_seed(7)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = model(source)
            losses.append(infonce_loss(output["logits"]))
    assert output["logits"].dtype == torch.float32
    assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=0.03)
    losses[1].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_it_can_be_copied_after_a_forward():
    model = build(**SMALL)
    model(torch.randn(2, 12, 800))
    twin = copy.deepcopy(model).eval()
    source = torch.randn(2, 12, 800)
    assert torch.equal(twin.embed(source), model.eval().embed(source))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_dim": 0}, "model.final_dim is 0; give the width"),
        ({"apply_mask": False}, "model.apply_mask must be true"),
        ({"quantize_input": True}, "model.quantize_input is True; only False"),
        ({"negatives_from_everywhere": True}, "model.negatives_from_everywhere"),
        ({"cross_sample_negatives": 10}, "model.cross_sample_negatives is 10"),
        ({"codebook_negatives": 10}, "model.codebook_negatives is 10"),
        ({"num_negatives": 0}, "model.num_negatives is 0"),
        ({"latent_groups": 3}, "latent_groups"),
    ],
)
def test_what_cannot_work_is_refused_when_the_model_is_built(change, message):
    with pytest.raises(ValueError, match=message):
        build(**{**SMALL, **change})
