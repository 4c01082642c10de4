"""One patient's heart and chest, and the waves they give under a set of findings.

Amplitudes and intervals are typical values of the adult ECG (Surawicz and Knilans, "Chou's
Electrocardiography in Clinical Practice"); what is drawn per patient makes patients recognisable.
Times are seconds from the R peak, dipoles millivolts in the axes of `_dipole`.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.corpora._dipole import DOWER, Waves, rotation, turn_to_axis

FloatArray = NDArray[np.float64]

# Rows: center, rise, fall, x, y, z. Septum first, then apex, free wall and base.
_SEPTUM = [(-0.026, 0.0075, 0.0075, -0.12, -0.03, -0.24)]
_VENTRICLES = [
    (-0.010, 0.0085, 0.0085, 0.50, 0.50, -0.35),
    (0.004, 0.0090, 0.0100, 0.95, 0.75, 0.62),
    (0.023, 0.0090, 0.0095, -0.12, -0.22, 0.42),
]
_QRS_ONSET_S = -0.044
# The right ventricle is reached late, through the muscle: slow forces to the right and the front.
_LATE_RIGHT = [
    (0.047, 0.016, 0.015, -0.40, 0.02, -0.64),
    (0.077, 0.016, 0.017, -0.34, 0.04, -0.46),
]
# The left ventricle is reached late: no septal wave, slow notched forces to the left and the back.
_LEFT_BLOCK = [
    (-0.034, 0.014, 0.016, 0.30, 0.12, -0.02),
    (-0.004, 0.017, 0.018, 0.80, 0.28, 0.62),
    (0.046, 0.021, 0.017, 0.88, 0.26, 0.95),
]
_LEFT_BLOCK_ONSET_S = -0.066
_LEFT_BLOCK_REPOLARISATION = [
    (0.170, 0.070, 0.060, -0.16, -0.04, -0.24),
    (0.285, 0.055, 0.040, -0.30, -0.06, -0.36),
]
_T = [(0.275, 0.056, 0.034, 0.29, 0.14, -0.11)]
_T_AFTER_RIGHT_BLOCK = [(0.290, 0.056, 0.036, 0.28, 0.14, 0.13)]
# Inverted T waves are symmetric; where they show depends on the wall concerned.
_T_INVERTED = {
    "anterior": [(0.290, 0.044, 0.040, -0.14, 0.11, 0.26)],
    "lateral": [(0.290, 0.044, 0.040, -0.34, 0.06, 0.07)],
    "inferior": [(0.290, 0.044, 0.040, 0.09, -0.32, -0.06)],
}
# Where premature ventricular beats start, and the main force of the QRS they cause.
_VENTRICULAR_FOCI = {
    "right outflow tract": (0.40, 1.05, 0.95),
    "right apex": (0.95, -0.75, 0.80),
    "left free wall": (-0.70, -0.65, -0.95),
}
_ATRIAL_FOCI = {"low right": (0.03, -0.13, -0.02), "left": (-0.09, 0.05, -0.05)}
# Fibrillatory waves are strongest in V1, next to the right atrium.
FIBRILLATION_DIPOLES: FloatArray = np.array(
    [[-0.02, 0.05, -0.085], [0.03, 0.06, 0.01], [0.01, -0.03, -0.065]]
)


@dataclass(frozen=True)
class Anatomy:
    """What is constant in a patient, whatever the findings.

    Attributes:
        age: years.
        female: sex.
        lead_field: leads I, II, V1 .. V6 by dipole axes, [8, 3].
        rest_rate_bpm: sinus rate of the healthy state.
        breath_hz: breaths per second.
        breath_depth: relative swing of the sinus interval with breathing.
        pr_s: start of P to start of QRS in normal conduction.
        pr_blocked_s: the same in first-degree block.
        axis_deg: frontal axis of the normal QRS.
        left_axis_deg: the same under left axis deviation.
        yaw_deg: turn of the heart about the long axis of the body.
        qrs_gain: factor on the QRS.
        qrs_width: factor on QRS times.
        t_gain: factor on T.
        qt: factor on repolarisation times.
        p_gain: factor on P.
        shape: factors near 1 for the dipoles, rows are used per wave, [12, 3].
        inverted_wall: where T is inverted, a key of the walls known.
        ventricular_focus: where premature ventricular beats start.
        atrial_focus: where premature atrial beats start.
        flutter_gain: factor on fibrillatory waves.
        flutter_hz: their frequency.
    """

    age: int
    female: bool
    lead_field: FloatArray
    rest_rate_bpm: float
    breath_hz: float
    breath_depth: float
    pr_s: float
    pr_blocked_s: float
    axis_deg: float
    left_axis_deg: float
    yaw_deg: float
    qrs_gain: float
    qrs_width: float
    t_gain: float
    qt: float
    p_gain: float
    shape: FloatArray
    inverted_wall: str
    ventricular_focus: str
    atrial_focus: str
    flutter_gain: float
    flutter_hz: float


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient."""
    age = int(np.clip(rng.normal(58, 16), 18, 92))
    female = bool(rng.random() < 0.5)
    return Anatomy(
        age=age,
        female=female,
        lead_field=DOWER * np.exp(0.10 * rng.standard_normal((8, 3))),
        rest_rate_bpm=rng.uniform(64, 88),
        breath_hz=rng.uniform(0.18, 0.30),
        breath_depth=rng.uniform(0.3, 1.0) * (0.06 if age < 40 else 0.03),
        pr_s=rng.uniform(0.130, 0.180),
        pr_blocked_s=rng.uniform(0.225, 0.300),
        axis_deg=rng.uniform(0, 75) - 0.25 * max(age - 50, 0),
        left_axis_deg=rng.uniform(-68, -40),
        yaw_deg=rng.uniform(-15, 15),
        qrs_gain=rng.uniform(0.75, 1.15) * (0.92 if female else 1.0),
        qrs_width=rng.uniform(0.90, 1.08),
        t_gain=rng.uniform(0.75, 1.35),
        qt=rng.uniform(0.94, 1.06),
        p_gain=rng.uniform(0.75, 1.30),
        shape=np.exp(0.14 * rng.standard_normal((12, 3))),
        inverted_wall=str(rng.choice(sorted(_T_INVERTED))),
        ventricular_focus=str(rng.choice(sorted(_VENTRICULAR_FOCI))),
        atrial_focus=str(rng.choice(sorted(_ATRIAL_FOCI))),
        flutter_gain=rng.uniform(0.5, 1.0),
        flutter_hz=rng.uniform(5.0, 7.5),
    )


