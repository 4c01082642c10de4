"""What residual blocks over time share: a pooled shortcut, and padding that leaves no trace.

A convolution with zeros at its borders sees the end of a recording as zeros. So that a padded
recording gives in evaluation what it gives alone, padded places are set to zero before each
convolution and left out of each mean. Names of layers are those of fairseq-signals' checkpoints.
Shapes: B batch, D channels, T samples or frames.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """``forward(x) = residual(x) + shortcut(x)``; what the residual is, the subclass says.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Places in for each place out.
        bias: Whether the convolution of the shortcut has a bias.
        pooled: Whether the shortcut averages over the stride and mixes channels; otherwise it hands
            on what came in.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, bias: bool, pooled: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.idfunc_1 = nn.Conv1d(in_channels, out_channels, 1, bias=bias) if pooled else None

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Apply the block.

        Args:
            x: float, [B, D, T].
            valid: 1 = valid, 0 = padded, float [B, 1, T]; None = nothing is padded.

        Returns:
            float, [B, D', T'] with T' = T / stride, rounded up.
        """
        return self.residual(x, valid) + self.shortcut(x, valid)

    def residual(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return what the block adds; args and shapes are those of ``forward``."""
        raise NotImplementedError

    def shortcut(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return what came in, brought to the length and channels of what goes out."""
        if self.idfunc_1 is None:
            return x
        return self.idfunc_1(mean_over_stride(x, self.stride, valid))


def centred_conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = False
) -> nn.Conv1d:
    """Return a convolution of T places to T / stride of them, rounded up; the kernel is odd."""
    padding = (kernel - 1) // 2
    return nn.Conv1d(in_channels, out_channels, kernel, stride, padding, bias=bias)


def silence(x: Tensor, valid: Tensor | None) -> Tensor:
    """Set padded places to zero.

    Args:
        x: float, [B, D, T].
        valid: 1 = valid, 0 = padded, float [B, 1, T]; None = nothing is padded.
    """
    return x if valid is None else x * valid


def thin_out(valid: Tensor | None, stride: int) -> Tensor | None:
    """Return which places are valid after a stride: those whose first place was.

    Args:
        valid: 1 = valid, 0 = padded, float [B, 1, T]; None = nothing is padded.
        stride: Places in for each place out.
    """
    return None if valid is None else valid[..., ::stride]


def mean_over_stride(x: Tensor, stride: int, valid: Tensor | None = None) -> Tensor:
    """Average each ``stride`` places, of the last ones as many as there are.

    Args:
        x: float, [B, D, T].
        stride: Places in for each place out.
        valid: 1 = valid, 0 = padded and not counted, float [B, 1, T]; None = nothing is padded.

    Returns:
        float, [B, D, T / stride, rounded up].
    """
    mean = functional.avg_pool1d(silence(x, valid), stride, stride, ceil_mode=True)
    if valid is None:
        return mean
    share = functional.avg_pool1d(valid, stride, stride, ceil_mode=True)
    return mean / share.clamp_min(1 / stride)


def mean_over_time(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average over all valid places; float, [B, D, T] to [B, D]."""
    if valid is None:
        return x.mean(-1)
    return silence(x, valid).sum(-1) / valid.sum(-1)
