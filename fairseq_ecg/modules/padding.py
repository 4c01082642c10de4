"""From padded samples to padded frames.

Shapes: B batch, C leads, T samples, L frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class FramePadding(NamedTuple):
    """Which frames of a batch are padding."""

    mask: Tensor  # bool, [B, L], True = padded, on the device of the batch
    lengths: list[int]  # valid frames per row


def frame_padding(
    padding_mask: Tensor | None, n_frames: int, output_length: Callable[[int], int]
) -> FramePadding | None:
    """Find the frames that see padding.

    A row's padding stands at its end. A frame is valid if all of its samples are. This is the only
    place of a step that waits for the device, and only if a mask is given.

    Args:
        padding_mask: bool, True = padded, [B, T], or [B, C, T] with equal rows for all leads.
        n_frames: Number of frames L of the batch.
        output_length: Number of frames that a number of samples gives.

    Returns:
        The padded frames, or None if no sample is padded.

    Raises:
        ValueError: If the mask has another shape, a row begins with padding, or has not one valid
            frame.
    """
    if padding_mask is None:
        return None
    if padding_mask.dim() not in (2, 3):
        raise ValueError(
            f"padding_mask is expected as [B, T] (or [B, C, T]), not {list(padding_mask.shape)}"
        )
    if padding_mask.dim() == 3:
        padding_mask = padding_mask[:, 0]
    n_samples = padding_mask.shape[1]
    valid = n_samples - padding_mask.long().sum(1)
    begins_padded = (padding_mask[:, 0] & (valid > 0)).any().long()[None]
    in_front, *valid_samples = torch.cat([begins_padded, valid]).tolist()
    if in_front:
        raise ValueError(
            "this network takes padding behind a recording only, but the batch has some in front; "
            "give task.pad_segments=end"
        )
    if min(valid_samples) == n_samples:
        return None
    lengths = [output_length(length) for length in valid_samples]
    if min(lengths) < 1:
        row = lengths.index(min(lengths))
        raise ValueError(
            f"row {row} of the batch has {valid_samples[row]} valid samples, too few for one "
            "frame; leave such recordings out (task.min_sample_size)"
        )
    valid = torch.tensor(lengths).to(padding_mask.device)
    mask = torch.arange(n_frames, device=padding_mask.device) >= valid[:, None]
    return FramePadding(mask, lengths)


def of_time(padding_mask: Tensor) -> Tensor:
    """Return a padding mask as bool [B, T]; one of [B, C, T] is equal for all leads."""
    return padding_mask[:, 0] if padding_mask.dim() == 3 else padding_mask


def padded_frames(padding_mask: Tensor, n_frames: int, frame_samples: int) -> Tensor:
    """Find the frames that have padded samples only, wherever they stand.

    Args:
        padding_mask: bool, True = padded, [B, T], or [B, C, T] with equal rows for all leads.
        n_frames: Number of frames L.
        frame_samples: Samples per frame; frame l has those from l * ``frame_samples`` on.

    Returns:
        bool, [B, L], True = padded.
    """
    padded = of_time(padding_mask)
    rest = n_frames * frame_samples - padded.shape[1]
    padded = functional.pad(padded, (0, rest), value=True) if rest else padded
    return padded.unflatten(1, (n_frames, frame_samples)).all(-1)
