"""Recording-level classification: labels of a recording on each of its segments."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task

from fairseq_ecg.data.dataset import BaseEcgDataset
from fairseq_ecg.data.label_arrays import read_label_array
from fairseq_ecg.data.manifest import LABELS_FILE, Manifest, read_classes
from fairseq_ecg.data.sources import Source
from fairseq_ecg.data.wrappers import LabelledDataset
from fairseq_ecg.tasks._classifying import ClassifyingTask
from fairseq_ecg.tasks._config import EcgTaskConfig, word
from fairseq_ecg.tasks._training_accuracy import TrainingAccuracy

logger = logging.getLogger(__name__)


@dataclass
class EcgClassificationConfig(EcgTaskConfig):
    """Keys of ``ecg_classification``."""

    label_file: Optional[str] = field(
        default=None,
        metadata={
            "help": ".npy array of labels [N, K], indexed by the idx of .mat segments; class names "
            "from label_def.csv beside it"
        },
    )
    score_per: ChoiceEnum(["segment", "record"]) = field(  # type: ignore[valid-type]
        default="segment",
        metadata={"help": "validate each segment, or the mean probability of each recording"},
    )
    patience_train_accuracy: int = field(
        default=0,
        metadata={
            "help": "end the run when the accuracy on the training data has not improved for this "
            "many epochs; 0: not for that reason"
        },
    )
    path_dataset: bool = field(
        default=False,
        metadata={"help": "accepted for old presets; only false: build a store instead"},
    )
    load_specific_lead: bool = field(
        default=False,
        metadata={"help": "accepted for old presets; only false: use leads_to_load instead"},
    )


@register_task("ecg_classification", dataclass=EcgClassificationConfig)
class EcgClassificationTask(ClassifyingTask):
    """Items are segments with the multi-hot ``label`` of their recording.

    Labels come from the manifest's third column with the names of ``labels.txt`` beside it, from
    ``task.label_file``, or from the ``label`` inside each ``.mat`` segment, in this order.
    """

    def __init__(self, cfg: EcgClassificationConfig) -> None:
        super().__init__(cfg)
        for key in ("path_dataset", "load_specific_lead"):
            if cfg.get(key):
                raise ValueError(
                    f"task.{key}=true is not supported: it belongs to question answering; build a "
                    "store with `fairseq-ecg manifest`, or choose leads with task.leads_to_load"
                )
        self.training_accuracy = TrainingAccuracy(cfg.patience_train_accuracy)
        self.label_names: Optional[List[str]] = _vocabulary(Path(cfg.data))
        self.label_array: Optional[np.ndarray] = None
        if cfg.label_file:
            self.label_array, names = read_label_array(cfg.label_file)
            self.label_names = self.label_names or names

    @property
    def num_labels(self) -> Optional[int]:
        """Number of classes K, or None if the data say it only file by file."""
        if self.label_names is not None:
            return len(self.label_names)
        return None if self.label_array is None else self.label_array.shape[1]

    def check_data(self) -> None:
        """Refuse manifests of a store without labels, before a run begins.

        Raises:
            ValueError: Naming the label sets that lie beside them.
        """
        folder = Path(self.cfg.data)
        stores = [path.parent for path in folder.glob("*/store.json")]
        if self.label_names is None and self.label_array is None and stores:
            there = [path.parent.name for path in sorted(folder.glob(f"*/{LABELS_FILE}"))]
            raise ValueError(
                f"the manifests in task.data={folder} have no labels; give task.data the folder of "
                f"a label set, with {LABELS_FILE} (there are: {', '.join(there) or 'none'})"
            )

    def build_dataset(self, manifest: Manifest, source: Source, training: bool) -> BaseEcgDataset:
        """Return labelled segments.

        Raises:
            ValueError: If the recordings have no labels, labels of different width, or, where the
                criterion asks for it (``single_label``), not exactly one class.
        """
        labels = self._labels(manifest, source)
        _check_shares(labels, source.names)
        if self.single_label:
            _check_single(labels, source.names)
        return LabelledDataset(self.segments(source, training), labels)

    def build_criterion(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> Any:
        """Build the criterion.

        Raises:
            ValueError: If ``task.patience_train_accuracy`` is given to one that answers with more
                than one class.
        """
        criterion = super().build_criterion(cfg, from_checkpoint)
        if self.training_accuracy.patience and not self.single_label:
            raise ValueError(
                f"task.patience_train_accuracy={self.training_accuracy.patience} counts right "
                "answers, one for each item; take criterion ecg_cross_entropy, or "
                "checkpoint.patience in its place"
            )
        return criterion

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """Log what the criterion summed, and count right answers of the training."""
        if criterion.training:
            self.training_accuracy.add(logging_outputs)
        super().reduce_metrics(logging_outputs, criterion)

    def end_epoch(self) -> bool:
        """Return whether the training accuracy has stopped growing."""
        return self.training_accuracy.end_epoch()

    def get_checkpoint_dict(self) -> Dict[str, Any]:
        """Return the counters of early stopping, by validation and by training accuracy."""
        states = super().get_checkpoint_dict()
        states[type(self).__name__]["training_accuracy"] = self.training_accuracy.state()
        return states

    def set_checkpoint_dict(self, state: Dict[str, Any]) -> None:
        """Take up the counters of a checkpoint."""
        super().set_checkpoint_dict(state)
        self.training_accuracy.restore(state.get("training_accuracy", {}))

    def epoch_metrics(self, scores: Dict[str, np.ndarray]) -> Dict[str, float]:
        """Return the criterion's metrics over all segments, or over all recordings."""
        if word(self.cfg.score_per) == "record":
            scores = average_per_record(scores)
        return super().epoch_metrics(scores)

    def _labels(self, manifest: Manifest, source: Source) -> np.ndarray:
        if manifest.classes is not None:
            if self.label_array is not None:
                logger.warning(
                    "task.label_file=%s is not read: the manifests of %s name their labels",
                    self.cfg.label_file,
                    self.cfg.data,
                )
            return encode_labels(manifest, self.label_names or list(manifest.classes))
        rows = range(len(source.names))
        if source.label_row(0) is None and source.label(0) is None:
            raise ValueError(
                f"the manifest of {manifest.root} has no labels; give task.data the folder of a "
                f"label set, the one with {LABELS_FILE}. For .mat segments: {source.names[0]} "
                "holds no label; give task.label_file"
            )
        if self.label_array is not None:
            return self.label_array[[self._label_row(source, row) for row in rows]]
        return _stack([_own_label(source, r) for r in rows], source.names)

    def _label_row(self, source: Source, row: int) -> int:
        index, count = source.label_row(row), len(self.label_array)
        name, file = source.names[row], self.cfg.label_file
        if index is None:
            raise ValueError(
                f"{name} has no idx, the row of its labels in task.label_file={file}; give the "
                "segments an idx, or put their label into them and leave task.label_file out"
            )
        if not 0 <= index < count:
            raise ValueError(
                f"{name}: idx is {index}, but task.label_file={file} has the rows 0 to "
                f"{count - 1}; is it the array of these segments?"
            )
        return index

    def _input_contract(self) -> Dict[str, Any]:
        return {**super()._input_contract(), "labels": self.label_names}


