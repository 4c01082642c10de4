"""Weights of classes as configurations give them."""

from typing import List, Optional

import torch
from torch import Tensor


def class_weights_of(
    name: str, values: Optional[List[float]], num_labels: Optional[int]
) -> Optional[Tensor]:
    """Return the weights of a key of a criterion.

    Args:
        name: The key.
        values: One weight per class, or None.
        num_labels: Number of classes K, or None if it is not known yet.

    Returns:
        float32 [K], or None.

    Raises:
        ValueError: If there are not K of them, or one is negative or not finite.
    """
    if values is None:
        return None
    if num_labels is not None and len(values) != num_labels:
        raise ValueError(f"criterion.{name} has {len(values)} values for {num_labels} classes")
    weights = torch.tensor([float(v) for v in values])
    if not (torch.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"criterion.{name} must be finite and not negative, got {values}")
    return weights
