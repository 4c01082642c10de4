"""The one form in which a recording travels through the package."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MILLIVOLTS = "mV"
STANDARD_DEVIATIONS = "standard deviations"
UNITS = (MILLIVOLTS, STANDARD_DEVIATIONS)
"""What the numbers of a source may be: millivolts, or each lead of each recording standardised."""


@dataclass(frozen=True, eq=False, slots=True)
class EcgSignal:
    """A recording in millivolts together with its rate and lead names.

    Values may hold NaN where the source marks a sample as invalid; whoever stores or batches the
    signal decides what becomes of them.

    Attributes:
        values_mv: float32 [C, T], millivolts.
        rate_hz: Samples per second, finite and positive.
        leads: C lead names, in row order, as the source writes them.
        scale_mv: Millivolts per unit of the values, float32 [C], where a recording was scaled and
            somebody asks; NaN where that is not known. None: not asked.

    Raises:
        ValueError: If shape, dtype, rate and names do not fit together.
    """

    values_mv: np.ndarray
    rate_hz: float
    leads: tuple[str, ...]
    scale_mv: np.ndarray | None = None

    def __post_init__(self) -> None:
        values = self.values_mv
        if not isinstance(values, np.ndarray) or values.dtype != np.float32:
            found = getattr(values, "dtype", type(values).__name__)
            raise ValueError(
                f"values_mv must be a float32 array, but is {found}; convert with astype"
            )
        if values.ndim != 2 or 0 in values.shape:
            raise ValueError(
                f"values_mv must have the shape [leads, samples], none of them 0, "
                f"but has {values.shape}"
            )
        if not math.isfinite(self.rate_hz) or self.rate_hz <= 0:
            raise ValueError(f"rate_hz must be finite and positive, but is {self.rate_hz}")
        if len(self.leads) != values.shape[0]:
            raise ValueError(
                f"leads must name each of the {values.shape[0]} rows of values_mv, "
                f"but has {len(self.leads)} names: {', '.join(self.leads)}"
            )

    @property
    def n_leads(self) -> int:
        """Number of rows, C."""
        return self.values_mv.shape[0]

    @property
    def n_samples(self) -> int:
        """Number of samples per lead, T."""
        return self.values_mv.shape[1]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.rate_hz
