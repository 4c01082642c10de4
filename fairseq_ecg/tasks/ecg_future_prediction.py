"""Pretraining by prediction: which of several frames follows a stretch of a recording.

Contrastive predictive coding (van den Oord et al. 2018, arXiv:1807.03748) as Weimann & Conrad,
Scientific Reports 11:5251 (2021), use it.
"""

from dataclasses import dataclass, field

from fairseq.tasks import register_task

from fairseq_ecg.data.annotated import AnnotatedSource
from fairseq_ecg.data.future import FutureDataset, Horizon
from fairseq_ecg.data.manifest import Manifest
from fairseq_ecg.tasks._frames import FrameTask, FrameTaskConfig, check_least


@dataclass
class EcgFuturePredictionConfig(FrameTaskConfig):
    """Keys of ``ecg_future_prediction``."""

    context_size: int = field(default=8, metadata={"help": "frames of the context"})
    num_negatives: int = field(
        default=1, metadata={"help": "candidates that do not follow the context"}
    )
    context_overlap: int = field(
        default=0,
        metadata={"help": "samples that neighbouring frames of the context share"},
    )
    positive_offset: int = field(
        default=0,
        metadata={"help": "frames between the context and the frame that is to be found"},
    )
    buffer_patients: int = field(
        default=16,
        metadata={"help": "patients whose items are shuffled, and negatives drawn, together"},
    )


@register_task("ecg_future_prediction", dataclass=EcgFuturePredictionConfig)
class EcgFuturePredictionTask(FrameTask):
    """Items are contexts with candidates; ``label`` says which of them follows.

    Annotations are not read, so recordings without any serve too.
    """

    def __init__(self, cfg: EcgFuturePredictionConfig) -> None:
        super().__init__(cfg)
        for key in ("context_size", "num_negatives", "buffer_patients"):
            check_least(cfg, key, 1)
        check_least(cfg, "positive_offset", 0)
        try:
            self.horizon = Horizon(
                cfg.frame_size, cfg.context_size, cfg.context_overlap, cfg.positive_offset
            )
        except ValueError as error:
            raise ValueError(f"task.{error}") from None

    def open_source(self, manifest: Manifest) -> AnnotatedSource:
        """Return the recordings of a manifest, to be read piece by piece."""
        return AnnotatedSource(manifest, annotations=False)

    def build_dataset(
        self, manifest: Manifest, source: AnnotatedSource, training: bool
    ) -> FutureDataset:
        """Return the contexts and candidates of a split."""
        return FutureDataset(
            source,
            self.leads,
            self.pipeline(training),
            self.horizon,
            num_negatives=self.cfg.num_negatives,
            together=self.cfg.buffer_patients,
            **self.drawing(source, training),
        )