def average_per_record(scores: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Average the probabilities of the segments of each recording.

    Args:
        scores: ``record`` int64 [N], ``probability`` and ``label`` float32 [N, K].

    Returns:
        ``record`` [R], ``probability`` and ``label`` [R, K], in the order of ``record``.
    """
    record, first, inverse = np.unique(scores["record"], return_index=True, return_inverse=True)
    total = np.zeros((len(record), scores["probability"].shape[1]))
    np.add.at(total, inverse, scores["probability"])
    mean = total / np.bincount(inverse)[:, None]
    return {"record": record, "probability": mean, "label": scores["label"][first]}


def encode_labels(manifest: Manifest, names: List[str]) -> np.ndarray:
    """Turn the label names of a manifest into multi-hot rows.

    Args:
        manifest: A manifest with labels.
        names: The vocabulary, in column order.

    Returns:
        float32 [N, K].

    Raises:
        ValueError: If a recording has a label that is not in the vocabulary.
    """
    column = {name: k for k, name in enumerate(names)}
    labels = np.zeros((len(manifest), len(names)), dtype=np.float32)
    for row in range(len(manifest)):
        for name in manifest.label_names(row):
            if name not in column:
                raise ValueError(f"{manifest.paths[row]}: label {name!r} is not in {LABELS_FILE}")
            labels[row, column[name]] = 1.0
    return labels


def _vocabulary(data: Path) -> Optional[List[str]]:
    path = data / LABELS_FILE
    return list(read_classes(path)) if path.is_file() else None


def _stack(labels: List[np.ndarray], names: List[str]) -> np.ndarray:
    for label, name in zip(labels, names, strict=True):
        if label.shape != labels[0].shape:
            raise ValueError(
                f"{name} has {len(label)} labels, but {names[0]} has {len(labels[0])}; give "
                "task.label_file, or leave one of them out"
            )
    return np.stack(labels)


def _check_shares(labels: np.ndarray, names: List[str]) -> None:
    wrong = np.argwhere(~((labels >= 0) & (labels <= 1)))
    if wrong.size:
        row, column = wrong[0]
        raise ValueError(
            f"{names[row]}: label {column} is {labels[row, column]:g}, but labels must be 0, 1 or "
            f"a share between ({len(wrong)} are not); give 0 where a label is unknown, or leave "
            "the recording out of the manifest"
        )


def _check_single(labels: np.ndarray, names: List[str]) -> None:
    counts = (labels == 1).sum(axis=1)
    wrong = np.flatnonzero((counts != 1) | (labels.sum(axis=1) != 1))
    if wrong.size:
        row = wrong[0]
        raise ValueError(
            f"{names[row]} has {counts[row]} classes, but criterion ecg_cross_entropy needs "
            f"exactly one ({wrong.size} of {len(names)} recordings are wrong); take another label "
            "set, or binary_cross_entropy_with_logits for labels that do not exclude each other"
        )


def _own_label(source: Source, row: int) -> np.ndarray:
    label = source.label(row)
    if label is None:
        raise ValueError(f"{source.names[row]} holds no label; give task.label_file")
    return label
