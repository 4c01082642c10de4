"""The score of CinC 2017 against scikit-learn, on answers of every kind."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from fairseq_ecg.corpora import challenge_2017
from fairseq_ecg.metrics import cinc2017
from fairseq_ecg.metrics.multiclass import SingleLabelSummary

LABELS = cinc2017.CLASSES
CASES = {
    "random": lambda rng, n: (rng.integers(4, size=n), rng.integers(4, size=n)),
    "all right": lambda rng, n: (rng.integers(4, size=n),) * 2,
    "all wrong": lambda rng, n: ((truth := rng.integers(4, size=n)), (truth + 1) % 4),
    "one answer": lambda rng, n: (rng.integers(4, size=n), np.full(n, 1)),
    "one truth": lambda rng, n: (np.full(n, 2), rng.integers(4, size=n)),
    "no noise": lambda rng, n: (rng.integers(3, size=n), rng.integers(3, size=n)),
    "noise alone": lambda rng, n: (np.full(n, 3), np.full(n, 3)),
}


def scores_of(answers):
    return 0.1 + 0.6 * np.eye(4)[answers]


@pytest.mark.parametrize("n", [1, 5, 200])
@pytest.mark.parametrize("case", CASES)
def test_both_means_are_scikit_learns_over_the_classes_that_occur(case, n):
    truth, answers = CASES[case](np.random.default_rng(n), n)
    values = SingleLabelSummary(LABELS)(scores_of(answers), np.eye(4)[truth])
    occurring = sorted({*truth.tolist(), *answers.tolist()})
    keys = {"average": "macro", "zero_division": 0}
    assert values["f1"] == pytest.approx(f1_score(truth, answers, labels=occurring, **keys))
    scored = [k for k in occurring if LABELS[k] != "~"]
    expected = f1_score(truth, answers, labels=scored, **keys) if scored else float("nan")
    assert values["f1_cinc"] == pytest.approx(expected, nan_ok=True)
    each = f1_score(truth, answers, labels=range(4), average=None, zero_division=np.nan)
    found = [values[f"f1_{name}"] for name in LABELS]
    np.testing.assert_allclose(found, each)


def test_noise_counts_as_a_wrong_answer_but_not_as_a_class():
    truth = [1, 1, 0, 0, 2, 2, 3]
    answers = [1, 3, 0, 0, 2, 2, 1]
    values = SingleLabelSummary(LABELS)(scores_of(answers), np.eye(4)[truth])
    f1_n = 2 / (2 + 1 + 1)
    assert values["f1_cinc"] == pytest.approx((f1_n + 1 + 1) / 3)
    assert values["f1"] == pytest.approx((f1_n + 1 + 1 + 0) / 4)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_classes_are_found_by_name(order):
    names = tuple(LABELS[k] for k in order)
    assert cinc2017.challenge_f1(names, np.array([0.2, 0.4, 0.6, 0.9])[list(order)]) == (
        pytest.approx(0.4)
    )
    assert SingleLabelSummary(names).names[-1] == "f1_cinc"


@pytest.mark.parametrize("labels", [(), ("A", "N", "O"), ("A", "N", "O", "~", "x"), ("a", "b")])
def test_other_classes_have_no_such_score(labels):
    assert "f1_cinc" not in SingleLabelSummary(labels).names


def test_corpus_and_score_mean_the_same_classes():
    assert challenge_2017.CLASSES == cinc2017.CLASSES
