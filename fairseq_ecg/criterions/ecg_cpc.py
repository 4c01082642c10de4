"""Future prediction: which of several candidates follows a context.

Weimann and Conrad, 2021, Scientific Reports 11, 5251, Methods; the loss is InfoNCE of Oord et al.,
2018 (arXiv:1807.03748), Eq. 4, with candidates that the task draws.
Shapes: B batch, N candidates.
"""

from dataclasses import dataclass
from typing import Any, Dict, List

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass

from fairseq_ecg.criterions._scores import logits_and_labels
from fairseq_ecg.criterions.ecg_cross_entropy import EcgCrossEntropy, softmax_cross_entropy


@dataclass
class EcgCpcConfig(FairseqDataclass):
    """No keys."""


@register_criterion("ecg_cpc", dataclass=EcgCpcConfig)
class EcgCpc(FairseqCriterion):
    """Cross entropy over the candidates, summed over items; the sample size is B.

    Both the loss and the accuracy are sums over items, so they are exact over batches and
    processes. A network that guesses has log2(N) bits and an accuracy of 1 / N.
    """

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation logs, for ``checkpoint.best_checkpoint_metric``."""
        return ["loss", "accuracy"]

    def forward(self, model: torch.nn.Module, sample: Dict[str, Any], reduce: bool = True) -> tuple:
        """Return (loss, sample size, logging output) of one batch.

        Args:
            model: Returns {"out": scores [B, N]}.
            sample: With ``label`` [B, N], 1 where the candidate follows, once in each row.
            reduce: Not used; the loss is always summed.

        Raises:
            ValueError: If scores and labels differ in shape.
        """
        scores, labels = logits_and_labels(model, sample)
        loss = softmax_cross_entropy(scores, labels)
        logging_output = {
            "loss": loss.detach(),
            "ntokens": len(labels),
            "nsentences": len(labels),
            "sample_size": len(labels),
            "correct": (scores.argmax(dim=1) == labels.argmax(dim=1)).sum(),
        }
        return loss, len(labels), logging_output

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return True: one all-reduce per step, no pickled gathering."""
        return True

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss in bits per item, and the share of items that were answered rightly."""
        EcgCrossEntropy.reduce_metrics(logging_outputs)
