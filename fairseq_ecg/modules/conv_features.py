"""Convolutional feature extractor over all leads (wav2vec 2.0, Baevski et al., 2020, Section 2).

Shapes: B batch, C leads, T samples, L frames, E channels of the last block.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        if source.dim() != 3 or source.shape[1] != self.in_channels:
            raise ValueError(
                f"source is expected as [batch, {self.in_channels} leads, samples], but has the "
                f"shape {list(source.shape)}; give the leads the network was built for "
                "(model.in_d, task.leads_to_load)"
            )
        if self.output_length(source.shape[2]) < 1:
            raise ValueError(
                f"source has {source.shape[2]} samples, too few for one frame; give longer segments"
            )


def _norm(mode: str, index: int, channels: int) -> list[nn.Module]:
    if mode == "layer_norm":
        return [nn.Sequential(TransposeLast(), Fp32LayerNorm(channels), TransposeLast())]
    return [Fp32GroupNorm(channels, channels)] if index == 0 else []
