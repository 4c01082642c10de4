"""A stretch of a recording, and pieces of which one follows it: future prediction.

Contrastive predictive coding (van den Oord et al. 2018, arXiv:1807.03748) as Weimann & Conrad,
Scientific Reports 11:5251 (2021), use it: K frames of context, the frame that comes after them, and
frames from anywhere in the recordings of the same window of patients.

Before: data/patient_dataset.py. After: tasks/ecg_future_prediction.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fairseq_ecg.data.dataset import Transforms
from fairseq_ecg.data.leads import LeadChoice
from fairseq_ecg.data.patient_dataset import PatientDataset, PatientSource


@dataclass(frozen=True)
class Horizon:
    """What is known and what is asked, in frames.

    Frame k of the context begins ``frame_size - overlap`` samples after frame k - 1. The frame to
    be found begins ``offset`` frames after the end of the last such step.

    Args:
        frame_size: Samples F of a frame.
        context_size: Frames K of the context.
        overlap: Samples that neighbouring frames of the context share.
        offset: Frames between the context and the frame to be found.

    Raises:
        ValueError: If a number has no meaning, or the context would hold the beginning of the frame
            to be found.
    """

    frame_size: int
    context_size: int
    overlap: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.frame_size:
            raise ValueError(
                f"context_overlap is {self.overlap} samples; give 0 or more, and less than "
                f"task.frame_size={self.frame_size}"
            )
        if self.overlap and not self.offset:
            raise ValueError(
                f"context_overlap={self.overlap} with task.positive_offset=0 shows the first "
                f"{self.overlap} samples of the frame that is to be found; give "
                "task.positive_offset=1 or more, or task.context_overlap=0"
            )

    @property
    def context(self) -> int:
        """Samples of the context."""
        return self.context_size * (self.frame_size - self.overlap) + self.overlap

    @property
    def target(self) -> int:
        """Sample at which the frame to be found begins, counted from the context's first."""
        return self.context_size * (self.frame_size - self.overlap) + self.offset * self.frame_size

    @property
    def span(self) -> int:
        """Samples from the first of the context to the last of the frame to be found."""
        return self.target + self.frame_size


@dataclass(frozen=True)
class _Places:
    """Where the pieces of an item are cut: (recording, first sample), in samples of these.

    Args:
        context: Of the context.
        negatives: Of the frames that do not follow it.
        answer: Position of the right frame among the candidates.
    """

    context: tuple[int, int]
    negatives: tuple[tuple[int, int], ...]
    answer: int


class FutureDataset(PatientDataset):
    """Contexts and candidates, of which one follows.

    An item has ``id``, ``record``, ``patient_id``, ``source`` float32 [C, T] (the context),
    ``candidates`` float32 [1 + N, C, F] and ``label``, one-hot [1 + N]: which of them it is.
    Recordings that are shorter than context and target together are left out, for negatives too.
    Each piece is transformed by itself.

    Args:
        source: Recordings of patients.
        leads: Which leads an item has.
        pipeline: Transforms of the pieces.
        horizon: What is known and what is asked.
        num_negatives: Frames N that do not follow.
        **options: Further keywords of ``PatientDataset``: draws, together, rate_hz, seed, training.
    """

    def __init__(
        self,
        source: PatientSource,
        leads: LeadChoice,
        pipeline: Transforms,
        horizon: Horizon,
        *,
        num_negatives: int = 1,
        **options: Any,
    ) -> None:
        size = horizon.context + (1 + num_negatives) * horizon.frame_size
        super().__init__(source, leads, pipeline, span=horizon.span, item_size=size, **options)
        self.horizon = horizon
        self.num_negatives = num_negatives
        self._span = self.own_samples(horizon.span)
        self._frame = self.own_samples(horizon.frame_size)
        self._one_hot = np.eye(1 + num_negatives, dtype=np.float32)

    def collater(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge items into a batch with ``net_input.candidates``, float32 [B, 1 + N, C, F]."""
        batch = super().collater(items)
        if batch:
            candidates = np.stack([item["candidates"] for item in items])
            batch["net_input"]["candidates"] = torch.from_numpy(candidates)
        return batch

    def _items(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        places, rngs = zip(*map(self._draw, indices), strict=True)
        count = 1 + self.num_negatives
        contexts = self._empty(len(places), self.horizon.context)
        candidates = self._empty(len(places), count, self.horizon.frame_size)
        for place, context, frames in zip(places, contexts, candidates, strict=True):
            self._read_item(place, context, frames)
        sources = self._transform(contexts, rngs)
        of_candidates = [rng for rng in rngs for _ in range(count)]
        flat = candidates.reshape(-1, *candidates.shape[2:])
        transformed = np.stack(self._transform(flat, of_candidates))
        frames = transformed.reshape(len(places), count, *transformed.shape[1:])
        return [
            {
                "id": index,
                "record": place.context[0],
                "patient_id": self.source.patient(place.context[0]),
                "source": source,
                "candidates": candidate,
                "label": self._one_hot[place.answer],
            }
            for index, place, source, candidate in zip(
                indices, places, sources, frames, strict=True
            )
        ]

    def _read_item(self, place: _Places, context: np.ndarray, candidates: np.ndarray) -> None:
        """Read the pieces of an item into arrays [C, T] and [1 + N, C, F]."""
        horizon = self.horizon
        whole = self._empty(horizon.span)
        self._read(*place.context, horizon.span, whole)
        context[:] = whole[:, : horizon.context]
        candidates[place.answer] = whole[:, horizon.target :]
        others = [n for n in range(1 + self.num_negatives) if n != place.answer]
        for n, negative in zip(others, place.negatives, strict=True):
            self._read(*negative, horizon.frame_size, candidates[n])

    def _draw(self, index: int) -> tuple[_Places, np.random.Generator]:
        """Draw the pieces of an item; the generator goes on to their transforms."""
        patient, rng = self._place(index)
        rows = self.recordings_of(patient)
        row = int(rows[rng.integers(len(rows))])
        context = (row, self._any_start(row, self._span, rng))
        window = np.concatenate([self.recordings_of(p) for p in self._companions(index).tolist()])
        chosen = window[rng.integers(len(window), size=self.num_negatives)].tolist()
        negatives = tuple((row, self._any_start(row, self._frame, rng)) for row in chosen)
        return _Places(context, negatives, int(rng.integers(1 + self.num_negatives))), rng
