"""Recordings in any readable format -> the probabilities of a classifier's classes, and why.

Recordings become a store for a while, made as ``fairseq-ecg manifest`` makes one, at the rate of
the network; then they go the way that an evaluation goes. So the numbers are those of ``evaluate``,
and what a store leaves out (``data/ledger.py``) is refused here, with the same reasons.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fairseq.models import MODEL_REGISTRY, BaseFairseqModel
from torch import Tensor

from fairseq_ecg.checkpoint import Checkpoint, read_checkpoint
from fairseq_ecg.contract import InputContract
from fairseq_ecg.data.atomic import write_text
from fairseq_ecg.data.builder import LEDGER_FILE, STORE_FOLDER, build_store
from fairseq_ecg.data.dataset import EcgDataset
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.ledger import EXCLUDED, LedgerRow, read_ledger
from fairseq_ecg.data.manifest import LABELS_FILE, write_classes, write_manifest
from fairseq_ecg.data.pool import BuildError
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.recordings import ArrayFacts, Fault, NamedRecording, find_recordings
from fairseq_ecg.data.signal import MILLIVOLTS, STANDARD_DEVIATIONS, EcgSignal
from fairseq_ecg.data.store import Store
from fairseq_ecg.data.wrappers import LabelledDataset
from fairseq_ecg.evaluation import (
    decision_rule,
    open_model,
    open_task,
    probabilities,
)
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.saliency import METHODS, TOLERANCE, Saliency, explain
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks.ecg_classification import average_per_record

PER = ("record", "window")
MISSING_LEADS = ("refuse", "silence")

_SPLIT = "recordings"
_AT_ONCE = 128  # recordings that are prepared together
_LONGEST_S = 48 * 3600.0
_OF_FRAMES = "ecg_frame_classification"


@dataclass(frozen=True)
class Explanation:
    """Which samples of a recording speak for a class.

    Attributes:
        label: The class.
        method: One of ``saliency.METHODS``.
        values: As ``Saliency.values``, of the whole recording, float32 [C, T]; 0 where no window
            lies, and the mean where several do.
        rate_hz: Of these samples.
        leads: Of these rows.
    """

    label: str
    method: str
    values: np.ndarray
    rate_hz: float
    leads: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about a recording.

    Attributes:
        name: Of the recording.
        place: Where it is, as it was named.
        labels: Names of the classes, [K].
        probability: Mean over the windows, float64 [K].
        decided: Names of the classes that it decides for.
        start_s: Where its windows begin, seconds, float64 [W].
        of_windows: Probabilities of each window, float32 [W, K].
        duration_s: Length of the recording.
        remarks: What was done to it, and what its user should know.
        explanation: If one was asked for.
        signal: The recording as it was read, in mV; None unless asked for, or if it is not in mV.
    """

    name: str
    place: str
    labels: tuple[str, ...]
    probability: np.ndarray
    decided: tuple[str, ...]
    start_s: np.ndarray
    of_windows: np.ndarray
    duration_s: float
    remarks: tuple[str, ...] = ()
    explanation: Explanation | None = None
    signal: EcgSignal | None = None


@dataclass
class Predictions:
    """What a classifier says about several recordings.

    Attributes:
        checkpoint: Whose network.
        labels: Names of the classes, [K].
        thresholds: What each class's probability must exceed; None if the most probable class is
            decided.
        per: ``record`` or ``window``, what a row of ``table`` is.
        found: In the order in which they were named.
        faults: Recordings that could not be used.
        remarks: About the checkpoint.
    """

    checkpoint: str
    labels: tuple[str, ...]
    thresholds: dict[str, float] | None
    per: str
    found: list[Prediction] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    remarks: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return one row per recording: ``record``, then the classes.

        Or, if ``per`` says so, one per window, with ``start_s``.
        """
        if self.per == "record":
            table = pd.DataFrame(
                [row.probability for row in self.found], columns=list(self.labels), dtype=float
            )
            table.insert(0, "record", [row.name for row in self.found])
            return table
        rows = [
            (row.name, start_s, *values)
            for row in self.found
            for start_s, values in zip(row.start_s.tolist(), row.of_windows.tolist(), strict=True)
        ]
        return pd.DataFrame(rows, columns=["record", "start_s", *self.labels])

    def content(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON; without signals and explanations."""
        return {
            "checkpoint": self.checkpoint,
            "remarks": list(self.remarks),
            "labels": list(self.labels),
            "thresholds": self.thresholds,
            "recordings": [self._plain(row) for row in self.found],
            "faults": [
                {"place": f.place, "reason": f.reason, "detail": f.detail} for f in self.faults
            ],
        }

    def _plain(self, row: Prediction) -> dict[str, Any]:
        return {
            "record": row.name,
            "place": row.place,
            "duration_s": row.duration_s,
            "decided": list(row.decided),
            "probability": dict(zip(self.labels, row.probability.tolist(), strict=True)),
            "windows": [
                {"start_s": start_s, "probability": dict(zip(self.labels, values, strict=True))}
                for start_s, values in zip(
                    row.start_s.tolist(), row.of_windows.tolist(), strict=True
                )
            ],
            "remarks": list(row.remarks),
        }


