"""What the tasks share whose items are drawn from long recordings, read where they lie."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.data.iterators import EpochBatchIterating

from fairseq_ecg.data.annotated import AnnotatedSource
from fairseq_ecg.data.manifest import Manifest
from fairseq_ecg.data.sources import Source
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks._config import EcgTaskConfig, word

# Keys about windows of whole recordings; here an item is drawn anew each time.
_OF_WINDOWS = ("segment_s", "max_sample_size", "min_sample_size")


@dataclass
class FrameTaskConfig(EcgTaskConfig):
    """Keys of the tasks on frames of long recordings."""

    frame_size: int = field(
        default=2048, metadata={"help": "samples of a frame, at task.sample_rate"}
    )
    samples_per_patient: int = field(
        default=4096, metadata={"help": "items drawn of each patient in an epoch"}
    )
    eval_samples_per_patient: Optional[int] = field(
        default=None,
        metadata={"help": "the same outside training; null: as many as in training"},
    )


class FrameTask(EcgTask):
    """Items are drawn from the recordings of patients, a few patients at a time.

    Args:
        cfg: The task's section of the configuration.

    Raises:
        ValueError: If a key has a value that cannot work; the message names it.
    """

    def __init__(self, cfg: FrameTaskConfig) -> None:
        super().__init__(cfg)
        for key in _OF_WINDOWS:
            if cfg.get(key):
                raise ValueError(
                    f"task.{key}={cfg[key]:g} is for windows of whole recordings, but {cfg._name} "
                    "draws frames; leave it out and give task.frame_size in samples"
                )
        for key in ("record", "person"):
            if word(cfg.standardize) == key:
                raise ValueError(
                    f"task.standardize={key} would read whole recordings for each frame; give "
                    "window or window_lead, or task.normalize=true"
                )
        for key in ("frame_size", "samples_per_patient", "eval_samples_per_patient"):
            if cfg[key] is not None:
                check_least(cfg, key, 1)

    def get_batch_iterator(self, *args: Any, **kwargs: Any) -> EpochBatchIterating:
        """Return the engine's iterator, told to leave the batches in the order of the data set.

        That is random already. Shuffled as the engine does it, with ``dataset.curriculum`` below
        the number of the epoch, one batch would come from here and the next from there, and all
        files of the set would be read at once.
        """
        iterator = super().get_batch_iterator(*args, **kwargs)
        iterator.disable_shuffling = True
        return iterator

    def open_source(self, manifest: Manifest) -> AnnotatedSource:
        """Return the recordings of a manifest, to be read piece by piece."""
        return AnnotatedSource(manifest)

    def input_rate(self, source: Source) -> float:
        """Return the rate of the items: ``task.sample_rate``, or where it is null the source's."""
        rate_hz = self.cfg.sample_rate
        return rate_hz if rate_hz and rate_hz > 0 else source.rate_hz

    def drawing(self, source: Source, training: bool) -> Dict[str, Any]:
        """Return the keywords of ``PatientDataset`` that both tasks give alike."""
        draws = self.cfg.samples_per_patient
        if not training and self.cfg.eval_samples_per_patient is not None:
            draws = self.cfg.eval_samples_per_patient
        return {
            "draws": draws,
            "rate_hz": self.input_rate(source),
            "seed": self.cfg.seed,
            "training": training,
        }

    def _contract_of(self, source: Source) -> Dict[str, Any]:
        segment_s = self.cfg.frame_size / self.input_rate(source)
        return {**super()._contract_of(source), "segment_s": segment_s}


def check_least(cfg: FrameTaskConfig, key: str, least: int) -> None:
    """Refuse a number that is too small.

    Args:
        cfg: The task's section of the configuration.
        key: Name of the number.
        least: Smallest value allowed.

    Raises:
        ValueError: Naming key and value.
    """
    if cfg[key] < least:
        raise ValueError(f"task.{key} must be at least {least}, got {cfg[key]}")
