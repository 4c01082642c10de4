"""Frames of long recordings with a label made from the annotations inside them.

Weimann & Conrad, "Transfer learning for ECG classification", Scientific Reports 11:5251 (2021),
section Pretraining, with the sampling of their code: a recording of the patient at random, a place
in it at random; nothing is balanced.

Before: data/patient_dataset.py and data/frame_labels.py. After: tasks/ecg_frame_classification.py.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from fairseq_ecg.data.dataset import Transforms
from fairseq_ecg.data.frame_labels import (
    BEATS,
    BEATS_3,
    HEART_RATES,
    RHYTHMS,
    RHYTHMS_4,
    TO_BEATS_3,
    TO_RHYTHMS_4,
    Marks,
    beat_label,
    heart_rate_label,
    rhythm_label,
)
from fairseq_ecg.data.leads import LeadChoice
from fairseq_ecg.data.patient_dataset import PatientDataset, PatientSource

logger = logging.getLogger(__name__)

LABEL_TYPES = ("beat", "rhythm", "heart_rate")
# Fruitless draws after which another patient is tried.
MAX_DRAWS = 64
_HINT = "leave such patients out of the manifest, or give task.{} to have the other frames too"


class MarkedSource(PatientSource, Protocol):
    """Recordings of patients with annotations, as ``AnnotatedSource`` has them."""

    def marks(self, row: int) -> Marks:
        """Return the beats and rhythms of a recording."""


@dataclass(frozen=True)
class FrameLabels:
    """How frames are labelled.

    Args:
        names: Of the classes, [K].
        classify: (marks, start, stop, rate in Hz) to a class in 0 .. K - 1; below 0: such a frame
            is skipped and another one drawn.
        hint: What can be done if there are only frames to be skipped, for the message.
    """

    names: tuple[str, ...]
    classify: Callable[[Marks, int, int, float], int]
    hint: str = "leave such patients out of the manifest"


def frame_labels(label_type: str, beat_classes: int = 5, rhythm_classes: int = 6) -> FrameLabels:
    """Return how frames are labelled.

    Args:
        label_type: One of ``LABEL_TYPES``.
        beat_classes: 5: those of the code of Weimann & Conrad; 3: those of the paper.
        rhythm_classes: 6: those of the code; 4: those of the paper.

    Raises:
        ValueError: If there is no such choice; begins with the name of the argument.
    """
    if beat_classes not in (5, 3):
        raise ValueError(f"beat_classes={beat_classes}: give 5 or 3 ({', '.join(BEATS_3)})")
    if rhythm_classes not in (6, 4):
        raise ValueError(f"rhythm_classes={rhythm_classes}: give 6 or 4 ({', '.join(RHYTHMS_4)})")
    if label_type == "heart_rate":
        return FrameLabels(HEART_RATES, heart_rate_label)
    if label_type == "beat":
        if beat_classes == 5:
            return FrameLabels(BEATS, partial(_without_rate, beat_label))
        classify = partial(_reduced, beat_label, TO_BEATS_3)
        return FrameLabels(BEATS_3, classify, _HINT.format("beat_classes=5"))
    if label_type == "rhythm":
        if rhythm_classes == 6:
            return FrameLabels(RHYTHMS, partial(_without_rate, rhythm_label))
        classify = partial(_reduced, rhythm_label, TO_RHYTHMS_4)
        return FrameLabels(RHYTHMS_4, classify, _HINT.format("rhythm_classes=6"))
    raise ValueError(f"label_type={label_type}: give one of {', '.join(LABEL_TYPES)}")


def _without_rate(
    label: Callable[[Marks, int, int], int], marks: Marks, start: int, stop: int, rate_hz: float
) -> int:
    del rate_hz
    return label(marks, start, stop)


def _reduced(
    label: Callable[[Marks, int, int], int],
    classes: tuple[int, ...],
    marks: Marks,
    start: int,
    stop: int,
    rate_hz: float,
) -> int:
    del rate_hz
    return classes[label(marks, start, stop)]


@dataclass(frozen=True)
class Frame:
    """A labelled piece of a recording.

    Args:
        row: Of the recording.
        start: First sample, in those of the recording.
        label: Number of its class.
    """

    row: int
    start: int
    label: int


class FrameDataset(PatientDataset):
    """Frames: ``source`` float32 [C, T], ``label`` one-hot [K], and where they are from.

    That is ``record``, ``patient_id`` and ``start``, the first sample in those of the recording;
    ``id`` is the place in the epoch.

    A frame of a class that is skipped is drawn again, up to ``MAX_DRAWS`` times; then the frame is
    taken from another patient of the same window.

    Args:
        source: Recordings of patients, with annotations.
        leads: Which leads a frame has.
        pipeline: Transforms of the frames.
        labels: How frames are labelled.
        frame_size: Samples of a frame.
        margin: Samples before and after the frame that its label looks at too.
        **options: Further keywords of ``PatientDataset``: draws, together, rate_hz, seed, training.
    """

    def __init__(
        self,
        source: MarkedSource,
        leads: LeadChoice,
        pipeline: Transforms,
        labels: FrameLabels,
        *,
        frame_size: int,
        margin: int = 0,
        **options: Any,
    ) -> None:
        span = frame_size + 2 * margin
        super().__init__(source, leads, pipeline, span=span, item_size=frame_size, **options)
        self.labels = labels
        self.frame_size = frame_size
        self._margin = self.own_samples(margin)
        self._span = self.own_samples(frame_size) + 2 * self._margin
        self._one_hot = np.eye(len(labels.names), dtype=np.float32)
        self._fruitless: set[int] = set()

    def frame(self, index: int) -> Frame:
        """Return where an item is cut, and its label, without reading its samples."""
        return self._draw(index)[0]

    def _items(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        frames, rngs = zip(*map(self._draw, indices), strict=True)
        values = self._empty(len(frames), self.frame_size)
        for frame, out in zip(frames, values, strict=True):
            self._read(frame.row, frame.start, self.frame_size, out)
        return [
            {
                "id": index,
                "record": frame.row,
                "patient_id": self.source.patient(frame.row),
                "start": frame.start,
                "source": source,
                "label": self._one_hot[frame.label],
            }
            for index, frame, source in zip(
                indices, frames, self._transform(values, rngs), strict=True
            )
        ]

    def _draw(self, index: int) -> tuple[Frame, np.random.Generator]:
        """Draw the frame of an item; the generator goes on to its transforms."""
        first, rng = self._place(index)
        for patient in self._candidates(first, index, rng):
            for _ in range(MAX_DRAWS):
                frame = self._any_frame(patient, rng)
                if frame.label >= 0:
                    return frame, rng
            self._remark(patient)
        numbers = [self._number(patient) for patient in self._companions(index)]
        raise ValueError(
            f"of the patients {', '.join(map(str, numbers[:16]))} {MAX_DRAWS} frames each were "
            f"drawn, and none of them has one of the classes {', '.join(self.labels.names)}; "
            f"{self.labels.hint}"
        )

    def _candidates(self, first: int, index: int, rng: np.random.Generator) -> Iterator[int]:
        """Yield the patient of an item, then the others of its window in a random order."""
        yield first
        for patient in rng.permutation(self._companions(index)).tolist():
            if patient != first:
                yield patient

    def _any_frame(self, patient: int, rng: np.random.Generator) -> Frame:
        """Draw a frame of a patient; its label may be one that is skipped."""
        rows = self.recordings_of(patient)
        row = int(rows[rng.integers(len(rows))])
        start = self._any_start(row, self._span, rng)
        marks = self.source.marks(row)
        label = self.labels.classify(marks, start, start + self._span, self.source.rate_hz)
        return Frame(row, start + self._margin, label)

    def _remark(self, patient: int) -> None:
        if patient not in self._fruitless:
            self._fruitless.add(patient)
            logger.warning(
                "patient %d gave no frame of the classes %s in %d draws; frames of other patients "
                "stand in where that happens",
                self._number(patient),
                ", ".join(self.labels.names),
                MAX_DRAWS,
            )

    def _number(self, patient: int) -> int:
        return self.source.patient(int(self.recordings_of(patient)[0]))
