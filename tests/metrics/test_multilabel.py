import json
import warnings

import numpy as np
import pytest
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fairseq_ecg.metrics.counts import counts_per_class
from fairseq_ecg.metrics.multilabel import (
    accuracy,
    accuracy_exact,
    auroc,
    auroc_per_class,
    average_precision,
    average_precision_per_class,
    decide,
    f_beta_g_beta,
    f_measure,
    f_measure_per_class,
    macro,
)

GRID = [(2, 1), (3, 2), (10, 1), (57, 5), (400, 26)]


def random_tables(n_records, n_classes, seed=0, levels=None):
    rng = np.random.default_rng([seed, n_records, n_classes])
    labels = rng.random((n_records, n_classes)) < rng.uniform(0.05, 0.9, n_classes)
    scores = rng.normal(size=(n_records, n_classes)) + labels
    return (scores if levels is None else np.round(scores * levels) / levels), labels


def slow_auroc(scores, labels):
    """Share of (positive, negative) pairs in the right order, ties one half."""
    positives, negatives = scores[labels], scores[~labels]
    if not len(positives) or not len(negatives):
        return np.nan
    wins = sum(float(p > n) + 0.5 * float(p == n) for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


def slow_average_precision(scores, labels):
    if not labels.any():
        return np.nan
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        hits = (chosen & labels).sum()
        total += (hits / labels.sum() - recall) * hits / chosen.sum()
        recall = hits / labels.sum()
    return total


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize(("n_records", "n_classes"), GRID)
def test_areas_equal_the_formulas_with_and_without_ties(n_records, n_classes, levels):
    scores, labels = random_tables(n_records, n_classes, levels=levels)
    columns = range(n_classes)
    expected = [slow_auroc(scores[:, k], labels[:, k]) for k in columns]
    np.testing.assert_allclose(auroc_per_class(scores, labels), expected, atol=1e-12)
    expected = [slow_average_precision(scores[:, k], labels[:, k]) for k in columns]
    np.testing.assert_allclose(average_precision_per_class(scores, labels), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [None, 3])
def test_areas_equal_scikit_learn(levels, dtype):
    scores, labels = random_tables(3000, 12, levels=levels)
    scores = scores.astype(dtype)
    for average in ("macro", "micro"):
        expected = roc_auc_score(labels, scores, average=average)
        assert auroc(scores, labels, average) == pytest.approx(expected, abs=1e-9)
        expected = average_precision_score(labels, scores, average=average)
        assert average_precision(scores, labels, average) == pytest.approx(expected, abs=1e-9)


def test_a_constant_score_has_auroc_one_half_and_the_prevalence_as_average_precision():
    labels = np.arange(10)[:, None] < 3
    assert auroc(np.full((10, 1), 0.7), labels) == 0.5
    assert average_precision(np.full((10, 1), 0.7), labels) == pytest.approx(0.3, abs=1e-15)


def test_classes_with_one_label_value_are_nan_or_one_and_left_out_of_the_mean():
    scores, labels = random_tables(50, 3)
    labels[:, 0], labels[:, 1] = False, True
    areas, precisions = auroc_per_class(scores, labels), average_precision_per_class(scores, labels)
    assert np.isnan(areas).tolist() == [True, True, False]
    assert np.isnan(precisions).tolist() == [True, False, False]
    assert precisions[1] == 1.0
    assert auroc(scores, labels) == areas[2]
    assert average_precision(scores, labels) == (1.0 + precisions[2]) / 2


def test_nothing_to_average_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(macro([]))
        assert np.isnan(macro([np.nan, np.nan]))
        assert np.isnan(auroc(np.zeros((4, 2)), np.zeros((4, 2))))
        assert np.isnan(auroc_per_class(np.zeros((0, 3)), np.zeros((0, 3)))).all()
        assert np.isnan(f_measure(np.zeros((4, 2)), np.zeros((4, 2))))
        assert np.isnan(accuracy(np.zeros((0, 2)), np.zeros((0, 2))))
        assert np.isnan(accuracy_exact(np.zeros((0, 2)), np.zeros((0, 2))))


def test_one_record_gives_defined_values_where_there_are_any():
    assert np.isnan(auroc([[0.3]], [[1]]))
    assert average_precision([[0.3]], [[1]]) == 1.0


def test_two_float32_scores_that_differ_in_the_last_bit_are_no_tie():
    low = np.float32(0.1)
    scores = np.array([[low], [np.nextafter(low, np.float32(1))]], dtype=np.float32)
    assert auroc(scores, [[0], [1]]) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_named_unless_it_may_count_as_zero(bad):
    scores, labels = random_tables(30, 3)
    scores[4, 1] = bad
    for function in (auroc_per_class, average_precision_per_class, auroc, average_precision):
        with pytest.raises(ValueError, match=r"1 of 90 are not.*scores\[4, 1\].*nonfinite"):
            function(scores, labels)
    mended = scores.copy()
    mended[4, 1] = 0
    np.testing.assert_array_equal(
        auroc_per_class(scores, labels, nonfinite="zero"), auroc_per_class(mended, labels)
    )
    assert average_precision(scores, labels, "micro", "zero") == average_precision(
        mended, labels, "micro"
    )


def test_bad_input_is_refused_with_the_value():
    with pytest.raises(ValueError, match=r"labels\[1, 0\] is .*2"):
        auroc([[0.1], [0.2]], [[0], [2]])
    with pytest.raises(ValueError, match=r"\[2, 1\] and \[3, 1\]"):
        auroc([[0.1], [0.2]], [[0], [1], [1]])
    with pytest.raises(ValueError, match=r"\[records, classes\]"):
        auroc([0.1, 0.2], [0, 1])
    with pytest.raises(ValueError, match="weighted"):
        auroc([[0.1], [0.2]], [[0], [1]], average="weighted")
    with pytest.raises(ValueError, match="complex"):
        auroc([[0.1j], [0.2]], [[0], [1]])
    with pytest.raises(ValueError, match="ignore"):
        auroc([[0.1], [0.2]], [[0], [1]], nonfinite="ignore")
    with pytest.raises(ValueError, match="threshold"):
        f_measure([[1.0], [0.0]], [[0.3], [0.7]])


@pytest.mark.parametrize(("n_records", "n_classes"), GRID)
def test_decision_scores_equal_loops_over_the_formulas(n_records, n_classes):
    scores, labels = random_tables(n_records, n_classes)
    decisions = scores > 0.8
    f_values, g_values, plain = [], [], []
    for k in range(n_classes):
        tp = fp = fn = whole_tp = whole_fp = whole_fn = 0.0
        for n in range(n_records):
            share = 1 / max(labels[n].sum(), 1)
            true, out = labels[n, k], decisions[n, k]
            tp, fp, fn = (
                tp + share * (true & out),
                fp + share * (~true & out),
                fn + share * (true & ~out),
            )
            whole_tp, whole_fp = whole_tp + (true & out), whole_fp + (~true & out)
            whole_fn += true & ~out
        if tp + fp + fn:
            f_values.append(5 * tp / (5 * tp + fp + 4 * fn))
            g_values.append(tp / (tp + fp + 2 * fn))
            plain.append(2 * whole_tp / (2 * whole_tp + whole_fp + whole_fn))
    assert f_measure(labels, decisions) == pytest.approx(np.mean(plain), abs=1e-12)
    expected = pytest.approx((np.mean(f_values), np.mean(g_values)), abs=1e-12)
    assert f_beta_g_beta(labels, decisions) == expected
    each = [labels[n, k] == decisions[n, k] for n in range(n_records) for k in range(n_classes)]
    assert accuracy(labels, decisions) == pytest.approx(np.mean(each), abs=1e-12)
    rows = [all(labels[n] == decisions[n]) for n in range(n_records)]
    assert accuracy_exact(labels, decisions) == pytest.approx(np.mean(rows), abs=1e-12)


def test_f_beta_and_g_beta_weigh_records_by_their_number_of_labels():
    labels, decisions = [[1, 1], [1, 0], [0, 1]], [[1, 0], [1, 1], [0, 1]]
    # class 1: all right; class 2: TP 1, FP 1, FN 1/2
    f, g = f_beta_g_beta(labels, decisions)
    assert f == pytest.approx((1 + 5 / 8) / 2)
    assert g == pytest.approx((1 + 1 / 3) / 2)


def test_a_record_without_a_decision_gets_its_most_likely_class_if_asked():
    scores = np.array([[0.1, 0.4, 0.4], [0.6, 0.9, 0.1], [0.5, 0.2, 0.3]])
    plain = decide(scores, [0.5, 0.95, 0.5])
    assert plain.tolist() == [[False] * 3, [True, False, False], [False] * 3]
    complete = decide(scores, [0.5, 0.95, 0.5], fallback=True)
    assert complete.tolist() == [[False, True, False], [True, False, False], [True, False, False]]
    assert not decide(scores[:, :1], 1.0, fallback=True).any()
    assert decide(np.zeros((0, 3)), 0.5, fallback=True).shape == (0, 3)


def test_f_measure_equals_scikit_learn_and_is_nan_for_an_unused_class():
    scores, labels = random_tables(300, 6)
    decisions = scores > 0.5
    labels[:, 2], decisions[:, 2] = False, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        expected = f1_score(labels, decisions, average=None, zero_division=np.nan)
    np.testing.assert_allclose(f_measure_per_class(labels, decisions), expected, atol=1e-12)
    assert np.isnan(f_measure_per_class(labels, decisions)[2])


def test_counts_of_two_parts_add_up_to_those_of_the_whole():
    scores, labels = random_tables(100, 4)
    decisions = scores > 0.5
    whole = counts_per_class(labels, decisions)
    parts = counts_per_class(labels[:30], decisions[:30]) + counts_per_class(
        labels[30:], decisions[30:]
    )
    for name in ("tp", "fp", "fn", "tn"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    np.testing.assert_array_equal(whole.tp + whole.fp + whole.fn + whole.tn, np.full(4, 100))


def test_record_weights_must_be_one_per_record():
    with pytest.raises(ValueError, match=r"\[2\].*\[3\]"):
        counts_per_class([[1], [0]], [[1], [1]], [1.0, 1.0, 1.0])


def test_the_published_table_of_the_code_test_set_comes_out(shared):
    folder = shared / "data/scoring/code-test-827"
    gold = np.loadtxt(folder / "gold_standard.csv", delimiter=",", skiprows=1)
    network = np.loadtxt(folder / "dnn.csv", delimiter=",", skiprows=1)[:, 1:]
    rows = (folder / "expected_scores.csv").read_text("utf-8").splitlines()[2:]
    published = np.array([[float(cell) for cell in row.split(",")[1:]] for row in rows])[:, ::4]
    counts = counts_per_class(gold, network)
    ours = [counts.precision, counts.recall, counts.specificity, counts.f_beta()]
    np.testing.assert_allclose(np.stack(ours, axis=1), published, atol=0.0005 + 1e-12)


def test_the_published_macro_auroc_of_ptb_xl_comes_out(shared):
    folder = shared / "data/scoring/ptbxl-all-71"
    expected = json.loads((folder / "expected.json").read_text("utf-8"))["published"]
    for split in ("val", "test"):
        with np.load(folder / f"{split}.npz") as tables:
            ours = auroc(tables["y_pred"], tables["y_true"])
        assert ours == pytest.approx(expected[split]["macro_auc"], abs=1e-9)
