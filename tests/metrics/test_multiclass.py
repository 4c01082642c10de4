"""Single-label scores against scikit-learn and against counting by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    precision_score,
    recall_score,
)
from sklearn.metrics import (
    confusion_matrix as sklearn_confusion,
)

from fairseq_ecg.metrics.multiclass import (
    OVERALL,
    SingleLabelSummary,
    class_rates,
    confusion_matrix,
    true_classes,
)


def drawn(n, n_classes, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_classes, size=n)
    scores = rng.random((n, n_classes)) + 0.5 * np.eye(n_classes)[truth]
    return truth, scores / scores.sum(axis=1, keepdims=True)


def slow_confusion(truth, answers, n_classes):
    table = [[0] * n_classes for _ in range(n_classes)]
    for t, a in zip(truth, answers, strict=True):
        table[t][a] += 1
    return table


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_the_matrix_counts_truth_in_rows_and_answers_in_columns(n, n_classes):
    truth, scores = drawn(n, n_classes, n)
    answers = scores.argmax(axis=1)
    found = confusion_matrix(truth, answers, n_classes)
    assert found.tolist() == slow_confusion(truth, answers, n_classes)
    expected = sklearn_confusion(truth, answers, labels=range(n_classes))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n", [1, 3, 8, 100])
@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_the_summary_is_scikit_learns_over_the_classes_that_occur(n, n_classes):
    truth, scores = drawn(n, n_classes, 10 * n + n_classes)
    answers = scores.argmax(axis=1)
    labels = [f"class {k}" for k in range(n_classes)]
    values = SingleLabelSummary(tuple(labels))(scores, np.eye(n_classes)[truth])
    keys = {"average": "macro", "zero_division": 0}
    assert values["accuracy"] == pytest.approx(accuracy_score(truth, answers))
    assert values["f1"] == pytest.approx(f1_score(truth, answers, **keys))
    precision, recall = (score(truth, answers, **keys) for score in (precision_score, recall_score))
    assert values["precision"] == pytest.approx(precision)
    assert values["recall"] == pytest.approx(recall)
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert values["f1_of_macro"] == pytest.approx(harmonic)
    each = f1_score(truth, answers, labels=range(n_classes), average=None, zero_division=np.nan)
    found = [values[f"f1_class_{k}"] for k in range(n_classes)]
    np.testing.assert_allclose(found, each)
    assert list(values) == SingleLabelSummary(tuple(labels)).names


def test_a_class_that_occurs_nowhere_is_nan_and_left_out():
    rates = class_rates([[2, 0, 1], [0, 0, 0], [0, 0, 3]])
    assert np.isnan([rates.precision[1], rates.recall[1], rates.f1[1]]).all()
    values = SingleLabelSummary(("a", "b", "c"))(np.eye(3)[[0, 0, 2]], np.eye(3)[[0, 0, 2]])
    assert (values["f1"], values["precision"], values["f1_a"]) == (1, 1, 1)
    assert math.isnan(values["f1_b"])


def test_a_network_with_one_answer_does_not_look_precise():
    values = SingleLabelSummary()(np.tile([0.9, 0.1], (4, 1)), np.eye(2)[[0, 0, 1, 1]])
    assert values == {
        "accuracy": 0.5,
        "f1": pytest.approx(1 / 3),
        "precision": 0.25,
        "recall": 0.5,
        "f1_of_macro": pytest.approx(1 / 3),
    }
    assert tuple(values) == OVERALL


def test_equal_probabilities_are_answered_with_the_first_class():
    confusion = SingleLabelSummary().confusion(np.full((2, 3), 1 / 3), np.eye(3)[[1, 2]])
    assert confusion.sum(axis=0).tolist() == [2, 0, 0]


def test_no_record_has_no_score():
    values = SingleLabelSummary(("a", "b"))(np.empty((0, 2)), np.empty((0, 2)))
    assert all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([[1, 0], [1, 1]], r"row 1 has 2 \(1 rows of 2"),
        ([[0, 0], [0, 0]], r"row 0 has 0 \(2 rows of 2"),
        ([[0.5, 0.5]], "must hold only 0 and 1"),
    ],
)
def test_labels_that_do_not_exclude_each_other_are_refused(labels, match):
    with pytest.raises(ValueError, match=match):
        true_classes(labels)


@pytest.mark.parametrize(
    ("truth", "answers", "match"),
    [
        ([0, 1], [0], "as long as each other"),
        ([0, 3], [0, 1], "truth must hold whole numbers from 0 to 2"),
        ([0, 1], [0, -1], "answers must hold whole numbers"),
        ([0.0, 1.0], [0, 1], "truth must hold whole numbers"),
    ],
)
def test_numbers_that_are_no_classes_are_refused(truth, answers, match):
    with pytest.raises(ValueError, match=match):
        confusion_matrix(truth, answers, 3)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="scores must be finite"):
        SingleLabelSummary()([[np.nan, 1.0]], [[0, 1]])
