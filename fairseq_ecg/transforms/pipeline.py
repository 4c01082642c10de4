"""The order of the transforms, in one place: leads, filter, scaling, perturbations.

Before: data/sources.py (a window of a recording). After: data/dataset.py (an item of a batch).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.filter import bandpass, clean
from fairseq_ecg.transforms.lead_selection import SelectLeads
from fairseq_ecg.transforms.normalize import Standardize, StandardizeWindow
from fairseq_ecg.transforms.perturbation import Perturbation

Transform = Callable[[EcgSignal, np.random.Generator], EcgSignal]


@dataclass(frozen=True)
class Clean:
    """Remove baseline wander and mains hum (see ``transforms/filter.py``)."""

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Return the filtered signal, float32 [C, T], mV."""
        return replace(signal, values_mv=clean(signal.values_mv, signal.rate_hz))


@dataclass(frozen=True)
class Band:
    """Keep a band of frequencies (see ``transforms/filter.py``).

    Args:
        low_hz: Frequencies below are removed; None keeps them.
        high_hz: Frequencies above are removed; None keeps them.
    """

    low_hz: float | None
    high_hz: float | None

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Return the filtered signal, float32 [C, T], mV."""
        values = bandpass(signal.values_mv, signal.rate_hz, self.low_hz, self.high_hz)
        return replace(signal, values_mv=values)


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

    def batch(
        self, signals: Sequence[EcgSignal], rngs: Sequence[np.random.Generator]
    ) -> Sequence[EcgSignal]:
        """Return many signals transformed, each as if it were alone with its generator.

        Perturbations take all of them at once, the other transforms one after the other.

        Args:
            signals: One or more of one shape, one rate and one choice of leads.
            rngs: A generator of its own for each.
        """
        for transform in self.transforms:
            if isinstance(transform, Perturbation):
                signals = transform.batch(signals, rngs)
            else:
                signals = [transform(s, rng) for s, rng in zip(signals, rngs, strict=True)]
        return signals


def build_pipeline(
    *,
    rows: Sequence[int],
    pad_leads: bool = False,
    filter_signal: bool = False,
    band: Band | None = None,
    standardize: Standardize | StandardizeWindow | None = None,
    perturbations: Sequence[Transform] = (),
) -> Pipeline:
    """Put the transforms of a run into their order.

    Args:
        rows: Standard leads to keep, 0..11.
        pad_leads: Keep all twelve rows and silence the others.
        filter_signal: Apply ``Clean``.
        band: Frequencies to keep, if not all.
        standardize: How to scale, if at all.
        perturbations: Random transforms, for training only.
    """
    transforms: list[Transform] = []
    if tuple(rows) != tuple(range(len(STANDARD_LEADS))):
        transforms.append(SelectLeads(tuple(rows), pad_leads))
    if filter_signal:
        transforms.append(Clean())
    transforms += [chosen for chosen in (band, standardize) if chosen is not None]
    return Pipeline((*transforms, *perturbations))
