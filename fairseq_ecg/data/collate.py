"""Items to a batch: crop or pad in time, padding mask, one tensor per key.

Before: data/dataset.py and data/wrappers.py. After: a model's ``forward(**net_input)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KEYS = dict.fromkeys(("patient_id", "record", "start", "segment", "view", "gallery"), torch.int64)


# What of an item the network gets besides its samples.
_MASKS = ("mask", "lead_mask")


@dataclass(frozen=True)
class Padding:
    """Zeros that bring every item to one length.

    Args:
        length: Samples T of every item.
        where: ``end``: zeros behind an item; ``start``: before it; ``centre``: at both ends, of an
            odd number one more behind.
    """

    length: int
    where: str = "end"

    def left(self, n_samples: int, target: int | None = None) -> int:
        """Return how many zeros stand before an item.

        Args:
            n_samples: Its length.
            target: Samples with padding; None = ``length``.
        """
        missing = max(target or self.length, n_samples) - n_samples
        return {"end": 0, "centre": missing // 2, "start": missing}[self.where]


def collate(
    items: Sequence[dict[str, Any]],
    *,
    pad: bool,
    max_samples: int | None = None,
    padding: Padding | None = None,
    crop_start: Callable[[dict[str, Any], int], int] | None = None,
) -> dict[str, Any]:
    """Merge items into the batch of design section 3.

    Args:
        items: Dictionaries with ``id`` and ``source`` (float32 [C, T_i], mV), and any of
            ``label`` ([K] or a number), ``patient_id``, ``record``, ``start``, ``segment``,
            ``view``, ``gallery``, ``scale_mv`` (float32 [C]), ``mask`` and ``lead_mask`` (bool
            [C, N_i]).
        pad: Pad short items with zeros at the end to the longest; otherwise crop all to the
            shortest.
        max_samples: Longest allowed T; longer items are cropped.
        padding: Pad all items to one length instead, whatever ``pad`` says.
        crop_start: (item, surplus) -> first sample kept, in 0..surplus; None takes the centre.

    Returns:
        ``{"id": int64 [B], "net_input": {"source": float32 [B, C, T], "padding_mask": bool
        [B, T]}, ...}``; the padding mask is absent if nothing is padded. ``mask`` and ``lead_mask``
        are part of ``net_input``, bool [B, C, N]. An empty dictionary for no items,
        which the engine takes for "nothing left on this process".
    """
    if not items:
        return {}
    lengths = [item["source"].shape[1] for item in items]
    target = max(lengths) if pad else min(lengths)
    if padding is not None:
        target = max(padding.length, *lengths)
    target = min(target, max_samples or target)
    start = crop_start or (lambda item, surplus: surplus // 2)
    kept = [min(length, target) for length in lengths]
    sources = [
        item["source"] if n <= target else _crop(item["source"], start(item, n - target), target)
        for item, n in zip(items, lengths, strict=True)
    ]
    left = [padding.left(n, target) if padding else 0 for n in kept]
    net_input = {"source": _stack(sources, left, target)}
    if min(kept) < target:
        first, n = (torch.tensor(numbers)[:, None] for numbers in (left, kept))
        time = torch.arange(target)
        net_input["padding_mask"] = (time < first) | (time >= first + n)
    net_input.update({key: _stack_masks(items, key) for key in _MASKS if key in items[0]})
    batch = {"id": torch.tensor([item["id"] for item in items]), "net_input": net_input}
    for key, dtype in _KEYS.items():
        if key in items[0]:
            batch[key] = torch.tensor([item[key] for item in items], dtype=dtype)
    for key in ("label", "scale_mv"):
        if key in items[0]:
            batch[key] = torch.from_numpy(np.stack([item[key] for item in items]))
    return batch


def _crop(source: np.ndarray, start: int, length: int) -> np.ndarray:
    return source[:, start : start + length]


def _stack_masks(items: Sequence[dict[str, Any]], key: str) -> Tensor:
    """Stack to [B, C, N]; blocks that an item does not have are not hidden."""
    masks = [item[key] for item in items]
    n_blocks = max(mask.shape[1] for mask in masks)
    batch = np.zeros((len(masks), masks[0].shape[0], n_blocks), dtype=bool)
    for row, mask in zip(batch, masks, strict=True):
        row[:, : mask.shape[1]] = mask
    return torch.from_numpy(batch)


def _stack(sources: Sequence[np.ndarray], left: Sequence[int], target: int) -> Tensor:
    """Stack to [B, C, T] with zeros around short rows, without copying a whole batch.

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
    for row, source, first in zip(batch, sources, left, strict=True):
        row[:, first : first + source.shape[1]] = source
    return torch.from_numpy(batch)