class Predictor:
    """A classifier that is open and takes recordings.

    Args:
        path: Its checkpoint, or the folder of an export.
        threshold: A class is decided where its probability is above this; one for all, or one of
            each label; None: that of the training.
        missing_leads: What to do with recordings that lack leads which carried signal in training:
            ``refuse`` them, or ``silence`` these leads.
        batch_size: Windows per forward pass.
        device: Where to compute.

    Raises:
        ValueError: If it decides no classes, or the threshold does not fit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threshold: float | Mapping[str, float] | None = None,
        missing_leads: str = "refuse",
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        if missing_leads not in MISSING_LEADS:
            raise ValueError(
                f"missing_leads must be {' or '.join(MISSING_LEADS)}, but is {missing_leads!r}"
            )
        self.checkpoint = read_checkpoint(path)
        self.contract = InputContract.from_dict(self.checkpoint.contract)
        self.missing_leads = missing_leads
        self.batch_size = batch_size
        self.device = device
        self._model: BaseFairseqModel | None = None
        self.labels = _labels(self.checkpoint, self.contract)
        rule = decision_rule(self.checkpoint, threshold, list(self.labels))
        self.threshold: np.ndarray | None = None
        if isinstance(rule, Summary):
            self.threshold = np.broadcast_to(np.asarray(rule.threshold, float), len(self.labels))

    @property
    def decides_frames(self) -> bool:
        """Whether its classes are of short frames, so that their mean says little."""
        return self.checkpoint.task_cfg.get("_name") == _OF_FRAMES

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is not known about what it expects."""
        found = []
        if self.contract.rate_hz is None:
            found.append(
                "the checkpoint does not say which rate it expects; recordings keep their own"
            )
        if self.contract.leads is None:
            found.append("the checkpoint does not say which leads it expects; it gets all twelve")
        if self.contract.standardize == "person":
            found.append(
                "the checkpoint expects leads scaled by statistics of all recordings of a person; "
                "recordings that are in no store are scaled by their own"
            )
        return tuple(found)

    def predict(
        self,
        recordings: Sequence[NamedRecording | Fault],
        *,
        saliency: str | None = None,
        label: str | None = None,
        with_signal: bool = False,
    ) -> Iterator[Prediction | Fault]:
        """Yield what the network says about each recording, in their order.

        Args:
            recordings: From ``find_recordings``.
            saliency: Method of an explanation, one of ``saliency.METHODS``; None: none.
            label: Class that is explained; None: the most probable one of each recording.
            with_signal: Give the recordings along.

        Raises:
            ValueError: If there is no such method or class, or the network has no attention.
        """
        if saliency is not None and saliency not in METHODS:
            raise ValueError(
                f"the saliency must be one of {', '.join(METHODS)}, but is {saliency!r}"
            )
        if label is not None and label not in self.labels:
            raise ValueError(
                f"the checkpoint has no class {label!r}; it has {', '.join(self.labels)}"
            )
        wanted = _Wanted(saliency, label, with_signal)
        for key, group in itertools.groupby(map(self._checked, recordings), key=_group):
            if key is None:
                yield from group
            while key is not None and (part := list(itertools.islice(group, _AT_ONCE))):
                yield from self._of_part(part, wanted)

    def _checked(self, recording: NamedRecording | Fault) -> _Ready | Fault:
        """Look at what is known of a recording before its samples are read."""
        if isinstance(recording, Fault):
            return recording
        expects_mv = self.contract.unit != STANDARD_DEVIATIONS
        if recording.unit != MILLIVOLTS and expects_mv:
            return Fault(
                recording.place,
                "wrong_unit",
                f"is in {recording.unit}, but the network expects {MILLIVOLTS}",
            )
        try:
            facts = recording.facts()
        except RecordError as error:
            return Fault(recording.place, error.reason, str(error.args[-1]))
        rate_hz = self.contract.rate_hz or facts.rate_hz
        direct = recording.stored_as is not None and facts.rate_hz == rate_hz
        return _Ready(recording, rate_hz, recording.path if direct else None)

    def _of_part(self, part: Sequence[_Ready], wanted: _Wanted) -> Iterator[Prediction | Fault]:
        """Yield what is said about recordings that are prepared in one way."""
        with _as_data(part, self.labels) as prepared:
            done: dict[int, Prediction | Fault] = dict(prepared.faults)
            usable = {
                number: row
                for number, row in prepared.rows.items()
                if self._has_leads(part[number].recording, row, done, number)
            }
            if usable:
                prepared.write(usable)
                self._run(part, prepared, usable, wanted, done)
        for number in range(len(part)):
            yield done[number]

    def _has_leads(
        self,
        recording: NamedRecording,
        row: _Row,
        done: dict[int, Prediction | Fault],
        number: int,
    ) -> bool:
        needed = self.contract.present_leads or self.contract.leads or ()
        missing = [lead for lead in needed if lead not in row.leads]
        if not missing:
            return True
        if self.missing_leads == "silence" and len(missing) < len(needed):
            row.remarks.append(f"not recorded, and silent: {', '.join(missing)}")
            return True
        done[number] = Fault(
            recording.place,
            "missing_leads",
            f"lacks {', '.join(missing)}, which the network was trained on"
            + (
                "; silence them with --missing-leads silence"
                if len(missing) < len(needed)
                else ", and has none of its leads"
            ),
        )
        return False

    def _run(
        self,
        part: Sequence[_Ready],
        prepared: _Prepared,
        usable: Mapping[int, _Row],
        wanted: _Wanted,
        done: dict[int, Prediction | Fault],
    ) -> None:
        """Fill in what the network says about the usable recordings of a part."""
        task = open_task(
            self.checkpoint, "ecg_classification", str(prepared.folder), _SPLIT, label_file=None
        )
        task.load_dataset(_SPLIT, training=False)
        data = task.dataset(_SPLIT)
        if self._model is None:
            self._model = open_model(self.checkpoint, task).to(self.device)
        segments = data.dataset
        order = list(usable)
        items = {
            number: np.flatnonzero(segments.windows.row == row) for row, number in enumerate(order)
        }
        for numbers in _batches(items, self.batch_size):
            try:
                found = self._forward(data, np.concatenate([items[n] for n in numbers]))
            except ValueError as error:
                found = {}
                if len(numbers) == 1:
                    done[numbers[0]] = _refused(part[numbers[0]], error)
                for number in numbers if len(numbers) > 1 else ():  # which of them was it?
                    try:
                        found |= self._forward(data, items[number])
                    except ValueError as alone:
                        done[number] = _refused(part[number], alone)
            for row, scores in found.items():
                number = order[row]
                done[number] = self._prediction(
                    part[number], usable[number], scores, items[number], data, task, wanted
                )

    def _forward(
        self, data: LabelledDataset, items: np.ndarray
    ) -> dict[int, dict[str, np.ndarray]]:
        """Return, for each row of the data that has an item, its scores."""
        parts = []
        for start in range(0, len(items), self.batch_size):
            sample = data.collater(data.__getitems__(items[start : start + self.batch_size]))
            with torch.inference_mode():
                output = self._model(**self._on_device(sample["net_input"]))
            chance = probabilities(self.checkpoint, output)["probability"].cpu()
            parts.append((sample["record"], chance, sample["label"]))
        record, chance, label = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
        rows = {}
        for row in dict.fromkeys(record.tolist()):
            own = record == row
            scores = {"record": record[own], "probability": chance[own], "label": label[own]}
            rows[row] = {
                "of_windows": chance[own],
                "probability": average_per_record(scores)["probability"][0],
            }
        return rows

    def _on_device(self, net_input: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: values.to(self.device) for name, values in net_input.items()}

    def _prediction(
        self,
        ready: _Ready,
        row: _Row,
        scores: Mapping[str, np.ndarray],
        items: np.ndarray,
        data: LabelledDataset,
        task: EcgTask,
        wanted: _Wanted,
    ) -> Prediction | Fault:
        chance = scores["probability"]
        if not np.isfinite(chance).all():
            return Fault(
                ready.recording.place,
                "nan",
                "the network puts out numbers that are not finite for it; its training broke down, "
                "or the recording's amplitude is far from what it was trained on",
            )
        segments = data.dataset
        remarks = [*row.remarks, *self._remarks_on_leads(row, task)]
        window_s = self.contract.segment_s
        if window_s is not None and row.n_samples < round(window_s * ready.rate_hz):
            remarks.append(
                f"{row.n_samples / ready.rate_hz:g} s, shorter than the {window_s:g} s windows of "
                "the training"
            )
        explanation = None
        if wanted.saliency is not None:
            label = wanted.label or self.labels[int(chance.argmax())]
            explanation, gap = self._explain(data, items, row, ready.rate_hz, label, wanted, task)
            if gap > TOLERANCE:
                remarks.append(
                    f"integrated gradients add up to the difference of logits to {gap:.1%} only"
                )
        signal = None
        if wanted.signal and ready.recording.unit == MILLIVOLTS:
            signal = ready.recording.read()
        return Prediction(
            name=ready.recording.name,
            place=ready.recording.place,
            labels=self.labels,
            probability=chance,
            decided=self._decided(chance),
            start_s=segments.windows.start[items] / ready.rate_hz,
            of_windows=scores["of_windows"],
            duration_s=row.n_samples / ready.rate_hz,
            remarks=tuple(remarks),
            explanation=explanation,
            signal=signal,
        )

    def _decided(self, chance: np.ndarray) -> tuple[str, ...]:
        if self.threshold is None:
            return (self.labels[int(chance.argmax())],)
        return tuple(
            label
            for label, value, limit in zip(self.labels, chance, self.threshold, strict=True)
            if value > limit
        )

    def _remarks_on_leads(self, row: _Row, task: EcgTask) -> Iterator[str]:
        used = {STANDARD_LEADS[number] for number in task.leads.rows}
        unused = [lead for lead in row.leads if lead not in used]
        if unused:
            yield f"not looked at: {', '.join(unused)}"
        known = self.contract.present_leads
        new = [] if known is None else [x for x in row.leads if x in used and x not in known]
        if new:
            yield f"silent in training, but not here: {', '.join(new)}"

    def _explain(
        self,
        data: LabelledDataset,
        items: np.ndarray,
        row: _Row,
        rate_hz: float,
        label: str,
        wanted: _Wanted,
        task: EcgTask,
    ) -> tuple[Explanation, float]:
        """Return the saliency of all windows of a recording, and its largest gap."""
        leads = tuple(task.leads.leads)
        total = np.zeros((len(leads), row.n_samples))
        count = np.zeros(row.n_samples)
        gap = 0.0
        for start in range(0, len(items), self.batch_size):
            part = items[start : start + self.batch_size]
            sample = data.collater(data.__getitems__(part))
            net_input = self._on_device(sample["net_input"])
            found = explain(self._model, net_input, self.labels.index(label), wanted.saliency)
            _put(found, net_input, data.dataset, part, total, count)
            gap = max(gap, 0.0 if found.gap is None else float(found.gap.max()))
        values = (total / np.maximum(count, 1)).astype(np.float32)
        return Explanation(label, wanted.saliency, values, rate_hz, leads), gap


