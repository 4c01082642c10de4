"""The encoder: sizes, options, masking, saliency, what it refuses."""

import pytest
import torch
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import MODEL_DATACLASS_REGISTRY, build_model
from omegaconf import OmegaConf

from fairseq_ecg.models.ecg_transformer import EcgTransformer, EcgTransformerConfig
from tests.tiny import TINY_TRANSFORMER

SMALL = {**TINY_TRANSFORMER, "encoder_layers": 2}


def small(**changes) -> EcgTransformer:
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": "ecg_transformer", **SMALL, **changes}), None)


def test_the_base_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = EcgTransformer(EcgTransformerConfig())
    assert sum(p.numel() for p in model.parameters()) == 90_373_248
    assert not list(model.buffers())


def test_an_unpadded_mask_changes_nothing():
    model, source = small().eval(), torch.randn(2, 12, 400)
    features = model.extract_features(source)
    assert features.shape == (2, 25, 16)
    none_padded = torch.zeros(2, 400, dtype=torch.bool)
    assert torch.equal(features, model.extract_features(source, none_padded))
    assert model(source, none_padded)["padding_mask"] is None


def test_padded_frames_do_not_reach_the_pooled_vector():
    model, source = small().eval(), torch.randn(2, 12, 400)
    padding = torch.arange(400) >= torch.tensor([[400], [320]])
    features = model.extract_features(source, padding)
    pooled = model.embed(source, padding)
    assert torch.allclose(pooled[1], features[1, :20].mean(0), atol=1e-6)


def test_a_batch_of_one_gives_what_the_row_gives_in_a_larger_batch():
    model, source = small().eval(), torch.randn(3, 12, 400)
    assert torch.allclose(model.embed(source)[1:2], model.embed(source[1:2]), atol=1e-6)


def test_masking_is_done_by_forward_only_and_only_if_asked_for():
    source = torch.randn(4, 12, 800)
    model = small(apply_mask=True, mask_prob=0.65).eval()
    assert torch.equal(model.extract_features(source), model.extract_features(source))
    assert not torch.allclose(model(source)["features"], model.extract_features(source))
    plain = small().eval()
    assert plain.mask_emb is None
    assert torch.equal(plain(source)["features"], plain.extract_features(source))


@pytest.mark.parametrize("batch", [1, 8])
def test_a_fixed_count_masks_the_same_share_in_any_batch(batch):
    keys = {"apply_mask": True, "mask_prob": 0.5, "mask_length": 5, "mask_count": "fixed"}
    mask = small(**keys).draw_mask(torch.zeros(batch, 50, 16), None)
    assert mask.sum(1).tolist() == [25] * batch


def test_channel_masking_sets_whole_channels_to_zero():
    model = small(apply_mask=True, mask_prob=0.65, mask_channel_prob=0.5, mask_channel_length=4)
    x = model.hide_channels(torch.ones(3, 25, 16))
    zeros = (x == 0).all(1)
    assert torch.equal(zeros, (x == 0).any(1))
    assert 4 <= int(zeros[0].sum()) <= 12


def test_gradients_into_the_convolutions_are_scaled_and_others_are_not():
    source = torch.randn(2, 12, 400)
    gradients = []
    for factor in (1.0, 0.1):
        model = small(feature_grad_mult=factor).eval()
        model.embed(source).pow(2).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, full in gradients[0].items():
        expected = full * (0.1 if name.startswith("feature_extractor") else 1.0)
        assert torch.allclose(gradients[1][name], expected, rtol=1e-3, atol=1e-6), name


def test_factor_zero_freezes_the_convolutions_and_nothing_else():
    model = small(feature_grad_mult=0.0)
    model.embed(torch.randn(2, 12, 400)).sum().backward()
    frozen = {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith("feature_extractor")}
    assert not any(p.requires_grad for p in model.feature_extractor.parameters())


def test_saliency_is_the_attention_of_every_layer():
    model = small(saliency=True).eval()
    output = model(torch.randn(2, 12, 400))
    assert output["saliency"].shape == (2, 2, 25, 25)
    assert torch.allclose(output["saliency"].sum(-1), torch.ones(2, 2, 25), atol=1e-5)
    assert "saliency" not in small()(torch.randn(2, 12, 400))


def test_no_projection_is_made_where_widths_are_equal():
    assert small(conv_feature_layers="[(16, 2, 2)] * 4").post_extract_proj is None


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
def test_bf16_autocast_runs_forward_and_backward(mode):
    model, source = small(extractor_mode=mode), torch.randn(2, 12, 400)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = model.embed(source)
        pooled.float().pow(2).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_count": "all"}, "model.mask_count is 'all'; give poorest or fixed"),
        ({"mask_selection": "poisson"}, "model.mask_selection is 'poisson'; only 'static'"),
        ({"no_mask_overlap": True}, "model.no_mask_overlap is not supported"),
        ({"feature_grad_mult": -1.0}, "model.feature_grad_mult is -1.0"),
        ({"apply_mask": True}, "model.apply_mask is set, but model.mask_prob is 0.0"),
        ({"extractor_mode": "batch"}, "extractor_mode is 'batch'"),
        ({"conv_feature_layers": "[(8, 2)]"}, "is not understood"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads"),
    ],
)
def test_what_cannot_work_is_refused_when_the_model_is_built(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change)


@pytest.mark.parametrize(
    "name", ["ecg_transformer", "ecg_wav2vec2", "wav2vec2_cmsc", "ecg_transformer_classifier"]
)
def test_fairseqs_own_parser_can_read_the_configuration(name):
    import argparse

    import fairseq_ecg.models  # noqa: F401

    dataclass = MODEL_DATACLASS_REGISTRY[name]
    gen_parser_from_dataclass(argparse.ArgumentParser(), dataclass())
