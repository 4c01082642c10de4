"""The losses against their formulas in numpy, and the score loss against the official score."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from fairseq_ecg.criterions._multilabel_losses import (
    LEAST_SPAN,
    asymmetric_loss,
    challenge_score_loss,
    focal_loss,
    sparsity_loss,
)
from fairseq_ecg.metrics.cinc2021 import challenge_score, challenge_sums, find_class, load_weights
from fairseq_ecg.resources import challenge_weights_file

CLASSES, WEIGHTS = load_weights(challenge_weights_file())
SINUS = find_class(CLASSES)
TABLE = torch.from_numpy(WEIGHTS).float()


def problem(seed, n=20, k=26, share=0.15):
    rng = np.random.default_rng(seed)
    labels = rng.random((n, k)) < share
    decisions = np.where(rng.random((n, k)) < 0.9, labels, ~labels)
    return labels, decisions


def sure(decisions):
    """Logits whose probabilities are 0 and 1 in float32."""
    return torch.from_numpy(np.where(decisions, 200.0, -200.0)).float()


def loss_of(logits, labels, weights=TABLE, sinus=SINUS):
    return challenge_score_loss(logits, torch.from_numpy(labels), weights, sinus)


# --- the challenge score ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 20, 100])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_with_probabilities_of_0_and_1_it_is_the_official_score(n, share):
    checked = 0
    for seed in range(8):
        labels, decisions = problem(seed, n=n, share=share)
        sums = challenge_sums(labels, labels, WEIGHTS, SINUS)
        if sums.correct - sums.inactive < LEAST_SPAN * n:
            continue
        expected = 1 - challenge_score(labels, decisions, WEIGHTS, SINUS)
        assert float(loss_of(sure(decisions), labels)) == pytest.approx(expected, abs=2e-5)
        checked += 1
    assert checked > 2


def test_right_answers_cost_nothing_and_always_sinus_rhythm_costs_1():
    labels, _ = problem(0)
    sinus = np.zeros_like(labels)
    sinus[:, SINUS] = True
    assert float(loss_of(sure(labels), labels)) == pytest.approx(0, abs=1e-6)
    assert float(loss_of(sure(sinus), labels)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_with_other_probabilities_it_is_the_formula_in_numpy(k):
    rng = np.random.default_rng(k)
    labels = rng.random((9, k)) < 0.5
    weights = rng.random((k, k))
    logits = rng.normal(size=(9, k)) * 3

    def earned(answer):
        total = 0.0
        for y, p in zip(labels.astype(float), answer, strict=True):
            named = max(sum(y[j] + p[j] - y[j] * p[j] for j in range(k)), 1)
            total += sum(y[j] * weights[j, m] * p[m] for j in range(k) for m in range(k)) / named
        return total

    probability = 1 / (1 + np.exp(-logits))
    sinus = np.eye(k)[[k - 1]].repeat(9, axis=0)
    observed, correct, inactive = (earned(a) for a in (probability, labels.astype(float), sinus))
    expected = (correct - observed) / max(correct - inactive, LEAST_SPAN * 9)
    found = loss_of(torch.from_numpy(logits), labels, torch.from_numpy(weights).float(), k - 1)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_finite_differences_and_points_to_the_truth():
    labels, decisions = problem(3, n=6, k=26)
    logits = (0.5 * sure(decisions) / 200).requires_grad_()
    loss_of(logits, labels).backward()
    for i, j in ((0, 0), (1, SINUS), (2, 7), (5, 25)):
        values = []
        for step in (0.05, -0.05):
            moved = logits.detach().clone()
            moved[i, j] += step
            values.append(float(loss_of(moved, labels)))
        assert float(logits.grad[i, j]) == pytest.approx((values[0] - values[1]) / 0.1, abs=2e-4)
    # of one positive class, more probability is better; of unrelated ones, less is
    one = np.zeros((1, 26), dtype=bool)
    one[0, 0] = True
    logits = torch.zeros(1, 26, requires_grad=True)
    loss_of(logits, one).backward()
    assert logits.grad[0, 0] < 0
    assert logits.grad[0, int(WEIGHTS[0].argmin())] > 0


def test_a_step_down_the_gradient_improves_the_official_score():
    labels, _ = problem(4, n=30)
    logits = torch.zeros(30, 26, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(logits, labels).backward()
        optimizer.step()
    decisions = (logits > 0).numpy()
    assert challenge_score(labels, decisions, WEIGHTS, SINUS) > 0.9


def test_a_batch_of_sinus_rhythm_alone_has_a_finite_loss_and_gradient():
    labels = np.zeros((4, 26), dtype=bool)
    labels[:, SINUS] = True
    logits = torch.zeros(4, 26, requires_grad=True)
    loss = loss_of(logits, labels)
    loss.backward()
    assert 0 < float(loss) <= 1 / LEAST_SPAN
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, SINUS] < 0).all()


def test_autocast_does_not_round_the_score():
    labels, decisions = problem(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(sure(decisions).bfloat16(), labels)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(
        1 - challenge_score(labels, decisions, WEIGHTS, SINUS), abs=2e-5
    )


# --- the others ---------------------------------------------------------------------------------


def test_sparsity_is_1_where_nothing_is_decided_and_0_where_everything_is():
    assert float(sparsity_loss(torch.zeros(3, 4))) == 1.0
    assert float(sparsity_loss(torch.tensor([[200.0, -200.0]]))) == 0.0
    logits = torch.randn(5, 3)
    p = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    assert float(sparsity_loss(logits)) == pytest.approx((4 * p * (1 - p)).mean(), rel=1e-6)


@pytest.mark.parametrize("gammas", [(0, 0), (4, 0), (4, 1), (1, 2.5)])
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 0.0]])
def test_the_asymmetric_loss_is_its_formula(gammas, clip, weight):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 3)) * 3, rng.random((7, 3)) < 0.4
    p = 1 / (1 + np.exp(-logits))
    q = np.maximum(p - clip, 0)
    loss = np.where(labels, -((1 - p) ** gammas[1]) * np.log(p), -(q ** gammas[0]) * np.log(1 - q))
    expected = (loss * (1.0 if weight is None else np.array(weight))).sum()
    given = None if weight is None else torch.tensor(weight)
    tensors = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)
    found = asymmetric_loss(*tensors, *gammas, clip, given)
    found.backward()
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(tensors[0].grad).all()


@pytest.mark.parametrize("gamma", [0, 1, 2])
@pytest.mark.parametrize("alpha", [0.25, 0.5])
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 0.0]])
def test_the_focal_loss_is_its_formula(gamma, alpha, weight):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(7, 3)) * 3, rng.random((7, 3)) < 0.4
    p = 1 / (1 + np.exp(-logits))
    right = np.where(labels, p, 1 - p)
    loss = -np.where(labels, alpha, 1 - alpha) * (1 - right) ** gamma * np.log(right)
    expected = (loss * (1.0 if weight is None else np.array(weight))).sum()
    given = None if weight is None else torch.tensor(weight)
    found = focal_loss(torch.from_numpy(logits), torch.from_numpy(labels), alpha, gamma, given)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_without_focus_both_are_the_cross_entropy():
    logits, labels = torch.randn(6, 4) * 4, (torch.rand(6, 4) < 0.5).float()
    expected = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    torch.testing.assert_close(asymmetric_loss(logits, labels, 0, 0, 0), expected)
    torch.testing.assert_close(2 * focal_loss(logits, labels, 0.5, 0), expected)


@pytest.mark.parametrize("size", [30.0, 200.0, math.inf])
def test_extreme_logits_give_finite_gradients(size):
    size = min(size, 1e30)
    logits = torch.tensor([[size, -size, size, -size]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    for loss in (asymmetric_loss, focal_loss):
        logits.grad = None
        loss(logits, labels).backward()
        assert torch.isfinite(logits.grad).all(), loss
