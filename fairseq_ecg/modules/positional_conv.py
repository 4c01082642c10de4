"""Relative positions by a grouped convolution over frames (Baevski et al., 2020, Section 2).

Shapes: B batch, L frames, D width.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class PositionalConv(nn.Module):
    """Weight-normed grouped convolution, GELU; as many frames out as in.

    Args:
        width: Width D of a frame.
        kernel: Number of frames that one output sees.
        groups: Number of groups of the convolution.

    Raises:
        ValueError: If ``width`` is no multiple of ``groups``.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(
                f"encoder_embed_dim ({width}) must be a multiple of conv_pos_groups ({groups})"
            )
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, mean=0.0, std=math.sqrt(4.0 / (kernel * width)))
        nn.init.zeros_(conv.bias)
        self.pos_conv = nn.Sequential(weight_norm(conv, name="weight", dim=2), nn.GELU())

    def forward(self, frames: Tensor) -> Tensor:
        """Return the positional part of each frame, to be added to it.

        Args:
            frames: float, [B, L, D].

        Returns:
            float, [B, L, D].
        """
        n_frames = frames.shape[1]
        positions = self.pos_conv(frames.transpose(1, 2))  # [B, D, L], or L + 1 if kernel is even
        return positions[:, :, :n_frames].transpose(1, 2)
