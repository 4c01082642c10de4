"""What a classifier says about a batch, beside its labels."""

from typing import Any, Dict, Tuple

from torch import Tensor, nn


def logits_and_labels(model: nn.Module, sample: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
    """Run a classifier on a batch.

    Args:
        model: Returns {"out": logits [B, K]}.
        sample: With ``label`` [B, K].

    Returns:
        Logits and labels, [B, K] both.

    Raises:
        ValueError: If they differ in shape.
    """
    logits, labels = model(**sample["net_input"])["out"], sample["label"]
    if logits.shape != labels.shape:
        raise ValueError(
            f"the model gives {logits.shape[-1]} scores, the data have {labels.shape[-1]} labels; "
            "give model.num_labels=null to take the number from the data"
        )
    return logits, labels
