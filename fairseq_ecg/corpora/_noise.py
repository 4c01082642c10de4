"""What lies over the beats: fibrillatory waves of the atria, and the noise of a recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.corpora._anatomy import FIBRILLATION_DIPOLES, Anatomy


def fibrillatory_waves(
    rng: np.random.Generator, anatomy: Anatomy, rate_hz: float, n_samples: int
) -> NDArray[np.float64]:
    """Return sawtooth-like waves that drift in rate and size, [3, T].

    Each wavefront is a sum of harmonics of a modulated fundamental, as in Stridh and Sornmo 2001,
    "Spatiotemporal QRST cancellation techniques for analysis of atrial fibrillation". Several
    unlike ones together make the base line of fibrillation; one alone would look like flutter.
    """
    time = np.arange(n_samples) / rate_hz
    waves = []
    for _ in FIBRILLATION_DIPOLES:
        base_hz = anatomy.flutter_hz * np.exp(0.12 * rng.standard_normal())
        slow_hz, fast_hz, size_hz = rng.uniform([0.15, 0.9, 0.4], [0.45, 1.4, 1.2])
        start = rng.uniform(0, 2 * np.pi, 4)
        phase = 2 * np.pi * base_hz * time + 1.6 * np.sin(2 * np.pi * slow_hz * time + start[0])
        phase += 1.0 * np.sin(2 * np.pi * fast_hz * time + start[1]) + start[2]
        size = 0.65 + 0.35 * np.sin(2 * np.pi * size_hz * time + start[3])
        harmonics = [share * np.sin(k * phase) for k, share in ((1, 1.0), (2, 0.4), (3, 0.15))]
        waves.append(size * np.sum(harmonics, axis=0))
    dipole: NDArray[np.float64] = FIBRILLATION_DIPOLES.T @ np.stack(waves)
    return anatomy.flutter_gain * dipole


def recording_noise(
    rng: np.random.Generator, anatomy: Anatomy, rate_hz: float, n_samples: int
) -> NDArray[np.float64]:
    """Return baseline wander, muscle noise and mains hum of leads I, II, V1 .. V6, [8, T], mV."""
    time = np.arange(n_samples) / rate_hz
    frequencies = np.array(
        [rng.uniform(0.03, 0.10), anatomy.breath_hz, rng.uniform(0.3, 0.6), 50.0]
    )
    sizes = np.array([0.05, 0.03, 0.012, 0.003]) * np.exp(0.5 * rng.standard_normal(4))
    phases = rng.uniform(0, 2 * np.pi, (4, 1))
    sources = np.sin(2 * np.pi * frequencies[:, None] * time + phases)
    slow: NDArray[np.float64] = (sizes * rng.standard_normal((8, 4))) @ sources
    # Muscle noise is white up to the recorder's own limit; the density per hertz is constant.
    white = rng.standard_normal((8, n_samples + 2), dtype=np.float32)
    smooth = 0.25 * white[:, :-2] + 0.5 * white[:, 1:-1] + 0.25 * white[:, 2:]
    level = 0.010 * np.exp(0.45 * rng.standard_normal()) * np.sqrt(rate_hz / 500)
    channel = np.exp(0.2 * rng.standard_normal((8, 1)))
    slow += level * channel * smooth
    return slow
