"""Span masking of frames (wav2vec 2.0, Baevski et al., 2020, Section 3.1 and Appendix A).

Shapes: B batch, L frames, M masked frames per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sample_span_mask(
    batch: int,
    n_frames: int,
    prob: float,
    span: int,
    lengths: Sequence[int] | None = None,
    min_spans: int = 2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw which frames are masked: spans that may overlap, equally many frames in each row.

    A row of n valid frames gets ``int(prob * n / span + u)`` spans, u uniform in [0, 1), but at
    least ``min_spans``; their starts are distinct and leave room for a whole span. Then every row
    loses randomly chosen masked frames until it has as many as the poorest row, so that the masked
    share falls with the batch size. Without ``lengths`` all rows share one draw of u.

    Args:
        batch: Number of rows B.
        n_frames: Number of frames L.
        prob: Share of frames that would be masked if no spans overlapped.
        span: Frames per span.
        lengths: Valid frames per row, which are its first ones; None = all.
        min_spans: Least number of spans per row.
        generator: Generator on the CPU; None = torch's default one.

    Returns:
        bool, [B, L], True = masked, on the CPU.

    Raises:
        ValueError: If ``prob`` is outside [0, 1] or ``span`` is below 1.
    """
    if not 0 <= prob <= 1 or span < 1:
        raise ValueError(f"mask_prob must be in [0, 1] and mask_length >= 1, not {prob} and {span}")
    valid = torch.full((batch, 1), n_frames)
    if lengths is not None:
        valid = torch.as_tensor(lengths).reshape(batch, 1)
    u = torch.rand(1 if lengths is None else batch, 1, generator=generator, dtype=torch.float64)
    n_spans = (prob * valid.double() / span + u).long().clamp_min(min_spans)  # [B, 1]
    rooms = valid - span
    rooms = torch.where(rooms <= n_spans, n_spans + 1, rooms).clamp_max(n_frames)
    starts = _choose(_columns(n_frames) < rooms, n_spans, generator)
    return _trim(_grow(starts, span) & (_columns(n_frames) < valid), generator)


def masked_positions(mask: Tensor) -> Tensor:
    """Return the masked frames of each row in ascending order.

    Args:
        mask: bool, [B, L], with equally many True per row.

    Returns:
        int64, [B, M].

    Raises:
        ValueError: If the rows have different numbers of True.
    """
    rows, columns = mask.nonzero(as_tuple=True)
    batch = mask.shape[0]
    if len(columns) % batch or not torch.equal(
        rows, torch.arange(batch, device=mask.device).repeat_interleave(len(columns) // batch)
    ):
        counts = mask.sum(1).tolist()
        raise ValueError(
            f"mask_indices must mask equally many frames in every row, not {min(counts)} to "
            f"{max(counts)}"
        )
    return columns.view(batch, -1)


def _columns(n_frames: int) -> Tensor:
    return torch.arange(n_frames)[None]


def _choose(candidates: Tensor, count: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mark ``count`` [B, 1] candidates per row, uniformly without replacement; bool, [B, L]."""
    order = torch.rand(candidates.shape, generator=generator)
    order = order.masked_fill_(~candidates, 2.0).argsort(1)
    ranks = torch.empty_like(order).scatter_(1, order, _columns(order.shape[1]).expand_as(order))
    return candidates & (ranks < count)


def _grow(starts: Tensor, span: int) -> Tensor:
    """Turn starts into spans: a frame is inside if a start lies at most span - 1 before it."""
    seen = starts.long().cumsum(1)
    before = torch.zeros_like(seen)
    before[:, span:] = seen[:, :-span]
    return seen > before


def _trim(mask: Tensor, generator: torch.Generator | None) -> Tensor:
    return _choose(mask, mask.sum(1).min(), generator)
