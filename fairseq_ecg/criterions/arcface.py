"""Additive angular margin: a patient's recordings closer to each other than to all others.

Deng et al.: ArcFace, CVPR 2019, Section 3.1; for electrocardiograms Oh et al., CHIL 2022,
PMLR 174:338-353, Section 4.

Shapes: B batch, P patients of the training set, N recordings of a validation, D width.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List

import numpy as np
import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor
from torch.nn import functional

from fairseq_ecg.criterions._logging import sum_logs
from fairseq_ecg.metrics.identification import RANKS, rank_accuracies


@dataclass
class ArcFaceCriterionConfig(FairseqDataclass):
    """Keys of ``arcface``; names and defaults as in fairseq-signals."""

    scale: float = field(default=32.0, metadata={"help": "factor of the cosines in the softmax"})
    margin: float = field(
        default=0.5, metadata={"help": "angle added between a recording and its patient, in rad"}
    )


def arcface_logits(cosine: Tensor, target: Tensor, scale: float, margin: float) -> Tensor:
    """Make it harder for a recording to be near its own patient.

    With t the angle to the own patient, cos(t) becomes cos(t + margin). Where t + margin would
    exceed pi, and the cosine rise again, it becomes cos(t) - margin * sin(margin) instead.

    Args:
        cosine: In [-1, 1], float, [B, P].
        target: Patient of each recording, int64 [B].
        scale: Factor of all logits.
        margin: In radians, 0 to pi.

    Returns:
        [B, P]. The gradient is finite everywhere; at an angle of exactly 0 or pi, where the sine
        has none, its part is left out.
    """
    own = cosine.gather(1, target[:, None])
    square = (1 - own) * (1 + own)
    has_sine = square > 0
    sine = torch.where(has_sine, square, 1.0).sqrt() * has_sine
    wider = own * math.cos(margin) - sine * math.sin(margin)
    lower = own - margin * math.sin(margin)
    moved = torch.where(own > math.cos(math.pi - margin), wider, lower)
    return scale * cosine.scatter(1, target[:, None], moved)


@register_criterion("arcface", dataclass=ArcFaceCriterionConfig)
class ArcFaceCriterion(FairseqCriterion):
    """Cross entropy of the patient, summed over recordings; the sample size is B.

    A validation has patients that training has not seen, so it has no loss (NaN is logged): each
    probe is given to the patient of the nearest recording of the gallery.

    Args:
        task: Not used.
        scale: Factor of the cosines in the softmax.
        margin: Angle added between a recording and its patient, in radians.

    Raises:
        ValueError: If the scale is not positive or the margin no angle from 0 to pi.
    """

    def __init__(self, task: Any, scale: float = 32.0, margin: float = 0.5) -> None:
        super().__init__(task)
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"criterion.scale must be positive, got {scale}")
        if not 0 <= margin <= math.pi:
            raise ValueError(f"criterion.margin must be 0 to pi, in radians, got {margin}")
        self.scale = scale
        self.margin = margin

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation logs, for ``checkpoint.best_checkpoint_metric``."""
        return list(RANKS)

    def epoch_metric_names(self) -> List[str]:
        """Return the names that ``epoch_metrics`` computes."""
        return list(RANKS)

    def epoch_metrics(
        self, embedding: np.ndarray, patient: np.ndarray, is_gallery: np.ndarray
    ) -> Dict[str, float]:
        """Return the metrics of a whole validation.

        Args:
            embedding: float [N, D], of any length.
            patient: int64 [N].
            is_gallery: bool [N]; the others are probes.
        """
        probe, gallery = ((embedding[s], patient[s]) for s in (~is_gallery, is_gallery))
        return rank_accuracies(*probe, *gallery)

    def forward(self, model: torch.nn.Module, sample: Dict[str, Any], reduce: bool = True) -> tuple:
        """Return (loss, sample size, logging output) of one batch.

        Args:
            model: Returns {"out": cosines [B, P], "embedding": [B, D]}.
            sample: With ``label`` int64 [B], the patient; in validation also ``gallery`` [B].
            reduce: Not used; the loss is always summed.
        """
        output, patient = model(**sample["net_input"]), sample["label"]
        logging_output = {
            "ntokens": len(patient),
            "nsentences": len(patient),
            "sample_size": len(patient),
        }
        if not self.training:
            logging_output["scores"] = {
                "embedding": output["embedding"],
                "label": patient,
                "gallery": sample["gallery"],
            }
            return output["embedding"].new_zeros(()), len(patient), logging_output
        cosine = output["out"].float()
        logits = arcface_logits(cosine, patient, self.scale, self.margin)
        loss = functional.cross_entropy(logits, patient, reduction="sum")
        logging_output["loss"] = loss.detach()
        logging_output["correct"] = (cosine.argmax(dim=1) == patient).sum()
        return loss, len(patient), logging_output

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return True: one all-reduce per step, no pickled gathering."""
        return True

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss in bits per recording, and the share of recordings nearest to their own."""
        if not any("correct" in log for log in logging_outputs):
            metrics.log_scalar("loss", math.nan)  # the engine wants the key
            return
        total = sum_logs(logging_outputs, ("loss", "sample_size", "correct"))
        size = total["sample_size"] or 1.0
        metrics.log_scalar("loss", total["loss"] / size / math.log(2), size, round=4)
        metrics.log_scalar("accuracy", total["correct"] / size, size, round=4)