def predict(
    path: str | Path,
    recordings: str | Path | Sequence[str | Path],
    *,
    arrays: ArrayFacts | None = None,
    per: str | None = None,
    saliency: str | None = None,
    label: str | None = None,
    with_signal: bool = False,
    on_each: Callable[[Prediction | Fault], None] | None = None,
    **options: Any,
) -> Predictions:
    """Say which classes a classifier sees in recordings.

    Args:
        path: Checkpoint of a classifier, or the folder of an export.
        recordings: WFDB records, ``.mat`` segments, arrays, stores or their records, folders; see
            ``data/recordings.py``.
        arrays: Rate, leads and unit of plain arrays, which do not say them.
        per: ``record`` averages the windows of a recording, ``window`` keeps them apart in the
            table; None: ``record``, unless the classes are of short frames.
        saliency: As ``Predictor.predict``.
        label: As ``Predictor.predict``.
        with_signal: As ``Predictor.predict``.
        on_each: Called with each result as soon as it is there; signals and explanations are then
            not kept, so that memory does not grow with them.
        **options: Further keywords of ``Predictor``.

    Returns:
        What it says; recordings that cannot be used are among ``faults``, and the others go on.

    Raises:
        ValueError: If the checkpoint cannot be used for it.
    """
    if per is not None and per not in PER:
        raise ValueError(f"per must be {' or '.join(PER)}, but is {per!r}")
    several = [recordings] if isinstance(recordings, str | Path) else list(recordings)
    if not several:
        raise ValueError("there is no recording to look at; name one or more")
    predictor = Predictor(path, **options)
    cut = predictor.threshold
    result = Predictions(
        checkpoint=str(path),
        labels=predictor.labels,
        thresholds=(
            None if cut is None else dict(zip(predictor.labels, cut.tolist(), strict=True))
        ),
        per=per or ("window" if predictor.decides_frames else "record"),
        remarks=predictor.remarks,
    )
    found = find_recordings(several, arrays)
    wanted = {"saliency": saliency, "label": label, "with_signal": with_signal}
    for one in predictor.predict(found, **wanted):
        if on_each is not None:
            on_each(one)
        if isinstance(one, Fault):
            result.faults.append(one)
        else:
            result.found.append(one if on_each is None else _without_arrays(one))
    return result


