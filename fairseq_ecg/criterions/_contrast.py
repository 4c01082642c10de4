"""What contrastive criterions share: one vector per view, their comparison, the log.

A view is one row of the batch: a segment, a lead of a segment, or a perturbed copy. Which rows are
positives of each other and which are compared at all is the method's; both are [B, B] masks, so
that no shape depends on the data and the device is not waited for.
Shapes: B batch of views, L frames, D width.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_ecg.criterions._contrastive_log import log_accuracy, log_losses
from fairseq_ecg.criterions._gather import gather_rows, keys_of_rows
from fairseq_ecg.criterions._logging import sum_logs
from fairseq_ecg.modules.pooling import mean_of_nonzero

LOWEST = torch.finfo(torch.float32).min
_COUNTS = ("ntokens", "nsentences", "nsignals")
_SUMS = ("loss", "sample_size", "correct", "count", *_COUNTS)


def normalize_detached(vectors: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale vectors, float, [B, D], to unit length; the length is a constant to the gradient."""
    return vectors / vectors.detach().norm(dim=-1, keepdim=True).clamp_min(eps)


def unit_vectors(features: Tensor, padding_mask: Optional[Tensor], eps: float = 1e-8) -> Tensor:
    """Turn the frames of each view into one vector of unit length.

    Args:
        features: Encoder output, float, [B, L, D].
        padding_mask: bool, [B, L], True = padded; None = nothing is padded.
        eps: Least norm of a pooled vector.

    Returns:
        float32, [B, D].
    """
    return normalize_detached(mean_of_nonzero(features.float(), padding_mask), eps)


def partner_masks(view: Tensor, n_views: int) -> Tuple[Tensor, Tensor]:
    """Compare each row with all others; positives are the other views of its item.

    Args:
        view: int, [B], item by item; -1 does not take part.
        n_views: Rows per item.

    Returns:
        Positives, and all that are compared; bool, [B, B] each.
    """
    row = torch.arange(len(view), device=view.device)
    real = view >= 0
    compared = (row[:, None] != row[None]) & real[:, None] & real[None]
    item = row // n_views
    return compared & (item[:, None] == item[None]), compared


def mean_contrast(similarity: Tensor, positive: Tensor, compared: Tensor) -> Tensor:
    """Average over all positives how surprising it is to pick them among what is compared.

    Args:
        similarity: float32, [B, B], divided by the temperature already.
        positive: bool, [B, B].
        compared: bool, [B, B], the positives among them.

    Returns:
        float32, []: mean of -log softmax by rows, in nats; 0 without positives.
    """
    log_share = similarity.masked_fill(~compared, LOWEST).log_softmax(1)
    return -log_share.masked_fill(~positive, 0.0).sum() / positive.sum().clamp_min(1)


def count_nearest(similarity: Tensor, positive: Tensor, compared: Tensor) -> Tuple[Tensor, Tensor]:
    """Count the views whose nearest other view is a positive; a tie with a negative is none.

    Args:
        similarity: float32, [B, B].
        positive: bool, [B, B].
        compared: bool, [B, B], the positives among them.

    Returns:
        How many, and how many views have a positive at all; int64, [] each.
    """
    nearest = similarity.masked_fill(~positive, LOWEST).amax(1)
    nearest_negative = similarity.masked_fill(~compared | positive, LOWEST).amax(1)
    asked = positive.any(1)
    return (asked & (nearest > nearest_negative)).sum(), asked.sum()


@dataclass
class ContrastiveConfig(FairseqDataclass):
    """The reference's keys."""

    temp: float = field(default=0.1, metadata={"help": "divisor of the similarities of views"})
    eps: float = field(default=1e-8, metadata={"help": "least norm of a view's vector"})
    all_gather: bool = field(
        default=False,
        metadata={"help": "compare with the views of all processes, with exact gradients"},
    )


class ContrastiveCriterion(FairseqCriterion):
    """Base of the criterions that compare whole views.

    The loss is per view and is multiplied by the number of views of this process, which is the
    sample size: the engine's division by the sum of sample sizes gives the mean back.

    Args:
        task: The fairseq task.
        temp: Divisor of the similarities.
        eps: Least norm of a view's vector.
        all_gather: Compare with the views of all processes.

    Raises:
        ValueError: If ``temp`` or ``eps`` is not positive.
    """

    needs: Tuple[str, ...] = ()  # keys of the batch, besides net_input
    task_views = ""  # what makes the task give them

    def __init__(
        self, task: Any, temp: float = 0.1, eps: float = 1e-8, all_gather: bool = False
    ) -> None:
        super().__init__(task)
        if temp <= 0 or eps <= 0:
            raise ValueError(f"criterion.temp ({temp}) and criterion.eps ({eps}) must be positive")
        self.temp = temp
        self.eps = eps
        self.all_gather = all_gather

    def masks(self, keys: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
        """Return which views are positives of each other and which are compared.

        Args:
            keys: The batch's integers, [B] each; -1 in rows that only fill up a process's share,
                and in all rows of a dummy batch.

        Returns:
            bool, [B, B] each.
        """
        raise NotImplementedError

    def loss(
        self, similarity: Tensor, positive: Tensor, compared: Tensor, keys: Dict[str, Any]
    ) -> Tensor:
        """Return the loss per view, float32, [], in nats."""
        return mean_contrast(similarity, positive, compared)

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Compute the loss of one batch of views.

        Args:
            model: A model whose output has ``features`` [B, L, D] and ``padding_mask``.
            sample: A batch with ``net_input`` and the keys that the method needs.
            reduce: Unused; the loss is always summed.

        Returns:
            The loss, float32, []; the number of views; what to log, as sums.

        Raises:
            ValueError: If the batch has not the views that the method needs.
        """
        keys = self._keys(sample)
        output = model(**sample["net_input"])
        rows = len(output["features"])
        with torch.autocast(output["features"].device.type, enabled=False):
            vectors = unit_vectors(output["features"], output["padding_mask"], self.eps)
            if self.all_gather:
                vectors = gather_rows(vectors)
                keys = {k: _gathered(value) for k, value in keys.items()}
            similarity = vectors @ vectors.T / self.temp
            positive, compared = self.masks(keys)
            loss = rows * self.loss(similarity, positive, compared, keys)
            correct, count = count_nearest(similarity.detach(), positive, compared)
        log = {"loss": loss.detach(), "sample_size": rows, "correct": correct, "count": count}
        log.update(dict.fromkeys(_COUNTS, rows))
        return loss, rows, log

    def needed(self, sample: Dict[str, Any]) -> Tuple[str, ...]:
        """Return the keys of a batch that the method compares by."""
        return self.needs

    def _keys(self, sample: Dict[str, Any]) -> Dict[str, Any]:
        needed = self.needed(sample)
        missing = [key for key in needed if key not in sample]
        if missing:
            raise ValueError(
                f"the batch has no {' and no '.join(missing)}, which this criterion needs; "
                f"give {self.task_views}"
            )
        return keys_of_rows(sample, needed)

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation logs, for ``checkpoint.best_checkpoint_metric``."""
        return ["loss", "accuracy"]

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss in bits per view and the share of views whose nearest one is a positive.

        Args:
            logging_outputs: What ``forward`` returned, of all micro-batches and processes.
        """
        totals = sum_logs(logging_outputs, _SUMS)
        log_losses(totals)
        log_accuracy(totals)
        for key in _COUNTS:
            metrics.log_scalar(key, totals[key])

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Tell the engine that logging outputs of several processes may be added up."""
        return True


def _gathered(value: Any) -> Any:
    return gather_rows(value, fill=-1) if torch.is_tensor(value) else value
