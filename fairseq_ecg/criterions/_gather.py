"""Rows of all processes, with their exact gradient."""

from typing import Any, Dict, Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather_rows(rows: Tensor, fill: float = 0) -> Tensor:
    """Stack the rows of all processes, those with fewer filled up.

    The gradient of a row is the sum over all processes.

    Args:
        rows: [B, ...], B may differ between processes.
        fill: Value of the rows added where B is smaller than the largest.

    Returns:
        [W * largest B, ...] for W processes; ``rows`` itself if there is only one.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    count = torch.tensor([rows.shape[0]], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    missing = int(torch.cat(counts).max()) - rows.shape[0]
    rows = F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing), value=fill).contiguous()
    return torch.cat(all_gather(rows) if rows.requires_grad else _gathered(rows))


def keys_of_rows(sample: Dict[str, Any], names: Iterable[str]) -> Dict[str, Any]:
    """Return what a batch says of its rows, such as which view of what each one is.

    A process that has run out of batches repeats one, marked ``dummy`` (see ``engine.py``), so that
    all processes meet. Its rows are those of other processes once more, and take no part.

    Args:
        sample: The batch.
        names: Which keys.

    Returns:
        The keys; tensors are -1 in all rows of a dummy batch.
    """
    keys = {name: sample[name] for name in names}
    if not sample.get("dummy"):
        return keys
    return {k: torch.full_like(v, -1) if torch.is_tensor(v) else v for k, v in keys.items()}


def _gathered(rows: Tensor) -> list:
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows)
    return gathered
