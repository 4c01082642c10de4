"""Convolutions of several widths side by side, the local half of Yang et al., 2022 (ECG-MAE).

The blocks are those of InceptionTime (Fawaz et al., 2020, Data Mining and Knowledge Discovery 34).
Shapes: B batch, C channels that come in, S channels of the stem, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8  # of the group norm
ACTIVATIONS = {"gelu": functional.gelu, "relu": functional.relu}
NORMS = ("group", "batch")


def odd_kernels(widths_ms: Sequence[float], rate_hz: float) -> list[int]:
    """Convert widths in time to the nearest odd numbers of samples, at least 1.

    Args:
        widths_ms: Widths of kernels, milliseconds.
        rate_hz: Sampling rate, Hz.
    """
    samples = (width * rate_hz / 1000 for width in widths_ms)
    return [max(1, 2 * round((width - 1) / 2) + 1) for width in samples]


class MultiScaleStem(nn.Module):
    """Blocks of parallel convolutions, and one shortcut around all of them; length is kept.

    Args:
        in_channels: Channels C that come in.
        channels: Channels S that go out of each block, equally many from each branch.
        kernels: Odd width of each convolution, samples; one more branch takes local maxima.
        blocks: Number of blocks.
        norm: ``"group"`` (each recording by itself) or ``"batch"``.
        activation: ``"gelu"`` or ``"relu"``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 128,
        kernels: Sequence[int] = (9, 19, 39),
        blocks: int = 3,
        norm: str = "group",
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.activate = ACTIVATIONS[activation]
        self.blocks = nn.ModuleList(
            MultiScaleBlock(channels if i else in_channels, channels, kernels, norm, activation)
            for i in range(blocks)
        )
        self.shortcut = nn.Conv1d(in_channels, channels, 1, bias=False)
        self.shortcut_norm = _norm(norm, channels)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, x: Tensor, valid: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """Convolve.

        With group norm a recording that is padded gives, where it is valid, what it gives alone.

        Args:
            x: float, [B, C, T].
            valid: bool, [B, 1, T], False = padded, where ``x`` must be 0; None = nothing is padded.
            visible: float, [B, 1, T], share of the channels that are not hidden; each convolution
                is then divided by the share of its taps that are visible. None = no division.

        Returns:
            float, [B, S, T]; 0 where padded.
        """
        y = x
        for block in self.blocks:
            y = block(y, valid, visible)
        y = self.activate(y + _normalise(self.shortcut_norm, self.shortcut(x), valid))
        return _silence(y, valid)


class MultiScaleBlock(nn.Module):
    """A narrow mix of channels, convolutions of it side by side, and local maxima.

    Args: those of ``MultiScaleStem``.
    """

    def __init__(
        self, in_channels: int, channels: int, kernels: Sequence[int], norm: str, activation: str
    ) -> None:
        super().__init__()
        self.activate = ACTIVATIONS[activation]
        width = channels // (len(kernels) + 1)
        self.bottleneck = nn.Conv1d(in_channels, width, 1, bias=False)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, bias=False) for kernel in kernels
        )
        self.maxima = nn.MaxPool1d(3, stride=1, padding=1)
        self.maxima_proj = nn.Conv1d(in_channels, width, 1, bias=False)
        self.norm = _norm(norm, channels)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """Apply the block; args and result are those of ``MultiScaleStem.forward``."""
        narrow = self.bottleneck(x)
        branches = [_renormalised(conv, narrow, visible) for conv in self.convs]
        tops = x if valid is None else x.masked_fill(~valid, torch.finfo(x.dtype).min)
        branches.append(self.maxima_proj(_silence(self.maxima(tops), valid)))
        y = _normalise(self.norm, torch.cat(branches, 1), valid)
        return _silence(self.activate(y), valid)


def _renormalised(conv: nn.Conv1d, x: Tensor, visible: Tensor | None) -> Tensor:
    """Convolve, and divide by the visible share of the taps, at least one of them.

    Places beyond the ends count as visible, so that a recording with nothing hidden stays as it is.
    """
    y = conv(x)
    if visible is None:
        return y
    kernel = conv.kernel_size[0]
    beyond = functional.pad(visible, (kernel // 2, kernel // 2), value=1.0)
    return y / functional.avg_pool1d(beyond, kernel, stride=1).clamp_min(1 / kernel)


def _norm(name: str, channels: int) -> nn.Module:
    return nn.BatchNorm1d(channels) if name == "batch" else nn.GroupNorm(GROUPS, channels)


def _normalise(norm: nn.Module, x: Tensor, valid: Tensor | None) -> Tensor:
    """Apply a norm; the statistics of a group norm are those of the valid samples."""
    if valid is None or not isinstance(norm, nn.GroupNorm):
        return norm(x)
    groups = x.unflatten(1, (norm.num_groups, -1))  # [B, G, S/G, T]
    weight = valid[:, None].to(x.dtype)
    count = (weight.sum(-1, keepdim=True) * groups.shape[2]).clamp_min(1)
    mean = (groups * weight).sum((2, 3), keepdim=True) / count
    var = ((groups - mean).square() * weight).sum((2, 3), keepdim=True) / count
    scaled = ((groups - mean) * torch.rsqrt(var + norm.eps)).flatten(1, 2)
    return scaled * norm.weight[:, None] + norm.bias[:, None]


def _silence(x: Tensor, valid: Tensor | None) -> Tensor:
    return x if valid is None else x.masked_fill(~valid, 0.0)
