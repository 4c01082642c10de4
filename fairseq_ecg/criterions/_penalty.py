"""The squared norm of kernels as a part of the loss, as TensorFlow programs have it.

With Adam it is not the same as ``optimizer.weight_decay``, which fairseq takes off the weights
directly (Loshchilov and Hutter, 2019, ICLR).
"""

import torch
from torch import Tensor, nn

_KERNELS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def kernel_penalty(model: nn.Module) -> Tensor:
    """Return half the squared norm of the kernels of all trained convolutions and linear layers.

    Args:
        model: Any; while its ``encoder`` is ``frozen``, that is left out.

    Returns:
        float32 [], with a gradient; 0 if nothing is trained.
    """
    at_rest = set(model.encoder.modules()) if getattr(model, "frozen", False) else set()
    layers = [m for m in model.modules() if isinstance(m, _KERNELS) and m not in at_rest]
    squares = [m.weight.float().square().sum() for m in layers if m.weight.requires_grad]
    return 0.5 * torch.stack(squares).sum() if squares else torch.zeros(())
