"""Perturbations, ours against the form with a Python loop over leads, side by side in one run.

    python benchmarks/perturbations.py [--batch 64] [--repeat 7]

Ours takes a batch of segments through the pipeline, as a dataset does; beside it the same segments
one by one. The plain form is the one that older code has: one lead after the other in double
precision, the limb leads recomputed afterwards. In all of them each segment draws from a generator
of its own; the last column is what that alone costs. The forms are shown to be equal before they
are timed. Each is timed several times in turn and the median processor time per segment is printed,
which other programs on the machine disturb least.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.perturbation import build_perturbation
from fairseq_ecg.transforms.pipeline import Pipeline
from fairseq_ecg.transforms.vectorcardiogram import INVERSE_DOWER, rotation_matrix

RATE_HZ, SAMPLES = 500.0, 2500
EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]
Draws = Sequence[Any]


# --- draws, in the order of ours ------------------------------------------------------------------


def draw_powerline(rng: np.random.Generator) -> Draws:
    return (50.0, 60.0)[rng.integers(2)], rng.uniform(0, 0.1), rng.uniform(0, 2 * np.pi)


def draw_emg(rng: np.random.Generator) -> Draws:
    return rng.uniform(0, 0.1, 8), rng.standard_normal((8, SAMPLES), dtype=np.float32)


def draw_wander(rng: np.random.Generator) -> Draws:
    waves = (rng.uniform(low, high, 3) for low, high in ((0, 0.1), (0.01, 0.2), (0, 2 * np.pi)))
    return *waves, rng.normal(1, 0.5, 8)


def draw_shift(rng: np.random.Generator) -> Draws:
    amplitude, sign = rng.uniform(0, 0.1), 1.0 - 2.0 * rng.integers(2, size=8)
    length = min(max(int(rng.normal(0.2 * SAMPLES, 0.04 * SAMPLES)), 0), SAMPLES)
    return amplitude, sign, length, rng.integers(SAMPLES - length + 1)


def draw_vcg(rng: np.random.Generator) -> Draws:
    angles = np.radians(rng.uniform(-45, 45, 3))
    return angles, rng.uniform(1, 1.5, 3), rng.integers(SAMPLES, size=12)


def draw_mask(rng: np.random.Generator) -> Draws:
    return (rng.random(12),)


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


FORMS = {
    "powerline_noise": (draw_powerline, plain_powerline),
    "emg_noise": (draw_emg, plain_emg),
    "baseline_wander": (draw_wander, plain_wander),
    "baseline_shift": (draw_shift, plain_shift),
    "3kg": (draw_vcg, plain_vcg),
    "random_leads_masking": (draw_mask, plain_mask),
}


# --- measuring ------------------------------------------------------------------------------------


def recordings(n: int) -> np.ndarray:
    """Return segments whose limb leads obey their relations, float32 [n, 12, T]."""
    values = np.random.default_rng(0).normal(size=(n, 12, SAMPLES))
    for segment in values:
        recompute_limb_leads(segment)
    return values.astype(np.float32)


def keyed(values: np.ndarray, seed: int) -> list[np.random.Generator]:
    """Return the generator of each segment, as a dataset makes it."""
    return [np.random.default_rng((seed, 1, index, 0)) for index in range(len(values))]


def signals_of(values: np.ndarray) -> list[EcgSignal]:
    return [EcgSignal(segment, RATE_HZ, STANDARD_LEADS) for segment in values]


def batched(name: str, values: np.ndarray, seed: int) -> None:
    """Perturb a batch as a dataset does."""
    pipeline = Pipeline((build_perturbation(name, 1.0, {}),))
    pipeline.batch(signals_of(values), keyed(values, seed))


def one_by_one(name: str, values: np.ndarray, seed: int) -> None:
    """Perturb a batch segment by segment, with the same formulas."""
    pipeline = Pipeline((build_perturbation(name, 1.0, {}),))
    for signal, rng in zip(signals_of(values), keyed(values, seed), strict=True):
        pipeline(signal, rng)


def lead_by_lead(name: str, values: np.ndarray, seed: int) -> None:
    """Perturb a batch segment by segment and lead by lead, in double precision."""
    draw, plain = FORMS[name]
    for segment, rng in zip(values, keyed(values, seed), strict=True):
        rng.random()
        wide = segment.astype(np.float64)
        plain(wide, *draw(rng))
        segment[:] = wide


def generators(name: str, values: np.ndarray, seed: int) -> None:
    """Make the generator of each segment, and draw once."""
    for rng in keyed(values, seed):
        rng.random()


def check(name: str, values: np.ndarray) -> None:
    """Show that a batch is its segments one by one, to the bit, and that the plain form agrees."""
    together, apart, plain = (values.copy() for _ in range(3))
    batched(name, together, 0)
    one_by_one(name, apart, 0)
    lead_by_lead(name, plain, 0)
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_allclose(together, plain, atol=2e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="segments per batch")
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    values = recordings(args.batch)
    ways: dict[str, Callable[[str, np.ndarray, int], None]] = {
        "ours": batched,
        "one by one": one_by_one,
        "lead by lead": lead_by_lead,
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
