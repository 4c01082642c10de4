"""Filters without phase shift, with their frequencies in Hz."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.signal import butter, filtfilt, sosfiltfilt

from fairseq_ecg.transforms.resample import check_signal

_WANDER_HZ = 0.5
_WANDER_ORDER = 5
_POWERLINE_HZ = 50.0


def bandpass(
    values: np.ndarray,
    rate_hz: float,
    low_hz: float | None = None,
    high_hz: float | None = None,
    order: int = 3,
) -> np.ndarray:
    """Apply a Butterworth filter forwards and backwards to each lead.

    Args:
        values: float32 [C, T], any unit, finite.
        rate_hz: Rate of `values`.
        low_hz: Frequencies below are removed; None keeps them (low-pass).
        high_hz: Frequencies above are removed; None keeps them (high-pass).
        order: Order of one pass; both passes together attenuate twice as much in dB.

    Returns:
        float32 [C, T].

    Raises:
        ValueError: If the signal is unfit or too short, or the frequencies are not in order below
            the Nyquist frequency.
    """
    check_signal(values)
    sos = _butterworth(order, low_hz, high_hz, rate_hz)
    # The length that scipy mirrors at either end.
    n_padded = 3 * (2 * len(sos) + 1)
    if values.shape[1] <= n_padded:
        raise ValueError(
            f"a signal must have more than {n_padded} samples to be filtered, "
            f"but has {values.shape[1]}"
        )
    return sosfiltfilt(sos, values.astype(np.float64), axis=1).astype(np.float32)


def clean(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """Remove baseline wander and power-line hum as neurokit2's `ecg_clean` does by default.

    A Butterworth high-pass at 0.5 Hz of order 5, then a moving average over one period of 50 Hz
    (two samples below 100 Hz), both forwards and backwards. The average also dampens what the
    ECG has above some 20 Hz, as the reference does; where hum is no problem, `bandpass` keeps
    more.

    Source: neurokit2, `ecg_clean(method="neurokit", powerline=50)`.

    Args:
        values: float32 [C, T], any unit, finite.
        rate_hz: Rate of `values`, above 1 Hz.

    Returns:
        float32 [C, T].

    Raises:
        ValueError: If the signal is unfit or too short for the filters.
    """
    without_wander = bandpass(values, rate_hz, low_hz=_WANDER_HZ, order=_WANDER_ORDER)
    width = int(rate_hz / _POWERLINE_HZ) if rate_hz >= 2 * _POWERLINE_HZ else 2
    if values.shape[1] <= 3 * width:
        raise ValueError(
            f"a signal at {rate_hz} Hz must have more than {3 * width} samples to be cleaned, "
            f"but has {values.shape[1]}"
        )
    kernel = np.full(width, 1.0 / width)
    return filtfilt(kernel, 1.0, without_wander.astype(np.float64), axis=1).astype(np.float32)


@lru_cache(maxsize=64)
def _butterworth(
    order: int, low_hz: float | None, high_hz: float | None, rate_hz: float
) -> np.ndarray:
    """Design the filter as second-order sections."""
    edges = [edge for edge in (low_hz, high_hz) if edge is not None]
    nyquist_hz = rate_hz / 2
    in_order = all(a < b for a, b in zip([0.0, *edges], [*edges, nyquist_hz], strict=True))
    if not edges or not in_order or order < 1:
        raise ValueError(
            f"a filter needs 0 < low_hz < high_hz < {nyquist_hz} Hz (Nyquist), one of them given, "
            f"and an order of at least 1, but has {low_hz}, {high_hz} and {order}"
        )
    kind = "bandpass" if len(edges) == 2 else "highpass" if high_hz is None else "lowpass"
    return butter(order, edges if len(edges) == 2 else edges[0], kind, output="sos", fs=rate_hz)
