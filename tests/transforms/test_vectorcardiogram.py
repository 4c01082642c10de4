"""3KG against its formula in matrices and loops, and the properties of its parts."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.vectorcardiogram import (
    INVERSE_DOWER,
    VectorcardiogramAugment,
    rotation_matrix,
    silence_spans,
)

EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]


def signal(rate_hz=500.0, n=700, leads=STANDARD_LEADS):
    values = np.random.default_rng(2).normal(size=(len(leads), n)).astype(np.float32)
    return EcgSignal(values, rate_hz, tuple(leads))


def augmented(seed=0, n=700, **options):
    return VectorcardiogramAugment(**options)(signal(n=n), np.random.default_rng(seed)).values_mv


def slow(values, angle, scale, ratio, seed):
    """The steps of the method, one after the other."""
    rng = np.random.default_rng(seed)
    rng.random()
    angles = [rng.uniform(-angle, angle) for _ in range(3)]
    factors = [rng.uniform(1, scale) for _ in range(3)]
    dipole = INVERSE_DOWER @ values[EIGHT].astype(np.float64)
    turned = Rotation.from_euler("zyx", angles, degrees=True).apply(dipole.T).T
    stretched = np.diag(factors) @ turned
    one, two, *chest = np.linalg.pinv(INVERSE_DOWER) @ stretched
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    twelve = np.array(limb + chest)
    n = values.shape[1]
    for lead in twelve:
        start = rng.integers(n)
        for step in range(math.floor(ratio * n)):
            lead[(start + step) % n] = 0
    return twelve


@pytest.mark.parametrize("n", [1, 7, 500, 1250])
@pytest.mark.parametrize(
    ("angle", "scale", "ratio"), [(45, 1.5, 0.5), (180, 3, 0.33), (0, 1, 0), (10, 1, 1)]
)
def test_the_result_is_that_of_the_steps_one_by_one(n, angle, scale, ratio):
    for seed in range(4):
        found = augmented(seed, n, angle=angle, scale=scale, mask_ratio=ratio)
        expected = slow(signal(n=n).values_mv, angle, scale, ratio, seed)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_nothing_turned_stretched_or_masked_is_the_projection_onto_dipoles():
    result = augmented(angle=0, scale=1, mask_ratio=0)
    projection = np.linalg.pinv(INVERSE_DOWER) @ INVERSE_DOWER
    np.testing.assert_allclose(result[EIGHT], projection @ signal().values_mv[EIGHT], atol=1e-5)
    np.testing.assert_allclose(projection @ projection, projection, atol=1e-12)
    again = VectorcardiogramAugment(0, 1, 0)(
        EcgSignal(result.copy(), 500.0, STANDARD_LEADS), np.random.default_rng(1)
    ).values_mv
    np.testing.assert_allclose(again, result, atol=1e-5)


def test_the_limb_leads_obey_their_relations():
    i, ii, iii, avr, avl, avf, *_ = augmented(mask_ratio=0)
    np.testing.assert_allclose(iii, ii - i, atol=1e-5)
    np.testing.assert_allclose(avr, -(i + ii) / 2, atol=1e-5)
    np.testing.assert_allclose(avl, i - ii / 2, atol=1e-5)
    np.testing.assert_allclose(avf, ii - i / 2, atol=1e-5)


def test_a_rotation_keeps_lengths_and_handedness():
    for angles in np.random.default_rng(0).uniform(-np.pi, np.pi, (50, 3)):
        matrix = rotation_matrix(angles)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)
        expected = Rotation.from_euler("zyx", angles).as_matrix()
        np.testing.assert_allclose(matrix, expected, atol=1e-12)


def test_a_quarter_turn_about_z_takes_x_to_y():
    turned = rotation_matrix(np.array([np.pi / 2, 0, 0])) @ [1, 0, 0]
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-12)


def test_stretching_never_shrinks_the_dipole():
    for seed in range(20):
        result = augmented(seed, angle=0, scale=2, mask_ratio=0)
        before, after = (INVERSE_DOWER @ v[EIGHT] for v in (signal().values_mv, result))
        factors = np.linalg.norm(after, axis=1) / np.linalg.norm(before, axis=1)
        assert (factors > 0.999).all()
        assert (factors < 2.001).all()


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("n", [1, 10, 333])
def test_each_lead_is_silent_for_one_span_that_wraps_around_the_end(ratio, n):
    rng = np.random.default_rng(0)
    wrapped = set()
    for _ in range(50):
        values = np.ones((12, n), dtype=np.float32)
        silence_spans(values, rng.integers(n, size=12), math.floor(ratio * n))
        silent = values == 0
        assert (silent.sum(axis=1) == math.floor(ratio * n)).all()
        around = np.concatenate([silent, silent[:, :1]], axis=1).astype(int)
        assert (np.abs(np.diff(around, axis=1)).sum(axis=1) <= 2).all()
        wrapped |= set((silent[:, 0] & silent[:, -1]).tolist())
    if ratio == 0.5 and n > 1:
        assert wrapped == {True, False}


def test_spans_of_the_leads_begin_in_different_places():
    silent = augmented() == 0
    assert (silent != silent[0]).any(axis=1).sum() > 6


@pytest.mark.parametrize("leads", [("I", "II"), STANDARD_LEADS[:8], STANDARD_LEADS[::-1]])
def test_other_leads_than_the_standard_twelve_are_refused(leads):
    with pytest.raises(ValueError, match="3kg needs the twelve standard leads.*leads_to_load"):
        VectorcardiogramAugment()(signal(leads=leads), np.random.default_rng(0))
