"""From frames to one vector per recording.

Shapes: B batch, L frames, D width.
"""

from __future__ import annotations

from torch import Tensor


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
