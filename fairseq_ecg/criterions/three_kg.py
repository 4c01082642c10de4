"""3KG (Gopal et al., ML4H 2021, PMLR 158): contrast of patients, on rotated and scaled copies.

All copies of one patient are positives of each other; each is told apart from the copies of other
patients, not from the other positives. The augmentation is the task's.
"""

from dataclasses import dataclass
from typing import Any, Dict, Tuple

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_ecg.criterions._contrast import LOWEST, ContrastiveConfig, ContrastiveCriterion


def patient_masks(patient_id: Tensor, view: Tensor) -> Tuple[Tensor, Tensor]:
    """Compare each row with all others; positives are those of the same patient.

    Args:
        patient_id: int, [B].
        view: int, [B]; -1 does not take part.

    Returns:
        Positives, and all that are compared; bool, [B, B] each.
    """
    row = torch.arange(len(view), device=view.device)
    real = view >= 0
    compared = (row[:, None] != row[None]) & real[:, None] & real[None]
    return compared & (patient_id[:, None] == patient_id[None]), compared


def patient_loss(similarity: Tensor, positive: Tensor, compared: Tensor) -> Tensor:
    """Pick each positive among itself and all negatives, the other positives left out.

    -log(e^s / (e^s + sum of e^negatives)) is softplus(logsumexp(negatives) - s).

    Args:
        similarity: float32, [B, B], divided by the temperature already.
        positive: bool, [B, B].
        compared: bool, [B, B], the positives among them.

    Returns:
        float32, []: sum over positives divided by the number of views that take part, in nats.
    """
    negatives = similarity.masked_fill(~compared | positive, LOWEST).logsumexp(1, keepdim=True)
    surprise = F.softplus(negatives - similarity).masked_fill(~positive, 0.0)
    return surprise.sum() / compared.any(1).sum().clamp_min(1)


@dataclass
class ThreeKgConfig(ContrastiveConfig):
    """Keys of ``3kg``."""


@register_criterion("3kg", dataclass=ThreeKgConfig)
class ThreeKgCriterion(ContrastiveCriterion):
    """Cross-entropy of each positive among itself and all negatives, summed."""

    needs = ("patient_id", "view")
    task_views = "task.views=3kg"

    def masks(self, keys: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
        """See ``patient_masks``."""
        return patient_masks(keys["patient_id"], keys["view"])

    def loss(
        self, similarity: Tensor, positive: Tensor, compared: Tensor, keys: Dict[str, Any]
    ) -> Tensor:
        """See ``patient_loss``."""
        return patient_loss(similarity, positive, compared)
