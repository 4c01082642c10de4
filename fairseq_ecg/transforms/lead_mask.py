"""Random lead masking (RLM): Oh et al., CHIL 2022, PMLR 174:338-353, section 3.3."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fairseq_ecg.data.leads import canonical_lead
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms._limb_leads import LIMB_LEADS
from fairseq_ecg.transforms.perturbation import Perturbation, option, register_perturbation


@dataclass(frozen=True)
class _Mask(Perturbation):
    """Silences the leads that are drawn."""

    def apply(self, signals: Sequence[EcgSignal], masked: Sequence[np.ndarray]) -> None:
        """Set rows of ``values_mv`` ([C, T], any number of leads) to 0, in place."""
        for signal, rows in zip(signals, masked, strict=True):
            signal.values_mv[rows] = 0.0


@dataclass(frozen=True)
class RandomLeadMask(_Mask):
    """Set each lead to 0 mV, independently, with probability ``prob``.

    All leads can vanish (with 12 leads and 0.5: once in 4096 segments), as in the paper.

    Args:
        prob: Probability of masking a lead, in [0, 1].
        p: Probability that the segment is touched at all, in [0, 1].
    """

    prob: float = 0.5

    def draw(self, signal: EcgSignal, rng: np.random.Generator) -> tuple[np.ndarray]:
        """Return whether each lead is masked, bool [C]."""
        return (rng.random(len(signal.leads)) < self.prob,)


@dataclass(frozen=True)
class ConditionalLeadMask(_Mask):
    """Set a fixed number of limb leads and of chest leads, drawn at random, to 0 mV.

    Args:
        limb: How many limb leads to mask; all of them if there are fewer.
        chest: How many chest leads to mask; all of them if there are fewer.
        p: Probability that the segment is touched at all, in [0, 1].
    """

    limb: int = 4
    chest: int = 5

    def draw(self, signal: EcgSignal, rng: np.random.Generator) -> tuple[np.ndarray]:
        """Return the rows to mask."""
        is_limb = np.array([canonical_lead(lead) in LIMB_LEADS for lead in signal.leads])
        limb = rng.permutation(np.flatnonzero(is_limb))[: self.limb]
        chest = rng.permutation(np.flatnonzero(~is_limb))[: self.chest]
        return (np.concatenate([limb, chest]),)


@register_perturbation("random_leads_masking")
@dataclass(frozen=True)
class LeadMask(_Mask):
    """Mask leads as the configuration says: one of the two masks above.

    Args:
        mask_leads_selection: "random" for ``RandomLeadMask``, "conditional" for the other.
        mask_leads_prob: Probability of masking a lead, if random.
        mask_leads_condition: Numbers of limb and of chest leads to mask, if conditional.
        p: Probability that the segment is touched at all, in [0, 1].

    Raises:
        ValueError: If there is no such selection, or a number is out of range.
    """

    mask_leads_selection: str = option(
        "random", "random_leads_masking: random (each lead alone) or conditional"
    )
    mask_leads_prob: float = option(
        0.5, "random_leads_masking: probability of masking a lead", low=0, high=1
    )
    mask_leads_condition: Any = option(
        (4, 5), "conditional lead masking: how many limb and chest leads to mask"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_leads_selection not in ("random", "conditional"):
            raise ValueError(
                f"mask_leads_selection={self.mask_leads_selection!r} must be random or conditional"
            )
        condition = self.mask_leads_condition
        numbers = condition if isinstance(condition, list | tuple) else []
        if len(numbers) != 2 or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError(
                "mask_leads_condition must be two whole numbers, of limb and of chest leads "
                f"to mask, got {condition}"
            )

    @cached_property
    def _chosen(self) -> _Mask:
        if self.mask_leads_selection == "random":
            return RandomLeadMask(self.mask_leads_prob)
        return ConditionalLeadMask(*self.mask_leads_condition)

    def draw(self, signal: EcgSignal, rng: np.random.Generator) -> tuple[np.ndarray]:
        """Return which rows to mask."""
        return self._chosen.draw(signal, rng)
