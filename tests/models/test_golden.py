"""The network agrees with the reference's on real recordings, with and without padding."""

import pytest
import torch

from tests.golden import FOLDERS, PADDED, RELATIVE, distance, load


@pytest.fixture(scope="module", params=FOLDERS)
def golden(shared, request):
    return load(shared / "golden" / request.param)


def test_state_dict_keys_are_the_references(golden):
    theirs = torch.load(golden.checkpoint, weights_only=True)["model"]
    ours = golden.model().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@torch.no_grad()
def test_features_without_masking_agree(golden):
    features = golden.model().extract_features(golden.arrays["source"], golden.padding_mask)
    valid = golden.valid_frames
    assert distance(features[valid], golden.arrays["encoder_output"][valid]) < RELATIVE


@torch.no_grad()
def test_pooled_vectors_agree(golden):
    pooled = golden.model().embed(golden.arrays["source"], golden.padding_mask)
    assert distance(pooled, golden.arrays["pooled"]) < RELATIVE


@torch.no_grad()
def test_a_mask_per_lead_is_read_as_the_mask_of_its_first_lead(shared):
    golden = load(shared / "golden" / PADDED)
    per_lead = golden.padding_mask[:, None].expand(-1, 12, -1)
    pooled = golden.model().embed(golden.arrays["source"], per_lead)
    assert distance(pooled, golden.arrays["pooled"]) < RELATIVE


@torch.no_grad()
def test_pretraining_outputs_agree(golden):
    output = golden.model()(**golden.sample()["net_input"])
    theirs = golden.arrays["logits"]
    assert torch.equal(output["logits"].isinf(), theirs.isinf())
    assert theirs.isinf().any(), "no negative has the codes of its positive: nothing is tested"
    finite = ~theirs.isinf()
    assert distance(output["logits"][finite], theirs[finite]) < RELATIVE
    valid = golden.valid_frames
    assert distance(output["features"][valid], golden.arrays["masked_encoder_output"][valid]) < (
        RELATIVE
    )
    for key in ("features_pen", "prob_perplexity", "code_perplexity"):
        assert float(output[key]) == pytest.approx(float(golden.arrays[key]), rel=RELATIVE)


@torch.no_grad()
def test_padded_frames_are_those_of_the_reference(golden):
    mask = golden.model()(golden.arrays["source"], golden.padding_mask)["padding_mask"]
    if golden.padding_mask is None:
        assert mask is None
    else:
        assert torch.equal(mask, ~golden.valid_frames)
