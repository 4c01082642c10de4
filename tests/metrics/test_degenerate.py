"""Scores against scikit-learn and the challenge's own scoring, on random and on degenerate sets."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from fairseq_ecg.metrics.bootstrap import bootstrap_intervals
from fairseq_ecg.metrics.cinc2021 import challenge_score
from fairseq_ecg.metrics.multilabel import (
    accuracy_exact,
    auroc,
    auroc_per_class,
    average_precision_per_class,
    f_measure,
    f_measure_per_class,
)
from fairseq_ecg.metrics.resampled import ResampledSummary
from fairseq_ecg.metrics.summary import Summary

CASES = ("random", "ties", "no positives", "no negatives", "constant", "one record", "no decision")


def table(case, seed=0):
    """Return probabilities and labels [N, 4], of which class 1 is the odd one."""
    rng = np.random.default_rng([seed, CASES.index(case)])
    n = 1 if case == "one record" else 80
    labels = rng.random((n, 4)) < [0.1, 0.4, 0.6, 0.9]
    chance = np.clip(0.6 * rng.random((n, 4)) + 0.4 * labels, 0, 1)
    if case == "ties":
        chance = np.round(chance * 3) / 3
    if case in ("no positives", "no negatives"):
        labels[:, 1] = case == "no negatives"
    if case == "constant":
        chance[:, 1] = 0.4
    if case == "no decision":
        labels[:, 1], chance[:, 1] = False, 0.1 * chance[:, 1]
    return chance, labels


def quietly(function, *args, **keys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.filterwarnings("ignore", message="No positive class found")
        warnings.filterwarnings("ignore", message="Only one class is present")
        return function(*args, **keys)


def challenge_areas(labels, outputs):
    """Return both areas of one class as the challenge's evaluation sums them up.

    At each distinct output from the highest down, true positive rate, true negative rate and
    precision; trapezoids over the first two, rectangles over the other; NaN where a rate has no
    denominator.
    """
    limits = np.append(np.unique(outputs), np.inf)[::-1]
    rates = []
    for limit in limits:
        out = outputs >= limit
        tp, fp = (labels & out).sum(), (~labels & out).sum()
        fn, tn = (labels & ~out).sum(), (~labels & ~out).sum()
        rates.append(
            [
                tp / (tp + fn) if tp + fn else np.nan,
                tn / (tn + fp) if tn + fp else np.nan,
                tp / (tp + fp) if tp + fp else np.nan,
            ]
        )
    above = below = 0.0
    for (recall, tnr, _), (next_recall, next_tnr, next_ppv) in zip(
        rates[:-1], rates[1:], strict=True
    ):
        above += 0.5 * (next_recall - recall) * (next_tnr + tnr)
        below += (next_recall - recall) * next_ppv
    return above, below


def challenge_metric(weights, labels, decisions, sinus):
    """Return the challenge's normalised score by loops over records."""

    def score(answers):
        total = 0.0
        for truth, answer in zip(labels, answers, strict=True):
            share = 1 / max(int((truth | answer).sum()), 1)
            for j in np.flatnonzero(truth):
                for k in np.flatnonzero(answer):
                    total += share * weights[j, k]
        return total

    inactive = np.zeros_like(labels)
    inactive[:, sinus] = True
    observed, correct, nothing = score(decisions), score(labels), score(inactive)
    return (observed - nothing) / (correct - nothing) if correct != nothing else 0.0


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_every_score_is_scikit_learns(case, seed):
    chance, labels = table(case, seed)
    decisions = chance > 0.5
    areas, precisions = auroc_per_class(chance, labels), average_precision_per_class(chance, labels)
    measures = f_measure_per_class(labels, decisions)
    for k in range(4):
        truth, score = labels[:, k], chance[:, k]
        expected = quietly(roc_auc_score, truth, score) if 0 < truth.sum() < len(truth) else np.nan
        assert areas[k] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        # scikit-learn gives 0 to a class without positives; it has no precision at any recall
        expected = average_precision_score(truth, score) if truth.any() else np.nan
        assert precisions[k] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        expected = quietly(f1_score, truth, decisions[:, k], zero_division=np.nan)
        assert measures[k] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert accuracy_exact(labels, decisions) == pytest.approx(accuracy_score(labels, decisions))
    known = [k for k in range(4) if 0 < labels[:, k].sum() < len(labels)]
    if len(known) > 1:
        expected = roc_auc_score(labels[:, known], chance[:, known], average="macro")
        assert auroc(chance, labels) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_every_score_is_that_of_the_challenge(case, seed):
    chance, labels = table(case, seed)
    decisions = chance > 0.5
    expected = np.array([challenge_areas(labels[:, k], chance[:, k]) for k in range(4)])
    np.testing.assert_allclose(auroc_per_class(chance, labels), expected[:, 0], atol=1e-9)
    found = average_precision_per_class(chance, labels)
    np.testing.assert_allclose(found, expected[:, 1], atol=1e-9)
    weights = np.random.default_rng(seed).random((4, 4))
    official = challenge_metric(weights, labels, decisions, sinus=2)
    assert challenge_score(labels, decisions, weights, 2) == pytest.approx(official, abs=1e-9)
    tp, wrong = (labels & decisions).sum(axis=0), (labels != decisions).sum(axis=0)
    each = [2 * t / (2 * t + w) for t, w in zip(tp, wrong, strict=True) if t + w]
    assert f_measure(labels, decisions) == pytest.approx(np.mean(each), abs=1e-9)


def test_the_odd_class_is_what_its_case_says():
    for case, expected in (
        ("no positives", (np.nan, np.nan)),
        ("no negatives", (np.nan, 1.0)),
        ("constant", (0.5, None)),
    ):
        chance, labels = table(case)
        area = auroc_per_class(chance, labels)[1]
        precision = average_precision_per_class(chance, labels)[1]
        wanted = (expected[0], labels[:, 1].mean() if expected[1] is None else expected[1])
        assert (area, precision) == pytest.approx(wanted, abs=1e-12, nan_ok=True), case


def test_scores_that_are_no_numbers_are_refused_or_count_as_0_as_in_the_challenge():
    chance, labels = table("random")
    chance[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 320 are not, first scores\[3, 1\] = nan"):
        Summary()(chance, labels)
    with pytest.raises(ValueError, match="scores must be finite"):
        ResampledSummary(Summary(), chance, labels)
    mended = np.nan_to_num(chance)
    expected = challenge_areas(labels[:, 1], mended[:, 1])
    found = [
        function(chance, labels, nonfinite="zero")[1]
        for function in (auroc_per_class, average_precision_per_class)
    ]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_one_patient_alone_has_the_same_numbers_and_no_interval(case):
    chance, labels = table(case)
    metric = ResampledSummary(Summary(), chance, labels, list("abcd"))
    found = bootstrap_intervals(metric, ["p"] * len(labels), 20)
    assert found["macro_auroc"].value == pytest.approx(auroc(chance, labels), abs=1e-9, nan_ok=True)
    assert {interval.valid for interval in found.values()} == {0}
    assert all(np.isnan([interval.low, interval.high]).all() for interval in found.values())
