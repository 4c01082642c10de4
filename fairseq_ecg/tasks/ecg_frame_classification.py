"""Pretraining by classification of frames: beats, rhythms or heart rates annotated inside them.

Weimann & Conrad, "Transfer learning for ECG classification", Scientific Reports 11:5251 (2021).
"""

from dataclasses import dataclass, field
from typing import Any, Dict

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task

from fairseq_ecg.data.annotated import AnnotatedSource
from fairseq_ecg.data.frames import LABEL_TYPES, FrameDataset, frame_labels
from fairseq_ecg.data.manifest import Manifest
from fairseq_ecg.tasks._classifying import ClassifyingTask
from fairseq_ecg.tasks._config import word
from fairseq_ecg.tasks._frames import FrameTask, FrameTaskConfig, check_least


@dataclass
class EcgFrameClassificationConfig(FrameTaskConfig):
    """Keys of ``ecg_frame_classification``."""

    label_type: ChoiceEnum(LABEL_TYPES) = field(  # type: ignore[valid-type]
        default="beat", metadata={"help": "what of a frame is the label"}
    )
    beat_classes: int = field(
        default=5,
        metadata={
            "help": "beat: 5: undefined, normal, PAC, aberrated, PVC; 3: normal, PAC, PVC, other "
            "frames are drawn again"
        },
    )
    rhythm_classes: int = field(
        default=6,
        metadata={
            "help": "rhythm: 6: undefined, end, noise, normal, AF, AFL; 4: noise, normal, AF, AFL, "
            "undefined frames are drawn again"
        },
    )
    hr_label_margin: int = field(
        default=0,
        metadata={
            "help": "heart_rate: samples before and after a frame whose beats count too, at "
            "task.sample_rate"
        },
    )
    shuffle_patients: int = field(
        default=16, metadata={"help": "patients whose frames are shuffled together"}
    )


@register_task("ecg_frame_classification", dataclass=EcgFrameClassificationConfig)
class EcgFrameClassificationTask(FrameTask, ClassifyingTask):
    """Items are frames with one class each, one-hot in ``label``.

    Args:
        cfg: The task's section of the configuration.

    Raises:
        ValueError: If a key has a value that cannot work; the message names it.
    """

    def __init__(self, cfg: EcgFrameClassificationConfig) -> None:
        super().__init__(cfg)
        check_least(cfg, "shuffle_patients", 1)
        check_least(cfg, "hr_label_margin", 0)
        label_type = word(cfg.label_type)
        if cfg.hr_label_margin and label_type != "heart_rate":
            raise ValueError(
                f"task.hr_label_margin={cfg.hr_label_margin} is for task.label_type=heart_rate, "
                f"but that is {label_type}; leave it out"
            )
        try:
            self.labels = frame_labels(label_type, cfg.beat_classes, cfg.rhythm_classes)
        except ValueError as error:
            raise ValueError(f"task.{error}") from None
        self.label_names = list(self.labels.names)

    @property
    def num_labels(self) -> int:
        """Number of classes K."""
        return len(self.label_names)

    def build_dataset(
        self, manifest: Manifest, source: AnnotatedSource, training: bool
    ) -> FrameDataset:
        """Return the frames of a split."""
        return FrameDataset(
            source,
            self.leads,
            self.pipeline(training),
            self.labels,
            frame_size=self.cfg.frame_size,
            margin=self.cfg.hr_label_margin,
            together=self.cfg.shuffle_patients,
            **self.drawing(source, training),
        )

    def _input_contract(self) -> Dict[str, Any]:
        return {**super()._input_contract(), "labels": self.label_names}
