"""Convolutions and maxima that give one place for each stride of places, and where zeros stand.

For an odd kernel k and stride 2 both conventions give n / 2 places, rounded up. ``symmetric`` puts
k // 2 zeros on each side. TensorFlow's "same" puts one zero fewer in front where n is even, so that
each window sits one place later; weights that were trained there need it. Instead of copying what
comes in, the kernel gets a tap of zero in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

POOL_KERNEL, POOL_STRIDE = 3, 2


class SameConv1d(nn.Conv1d):
    """Convolution over time without bias.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel: Number of taps, odd.
        stride: 1 or 2.
        tf: Place the zeros as TensorFlow does.

    Raises:
        ValueError: If the kernel is even or the stride another one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, tf: bool = False
    ) -> None:
        _check(kernel, stride)
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.tf = tf

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, float, [B, D, T] to [B, D', T / stride, rounded up]."""
        weight = _kernel_for(self.weight, self.stride, x) if self.tf else self.weight
        return functional.conv1d(x, weight, None, self.stride, self.padding)


class SameConv2d(nn.Conv2d):
    """Convolution over frequency and time, with a square kernel; args as ``SameConv1d``."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, tf: bool = False
    ) -> None:
        _check(kernel, stride)
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.tf = tf

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, float, [B, D, F, T] to [B, D', F / stride, T / stride], rounded up."""
        weight = _kernel_for(self.weight, self.stride, x) if self.tf else self.weight
        return functional.conv2d(x, weight, None, self.stride, self.padding)


def same_max_pool(x: Tensor, tf: bool = False) -> Tensor:
    """Take the maximum of 3 neighbours at every second place along each axis but the first two.

    Args:
        x: float, [B, D, T] or [B, D, F, T].
        tf: Place the windows as TensorFlow does.

    Returns:
        float, [B, D, T / 2] or [B, D, F / 2, T / 2], rounded up.
    """
    padding = [n % 2 if tf else 1 for n in x.shape[2:]]
    pool = functional.max_pool1d if x.dim() == 3 else functional.max_pool2d
    return pool(x, POOL_KERNEL, POOL_STRIDE, padding, ceil_mode=tf)


def _kernel_for(weight: Tensor, stride: Sequence[int], x: Tensor) -> Tensor:
    """Return the kernel, with a tap of zero in front along axes whose windows sit one later."""
    axes = zip(weight.shape[2:], stride, x.shape[2:], strict=True)
    later = [kernel > 1 and step == 2 and n % 2 == 0 for kernel, step, n in axes]
    if not any(later):
        return weight
    return functional.pad(weight, [zeros for one in later[::-1] for zeros in (int(one), 0)])


def _check(kernel: int, stride: int) -> None:
    if kernel < 1 or kernel % 2 == 0 or stride not in (1, 2):
        raise ValueError(
            f"a convolution has kernel {kernel} and stride {stride}; give an odd kernel and "
            "stride 1 or 2"
        )
