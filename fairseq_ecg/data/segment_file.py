"""One ``.mat`` segment of fairseq-signals, of its older or its newer preprocessing.

Both hold ``feats`` [12, T] and ``curr_sample_rate``. The older one has millivolts, ``patient_id``
and a ``label``; the newer one numbers its recordings with ``idx``, the row of a label array, and
standardises them: then ``mean`` and ``std`` of each lead are in the file too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.mat_reader import read_mat
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.record_reader import RecordFacts, Recording
from fairseq_ecg.data.signal import MILLIVOLTS, STANDARD_DEVIATIONS, EcgSignal

SEGMENT_NAME = re.compile(r"(.+)_(\d+)\.mat")
"""How a segment file is called: the name of its recording, and its number."""


@dataclass(frozen=True, eq=False)
class Segment:
    """The content of a segment file.

    Attributes:
        values: In ``unit``, float32 [12, T].
        rate_hz: Samples per second.
        unit: ``mV``, or ``standard deviations`` if the file has the statistics it was scaled by.
        idx: Number of the recording in the newer preprocessing, or None.
        patient_id: Number of the patient in the older one, or None.
        label: Multi-hot label inside the file, float32 [K], or None.
    """

    values: np.ndarray
    rate_hz: float
    unit: str
    idx: int | None
    patient_id: int | None
    label: np.ndarray | None

    @property
    def group(self) -> int | None:
        """Number that contrastive learning of fairseq-signals compares: ``idx`` before patient."""
        return self.patient_id if self.idx is None else self.idx


def recording_name(path: str) -> str:
    """Return what a recording is called, wherever its file lies.

    Segments ``NAME_0.mat``, ``NAME_1.mat``, ... are of one recording.

    Args:
        path: Of a recording or segment in a manifest.
    """
    name = path.rsplit("/", 1)[-1]
    segment = SEGMENT_NAME.fullmatch(name)
    return segment[1] if segment else name.removesuffix(".mat").removesuffix(".hea")


def read_segment(path: str | Path) -> Segment:
    """Read a segment.

    Args:
        path: The ``.mat`` file.

    Raises:
        RecordError: If the file is broken, lacks a variable, or has other leads or values that are
            not finite; names the file.
    """
    content = read_mat(path)
    if "feats" not in content or "curr_sample_rate" not in content:
        raise RecordError(
            "not_a_segment",
            f"{path}: expected the variables feats and curr_sample_rate of fairseq-signals, "
            f"found {sorted(content)}",
        )
    values = np.atleast_2d(content["feats"])
    if values.dtype.kind not in "fiu":
        raise RecordError("bad_mat", f"{path}: feats must hold numbers, got {values.dtype}")
    if values.ndim != 2 or values.shape[0] != len(STANDARD_LEADS):
        transposed = values.ndim == 2 and values.shape[1] == len(STANDARD_LEADS)
        hint = "; it looks transposed: save feats.T" if transposed else ""
        raise RecordError("wrong_leads", f"{path}: feats must be [12, T], got {values.shape}{hint}")
    if values.shape[1] == 0:
        raise RecordError("empty", f"{path}: feats must have samples, but has none")
    values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise RecordError(
            "nan", f"{path}: feats has {int((~np.isfinite(values)).sum())} non-finite values"
        )
    rate_hz = _number(content["curr_sample_rate"])
    if rate_hz is None or not rate_hz > 0:
        raise RecordError(
            "bad_header",
            f"{path}: curr_sample_rate must be one positive number, got "
            f"{content['curr_sample_rate'].tolist()}",
        )
    label = content.get("label")
    if label is not None and label.dtype.kind not in "fiub":
        raise RecordError("bad_label", f"{path}: label must hold numbers, got {label.dtype}")
    standardised = {"mean", "std"} <= content.keys()
    return Segment(
        values,
        rate_hz,
        STANDARD_DEVIATIONS if standardised else MILLIVOLTS,
        _whole(path, content, "idx"),
        _whole(path, content, "patient_id"),
        None if label is None else np.ravel(label).astype(np.float32),
    )


@dataclass(frozen=True)
class SegmentReader:
    """Brings the segments of one folder into a store; a ``RecordReader``.

    Attributes:
        n_samples: Length that the manifest states.
        rate_hz: Rate of the folder.
        unit: Unit of the folder.
        has_idx: Whether the folder's segments hold ``idx``.
        n_classes: Width of the labels inside the files; 0 if they hold none that matters.
    """

    n_samples: int
    rate_hz: float
    unit: str
    has_idx: bool
    n_classes: int = 0

    def facts(self, path: Path) -> RecordFacts:
        """See ``RecordReader.facts``; what the manifest says."""
        del path
        return RecordFacts(self.n_samples, self.rate_hz, STANDARD_LEADS)

    def read(self, path: Path) -> Recording:
        """See ``RecordReader.read``; codes are the positions of the classes that are set."""
        segment = read_segment(path)
        self._check(path, segment)
        patient = segment.patient_id
        return Recording(
            EcgSignal(segment.values, segment.rate_hz, STANDARD_LEADS),
            patient=str(patient) if patient is not None else _recording_name(segment.idx),
            group=segment.group,
            codes=self._codes(path, segment.label),
        )

    def _check(self, path: Path, segment: Segment) -> None:
        if segment.rate_hz != self.rate_hz:
            raise RecordError(
                "wrong_rate", f"{path} has {segment.rate_hz:g} Hz, the folder {self.rate_hz:g}"
            )
        if segment.unit != self.unit:
            raise RecordError(
                "wrong_unit", f"{path} is in {segment.unit}, the folder in {self.unit}"
            )
        if segment.values.shape[1] != self.n_samples:
            raise RecordError(
                "size_mismatch",
                f"{path} has {segment.values.shape[1]} samples, the manifest says {self.n_samples}",
            )
        if (segment.idx is not None) != self.has_idx:
            raise RecordError(
                "missing_key",
                f"{path} {'lacks' if self.has_idx else 'has'} idx, unlike the rest of the folder",
            )

    def _codes(self, path: Path, label: np.ndarray | None) -> tuple[str, ...] | None:
        if self.n_classes == 0:
            return None
        if label is None or len(label) != self.n_classes or not np.isin(label, (0, 1)).all():
            found = "none" if label is None else f"{len(label)} values, {np.unique(label)[:5]}"
            raise RecordError(
                "bad_label",
                f"{path}: label must be {self.n_classes} values of 0 and 1, but has {found}",
            )
        return tuple(str(k) for k in np.flatnonzero(label))


def _recording_name(idx: int | None) -> str | None:
    return None if idx is None else f"recording-{idx}"


def _number(value: np.ndarray) -> float | None:
    if value.size != 1 or value.dtype.kind not in "fiub":
        return None
    number = float(value.item())
    return number if math.isfinite(number) else None


def _whole(path: str | Path, content: dict[str, np.ndarray], name: str) -> int | None:
    if name not in content:
        return None
    number = _number(content[name])
    if number is None or number != int(number):
        raise RecordError(
            "bad_header", f"{path}: {name} must be one whole number, got {content[name].tolist()}"
        )
    return int(number)
