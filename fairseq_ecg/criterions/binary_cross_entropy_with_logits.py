"""Multi-label classification: one binary cross entropy per class, summed.

By keys another loss per class takes its place, and terms of a whole batch are added to it: the
challenge score and the sparsity of Nejedly et al., 2021 (see ``_multilabel_losses.py``).
"""

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

from fairseq_ecg.criterions._class_weights import class_weights_of
from fairseq_ecg.criterions._logging import sum_logs
from fairseq_ecg.criterions._multilabel_losses import (
    asymmetric_loss,
    challenge_score_loss,
    focal_loss,
    sparsity_loss,
)
from fairseq_ecg.criterions._scores import logits_and_labels
from fairseq_ecg.metrics.cinc2021 import find_class, load_weights
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.resources import challenge_classes, challenge_weights_file

_LOGGED = ("loss", "sample_size", "nsentences", "correct", "em_correct", "tp", "fp", "fn")
_SUMMED = ("loss", "accuracy", "em_accuracy", "precision", "recall")
_TERMS = ("score_loss", "sparsity_loss")  # of a whole batch; logged only if asked for


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
    report_f_max: bool = field(
        default=False, metadata={"help": "report PTB-XL's F_max of each validation"}
    )
    report_f_beta: bool = field(
        default=False,
        metadata={"help": "report the F_beta and G_beta of CPSC 2018 of each validation, beta 2"},
    )
    weights_file: Optional[str] = field(
        default=None,
        metadata={"help": "the challenge's weights.csv; null: the one of manifests/physionet2021"},
    )
    base_loss: ChoiceEnum(["cross_entropy", "asymmetric", "focal"]) = field(  # type: ignore[valid-type]
        default="cross_entropy", metadata={"help": "loss of each decision"}
    )
    gamma_neg: float = field(
        default=4.0, metadata={"help": "asymmetric: focus on hard negatives; 0, or 1 and more"}
    )
    gamma_pos: float = field(
        default=0.0, metadata={"help": "asymmetric: focus on hard positives; 0, or 1 and more"}
    )
    clip: float = field(
        default=0.05,
        metadata={"help": "asymmetric: negatives of less probability than this cost nothing"},
    )
    focal_alpha: float = field(default=0.25, metadata={"help": "focal: weight of the positives"})
    focal_gamma: float = field(
        default=2.0, metadata={"help": "focal: focus on hard decisions; 0, or 1 and more"}
    )
    score_weight: float = field(
        default=0.0,
        metadata={"help": "weight of 1 - the CinC 2021 score of the batch, with probabilities"},
    )
    sparsity_weight: float = field(
        default=0.0, metadata={"help": "weight of the mean of 4 p (1 - p) over the batch"}
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
        report_f_max: Report PTB-XL's F_max.
        report_f_beta: Report the F_beta and G_beta of CPSC 2018.
        weights_file: The challenge's table; None takes the one that ships with the package.
        base_loss: Loss of each decision: "cross_entropy", "asymmetric" or "focal".
        gamma_neg: Of the asymmetric loss, as ``gamma_pos`` and ``clip``.
        gamma_pos: Of the asymmetric loss.
        clip: Of the asymmetric loss.
        focal_alpha: Of the focal loss, as ``focal_gamma``.
        focal_gamma: Of the focal loss.
        score_weight: Weight of 1 - the challenge score of the batch, with probabilities.
        sparsity_weight: Weight of the mean of 4 p (1 - p).

    Raises:
        ValueError: If weights have another length than K, the classes are not the challenge's, or
            an option of a loss is out of its range.
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
        report_f_max: bool = False,
        report_f_beta: bool = False,
        weights_file: Optional[str] = None,
        base_loss: str = "cross_entropy",
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        score_weight: float = 0.0,
        sparsity_weight: float = 0.0,
    ) -> None:
        super().__init__(task)
        self.base_loss = str(getattr(base_loss, "value", base_loss))
        self.asymmetric = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
        self.focal = {"alpha": focal_alpha, "gamma": focal_gamma}
        self.term_weights = {"score_loss": score_weight, "sparsity_loss": sparsity_weight}
        _check_losses(self, pos_weight)
        self.threshold = threshold
        num_labels = getattr(task, "num_labels", None)
        for name, values in (("pos_weight", pos_weight), ("weight", weight)):
            self.register_buffer(name, class_weights_of(name, values, num_labels), persistent=False)
        average = str(getattr(auc_average, "value", auc_average))
        cinc = (
            _challenge(task, weights_file, "report_cinc_score=false") if report_cinc_score else {}
        )
        table = None
        if score_weight:
            table = _challenge(task, weights_file, "score_weight=0")
            self.sinus_index = table["sinus_index"]
            table = torch.from_numpy(table["cinc_weights"]).float()
        self.register_buffer("challenge_weights", table, persistent=False)
        self.summary = Summary(
            threshold, average, report_auc, f_max=report_f_max, f_beta=report_f_beta, **cinc
        )

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation logs, for ``checkpoint.best_checkpoint_metric``."""
        summary = Summary(
            ranking=bool(cfg.get("report_auc")),
            f_max=bool(cfg.get("report_f_max")),
            f_beta=bool(cfg.get("report_f_beta")),
            cinc_weights=np.empty(0) if cfg.get("report_cinc_score") else None,
        )
        terms = [name for name in _TERMS if cfg.get(name.replace("loss", "weight"))]
        return [*_SUMMED, *terms, *summary.names]

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
        logits, labels = logits_and_labels(model, sample)
        loss = self.loss_of_decisions(logits, labels)
        terms = self.terms_of_batch(logits, labels)
        for name, value in terms.items():
            loss = loss + self.term_weights[name] * labels.numel() * value
        probability = torch.sigmoid(logits.detach().float())
        logging_output = {
            "loss": loss.detach(),
            "ntokens": labels.numel(),
            "nsentences": len(labels),
            "sample_size": labels.numel(),
            **count_decisions(probability, labels, self.threshold),
            **{name: value.detach() * len(labels) for name, value in terms.items()},
        }
        if not self.training:
            logging_output["scores"] = {"probability": probability, "label": labels}
        return loss, labels.numel(), logging_output

    def loss_of_decisions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum the loss of each decision over items and classes; [B, K] twice, float32 []."""
        if self.base_loss == "asymmetric":
            return asymmetric_loss(logits, labels, **self.asymmetric, weight=self.weight)
        if self.base_loss == "focal":
            return focal_loss(logits, labels, **self.focal, weight=self.weight)
        return binary_cross_entropy(logits, labels, self.pos_weight, self.weight)

    def terms_of_batch(self, logits: Tensor, labels: Tensor) -> Dict[str, Tensor]:
        """Return the terms of the whole batch that have a weight, by name, each float32 []."""
        terms = {}
        if self.term_weights["score_loss"]:
            table = self.challenge_weights
            terms["score_loss"] = challenge_score_loss(logits, labels, table, self.sinus_index)
        if self.term_weights["sparsity_loss"]:
            terms["sparsity_loss"] = sparsity_loss(logits)
        return terms

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return True: one all-reduce per step, no pickled gathering."""
        return True

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the summed values: the loss in bits per decision, and shares of right decisions."""
        terms = [name for name in _TERMS if any(name in log for log in logging_outputs)]
        total = sum_logs(logging_outputs, [*_LOGGED, *terms])
        size = total["sample_size"] or 1.0
        metrics.log_scalar("loss", total["loss"] / size / math.log(2), size, round=4)
        metrics.log_scalar("accuracy", total["correct"] / size, size, round=4)
        items = total["nsentences"] or 1.0
        metrics.log_scalar("em_accuracy", total["em_correct"] / items, items, round=4)
        for name in terms:
            metrics.log_scalar(name, total[name] / items, items, round=4)
        for key in ("tp", "fp", "fn"):
            metrics.log_scalar_sum(f"_{key}", total[key])
        metrics.log_derived("precision", lambda meters: _share(meters, "_fp"))
        metrics.log_derived("recall", lambda meters: _share(meters, "_fn"))