PREDICTIONS_FILE = "predictions.csv"
CONTENT_FILE = "predictions.json"
FAULTS_FILE = "faults.csv"
FILES = (PREDICTIONS_FILE, CONTENT_FILE, FAULTS_FILE)


def write_predictions(result: Predictions, folder: Path) -> None:
    """Write ``predictions.csv``, ``predictions.json`` and, if there are any, ``faults.csv``.

    Args:
        result: What to write.
        folder: Where to; see ``data/atomic.replacing_files``.
    """
    table = result.table().to_csv(index=False, float_format="%.9g")
    write_text(folder / PREDICTIONS_FILE, table)
    write_text(folder / CONTENT_FILE, json.dumps(result.content(), indent=2) + "\n")
    if result.faults:
        columns = ["place", "reason", "detail"]
        rows = [(fault.place, fault.reason, fault.detail) for fault in result.faults]
        write_text(folder / FAULTS_FILE, pd.DataFrame(rows, columns=columns).to_csv(index=False))


# --- preparing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    saliency: str | None
    label: str | None
    signal: bool


@dataclass(frozen=True)
class _Ready:
    """A recording, the rate it shall have, and the store it can stay in, if there is one."""

    recording: NamedRecording
    rate_hz: float
    store: Path | None


@dataclass
class _Row:
    """A recording in a store: its name there, samples, leads that were recorded, remarks."""

    record: str
    n_samples: int
    leads: tuple[str, ...]
    remarks: list[str]


