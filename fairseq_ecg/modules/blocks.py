"""Recordings in blocks of equally many samples, some of them hidden from the network.

Shapes: B batch, C leads, T samples, N blocks of P samples.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def hide_blocks(source: Tensor, mask: Tensor, block: int | None = None) -> Tensor:
    """Set the samples of hidden blocks to zero.

    Args:
        source: Recordings, float, [B, C, T].
        mask: bool, [B, C, N], True = hidden; block n is the samples from n * P on.
        block: Samples per block P; samples behind the last whole block stay. None: T / N.

    Raises:
        ValueError: If the mask does not fit.
    """
    if mask.shape[:2] != source.shape[:2]:
        raise ValueError(
            f"mask is expected as [B, C, N] of the recordings {list(source.shape)}, but has the "
            f"shape {list(mask.shape)}"
        )
    return source.masked_fill(samples_of_blocks(mask, source.shape[-1], block), 0.0)


def samples_of_blocks(mask: Tensor, n_samples: int, block: int | None = None) -> Tensor:
    """Say of each sample whether its block is hidden.

    Args:
        mask: bool, [..., N].
        n_samples: Number of samples T.
        block: Samples per block P; None: T / N.

    Returns:
        bool, [..., T]; False behind the last whole block.

    Raises:
        ValueError: If T samples are not N blocks.
    """
    n_blocks = mask.shape[-1]
    fits = n_samples % max(n_blocks, 1) == 0 if block is None else n_blocks == n_samples // block
    if n_blocks == 0 or not fits:
        raise ValueError(
            f"the mask has {n_blocks} blocks, which {n_samples} samples do not have"
            + (f" with task.mask_block={block}" if block else "")
        )
    block = n_samples // n_blocks if block is None else block
    samples = mask.repeat_interleave(block, dim=-1)
    return functional.pad(samples, (0, n_samples - n_blocks * block), value=False)
