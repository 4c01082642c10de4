"""Perturbations, ours against the form with a Python loop over leads, side by side in one run.

    python benchmarks/perturbations.py [--batch 64] [--repeat 7]

The plain form is the one that older code has: one lead after the other in double precision, the
limb leads recomputed afterwards. A third form evaluates a whole batch of segments at once, from one
generator; the last column is what a generator of its own costs each segment. The forms are shown to
be equal for equal draws before they are timed. Each is timed several times in turn and the median
processor time per segment is printed, which other programs on the machine disturb least.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms._limb_leads import mixing
from fairseq_ecg.transforms.noise import _waves
from fairseq_ecg.transforms.perturbation import build_perturbation
from fairseq_ecg.transforms.vectorcardiogram import INVERSE_DOWER, rotation_matrix

RATE_HZ, SAMPLES = 500.0, 2500
EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]
MIX = mixing(STANDARD_LEADS)
SIGNAL = EcgSignal(np.zeros((12, SAMPLES), dtype=np.float32), RATE_HZ, STANDARD_LEADS)
Draws = Sequence[np.ndarray]


# --- draws: the same for all forms; arrays have one row per segment -------------------------------


def draw_powerline(rng: np.random.Generator, n: int) -> Draws:
    frequency = np.array([50.0, 60.0])[rng.integers(2, size=n)]
    return frequency, rng.uniform(0, 0.1, n), rng.uniform(0, 2 * np.pi, n)


def draw_emg(rng: np.random.Generator, n: int) -> Draws:
    amplitude = rng.uniform(0, 0.1, (n, 8))
    return amplitude, rng.standard_normal((n, 8, SAMPLES), dtype=np.float32)


def draw_wander(rng: np.random.Generator, n: int) -> Draws:
    waves = (
        rng.uniform(low, high, (n, 3)) for low, high in ((0, 0.1), (0.01, 0.2), (0, 2 * np.pi))
    )
    return *waves, rng.normal(1, 0.5, (n, 8))


def draw_shift(rng: np.random.Generator, n: int) -> Draws:
    amplitude, sign = rng.uniform(0, 0.1, n), 1.0 - 2.0 * rng.integers(2, size=(n, 8))
    length = rng.normal(0.2 * SAMPLES, 0.04 * SAMPLES, n).clip(0, SAMPLES).astype(int)
    return amplitude, sign, length, rng.integers(SAMPLES - length + 1)


def draw_vcg(rng: np.random.Generator, n: int) -> Draws:
    angles = np.radians(rng.uniform(-45, 45, (n, 3)))
    return angles, rng.uniform(1, 1.5, (n, 3)), rng.integers(SAMPLES, size=(n, 12))


def draw_mask(rng: np.random.Generator, n: int) -> Draws:
    return (rng.random((n, 12)),)


# --- the plain forms: one segment, lead by lead ---------------------------------------------------


def recompute_limb_leads(values: np.ndarray) -> None:
    one, two = values[0], values[1]
    values[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2


def plain_powerline(values: np.ndarray, frequency: float, amplitude: float, phase: float) -> None:
    t = np.arange(SAMPLES)
    for lead in range(12):
        values[lead] += amplitude * np.cos(2 * np.pi * frequency * t / RATE_HZ + phase)
    recompute_limb_leads(values)


def plain_emg(values: np.ndarray, amplitude: np.ndarray, white: np.ndarray) -> None:
    for number, lead in enumerate(EIGHT):
        values[lead] += amplitude[number] * white[number]
    recompute_limb_leads(values)


def plain_wander(
    values: np.ndarray,
    amplitude: np.ndarray,
    frequency: np.ndarray,
    phase: np.ndarray,
    gain: np.ndarray,
) -> None:
    t = np.arange(SAMPLES)
    wander = np.zeros(SAMPLES)
    for k in range(3):
        wander += amplitude[k] * np.cos(2 * np.pi * frequency[k] * t / RATE_HZ + phase[k])
    for number, lead in enumerate(EIGHT):
        values[lead] += gain[number] * wander
    recompute_limb_leads(values)


def plain_shift(
    values: np.ndarray, amplitude: float, sign: np.ndarray, length: int, start: int
) -> None:
    for number, lead in enumerate(EIGHT):
        values[lead, start : start + length] += amplitude * sign[number]
    recompute_limb_leads(values)


def plain_vcg(
    values: np.ndarray, angles: np.ndarray, factors: np.ndarray, starts: np.ndarray
) -> None:
    dipole = INVERSE_DOWER @ values[EIGHT]
    dipole = np.diag(factors) @ (rotation_matrix(angles) @ dipole)
    values[EIGHT] = np.linalg.pinv(INVERSE_DOWER) @ dipole
    recompute_limb_leads(values)
    for lead, start in zip(values, starts, strict=True):
        end = start + SAMPLES // 2
        lead[start:end] = 0
        lead[: max(0, end - SAMPLES)] = 0


def plain_mask(values: np.ndarray, chance: np.ndarray) -> None:
    for lead in range(12):
        if chance[lead] < 0.5:
            values[lead] = 0


# --- a batch at once: [B, 12, T] ------------------------------------------------------------------


def add_course(values: np.ndarray, gains: np.ndarray, course: np.ndarray) -> None:
    values += gains.astype(np.float32)[:, :, None] * course.astype(np.float32)[:, None]


def batched_powerline(
    values: np.ndarray, frequency: np.ndarray, amplitude: np.ndarray, phase: np.ndarray
) -> None:
    course = _waves(frequency, phase, SIGNAL)
    add_course(values, amplitude[:, None] * MIX.sum(axis=1), course)


def batched_emg(values: np.ndarray, amplitude: np.ndarray, white: np.ndarray) -> None:
    values += (MIX * amplitude.astype(np.float32)[:, None]) @ white


def batched_wander(
    values: np.ndarray,
    amplitude: np.ndarray,
    frequency: np.ndarray,
    phase: np.ndarray,
    gain: np.ndarray,
) -> None:
    waves = _waves(frequency.ravel(), phase.ravel(), SIGNAL).reshape(*frequency.shape, SAMPLES)
    add_course(values, gain @ MIX.T, (amplitude[:, None] @ waves)[:, 0])


def batched_shift(
    values: np.ndarray,
    amplitude: np.ndarray,
    sign: np.ndarray,
    length: np.ndarray,
    start: np.ndarray,
) -> None:
    t = np.arange(SAMPLES)
    inside = (t >= start[:, None]) & (t < (start + length)[:, None])
    add_course(values, amplitude[:, None] * (sign @ MIX.T), inside)


def batched_vcg(
    values: np.ndarray, angles: np.ndarray, factors: np.ndarray, starts: np.ndarray
) -> None:
    rotation = np.stack([rotation_matrix(each) for each in angles])
    turned = factors[:, :, None] * rotation
    eight = np.linalg.pinv(INVERSE_DOWER) @ turned @ INVERSE_DOWER
    np.matmul(MIX @ eight.astype(np.float32), values[:, EIGHT], out=values)
    two_turns = np.zeros(2 * SAMPLES, dtype=bool)
    two_turns[: SAMPLES // 2] = two_turns[SAMPLES : SAMPLES + SAMPLES // 2] = True
    np.copyto(values, 0, where=sliding_window_view(two_turns, SAMPLES)[SAMPLES - starts])


def batched_mask(values: np.ndarray, chance: np.ndarray) -> None:
    values[chance < 0.5] = 0


FORMS = {
    "powerline_noise": (draw_powerline, plain_powerline, batched_powerline),
    "emg_noise": (draw_emg, plain_emg, batched_emg),
    "baseline_wander": (draw_wander, plain_wander, batched_wander),
    "baseline_shift": (draw_shift, plain_shift, batched_shift),
    "3kg": (draw_vcg, plain_vcg, batched_vcg),
    "random_leads_masking": (draw_mask, plain_mask, batched_mask),
}


# --- measuring ------------------------------------------------------------------------------------


def recordings(n: int) -> np.ndarray:
    """Return segments whose limb leads obey their relations, float32 [n, 12, T]."""
    values = np.random.default_rng(0).normal(size=(n, 12, SAMPLES))
    for segment in values:
        recompute_limb_leads(segment)
    return values.astype(np.float32)


def generators(name: str, values: np.ndarray, seed: int) -> None:
    """Make the generator of each segment, and draw once."""
    for index in range(len(values)):
        np.random.default_rng((seed, 1, index, 0)).random()


def per_item(name: str, values: np.ndarray, seed: int) -> None:
    """Perturb a batch as a dataset does: a generator of its own for each segment."""
    perturbation = build_perturbation(name, 1.0, {})
    for index, segment in enumerate(values):
        signal = EcgSignal(segment, RATE_HZ, STANDARD_LEADS)
        perturbation(signal, np.random.default_rng((seed, 1, index, 0)))


def per_lead(name: str, values: np.ndarray, seed: int) -> None:
    """Perturb a batch segment by segment and lead by lead, in double precision."""
    draw, plain, _ = FORMS[name]
    for index, segment in enumerate(values):
        rng = np.random.default_rng((seed, 1, index, 0))
        rng.random()
        wide = segment.astype(np.float64)
        plain(wide, *(drawn[0] for drawn in draw(rng, 1)))
        segment[:] = wide


def at_once(name: str, values: np.ndarray, seed: int) -> None:
    """Perturb a batch in one evaluation, from one generator."""
    draw, _, batched = FORMS[name]
    rng = np.random.default_rng((seed, 1))
    rng.random(len(values))
    batched(values, *draw(rng, len(values)))


def check(name: str, values: np.ndarray) -> None:
    """Show that the forms agree: item and lead by their draws, the batch by those of the plain."""
    ours, plain = values.copy(), values.copy()
    per_item(name, ours, 0)
    per_lead(name, plain, 0)
    np.testing.assert_allclose(ours, plain, atol=2e-5)
    draw, one_by_one, batched = FORMS[name]
    drawn = draw(np.random.default_rng(1), len(values))
    together, apart = values.copy(), values.astype(np.float64)
    batched(together, *drawn)
    for index, segment in enumerate(apart):
        one_by_one(segment, *(each[index] for each in drawn))
    np.testing.assert_allclose(together, apart, atol=2e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="segments per batch")
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    values = recordings(args.batch)
    ways: dict[str, Callable[[str, np.ndarray, int], None]] = {
        "ours, per item": per_item,
        "lead by lead": per_lead,
        "batch at once": at_once,
        "a generator each": generators,
    }
    print(f"segments of 12 x {SAMPLES}, batches of {args.batch}, processor time, ", end="")
    print(f"median of {args.repeat}")
    print(f"{'us per segment':<22}" + "".join(f"{way:>22}" for way in ways))
    for name in FORMS:
        check(name, values)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(args.repeat + 1):
            for way, perturb in ways.items():
                work = values.copy()
                begin = time.process_time()
                perturb(name, work, repeat)
                seconds[way].append((time.process_time() - begin) / args.batch)
        medians = [statistics.median(times[1:]) for times in seconds.values()]
        row = "".join(f"{m * 1e6:>12.1f} ({m / medians[0]:4.2f} x)" for m in medians)
        print(f"{name:<22}{row}")


if __name__ == "__main__":
    main()
