"""Fine-tuning of a pretrained encoder to labels per recording (Oh et al., 2022, Section 4).

Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional

from fairseq.models import register_model
from torch import Tensor, nn

from fairseq_ecg.models._finetuning import (
    EcgFinetuningConfig,
    FinetunedModel,
    build_encoder,
    number_of_labels,
)
from fairseq_ecg.models.ecg_transformer import EcgTransformer
from fairseq_ecg.modules.pooling import mean_of_nonzero


@dataclass
class EcgTransformerClassifierConfig(EcgFinetuningConfig):
    """The reference's keys and defaults; sizes count only without a checkpoint."""


@register_model("ecg_transformer_classifier", dataclass=EcgTransformerClassifierConfig)
class EcgTransformerClassifier(FinetunedModel):
    """An encoder, the mean over valid frames, and one linear layer.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        final_dropout: Dropout of the encoder's output before pooling.
        freeze_updates: Updates during which the encoder gets no gradient.
    """

    def __init__(
        self,
        encoder: EcgTransformer,
        num_labels: int,
        final_dropout: float = 0.0,
        freeze_updates: int = 0,
    ) -> None:
        super().__init__(encoder, freeze_updates)
        self.final_dropout = nn.Dropout(final_dropout)
        self.proj = nn.Linear(self.width, num_labels)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    @classmethod
    def build_model(
        cls, cfg: EcgTransformerClassifierConfig, task: Any = None
    ) -> "EcgTransformerClassifier":
        """Build the classifier around the encoder of ``model_path``, or around a fresh one.

        Args:
            cfg: The model's configuration.
            task: Gives ``num_labels``, and what ``build_encoder`` asks it.

        Raises:
            ValueError: If the number of labels is unknown or differs from the task's.
            CheckpointError: If the checkpoint cannot be read or is of another kind.
        """
        num_labels = number_of_labels(cfg.num_labels, task)
        encoder = build_encoder(cfg, task)
        return cls(encoder, num_labels, cfg.final_dropout, cfg.freeze_finetune_updates)

    @classmethod
    def num_labels_of(cls, state: Mapping[str, Tensor]) -> Optional[int]:
        """Return the number of classes that a state dict of this model decides."""
        return len(state["proj.bias"]) if "proj.bias" in state else None

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Classify recordings.

        Args:
            source: Recordings in millivolts, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``out`` logits, float, [B, K]; ``encoder_out`` float [B, L, D]; ``padding_mask`` bool
            [B, L] or None; with ``model.saliency`` also ``saliency`` float [B, layers, L, L].
        """
        encoded = self.encode(source, padding_mask)
        features, mask = encoded["features"], encoded["padding_mask"]
        out = self.proj(mean_of_nonzero(self.final_dropout(features), mask))
        rest = {key: value for key, value in encoded.items() if key != "features"}
        return {"out": out, "encoder_out": features.detach(), **rest}
