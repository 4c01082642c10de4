"""The numbers of a classifier under their logged names."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from fairseq_ecg.metrics.cinc2021 import challenge_score
from fairseq_ecg.metrics.multilabel import f_beta_g_beta
from fairseq_ecg.metrics.ptbxl import f_max
from fairseq_ecg.metrics.summary import RANKING, Summary

WEIGHTS = np.array([[1.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 1.0]])


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    labels = (rng.random((40, 3)) < [0.2, 0.5, 0.8]).astype(np.float32)
    return np.clip(rng.random((40, 3)) * 0.7 + 0.3 * labels, 0, 1), labels


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_areas_are_scikit_learns_in_both_averages(scores, average):
    probability, labels = scores
    values = Summary(average=average)(probability, labels)
    for name, function in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        both = {a: function(labels, probability, average=a) for a in ("macro", "micro")}
        assert values[f"macro_{name}"] == pytest.approx(both["macro"])
        assert values[f"micro_{name}"] == pytest.approx(both["micro"])
        assert values[name] == pytest.approx(both[average])
        assert abs(both["macro"] - both["micro"]) > 1e-3


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_decisions_are_those_above_the_threshold(scores, threshold):
    probability, labels = scores
    values = Summary(threshold, cinc_weights=WEIGHTS, sinus_index=1)(probability, labels)
    decisions = probability > threshold
    assert values["f1"] == pytest.approx(f1_score(labels, decisions, average="macro"))
    assert values["cinc_score"] == pytest.approx(challenge_score(labels, decisions, WEIGHTS, 1))


def test_a_probability_at_the_threshold_is_no_decision():
    probability, labels = np.array([[0.5], [0.6]]), np.array([[1.0], [1.0]])
    assert Summary(0.5, ranking=False)(probability, labels)["f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("ranking", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("f_max", "f_beta"), [(False, False), (False, True), (True, False)])
def test_the_names_are_those_of_the_values_in_their_order(scores, ranking, weights, f_max, f_beta):
    summary = Summary(ranking=ranking, cinc_weights=weights, f_max=f_max, f_beta=f_beta)
    values = summary(*scores)
    assert list(values) == summary.names
    assert ("auroc" in values) == ranking
    assert ("cinc_score" in values) == (weights is not None)
    assert ("f_max" in values) == f_max
    assert ("f_beta" in values, "g_beta" in values) == (f_beta, f_beta)
    assert all(type(value) is float for value in values.values())
    assert len(set(RANKING)) == len(RANKING)


def test_f_beta_gives_a_recording_without_a_decision_its_most_likely_class(scores):
    probability, labels = scores
    values = Summary(0.7, f_beta=True, f_max=True)(probability, labels)
    decisions = probability > 0.7
    silent = ~decisions.any(axis=1)
    assert 0 < silent.sum() < len(silent)
    assert values["f1"] == pytest.approx(f1_score(labels, decisions, average="macro"))
    decisions[silent, probability[silent].argmax(axis=1)] = True
    assert (values["f_beta"], values["g_beta"]) == f_beta_g_beta(labels, decisions)
    assert values["f_max"] == f_max(probability, labels)


def test_accuracy_is_of_decisions_and_of_whole_recordings(scores):
    probability, labels = scores
    values = Summary(0.4, accuracy=True)(probability, labels)
    decisions = probability > 0.4
    assert list(values) == Summary(accuracy=True).names
    assert values["accuracy"] == pytest.approx(accuracy_score(labels.ravel(), decisions.ravel()))
    assert values["em_accuracy"] == pytest.approx(accuracy_score(labels, decisions))
    assert values["em_accuracy"] < values["accuracy"] < 1


def test_a_number_without_meaning_is_nan_not_zero():
    values = Summary()(np.array([[0.2], [0.4]]), np.zeros((2, 1)))
    assert {name for name, value in values.items() if math.isnan(value)} == {
        *("auroc", "macro_auroc", "micro_auroc"),
        *("auprc", "macro_auprc", "micro_auprc"),
        "f1",
    }


def test_a_class_without_positives_is_left_out_of_the_macro_average(scores):
    probability, labels = scores
    labels[:, 0] = 0
    expected = roc_auc_score(labels[:, 1:], probability[:, 1:], average="macro")
    assert Summary()(probability, labels)["macro_auroc"] == pytest.approx(expected)
