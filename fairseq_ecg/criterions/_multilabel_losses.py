"""Losses of multi-label classification besides the cross entropy; plain functions of a batch.

The score-aware terms are those of the winner of the PhysioNet/CinC Challenge 2021: Nejedly et al.,
2021, "Classification of ECG Using Ensemble of Residual CNNs with Attention Mechanism", Computing
in Cardiology 48.
Shapes: B items, K classes. Everything is computed in float32, whatever autocast says.
"""

from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional

# A batch of almost nothing but sinus rhythm has no room between the best answer and the inactive
# one; the score is then measured against this much per item.
LEAST_SPAN = 0.05


def challenge_score_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, sinus_index: int
) -> Tensor:
    """Return 1 - the challenge score of a batch, with probabilities in the place of decisions.

    An item with labels y and probabilities p counts sum_jk y_j W_jk p_k / max(n, 1), where
    n = sum_k (y_k + p_k - y_k p_k) is the expected number of classes true or decided. With p of 0
    and 1 this is the official score, as long as answering rightly is worth at least 0.05 per item
    more than always answering sinus rhythm.

    Args:
        logits: [B, K], any float dtype.
        labels: 0 or 1, [B, K].
        weights: The challenge's table, float32 [K, K].
        sinus_index: Which class is sinus rhythm.

    Returns:
        float32, []: 0 for right answers, 1 for always sinus rhythm.
    """
    with torch.autocast(logits.device.type, enabled=False):
        truth = labels.float()
        credit = truth @ weights
        sinus = torch.zeros_like(truth)
        sinus[:, sinus_index] = 1.0
        observed, correct, inactive = (
            _weighted_confusion(truth, credit, answer)
            for answer in (torch.sigmoid(logits.float()), truth, sinus)
        )
        return (correct - observed) / (correct - inactive).clamp_min(LEAST_SPAN * len(truth))


def sparsity_loss(logits: Tensor) -> Tensor:
    """Return the mean of 4 p (1 - p): 1 where all probabilities are 1/2, 0 where they are 0 or 1.

    Args:
        logits: [B, K], any float dtype.
    """
    probability = torch.sigmoid(logits.float())
    return (4 * probability * (1 - probability)).mean()


def asymmetric_loss(
    logits: Tensor,
    labels: Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    weight: Optional[Tensor] = None,
) -> Tensor:
    """Sum the asymmetric loss of Ridnik et al., 2021 (ICCV, Equation 7) over items and classes.

    A positive costs -(1 - p)^gamma_pos ln p; a negative -q^gamma_neg ln(1 - q) with
    q = max(p - clip, 0).

    Args:
        logits: [B, K], any float dtype.
        labels: 0 or 1, [B, K].
        gamma_neg: Focus on hard negatives.
        gamma_pos: Focus on hard positives.
        clip: Negatives of less probability than this cost nothing.
        weight: Weight of each class, float32 [K].
    """
    logits, positive = logits.float(), labels > 0.5
    probability = torch.sigmoid(logits)
    shifted = (probability - clip).clamp_min(0.0)
    of_positives = -((1 - probability) ** gamma_pos) * functional.logsigmoid(logits)
    # without a shift, ln(1 - p) is taken of the logit, which does not round 1 - p to 0
    log_rest = torch.log1p(-shifted) if clip else functional.logsigmoid(-logits)
    loss = torch.where(positive, of_positives, -(shifted**gamma_neg) * log_rest)
    return (loss if weight is None else loss * weight).sum()


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    weight: Optional[Tensor] = None,
) -> Tensor:
    """Sum the focal loss of Lin et al., 2017 (ICCV, Equation 5) over items and classes.

    A decision with probability r of being right costs -a (1 - r)^gamma ln r, where a is alpha for
    positives and 1 - alpha for negatives.

    Args:
        logits: [B, K], any float dtype.
        labels: 0 or 1, [B, K].
        alpha: Weight of the positives, in [0, 1].
        gamma: Focus on hard decisions.
        weight: Weight of each class, float32 [K].
    """
    positive = labels > 0.5
    towards = torch.where(positive, logits.float(), -logits.float())
    balance = torch.where(positive, alpha, 1 - alpha)
    loss = -balance * torch.sigmoid(-towards) ** gamma * functional.logsigmoid(towards)
    return (loss if weight is None else loss * weight).sum()


def _weighted_confusion(truth: Tensor, credit: Tensor, answer: Tensor) -> Tensor:
    """Sum what the answers [B, K] earn; ``credit`` is the weight of each answer, [B, K]."""
    named = (truth + answer - truth * answer).sum(1).clamp_min(1.0)
    return ((credit * answer).sum(1) / named).sum()
