"""Patients told apart by the angle between embeddings.

Deng et al.: ArcFace, CVPR 2019, Section 3.1; for electrocardiograms Oh et al., CHIL 2022,
PMLR 174:338-353, Section 4.

Shapes: B batch, C leads, T samples, L frames, D width, P patients seen in training.
"""

from dataclasses import dataclass
from typing import Dict, Mapping, Optional

import torch
from fairseq.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._finetuning import FinetunedModel
from fairseq_ecg.models.ecg_transformer import EcgTransformer
from fairseq_ecg.models.ecg_transformer_classifier import TransformerFinetuningConfig
from fairseq_ecg.modules.pooling import mean_of_nonzero


@dataclass
class ArcFaceConfig(TransformerFinetuningConfig):
    """The reference's keys and defaults; sizes count only without a checkpoint."""


@register_model("arcface", dataclass=ArcFaceConfig)
class ArcFace(FinetunedModel):
    """An encoder, the mean over valid frames, and one direction per patient of the training set.

    The directions are needed in training only: patients met later are compared by the cosine of
    their embeddings.

    Args:
        encoder: The encoder.
        num_labels: Number of patients P.
        cfg: Gives ``final_dropout`` and ``freeze_finetune_updates``.
    """

    evaluated_by = "ecg_identification"
    encoder_class = EcgTransformer

    def __init__(self, encoder: EcgEncoder, num_labels: int, cfg: ArcFaceConfig) -> None:
        super().__init__(encoder, num_labels, cfg)
        self.final_dropout = nn.Dropout(cfg.final_dropout)
        kernel = torch.empty(num_labels, encoder.width).uniform_(-1, 1)
        self.kernel = nn.Parameter(functional.normalize(kernel))

    @classmethod
    def num_labels_of(cls, state: Mapping[str, Tensor]) -> Optional[int]:
        """Return the number of patients that a state dict of this model decides."""
        return len(state["kernel"]) if "kernel" in state else None

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Embed recordings and compare them with the patients of the training set.

        Norms and cosines are computed in float32 whatever autocast says: the criterion multiplies
        them by a scale of some hundred.

        Args:
            source: Recordings in millivolts, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``out`` cosines in [-1, 1], float32, [B, P]; ``embedding`` of length 1, float32,
            [B, D]; ``padding_mask`` bool [B, L] or None; with ``model.saliency`` also ``saliency``
            float [B, layers, L, L].
        """
        encoded = self.encode(source, padding_mask)
        features, mask = encoded["features"], encoded["padding_mask"]
        pooled = mean_of_nonzero(self.final_dropout(features), mask)
        with torch.autocast(pooled.device.type, enabled=False):
            embedding = functional.normalize(pooled.float())
            cosine = embedding @ functional.normalize(self.kernel.float()).T
        rest = {key: value for key, value in encoded.items() if key != "features"}
        return {"out": cosine.clamp(-1, 1), "embedding": embedding, **rest}
