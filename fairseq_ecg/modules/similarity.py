"""Contrastive logits: cosine similarity of predictions with targets and distractors.

Shapes: B batch, M masked frames per row, N negatives, D width, G quantizer groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_logits(
    predicted: Tensor,
    targets: Tensor,
    negatives: Tensor,
    temperature: float,
    codes: Tensor | None = None,
) -> Tensor:
    """Score each prediction against its own target and its negatives.

    One [B, M, M] similarity holds every pair that can be asked for; the negatives are looked up in
    it, so no [N, B, M, D] tensor is ever built. Computed in float32.

    Args:
        predicted: float, [B, M, D].
        targets: float, [B, M, D].
        negatives: int64, [B, M, N], positions within the row.
        temperature: Divisor of the cosine similarity.
        codes: int64, [B, M, G]: a negative with the codes of the positive gets -inf; None = no
            negative is excluded.

    Returns:
        float32, [1 + N, B, M]; entry 0 is the positive.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted = F.normalize(predicted.float(), dim=-1, eps=1e-8)
        targets = F.normalize(targets.float(), dim=-1, eps=1e-8)
        similarity = predicted @ targets.transpose(1, 2) / temperature  # [B, M, M]
        positive = similarity.diagonal(dim1=1, dim2=2)  # [B, M]
        if codes is not None:
            equal = (codes[:, :, None] == codes[:, None]).all(-1)  # [B, M, M]
            similarity = similarity.masked_fill(equal, float("-inf"))
        logits = torch.cat([positive[..., None], similarity.gather(2, negatives)], dim=2)
        return logits.permute(2, 0, 1)
