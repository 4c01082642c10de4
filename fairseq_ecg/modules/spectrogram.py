"""Short-time Fourier transform of recordings, as images for a network.

Windows are Hann's, periodic, and centred: the first one has its middle at the first sample, what it
sees in front of the recording is zero. The row of the mean (0 Hz) is left out.
Shapes: B batch, C leads, T samples, F rows (frequencies), L columns (windows).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SCALES = ("linear", "log1p", "db")
NORMS = ("none", "image", "global")
FLOOR_DB = -80.0
TINY = 1e-10  # amplitudes below it are silence
EPSILON = 1e-6  # added to the deviation of an image


@dataclass(frozen=True)
class SpectrogramSettings:
    """How an image is made.

    Args:
        n_fft: Samples of a transform; a window that is shorter stands in its middle.
        win_length: Samples of a window.
        hop: Samples from one window to the next.
        n_freqs: Rows F: the frequencies n * rate / n_fft, n from 1 on.
        power: Power of the magnitude, 1 or 2.
        scale: ``linear``; ``log1p``: logarithm of 1 + x; ``db``: decibels below the largest of the
            image, at least -80.
        norm: ``none``; ``image``: each lead's image gets mean 0 and deviation 1; ``global``:
            ``mean`` and ``std`` are taken off.
        mean: For ``global``.
        std: For ``global``.

    Raises:
        ValueError: Naming the key, its value and the way out.
    """

    n_fft: int = 256
    win_length: int = 256
    hop: int = 32
    n_freqs: int = 64
    power: int = 1
    scale: str = "log1p"
    norm: str = "image"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.n_fft < 2 or self.hop < 1:
            raise ValueError(
                f"model.n_fft is {self.n_fft} and model.hop {self.hop}; give positive numbers of "
                "samples"
            )
        if not 1 <= self.win_length <= self.n_fft:
            raise ValueError(
                f"model.win_length is {self.win_length}; give 1 to model.n_fft={self.n_fft}"
            )
        if not 1 <= self.n_freqs <= self.n_fft // 2:
            raise ValueError(
                f"model.n_freqs is {self.n_freqs}; a transform of {self.n_fft} samples has "
                f"{self.n_fft // 2} frequencies above 0: give 1 to {self.n_fft // 2}"
            )
        if self.power not in (1, 2):
            raise ValueError(f"model.power is {self.power}; give 1 or 2")
        if self.std <= 0:
            raise ValueError(f"model.spectrogram_std is {self.std}; give a positive number")


class Spectrogram(nn.Module):
    """Images of recordings, in float32 also under autocast.

    Args:
        settings: How they are made.
    """

    def __init__(self, settings: SpectrogramSettings) -> None:
        super().__init__()
        self.settings = settings
        window = torch.hann_window(settings.win_length, periodic=True)
        self.register_buffer("window", window, persistent=False)

    def forward(self, source: Tensor) -> Tensor:
        """Return the images of recordings.

        Args:
            source: float, [B, C, T].

        Returns:
            float32, [B, C, F, L] with L = T / hop, rounded down.

        Raises:
            ValueError: If a recording is shorter than one hop.
        """
        self._check_length(source.shape[-1])
        with torch.autocast(source.device.type, enabled=False):
            return self._normed(self._scaled(self.magnitude(source)))

    def magnitude(self, source: Tensor) -> Tensor:
        """Return |STFT| to the power, float32, [B, C, F, L]; args as ``forward``."""
        own = self.settings
        n_columns = source.shape[-1] // own.hop
        spectrum = torch.stft(
            source.float().flatten(0, 1),
            own.n_fft,
            own.hop,
            own.win_length,
            self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )[:, 1 : own.n_freqs + 1, :n_columns].unflatten(0, source.shape[:2])
        if own.power == 1:
            return spectrum.abs()
        return spectrum.real.square() + spectrum.imag.square()

    def _scaled(self, image: Tensor) -> Tensor:
        if self.settings.scale == "log1p":
            return image.log1p()
        if self.settings.scale == "db":
            power = self.settings.power
            level = 20 / power * image.clamp_min(TINY**power).log10()
            return (level - level.amax((2, 3), keepdim=True)).clamp_min(FLOOR_DB)
        return image

    def _normed(self, image: Tensor) -> Tensor:
        if self.settings.norm == "image":
            deviation, mean = torch.std_mean(image, (2, 3), correction=0, keepdim=True)
            return (image - mean) / (deviation + EPSILON)
        if self.settings.norm == "global":
            return (image - self.settings.mean) / self.settings.std
        return image

    def _check_length(self, n_samples: int) -> None:
        if n_samples < self.settings.hop:
            raise ValueError(
                f"a recording has {n_samples} samples, less than model.hop={self.settings.hop}; "
                "give a longer task.segment_s, or leave such recordings out"
            )
