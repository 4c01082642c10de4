"""Convolutional feature extractor over all leads (wav2vec 2.0, Baevski et al., 2020, Section 2).

Shapes: B batch, C leads, T samples, L frames, E channels of the last block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from fairseq.modules import Fp32GroupNorm, Fp32LayerNorm, TransposeLast
from torch import Tensor, nn

MODES = ("default", "layer_norm")


class ConvFeatures(nn.Module):
    """A stack of blocks: convolution without padding, dropout, norm, GELU.

    Args:
        layers: ``(channels, kernel, stride)`` of each block.
        in_channels: Number of leads C.
        mode: ``"default"``: one group norm per channel in the first block only; ``"layer_norm"``:
            layer norm over channels in every block. Norms are computed in float32.
        bias: Whether the convolutions have a bias.
        dropout: Dropout probability after each convolution.

    Raises:
        ValueError: If ``mode`` is unknown.
    """

    def __init__(
        self,
        layers: Sequence[tuple[int, int, int]],
        in_channels: int,
        mode: str = "default",
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"extractor_mode is {mode!r}; known modes: {', '.join(MODES)}")
        self.in_channels = in_channels
        self.kernels_and_strides = tuple((kernel, stride) for _, kernel, stride in layers)
        self.conv_layers = nn.ModuleList()
        for index, (channels, kernel, stride) in enumerate(layers):
            conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=bias)
            nn.init.kaiming_normal_(conv.weight)
            norm = _norm(mode, index, channels)
            self.conv_layers.append(nn.Sequential(conv, nn.Dropout(dropout), *norm, nn.GELU()))
            in_channels = channels

    def forward(self, source: Tensor) -> Tensor:
        """Turn samples into frames.

        Args:
            source: Recordings, float, [B, C, T].

        Returns:
            Features, float, [B, E, L].

        Raises:
            TypeError: If ``source`` is no tensor of floating point numbers.
            ValueError: If the number of leads differs or T is shorter than one frame.
        """
        self._check(source)
        for block in self.conv_layers:
            source = block(source)
        return source

    def output_length(self, n_samples: int) -> int:
        """Return the number of frames that ``n_samples`` samples give; 0 if they are too few."""
        for kernel, stride in self.kernels_and_strides:
            n_samples = (n_samples - kernel) // stride + 1
            if n_samples < 1:
                return 0
        return n_samples

    def _check(self, source: Tensor) -> None:
        if not torch.is_tensor(source) or not source.is_floating_point():
            found = source.dtype if hasattr(source, "dtype") else ""
            raise TypeError(
                f"source must be a float32 tensor, but is of type {type(source).__name__} {found}; "
                "torch.as_tensor(source, dtype=torch.float32) makes one"
            )
        if source.dim() != 3 or source.shape[1] != self.in_channels:
            raise ValueError(
                f"source is expected as [batch, {self.in_channels} leads, samples], but has the "
                f"shape {list(source.shape)}{self._way_out(source)}"
            )
        if self.output_length(source.shape[2]) < 1:
            needed = next(n for n in itertools.count(1) if self.output_length(n))
            raise ValueError(
                f"source has {source.shape[2]} samples, but one frame takes {needed}; give longer "
                "segments (in a run: task.segment_s)"
            )

    def _way_out(self, source: Tensor) -> str:
        if source.dim() == 2 and source.shape[0] == self.in_channels:
            return "; add the batch: source[None]"
        if source.dim() == 3 and source.shape[2] == self.in_channels:
            return "; leads come before samples: source.transpose(1, 2)"
        return (
            "; give the leads the network was built for (in a run: model.in_d=null, "
            "task.leads_to_load, or task.enable_padding_leads=true)"
        )


def _norm(mode: str, index: int, channels: int) -> list[nn.Module]:
    if mode == "layer_norm":
        return [nn.Sequential(TransposeLast(), Fp32LayerNorm(channels), TransposeLast())]
    return [Fp32GroupNorm(channels, channels)] if index == 0 else []
