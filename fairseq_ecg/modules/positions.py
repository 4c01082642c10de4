"""Where a token stands in its row, as a vector that is added to it.

Shapes: N tokens of a row, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sine_cosine(count: int, width: int) -> Tensor:
    """Return the table of Vaswani et al., 2017, Section 3.5: sines, then cosines, base 10000.

    Args:
        count: Number of places, the first of which is 0.
        width: Width D, even.

    Returns:
        float32, [count, D].
    """
    exponents = torch.arange(width // 2, dtype=torch.float64) / (width / 2)
    angles = torch.arange(count, dtype=torch.float64)[:, None] / 10000**exponents
    return torch.cat([angles.sin(), angles.cos()], 1).float()


class SineCosinePositions(nn.Module):
    """Fixed positions of any number of tokens; not in the state dict.

    Args:
        width: Width D, even.
        count: Tokens of a row to prepare for; more are added when they come.
    """

    def __init__(self, width: int, count: int = 0) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("table", sine_cosine(count + 2, width), persistent=False)

    def forward(self, count: int) -> Tensor:
        """Return the places 0 (before the first token) to N + 1 (after the last), [N + 2, D]."""
        if count + 2 > len(self.table):
            self.table = sine_cosine(count + 2, self.width).to(self.table)
        return self.table[: count + 2]


class LearnedPositions(nn.Module):
    """A learned vector for each place.

    Args:
        width: Width D.
        count: Largest number of tokens of a row.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(count + 2, width).normal_(std=0.02))
        self.table.param_group = "no_decay"

    def forward(self, count: int) -> Tensor:
        """Return the places 0 (before the first token) to N + 1 (after the last), [N + 2, D].

        Raises:
            ValueError: If there are more tokens than places.
        """
        if count + 2 > len(self.table):
            raise ValueError(
                f"a recording has {count} patches, but learned positions are there for "
                f"{len(self.table) - 2} (model.window); give shorter windows with task.segment_s, "
                "or train with model.position=sincos"
            )
        return self.table[: count + 2]
