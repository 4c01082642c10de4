"""Single-label classification: the cross entropy of a softmax over the classes.

For labels of which exactly one is true, such as the states of WESAD (Sarkar & Etemad, IEEE
Transactions on Affective Computing 13(3), 2022).

Shapes: B batch, N recordings or segments of a validation, K classes.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor
from torch.nn import functional

from fairseq_ecg.criterions._class_weights import class_weights_of
from fairseq_ecg.criterions._logging import sum_logs
from fairseq_ecg.criterions._penalty import kernel_penalty
from fairseq_ecg.criterions._scores import logits_and_labels
from fairseq_ecg.metrics import cinc2017
from fairseq_ecg.metrics.multiclass import OVERALL, SingleLabelSummary


@dataclass
class EcgCrossEntropyConfig(FairseqDataclass):
    """Keys of ``ecg_cross_entropy``."""

    class_weights: Optional[List[float]] = field(
        default=None, metadata={"help": "weight of the recordings of each class, [K]"}
    )
    label_smoothing: float = field(
        default=0.0,
        metadata={"help": "share of the truth that is spread evenly over all classes, in [0, 1)"},
    )
    l2: float = field(
        default=0.0,
        metadata={
            "help": "weight of half the squared norm of all kernels that are trained, biases left "
            "out; part of the loss of training"
        },
    )


def softmax_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Optional[Tensor] = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sum -sum_k w_k q_k ln p_k over the items, in float32.

    p is the softmax of the logits; q is 1 - s for the true class, and s / K is added for each.

    Args:
        logits: [B, K], any float dtype.
        labels: 0 or 1, [B, K], exactly one 1 in each row.
        class_weights: w, float32 [K]; None: 1 for each class.
        label_smoothing: s.
    """
    return functional.cross_entropy(
        logits.float(),
        labels.argmax(dim=1),
        weight=class_weights,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


@register_criterion("ecg_cross_entropy", dataclass=EcgCrossEntropyConfig)
class EcgCrossEntropy(FairseqCriterion):
    """Loss summed over items; the sample size is B, whatever the weights.

    Args:
        task: Its ``label_names`` name the F1 of each class.
        class_weights: Weight of the recordings of each class, [K].
        label_smoothing: Share of the truth that is spread evenly over all classes.
        l2: Weight of the penalty.

    Raises:
        ValueError: If there are not as many weights as classes, one of them is negative, or the
            smoothing or the penalty's weight has no meaning.
    """

    single_label = True
    """Exactly one class is true; the task checks its labels, evaluation takes the softmax."""

    def __init__(
        self,
        task: Any,
        class_weights: Optional[List[float]] = None,
        label_smoothing: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        super().__init__(task)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"criterion.label_smoothing is {label_smoothing}; give a share in [0, 1)"
            )
        if not 0 <= l2 < math.inf:
            raise ValueError(f"criterion.l2 is {l2}; give 0 or more")
        self.label_smoothing, self.l2 = label_smoothing, l2
        num_labels = getattr(task, "num_labels", None)
        weights = class_weights_of("class_weights", class_weights, num_labels)
        self.register_buffer("class_weights", weights, persistent=False)
        self.summary = SingleLabelSummary(tuple(getattr(task, "label_names", None) or ()))

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation may log, for ``checkpoint.best_checkpoint_metric``.

        F1 of single classes is logged too, but their names are only known with the data.
        """
        return ["loss", *OVERALL, cinc2017.METRIC]

    def logged_metrics(self) -> List[str]:
        """Return the names that validations of the task's classes log."""
        return ["loss", *self.summary.names]

    def epoch_metric_names(self) -> List[str]:
        """Return the names that ``epoch_metrics`` computes."""
        return self.summary.names

    def epoch_metrics(self, probability: np.ndarray, labels: np.ndarray) -> Dict[str, float]:
        """Return the metrics of a whole validation, from [N, K] probabilities and labels."""
        return self.summary(probability, labels)

    def forward(self, model: torch.nn.Module, sample: Dict[str, Any], reduce: bool = True) -> tuple:
        """Return (loss, sample size, logging output) of one batch.

        Args:
            model: Returns {"out": logits [B, K]}.
            sample: With ``label`` [B, K], exactly one 1 in each row.
            reduce: Not used; the loss is always summed.

        Raises:
            ValueError: If logits and labels differ in shape.
        """
        logits, labels = logits_and_labels(model, sample)
        loss = softmax_cross_entropy(logits, labels, self.class_weights, self.label_smoothing)
        if self.training and self.l2:
            loss = loss + len(labels) * self.l2 * kernel_penalty(model)
        right = logits.argmax(dim=1) == labels.argmax(dim=1)
        logging_output = {
            "loss": loss.detach(),
            "ntokens": len(labels),
            "nsentences": len(labels),
            "sample_size": len(labels),
            "correct": right.sum(),
        }
        if not self.training:
            probability = torch.softmax(logits.detach().float(), dim=1)
            logging_output["scores"] = {"probability": probability, "label": labels}
        return loss, len(labels), logging_output

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return True: one all-reduce per step, no pickled gathering."""
        return True

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss in bits per item, and the share of items that were answered rightly."""
        total = sum_logs(logging_outputs, ("loss", "sample_size", "correct"))
        size = total["sample_size"] or 1.0
        metrics.log_scalar("loss", total["loss"] / size / math.log(2), size, round=4)
        metrics.log_scalar("accuracy", total["correct"] / size, size, round=4)
