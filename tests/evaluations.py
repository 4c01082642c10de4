"""Evaluations of networks that never were: rows of known patients, for the tests of results."""

import numpy as np
import pandas as pd

from fairseq_ecg.evaluation_results import Evaluation, full_summary
from fairseq_ecg.metrics.multiclass import SingleLabelSummary


def drawn_evaluation(n_records=60, n_classes=3, single_label=False, seed=0, per_patient=2):
    """Return an evaluation with ages, sexes and two corpora, without intervals."""
    rng = np.random.default_rng(seed)
    labels = [f"class {k}" for k in range(n_classes)]
    if single_label:
        truth = np.eye(n_classes)[rng.integers(n_classes, size=n_records)]
        chance = rng.dirichlet(np.ones(n_classes), n_records) + 0.6 * truth
        chance /= chance.sum(axis=1, keepdims=True)
        summary = SingleLabelSummary(tuple(labels))
    else:
        truth = (rng.random((n_records, n_classes)) < 0.4).astype(float)
        chance = np.clip(0.7 * rng.random((n_records, n_classes)) + 0.3 * truth, 0, 1)
        summary = full_summary(labels, np.linspace(0.3, 0.6, n_classes))
    names = [f"r{i:03d}" for i in range(n_records)]
    records = pd.DataFrame(
        {
            "record": names,
            "patient": [f"p{i // per_patient}" for i in range(n_records)],
            "age": np.where(
                np.arange(n_records) % 7 == 0, np.nan, 20.0 + np.arange(n_records) % 50
            ),
            "sex": rng.choice(["female", "male", ""], n_records),
            "corpus": rng.choice(["one", "two"], n_records),
            "trained_on": False,
            "pretrained_on": False,
        }
    )
    return Evaluation(
        names,
        labels,
        chance,
        truth.astype(np.float32),
        metrics=summary(chance, truth),
        num_segments=n_records,
        single_label=single_label,
        summary=summary,
        records=records,
        checkpoints=("best.pt",),
        data="data",
        split="test",
    )
