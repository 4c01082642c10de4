"""What contrastive criterions hand to fairseq's meters, always Python floats."""

import math
from typing import Any, Dict, Sequence

from fairseq.logging import metrics
from fairseq.logging.meters import safe_round

LN2 = math.log(2)


def log_losses(totals: Dict[str, float]) -> None:
    """Log every ``loss*`` per unit of sample size, in bits.

    Args:
        totals: Sums, with ``sample_size``.
    """
    sample_size = totals["sample_size"]
    for key, value in totals.items():
        if key.startswith("loss"):
            metrics.log_scalar(key, value / (sample_size or 1.0) / LN2, sample_size, round=3)


def log_accuracy(totals: Dict[str, float]) -> None:
    """Log ``accuracy`` as a ratio of the sums ``correct`` and ``count`` of a whole interval.

    Args:
        totals: Sums, with ``correct`` and ``count``; nothing is logged without them.
    """
    if not totals.get("count"):
        return
    metrics.log_scalar("_correct", totals["correct"])
    metrics.log_scalar("_total", totals["count"])
    metrics.log_derived("accuracy", _accuracy)


def log_means(totals: Dict[str, float], keys: Sequence[str]) -> None:
    """Log the mean of some keys over micro-batches and processes.

    Args:
        totals: Sums, with ``batches``, the number of outputs that were added up.
        keys: Which sums to log.
    """
    for key in keys:
        metrics.log_scalar(key, totals[key] / (totals["batches"] or 1.0), round=3)


def _accuracy(meters: Dict[str, Any]) -> float:
    total = meters["_total"].sum
    return safe_round(meters["_correct"].sum / total, 5) if total > 0 else float("nan")
