"""Residual network over time, pretrained on single-lead ECG.

Source: Weimann and Conrad, 2021, "Transfer learning for ECG classification", Scientific Reports 11,
5251, Methods. Where paper and published code differ: docs/methods/transfer.md.
Shapes: B batch, C leads, T samples, L frames, D width.
"""

from dataclasses import dataclass

from fairseq.models import register_model

from fairseq_ecg.models._resnet_parts import ResnetEncoder, ResnetEncoderConfig


@dataclass
class EcgResnet1dConfig(ResnetEncoderConfig):
    """Keys of ``ecg_resnet1d``; 4,482,880 parameters with their defaults."""


@register_model("ecg_resnet1d", dataclass=EcgResnet1dConfig)
class EcgResnet1d(ResnetEncoder):
    """Convolutions over time: T samples become T / 32 frames, rounded up at each halving."""

    config = EcgResnet1dConfig
    dims = 1
    pretraining_only = ("context.",)  # of ecg_resnet_cpc
