"""Each lead of a recording in its own standard deviations, as ECG-FM's preprocessing has it.

fairseq-signals resamples along straight lines, takes mean and population standard deviation of
each lead over the whole recording, and only then cuts. Its order of summation is kept, so its
numbers are met to the last bit: samples are added one after the other in time, and the deviation
is that of the signal whose mean has been taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairseq_ecg.transforms.resample import resample_linear

PREPROCESSING_DEFAULTS: dict[str, dict[str, object]] = {
    "none": {},
    "ecg-fm": {"rate_hz": 500.0, "dtype": "float32"},
}
"""Kinds of preprocessing, each with the options of a store that go with it."""


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """A recording resampled and standardised.

    Attributes:
        values: In standard deviations, float64 [C, T].
        mean: Of each lead after resampling, in the unit of the recording, float64 [C, 1].
        std: Population standard deviation, the same unit, float64 [C, 1]; 0 for a constant lead.
    """

    values: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def like_ecg_fm(values: np.ndarray, rate_hz: float, target_hz: float) -> Preprocessed:
    """Resample and standardise a whole recording.

    Args:
        values: float32 or float64 [C, T], any unit.
        rate_hz: Its rate.
        target_hz: Rate wanted, 500 Hz for ECG-FM.

    Raises:
        ValueError: If the recording is too short to be resampled.
    """
    resampled = resample_linear(values, rate_hz, target_hz)
    mean, std = lead_statistics(resampled)
    return Preprocessed(standardize(resampled, mean, std), mean, std)


def lead_statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and population standard deviation of each lead.

    Args:
        values: float32 or float64 [C, T].

    Returns:
        Both float64 [C, 1]; the deviation of a constant lead is exactly 0.
    """
    by_time = np.ascontiguousarray(values.T, dtype=np.float64)  # adds up in the order of time
    mean = by_time.mean(axis=0)
    std = (by_time - mean).std(axis=0)
    std[by_time.max(axis=0) == by_time.min(axis=0)] = 0.0
    return mean[:, None], std[:, None]


def central_statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each lead, and the deviation of the central 95 % of its samples.

    Of the T samples in order of size those from int(0.025 T) to int(0.975 T) count for the
    deviation, so that a few artefacts do not shrink everything else (Sarkar & Etemad 2022).

    Args:
        values: float32 or float64 [C, T].

    Returns:
        Both float64 [C, 1]; the deviation is 0 where the central samples are all equal.
    """
    n_samples = values.shape[1]
    first, last = int(0.025 * n_samples), max(int(0.975 * n_samples), 1)
    central = np.sort(values, axis=1)[:, first:last].astype(np.float64)
    std = central.std(axis=1)
    std[central[:, 0] == central[:, -1]] = 0.0
    return values.mean(axis=1, dtype=np.float64)[:, None], std[:, None]


def standardize(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation; a constant lead becomes 0.

    Args:
        values: float32 or float64 [C, T].
        mean: float64 [C, 1].
        std: float64 [C, 1]; 0 for a constant lead.

    Returns:
        float64 [C, T].
    """
    result = (values - mean) / np.where(std == 0, 1.0, std)
    return np.where(std == 0, 0.0, result)
