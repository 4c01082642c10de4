"""Windows of recordings as a fairseq dataset.

Everything random depends on (seed, epoch, index) only, so batches are the same for any number of
loader workers and after a resume. The epoch lives in shared memory: fairseq keeps its workers over
epochs and cannot tell them otherwise. ``batch_by_size`` is our own: fairseq's drops the last batch
of a size that is no multiple of eight and needs a compiled extension.

Before: data/sources.py, transforms/pipeline.py. After: data/wrappers.py, data/collate.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from fairseq.data import FairseqDataset

from fairseq_ecg.data.collate import collate
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.sources import Source

# Streams of randomness of one (seed, epoch): transforms, crops and order must not share numbers.
_TRANSFORM, _CROP, _ORDER = range(3)


@dataclass(frozen=True)
class Windows:
    """Pieces of recordings.

    Args:
        row: Recording of each piece, int64 [W].
        start: First sample of each piece, int64 [W].
        length: Samples of each piece, int64 [W].
    """

    row: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def select(self, kept: np.ndarray) -> "Windows":
        """Return the pieces where ``kept`` (bool [W]) is True."""
        return Windows(self.row[kept], self.start[kept], self.length[kept])


def cut_windows(n_samples: np.ndarray, window: int | None = None) -> Windows:
    """Cut recordings into consecutive windows without overlap.

    A remainder shorter than the window is dropped, as in fairseq-signals; a recording shorter than
    one window is kept whole, so that no recording is lost.

    Args:
        n_samples: Length of each recording, int64 [N].
        window: Samples per window; None keeps every recording whole.

    Raises:
        ValueError: If the window is not positive.
    """
    n_samples = np.asarray(n_samples, dtype=np.int64)
    if window is None:
        return Windows(np.arange(len(n_samples)), np.zeros_like(n_samples), n_samples)
    if window <= 0:
        raise ValueError(f"a window must have at least one sample, got {window}")
    counts = np.maximum(n_samples // window, 1)
    row = np.repeat(np.arange(len(n_samples)), counts)
    number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Windows(row, number * window, np.minimum(n_samples[row], window))


def central_windows(n_samples: np.ndarray, window: int | None = None) -> Windows:
    """Take the middle of each recording, one window per recording.

    Args:
        n_samples: Length of each recording, int64 [N].
        window: Samples per window; None keeps every recording whole, as one that is shorter is.

    Raises:
        ValueError: If the window is not positive.
    """
    whole = cut_windows(n_samples)
    if window is None:
        return whole
    if window <= 0:
        raise ValueError(f"a window must have at least one sample, got {window}")
    length = np.minimum(whole.length, window)
    return Windows(whole.row, (whole.length - length) // 2, length)


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
        identity: Recording to the number that ``patient_id`` is; None = ``source.identity``.
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
        identity: Callable[[int], int] | None = None,
    ) -> None:
        self.source = source
        self.windows = windows
        self.pipeline = pipeline
        self.seed = seed
        self.shuffle = training
        self.rebuild_batches = rebuild_batches
        self.pad = pad
        self.max_samples = max_samples
        self.identity = source.identity if identity is None else identity
        self.sizes = np.minimum(windows.length, max_samples or np.iinfo(np.int64).max)
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
        return collate(items, pad=self.pad, max_samples=self.max_samples, crop_start=crop_start)

    def _load(self, drawn: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return items of one length, given as (index, view)."""
        indices = [index for index, _ in drawn]
        rows, starts = (a[indices].tolist() for a in (self.windows.row, self.windows.start))
        length = int(self.windows.length[indices[0]])
        batch = np.empty((len(drawn), len(STANDARD_LEADS), length), dtype=np.float32)
        signals = [
            EcgSignal(
                self.source.read(row, start, start + length, out=out),
                self.source.rate_hz,
                STANDARD_LEADS,
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
            }
            for index, row, signal in zip(indices, rows, signals, strict=True)
        ]

    def _random_start(self, item: dict[str, Any], surplus: int) -> int:
        return int(self._generator(item["id"], _CROP).integers(surplus + 1))

    def _generator(self, index: int, stream: int, view: int = 0) -> np.random.Generator:
        key = (self.seed, int(self.epoch), index, stream, *((view,) if view else ()))
        return np.random.default_rng(key)
