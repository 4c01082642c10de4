"""Classes of frames or recordings from a residual network over time.

Source: Weimann and Conrad, 2021, Scientific Reports 11, 5251, Methods: the same network serves
pretraining (classes of frames) and fine-tuning (classes of recordings), with a new last layer.
"""

from dataclasses import dataclass

from fairseq.models import register_model

from fairseq_ecg.models._resnet_parts import ResnetClassifier, ResnetClassifierConfig
from fairseq_ecg.models.ecg_resnet1d import EcgResnet1d, EcgResnet1dConfig


@dataclass
class EcgResnet1dClassifierConfig(ResnetClassifierConfig, EcgResnet1dConfig):
    """Sizes of the encoder count only without a checkpoint."""


@register_model("ecg_resnet1d_classifier", dataclass=EcgResnet1dClassifierConfig)
class EcgResnet1dClassifier(ResnetClassifier):
    """``ecg_resnet1d``, the mean over frames, one linear layer."""

    encoder_class = EcgResnet1d
