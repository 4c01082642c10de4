"""Bootstrap intervals: many draws at once against a plain loop, and how often intervals are right.

    python benchmarks/bootstrap.py [--records 2000] [--classes 26] [--draws 1000] [--repeat 5]
    python benchmarks/bootstrap.py --coverage [--simulations 400]

The first compares all numbers of `fairseq-ecg evaluate` from counts of draws with the same numbers
computed anew on the rows of each draw, of which only some are done. Both are shown to be equal
before they are timed; each is timed several times in turn and the median processor time printed.

The second draws data sets of patients with one to five recordings each, and counts how often the 95
% interval holds the value of the distribution, and how often the paired test calls two equally good
models different (p < 0.05).
"""

import argparse
import statistics
import time

import numpy as np

from fairseq_ecg.metrics.bootstrap import bootstrap_intervals, draw_counts, paired_difference
from fairseq_ecg.metrics.counts import counts_per_class
from fairseq_ecg.metrics.multilabel import auroc_per_class, average_precision_per_class
from fairseq_ecg.metrics.resampled import ResampledSummary
from fairseq_ecg.metrics.summary import Summary

SUMMARY = Summary(f_max=True, f_beta=True, accuracy=True)
NUMBERS = ("auroc", "auprc", "f1", "brier")


def plain(chance: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Return all numbers of one draw."""
    chance, labels = chance[rows], labels[rows]
    counts = counts_per_class(labels, chance > SUMMARY.threshold)
    per_class = {
        "auroc": auroc_per_class(chance, labels),
        "auprc": average_precision_per_class(chance, labels),
        "f1": counts.f_beta(),
        "precision": counts.precision,
        "recall": counts.recall,
        "specificity": counts.specificity,
        "brier": ((chance - labels) ** 2).mean(axis=0),
    }
    values = SUMMARY(chance, labels)
    for name, of_class in per_class.items():
        values |= {f"{name}/{k}": float(value) for k, value in enumerate(of_class)}
    return values


def compare(records: int, classes: int, draws: int, repeat: int) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((records, classes)) < rng.uniform(0.02, 0.3, classes)).astype(np.int64)
    chance = np.clip(0.5 * rng.random((records, classes)) + 0.3 * labels, 0, 1)
    patients = rng.integers(max(2, records * 3 // 4), size=records)
    few = min(draws, 10)
    counts = np.concatenate(list(draw_counts(patients, few)), axis=1)
    names = [str(k) for k in range(classes)]
    times: dict[str, list[float]] = {"at once": [], "loop": []}
    for _ in range(repeat + 1):
        begin = time.process_time()
        metric = ResampledSummary(SUMMARY, chance, labels, names)
        bootstrap_intervals(metric, patients, draws)
        times["at once"].append((time.process_time() - begin) / draws)
        begin = time.process_time()
        each = [
            plain(chance, labels, np.repeat(np.arange(records), c.astype(int))) for c in counts.T
        ]
        times["loop"].append((time.process_time() - begin) / few)
        found = metric.of_counts(counts)
        for name in each[0]:
            expected = [values[name] for values in each]
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-9)
    at_once, loop = (statistics.median(values[1:]) for values in times.values())
    print(f"{records} recordings, {classes} classes, {draws} draws, {len(each[0])} numbers each")
    print(f"at once {at_once * 1e3:.2f} ms per draw ({at_once * draws:.1f} s in all), ", end="")
    print(f"loop {loop * 1e3:.1f} ms per draw, {loop / at_once:.1f} x as long")


def simulated(
    rng: np.random.Generator, patients: int, prevalence: float, models: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the patient of each recording, labels [R, 1] and probabilities [M, R, 1]."""
    numbers = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    positive = (rng.random(patients) < prevalence)[numbers]
    shared = rng.standard_normal(patients)[numbers]
    scores = 2.0 * positive - 1 + shared + rng.standard_normal((models, len(numbers)))
    return numbers, positive[:, None], (1 / (1 + np.exp(-scores)))[:, :, None]


def cover(simulations: int, draws: int) -> None:
    print(f"share of 95 % intervals that hold the value, {simulations} data sets, {draws} draws")
    print(f"{'patients':>8} {'positive':>8}" + "".join(f"{name:>8}" for name in NUMBERS), end="")
    print(f"{'paired p':>10}")
    for patients, prevalence in ((20, 0.5), (50, 0.5), (200, 0.5), (200, 0.05), (1000, 0.05)):
        rng = np.random.default_rng([patients, int(100 * prevalence)])
        numbers, labels, chance = simulated(rng, 200_000, prevalence)
        whole = ResampledSummary(SUMMARY, chance[0], labels, ["x"]).of_counts(
            np.ones((len(numbers), 1))
        )
        held, different = dict.fromkeys(NUMBERS, 0), 0
        for seed in range(simulations):
            numbers, labels, chance = simulated(rng, patients, prevalence, models=2)
            one, other = (
                ResampledSummary(Summary(ranking=False), model, labels, ["x"]) for model in chance
            )
            found = bootstrap_intervals(one, numbers, draws, seed)
            for name in NUMBERS:
                interval = found[f"{name}/x"]
                held[name] += interval.low <= whole[f"{name}/x"][0] <= interval.high
            paired = paired_difference(one, other, numbers, draws, seed)
            different += paired["auroc/x"].p < 0.05
        shares = "".join(f"{held[name] / simulations:>8.3f}" for name in NUMBERS)
        print(
            f"{patients:>8} {prevalence:>8.2f}{shares}{different / simulations:>10.3f}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=26)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--coverage", action="store_true", help="how often intervals are right")
    parser.add_argument("--simulations", type=int, default=400)
    args = parser.parse_args()
    if args.coverage:
        cover(args.simulations, args.draws)
    else:
        compare(args.records, args.classes, args.draws, args.repeat)


if __name__ == "__main__":
    main()
