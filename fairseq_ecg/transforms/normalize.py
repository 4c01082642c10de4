"""Scaling by mean and standard deviation: fixed ones of each lead, or those of a window."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal

_SMALLEST_STD_MV = 1e-3  # the last digit of most recordings


@dataclass(frozen=True)
class Standardize:
    """Subtract a mean and divide by a standard deviation, lead by lead.

    Args:
        mean_mv: Mean of each of the twelve standard leads, in mV, float32 [12].
        std_mv: Standard deviation of each, in mV, positive, float32 [12].
    """

    mean_mv: np.ndarray
    std_mv: np.ndarray

    @classmethod
    def from_files(cls, mean_path: str, std_path: str) -> "Standardize":
        """Read the two text files of fairseq-signals, twelve lines of one number each.

        Raises:
            ValueError: If a file has not twelve finite numbers, or a deviation is not positive.
        """
        mean, std = (_read_column(path) for path in (mean_path, std_path))
        if not (std > 0).all():
            raise ValueError(f"{std_path}: standard deviations must be positive, got {std.min()}")
        return cls(mean, std)

    @classmethod
    def from_numbers(cls, mean_mv: float, std_mv: float) -> "Standardize":
        """Scale all leads alike.

        Raises:
            ValueError: If a number is not finite, or the deviation is not positive.
        """
        if not (np.isfinite([mean_mv, std_mv]).all() and std_mv > 0):
            raise ValueError(
                f"mean and deviation must be finite, the deviation above 0 mV, but are {mean_mv:g} "
                f"and {std_mv:g}"
            )
        shape = len(STANDARD_LEADS)
        return cls(np.full(shape, mean_mv, np.float32), np.full(shape, std_mv, np.float32))

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Return a signal without unit, float32 [C, T]; statistics are matched by lead name."""
        rows = [STANDARD_LEADS.index(lead) for lead in signal.leads]
        std = self.std_mv[rows]
        values = (signal.values_mv - self.mean_mv[rows, None]) / std[:, None]
        return scaled(signal, values, std)


@dataclass(frozen=True)
class StandardizeWindow:
    """Subtract the mean of a window and divide by its standard deviation.

    A lead that is silent, exactly 0 from end to end, stays so and is no part of the statistics.

    Args:
        per_lead: Each lead by its own statistics; otherwise all leads by common ones, which keeps
            their ratios.
    """

    per_lead: bool = False

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Return a signal without unit, float32 [C, T]; constant leads become 0.

        Where the deviation is below 0.001 mV, that is taken for it.
        """
        del rng
        values = signal.values_mv
        heard = values.any(axis=1)
        if not heard.any():
            heard[:] = True  # a window that is silent as a whole is a constant one
        rows = values[heard]
        axis = 1 if self.per_lead else None
        mean, std = (
            statistic(rows, axis=axis, keepdims=True, dtype=np.float64)
            for statistic in (np.mean, np.std)
        )
        std = np.maximum(std, _SMALLEST_STD_MV)
        result = np.zeros_like(values)
        result[heard] = (rows - mean) / std
        unit = np.full(len(values), _SMALLEST_STD_MV, dtype=np.float32)
        unit[heard] = std[:, 0]
        return scaled(signal, result, unit)


def scaled(signal: EcgSignal, values: np.ndarray, unit: np.ndarray) -> EcgSignal:
    """Return a signal with values in other units.

    Args:
        signal: The signal before.
        values: float32 [C, T].
        unit: What of the unit before is one of these, float32 [C].
    """
    scale_mv = None if signal.scale_mv is None else signal.scale_mv * unit
    return replace(signal, values_mv=values, scale_mv=scale_mv)


def _read_column(path: str) -> np.ndarray:
    try:
        column = np.array(Path(path).read_text().split(), dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path}: expected twelve numbers, one a line: {error}") from None
    if column.shape != (len(STANDARD_LEADS),) or not np.isfinite(column).all():
        raise ValueError(f"{path}: expected twelve finite numbers, got {column.tolist()}")
    return column
