"""Fine-tuning of a pretrained encoder to labels per recording (Oh et al., 2022, Section 4).

Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

from dataclasses import dataclass, field
from typing import Dict, Optional

from fairseq.models import register_model
from torch import Tensor, nn

from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._finetuning import FinetunedModel, FinetuningConfig
from fairseq_ecg.models.ecg_transformer import EcgTransformer, EcgTransformerConfig
from fairseq_ecg.modules.pooling import mean_of_nonzero


@dataclass
class TransformerFinetuningConfig(FinetuningConfig, EcgTransformerConfig):
    """The reference's keys and defaults; sizes count only without a checkpoint."""

    dropout: float = field(default=0.0, metadata={"help": "dropout inside the transformer"})
    attention_dropout: float = field(
        default=0.0, metadata={"help": "dropout of the attention weights"}
    )
    feature_grad_mult: float = field(
        default=0.0, metadata={"help": "factor on gradients into the convolutions; 0 freezes them"}
    )
    final_dropout: float = field(
        default=0.0, metadata={"help": "dropout of the encoder's output before pooling"}
    )


@dataclass
class EcgTransformerClassifierConfig(TransformerFinetuningConfig):
    """Keys of ``ecg_transformer_classifier``."""


@register_model("ecg_transformer_classifier", dataclass=EcgTransformerClassifierConfig)
class EcgTransformerClassifier(FinetunedModel):
    """An encoder, the mean over valid frames, and one linear layer.

    The encoder of a checkpoint may be of any family.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        cfg: Gives ``final_dropout`` and ``freeze_finetune_updates``.
    """

    encoder_class = EcgTransformer

    def __init__(
        self, encoder: EcgEncoder, num_labels: int, cfg: TransformerFinetuningConfig
    ) -> None:
        super().__init__(encoder, num_labels, cfg)
        self.final_dropout = nn.Dropout(cfg.final_dropout)
        self.proj = nn.Linear(encoder.width, num_labels)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

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
