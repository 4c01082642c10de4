"""A heart as one moving dipole: waves of a beat, and the leads that see them.

Each wave is a Gaussian in time whose amplitude is a vector in the body (McSharry et al. 2003, "A
dynamical model for generating synthetic electrocardiogram signals"; as a dipole: Sameni et al.
2007, "Multichannel ECG and noise modeling"). Axes: x to the patient's left, y to the feet, z to
the back. The leads are linear in the dipole (Dower et al. 1980, "On deriving the
electrocardiogram from vectorcardiographic leads").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Rows I, II, V1 .. V6; columns x, y, z. The other four leads follow from I and II.
DOWER: FloatArray = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

_BEFORE_S, _AFTER_S = 0.55, 0.90


@dataclass(frozen=True)
class Waves:
    """The waves of one kind of beat.

    Attributes:
        centers_s: [G], from the R peak.
        rise_s: [G], Gaussian width before the center.
        fall_s: [G], Gaussian width after it.
        dipoles_mv: [G, 3].
        stretches: bool [G], True for waves (T) that come later and last longer at slow rates.
    """

    centers_s: FloatArray
    rise_s: FloatArray
    fall_s: FloatArray
    dipoles_mv: FloatArray
    stretches: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]], stretches: bool = False) -> Waves:
        """Make waves from rows of center, rise, fall, x, y, z."""
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        return cls(
            table[:, 0],
            table[:, 1],
            table[:, 2],
            table[:, 3:],
            np.full(len(table), stretches),
        )

    def __add__(self, other: Waves) -> Waves:
        """Return the waves of both."""
        return Waves(
            np.concatenate([self.centers_s, other.centers_s]),
            np.concatenate([self.rise_s, other.rise_s]),
            np.concatenate([self.fall_s, other.fall_s]),
            np.concatenate([self.dipoles_mv, other.dipoles_mv]),
            np.concatenate([self.stretches, other.stretches]),
        )

    def turned(self, rotation: FloatArray) -> Waves:
        """Return the waves with every dipole rotated by the [3, 3] matrix."""
        return self.with_dipoles(self.dipoles_mv @ rotation.T)

    def scaled(self, gain: float) -> Waves:
        """Return the waves with every dipole multiplied."""
        return self.with_dipoles(self.dipoles_mv * gain)

    def widened(self, factor: float) -> Waves:
        """Return the waves with all times from the R peak and all widths multiplied."""
        return Waves(
            self.centers_s * factor,
            self.rise_s * factor,
            self.fall_s * factor,
            self.dipoles_mv,
            self.stretches,
        )

    def with_dipoles(self, dipoles_mv: FloatArray) -> Waves:
        """Return the waves with other dipoles, [G, 3]."""
        return Waves(self.centers_s, self.rise_s, self.fall_s, dipoles_mv, self.stretches)

    def area(self) -> FloatArray:
        """Return the time integral of the dipole, [3], up to a common factor."""
        area: FloatArray = (self.rise_s + self.fall_s) @ self.dipoles_mv
        return area


def rotation(axis: str, degrees: float) -> FloatArray:
    """Return the [3, 3] matrix that turns about x, y or z."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    angle = np.deg2rad(degrees)
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def frontal_axis_deg(dipole: FloatArray, lead_field: FloatArray) -> FloatArray:
    """Return the electrical axis, degrees, that leads I and aVF show for dipoles [..., 3].

    0 points to the patient's left, 90 to the feet. aVF is scaled by 2 / sqrt(3), as the augmented
    leads are that much weaker than the bipolar ones.
    """
    lead_i, lead_ii = np.moveaxis(dipole @ lead_field[:2].T, -1, 0)
    degrees: FloatArray = np.rad2deg(np.arctan2((lead_ii - lead_i / 2) * 2 / np.sqrt(3), lead_i))
    return degrees


def turn_to_axis(dipole: FloatArray, lead_field: FloatArray, target_deg: float) -> FloatArray:
    """Return the frontal rotation, [3, 3], after which the dipole [3] shows the wanted axis."""
    candidates = np.stack([rotation("z", degrees) for degrees in range(-180, 180, 2)])
    error = frontal_axis_deg(candidates @ dipole, lead_field) - target_deg
    best: FloatArray = candidates[np.argmin(np.abs((error + 180) % 360 - 180))]
    return best


def render(
    waves: Waves,
    peaks_s: FloatArray,
    stretch: FloatArray,
    gain: FloatArray,
    rate_hz: float,
    n_samples: int,
) -> FloatArray:
    """Return the dipole of a series of equal beats over time.

    Args:
        waves: the G waves of one beat.
        peaks_s: when the R peaks are, [B]; may lie outside the record.
        stretch: factor on time for the waves that stretch, [B].
        gain: factor on the dipoles, [B].
        rate_hz: samples per second.
        n_samples: length of the record, T.

    Returns:
        float64 [3, T], mV.
    """
    window = int((_BEFORE_S + _AFTER_S) * rate_hz)
    starts = np.floor((peaks_s - _BEFORE_S) * rate_hz).astype(np.int64)
    near = (starts > -window) & (starts < n_samples)
    starts, peaks_s, stretch, gain = starts[near], peaks_s[near], stretch[near], gain[near]
    time = (starts[:, None] + np.arange(window)) / rate_hz - peaks_s[:, None]
    factor = np.where(waves.stretches, stretch[:, None], 1.0)[..., None]
    distance = time[:, None, :] - waves.centers_s[:, None] * factor
    width = np.where(distance < 0, waves.rise_s[:, None], waves.fall_s[:, None]) * factor
    beats = waves.dipoles_mv.T @ np.exp(-0.5 * (distance / width) ** 2) * gain[:, None, None]
    padded = np.zeros((3, n_samples + 2 * window))
    for start, beat in zip(starts + window, beats, strict=True):
        padded[:, start : start + window] += beat
    return padded[:, window : window + n_samples]


def to_twelve_leads(eight: FloatArray) -> FloatArray:
    """Return the standard twelve leads [12, T] for leads I, II, V1 .. V6 [8, T].

    III, aVR, aVL and aVF are computed as in a recorder, so Einthoven's and Goldberger's relations
    hold exactly, for noise too.
    """
    lead_i, lead_ii = eight[0], eight[1]
    derived = [
        lead_ii - lead_i,
        -(lead_i + lead_ii) / 2,
        lead_i - lead_ii / 2,
        lead_ii - lead_i / 2,
    ]
    return np.concatenate([eight[:2], np.stack(derived), eight[2:]])
