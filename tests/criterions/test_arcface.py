"""The angular margin against its formula, the loss against a loop, and what is logged."""

import math

import numpy as np
import pytest
import torch
from fairseq.logging import metrics

from fairseq_ecg.criterions.arcface import ArcFaceCriterion, ArcFaceCriterionConfig, arcface_logits


def slow_logits(cosine, target, scale, margin):
    logits = np.empty_like(cosine)
    for b, row in enumerate(cosine):
        for p, value in enumerate(row):
            if p != target[b]:
                moved = value
            elif value > math.cos(math.pi - margin):
                moved = math.cos(math.acos(value) + margin)
            else:
                moved = value - margin * math.sin(margin)
            logits[b, p] = scale * moved
    return logits


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0, math.pi])
@pytest.mark.parametrize(("size", "patients"), [(1, 1), (1, 5), (40, 3), (8, 100)])
def test_logits_are_those_of_the_formula(size, patients, margin):
    rng = np.random.default_rng(size)
    cosine = rng.uniform(-1, 1, (size, patients))
    target = rng.integers(0, patients, size)
    found = arcface_logits(torch.tensor(cosine), torch.tensor(target), 192.0, margin)
    np.testing.assert_allclose(found.numpy(), slow_logits(cosine, target, 192.0, margin), atol=1e-9)


@pytest.mark.parametrize("value", [-1.0, 1.0, 0.0, math.nextafter(1, 0), -0.54, -0.541])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_every_angle(value, dtype):
    cosine = torch.full((2, 3), value, dtype=dtype, requires_grad=True)
    logits = arcface_logits(cosine, torch.tensor([0, 2]), 192.0, 1.0)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert torch.isfinite(cosine.grad).all()
    expected = slow_logits(cosine.detach().double().numpy(), [0, 2], 192.0, 1.0)
    np.testing.assert_allclose(logits.detach(), expected, atol=1e-2)


def test_gradients_are_those_of_finite_differences():
    cosine = torch.tensor([[0.3, -0.2], [0.9, -0.95]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1, 1])
    assert torch.autograd.gradcheck(lambda c: arcface_logits(c, target, 8.0, 1.0), (cosine,))


class Network(torch.nn.Module):
    """Puts out its input as cosines, and embeddings."""

    def forward(self, source):
        return {"out": source, "embedding": source[:, :2]}


def batch(cosine, patients, **keys):
    return {"net_input": {"source": cosine}, "label": torch.tensor(patients), **keys}


def test_the_loss_is_summed_over_recordings_and_the_accuracy_is_without_margin():
    cosine = torch.tensor([[0.9, 0.85, -0.3], [0.1, 0.2, 0.3]])
    patients = [0, 1]
    criterion = ArcFaceCriterion(None, scale=16.0, margin=1.0).train()
    loss, size, log = criterion(Network(), batch(cosine, patients))
    logits = slow_logits(cosine.double().numpy(), patients, 16.0, 1.0)
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[[0, 1], patients] - np.log(np.exp(logits).sum(axis=1))
    assert float(loss) == pytest.approx(-own.sum(), rel=1e-5)
    assert logits[0].argmax() == 1  # with the margin the first would count as wrong
    assert (size, log["sample_size"], log["nsentences"], int(log["correct"])) == (2, 2, 2, 1)
    assert "scores" not in log


def test_a_validation_hands_over_embeddings_and_has_no_loss():
    criterion = ArcFaceCriterion(None).eval()
    sample = batch(torch.rand(3, 4), [900, 7, 7], gallery=torch.tensor([0, 0, 1]))
    loss, size, log = criterion(Network(), sample)
    assert (float(loss), size) == (0.0, 3)
    assert log["scores"]["label"].tolist() == [900, 7, 7]
    assert log["scores"]["gallery"].tolist() == [0, 0, 1]
    assert log["scores"]["embedding"].shape == (3, 2)
    assert "loss" not in log
    assert "correct" not in log


def test_summed_logs_give_the_mean_over_all_recordings():
    logs = [
        {"loss": torch.tensor(4.0), "sample_size": 3, "correct": torch.tensor(2)},
        {"loss": 2.0, "sample_size": 1, "correct": 1},
    ]
    with metrics.aggregate() as total:
        ArcFaceCriterion.reduce_metrics(logs)
    values = total.get_smoothed_values()
    assert values["loss"] == pytest.approx(6 / 4 / math.log(2), abs=1e-3)
    assert values["accuracy"] == 0.75
    with metrics.aggregate() as total:
        ArcFaceCriterion.reduce_metrics([{"sample_size": 3}])
    assert math.isnan(total.get_smoothed_values()["loss"])
    assert "accuracy" not in total.get_smoothed_values()


def test_the_metrics_of_a_validation_are_those_of_probes_against_the_gallery():
    criterion = ArcFaceCriterion(None)
    embedding = np.array([[1.0, 0], [0, 1], [2, 0.1], [0.1, 2]])
    is_gallery = np.array([False, False, True, True])
    values = criterion.epoch_metrics(embedding, np.array([4, 5, 4, 4]), is_gallery)
    assert values == {"accuracy": 0.5, "rank5_accuracy": 0.5}
    assert criterion.epoch_metric_names() == list(values)
    assert ArcFaceCriterion.validation_metrics({}) == list(values)


def test_defaults_are_the_references():
    assert (ArcFaceCriterionConfig().scale, ArcFaceCriterionConfig().margin) == (32, 0.5)
    criterion = ArcFaceCriterion(None)
    assert (criterion.scale, criterion.margin) == (32, 0.5)
    assert criterion.logging_outputs_can_be_summed()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scale": 0}, "criterion.scale must be positive, got 0"),
        ({"scale": math.inf}, "criterion.scale must be positive, got inf"),
        ({"margin": -0.1}, "criterion.margin must be 0 to pi, in radians, got -0.1"),
        ({"margin": 57}, "criterion.margin must be 0 to pi, in radians, got 57"),
    ],
)
def test_values_that_cannot_work_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        ArcFaceCriterion(None, **keys)
