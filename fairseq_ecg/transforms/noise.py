"""Physiological noise: mains hum, muscle noise, wandering and shifting baseline.

Oh et al., CHIL 2022, PMLR 174:338-353, appendix. Where the recording's rate matters it is the
signal's own. Shapes: C leads, S independent leads (see ``_limb_leads.mixing``), T samples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms._limb_leads import mixing
from fairseq_ecg.transforms.perturbation import Perturbation, option, register_perturbation

_STEP = 64


@dataclass(frozen=True)
class AdditiveNoise(Perturbation):
    """What is added to a recording, with an amplitude drawn from [min_amplitude, max_amplitude].

    With ``dependency`` the noise obeys what binds the limb leads, as a disturbance at the
    electrodes does: III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2. It is
    then drawn for I, II and the chest leads only, and these relations give that of the others. A
    recording that obeys them still does afterwards, as if its leads were recomputed of I and II;
    a lead that was masked or scaled on its own is not overwritten, and any choice of leads will do.

    Amplitudes are in mV, or in standard deviations if ``task.normalize`` scales the leads first.

    Args:
        max_amplitude: Largest amplitude.
        min_amplitude: Smallest amplitude.
        dependency: Whether the noise of the limb leads follows from that of I and II.
        p: Probability that a segment is touched at all, in [0, 1].

    Raises:
        ValueError: If a value lies outside its range, or the amplitudes are not in order.
    """

    max_amplitude: float = option(0.1, "noises: largest amplitude", "mV", low=0)
    min_amplitude: float = option(0.0, "noises: smallest amplitude", "mV", low=0)
    dependency: bool = option(True, "noises: that of the limb leads follows from that of I and II")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order(self, "min_amplitude", "max_amplitude")

    def _amplitudes(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.uniform(self.min_amplitude, self.max_amplitude, count)


@register_perturbation("powerline_noise")
@dataclass(frozen=True)
class PowerlineNoise(AdditiveNoise):
    """Add one mains hum to all leads: ``a cos(2 pi f t + phi)``, t in seconds.

    Draws, in order: the place of f in ``powerline_hz``; a, uniform between the amplitudes; phi,
    uniform in [0, 2 pi]. The paper's appendix has f = 50 Hz and amplitudes of 0 to 0.5.

    Args:
        max_amplitude: Largest a, in mV.
        min_amplitude: Smallest a, in mV.
        dependency: See ``AdditiveNoise``; hum that is equal in I and II is absent from III.
        powerline_hz: Frequencies of the mains, one or several that are equally likely.
        p: Probability that a segment is touched at all, in [0, 1].
    """

    powerline_hz: Any = option(
        (50.0, 60.0), "powerline_noise: frequencies of the mains, drawn with equal chance", "Hz"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self._frequencies or not all(
            isinstance(f, int | float) and 0 < f < float("inf") for f in self._frequencies
        ):
            raise ValueError(
                "powerline_hz must be a positive frequency in Hz, or a list of such, "
                f"got {self.powerline_hz!r}"
            )

    @property
    def _frequencies(self) -> tuple[float, ...]:
        several = isinstance(self.powerline_hz, list | tuple)
        return tuple(self.powerline_hz) if several else (self.powerline_hz,)

    def check(self, rate_hz: float, leads: tuple[str, ...]) -> None:
        """See ``Perturbation.check``: the frequencies must be below half the rate."""
        _check_nyquist("powerline_hz", max(self._frequencies), rate_hz)

    def apply(self, signal: EcgSignal, rng: np.random.Generator) -> None:
        """Add the hum to ``signal.values_mv`` (float32 [C, T], mV) in place."""
        frequency = self._frequencies[rng.integers(len(self._frequencies))]
        amplitude = self._amplitudes(rng, 1)
        phase = rng.uniform(0, 2 * np.pi, 1)
        wave = _waves(np.array([frequency]), phase, signal)[0]
        gains = amplitude * mixing(signal.leads, self.dependency).sum(axis=1)
        _add(signal.values_mv, gains, wave)


@register_perturbation("emg_noise")
@dataclass(frozen=True)
class EmgNoise(AdditiveNoise):
    """Add muscle noise: ``a_l n_l(t)``, white and normal with standard deviation a_l for lead l.

    Draws, in order: S amplitudes, uniform between the amplitudes; S x T standard normal numbers in
    single precision. The paper's appendix has amplitudes of 0 to 0.5.

    Args:
        max_amplitude: Largest a_l, in mV.
        min_amplitude: Smallest a_l, in mV.
        dependency: See ``AdditiveNoise``.
        p: Probability that a segment is touched at all, in [0, 1].
    """

    def apply(self, signal: EcgSignal, rng: np.random.Generator) -> None:
        """Add the noise to ``signal.values_mv`` (float32 [C, T], mV) in place."""
        mix = mixing(signal.leads, self.dependency)
        scaled = mix * self._amplitudes(rng, mix.shape[1]).astype(np.float32)
        white = rng.standard_normal((mix.shape[1], signal.n_samples), dtype=np.float32)
        values = signal.values_mv
        values += scaled @ white


@register_perturbation("baseline_wander")
@dataclass(frozen=True)
class BaselineWander(AdditiveNoise):
    """Add a slow wave: ``g_l sum_k a_k cos(2 pi f_k t + phi_k)``, t in seconds.

    Draws, in order: k amplitudes a_k, uniform between the amplitudes; k frequencies f_k, uniform
    between ``min_freq`` and ``max_freq``; k phases, uniform in [0, 2 pi]; S gains g_l of the leads,
    normal with mean 1 and standard deviation 0.5. The paper's appendix exchanges the two
    distributions of scale: a_k normal with mean 1 and deviation 0.5, g_l uniform in 0 to 0.5.

    Args:
        max_amplitude: Largest a_k, in mV.
        min_amplitude: Smallest a_k, in mV.
        dependency: See ``AdditiveNoise``.
        max_freq: Largest f_k, in Hz.
        min_freq: Smallest f_k, in Hz.
        k: Number of waves in the sum.
        p: Probability that a segment is touched at all, in [0, 1].
    """

    max_freq: float = option(0.2, "baseline_wander: largest frequency", "Hz", low=0)
    min_freq: float = option(0.01, "baseline_wander: smallest frequency", "Hz", low=0)
    k: int = option(3, "baseline_wander: number of waves in the sum", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order(self, "min_freq", "max_freq")

    def check(self, rate_hz: float, leads: tuple[str, ...]) -> None:
        """See ``Perturbation.check``: ``max_freq`` must be below half the rate."""
        _check_nyquist("max_freq", self.max_freq, rate_hz)

    def apply(self, signal: EcgSignal, rng: np.random.Generator) -> None:
        """Add the wave to ``signal.values_mv`` (float32 [C, T], mV) in place."""
        amplitudes = self._amplitudes(rng, self.k)
        frequencies = rng.uniform(self.min_freq, self.max_freq, self.k)
        phases = rng.uniform(0, 2 * np.pi, self.k)
        mix = mixing(signal.leads, self.dependency)
        gains = rng.normal(1.0, 0.5, mix.shape[1])
        _add(signal.values_mv, mix @ gains, amplitudes @ _waves(frequencies, phases, signal))


@register_perturbation("baseline_shift")
@dataclass(frozen=True)
class BaselineShift(AdditiveNoise):
    """Lift or lower all leads during some spans: ``s_l a`` inside, nothing outside.

    Spans are the same on all leads; where they overlap they do not add up. Draws, in order: a,
    uniform between the amplitudes; S signs s_l of the leads, +1 or -1 with equal chance;
    ``num_segment`` lengths, normal with mean ``shift_ratio T`` and a fifth of it as deviation,
    rounded down to samples and kept within 0..T; as many starts, uniform among those that leave
    room for the span. The paper's appendix has amplitudes of -0.5 to 0.5.

    Args:
        max_amplitude: Largest a, in mV.
        min_amplitude: Smallest a, in mV.
        dependency: See ``AdditiveNoise``; III is shifted by -2a, 0 or 2a.
        shift_ratio: Mean length of a span, as a share of the segment.
        num_segment: Number of spans.
        p: Probability that a segment is touched at all, in [0, 1].
    """

    shift_ratio: float = option(
        0.2, "baseline_shift: mean share of the segment that one span lasts", low=0, high=1
    )
    num_segment: int = option(1, "baseline_shift: number of spans", low=1)

    def apply(self, signal: EcgSignal, rng: np.random.Generator) -> None:
        """Shift spans of ``signal.values_mv`` (float32 [C, T], mV) in place."""
        n_samples = signal.n_samples
        mix = mixing(signal.leads, self.dependency)
        amplitude = self._amplitudes(rng, 1)
        signs = 1.0 - 2.0 * rng.integers(2, size=mix.shape[1])
        mean = self.shift_ratio * n_samples
        drawn = rng.normal(mean, 0.2 * mean, self.num_segment)
        lengths = drawn.clip(0, n_samples).astype(np.int64)
        starts = rng.integers(n_samples - lengths + 1)
        inside = np.zeros(n_samples, dtype=np.float32)
        for start, length in zip(starts, lengths, strict=True):
            inside[start : start + length] = 1.0
        touched = slice(starts.min(), (starts + lengths).max())
        _add(signal.values_mv[:, touched], amplitude * (mix @ signs), inside[touched])


def _waves(frequencies: np.ndarray, phases: np.ndarray, signal: EcgSignal) -> np.ndarray:
    """Return cosines of unit amplitude at the signal's samples.

    Each is a product of two complex exponentials, one in steps of 64 samples and one inside a
    step, so that few of them have to be evaluated.

    Args:
        frequencies: In Hz, [K].
        phases: In radians, [K].
        signal: Gives rate and number of samples.

    Returns:
        float64 [K, T].
    """
    n_samples = signal.n_samples
    turn = 2j * np.pi / signal.rate_hz * frequencies[:, None]
    steps = np.exp(turn * np.arange(0, n_samples, _STEP) + 1j * phases[:, None])
    within = np.exp(turn * np.arange(_STEP))
    waves = (steps[:, :, None] * within[:, None]).real
    return waves.reshape(len(frequencies), -1)[:, :n_samples]


def _add(values_mv: np.ndarray, gains: np.ndarray, course_mv: np.ndarray) -> None:
    """Add one course in time ([T]) to all leads ([C, T]), each with its gain ([C]), in place."""
    values_mv += gains.astype(np.float32)[:, None] * course_mv.astype(np.float32)


def _check_nyquist(key: str, frequency_hz: float, rate_hz: float) -> None:
    if frequency_hz >= rate_hz / 2:
        raise ValueError(
            f"task.{key} must be below {rate_hz / 2:g} Hz, half the rate of the recordings, got "
            f"{frequency_hz:g} Hz; give lower frequencies, leave the perturbation out, or build "
            "the store with a higher rate"
        )


def _check_order(perturbation: Perturbation, low: str, high: str) -> None:
    least, most = getattr(perturbation, low), getattr(perturbation, high)
    if least > most:
        raise ValueError(f"{low} must not exceed {high}={most:g}, got {least:g}")
