"""Norms of the gradient in each block of an encoder, as the optimizer gets it.

They show whether the first blocks of a deep network learn at all (He et al., 2016, CVPR).
"""

from typing import Dict, List

import torch
from torch import Tensor, nn


class GradientNorms:
    """Measures one norm per block.

    Args:
        model: An encoder whose blocks have an order (``layer_of`` and ``depth``), or a model with
            such an ``encoder``.

    Raises:
        ValueError: If its blocks have none.
    """

    def __init__(self, model: nn.Module) -> None:
        encoder = model if hasattr(model, "layer_of") else getattr(model, "encoder", None)
        if not hasattr(encoder, "depth"):
            raise ValueError(
                "task.log_gradient_norms needs an encoder of blocks, which "
                f"{type(encoder or model).__name__} is not; give task.log_gradient_norms=false"
            )
        self._blocks: List[List[nn.Parameter]] = [[] for _ in range(encoder.depth)]
        for name, parameter in encoder.named_parameters():
            place = encoder.layer_of(name)
            if 1 <= place <= encoder.depth:
                self._blocks[place - 1].append(parameter)

    def measure(self) -> Dict[str, Tensor]:
        """Return ``gradient_norm_<block>``, float32 [], counted from 1; 0 without gradients."""
        return {
            f"gradient_norm_{number}": _norm([p.grad for p in block if p.grad is not None])
            for number, block in enumerate(self._blocks, 1)
        }


def _norm(gradients: List[Tensor]) -> Tensor:
    if not gradients:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(gradients)).float().norm()
