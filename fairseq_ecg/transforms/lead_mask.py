"""Random lead masking (RLM): Oh et al., CHIL 2022, PMLR 174:338-353, section 3.3."""

from dataclasses import dataclass

import numpy as np

from fairseq_ecg.data.signal import EcgSignal

_LIMB_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF")


@dataclass(frozen=True)
class RandomLeadMask:
    """Set each lead to 0 mV, independently, with probability ``prob``.

    All leads can vanish (with 12 leads and 0.5: once in 4096 segments), as in the paper.

    Args:
        prob: Probability of masking a lead, in [0, 1].
        p: Probability that the segment is touched at all, in [0, 1].
    """

    prob: float = 0.5
    p: float = 1.0

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Mask rows of ``signal.values_mv`` ([C, T], any number of leads) in place."""
        if rng.random() < self.p:
            signal.values_mv[rng.random(len(signal.leads)) < self.prob] = 0.0
        return signal


@dataclass(frozen=True)
class ConditionalLeadMask:
    """Set a fixed number of limb leads and of chest leads, drawn at random, to 0 mV.

    Args:
        limb: How many limb leads to mask; all of them if there are fewer.
        chest: How many chest leads to mask; all of them if there are fewer.
        p: Probability that the segment is touched at all, in [0, 1].
    """

    limb: int = 4
    chest: int = 5
    p: float = 1.0

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Mask rows of ``signal.values_mv`` ([C, T]) in place."""
        if rng.random() >= self.p:
            return signal
        is_limb = np.array([lead in _LIMB_LEADS for lead in signal.leads])
        for rows, count in (
            (np.flatnonzero(is_limb), self.limb),
            (np.flatnonzero(~is_limb), self.chest),
        ):
            signal.values_mv[rng.permutation(rows)[:count]] = 0.0
        return signal
