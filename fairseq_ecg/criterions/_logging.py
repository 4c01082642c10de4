"""Adding up logging outputs without waiting for the device once per key."""

from typing import Any, Dict, Iterable, Sequence

import torch


def sum_logs(logging_outputs: Sequence[Dict[str, Any]], keys: Iterable[str]) -> Dict[str, float]:
    """Add up keys over all logging outputs.

    Args:
        logging_outputs: Dictionaries of numbers and one-element tensors, one per micro-batch and
            process, or already added up.
        keys: Which keys to add up; one that is absent counts as 0.

    Returns:
        One Python float per key; tensors of one device are fetched together.
    """
    totals = {key: sum(log.get(key, 0) for log in logging_outputs) for key in keys}
    on_device = [key for key, value in totals.items() if torch.is_tensor(value)]
    if on_device:
        values = torch.stack([totals[key].detach().double().reshape(()) for key in on_device])
        totals.update(zip(on_device, values.tolist(), strict=True))
    return {key: float(value) for key, value in totals.items()}