def sinus_waves(anatomy: Anatomy, findings: AbstractSet[str], ectopic: bool = False) -> Waves:
    """Return P, QRS and T of a beat that starts in the atria.

    Args:
        anatomy: the patient.
        findings: abbreviations of the findings present.
        ectopic: True for a premature atrial beat.
    """
    pr_s = anatomy.pr_blocked_s if "IAVB" in findings else anatomy.pr_s
    waves = conducted_waves(anatomy, findings)
    onset = _LEFT_BLOCK_ONSET_S if "LBBB" in findings else _QRS_ONSET_S
    start = onset * anatomy.qrs_width - pr_s
    if ectopic:
        x, y, z = _ATRIAL_FOCI[anatomy.atrial_focus]
        p_rows = [(start + 0.048, 0.019, 0.019, x, y, z)]
    else:
        p_rows = [
            (start + 0.038, 0.016, 0.018, 0.045, 0.095, -0.060),
            (start + 0.072, 0.019, 0.017, 0.075, 0.045, 0.045),
        ]
    return _shaped(Waves.of(p_rows), anatomy, 0).scaled(anatomy.p_gain) + waves


def conducted_waves(anatomy: Anatomy, findings: AbstractSet[str]) -> Waves:
    """Return QRS and T of a beat that reaches the ventricles through the AV node, without P."""
    yaw = rotation("y", anatomy.yaw_deg)
    if "LBBB" in findings:
        main = _shaped(Waves.of(_LEFT_BLOCK), anatomy, 3)
    else:
        main = _shaped(Waves.of(_VENTRICLES), anatomy, 3)
    main = main.turned(yaw)
    left_axis = "LAD" in findings
    target = anatomy.left_axis_deg if left_axis else anatomy.axis_deg
    if "LBBB" in findings and not left_axis:
        target = target / 2
    turn = turn_to_axis(main.area(), anatomy.lead_field, target)
    qrs = main.turned(turn)
    if "LBBB" not in findings:
        septum = _shaped(Waves.of(_SEPTUM), anatomy, 2).turned(yaw)
        if left_axis:
            # In left anterior fascicular block the first forces point down, hence rS in II, III.
            septum = septum.with_dipoles(septum.dipoles_mv + [0.0, 0.22, 0.0])
        qrs = septum + qrs
    if "RBBB" in findings:
        qrs = qrs + _shaped(Waves.of(_LATE_RIGHT), anatomy, 6)
    qrs = qrs.scaled(anatomy.qrs_gain).widened(anatomy.qrs_width)
    return qrs + _repolarisation(anatomy, findings)


def ventricular_waves(anatomy: Anatomy) -> Waves:
    """Return the waves of a premature ventricular beat: wide QRS, opposite ST and T, no P."""
    force = np.array(_VENTRICULAR_FOCI[anatomy.ventricular_focus])
    first = rotation("z", 25) @ force * 0.55
    last = rotation("z", -20) @ force * 0.60
    qrs = Waves.of(
        [
            (-0.042, 0.018, 0.020, *first),
            (0.000, 0.020, 0.022, *force),
            (0.044, 0.020, 0.022, *last),
        ]
    )
    after = Waves.of(
        [
            (0.190, 0.070, 0.060, *(-0.16 * force)),
            (0.310, 0.062, 0.046, *(-0.36 * force)),
        ],
        stretches=True,
    )
    return _shaped(qrs + after, anatomy, 7).scaled(1.15 * anatomy.qrs_gain)


def _repolarisation(anatomy: Anatomy, findings: AbstractSet[str]) -> Waves:
    if "LBBB" in findings:
        rows = _LEFT_BLOCK_REPOLARISATION
    elif "TInv" in findings:
        rows = _T_INVERTED[anatomy.inverted_wall]
    elif "RBBB" in findings:
        rows = _T_AFTER_RIGHT_BLOCK
    else:
        rows = _T
    waves = _shaped(Waves.of(rows, stretches=True), anatomy, 10)
    # A normal T follows the axis of the QRS half-way.
    if rows is _T or rows is _T_AFTER_RIGHT_BLOCK:
        waves = waves.turned(rotation("z", 0.35 * (anatomy.axis_deg - 40)))
    gain = anatomy.qrs_gain if "LBBB" in findings else anatomy.t_gain
    return waves.scaled(gain).widened(anatomy.qt)


def _shaped(waves: Waves, anatomy: Anatomy, first_row: int) -> Waves:
    rows = (first_row + np.arange(len(waves.centers_s))) % len(anatomy.shape)
    return waves.with_dipoles(waves.dipoles_mv * anatomy.shape[rows])
