"""Behaviours around any dataset: labels, and pairs of adjacent segments.

Before: data/dataset.py. After: data/collate.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fairseq_ecg.data.dataset import BaseEcgDataset


class _Wrapper(BaseEcgDataset):
    """A dataset around another one; order, epoch and collation are the inner one's."""

    def __init__(self, dataset: BaseEcgDataset) -> None:
        self.dataset = dataset
        self.sizes = dataset.sizes
        self.seed = dataset.seed
        self.shuffle = dataset.shuffle
        self.rebuild_batches = dataset.rebuild_batches
        self.epoch = dataset.epoch

    def collater(self, items: Sequence[Any]) -> dict[str, Any]:
        """Merge items into a batch (see ``data/collate.py``)."""
        return self.dataset.collater(items)


class LabelledDataset(_Wrapper):
    """Adds ``label`` to the items of a dataset.

    Args:
        dataset: Items with ``record``.
        labels: Multi-hot labels of each recording, float32 [N, K].
    """

    def __init__(self, dataset: BaseEcgDataset, labels: np.ndarray) -> None:
        super().__init__(dataset)
        self.labels = np.asarray(labels, dtype=np.float32)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the item with ``label``, float32 [K]."""
        return self._label(self.dataset[index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several items with ``label``."""
        return [self._label(item) for item in self.dataset.__getitems__(indices)]

    def _label(self, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "label": self.labels[item["record"]]}


class SegmentPairs(_Wrapper):
    """Groups of adjacent segments as one item (CMSC: Kiyasseh et al., ICML 2021, section 3.2).

    Adds ``segment``: position in the group modulo 2, so that the two halves of each pair are told
    apart. A batch of n groups is flattened to [group 0 segment 0, group 0 segment 1, group 1 ...].

    Args:
        dataset: Single segments.
        groups: Indices into it, an even number per group.
    """

    def __init__(self, dataset: BaseEcgDataset, groups: Sequence[Sequence[int]]) -> None:
        super().__init__(dataset)
        self.groups = groups
        self.sizes = np.array(
            [dataset.sizes[list(group)].sum() for group in groups], dtype=np.int64
        )

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """Return the segments of one group."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the segments of several groups, one after the other."""
        groups = [self.groups[int(index)] for index in indices]
        items = self.dataset.__getitems__([i for group in groups for i in group])
        segments = [position % 2 for group in groups for position in range(len(group))]
        return [{**item, "segment": s} for item, s in zip(items, segments, strict=True)]

    def collater(self, items: Sequence[Any]) -> dict[str, Any]:
        """Merge segments, or lists of them, into a batch."""
        flat = [s for item in items for s in (item if isinstance(item, list) else [item])]
        return self.dataset.collater(flat)


def pair_windows(rows: np.ndarray) -> list[list[int]]:
    """Group the windows of each recording by two: (0, 1), (2, 3), ...; an odd last one is dropped.

    Args:
        rows: Recording of each window, windows of one recording in a row, int64 [W].

    Returns:
        Indices of the windows of each recording that has two or more, an even number each.
    """
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    ends = np.append(starts[1:], len(rows))
    return [
        list(range(start, end - (end - start) % 2))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        if end - start >= 2
    ]
