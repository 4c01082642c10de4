"""Multi-label classification: one binary cross entropy per class, summed."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor
from torch.nn import functional

from fairseq_ecg.criterions._logging import sum_logs
from fairseq_ecg.metrics.cinc2021 import find_class, load_weights
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.resources import challenge_classes, challenge_weights_file

_LOGGED = ("loss", "sample_size", "nsentences", "correct", "em_correct", "tp", "fp", "fn")
_SUMMED = ("loss", "accuracy", "em_accuracy", "precision", "recall")


@dataclass
class BinaryCrossEntropyWithLogitsConfig(FairseqDataclass):
    """Keys of ``binary_cross_entropy_with_logits``; names as in fairseq-signals."""

    pos_weight: Optional[List[float]] = field(
        default=None, metadata={"help": "weight of the positives of each class, [K]"}
    )
    weight: Optional[List[float]] = field(
        default=None, metadata={"help": "weight of each class, [K]"}
    )
    threshold: float = field(
        default=0.5, metadata={"help": "a class is decided where its probability is above this"}
    )
    report_auc: bool = field(
        default=False, metadata={"help": "report AUROC and AUPRC of each validation"}
    )
    auc_average: ChoiceEnum(["macro", "micro"]) = field(  # type: ignore[valid-type]
        default="macro", metadata={"help": "which average auroc and auprc are; both are reported"}
    )
    report_cinc_score: bool = field(
        default=False, metadata={"help": "report the CinC 2021 challenge score of each validation"}
    )
    weights_file: Optional[str] = field(
        default=None,
        metadata={"help": "the challenge's weights.csv; null: the one of manifests/physionet2021"},
    )


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    pos_weight: Optional[Tensor] = None,
    weight: Optional[Tensor] = None,
) -> Tensor:
    """Sum the binary cross entropy over items and classes, in float32.

    Args:
        logits: [B, K], any float dtype.
        labels: 0 or 1, float32 [B, K].
        pos_weight: Weight of the positives of each class, float32 [K].
        weight: Weight of each class, float32 [K].
    """
    return functional.binary_cross_entropy_with_logits(
        logits.float(), labels.float(), weight=weight, pos_weight=pos_weight, reduction="sum"
    )


def count_decisions(probability: Tensor, labels: Tensor, threshold: float) -> Dict[str, Tensor]:
    """Count what accuracy, precision and recall are made of.

    Args:
        probability: float32 [B, K].
        labels: 0 or 1, [B, K].
        threshold: A class is decided where its probability is above this.

    Returns:
        Scalars: right decisions, items with all K right, true, false and missed positives.
    """
    decided, true = probability > threshold, labels > 0.5
    right = decided == true
    return {
        "correct": right.sum(),
        "em_correct": right.all(dim=1).sum(),
        "tp": (decided & true).sum(),
        "fp": (decided & ~true).sum(),
        "fn": (~decided & true).sum(),
    }


@register_criterion(
    "binary_cross_entropy_with_logits", dataclass=BinaryCrossEntropyWithLogitsConfig
)
class BinaryCrossEntropyWithLogits(FairseqCriterion):
    """Loss summed over items and classes; the sample size is B * K.

    Args:
        task: Its ``label_names`` must be the challenge's classes if the score is reported.
        pos_weight: Weight of the positives of each class, [K].
        weight: Weight of each class, [K].
        threshold: A class is decided where its probability is above this.
        report_auc: Report the areas under the curves.
        auc_average: Which average ``auroc`` and ``auprc`` are.
        report_cinc_score: Report the challenge score.
        weights_file: The challenge's table; None takes the one that ships with the package.

    Raises:
        ValueError: If weights have another length than K, or the classes are not the challenge's.
    """

    def __init__(
        self,
        task: Any,
        pos_weight: Optional[List[float]] = None,
        weight: Optional[List[float]] = None,
        threshold: float = 0.5,
        report_auc: bool = False,
        auc_average: str = "macro",
        report_cinc_score: bool = False,
        weights_file: Optional[str] = None,
    ) -> None:
        super().__init__(task)
        self.threshold = threshold
        num_labels = getattr(task, "num_labels", None)
        for name, values in (("pos_weight", pos_weight), ("weight", weight)):
            self.register_buffer(name, _class_weights(name, values, num_labels), persistent=False)
        average = str(getattr(auc_average, "value", auc_average))
        cinc = _challenge(task, weights_file) if report_cinc_score else {}
        self.summary = Summary(threshold, average, report_auc, **cinc)

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation logs, for ``checkpoint.best_checkpoint_metric``."""
        cinc = np.empty(0) if cfg.get("report_cinc_score") else None
        ranking = bool(cfg.get("report_auc"))
        return [*_SUMMED, *Summary(ranking=ranking, cinc_weights=cinc).names]

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
            sample: With ``label`` [B, K].
            reduce: Not used; the loss is always summed.

        Raises:
            ValueError: If logits and labels differ in shape.
        """
        logits, labels = model(**sample["net_input"])["out"], sample["label"]
        if logits.shape != labels.shape:
            raise ValueError(
                f"the model gives {logits.shape[-1]} scores, the data have {labels.shape[-1]} "
                "labels; give model.num_labels=null to take the number from the data"
            )
        loss = binary_cross_entropy(logits, labels, self.pos_weight, self.weight)
        probability = torch.sigmoid(logits.detach().float())
        logging_output = {
            "loss": loss.detach(),
            "ntokens": labels.numel(),
            "nsentences": len(labels),
            "sample_size": labels.numel(),
            **count_decisions(probability, labels, self.threshold),
        }
        if not self.training:
            logging_output["scores"] = {"probability": probability, "label": labels}
        return loss, labels.numel(), logging_output

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return True: one all-reduce per step, no pickled gathering."""
        return True

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the summed values: the loss in bits per decision, and shares of right decisions."""
        total = sum_logs(logging_outputs, _LOGGED)
        size = total["sample_size"] or 1.0
        metrics.log_scalar("loss", total["loss"] / size / math.log(2), size, round=4)
        metrics.log_scalar("accuracy", total["correct"] / size, size, round=4)
        items = total["nsentences"] or 1.0
        metrics.log_scalar("em_accuracy", total["em_correct"] / items, items, round=4)
        for key in ("tp", "fp", "fn"):
            metrics.log_scalar_sum(f"_{key}", total[key])
        metrics.log_derived("precision", lambda meters: _share(meters, "_fp"))
        metrics.log_derived("recall", lambda meters: _share(meters, "_fn"))


def _share(meters: Dict[str, Any], other: str) -> float:
    tp = meters["_tp"].sum
    return round(tp / ((tp + meters[other].sum) or 1.0), 4)


def _class_weights(
    name: str, values: Optional[List[float]], num_labels: Optional[int]
) -> Optional[Tensor]:
    if values is None:
        return None
    if num_labels is not None and len(values) != num_labels:
        raise ValueError(f"criterion.{name} has {len(values)} values for {num_labels} classes")
    weights = torch.tensor([float(v) for v in values])
    if not (torch.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"criterion.{name} must be finite and not negative, got {values}")
    return weights


def _challenge(task: Any, weights_file: Optional[str]) -> Dict[str, Any]:
    """Return the challenge's table and its sinus rhythm, checked against the task's classes."""
    path = Path(weights_file) if weights_file else challenge_weights_file()
    classes, weights = load_weights(path)
    num_labels = getattr(task, "num_labels", None)
    if num_labels is not None and num_labels != len(classes):
        raise ValueError(
            f"criterion.report_cinc_score needs the {len(classes)} classes of {path}, but "
            f"task.data has {num_labels}; "
            "give task.data the folder cinc2021 of the manifests, or report_cinc_score=false"
        )
    names = getattr(task, "label_names", None)
    official = challenge_classes().items()
    expected = [name for c in classes for name, codes in official if not c.isdisjoint(codes)]
    if names is not None and len(classes) == len(expected) and list(names) != expected:
        raise ValueError(
            f"criterion.report_cinc_score needs the {len(classes)} classes of {path} in its order, "
            f"but the labels of task.data are {names[:4]}...; "
            "give task.data the folder cinc2021 of the manifests, or report_cinc_score=false"
        )
    return {"cinc_weights": weights, "sinus_index": find_class(classes)}
