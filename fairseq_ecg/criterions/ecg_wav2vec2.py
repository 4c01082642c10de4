"""Contrastive loss of wav2vec 2.0 (Baevski et al., 2020, Section 3.2), for ``ecg_wav2vec2``.

Shapes: B batch, M masked frames per row, N negatives.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_ecg.criterions._contrastive_log import log_accuracy, log_losses, log_means
from fairseq_ecg.criterions._logging import sum_logs

_BUILT_IN = ("sample_size", "ntokens", "nsentences", "nsignals", "batches", "correct", "count")


def infonce_loss(logits: Tensor) -> Tensor:
    """Sum the cross-entropy of picking the positive among the negatives.

    Args:
        logits: float, [1 + N, B, M], the positive first; -inf where a negative does not count.

    Returns:
        float32, [], in nats.
    """
    rows = logits.permute(1, 2, 0).flatten(0, 1).float()  # [B * M, 1 + N]
    return F.cross_entropy(rows, rows.new_zeros(len(rows), dtype=torch.long), reduction="sum")


def binary_loss(logits: Tensor) -> Tensor:
    """Sum the binary cross-entropy of each logit, positive or negative, leaving out -inf.

    Args:
        logits: float, [1 + N, B, M], the positive first.

    Returns:
        float32, [], in nats.
    """
    signed = torch.cat([-logits[:1], logits[1:]]).float()
    return F.softplus(signed).sum()


def diversity_loss(prob_perplexity: Tensor, num_vars: int) -> Tensor:
    """Return the share of the codebook that is not used, in [0, 1].

    Args:
        prob_perplexity: float32, [], perplexity of the mean softmax, summed over groups.
        num_vars: Number of codes of all groups.
    """
    return (num_vars - prob_perplexity) / num_vars


def count_correct(logits: Tensor) -> Tensor:
    """Count the masked frames whose positive has the largest logit, ties of all logits excluded.

    Args:
        logits: float, [1 + N, B, M], the positive first.

    Returns:
        int64, [].
    """
    best, worst = logits.argmax(0) == 0, logits.argmin(0) == 0
    return (best & ~worst).sum()


@dataclass
class EcgWav2Vec2CriterionConfig(FairseqDataclass):
    """The reference's keys; its presets set infonce and loss_weights [0.1, 10]."""

    infonce: bool = field(
        default=False,
        metadata={"help": "cross-entropy over positive and negatives instead of a binary one each"},
    )
    loss_weights: Optional[List[float]] = field(
        default=None, metadata={"help": "weights of codebook diversity and of the feature penalty"}
    )
    log_keys: List[str] = field(
        default_factory=list, metadata={"help": "scalars of the model's output to log"}
    )


# Scalars of the model's output.
LOGGABLE = ("prob_perplexity", "code_perplexity", "num_vars", "temp", "features_pen")


@register_criterion("ecg_wav2vec2", dataclass=EcgWav2Vec2CriterionConfig)
class EcgWav2Vec2Criterion(FairseqCriterion):
    """InfoNCE, codebook diversity and feature penalty, each times the number of masked frames.

    Args:
        task: The fairseq task.
        infonce: Cross-entropy over positive and negatives instead of a binary one each.
        loss_weights: Weights of diversity and penalty; one value serves both; None = 0, 0.
        log_keys: Scalars of the model's output to log.

    Raises:
        ValueError: If there are more than two weights, or a key to log is no scalar.
    """

    num_terms = 3

    def __init__(
        self,
        task: Any,
        infonce: bool = False,
        loss_weights: Optional[Sequence[float]] = None,
        log_keys: Optional[Sequence[str]] = None,
    ) -> None:
        super().__init__(task)
        self.infonce = infonce
        self.diversity_weight, self.penalty_weight = _two_weights(loss_weights)
        self.log_keys = list(log_keys or [])
        for key in self.log_keys:
            if key not in LOGGABLE:
                raise ValueError(
                    f"criterion.log_keys has {key!r}; what can be logged is {', '.join(LOGGABLE)}"
                )

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation logs, for ``checkpoint.best_checkpoint_metric``."""
        accuracy = ["accuracy"] if cfg.get("infonce") else []
        terms = [f"loss_{i}" for i in range(cls.num_terms)]
        return ["loss", *terms, *accuracy, *(cfg.get("log_keys") or [])]

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Compute the loss of one batch.

        Args:
            model: A model whose output has ``logits``, ``features_pen`` and so on.
            sample: A batch; ``net_input`` holds the model's arguments.
            reduce: Unused; the loss is always summed.

        Returns:
            The loss, float32, []; the number of masked frames; what to log, as sums.
        """
        output = model(**sample["net_input"])
        return self.report(output, self.local_losses(output))

    def local_losses(self, output: Dict[str, Any]) -> List[Tensor]:
        """Return InfoNCE, weighted diversity and weighted penalty, each summed over frames."""
        logits = output["logits"]
        n_rows = logits.shape[1] * logits.shape[2]
        first = infonce_loss(logits) if self.infonce else binary_loss(logits)
        diversity = penalty = first.new_zeros(())
        if self.diversity_weight and output["prob_perplexity"] is not None:
            diversity = diversity_loss(output["prob_perplexity"].float(), output["num_vars"])
        if self.penalty_weight:
            penalty = output["features_pen"].float()
        return [
            first,
            self.diversity_weight * n_rows * diversity,
            self.penalty_weight * n_rows * penalty,
        ]

    def report(
        self, output: Dict[str, Any], losses: Sequence[Tensor]
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Add the losses up and collect what is logged."""
        logits = output["logits"].detach()
        _, batch, n_masked = logits.shape
        loss = torch.stack(tuple(losses)).sum()
        log: Dict[str, Any] = {"loss": loss.detach()}
        log.update((f"loss_{i}", term.detach()) for i, term in enumerate(losses))
        log.update(dict.fromkeys(("sample_size", "ntokens"), batch * n_masked))
        log.update(nsentences=batch, nsignals=batch, batches=1)
        if self.infonce:
            log.update(correct=count_correct(logits), count=batch * n_masked)
        for key in self.log_keys:
            value = output.get(key)
            if value is not None:
                log[key] = value.detach() if torch.is_tensor(value) else float(value)
        return loss, batch * n_masked, log

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log losses in bits per masked frame, accuracy, and the mean of every other key.

        Args:
            logging_outputs: What ``forward`` returned, of all micro-batches and processes.
        """
        totals = sum_logs(logging_outputs, logging_outputs[0])
        log_losses(totals)
        log_accuracy(totals)
        for key in ("ntokens", "nsentences", "nsignals"):
            metrics.log_scalar(key, totals[key])
        log_means(totals, [k for k in totals if k not in _BUILT_IN and not k.startswith("loss")])

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Tell the engine that logging outputs of several processes may be added up."""
        return True


def _two_weights(weights: Optional[Sequence[float]]) -> Tuple[float, float]:
    values = [0.0, 0.0] if weights is None else [float(weight) for weight in weights]
    if len(values) == 1:
        values *= 2
    if len(values) != 2:
        raise ValueError(
            f"criterion.loss_weights has {len(values)} values ({values}); give two, for codebook "
            "diversity and feature penalty, e.g. [0.1, 10], or one for both"
        )
    return values[0], values[1]
