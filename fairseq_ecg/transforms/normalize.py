"""Scaling by fixed statistics: one mean and one standard deviation per lead."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal


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

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Return a signal without unit, float32 [C, T]; statistics are matched by lead name."""
        rows = [STANDARD_LEADS.index(lead) for lead in signal.leads]
        values = (signal.values_mv - self.mean_mv[rows, None]) / self.std_mv[rows, None]
        return EcgSignal(values, signal.rate_hz, signal.leads)


def _read_column(path: str) -> np.ndarray:
    try:
        column = np.array(Path(path).read_text().split(), dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path}: expected twelve numbers, one a line: {error}") from None
    if column.shape != (len(STANDARD_LEADS),) or not np.isfinite(column).all():
        raise ValueError(f"{path}: expected twelve finite numbers, got {column.tolist()}")
    return column
