"""The order of the transforms, in one place: leads, filter, scaling, perturbations.

Before: data/sources.py (a window of a recording). After: data/dataset.py (an item of a batch).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.filter import clean
from fairseq_ecg.transforms.lead_mask import ConditionalLeadMask, RandomLeadMask
from fairseq_ecg.transforms.lead_selection import SelectLeads
from fairseq_ecg.transforms.normalize import Standardize

Transform = Callable[[EcgSignal, np.random.Generator], EcgSignal]


@dataclass(frozen=True)
class Clean:
    """Remove baseline wander and mains hum (see ``transforms/filter.py``)."""

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Return the filtered signal, float32 [C, T], mV."""
        return EcgSignal(clean(signal.values_mv, signal.rate_hz), signal.rate_hz, signal.leads)


@dataclass(frozen=True)
class Pipeline:
    """Transforms applied one after the other.

    A transform may write into ``values_mv``: the dataset hands over an array of its own.

    Args:
        transforms: In the order of application.
    """

    transforms: tuple[Transform, ...] = ()

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Return the transformed signal; all randomness comes from ``rng``."""
        for transform in self.transforms:
            signal = transform(signal, rng)
        return signal


def build_pipeline(
    *,
    rows: Sequence[int],
    pad_leads: bool = False,
    filter_signal: bool = False,
    standardize: Standardize | None = None,
    perturbations: Sequence[Transform] = (),
) -> Pipeline:
    """Put the transforms of a run into their order.

    Args:
        rows: Standard leads to keep, 0..11.
        pad_leads: Keep all twelve rows and silence the others.
        filter_signal: Apply ``Clean``.
        standardize: Statistics to scale by, if any.
        perturbations: Random transforms, for training only.
    """
    transforms: list[Transform] = []
    if tuple(rows) != tuple(range(len(STANDARD_LEADS))):
        transforms.append(SelectLeads(tuple(rows), pad_leads))
    if filter_signal:
        transforms.append(Clean())
    if standardize is not None:
        transforms.append(standardize)
    return Pipeline((*transforms, *perturbations))


def build_perturbation(name: str, p: float, options: dict) -> Transform:
    """Build one perturbation of ``task.perturbation_mode`` by its name.

    Args:
        name: Name in the configuration, as in fairseq-signals.
        p: Probability that it is applied to a segment.
        options: ``mask_leads_selection``, ``mask_leads_prob`` and ``mask_leads_condition``.

    Raises:
        ValueError: If there is no such perturbation or selection, or a number is out of range.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"task.p must lie in [0, 1], but {name} has {p}")
    if name != "random_leads_masking":
        raise ValueError(f"task.perturbation_mode: no {name!r}; there is: random_leads_masking")
    selection = options["mask_leads_selection"]
    if selection == "random":
        prob = options["mask_leads_prob"]
        if not 0 <= prob <= 1:
            raise ValueError(f"task.mask_leads_prob must lie in [0, 1], got {prob}")
        return RandomLeadMask(prob=prob, p=p)
    if selection == "conditional":
        condition = options["mask_leads_condition"]
        numbers = condition if isinstance(condition, list | tuple) else []
        if len(numbers) != 2 or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError(
                "task.mask_leads_condition must be two whole numbers, of limb and of chest leads "
                f"to mask, got {condition}"
            )
        limb, chest = numbers
        return ConditionalLeadMask(limb, chest, p=p)
    raise ValueError(f"task.mask_leads_selection={selection!r} must be random or conditional")
