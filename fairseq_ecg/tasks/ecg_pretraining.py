"""Pretraining without labels: segments, pairs of them, their leads, or perturbed copies."""

import logging
from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any, Dict

import numpy as np
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II
from torch import nn

from fairseq_ecg.data.dataset import BaseEcgDataset, EcgDataset
from fairseq_ecg.data.manifest import Manifest
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.data.sources import Source
from fairseq_ecg.data.wrappers import DrawnViews, LeadViews, SegmentPairs, pair_windows
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks._config import EcgTaskConfig, word
from fairseq_ecg.transforms.lead_mask import LeadMask
from fairseq_ecg.transforms.perturbation import build_perturbation
from fairseq_ecg.transforms.pipeline import Pipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views:
    """What an item of a batch consists of.

    Args:
        pairs: Pairs of adjacent segments instead of single ones.
        leads: Each lead is a row of its own.
        copies: How often each segment is there, its random transforms drawn anew.
        perturb_always: Perturbations make the views, so they are applied outside training too.
        rotated: The copies are rotated, scaled and masked as in 3KG, outside training too.
    """

    pairs: bool = False
    leads: bool = False
    copies: int = 1
    perturb_always: bool = False
    rotated: bool = False


VIEWS = {
    "single": Views(),
    "cmsc": Views(pairs=True),
    "cmlc": Views(leads=True),
    "cmsmlc": Views(pairs=True, leads=True),
    "two": Views(copies=2, perturb_always=True),
    "3kg": Views(copies=2, rotated=True),
}
# What ``auto`` means for a criterion; one whose name contains "cmsc" takes pairs.
_VIEWS_OF = {"simclr": "two", "3kg": "3kg"}


@dataclass
class EcgPretrainingConfig(EcgTaskConfig):
    """Keys of ``ecg_pretraining``."""

    views: ChoiceEnum(["auto", *VIEWS]) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "what an item is; auto: cmsc if the criterion's name contains it, two for "
            "simclr, 3kg for 3kg, else single"
        },
    )
    positives: ChoiceEnum(["record", "patient"]) = field(  # type: ignore[valid-type]
        default="record",
        metadata={"help": "whose segments are positives of each other, as patient_id says"},
    )
    inferred_3kg_config: Any = field(
        default=None,
        metadata={"help": "angle, scale and mask_ratio together, as older presets give them"},
    )
    criterion_name: str = II("criterion._name")


@register_task("ecg_pretraining", dataclass=EcgPretrainingConfig)
class EcgPretrainingTask(EcgTask):
    """Items are what ``task.views`` says: see ``VIEWS``.

    Args:
        cfg: The task's section of the configuration.

    Raises:
        ValueError: If a key has a value that cannot work; the message names it.
    """

    def __init__(self, cfg: EcgPretrainingConfig) -> None:
        super().__init__(cfg)
        chosen = word(cfg.views)
        if chosen == "auto":
            name = str(cfg.criterion_name)
            chosen = "cmsc" if "cmsc" in name else _VIEWS_OF.get(name, "single")
        self.views = VIEWS[chosen]
        self._check_views(chosen)
        if self.views.rotated:
            together = dict(cfg.inferred_3kg_config or {})
            self.rotation = build_perturbation("3kg", 1.0, ChainMap(together, cfg))

    @property
    def num_leads(self) -> int:
        """Number of leads of a row of the batch."""
        return 1 if self.views.leads else super().num_leads

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> nn.Module:
        """Build the model; it must have one input where each lead is a row of its own."""
        in_d = getattr(cfg, "in_d", None)
        if self.views.leads and in_d not in (None, 1):
            raise ValueError(
                f"model.in_d is {in_d}, but task.views takes each lead as an input of its own; "
                "give model.in_d=1"
            )
        return super().build_model(cfg, from_checkpoint)

    def build_dataset(self, manifest: Manifest, source: Source, training: bool) -> BaseEcgDataset:
        """Return the items of a split.

        Raises:
            ValueError: If pairs are asked for and no recording has two segments, or 3KG's
                rotation and the recordings are not in millivolts.
        """
        if self.views.rotated and source.unit != MILLIVOLTS:
            raise ValueError(
                f"3kg rotates the heart's dipole, which needs {MILLIVOLTS} in all leads, but the "
                f"recordings of {source.corpus} are in {source.unit}; give task.standardize=none, "
                "or recordings that were not scaled when they were prepared"
            )
        by_patient = word(self.cfg.positives) == "patient"
        identity = source.patient if by_patient else source.identity
        segments = self.segments(source, training, identity=identity)
        if self.views.copies > 1:
            return DrawnViews(segments, self.views.copies)
        dataset = self.pairs(manifest, segments) if self.views.pairs else segments
        return LeadViews(dataset, super().num_leads) if self.views.leads else dataset

    def pipeline(self, training: bool) -> Pipeline:
        """Return the transforms of a split; those that make the views in every split.

        3KG comes first: it needs millivolts and all twelve leads.
        """
        usual = super().pipeline(training or self.views.perturb_always)
        if not self.views.rotated:
            return usual
        return Pipeline((self.rotation, *usual.transforms))

    def pairs(self, manifest: Manifest, segments: EcgDataset) -> SegmentPairs:
        """Return all adjacent pairs of segments of one recording.

        Raises:
            ValueError: If no recording has two segments, or segments would be cut again.
        """
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
            rows = segments.windows.row
            left_out = len(np.unique(rows)) - len({int(rows[first]) for first, _ in groups})
            if left_out:
                logger.warning("%d recordings have fewer than two segments", left_out)
        if not groups:
            raise ValueError(
                "CMSC needs recordings of two segments or more, but here none has them; "
                f"give task.segment_s at most half the length of a recording (it is "
                f"{self.cfg.segment_s}), or task.views=single. Segments that are cut already are "
                "paired by a CMSC manifest; `fairseq-ecg pack` writes one"
            )
        return SegmentPairs(segments, groups)

    def _check_views(self, name: str) -> None:
        if self.views.perturb_always and not self.perturbations:
            raise ValueError(
                f"task.views={name} compares perturbed copies of a segment, but "
                "task.perturbation_mode is empty; give e.g. [random_leads_masking]"
            )
        masking = [p for p in self.perturbations if isinstance(p, LeadMask)]
        if self.views.leads and masking:
            raise ValueError(
                f"task.views={name} compares leads with each other, so none must be masked: silent "
                "rows would all be alike; leave the lead masking out of task.perturbation_mode"
            )
        silent = self.leads.padded and len(self.leads.rows) < len(self.leads.leads)
        if self.views.leads and (silent or len(self.leads.leads) < 2):
            raise ValueError(
                f"task.views={name} takes each lead as a view, so it needs two leads or more and "
                f"no silent ones; task.leads_to_load gives {len(self.leads.rows)}, "
                f"task.enable_padding_leads is {str(self.leads.padded).lower()}"
            )

    def _input_contract(self) -> Dict[str, Any]:
        contract = super()._input_contract()
        if self.views.leads:
            contract["leads"] = None  # the network takes one lead, whichever
        return contract


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
