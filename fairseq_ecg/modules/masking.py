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
    _check(prob, span)
    valid = _valid_frames(batch, n_frames, lengths)
    u = torch.rand(1 if lengths is None else batch, 1, generator=generator, dtype=torch.float64)
    n_spans = (prob * valid.double() / span + u).long().clamp_min(min_spans)  # [B, 1]
    rooms = valid - span
    rooms = torch.where(rooms <= n_spans, n_spans + 1, rooms).clamp_max(n_frames)
    starts = _choose(_columns(n_frames) < rooms, n_spans, generator)
    return _trim(_grow(starts, span) & (_columns(n_frames) < valid), generator)


def sample_fixed_mask(
    batch: int,
    n_frames: int,
    prob: float,
    span: int,
    lengths: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw which frames are masked: whole spans, the same share of each row in any batch.

    ``round(prob * n)`` frames are masked, n the valid frames of the shortest row, but at least one
    span (none if ``prob`` is 0) and at most all n. They form ``masked // span`` spans that do not
    overlap, one of them longer by the remainder; each row places them among its own valid frames,
    every arrangement being equally likely. Only with padding does the number depend on the other
    rows.

    Args:
        batch: Number of rows B.
        n_frames: Number of frames L.
        prob: Share of frames that are masked.
        span: Least frames per span.
        lengths: Valid frames per row, which are its first ones; None = all.
        generator: Generator on the CPU; None = torch's default one.

    Returns:
        bool, [B, L], True = masked, on the CPU, equally many in each row.

    Raises:
        ValueError: If ``prob`` is outside [0, 1] or ``span`` is below 1.
    """
    _check(prob, span)
    valid = _valid_frames(batch, n_frames, lengths)
    if prob == 0:
        return torch.zeros(batch, n_frames, dtype=torch.bool)
    shortest = n_frames if lengths is None else min(lengths)
    masked = min(max(round(prob * shortest), span), shortest)
    n_spans = max(masked // span, 1)
    # Squeeze each span into one slot, draw slots, and stretch them again.
    slots = _choose(_columns(n_frames) < valid - masked + n_spans, n_spans, generator)
    slots = slots.nonzero()[:, 1].view(batch, n_spans)
    sizes = torch.full((batch, n_spans), span)
    longer = torch.randint(n_spans, (batch, 1), generator=generator)
    sizes.scatter_(1, longer, masked - span * (n_spans - 1))
    stretch = (sizes - 1).cumsum(1)
    starts, ends = slots + stretch - (sizes - 1), slots + stretch + 1
    edges = torch.zeros(batch, n_frames + 1, dtype=torch.long)
    edges.scatter_add_(1, starts, torch.ones_like(starts))
    edges.scatter_add_(1, ends, -torch.ones_like(ends))
    return edges.cumsum(1)[:, :-1] > 0


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


def _check(prob: float, span: int) -> None:
    if not 0 <= prob <= 1 or span < 1:
        raise ValueError(f"mask_prob must be in [0, 1] and mask_length >= 1, not {prob} and {span}")


def _valid_frames(batch: int, n_frames: int, lengths: Sequence[int] | None) -> Tensor:
    """Return the valid frames of each row, int64, [B, 1]."""
    if lengths is None:
        return torch.full((batch, 1), n_frames)
    return torch.as_tensor(lengths).reshape(batch, 1)


def _columns(n_frames: int) -> Tensor:
    return torch.arange(n_frames)[None]


def _choose(candidates: Tensor, count: Tensor | int, generator: torch.Generator | None) -> Tensor:
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
