"""Change of sampling rate: free of aliases, or along straight lines as fairseq-signals does it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy.signal import firwin, kaiser_beta, resample_poly

# Ratios are approximated by fractions whose terms do not exceed this: 500/257 is exact, and the
# clock of a rate such as 256.41 Hz is off by less than 1e-6.
_LARGEST_TERM = 5000
_LARGEST_RATIO = 200
# The pass band ends at 0.82 and the stop band begins at 1.0 of the lower Nyquist frequency.
_STOP_BAND_DB = 60.0
_ZERO_CROSSINGS = 20
_PASS_BAND_EDGE = 0.82


def resample(values: np.ndarray, rate_hz: float, target_hz: float) -> np.ndarray:
    """Resample each lead with a polyphase filter.

    Tones up to 0.82 of the lower of both Nyquist frequencies are kept within 1 %; tones above
    that Nyquist frequency are attenuated by about 60 dB, so they do not return as aliases. The
    signal is continued beyond its ends along the line from its first to its last sample, so a
    constant lead stays exactly constant and a ramp keeps its ends.

    Args:
        values: float32 [C, T], any unit, finite.
        rate_hz: Rate of `values`.
        target_hz: Rate wanted.

    Returns:
        float32 [C, T'], T' = round(T * target_hz / rate_hz), C-contiguous; `values` itself if
        the rates are equal.

    Raises:
        ValueError: If the array is not float32 [C, T] or not finite, a rate is not positive, the
            rates differ by more than a factor of 200, or not even one sample would remain.
    """
    check_signal(values)
    for name, rate in (("rate_hz", rate_hz), ("target_hz", target_hz)):
        if not math.isfinite(rate) or rate <= 0:
            raise ValueError(f"{name} must be finite and positive, but is {rate}")
    if rate_hz == target_hz:
        return values
    n_samples = round(values.shape[1] * target_hz / rate_hz)
    if n_samples == 0:
        raise ValueError(
            f"a signal of {values.shape[1]} samples at {rate_hz} Hz is too short to have a "
            f"sample at {target_hz} Hz"
        )
    up, down = _ratio(rate_hz, target_hz)
    # Measured from its first sample, a constant lead is zero and stays exactly what it is.
    start = values[:, :1]
    resampled = resample_poly(
        values - start, up, down, axis=1, window=_taps(up, down), padtype="line"
    )
    resampled += start
    if resampled.shape[1] < n_samples:
        resampled = np.pad(resampled, ((0, 0), (0, n_samples - resampled.shape[1])), mode="edge")
    return np.ascontiguousarray(resampled[:, :n_samples], dtype=np.float32)


def resample_piece(
    read: Callable[[int, int], np.ndarray],
    n_samples: int,
    start: int,
    length: int,
    rate_hz: float,
    target_hz: float,
) -> np.ndarray:
    """Resample a piece of a long recording, of which only the piece and its surroundings are read.

    The surroundings are as long as the filter, so the piece is what `resample` makes of the whole
    recording, from the place of sample `start` on, to 2e-4 of the signal's range. Nearer to the
    recording's first sample than that, it is as if the recording began a little later, by less than
    one period of both rates.

    Args:
        read: (first, stop) to the samples of the recording, float32 [C, stop - first].
        n_samples: Length of the recording.
        start: Sample of the recording with which the piece begins.
        length: Samples of the piece at the rate wanted; `samples_before(length, ...)` samples of
            the recording must be there from `start` on.
        rate_hz: Rate of the recording.
        target_hz: Rate wanted.

    Returns:
        float32 [C, length].

    Raises:
        ValueError: As `resample`.
    """
    if rate_hz == target_hz:
        return read(start, start + length)
    needed = samples_before(length, rate_hz, target_hz)
    up, down = _ratio(rate_hz, target_hz)
    reach = math.ceil(_ZERO_CROSSINGS * max(1.0, down / up))
    periods = min(math.ceil(reach / down), start // down)
    values = read(start - periods * down, min(start + needed + reach, n_samples))
    return resample(values, rate_hz, target_hz)[:, periods * up : periods * up + length]


def samples_before(n_samples: int, rate_hz: float, target_hz: float) -> int:
    """Return how many samples at a rate it takes to have `n_samples` at another.

    Args:
        n_samples: Samples wanted.
        rate_hz: Rate before resampling.
        target_hz: Rate wanted.
    """
    return math.ceil(Fraction(n_samples) * Fraction(rate_hz) / Fraction(target_hz))


def resample_linear(values: np.ndarray, rate_hz: float, target_hz: float) -> np.ndarray:
    """Resample each lead along straight lines, as the preprocessing of fairseq-signals does.

    The T samples are spread evenly over 0 .. T' - 1, T' = int(T * target_hz / rate_hz), so both
    ends are kept and the true rate is off by a fraction of a sample. There is no filter: tones
    above the lower Nyquist frequency return as aliases. For networks trained on such signals.

    Args:
        values: float32 or float64 [C, T], T of at least 2. Differences of neighbours are rounded
            to its dtype.
        rate_hz: Rate of `values`.
        target_hz: Rate wanted.

    Returns:
        float64 [C, T']; the values themselves, as float64, if the rates are equal.

    Raises:
        ValueError: If the signal is too short.
    """
    if rate_hz == target_hz:
        return values.astype(np.float64)
    n_samples = values.shape[1]
    n_new = int(n_samples * target_hz / rate_hz)
    if n_samples < 2 or n_new < 1:
        raise ValueError(
            f"a signal of {n_samples} samples at {rate_hz:g} Hz is too short to be drawn as "
            f"straight lines at {target_hz:g} Hz"
        )
    place = np.linspace(0, n_new - 1, n_samples)
    wanted = np.arange(n_new, dtype=np.float64)
    after = np.clip(np.searchsorted(place, wanted), 1, n_samples - 1)
    before = after - 1
    slope = (values[:, after] - values[:, before]) / (place[after] - place[before])
    return slope * (wanted - place[before]) + values[:, before]


def check_signal(values: np.ndarray) -> None:
    """Refuse what is no finite float32 signal.

    Args:
        values: float32 [C, T] expected.

    Raises:
        ValueError: If dtype or shape differ, or a value is NaN or infinite.
    """
    if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim != 2:
        found = f"{getattr(values, 'dtype', type(values).__name__)} {np.shape(values)}"
        raise ValueError(f"a signal must be float32 [leads, samples], but is {found}")
    if values.size == 0:
        raise ValueError(f"a signal must have leads and samples, but has the shape {values.shape}")
    finite = np.isfinite(values)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1)).tolist()
        raise ValueError(
            f"a signal must be finite, but rows {rows} hold {int((~finite).sum())} values that "
            f"are NaN or infinite; replace them first"
        )


@lru_cache(maxsize=64)
def _ratio(rate_hz: float, target_hz: float) -> tuple[int, int]:
    """Approximate target / rate by a fraction with small terms."""
    exact = Fraction(target_hz) / Fraction(rate_hz)
    if not Fraction(1, _LARGEST_RATIO) <= exact <= _LARGEST_RATIO:
        raise ValueError(
            f"the rates must not differ by more than a factor of {_LARGEST_RATIO}, "
            f"but are {rate_hz} and {target_hz} Hz"
        )
    ratio = exact.limit_denominator(int(_LARGEST_TERM / max(Fraction(1), exact)))
    return ratio.numerator, ratio.denominator


@lru_cache(maxsize=64)
def _taps(up: int, down: int) -> np.ndarray:
    """Design the low-pass filter at the common multiple of both rates."""
    widest = max(up, down)
    return firwin(
        2 * _ZERO_CROSSINGS * widest + 1,
        0.5 * (1.0 + _PASS_BAND_EDGE) / widest,
        window=("kaiser", kaiser_beta(_STOP_BAND_DB)),
    ).astype(np.float32)
