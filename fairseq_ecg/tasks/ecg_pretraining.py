"""Pretraining without labels: single segments, or pairs of adjacent ones (CMSC)."""

import logging
from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from omegaconf import II

from fairseq_ecg.data.dataset import BaseEcgDataset
from fairseq_ecg.data.manifest import Manifest
from fairseq_ecg.data.sources import Source
from fairseq_ecg.data.wrappers import SegmentPairs, pair_windows
from fairseq_ecg.tasks._base import EcgTask, EcgTaskConfig

logger = logging.getLogger(__name__)


@dataclass
class EcgPretrainingConfig(EcgTaskConfig):
    """Keys of ``ecg_pretraining``."""

    views: ChoiceEnum(["auto", "single", "cmsc"]) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={"help": "what an item is; auto: cmsc if the criterion's name contains it"},
    )
    criterion_name: str = II("criterion._name")


@register_task("ecg_pretraining", dataclass=EcgPretrainingConfig)
class EcgPretrainingTask(EcgTask):
    """Items are segments, or all adjacent pairs of segments of one recording."""

    def build_dataset(self, manifest: Manifest, source: Source, training: bool) -> BaseEcgDataset:
        """Return segments or pairs.

        Raises:
            ValueError: If pairs are asked for and no recording has two segments.
        """
        segments = self.segments(source, training)
        if not self._wants_pairs():
            return segments
        if manifest.kind == "cmsc":
            rows = segments.windows.row.tolist()
            if len(set(rows)) != len(rows):
                raise ValueError(
                    f"a CMSC manifest lists segments already cut, but task.segment_s="
                    f"{self.cfg.segment_s} cuts them again; give task.segment_s=null"
                )
            groups = _manifest_groups(manifest, rows)
        else:
            groups = pair_windows(segments.windows.row)
            left_out = len(set(segments.windows.row.tolist())) - len(groups)
            if left_out:
                logger.warning("%d recordings have fewer than two segments", left_out)
        if not groups:
            raise ValueError(
                "CMSC needs recordings of two segments or more, but here none has them; "
                f"give task.segment_s at most half the length of a recording (it is "
                f"{self.cfg.segment_s}), or task.views=single"
            )
        return SegmentPairs(segments, groups)

    def _wants_pairs(self) -> bool:
        views = str(getattr(self.cfg.views, "value", self.cfg.views))
        return views == "cmsc" or (views == "auto" and "cmsc" in str(self.cfg.criterion_name))


def _manifest_groups(manifest: Manifest, rows: list[int]) -> list[list[int]]:
    """Return the items of each line of a CMSC manifest, an even number each.

    Args:
        manifest: Its segments, line after line, are the files.
        rows: File of each item; those of lines that ``min_sample_size`` left out are not there.
    """
    item = {row: position for position, row in enumerate(rows)}
    groups, first = [], 0
    for numbers in manifest.segments or []:
        files = range(first, first + len(numbers) - len(numbers) % 2)
        groups.append([item[row] for row in files if row in item])
        first += len(numbers)
    return [group for group in groups if group]
