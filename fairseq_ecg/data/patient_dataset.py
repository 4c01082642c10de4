"""Items drawn at random from the recordings of patients, a few patients at a time.

The set may be of any size: an item is a place in the serving order, not an entry of a list, so
batches are ``range`` objects and nothing grows with the number of items. Within an epoch every
patient gives the same number of items; patients are shuffled, and items are shuffled within windows
of ``together`` patients (as in the buffer of Weimann & Conrad, Scientific Reports 11:5251, 2021),
so that at any time only the files of these patients are read.

Before: data/annotated.py. After: data/frames.py and data/future.py.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from fairseq_ecg.data.collate import collate
from fairseq_ecg.data.dataset import BaseEcgDataset, Transforms
from fairseq_ecg.data.leads import LeadChoice
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.resample import resample_piece, samples_before

logger = logging.getLogger(__name__)

# Streams of randomness of one (seed, epoch).
_PATIENTS, _WINDOW, _ITEM = range(1, 4)


class PatientSource(Protocol):
    """Recordings of patients that are read piece by piece, as ``AnnotatedSource`` does.

    Attributes:
        names: Path of each recording, for messages and results.
        n_samples: Length of each recording, int64 [N].
        rate_hz: Sampling rate, the same for all.
        patients: Recordings of each patient, int64 arrays.
    """

    names: Sequence[str]
    n_samples: np.ndarray
    rate_hz: float
    patients: Sequence[np.ndarray]

    def read(self, row: int, start: int, stop: int, rows: Sequence[int]) -> np.ndarray:
        """Return samples ``start`` to ``stop`` of some standard leads, float32 [C, T], in mV."""

    def patient(self, row: int) -> int:
        """Return the number of the patient of a recording, 0 or more."""


@dataclass(frozen=True)
class ServingOrder:
    """Which patient, and which of its draws, is served at which place of an epoch.

    Args:
        n_patients: Number of patients.
        draws: Items of each patient in an epoch.
        together: Patients whose items are shuffled together.
        seed: Of the order.
        shuffle: Shuffle anew each epoch; otherwise patient by patient, draw by draw.
    """

    n_patients: int
    draws: int
    together: int
    seed: int
    shuffle: bool

    def __len__(self) -> int:
        return self.n_patients * self.draws

    def place(self, position: int, epoch: int) -> tuple[int, int]:
        """Return patient and draw that are served at a position.

        Args:
            position: In the epoch, from 0.
            epoch: Number of the epoch.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} items, but number {position} is asked for")
        window, place = divmod(position, self.together * self.draws)
        patients = self._window(window, epoch)
        if self.shuffle:
            key = (self.seed, epoch, window, _WINDOW)
            place = int(_permutation(len(patients) * self.draws, key)[place])
        patient, draw = divmod(place, self.draws)
        return int(patients[patient]), draw

    def companions(self, position: int, epoch: int) -> np.ndarray:
        """Return the patients of the window that a position lies in, int64.

        Args:
            position: In the epoch, from 0.
            epoch: Number of the epoch.
        """
        return self._window(position // (self.together * self.draws), epoch)

    def _window(self, window: int, epoch: int) -> np.ndarray:
        first, stop = window * self.together, min((window + 1) * self.together, self.n_patients)
        if not self.shuffle:
            return np.arange(first, stop)
        return _permutation(self.n_patients, (self.seed, epoch, 0, _PATIENTS))[first:stop]


@lru_cache(maxsize=8)
def _permutation(n: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(key).permutation(n)


class PatientDataset(BaseEcgDataset):
    """Items drawn from the recordings of patients; what one consists of is up to ``_items``.

    Each item is drawn by a generator of its own. In training it depends on seed, epoch, number of
    the patient and number of the draw; otherwise on patient and draw alone, so that the losses of
    epochs, and of runs, compare.

    Args:
        source: Recordings of patients.
        leads: Which leads an item has.
        pipeline: Transforms of the pieces; they may write into ``values_mv``.
        span: Samples that a recording must have at the rate of the items; shorter ones, and
            patients without longer ones, are left out.
        item_size: Samples of an item.
        draws: Items of each patient in an epoch.
        together: Patients whose items are shuffled together.
        rate_hz: Rate of the items; recordings of another rate are resampled. None: theirs.
        seed: Seed of everything random.
        training: Shuffle, and draw other items each epoch.

    Raises:
        ValueError: If no recording is long enough.
    """

    rebuild_batches = False

    def __init__(
        self,
        source: PatientSource,
        leads: LeadChoice,
        pipeline: Transforms,
        *,
        span: int,
        item_size: int,
        draws: int,
        together: int = 16,
        rate_hz: float | None = None,
        seed: int = 1,
        training: bool = False,
    ) -> None:
        self.source = source
        self.leads = leads
        self.pipeline = pipeline
        self.rate_hz = source.rate_hz if rate_hz is None else rate_hz
        self.seed = seed
        self.shuffle = training
        self.epoch = torch.ones(1, dtype=torch.int64).share_memory_()
        self._rows, self._first = self._long_enough(span)
        self.order = ServingOrder(len(self._first) - 1, draws, together, seed, training)
        self.sizes = np.broadcast_to(np.int64(item_size), len(self.order))

    def ordered_indices(self) -> range:
        """Return the places of an epoch, which is the order that they are served in."""
        return range(len(self))

    def batch_by_size(
        self,
        indices: Sequence[int],
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[Sequence[int]]:
        """Cut an order into batches of one size and keep the remainder.

        Args:
            indices: Order of the items; a ``range`` is cut into ranges.
            max_tokens: Most samples of a batch; None for no limit.
            max_sentences: Most items of a batch; None for no limit.
            required_batch_size_multiple: Not used: it would drop the last items.

        Raises:
            ValueError: If one item alone has more than ``max_tokens`` samples.
        """
        step = max_sentences or max(len(indices), 1)
        if max_tokens is not None:
            if max_tokens < self.sizes[0]:
                raise ValueError(
                    f"dataset.max_tokens={max_tokens} is less than one item "
                    f"({self.sizes[0]} samples)"
                )
            step = min(step, max_tokens // int(self.sizes[0]))
        return [indices[i : i + step] for i in range(0, len(indices), step)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one item; see the class for its keys."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several items, read into one array of the batch."""
        return self._items([int(index) for index in indices]) if len(indices) else []

    def collater(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge items into a batch (see ``data/collate.py``)."""
        return collate(items, pad=True)

    def recordings_of(self, patient: int) -> np.ndarray:
        """Return the recordings of a patient that are long enough, int64."""
        return self._rows[self._first[patient] : self._first[patient + 1]]

    def own_samples(self, n_samples: int) -> int:
        """Return how many samples of a recording make so many of an item."""
        return samples_before(n_samples, self.source.rate_hz, self.rate_hz)

    def _items(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return items, one or more."""
        raise NotImplementedError

    def _place(self, index: int) -> tuple[int, np.random.Generator]:
        """Return the patient of an item, and the generator that draws it."""
        epoch = int(self.epoch)
        patient, draw = self.order.place(index, epoch)
        number = self.source.patient(int(self.recordings_of(patient)[0]))
        key = (self.seed, epoch) if self.shuffle else (0, 0)
        return patient, np.random.default_rng((*key, number, draw, _ITEM))

    def _companions(self, index: int) -> np.ndarray:
        """Return the patients that are served together with that of an item."""
        return self.order.companions(index, int(self.epoch))

    def _any_start(self, row: int, n_samples: int, rng: np.random.Generator) -> int:
        """Draw where a piece of so many samples of a recording begins.

        As in the code of Weimann & Conrad, the very last place is never drawn, unless it is the
        only one.
        """
        return int(rng.integers(max(int(self.source.n_samples[row]) - n_samples, 1)))

    def _read(self, row: int, start: int, length: int, out: np.ndarray) -> None:
        """Write ``length`` samples at the rate of the items into ``out``, float32 [C, length]."""
        rows = self.leads.rows
        values = resample_piece(
            lambda first, stop: self.source.read(row, first, stop, rows),
            int(self.source.n_samples[row]),
            start,
            length,
            self.source.rate_hz,
            self.rate_hz,
        )
        out[list(rows) if self.leads.padded else slice(None)] = values

    def _empty(self, *shape: int) -> np.ndarray:
        """Return an array for signals, float32 [*shape[:-1], C, T]; silent if leads are padded."""
        make = np.zeros if self.leads.padded else np.empty
        return make((*shape[:-1], len(self.leads.leads), shape[-1]), dtype=np.float32)

    def _transform(
        self, values: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """Return signals, float32 [N, C, T], transformed one by one."""
        signals = [EcgSignal(one, self.rate_hz, self.leads.leads) for one in values]
        return [signal.values_mv for signal in self.pipeline.batch(signals, rngs)]

    def _long_enough(self, span: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the recordings of all patients in a row, and where those of each begin."""
        needed = self.own_samples(span)
        kept = [rows[self.source.n_samples[rows] >= needed] for rows in self.source.patients]
        counts = np.array([len(rows) for rows in kept])
        left_out = sum(map(len, self.source.patients)) - int(counts.sum())
        if left_out:
            logger.warning(
                "%d of %d recordings are shorter than the %d samples (%g s) of an item and left "
                "out, and with them %d of %d patients",
                left_out,
                len(self.source.n_samples),
                needed,
                needed / self.source.rate_hz,
                int((counts == 0).sum()),
                len(counts),
            )
        if not counts.any():
            longest = int(np.max(self.source.n_samples, initial=0))
            raise ValueError(
                f"an item needs {needed} samples ({needed / self.source.rate_hz:g} s), but the "
                f"longest recording has {longest}; give a smaller task.frame_size"
            )
        first = np.concatenate([[0], np.cumsum(counts[counts > 0])])
        return np.concatenate(kept), first