@dataclass
class _Prepared:
    """A folder for manifests, and what became of the recordings of a part, by number."""

    folder: Path
    root: str
    labels: tuple[str, ...]
    rows: dict[int, _Row]
    faults: dict[int, Fault]

    def write(self, rows: Mapping[int, _Row]) -> None:
        """Write the manifest of these rows, without labels."""
        lines = [(row.record, row.n_samples, "") for row in rows.values()]
        write_classes(self.folder / LABELS_FILE, self.labels)
        write_manifest(self.folder / f"{_SPLIT}.tsv", self.root, lines)


def _group(item: _Ready | Fault) -> tuple[Any, ...] | None:
    """Return what recordings that are prepared together have in common; None of a fault."""
    if isinstance(item, Fault):
        return None
    if item.store is not None:
        return ("store", str(item.store))
    # As a store of the recordings would be built: WFDB records keep their whole numbers.
    dtype = "int16" if item.recording.reader is None else "float32"
    return ("new", dtype, item.rate_hz, item.recording.unit)


@contextmanager
def _as_data(part: Sequence[_Ready], labels: tuple[str, ...]) -> Iterator[_Prepared]:
    """Yield recordings of one group as data that a task can open."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if part[0].store is not None:
            yield _stored(part, folder, labels)
        else:
            yield _newly_stored(part, folder, labels)


def _stored(part: Sequence[_Ready], folder: Path, labels: tuple[str, ...]) -> _Prepared:
    store = Store(part[0].store)
    names = [str(item.recording.stored_as) for item in part]
    rows = {number: _row(store, name) for number, name in enumerate(names)}
    return _Prepared(folder, str(part[0].store), labels, rows, {})


def _newly_stored(part: Sequence[_Ready], folder: Path, labels: tuple[str, ...]) -> _Prepared:
    first = part[0]
    options = BuildOptions(
        rate_hz=first.rate_hz,
        dtype="int16" if first.recording.reader is None else "float32",
        unit=first.recording.unit,
        max_seconds=_LONGEST_S,
        duplicates="keep",
    )
    entries = [
        RecordEntry(
            record=f"{number:06d}",
            path=str(item.recording.path).lstrip("/"),
            patient=f"{number:06d}",
            split="test",
            reader=item.recording.reader,
        )
        for number, item in enumerate(part)
    ]
    try:
        store = build_store(entries, first.recording.path.anchor, folder, options).store
        known = set(store.records)
    except BuildError:
        if not (folder / LEDGER_FILE).is_file():
            raise
        known = set()
    ledger: dict[str, list[LedgerRow]] = {}
    for line in read_ledger(folder / LEDGER_FILE):
        ledger.setdefault(line.record, []).append(line)
    rows, faults = {}, {}
    for number, (entry, item) in enumerate(zip(entries, part, strict=True)):
        lines = ledger.get(entry.record, [])
        if entry.record in known:
            rows[number] = _row(store, entry.record)
            rows[number].remarks += [
                f"{line.reason.replace('_', ' ')}: {line.detail}"
                for line in lines
                if line.reason not in ("missing_leads", "duplicate", "no_label")
            ]
        else:
            why = next(line for line in lines if line.action == EXCLUDED)
            faults[number] = Fault(item.recording.place, why.reason, why.detail)
    return _Prepared(folder, STORE_FOLDER, labels, rows, faults)


def _row(store: Store, record: str) -> _Row:
    row = store.row_of(record)
    leads = zip(store.leads, store.lead_mask(row), strict=True)
    before_hz = float(store.index["source_rate_hz"].iloc[row])
    remarks = []
    if np.isfinite(before_hz) and before_hz != store.rate_hz:
        remarks.append(f"resampled from {before_hz:g} to {store.rate_hz:g} Hz")
    present = tuple(lead for lead, recorded in leads if recorded)
    return _Row(record, int(store.n_samples[row]), present, remarks)


def _labels(checkpoint: Checkpoint, contract: InputContract) -> tuple[str, ...]:
    """Return the names of the classes, or numbers where nobody knows them.

    Raises:
        ValueError: If the network decides no classes.
    """
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    task = getattr(model_class, "evaluated_by", "ecg_classification")
    if not hasattr(model_class, "num_labels_of") or task != "ecg_classification":
        raise ValueError(
            f"{checkpoint.path} is a network ({checkpoint.model_name}) that decides no classes; "
            "fine-tune a classifier from it (model.model_path=...) and take that one"
        )
    if contract.labels is not None:
        return contract.labels
    count = model_class.num_labels_of(checkpoint.state) or checkpoint.model_cfg["num_labels"]
    return tuple(f"class_{k}" for k in range(int(count)))


def _batches(items: Mapping[int, np.ndarray], size: int) -> Iterator[list[int]]:
    """Yield recordings whose windows together are a batch; a long one is alone."""
    batch: list[int] = []
    count = 0
    for number, of in items.items():
        if batch and count + len(of) > size:
            yield batch
            batch, count = [], 0
        batch.append(number)
        count += len(of)
    if batch:
        yield batch


def _refused(ready: _Ready, error: ValueError) -> Fault:
    return Fault(ready.recording.place, "refused", f"the network cannot take it: {error}")


def _put(
    found: Saliency,
    net_input: Mapping[str, Tensor],
    segments: EcgDataset,
    items: np.ndarray,
    total: np.ndarray,
    count: np.ndarray,
) -> None:
    """Add what was found of windows to the recording that they are cut from."""
    windows, padding_mask = segments.windows, net_input.get("padding_mask")
    for row, item in enumerate(items):
        values = found.values[row]
        if padding_mask is not None:
            values = values[:, ~padding_mask[row].cpu().numpy()]
        # A longer item was cropped at its centre.
        first = int(windows.start[item]) + (int(windows.length[item]) - values.shape[1]) // 2
        total[:, first : first + values.shape[1]] += values
        count[first : first + values.shape[1]] += 1


def _without_arrays(one: Prediction) -> Prediction:
    kept = dict(vars(one), explanation=None, signal=None)
    return Prediction(**kept)
