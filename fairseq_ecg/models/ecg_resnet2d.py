"""Residual network on spectrograms, which it makes itself of recordings.

So the same manifests serve this network and ``ecg_resnet1d``. Source: the network of Weimann and
Conrad, 2021, Scientific Reports 11, 5251, with kernels of two dimensions, on short-time Fourier
transforms as in Huang et al., 2019, IEEE Access 7:92871; choices: docs/methods/transfer.md.
Shapes: B batch, C leads, T samples, F rows (frequencies), L frames, D width.
"""

from dataclasses import dataclass, field
from typing import List

from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from torch import Tensor

from fairseq_ecg.models._resnet_parts import ResnetEncoder, ResnetEncoderConfig
from fairseq_ecg.modules.spectrogram import NORMS, SCALES, Spectrogram, SpectrogramSettings


@dataclass
class EcgResnet2dConfig(ResnetEncoderConfig):
    """Keys of ``ecg_resnet2d``; 11,170,240 parameters with their defaults."""

    kernel_sizes: List[int] = field(
        default_factory=lambda: [3, 3, 3, 3], metadata={"help": "kernel of each stage, odd"}
    )
    n_fft: int = field(default=256, metadata={"help": "samples of a Fourier transform"})
    win_length: int = field(default=256, metadata={"help": "samples of its Hann window"})
    hop: int = field(default=32, metadata={"help": "samples from one window to the next"})
    n_freqs: int = field(
        default=64, metadata={"help": "rows: the frequencies n * rate / n_fft, n from 1 on"}
    )
    power: int = field(default=1, metadata={"help": "power of the magnitude, 1 or 2"})
    scale: ChoiceEnum(SCALES) = field(  # type: ignore[valid-type]
        default="log1p",
        metadata={"help": "linear; log1p: ln(1 + x); db: decibels below the largest, at least -80"},
    )
    spectrogram_norm: ChoiceEnum(NORMS) = field(  # type: ignore[valid-type]
        default="image",
        metadata={
            "help": "image: each lead's image gets mean 0 and deviation 1; global: "
            "spectrogram_mean and spectrogram_std are taken off; none"
        },
    )
    spectrogram_mean: float = field(
        default=0.0, metadata={"help": "mean of all images, for spectrogram_norm=global"}
    )
    spectrogram_std: float = field(
        default=1.0, metadata={"help": "deviation of all images, for spectrogram_norm=global"}
    )


@register_model("ecg_resnet2d", dataclass=EcgResnet2dConfig)
class EcgResnet2d(ResnetEncoder):
    """Convolutions over frequency and time; a frame is the mean over the frequencies.

    T samples become T / hop columns and a 32th of them frames, rounded up at each halving.
    """

    config = EcgResnet2dConfig
    dims = 2

    def __init__(self, cfg: EcgResnet2dConfig) -> None:
        super().__init__(cfg)
        self.spectrogram = Spectrogram(_settings(cfg))
        self.frame_samples *= cfg.hop

    @classmethod
    def check(cls, cfg: EcgResnet2dConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        super().check(cfg)
        _settings(cfg)

    def planes(self, source: Tensor) -> Tensor:
        """Return the spectrograms of recordings [B, C, T], float32, [B, C, F, T / hop]."""
        return self.spectrogram(source)


def _settings(cfg: EcgResnet2dConfig) -> SpectrogramSettings:
    return SpectrogramSettings(
        n_fft=cfg.n_fft,
        win_length=cfg.win_length,
        hop=cfg.hop,
        n_freqs=cfg.n_freqs,
        power=cfg.power,
        scale=str(cfg.scale),
        norm=str(cfg.spectrogram_norm),
        mean=cfg.spectrogram_mean,
        std=cfg.spectrogram_std,
    )
