"""Windows of recordings as a fairseq dataset.

Everything random depends on (seed, epoch, index) only, so batches are the same for any number of
loader workers and after a resume. The epoch lives in shared memory: fairseq keeps its workers over
epochs and cannot tell them otherwise. ``batch_by_size`` is our own: fairseq's drops the last batch
of a size that is no multiple of eight and needs a compiled extension.

Before: data/windows.py, transforms/pipeline.py. After: data/wrappers.py, data/collate.py.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from fairseq.data import FairseqDataset

from fairseq_ecg.data.collate import Padding, collate
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.sources import Source
from fairseq_ecg.data.windows import Windows

# Streams of randomness of one (seed, epoch): what draws must not share numbers with the others.
_TRANSFORM, _CROP, _ORDER, _START, _MASK, _VIEW = range(6)


class BaseEcgDataset(FairseqDataset):
    """What all our datasets share: batching, order and the epoch."""

    sizes: np.ndarray  # samples per item, int64 [N]
    seed: int
    shuffle: bool
    rebuild_batches: bool
    epoch: torch.Tensor

    def set_epoch(self, epoch: int) -> None:
        """Take over the epoch, in place, also in loader workers that are already running."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.sizes)

    def size(self, index: int) -> int:
        """Return the number of samples of an item."""
        return int(self.sizes[index])

    def num_tokens(self, index: int) -> int:
        """Return the number of samples of an item, which ``dataset.max_tokens`` counts."""
        return self.size(index)

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """Return the number of samples of many items, int64."""
        return self.sizes[indices]

    def ordered_indices(self) -> np.ndarray:
        """Return the order in which batches are cut, int64 [N].

        In training one random permutation, then longest first, so that items of a batch have like
        lengths; with ``rebuild_batches`` another permutation each epoch.
        """
        if not self.shuffle:
            return np.arange(len(self))
        epoch = int(self.epoch) if self.rebuild_batches else 0
        order = np.random.default_rng((self.seed, epoch, 0, _ORDER)).permutation(len(self))
        return order[np.argsort(-self.sizes[order], kind="stable")]

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Cut an order into batches and keep the remainder.

        Args:
            indices: Order of the items, int64 [N].
            max_tokens: Most samples of a batch, counted with padding; None for no limit.
            max_sentences: Most items of a batch; None for no limit.
            required_batch_size_multiple: Not used: it would drop the last items.

        Raises:
            ValueError: If one item alone has more than ``max_tokens`` samples.
        """
        if max_tokens is None:
            step = max_sentences or max(len(indices), 1)
            return [indices[i : i + step] for i in range(0, len(indices), step)]
        batches: list[np.ndarray] = []
        first = longest = 0
        for position, n in enumerate(self.sizes[indices]):
            if n > max_tokens:
                raise ValueError(
                    f"dataset.max_tokens={max_tokens} is less than one item ({n} samples)"
                )
            count = position - first
            longest_now = max(longest, int(n))
            if count and (longest_now * (count + 1) > max_tokens or count == max_sentences):
                batches.append(indices[first:position])
                first, longest_now = position, int(n)
            longest = longest_now
        if first < len(indices):
            batches.append(indices[first:])
        return batches

    def view_generator(self, index: int, view: int) -> np.random.Generator:
        """Return the generator of what is drawn for a view after the transforms of its item."""
        return self._generator(index, _VIEW, view)

    def _generator(self, index: int, stream: int, view: int = 0) -> np.random.Generator:
        key = (self.seed, int(self.epoch), index, stream, *((view,) if view else ()))
        return np.random.default_rng(key)


class Transforms(Protocol):
    """What is done to the pieces, as ``transforms/pipeline.py`` does."""

    def batch(
        self, signals: Sequence[EcgSignal], rngs: Sequence[np.random.Generator]
    ) -> Sequence[EcgSignal]:
        """Return signals of one shape transformed, each as if it were alone with its generator."""


class EcgDataset(BaseEcgDataset):
    """Windows of the recordings of a source, transformed.

    Args:
        source: Recordings in mV.
        windows: Which pieces of them are the items.
        pipeline: Transforms of the pieces; they may write into ``values_mv``.
        seed: Seed of everything random.
        training: Shuffle, and crop at random; otherwise keep the order and crop at the centre.
        rebuild_batches: Draw new batches each epoch instead of once.
        pad: Pad items of a batch to the longest; otherwise crop to the shortest.
        max_samples: Crop longer items to this many samples.
        padding: Pad every item to one length; None: only to the longest of its batch.
        identity: Recording to the number that ``patient_id`` is; None = ``source.identity``.
        with_scale: Give items ``scale_mv``, float32 [C]: millivolts per unit of their samples.
    """

    def __init__(
        self,
        source: Source,
        windows: Windows,
        pipeline: Transforms,
        *,
        seed: int = 1,
        training: bool = False,
        rebuild_batches: bool = False,
        pad: bool = True,
        max_samples: int | None = None,
        padding: Padding | None = None,
        identity: Callable[[int], int] | None = None,
        with_scale: bool = False,
    ) -> None:
        self.source = source
        self.windows = windows
        self.pipeline = pipeline
        self.seed = seed
        self.shuffle = training
        self.rebuild_batches = rebuild_batches
        self.pad = pad
        self.max_samples = max_samples
        self.padding = padding
        self.with_scale = with_scale
        self.identity = source.identity if identity is None else identity
        lengths = windows.length if padding is None else np.maximum(windows.length, padding.length)
        self.sizes = np.minimum(lengths, max_samples or np.iinfo(np.int64).max)
        self.epoch = torch.ones(1, dtype=torch.int64).share_memory_()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one item: ``id``, ``record``, ``patient_id``, ``source`` (float32 [C, T], mV)."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several items; windows of equal length are read into one array of the batch."""
        return self.draw(indices)

    def draw(self, indices: Sequence[int], n_views: int = 1) -> list[dict[str, Any]]:
        """Return several items, each ``n_views`` times, its random transforms drawn anew.

        Args:
            indices: Of the items.
            n_views: How often each; the views of an item follow one another.
        """
        if len(indices) == 0:
            return []  # a process that has no batch left
        drawn = [(int(index), view) for index in indices for view in range(n_views)]
        lengths = self.windows.length[np.asarray(indices)]
        if (lengths == lengths[0]).all():
            return self._load(drawn)
        return [item for one in drawn for item in self._load([one])]

    def collater(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge items into a batch (see ``data/collate.py``)."""
        crop_start = self._random_start if self.shuffle else None
        return collate(
            items,
            pad=self.pad,
            max_samples=self.max_samples,
            padding=self.padding,
            crop_start=crop_start,
        )

    def _load(self, drawn: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return items of one length, given as (index, view)."""
        indices = [index for index, _ in drawn]
        rows = self.windows.row[indices].tolist()
        starts = [self._start(index) for index in indices]
        length = int(self.windows.length[indices[0]])
        batch = np.empty((len(drawn), len(STANDARD_LEADS), length), dtype=np.float32)
        signals = [
            EcgSignal(
                self.source.read(row, start, start + length, out=out),
                self.source.rate_hz,
                STANDARD_LEADS,
                self.source.scale_mv(row) if self.with_scale else None,
            )
            for row, start, out in zip(rows, starts, batch, strict=True)
        ]
        rngs = [self._generator(index, _TRANSFORM, view) for index, view in drawn]
        signals = self.pipeline.batch(signals, rngs)
        return [
            {
                "id": index,
                "record": row,
                "patient_id": self.identity(row),
                "source": signal.values_mv,
                **({"scale_mv": signal.scale_mv} if self.with_scale else {}),
            }
            for index, row, signal in zip(indices, rows, signals, strict=True)
        ]

    def mask_generator(self, index: int) -> np.random.Generator:
        """Return the generator of what is hidden of an item.

        In training it depends on seed, epoch and index. Otherwise on the recording's name and the
        first sample of the window alone, so that the losses of epochs, and of runs, compare.
        """
        return self._generator(index, _MASK) if self.shuffle else self._lasting_generator(index)

    def view_generator(self, index: int, view: int, lead: int = 0) -> np.random.Generator:
        """Return the generator of what is drawn for a view after the transforms of its item.

        Args:
            index: Of the item.
            view: Of the item.
            lead: Which lead of it, where they draw apart outside training.

        Returns:
            In training it depends on seed, epoch, index and view; otherwise as ``mask_generator``
            says, on view and lead as well.
        """
        if self.shuffle:
            return super().view_generator(index, view)
        return self._lasting_generator(index, view, lead)

    def _lasting_generator(self, index: int, *more: int) -> np.random.Generator:
        """Return a generator that is the same in all epochs and runs."""
        name = self.source.names[int(self.windows.row[index])]
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        key = (int.from_bytes(digest), int(self.windows.start[index]), *more)
        return np.random.default_rng(key)

    def _start(self, index: int) -> int:
        """Return the first sample of a piece, the same for all views of it."""
        start = int(self.windows.start[index])
        slack = 0 if self.windows.slack is None else int(self.windows.slack[index])
        return start + int(self._generator(index, _START).integers(slack + 1)) if slack else start

    def _random_start(self, item: dict[str, Any], surplus: int) -> int:
        return int(self._generator(item["id"], _CROP).integers(surplus + 1))
