"""Contrast of the views of one recording with those of others: CMSC, CMLC, CMSMLC.

Kiyasseh, Zhu, Clifton: CLOCS, ICML 2021, Section 4. CMSC takes two adjacent segments as views, CMLC
the leads of a segment, CMSMLC both. CMSC is computed as in Oh et al., 2022: each positive counts
alike. With more views, as in CLOCS: the views of one item are one term, and those of other items of
the same patient another one.
Shapes: B batch of views, n items, V views per item.
"""

from dataclasses import dataclass
from typing import Any, Dict, Tuple

import torch
from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_ecg.criterions._contrast import (
    LOWEST,
    ContrastiveConfig,
    ContrastiveCriterion,
    mean_contrast,
)


def pair_masks(patient_id: Tensor, segment: Tensor) -> Tuple[Tensor, Tensor]:
    """Compare first segments with second ones and the other way round.

    Args:
        patient_id: int, [B]; rows with equal ids are positives of each other.
        segment: int, [B]: 0 = first of a pair, 1 = second; other rows do not take part.

    Returns:
        Positives, and all that are compared; bool, [B, B] each.
    """
    crossed = (segment == 0)[:, None] & (segment == 1)[None]
    compared = crossed | crossed.T
    return compared & (patient_id[:, None] == patient_id[None]), compared


def pair_loss(vectors: Tensor, patient_id: Tensor, segment: Tensor, temp: float = 0.1) -> Tensor:
    """Compute the two-sided cross-entropy between first and second segments.

    Args:
        vectors: Unit vectors, float32, [B, D].
        patient_id: int, [B]; rows with equal ids are positives of each other.
        segment: int, [B]: 0 = first of a pair, 1 = second; other rows do not take part.
        temp: Divisor of the similarities.

    Returns:
        float32, []: the mean over positives, by rows and by columns, in nats; 0 without positives.
    """
    return mean_contrast(vectors @ vectors.T / temp, *pair_masks(patient_id, segment))


def view_masks(patient_id: Tensor, view: Tensor) -> Tuple[Tensor, Tensor]:
    """Compare each view with all rows that are other views.

    Args:
        patient_id: int, [B]; other views of equal ids are positives of each other.
        view: int, [B]: number of the view of its item; -1 does not take part.

    Returns:
        Positives, and all that are compared; bool, [B, B] each.
    """
    real = view >= 0
    compared = (view[:, None] != view[None]) & real[:, None] & real[None]
    return compared & (patient_id[:, None] == patient_id[None]), compared


def view_loss(similarity: Tensor, positive: Tensor, view: Tensor, n_views: int) -> Tensor:
    """Compute the loss of CLOCS over all ordered pairs of different views.

    For views v and w, row i of v is to be told which of the n rows of w belongs to it. That is one
    term; a second one, where there are any, are the rows of w of other items of the same patient.
    The loss is the mean over pairs of views of the mean of the two terms, each itself a mean.

    Args:
        similarity: float32, [B, B] with B = n * V, item by item, divided by the temperature.
        positive: bool, [B, B], other views of the same patient.
        view: int, [B]: number of the view of its item; -1 does not take part.
        n_views: V.

    Returns:
        float32, [], in nats.
    """
    rows = len(similarity)
    scores = similarity.masked_fill((view < 0)[None], LOWEST)
    log_share = scores.view(rows, -1, n_views).log_softmax(1).view(rows, rows)
    item = torch.arange(rows, device=view.device) // n_views
    same_item = item[:, None] == item[None]
    own, others = positive & same_item, positive & ~same_item
    means = [
        -log_share.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1) for mask in (own, others)
    ]
    return (means[0] + means[1]) / (1 + others.any())


@dataclass
class CmscConfig(ContrastiveConfig):
    """Keys of ``cmsc``."""


@register_criterion("cmsc", dataclass=CmscConfig)
class CmscCriterion(ContrastiveCriterion):
    """CMSC of pairs of segments; CMLC and CMSMLC where the task gives leads as views."""

    task_views = "task.views=cmsc, cmlc or cmsmlc"

    def needed(self, sample: Dict[str, Any]) -> Tuple[str, ...]:
        """Return the keys of views, or of pairs where the batch has no views."""
        views = ("view", "n_views") if "view" in sample else ("segment",)
        return ("patient_id", *views)

    def masks(self, keys: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
        """See ``pair_masks`` and ``view_masks``."""
        if "segment" in keys:
            return pair_masks(keys["patient_id"], keys["segment"])
        return view_masks(keys["patient_id"], keys["view"])

    def loss(
        self, similarity: Tensor, positive: Tensor, compared: Tensor, keys: Dict[str, Any]
    ) -> Tensor:
        """See ``mean_contrast`` and ``view_loss``."""
        if "segment" in keys:
            return mean_contrast(similarity, positive, compared)
        return view_loss(similarity, positive, keys["view"], keys["n_views"])
