"""Behaviours around any dataset: labels, several views of one thing, masks, probes and gallery.

Before: data/dataset.py. After: data/collate.py.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from fairseq_ecg.data.block_mask import BlockMask
from fairseq_ecg.data.dataset import BaseEcgDataset, EcgDataset


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
        labels: Of each recording: multi-hot, float32 [N, K], or one number, int64 [N].
    """

    def __init__(self, dataset: BaseEcgDataset, labels: np.ndarray) -> None:
        super().__init__(dataset)
        self.labels = np.asarray(labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the item with ``label``, float32 [K] or an int64."""
        return self._label(self.dataset[index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several items with ``label``."""
        return [self._label(item) for item in self.dataset.__getitems__(indices)]

    def _label(self, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "label": self.labels[item["record"]]}


class ProbesAndGallery(_Wrapper):
    """The two sides of an identification as one dataset, so that both are evaluated alike.

    The gallery follows the probes: ``id`` and ``record`` run on. Adds ``gallery``, 0 or 1.

    Args:
        probes: Recordings of unknown people.
        gallery: Recordings of known people, transformed in the same way.
        n_probes: Recordings of the probes; ``record`` of the gallery starts there.
    """

    def __init__(self, probes: BaseEcgDataset, gallery: BaseEcgDataset, n_probes: int) -> None:
        super().__init__(probes)
        self.gallery = gallery
        self.n_probes = n_probes
        self.sizes = np.concatenate([probes.sizes, gallery.sizes])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one item."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several items of either side."""
        first = len(self.dataset)
        probes = self.dataset.__getitems__([i for i in indices if i < first])
        gallery = self.gallery.__getitems__([i - first for i in indices if i >= first])
        sides = (
            iter([{**item, "gallery": 0} for item in probes]),
            iter([self._of_gallery(item) for item in gallery]),
        )
        return [next(sides[int(i >= first)]) for i in indices]

    def _of_gallery(self, item: dict[str, Any]) -> dict[str, Any]:
        shifted = {"id": item["id"] + len(self.dataset), "record": item["record"] + self.n_probes}
        return {**item, **shifted, "gallery": 1}


class _Grouped(_Wrapper):
    """A dataset whose items are lists of rows; a batch is the rows of its items, item by item."""

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """Return the rows of one item."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of several items, one after the other."""
        raise NotImplementedError

    def collater(self, items: Sequence[Any]) -> dict[str, Any]:
        """Merge rows, or lists of them, into a batch."""
        flat = [row for item in items for row in (item if isinstance(item, list) else [item])]
        return self.dataset.collater(flat)


class SegmentPairs(_Grouped):
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

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the segments of several groups, one after the other."""
        groups = [self.groups[int(index)] for index in indices]
        items = self.dataset.__getitems__([i for group in groups for i in group])
        segments = [position % 2 for group in groups for position in range(len(group))]
        return [{**item, "segment": s} for item, s in zip(items, segments, strict=True)]


class _Views(_Grouped):
    """Items of ``n_views`` rows each; every row gets ``view``, and a batch ``n_views``."""

    n_views: int

    def collater(self, items: Sequence[Any]) -> dict[str, Any]:
        """Merge rows, or lists of them, into a batch with ``n_views``."""
        batch = super().collater(items)
        return {**batch, "n_views": self.n_views} if batch else batch


class LeadViews(_Views):
    """Each lead of a segment as a row of its own, [1, T] (CMLC, CMSMLC: Kiyasseh et al., 2021).

    ``view`` counts the leads; around pairs of segments it goes on counting in the second one.

    Args:
        dataset: Segments, or ``SegmentPairs``.
        n_leads: Number of leads C of a segment.
    """

    def __init__(self, dataset: BaseEcgDataset, n_leads: int) -> None:
        super().__init__(dataset)
        self.n_leads = n_leads
        self.n_views = n_leads * (2 if isinstance(dataset, SegmentPairs) else 1)
        self.sizes = dataset.sizes * n_leads

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the leads of several items, one after the other."""
        return [
            {
                **segment,
                "source": segment["source"][lead : lead + 1],
                "view": segment.get("segment", 0) * self.n_leads + lead,
            }
            for segment in self.dataset.__getitems__(indices)
            for lead in range(self.n_leads)
        ]


class DrawnViews(_Views):
    """Each segment several times, its random transforms drawn anew (SimCLR, 3KG).

    A batch is ordered [segment 0 view 0, segment 0 view 1, segment 1 view 0, ...].

    Args:
        dataset: Segments with random transforms.
        n_views: How often each.
    """

    def __init__(self, dataset: EcgDataset, n_views: int = 2) -> None:
        super().__init__(dataset)
        self.n_views = n_views
        self.sizes = dataset.sizes * n_views

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the views of several segments, one after the other."""
        items = self.dataset.draw(indices, self.n_views)
        return [{**item, "view": row % self.n_views} for row, item in enumerate(items)]


class LeadItems(_Wrapper):
    """Each lead of a segment as an item of its own, [1, T], to be shuffled like any other.

    Item i is lead i % C of segment i // C. What is random about a segment is the same for all of
    its leads. Adds ``lead``, the name, which does not reach the batch.

    Args:
        dataset: Segments.
        leads: Names of the leads C of a segment.
    """

    def __init__(self, dataset: EcgDataset, leads: Sequence[str]) -> None:
        super().__init__(dataset)
        self.leads = tuple(leads)
        self.sizes = np.repeat(dataset.sizes, len(self.leads))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one lead of a segment."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several leads; a segment is read once for all of its leads that are asked for."""
        return self.draw(indices)

    def draw(self, indices: Sequence[int], n_views: int = 1) -> list[dict[str, Any]]:
        """Return several leads, each ``n_views`` times (see ``EcgDataset.draw``)."""
        places = [divmod(int(index), len(self.leads)) for index in indices]
        segments = list(dict.fromkeys(segment for segment, _ in places))
        drawn = self.dataset.draw(segments, n_views)
        first = {segment: n * n_views for n, segment in enumerate(segments)}
        return [
            self._lead(drawn[first[segment] + view], lead)
            for segment, lead in places
            for view in range(n_views)
        ]

    def view_generator(self, index: int, view: int) -> np.random.Generator:
        """See ``EcgDataset.view_generator``."""
        if self.shuffle:
            return super().view_generator(index, view)
        segment, lead = divmod(index, len(self.leads))
        return self.dataset.view_generator(segment, view, lead)

    def _lead(self, item: dict[str, Any], lead: int) -> dict[str, Any]:
        return {
            **item,
            "id": item["id"] * len(self.leads) + lead,
            "lead": self.leads[lead],
            "source": item["source"][lead : lead + 1],
        }


class ViewMaker(Protocol):
    """Makes views of windows, as ``transforms/recognition.py`` does."""

    n_views: int

    def batch(
        self,
        windows: np.ndarray,
        generators: Sequence[Callable[[int], np.random.Generator]],
        names: Sequence[str],
    ) -> np.ndarray:
        """Return the views of windows, float32 [N, C, T], as [N, V, C, T].

        Args:
            windows: The windows.
            generators: Of each window: view to its generator.
            names: Of each window, for messages.
        """


class TransformViews(_Views):
    """Each segment in all of its transformed forms; ``view`` says which one a row is.

    A batch is ordered [segment 0 form 0, segment 0 form 1, ..., segment 1 form 0, ...]. What is
    random about a form depends on seed, epoch, index and form in training, otherwise on the
    recording's name, the first sample, the lead if it is alone, and the form.

    Args:
        dataset: Segments, or single leads of them.
        maker: Makes the forms.
        names: Of the recordings, for messages.
    """

    def __init__(self, dataset: BaseEcgDataset, maker: ViewMaker, names: Sequence[str]) -> None:
        super().__init__(dataset)
        self.maker = maker
        self.n_views = maker.n_views
        self.names = names
        self.sizes = dataset.sizes * maker.n_views

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the forms of several segments, one after the other."""
        items = self.dataset.__getitems__(indices)
        if len({item["source"].shape for item in items}) <= 1:
            return self._rows(items)
        return [row for item in items for row in self._rows([item])]

    def _rows(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the forms of segments of one length, as rows of one array."""
        if not items:
            return []
        views = self.maker.batch(
            np.stack([item["source"] for item in items]),
            [partial(self.dataset.view_generator, item["id"]) for item in items],
            [self._name(item) for item in items],
        )
        rows = views.reshape(-1, *views.shape[2:])
        return [
            {**items[row // self.n_views], "source": source, "view": row % self.n_views}
            for row, source in enumerate(rows)
        ]

    def _name(self, item: dict[str, Any]) -> str:
        lead = f", lead {item['lead']}," if "lead" in item else ""
        return f"{self.names[item['record']]}{lead}"


class MaskedSegments(_Wrapper):
    """Segments with the blocks that are to be hidden and rebuilt; the samples stay as they are.

    Adds ``mask``, bool [C, N], and in the mode ``time_and_lead`` also ``lead_mask``. Blocks count
    from the first sample of the batch on, padding in front included.

    Args:
        dataset: Segments.
        block_mask: Draws the blocks.
    """

    def __init__(self, dataset: EcgDataset, block_mask: BlockMask) -> None:
        super().__init__(dataset)
        self.block_mask = block_mask

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the segment with its masks."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several segments with their masks."""
        return [
            self.hide(item, self.dataset.mask_generator(item["id"]))
            for item in self.dataset.__getitems__(indices)
        ]

    def hide(self, item: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Return a segment with its masks.

        Args:
            item: Of the inner dataset.
            rng: Draws the masks.
        """
        n_leads, n_samples = item["source"].shape
        padding = self.dataset.padding
        start = padding.left(n_samples) if padding else 0
        total = max(padding.length, n_samples) if padding else n_samples
        candidates = self.block_mask.candidates(start, start + n_samples, total)
        masks = self.block_mask.draw(rng, n_leads, candidates)
        return {**item, **dict(zip(("mask", "lead_mask"), masks, strict=False))}


def pair_windows(rows: np.ndarray) -> list[list[int]]:
    """Pair the windows of each recording: (0, 1), (2, 3), ...; an odd last one is dropped.

    Each pair is an item of its own, so that one long recording does not fill a batch by itself.

    Args:
        rows: Recording of each window, windows of one recording in a row, int64 [W].

    Returns:
        Indices of the two windows of each pair.
    """
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    ends = np.append(starts[1:], len(rows))
    return [
        [first, first + 1]
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        for first in range(start, end - 1, 2)
    ]
