"""The local loss by itself."""

import math

import pytest
import torch

from fairseq_ecg.criterions.ecg_wav2vec2 import (
    EcgWav2Vec2Criterion,
    binary_loss,
    count_correct,
    diversity_loss,
    infonce_loss,
)


def test_uniform_logits_cost_ln_101_per_frame():
    logits = torch.zeros(101, 3, 4)
    assert float(infonce_loss(logits)) == pytest.approx(12 * math.log(101), rel=1e-6)


def test_excluded_negatives_do_not_count():
    logits = torch.randn(6, 2, 3)
    excluded = logits.clone()
    excluded[4:] = float("-inf")
    assert torch.allclose(infonce_loss(excluded), infonce_loss(logits[:4]))
    assert torch.allclose(binary_loss(excluded), binary_loss(logits[:4]))


def test_binary_loss_is_the_cross_entropy_of_each_logit():
    logits = torch.randn(6, 2, 3)
    target = torch.zeros_like(logits)
    target[0] = 1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    assert torch.allclose(binary_loss(logits), expected)


def test_a_frame_whose_logits_are_all_equal_is_not_correct():
    logits = torch.zeros(4, 1, 3)
    logits[0, 0, 1] = 1.0  # correct
    logits[2, 0, 2] = 1.0  # wrong
    assert int(count_correct(logits)) == 1


def test_diversity_is_the_unused_share_of_the_codebook():
    assert float(diversity_loss(torch.tensor(160.0), 640)) == 0.75


class _Fixed(torch.nn.Module):
    """A model that returns what it is given."""

    def forward(self, **output):
        return output


def _sample(**changes):
    output = {
        "logits": torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1)),
        "features_pen": torch.tensor(0.25),
        "prob_perplexity": torch.tensor(32.0),
        "num_vars": 64,
        "temp": 1.5,
    }
    return {"net_input": {**output, **changes}}


def test_the_total_is_infonce_plus_weighted_terms_times_frames():
    loss, size, log = EcgWav2Vec2Criterion(None, True, [0.1, 10])(_Fixed(), _sample())
    first = infonce_loss(_sample()["net_input"]["logits"])
    assert size == 6
    assert torch.allclose(loss, first + 6 * (0.1 * 0.5 + 10 * 0.25))
    assert float(log["loss_1"]) == pytest.approx(0.3)
    assert float(log["loss_2"]) == pytest.approx(15.0)


def test_one_weight_serves_both_terms():
    log = EcgWav2Vec2Criterion(None, True, [2.0])(_Fixed(), _sample())[2]
    assert float(log["loss_1"]) == pytest.approx(6.0)
    assert float(log["loss_2"]) == pytest.approx(3.0)


def test_without_weights_the_terms_are_logged_as_zero():
    log = EcgWav2Vec2Criterion(None, True)(_Fixed(), _sample())[2]
    assert (float(log["loss_1"]), float(log["loss_2"])) == (0.0, 0.0)


def test_without_a_quantizer_there_is_no_diversity_term():
    sample = _sample(prob_perplexity=None, num_vars=None)
    log = EcgWav2Vec2Criterion(None, True, [0.1, 10], ["prob_perplexity", "temp"])(
        _Fixed(), sample
    )[2]
    assert float(log["loss_1"]) == 0.0
    assert "prob_perplexity" not in log
    assert log["temp"] == 1.5


def test_three_weights_are_refused():
    with pytest.raises(ValueError, match=r"loss_weights has 3 values .* give two"):
        EcgWav2Vec2Criterion(None, True, [1, 2, 3])


def test_arrays_cannot_be_log_keys():
    with pytest.raises(ValueError, match="what can be logged is prob_perplexity, code_perplexity"):
        EcgWav2Vec2Criterion(None, True, None, ["logits"])
