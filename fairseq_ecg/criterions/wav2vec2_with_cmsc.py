"""W2V+CMSC: wav2vec 2.0 loss plus contrast of adjacent segments (Oh et al., 2022, Section 3).

CMSC is contrastive multi-segment coding (Kiyasseh et al., CLOCS, ICML 2021), here as the reference
computes it: only first halves are compared with second halves, and the norm that scales a vector
takes no part in the gradient.
Shapes: B batch of segments, L frames, D width.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from fairseq.criterions import register_criterion
from torch import Tensor, nn

from fairseq_ecg.criterions._contrast import unit_vectors
from fairseq_ecg.criterions._gather import gather_rows, keys_of_rows
from fairseq_ecg.criterions.cmsc import pair_loss
from fairseq_ecg.criterions.ecg_wav2vec2 import EcgWav2Vec2Criterion, EcgWav2Vec2CriterionConfig


def cmsc_loss(
    features: Tensor,
    padding_mask: Optional[Tensor],
    patient_id: Tensor,
    segment: Tensor,
    temp: float = 0.1,
    eps: float = 1e-8,
    all_gather: bool = False,
) -> Tensor:
    """Pull the two segments of a recording together, push those of other recordings apart.

    Args:
        features: Encoder output, float, [B, L, D].
        padding_mask: bool, [B, L], True = padded; None = nothing is padded.
        patient_id: int, [B].
        segment: int, [B], 0 or 1.
        temp: Divisor of the similarities.
        eps: Least norm of a pooled vector.
        all_gather: Compare with the segments of all processes.

    Returns:
        float32, [], in nats per positive pair.
    """
    with torch.autocast(features.device.type, enabled=False):
        vectors = unit_vectors(features, padding_mask, eps)
        if all_gather:
            vectors = gather_rows(vectors)
            patient_id, segment = gather_rows(patient_id), gather_rows(segment, fill=-1)
        return pair_loss(vectors, patient_id, segment, temp)


@dataclass
class Wav2Vec2WithCmscConfig(EcgWav2Vec2CriterionConfig):
    """The reference's keys."""

    temp: float = field(default=0.1, metadata={"help": "divisor of the similarities of segments"})
    eps: float = field(default=1e-8, metadata={"help": "least norm of a segment's vector"})
    all_gather: bool = field(
        default=False,
        metadata={"help": "compare with the segments of all processes, with exact gradients"},
    )
    cmsc_weights: Optional[float] = field(
        default=None, metadata={"help": "weight of the segment loss; none = 1"}
    )


@register_criterion("wav2vec2_with_cmsc", dataclass=Wav2Vec2WithCmscConfig)
class Wav2Vec2WithCmscCriterion(EcgWav2Vec2Criterion):
    """The loss of ``ecg_wav2vec2`` plus CMSC, which is ``loss_3`` in the log.

    Args:
        task: The fairseq task.
        infonce: Cross-entropy over positive and negatives instead of a binary one each.
        loss_weights: Weights of diversity and penalty; one value serves both; None = 0, 0.
        log_keys: Scalars of the model's output to log.
        temp: Divisor of the similarities of segments.
        eps: Least norm of a segment's vector.
        all_gather: Compare with the segments of all processes.
        cmsc_weights: Weight of CMSC; None = 1.

    Raises:
        ValueError: If weights or keys to log do not fit, or ``temp`` or ``eps`` is not positive.
    """

    num_terms = 4

    def __init__(
        self,
        task: Any,
        infonce: bool = False,
        loss_weights: Optional[Sequence[float]] = None,
        log_keys: Optional[Sequence[str]] = None,
        temp: float = 0.1,
        eps: float = 1e-8,
        all_gather: bool = False,
        cmsc_weights: Optional[float] = None,
    ) -> None:
        super().__init__(task, infonce, loss_weights, log_keys)
        if temp <= 0 or eps <= 0:
            raise ValueError(f"criterion.temp ({temp}) and criterion.eps ({eps}) must be positive")
        self.temp = temp
        self.eps = eps
        self.all_gather = all_gather
        self.cmsc_weight = 1.0 if cmsc_weights is None else float(cmsc_weights)

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Compute the loss of one batch of pairs.

        Args:
            model: A model whose output has ``logits``, ``features`` and so on.
            sample: A batch with ``net_input``, ``patient_id`` int [B] and ``segment`` int [B].
            reduce: Unused; the loss is always summed.

        Returns:
            The loss, float32, []; the number of masked frames; what to log, as sums.

        Raises:
            ValueError: If the batch has no pairs.
        """
        missing = [key for key in ("patient_id", "segment") if key not in sample]
        if missing:
            raise ValueError(
                f"the batch has no {' and no '.join(missing)}, which wav2vec2_with_cmsc needs; "
                "let the task give pairs of segments, or use the criterion ecg_wav2vec2"
            )
        output = model(**sample["net_input"])
        losses: List[Tensor] = self.local_losses(output)
        cmsc = losses[0].new_zeros(())
        if self.cmsc_weight:
            cmsc = cmsc_loss(
                output["features"],
                output["padding_mask"],
                **keys_of_rows(sample, ("patient_id", "segment")),
                temp=self.temp,
                eps=self.eps,
                all_gather=self.all_gather,
            )
        n_rows = output["logits"].shape[1] * output["logits"].shape[2]
        return self.report(output, [*losses, self.cmsc_weight * n_rows * cmsc])
