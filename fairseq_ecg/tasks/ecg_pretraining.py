"""Pretraining without labels: segments, pairs, leads, copies, hidden blocks, transformed forms."""

import dataclasses
import logging
from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Union

import numpy as np
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II
from torch import nn

from fairseq_ecg.data.block_mask import MODES, SAMPLINGS, BlockMask
from fairseq_ecg.data.dataset import BaseEcgDataset, EcgDataset
from fairseq_ecg.data.manifest import Manifest
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.data.sources import Source
from fairseq_ecg.data.wrappers import (
    DrawnViews,
    LeadItems,
    LeadViews,
    MaskedSegments,
    SegmentPairs,
    TransformViews,
    pair_windows,
)
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks._config import EcgTaskConfig, perturbation_options, word
from fairseq_ecg.transforms.lead_mask import LeadMask
from fairseq_ecg.transforms.perturbation import build_perturbation
from fairseq_ecg.transforms.pipeline import Pipeline
from fairseq_ecg.transforms.recognition import FormsAndPair, TransformedForms
from fairseq_ecg.transforms.vectorcardiogram import VectorcardiogramAugment

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
        masked: Blocks of the segments are to be hidden and rebuilt.
        forms: Each segment is there in its seven transformed forms.
        contrasted: Beside the forms there are two perturbed copies.
    """

    pairs: bool = False
    leads: bool = False
    copies: int = 1
    perturb_always: bool = False
    rotated: bool = False
    masked: bool = False
    forms: bool = False
    contrasted: bool = False


VIEWS = {
    "single": Views(),
    "cmsc": Views(pairs=True),
    "cmlc": Views(leads=True),
    "cmsmlc": Views(pairs=True, leads=True),
    "two": Views(copies=2, perturb_always=True),
    "3kg": Views(copies=2, rotated=True),
    "masked": Views(masked=True),
    "transforms": Views(forms=True),
    "transforms_and_pair": Views(forms=True, contrasted=True),
}
# What ``auto`` means for a criterion; one whose name contains "cmsc" takes pairs.
_VIEWS_OF = {
    "simclr": "two",
    "3kg": "3kg",
    "ecg_masked_mse": "masked",
    "ecg_transform_recognition": "transforms",
}
# Views whose leads may be items of their own (task.lead_items).
_OF_LEADS = ("single", "two", "transforms", "transforms_and_pair")
# Makes the copies of transforms_and_pair.
_PAIR = "scale_shift_noise_warp"
# Perturbations that leave leads, or spans of them, without signal.
_SILENCING = (LeadMask, VectorcardiogramAugment)
# Share of the blocks that is hidden unless task.mask_ratio says another.
_MASK_RATIO = 0.25


@dataclass
class EcgPretrainingConfig(EcgTaskConfig):
    """Keys of ``ecg_pretraining``."""

    views: ChoiceEnum(["auto", *VIEWS]) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "what an item is; auto: cmsc if the criterion's name contains it, two for "
            "simclr, 3kg for 3kg, masked for ecg_masked_mse, transforms for "
            "ecg_transform_recognition, else single"
        },
    )
    lead_items: bool = field(
        default=False,
        metadata={
            "help": "every lead of a segment is an item of its own, [1, T], for views single, two, "
            "transforms and transforms_and_pair"
        },
    )
    snr_db: float = field(
        default=15.0,
        metadata={"help": "transforms: ratio of the power of a window to that of its noise, in dB"},
    )
    scaling: float = field(
        default=1.1, metadata={"help": "transforms: what the samples are multiplied with"}
    )
    permutation_pieces: int = field(
        default=20, metadata={"help": "transforms: pieces of a window that change their places"}
    )
    warp_pieces: int = field(
        default=9, metadata={"help": "transforms: pieces that become longer or shorter"}
    )
    warp_factor: float = field(
        default=1.05,
        metadata={"help": "transforms: how much longer some pieces become, and the others shorter"},
    )
    mask_block: int = field(
        default=64, metadata={"help": "masked: samples of a block that is hidden as a whole"}
    )
    mask_ratio: Optional[float] = field(
        default=None,
        metadata={
            "help": "masked: share of the blocks that is hidden, null: 0.25; 3kg: share of each "
            "lead that is silenced, null: 0.5"
        },
    )
    mask_mode: ChoiceEnum(MODES) = field(  # type: ignore[valid-type]
        default="time",
        metadata={
            "help": "masked: time: the same blocks in all leads; time_block: in spans of 2 to 6 "
            "blocks; lead: whole leads; lead_time: blocks of each lead on its own; random_leads: "
            "the same blocks in some leads; time_and_lead: two masks, for models with two decoders"
        },
    )
    mask_sampling: ChoiceEnum(SAMPLINGS) = field(  # type: ignore[valid-type]
        default="without_replacement",
        metadata={
            "help": "masked: without_replacement: the same number of blocks always; bernoulli: "
            "each with the chance mask_ratio; replacement: one may be drawn twice"
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
        if self.views.masked:
            self.block_mask = self._block_mask()
        if self.views.forms:
            self.forms = self._forms()
        if self.views.contrasted:
            self.pair = build_perturbation(_PAIR, 1.0, perturbation_options(cfg))
        if self.views.rotated:
            together = dict(cfg.inferred_3kg_config or {})
            self.rotation = build_perturbation("3kg", 1.0, ChainMap(together, cfg))

    @property
    def num_leads(self) -> int:
        """Number of leads of a row of the batch."""
        return 1 if self._single_leads else super().num_leads

    @property
    def _single_leads(self) -> bool:
        return self.views.leads or self.cfg.lead_items

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> nn.Module:
        """Build the model; it must have one input where each lead is a row of its own."""
        in_d = getattr(cfg, "in_d", None)
        if self._single_leads and in_d not in (None, 1):
            key = "task.lead_items" if self.cfg.lead_items else "task.views"
            raise ValueError(
                f"model.in_d is {in_d}, but {key} takes each lead as an input of its own; "
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
        if self.views.masked:
            return self.masked(source, training, identity=identity)
        segments = self.segments(source, training, identity=identity)
        if self.views.forms:
            return self.transformed(segments)
        if self.views.copies > 1:
            return DrawnViews(self.items(segments), self.views.copies)
        if self.cfg.lead_items:
            return self.items(segments)
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

    def items(self, segments: EcgDataset) -> Union[EcgDataset, LeadItems]:
        """Return segments, or with ``task.lead_items`` their leads, as items."""
        return LeadItems(segments, self.leads.leads) if self.cfg.lead_items else segments

    def transformed(self, segments: EcgDataset) -> TransformViews:
        """Return segments in their seven forms, perhaps with two copies to be compared.

        Raises:
            ValueError: If a window has fewer samples than pieces; names its recording.
        """
        source = segments.source
        short = np.flatnonzero(segments.windows.length < self.forms.least_samples)
        if short.size:
            row = int(segments.windows.row[short[0]])
            raise ValueError(
                f"{source.names[row]} has a window of {segments.windows.length[short[0]]} samples, "
                f"too few for {self.forms.least_samples} pieces ({short.size} such windows); leave "
                "such recordings out of the manifest, in training with task.min_sample_size, or "
                "give a smaller task.permutation_pieces or task.warp_pieces"
            )
        forms = self.forms
        if self.views.contrasted:
            leads = self.leads.leads[: self.num_leads]
            forms = FormsAndPair(
                **dataclasses.asdict(forms), pair=self.pair, rate_hz=source.rate_hz, leads=leads
            )
        return TransformViews(self.items(segments), forms, source.names)

    def masked(self, source: Source, training: bool, **options: Any) -> MaskedSegments:
        """Return segments with the blocks that are to be hidden.

        Args:
            source: The recordings.
            training: Whether they are trained on.
            **options: Further keywords of ``EcgDataset``.

        Raises:
            ValueError: If a block is longer than a window, or than a recording, which is named.
        """
        self._check_block(source.rate_hz)
        segments = self.segments(source, training, with_scale=True, **options)
        short = np.flatnonzero(segments.windows.length < self.block_mask.block)
        if short.size:
            row = int(segments.windows.row[short[0]])
            raise ValueError(
                f"{source.names[row]} has a window of {segments.windows.length[short[0]]} samples, "
                f"shorter than one block (task.mask_block={self.block_mask.block}; {short.size} "
                "such windows); leave such recordings out of the manifest, in training with "
                "task.min_sample_size, or give a shorter block"
            )
        return MaskedSegments(segments, self.block_mask)

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

    def _forms(self) -> TransformedForms:
        """Return how the forms are made; refuse values that cannot work."""
        keys = {field.name: self.cfg[field.name] for field in dataclasses.fields(TransformedForms)}
        try:
            return TransformedForms(**keys)
        except ValueError as error:
            raise ValueError(f"task.{error}") from None

    def _block_mask(self) -> BlockMask:
        """Return how blocks are hidden; refuse keys that cannot go with it."""
        cfg = self.cfg
        ratio = _MASK_RATIO if cfg.mask_ratio is None else cfg.mask_ratio
        mode = word(cfg.mask_mode)
        try:
            mask = BlockMask(cfg.mask_block, ratio, mode, word(cfg.mask_sampling))
        except ValueError as error:
            raise ValueError(f"task.{error}") from None
        if cfg.segment_s is None:
            raise ValueError(
                "task.views=masked needs windows of one length; give task.segment_s in seconds"
            )
        if not cfg.enable_padding or cfg.max_sample_size:
            raise ValueError(
                "task.views=masked needs whole windows, but task.enable_padding=false and "
                "task.max_sample_size crop them; leave both out and give task.segment_s"
            )
        if mode in ("lead", "time_and_lead") and len(self.leads.leads) < 2:
            raise ValueError(
                f"task.mask_mode={mode} hides whole leads, so it needs two leads or more; "
                f"task.leads_to_load gives {len(self.leads.leads)}"
            )
        if cfg.sample_rate and cfg.sample_rate > 0:
            self._check_block(cfg.sample_rate)
        return mask

    def _check_block(self, rate_hz: float) -> None:
        window, block = self.window(rate_hz), self.cfg.mask_block
        if block > window:
            raise ValueError(
                f"task.mask_block={block} samples is longer than a window of task.segment_s="
                f"{self.cfg.segment_s:g} s at {rate_hz:g} Hz ({window} samples)"
            )

    def _check_views(self, name: str) -> None:
        if self.views.perturb_always and not self.perturbations:
            example = _PAIR if self.num_leads == 1 else "random_leads_masking"
            raise ValueError(
                f"task.views={name} compares perturbed copies of a segment, but "
                f"task.perturbation_mode is empty; give e.g. [{example}]"
            )
        if self.views.pairs and word(self.cfg.windowing) == "random":
            raise ValueError(
                f"task.views={name} pairs adjacent windows of a recording, but task.windowing="
                "random takes one; give consecutive or balanced"
            )
        masking = [p for p in self.perturbations if isinstance(p, LeadMask)]
        if self.views.leads and masking:
            raise ValueError(
                f"task.views={name} compares leads with each other, so none must be masked: silent "
                "rows would all be alike; leave the lead masking out of task.perturbation_mode"
            )
        silencing = [p for p in self.perturbations if isinstance(p, _SILENCING)]
        if self.views.masked and silencing:
            raise ValueError(
                "task.views=masked rebuilds what the perturbations made, so none may silence it; "
                "leave random_leads_masking and 3kg out of task.perturbation_mode. To hide leads, "
                "give task.mask_mode=lead or random_leads"
            )
        if (self.views.forms or self.cfg.lead_items) and silencing:
            raise ValueError(
                "transformed forms and single leads need signal in every lead, so no perturbation "
                "may silence it; leave random_leads_masking and 3kg out of task.perturbation_mode"
            )
        if self.cfg.lead_items and name not in _OF_LEADS:
            raise ValueError(
                f"task.lead_items=true makes every lead an item, which task.views={name} cannot "
                f"have; give one of {', '.join(_OF_LEADS)}, or leave task.lead_items out"
            )
        silent = self.leads.padded and len(self.leads.rows) < len(self.leads.leads)
        if self.views.masked and silent:
            raise ValueError(
                "task.views=masked rebuilds the leads, so none may be silent; leave "
                "task.enable_padding_leads out, and choose leads with task.leads_to_load"
            )
        if self.cfg.lead_items and silent:
            raise ValueError(
                "task.lead_items=true takes the leads one by one, so none may be silent; leave "
                "task.enable_padding_leads out, and choose leads with task.leads_to_load"
            )
        if self.views.leads and (silent or len(self.leads.leads) < 2):
            raise ValueError(
                f"task.views={name} takes each lead as a view, so it needs two leads or more and "
                f"no silent ones; task.leads_to_load gives {len(self.leads.rows)}, "
                f"task.enable_padding_leads is {str(self.leads.padded).lower()}"
            )

    def _input_contract(self) -> Dict[str, Any]:
        contract = super()._input_contract()
        if self._single_leads:
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
