"""Augmentation in the space of the heart's dipole: 3KG (Gopal et al., ML4H 2021, PMLR 158:156-167).

Eight leads are projected to three by the inverse Dower matrix (Edenbrandt and Pahlm 1988, J
Electrocardiol 21:361-367), turned and stretched there, and projected back.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

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

    def apply(self, signal: EcgSignal, rng: np.random.Generator) -> None:
        """Replace ``signal.values_mv`` (float32 [12, T], mV) in place."""
        rotation = rotation_matrix(np.radians(rng.uniform(-self.angle, self.angle, 3)))
        factors = rng.uniform(1.0, self.scale, 3)
        eight = _BACK @ (factors[:, None] * rotation) @ INVERSE_DOWER
        twelve = mixing(STANDARD_LEADS) @ eight.astype(np.float32)
        rows = [STANDARD_LEADS.index(lead) for lead in INDEPENDENT_LEADS]
        np.matmul(twelve, signal.values_mv[rows], out=signal.values_mv)
        silence_spans(signal.values_mv, self.mask_ratio, rng)


def rotation_matrix(angles: np.ndarray) -> np.ndarray:
    """Return the rotation about the fixed axes z, then y, then x.

    Args:
        angles: About z, y and x, in radians, [3].

    Returns:
        float64 [3, 3], to be multiplied with column vectors (x, y, z).
    """
    (cz, cy, cx), (sz, sy, sx) = np.cos(angles), np.sin(angles)
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return about_x @ about_y @ about_z


def silence_spans(values: np.ndarray, ratio: float, rng: np.random.Generator) -> None:
    """Set one span of each lead to 0, in place; it begins anywhere and wraps around the end.

    Args:
        values: [C, T].
        ratio: Length of a span is ``floor(ratio * T)``.
        rng: Draws C starts, uniform in 0..T-1.
    """
    n_leads, n_samples = values.shape
    length = int(ratio * n_samples)
    starts = rng.integers(n_samples, size=n_leads)
    two_turns = np.zeros(2 * n_samples, dtype=bool)
    two_turns[:length] = two_turns[n_samples : n_samples + length] = True
    silent = sliding_window_view(two_turns, n_samples)[n_samples - starts]
    np.copyto(values, 0.0, where=silent)
