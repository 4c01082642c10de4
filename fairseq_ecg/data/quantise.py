"""Samples of a recording -> the numbers that a store keeps.

Numbers of a recording whose rate is right are kept as they are (int16, with gain and baseline per
lead). Otherwise they are resampled and quantised anew, with a step of at most 1/1000 mV wherever
the amplitude allows.
"""

from __future__ import annotations

import math

import numpy as np

from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.store import DTYPES
from fairseq_ecg.transforms.resample import resample

BASE_GAIN = 1000.0
"""Units per mV that every quantised recording has at least, unless its amplitude forbids it."""

_INT16_MAX = 32767
_FINEST_GAIN = 16000.0


def to_stored(
    adu: np.ndarray,
    gain: np.ndarray,
    baseline: np.ndarray,
    rate_hz: float,
    store_rate_hz: float,
    dtype: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn samples into what a store keeps.

    Args:
        adu: Recorded samples, int16, int32 or float32 [C, T].
        gain: Recorded units per mV, float64 [C].
        baseline: Recorded value at 0 mV, float64 [C].
        rate_hz: Rate of the recording.
        store_rate_hz: Rate of the store.
        dtype: ``int16`` or ``float32``.

    Returns:
        What is stored, [C, T'], with its gain [C] (``gain`` itself if the samples are kept as
        they are) and baseline [C]: a value in mV is ``(stored - baseline) / gain``.

    Raises:
        RecordError: With reason ``nan`` if a value is not finite in 32 bits.
    """
    same_rate = math.isclose(rate_hz, store_rate_hz, rel_tol=1e-9)
    if same_rate and dtype == "int16" and adu.dtype != np.float32:
        fitted = _fit_int16(adu, baseline)
        if fitted is not None:
            return fitted[0], gain, fitted[1]
    # 16-bit numbers are exact in float32, and long recordings should not take twice the memory.
    exact = np.dtype(np.float32 if adu.dtype in (np.int16, np.float32) else np.float64)
    values = adu.astype(exact)
    np.subtract(values, baseline.astype(exact)[:, None], out=values)
    np.multiply(values, (1.0 / gain).astype(exact)[:, None], out=values)
    values_mv: np.ndarray = values.astype(np.float32, copy=False)
    if not same_rate:
        values_mv = resample(values_mv, rate_hz, store_rate_hz)
    if not np.isfinite(values_mv).all():
        raise RecordError("nan", "values beyond the range of 32-bit numbers")
    if dtype == "float32":
        ones = np.ones(len(values_mv))
        return values_mv.astype(DTYPES["float32"]), ones, np.zeros_like(ones)
    return quantise(values_mv)


def _fit_int16(adu: np.ndarray, baseline: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Keep the numbers as they are, or shifted by a whole number per lead; None if too wide."""
    if adu.dtype == np.int16:
        return adu.astype(DTYPES["int16"]), baseline
    low = adu.min(axis=1).astype(np.int64)
    high = adu.max(axis=1).astype(np.int64)
    if (high - low > 2 * _INT16_MAX).any():
        return None
    fits = (low >= -_INT16_MAX) & (high <= _INT16_MAX)
    shift = np.where(fits, 0, (low + high) // 2)
    shifted = baseline - shift
    # The reader subtracts in 32-bit floating point, exact for whole numbers up to 2**24.
    if np.abs(shifted).max() >= 1 << 24:
        return None
    return (adu - shift[:, None]).astype(DTYPES["int16"]), shifted


def quantise(values_mv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn millivolts into int16 without clipping.

    The gain, the same for all leads, is the largest of 1000, 2000 .. 16000 per mV that fits the
    recording. If not even 1000 fits, the middle of each lead's range is taken off first, and only
    if that does not suffice is the step coarser than 1/1000 mV.

    Args:
        values_mv: Finite values, float32 [C, T].

    Returns:
        Stored numbers int16 [C, T], gain [C] and baseline [C], both float64: the value in mV is
        ``(stored - baseline) / gain``, off by half a step at most.
    """
    low = values_mv.min(axis=1).astype(np.float64)
    high = values_mv.max(axis=1).astype(np.float64)
    peak = max(float(np.abs(low).max()), float(np.abs(high).max()))
    centre = np.zeros(len(values_mv))
    gain = BASE_GAIN
    if peak * gain <= _INT16_MAX:
        while gain < _FINEST_GAIN and 2 * gain * peak <= _INT16_MAX:
            gain *= 2
    else:
        centre = (low + high) / 2
        # One unit is left for the rounding of the baseline.
        gain = min(gain, (_INT16_MAX - 1) / float((high - low).max() / 2))
    baseline = -np.rint(centre * gain)
    stored = np.empty(values_mv.shape, dtype=DTYPES["int16"])
    for lead, values in enumerate(values_mv):
        stored[lead] = np.rint(values.astype(np.float64) * gain) + baseline[lead]
    return stored, np.full(len(values_mv), gain), baseline
