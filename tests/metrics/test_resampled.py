"""Numbers of many draws at once against the plain functions on the drawn rows, and degenerate draws."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from fairseq_ecg.metrics.cinc2017 import CLASSES
from fairseq_ecg.metrics.counts import counts_per_class
from fairseq_ecg.metrics.multiclass import SingleLabelSummary, metric_names
from fairseq_ecg.metrics.multilabel import auroc_per_class, average_precision_per_class
from fairseq_ecg.metrics.resampled import (
    PER_CLASS,
    ResampledSingleLabel,
    ResampledSummary,
    of_class,
    split_name,
)
from fairseq_ecg.metrics.summary import Summary

SHAPES = [(1, 1), (2, 3), (9, 2), (40, 5), (150, 4)]


def drawn(n_records, n_classes, levels, seed=0, draws=7):
    """Return probabilities, labels, counts [R, B] and the rows of each draw."""
    rng = np.random.default_rng([seed, n_records, n_classes])
    labels = (rng.random((n_records, n_classes)) < rng.uniform(0.02, 0.9, n_classes)).astype(int)
    chance = np.clip(0.6 * rng.random((n_records, n_classes)) + 0.4 * labels, 0, 1)
    if levels:
        chance = np.round(chance * levels) / levels
    rows = rng.integers(n_records, size=(draws, n_records))
    counts = np.stack([np.bincount(row, minlength=n_records) for row in rows], axis=1)
    return chance, labels, counts.astype(np.float64), rows


def check_equal(found, expected, draw):
    for name, value in expected.items():
        assert found[name][draw] == pytest.approx(value, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize(("n_records", "n_classes"), SHAPES)
def test_every_number_is_that_of_the_summary_on_the_drawn_rows(
    n_records, n_classes, levels, average
):
    chance, labels, counts, rows = drawn(n_records, n_classes, levels)
    weights = np.random.default_rng(1).random((n_classes, n_classes))
    threshold = np.linspace(0.3, 0.7, n_classes)
    summary = Summary(
        threshold, average, f_max=True, f_beta=True, accuracy=True, cinc_weights=weights
    )
    names = [f"class {k}" for k in range(n_classes)]
    found = ResampledSummary(summary, chance, labels, names).of_counts(counts)
    per_class = [of_class(metric, name) for metric in PER_CLASS for name in names]
    assert list(found) == [*summary.names, *per_class]
    for draw, row in enumerate(rows):
        truth, decided = labels[row], chance[row] > threshold
        check_equal(found, summary(chance[row], truth), draw)
        of = counts_per_class(truth, decided)
        expected = {
            "auroc": auroc_per_class(chance[row], truth),
            "auprc": average_precision_per_class(chance[row], truth),
            "f1": of.f_beta(1.0),
            "precision": of.precision,
            "recall": of.recall,
            "specificity": of.specificity,
            "brier": [brier_score_loss(truth[:, k], chance[row, k]) for k in range(n_classes)],
        }
        assert tuple(expected) == PER_CLASS
        for metric, values in expected.items():
            each = dict(zip((of_class(metric, name) for name in names), values, strict=True))
            check_equal(found, each, draw)


@pytest.mark.parametrize("labels_of", [("a", "b", "c", "d"), CLASSES])
@pytest.mark.parametrize("n_records", [1, 3, 60])
def test_numbers_of_classes_that_exclude_each_other_are_those_of_their_summary(
    n_records, labels_of
):
    rng = np.random.default_rng(n_records)
    truth = np.eye(4)[rng.integers(4, size=n_records)]
    chance = rng.dirichlet(np.ones(4), n_records) + truth / 2
    rows = rng.integers(n_records, size=(9, n_records))
    counts = np.stack([np.bincount(row, minlength=n_records) for row in rows], axis=1)
    summary = SingleLabelSummary(labels_of)
    found = ResampledSingleLabel(summary, chance, truth).of_counts(counts.astype(float))
    assert set(metric_names(list(labels_of))) < set(found)
    for draw, row in enumerate(rows):
        check_equal(found, summary(chance[row], truth[row]), draw)
        areas = auroc_per_class(chance[row], truth[row])
        check_equal(found, {of_class("auroc", labels_of[1]): areas[1]}, draw)
        known = areas[~np.isnan(areas)]
        check_equal(found, {"auroc": known.mean() if known.size else math.nan}, draw)


def test_a_draw_counts_as_often_as_it_was_drawn_as_scikit_learns_weights():
    chance, labels, counts, _ = drawn(200, 1, 10, draws=3)
    found = ResampledSummary(Summary(), chance, labels, ["a"]).of_counts(counts)
    for draw, weights in enumerate(counts.T):
        known = roc_auc_score(labels[:, 0], chance[:, 0], sample_weight=weights)
        assert found["auroc/a"][draw] == pytest.approx(known, abs=1e-9)
        known = average_precision_score(labels[:, 0], chance[:, 0], sample_weight=weights)
        assert found["auprc/a"][draw] == pytest.approx(known, abs=1e-9)


def test_a_draw_without_positives_or_negatives_has_no_area_and_leaves_the_others_alone():
    chance, labels = np.array([[0.2], [0.8], [0.5]]), np.array([[0], [1], [0]])
    counts = np.array([[1, 0, 0, 1], [0, 3, 0, 1], [1, 0, 3, 1]], dtype=float)
    found = ResampledSummary(Summary(), chance, labels, ["a"]).of_counts(counts)
    np.testing.assert_array_equal(found["auroc/a"], [np.nan, np.nan, np.nan, 1])
    np.testing.assert_array_equal(found["auprc/a"], [np.nan, 1, np.nan, 1])
    np.testing.assert_array_equal(found["recall/a"], [np.nan, 1, np.nan, 1])
    np.testing.assert_array_equal(found["specificity/a"], [1, np.nan, 1, 1])


def test_a_constant_score_has_one_half_in_every_draw():
    counts = np.array([[1, 2], [1, 1], [1, 0]], dtype=float)
    found = ResampledSummary(Summary(), np.full((3, 1), 0.4), [[1], [0], [0]], ["a"]).of_counts(
        counts
    )
    assert found["auroc"].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(found["auprc"], [1 / 3, 2 / 3], atol=1e-15)


def test_large_tables_are_worked_on_in_parts_with_one_result(monkeypatch):
    chance, labels, counts, _ = drawn(40, 5, 6, draws=20)
    metric = ResampledSummary(Summary(), chance, labels, list("abcde"))
    whole = metric.of_counts(counts)
    monkeypatch.setattr("fairseq_ecg.metrics.resampled._IN_CACHE", 18 * 40)
    for name, values in metric.of_counts(counts).items():
        np.testing.assert_array_equal(values, whole[name])


def test_names_come_apart_again_whatever_the_class_is_called():
    assert split_name(of_class("auroc", "a/b")) == ("auroc", "a/b")
    assert split_name("f_beta") == ("f_beta", "")


def test_what_is_no_score_is_refused():
    with pytest.raises(ValueError, match=r"1 of 2 are not.*scores\[1, 0\]"):
        ResampledSummary(Summary(), [[0.5], [np.nan]], [[0], [1]])
    with pytest.raises(ValueError, match="exactly one 1 in each row"):
        ResampledSingleLabel(SingleLabelSummary(), np.ones((1, 2)), [[1, 1]])
