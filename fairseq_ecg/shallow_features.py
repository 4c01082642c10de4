"""Simple numbers of a recording, for the baseline that a network must beat to be worth its name.

No network, nothing learnt: how large the samples of each lead are, how fast they change, how their
power is spread over frequencies, and when the heart beats. Shapes: C leads, T samples, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.signal
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BANDS_HZ = ((0.5, 5.0), (5.0, 15.0), (15.0, 40.0))
RR = ("rr_beats_per_s", "rr_mean", "rr_median", "rr_sd", "rr_rmssd", "rr_min", "rr_max")

_WELCH_S = 2.0
_QRS_HZ = (5.0, 15.0)
_INTEGRATED_S, _REFRACTORY_S = 0.12, 0.25
_LEAST_POWER = 1e-12


def feature_names(leads: Sequence[str]) -> list[str]:
    """Return the names of the features, in the order of ``shallow_features``.

    Args:
        leads: Names of the leads, [C].
    """
    of_lead = [
        *(f"q{100 * q:g}" for q in QUANTILES),
        *("sd", "slope"),
        *(f"power_{low:g}_{high:g}_hz" for low, high in BANDS_HZ),
    ]
    return [f"{lead}_{name}" for lead in leads for name in of_lead] + list(RR)


def shallow_features(values_mv: NDArray[np.floating], rate_hz: float) -> FloatArray:
    """Return simple numbers of one recording.

    Of each lead: the quantiles ``QUANTILES`` of its samples, their standard deviation, the mean
    absolute change per second (``slope``), and the decadic logarithm of the power in ``BANDS_HZ``
    (Welch, windows of 2 s; at least 1e-12). Of all leads together: statistics of the intervals
    between beats (``r_peaks``), in seconds: beats per second of the recording, mean, median,
    standard deviation, root mean square of successive differences, least and largest.

    Args:
        values_mv: Samples in millivolts, [C, T]; a lead that is silent has features, too.
        rate_hz: Their rate.

    Returns:
        float64 [F], as ``feature_names`` names them; NaN where fewer than two intervals are there
        to be described (but ``rr_beats_per_s`` is always a number).

    Raises:
        ValueError: If the recording has no samples, or some are not finite.
    """
    values = np.asarray(values_mv, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"a recording must be [leads, samples] of finite numbers, but is {list(values.shape)}"
            + ("" if np.isfinite(values).all() else " with NaN or infinity")
        )
    slopes = np.abs(np.diff(values, axis=1)).mean(axis=1) if values.shape[1] > 1 else 0
    per_lead = [
        *np.quantile(values, QUANTILES, axis=1),
        values.std(axis=1),
        np.broadcast_to(slopes * rate_hz, len(values)),
        *_band_powers(values, rate_hz),
    ]
    return np.concatenate([np.stack(per_lead, axis=1).reshape(-1), _intervals(values, rate_hz)])


def r_peaks(values_mv: NDArray[np.floating], rate_hz: float) -> NDArray[np.int64]:
    """Find the beats of a recording, after Pan and Tompkins 1985 (IEEE Trans Biomed Eng 32:230).

    Each lead is filtered to 5-15 Hz and divided by its deviation; the squares of its slope are
    averaged over 120 ms and added over the leads. A beat is a peak of this that is higher than a
    third of what the highest peak of most seconds is, 250 ms or more from a higher one.

    Args:
        values_mv: Samples, [C, T].
        rate_hz: Their rate, above 30 Hz, the least at which there are 15 Hz.

    Returns:
        Samples at which the peaks are, int64, ascending; none of less than half a second.
    """
    values = np.asarray(values_mv, dtype=np.float64)
    nyquist_hz = rate_hz / 2
    if values.shape[1] < rate_hz / 2 or nyquist_hz <= _QRS_HZ[0]:
        return np.empty(0, dtype=np.int64)
    band = (_QRS_HZ[0], min(_QRS_HZ[1], 0.95 * nyquist_hz))
    sections = scipy.signal.butter(2, band, "bandpass", fs=rate_hz, output="sos")
    filtered = scipy.signal.sosfiltfilt(sections, values, axis=1, padtype=None)
    deviation = filtered.std(axis=1, keepdims=True)
    scaled = np.divide(filtered, deviation, out=np.zeros_like(filtered), where=deviation > 1e-9)
    width = max(1, round(_INTEGRATED_S * rate_hz))
    slopes = (np.gradient(scaled, axis=1) ** 2).sum(axis=0)
    energy = np.convolve(slopes, np.full(width, 1 / width), mode="same")
    second = round(rate_hz)
    whole = energy[: len(energy) // second * second].reshape(-1, second)
    height = (np.median(whole.max(axis=1)) if len(whole) else energy.max()) / 3
    if height <= 0:
        return np.empty(0, dtype=np.int64)
    distance = max(1, round(_REFRACTORY_S * rate_hz))
    peaks, _ = scipy.signal.find_peaks(energy, height=height, distance=distance)
    return peaks.astype(np.int64)


def _intervals(values: FloatArray, rate_hz: float) -> FloatArray:
    """Return the numbers named ``RR``, float64 [7]."""
    peaks = r_peaks(values, rate_hz)
    per_second = len(peaks) / (values.shape[1] / rate_hz)
    intervals_s = np.diff(peaks) / rate_hz
    if len(intervals_s) < 2:
        return np.array([per_second, *[np.nan] * (len(RR) - 1)])
    changes = np.diff(intervals_s)
    return np.array(
        [
            per_second,
            intervals_s.mean(),
            np.median(intervals_s),
            intervals_s.std(),
            np.sqrt((changes**2).mean()),
            intervals_s.min(),
            intervals_s.max(),
        ]
    )


def _band_powers(values: FloatArray, rate_hz: float) -> FloatArray:
    """Return the decadic logarithm of the power of each lead in each band, [bands, C]."""
    length = min(values.shape[1], round(_WELCH_S * rate_hz))
    frequency, density = scipy.signal.welch(values, fs=rate_hz, nperseg=length, axis=1)
    step = frequency[1] if len(frequency) > 1 else 0.0
    powers = [
        density[:, (frequency >= low) & (frequency < high)].sum(axis=1) * step
        for low, high in BANDS_HZ
    ]
    return np.log10(np.maximum(powers, _LEAST_POWER))
