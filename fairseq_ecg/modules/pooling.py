"""From frames to one vector per recording.

Shapes: B batch, L frames, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mean_of_nonzero(features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Average each channel over the frames in which it is not exactly zero.

    This is the pooling of the reference's global branch; without exact zeros it is the mean over
    valid frames. A channel that is zero everywhere gives 0 instead of 0 / 0.

    Args:
        features: float, [B, L, D].
        padding_mask: bool, [B, L], True = padded, counted as zero; None = nothing is padded.

    Returns:
        float, [B, D].
    """
    if padding_mask is not None:
        features = features.masked_fill(padding_mask[..., None], 0.0)
    return features.sum(1) / (features != 0).sum(1).clamp_min(1)


def mean_of_valid(features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Average each channel over the valid frames, zeros included.

    Args:
        features: float, [B, L, D].
        padding_mask: bool, [B, L], True = padded; None = nothing is padded.

    Returns:
        float, [B, D]; 0 for a row that is padded only.
    """
    if padding_mask is None:
        return features.mean(1)
    valid = (~padding_mask)[..., None].to(features.dtype)
    return (features * valid).sum(1) / valid.sum(1).clamp_min(1)


def max_of_valid(features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Return the largest value of each channel over the valid frames.

    Args:
        features: float, [B, L, D].
        padding_mask: bool, [B, L], True = padded; None = nothing is padded.

    Returns:
        float, [B, D]; -inf for a row that is padded only.
    """
    if padding_mask is not None:
        features = features.masked_fill(padding_mask[..., None], -torch.inf)
    return features.amax(1)


class GatedAttentionPool(nn.Module):
    """Average frames by weights that the frames choose (Ilse et al., 2018, ICML, Eq. 9).

    The weight of frame t is softmax over time of w . (tanh(V h_t) * sigmoid(U h_t)).

    Args:
        width: D.
        inner: Rows of V and of U.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.content = nn.Linear(width, inner)  # V
        self.gate = nn.Linear(width, inner)  # U
        self.score = nn.Linear(inner, 1, bias=False)  # w

    def forward(self, features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the weighted mean, float [B, D]; args as ``max_of_valid``."""
        gated = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))
        score = self.score(gated)[..., 0].float()
        if padding_mask is not None:
            score = score.masked_fill(padding_mask, -torch.inf)
        return torch.einsum("bl,bld->bd", score.softmax(1).to(features.dtype), features)
