"""The seven forms of windows, a batch of them against windows one by one, side by side in one run.

    python benchmarks/transform_forms.py [--batch 128] [--repeat 15]

Ours makes all forms of a batch in the array that the network gets. Beside it the same functions
window by window, stacked afterwards; and the plain form in double precision, one lead, one form and
one piece after the other. All draw the same numbers, from a generator for each view of a window;
the last column is what these generators alone cost. The forms are shown to be equal before they are
timed. Each is timed several times in turn and the median processor time per window is printed.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from fairseq_ecg.transforms.recognition import FORMS, Generators, TransformedForms

SAMPLES = 2560
OURS = TransformedForms()


def batched(windows: np.ndarray, generators: list[Generators]) -> np.ndarray:
    names = ["a window"] * len(windows)
    return OURS.batch(windows, generators, names).reshape(-1, *windows.shape[1:])


def one_by_one(windows: np.ndarray, generators: list[Generators]) -> np.ndarray:
    forms = [OURS(window, of_view) for window, of_view in zip(windows, generators, strict=True)]
    return np.concatenate(forms)


def lead_by_lead(windows: np.ndarray, generators: list[Generators]) -> np.ndarray:
    rows = []
    for window, of_view in zip(windows, generators, strict=True):
        white = of_view(1).standard_normal(SAMPLES, dtype=np.float32)
        order = of_view(5).permutation(OURS.permutation_pieces)
        rng = of_view(6)
        stretched = rng.permutation(OURS.warp_pieces)[: math.ceil(OURS.warp_pieces / 2)]
        start = int(rng.integers(_warped_length() - SAMPLES))
        leads = [_forms_of(lead, white, order, stretched, start) for lead in window]
        rows += list(np.swapaxes(leads, 0, 1).astype(np.float32))
    return np.stack(rows)


def _warped_length() -> int:
    piece = SAMPLES // OURS.warp_pieces
    longer, shorter = math.ceil(piece * OURS.warp_factor), math.ceil(piece / OURS.warp_factor)
    return math.ceil(OURS.warp_pieces / 2) * longer + OURS.warp_pieces // 2 * shorter


def _forms_of(
    lead: np.ndarray, white: np.ndarray, order: np.ndarray, stretched: np.ndarray, start: int
) -> list[np.ndarray]:
    values = lead.astype(np.float64)
    power = np.mean(values**2) / 10 ** (OURS.snr_db / 10)
    piece = SAMPLES // OURS.permutation_pieces
    permuted = np.concatenate([values[k * piece : (k + 1) * piece] for k in order])
    piece, joined = SAMPLES // OURS.warp_pieces, []
    for k in range(OURS.warp_pieces):
        factor = OURS.warp_factor if k in stretched else 1 / OURS.warp_factor
        length = math.ceil(piece * factor)
        grid = (np.arange(length) + 0.5) * piece / length - 0.5
        joined.append(np.interp(grid, np.arange(piece), values[k * piece : (k + 1) * piece]))
    warped = np.concatenate(joined)[start : start + SAMPLES]
    noisy = values + math.sqrt(power) * white
    return [values, noisy, OURS.scaling * values, -values, values[::-1], permuted, warped]


def only_generators(windows: np.ndarray, generators: list[Generators]) -> None:
    for of_view in generators:
        for view in (1, 5, 6):
            of_view(view).random()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="windows per batch")
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    ways: dict[str, Callable] = {
        "ours": batched,
        "one by one": one_by_one,
        "lead by lead": lead_by_lead,
        "generators": only_generators,
    }
    generators = [partial(_keyed, index) for index in range(args.batch)]
    print(f"windows of {SAMPLES} samples in {len(FORMS)} forms, batches of {args.batch}, ", end="")
    print(f"processor time, median of {args.repeat}")
    print(f"{'us per window':<14}" + "".join(f"{way:>22}" for way in ways))
    for n_leads in (1, 12):
        windows = np.random.default_rng(0).normal(size=(args.batch, n_leads, SAMPLES))
        windows = windows.astype(np.float32)
        together = batched(windows, generators)
        np.testing.assert_array_equal(together, one_by_one(windows, generators))
        np.testing.assert_allclose(together, lead_by_lead(windows, generators), atol=2e-5)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.repeat + 1):
            for way, make in ways.items():
                begin = time.process_time()
                make(windows, generators)
                seconds[way].append((time.process_time() - begin) / args.batch)
        medians = [statistics.median(times[1:]) for times in seconds.values()]
        row = "".join(f"{m * 1e6:>12.1f} ({m / medians[0]:4.2f} x)" for m in medians)
        print(f"{f'{n_leads} leads':<14}{row}")


def _keyed(index: int, view: int) -> np.random.Generator:
    return np.random.default_rng((1, 1, index, 5, view))


if __name__ == "__main__":
    main()
