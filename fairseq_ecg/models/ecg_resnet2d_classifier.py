"""Classes of frames or recordings from a residual network on spectrograms.

Source: the classifier of Weimann and Conrad, 2021, Scientific Reports 11, 5251, Methods, around
``ecg_resnet2d``.
"""

from dataclasses import dataclass

from fairseq.models import register_model

from fairseq_ecg.models._resnet_parts import ResnetClassifier, ResnetClassifierConfig
from fairseq_ecg.models.ecg_resnet2d import EcgResnet2d, EcgResnet2dConfig


@dataclass
class EcgResnet2dClassifierConfig(ResnetClassifierConfig, EcgResnet2dConfig):
    """Sizes of the encoder count only without a checkpoint."""


@register_model("ecg_resnet2d_classifier", dataclass=EcgResnet2dClassifierConfig)
class EcgResnet2dClassifier(ResnetClassifier):
    """``ecg_resnet2d``, the mean over frequencies and frames, one linear layer."""

    encoder_class = EcgResnet2d
