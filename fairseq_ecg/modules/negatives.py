"""Distractors for the contrastive task (wav2vec 2.0, Baevski et al., 2020, Section 3.2).

Shapes: B batch, M masked frames per row, N negatives, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_negatives(
    batch: int,
    n_masked: int,
    n_negatives: int,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw, for every masked frame, other masked frames of the same row, with replacement.

    Args:
        batch: Number of rows B.
        n_masked: Masked frames per row M, at least 2.
        n_negatives: Number of negatives N.
        device: Where they are drawn.
        generator: Generator of that device; None = torch's default one.

    Returns:
        int64, [B, M, N]: positions in 0 .. M - 1 within the row, never the frame's own.

    Raises:
        ValueError: If a row has fewer than two masked frames.
    """
    if n_masked < 2:
        raise ValueError(
            f"each row has {n_masked} masked frames, but negatives need at least 2; "
            "raise model.mask_prob or give longer segments"
        )
    drawn = torch.randint(
        n_masked - 1, (batch, n_masked, n_negatives), device=device, generator=generator
    )
    own = torch.arange(n_masked, device=drawn.device)[None, :, None]
    return drawn.add_(drawn >= own)


def local_negatives(flat: Tensor, batch: int, n_masked: int) -> Tensor:
    """Translate indices into the flattened list of all targets to positions within the rows.

    Args:
        flat: int64, [B, M * N]: entry [b, m * N + n] points into [b * M, (b + 1) * M).
        batch: Number of rows B.
        n_masked: Masked frames per row M.

    Returns:
        int64, [B, M, N].

    Raises:
        ValueError: If the shape does not fit or an index leaves its row.
    """
    if flat.dim() != 2 or flat.shape[0] != batch or flat.shape[1] % n_masked:
        raise ValueError(
            f"negative_indices must be [{batch}, {n_masked} * N], not {list(flat.shape)}"
        )
    local = flat - torch.arange(batch, device=flat.device)[:, None] * n_masked
    if local.numel() and (local.min() < 0 or local.max() >= n_masked):
        raise ValueError("negative_indices must point to masked frames of the same row")
    return local.view(batch, n_masked, -1)
