"""Augmentation in the space of the heart's dipole: 3KG (Gopal et al., ML4H 2021, PMLR 158:156-167).

Eight leads are projected to three by the inverse Dower matrix (Edenbrandt and Pahlm 1988, J
Electrocardiol 21:361-367), turned and stretched there, and projected back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms._limb_leads import mixing
from fairseq_ecg.transforms.perturbation import Perturbation, option, register_perturbation

# Columns of the matrix below, and of `mixing` for the standard leads.
INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
INVERSE_DOWER = np.array(
    [
        [0.156, -0.009, -0.172, -0.073, 0.122, 0.231, 0.239, 0.193],  # x, to the left
        [-0.227, 0.886, 0.057, -0.019, -0.106, -0.022, 0.040, 0.048],  # y, to the feet
        [0.021, 0.102, -0.228, -0.310, -0.245, -0.063, 0.054, 0.108],  # z, to the back
    ]
)
_BACK = np.linalg.pinv(INVERSE_DOWER)
_ROWS = np.array([STANDARD_LEADS.index(lead) for lead in INDEPENDENT_LEADS])


@register_perturbation("3kg")
@dataclass(frozen=True)
class VectorcardiogramAugment(Perturbation):
    """Turn and stretch the dipole of a recording at random, then silence a span of each lead.

    With E the leads I, II, V1..V6 ([8, T]) and D the inverse Dower matrix ([3, 8]) the result is
    ``pinv(D) G R D E``; the other limb leads are recomputed of I and II. R turns by three angles,
    each uniform in [-angle, angle], about the fixed axes z, y, x in this order; G stretches the
    axes x, y, z by factors uniform in [1, scale]. Then each lead is silent for
    ``floor(mask_ratio * T)`` samples from a uniform start on, wrapping around the end.

    Draws, in order: three angles (z, y, x), three factors (x, y, z), twelve starts.

    Even without rotation, stretching and mask the result is only what of the recording a dipole
    explains. The matrix is meant for millivolts: leads scaled by ``task.normalize`` have no common
    unit, and their dipole no meaning.

    Args:
        angle: Largest rotation about an axis, in degrees.
        scale: Largest factor along an axis.
        mask_ratio: Share of the samples of each lead that is silenced.
        p: Probability that a segment is touched at all, in [0, 1].
    """

    angle: float = option(45.0, "3kg: largest rotation about each axis", "degrees", 0, 180)
    scale: float = option(1.5, "3kg: largest factor along each axis", low=1)
    mask_ratio: float = option(0.5, "3kg: share of each lead that is silenced", low=0, high=1)

    def check(self, rate_hz: float, leads: tuple[str, ...]) -> None:
        """See ``Perturbation.check``: the leads must be the standard twelve, in their order."""
        if leads != STANDARD_LEADS:
            raise ValueError(
                "3kg needs the twelve standard leads in their order, "
                f"but here are {', '.join(leads)}; leave task.leads_to_load null"
            )

    def draw(
        self, signal: EcgSignal, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return angles in degrees, [3], factors, [3], and first silent samples, int64 [12]."""
        return (
            rng.uniform(-self.angle, self.angle, 3),
            rng.uniform(1.0, self.scale, 3),
            rng.integers(signal.n_samples, size=signal.n_leads),
        )

    def apply(
        self,
        signals: Sequence[EcgSignal],
        angles: Sequence[np.ndarray],
        factors: Sequence[np.ndarray],
        starts: Sequence[np.ndarray],
    ) -> None:
        """Replace ``values_mv`` (float32 [12, T], mV) in place.

        The matrices are computed for the batch at once, their products with the samples signal by
        signal: together those are no faster.
        """
        stretched = np.array(factors)[:, :, None] * rotation_matrix(np.radians(angles))
        eight = _BACK @ stretched @ INVERSE_DOWER
        twelve = mixing(STANDARD_LEADS) @ eight.astype(np.float32)
        for signal, matrix, begin in zip(signals, twelve, starts, strict=True):
            values = signal.values_mv
            np.matmul(matrix, values.take(_ROWS, axis=0), out=values)
            silence_spans(values, begin, int(self.mask_ratio * signal.n_samples))


def rotation_matrix(angles: np.ndarray) -> np.ndarray:
    """Return the rotation about the fixed axes z, then y, then x.

    Args:
        angles: About z, y and x, in radians, [..., 3].

    Returns:
        float64 [..., 3, 3], to be multiplied with column vectors (x, y, z).
    """
    (cz, cy, cx), (sz, sy, sx) = (np.moveaxis(f(angles), -1, 0) for f in (np.cos, np.sin))
    zero, one = np.zeros_like(cz), np.ones_like(cz)
    about_z = [[cz, -sz, zero], [sz, cz, zero], [zero, zero, one]]
    about_y = [[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]]
    about_x = [[one, zero, zero], [zero, cx, -sx], [zero, sx, cx]]
    z, y, x = (np.moveaxis(np.array(m), (0, 1), (-2, -1)) for m in (about_z, about_y, about_x))
    return x @ y @ z


def silence_spans(values: np.ndarray, starts: np.ndarray, length: int) -> None:
    """Set one span of each lead to 0, in place; it wraps around the end.

    Args:
        values: [C, T].
        starts: First sample of each span, in 0..T-1, [C].
        length: Samples of a span, in 0..T.
    """
    n_samples = values.shape[1]
    for lead, start in zip(values, starts.tolist(), strict=True):
        stop = start + length
        lead[start:stop] = 0.0
        if stop > n_samples:
            lead[: stop - n_samples] = 0.0
