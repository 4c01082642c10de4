"""Items to a batch: crop or pad in time, padding mask, one tensor per key.

Before: data/dataset.py and data/wrappers.py. After: a model's ``forward(**net_input)``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KEYS = dict.fromkeys(("patient_id", "record", "segment", "view", "gallery"), torch.int64)


def collate(
    items: Sequence[dict[str, Any]],
    *,
    pad: bool,
    max_samples: int | None = None,
    crop_start: Callable[[dict[str, Any], int], int] | None = None,
) -> dict[str, Any]:
    """Merge items into the batch of design section 3.

    Args:
        items: Dictionaries with ``id`` and ``source`` (float32 [C, T_i], mV), and any of
            ``label`` ([K] or a number), ``patient_id``, ``record``, ``segment``, ``view`` and
            ``gallery``.
        pad: Pad short items with zeros at the end to the longest; otherwise crop all to the
            shortest.
        max_samples: Longest allowed T; longer items are cropped.
        crop_start: (item, surplus) -> first sample kept, in 0..surplus; None takes the centre.

    Returns:
        ``{"id": int64 [B], "net_input": {"source": float32 [B, C, T], "padding_mask": bool
        [B, T]}, ...}``; the mask is absent if nothing is padded. An empty dictionary for no items,
        which the engine takes for "nothing left on this process".
    """
    if not items:
        return {}
    lengths = [item["source"].shape[1] for item in items]
    target = min(max(lengths) if pad else min(lengths), max_samples or max(lengths))
    start = crop_start or (lambda item, surplus: surplus // 2)
    kept = [min(length, target) for length in lengths]
    sources = [
        item["source"] if n <= target else _crop(item["source"], start(item, n - target), target)
        for item, n in zip(items, lengths, strict=True)
    ]
    net_input = {"source": _stack(sources, target)}
    if min(kept) < target:
        net_input["padding_mask"] = torch.arange(target) >= torch.tensor(kept)[:, None]
    batch = {"id": torch.tensor([item["id"] for item in items]), "net_input": net_input}
    for key, dtype in _KEYS.items():
        if key in items[0]:
            batch[key] = torch.tensor([item[key] for item in items], dtype=dtype)
    if "label" in items[0]:
        batch["label"] = torch.from_numpy(np.stack([item["label"] for item in items]))
    return batch


def _crop(source: np.ndarray, start: int, length: int) -> np.ndarray:
    return source[:, start : start + length]


def _stack(sources: Sequence[np.ndarray], target: int) -> Tensor:
    """Stack to [B, C, T] with zeros at the end of short rows, without copying a whole batch.

    Sources that are the rows of one array, in order, as ``EcgDataset`` reads them, are that array.
    """
    whole = sources[0].base
    rows = (len(sources), sources[0].shape[0], target)
    if (
        isinstance(whole, np.ndarray)
        and whole.shape == rows
        and all(s.base is whole and s.shape == rows[1:] for s in sources)
        and all(s.ctypes.data == whole[i].ctypes.data for i, s in enumerate(sources))
    ):
        return torch.from_numpy(whole)
    batch = np.zeros(rows, dtype=np.float32)
    for row, source in zip(batch, sources, strict=True):
        row[:, : source.shape[1]] = source
    return torch.from_numpy(batch)
