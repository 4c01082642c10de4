"""Physiological noise: mains hum, muscle noise, wandering and shifting baseline.

Oh et al., CHIL 2022, PMLR 174:338-353, appendix. Where the recording's rate matters it is the
signal's own. Shapes: B signals of a batch, C leads, S independent leads (see
``_limb_leads.mixing``), T samples.

What has few numbers is computed for a batch at once; what has T of them signal by signal, which is
as fast and needs no copy of those that are touched.
"""

from collections.abc import Sequence
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

    def _amplitude(self, rng: np.random.Generator, count: int | None = None) -> Any:
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

    def draw(self, signal: EcgSignal, rng: np.random.Generator) -> tuple[float, float, float]:
        """Return f, a and phi."""
        frequency = self._frequencies[rng.integers(len(self._frequencies))]
        return frequency, self._amplitude(rng), rng.uniform(0, 2 * np.pi)

    def apply(
        self,
        signals: Sequence[EcgSignal],
        frequencies: Sequence[float],
        amplitudes: Sequence[float],
        phases: Sequence[float],
    ) -> None:
        """Add the hum to ``values_mv`` (float32 [C, T], mV) in place."""
        gains = np.outer(amplitudes, mixing(signals[0].leads, self.dependency).sum(axis=1))
        frequency, phase = np.array([frequencies, phases])[:, :, None]
        _add(signals, gains, _waves(np.ones_like(phase), frequency, phase, signals[0]))


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

    def draw(self, signal: EcgSignal, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return all a_l, [S], and n_l(t), float32 [S, T]."""
        n_free = mixing(signal.leads, self.dependency).shape[1]
        amplitudes = self._amplitude(rng, n_free)
        return amplitudes, rng.standard_normal((n_free, signal.n_samples), dtype=np.float32)

    def apply(
        self,
        signals: Sequence[EcgSignal],
        amplitudes: Sequence[np.ndarray],
        whites: Sequence[np.ndarray],
    ) -> None:
        """Add the noise to ``values_mv`` (float32 [C, T], mV) in place."""
        mix = mixing(signals[0].leads, self.dependency)
        for signal, amplitude, white in zip(signals, amplitudes, whites, strict=True):
            values = signal.values_mv
            values += (mix * amplitude.astype(np.float32)) @ white


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

    def draw(self, signal: EcgSignal, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return all a_k, f_k and phi_k, [k] each, and g_l, [S]."""
        return (
            self._amplitude(rng, self.k),
            rng.uniform(self.min_freq, self.max_freq, self.k),
            rng.uniform(0, 2 * np.pi, self.k),
            rng.normal(1.0, 0.5, mixing(signal.leads, self.dependency).shape[1]),
        )

    def apply(
        self,
        signals: Sequence[EcgSignal],
        amplitudes: Sequence[np.ndarray],
        frequencies: Sequence[np.ndarray],
        phases: Sequence[np.ndarray],
        gains: Sequence[np.ndarray],
    ) -> None:
        """Add the wave to ``values_mv`` (float32 [C, T], mV) in place."""
        k_each = (np.array(drawn) for drawn in (amplitudes, frequencies, phases))
        mix = mixing(signals[0].leads, self.dependency)
        _add(signals, np.array([mix @ gain for gain in gains]), _waves(*k_each, signals[0]))


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

    def draw(
        self, signal: EcgSignal, rng: np.random.Generator
    ) -> tuple[float, np.ndarray, list[tuple[int, int]]]:
        """Return a, whether each s_l is -1, [S], and start and stop of each span."""
        n_samples = signal.n_samples
        amplitude = self._amplitude(rng)
        down = rng.integers(2, size=mixing(signal.leads, self.dependency).shape[1])
        mean = self.shift_ratio * n_samples
        drawn = rng.normal(mean, 0.2 * mean, self.num_segment)
        lengths = [min(max(int(length), 0), n_samples) for length in drawn]
        starts = [int(rng.integers(n_samples - length + 1)) for length in lengths]
        return amplitude, down, [(a, a + n) for a, n in zip(starts, lengths, strict=True)]

    def apply(
        self,
        signals: Sequence[EcgSignal],
        amplitudes: Sequence[float],
        down: Sequence[np.ndarray],
        spans: Sequence[list[tuple[int, int]]],
    ) -> None:
        """Shift spans of ``values_mv`` (float32 [C, T], mV) in place."""
        signs = 1.0 - 2.0 * np.array(down)
        mix = mixing(signals[0].leads, self.dependency)
        shifts = np.array(amplitudes)[:, None] * (signs @ mix.T)
        for signal, shift, theirs in zip(signals, shifts.astype(np.float32), spans, strict=True):
            done = 0
            for start, stop in sorted(theirs):
                signal.values_mv[:, max(start, done) : stop] += shift[:, None]
                done = max(done, stop)


def _waves(
    amplitudes: np.ndarray, frequencies: np.ndarray, phases: np.ndarray, like: EcgSignal
) -> np.ndarray:
    """Return sums of cosines, ``sum_k a_k cos(2 pi f_k t + phi_k)``, at a signal's samples.

    With u in steps of 64 samples and v inside a step, cos(u + v) = cos u cos v - sin u sin v: few
    have to be evaluated, and the sum over k is one small matrix product per signal.

    Args:
        amplitudes: [B, K].
        frequencies: In Hz, [B, K].
        phases: In radians, [B, K].
        like: Gives rate and number of samples.

    Returns:
        float64 [B, T].
    """
    turn = 2 * np.pi / like.rate_hz * frequencies[:, None]
    u = turn * np.arange(0, like.n_samples, _STEP)[:, None] + phases[:, None]
    v = turn * np.arange(_STEP)[:, None]
    scale = amplitudes[:, None]
    steps = np.concatenate([scale * np.cos(u), -scale * np.sin(u)], axis=2)
    within = np.concatenate([np.cos(v), np.sin(v)], axis=2)
    waves = steps @ within.swapaxes(1, 2)
    return waves.reshape(len(waves), -1)[:, : like.n_samples]


def _add(signals: Sequence[EcgSignal], gains: np.ndarray, courses: np.ndarray) -> None:
    """Add to each signal its course ([B, T]) in place, with the gain of each lead ([B, C])."""
    each = zip(signals, gains.astype(np.float32), courses.astype(np.float32), strict=True)
    for signal, gain, course in each:
        values = signal.values_mv
        values += gain[:, None] * course


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