def _share(meters: Dict[str, Any], other: str) -> float:
    tp = meters["_tp"].sum
    return round(tp / ((tp + meters[other].sum) or 1.0), 4)


def _check_losses(criterion: BinaryCrossEntropyWithLogits, pos_weight: Any) -> None:
    """Refuse options of the losses that have no meaning, or no gradient at a probability of 0."""
    if pos_weight is not None and criterion.base_loss != "cross_entropy":
        raise ValueError(
            f"criterion.pos_weight has no effect with base_loss={criterion.base_loss}; leave it "
            "out, or weigh classes with criterion.weight"
        )
    gammas = {
        "gamma_neg": criterion.asymmetric["gamma_neg"],
        "gamma_pos": criterion.asymmetric["gamma_pos"],
        "focal_gamma": criterion.focal["gamma"],
    }
    for name, value in gammas.items():
        if value != 0 and not 1 <= value < math.inf:
            raise ValueError(f"criterion.{name} is {value}; give 0, or 1 and more")
    shares = {"clip": criterion.asymmetric["clip"], "focal_alpha": criterion.focal["alpha"]}
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise ValueError(f"criterion.{name} is {value}; give a share in [0, 1)")
    for name, value in criterion.term_weights.items():
        if not 0 <= value < math.inf:
            key = name.replace("loss", "weight")
            raise ValueError(f"criterion.{key} is {value}; give 0 or more")


def _challenge(task: Any, weights_file: Optional[str], off: str) -> Dict[str, Any]:
    """Return the challenge's table and its sinus rhythm, checked against the task's classes.

    Args:
        task: Its classes must be those of the table, in that order.
        weights_file: The table; None takes the one that ships with the package.
        off: How to do without it, ``key=value``.
    """
    key = off.partition("=")[0]
    path = Path(weights_file) if weights_file else challenge_weights_file()
    classes, weights = load_weights(path)
    num_labels = getattr(task, "num_labels", None)
    if num_labels is not None and num_labels != len(classes):
        raise ValueError(
            f"criterion.{key} needs the {len(classes)} classes of {path}, but "
            f"task.data has {num_labels}; "
            f"give task.data the folder cinc2021 of the manifests, or {off}"
        )
    names = getattr(task, "label_names", None)
    official = challenge_classes().items()
    expected = [name for c in classes for name, codes in official if not c.isdisjoint(codes)]
    if names is not None and len(classes) == len(expected) and list(names) != expected:
        raise ValueError(
            f"criterion.{key} needs the {len(classes)} classes of {path} in its order, "
            f"but the labels of task.data are {names[:4]}...; "
            f"give task.data the folder cinc2021 of the manifests, or {off}"
        )
    return {"cinc_weights": weights, "sinus_index": find_class(classes)}
