import csv
import json

import numpy as np
import pytest

from fairseq_ecg.metrics.cinc2021 import (
    ChallengeSums,
    challenge_score,
    challenge_sums,
    codes_from_header,
    find_class,
    labels_from_header,
    load_weights,
    modified_confusion,
    read_output_csv,
)
from fairseq_ecg.metrics.multilabel import (
    accuracy_exact,
    auroc,
    auroc_per_class,
    average_precision,
    average_precision_per_class,
    f_beta_g_beta,
    f_measure,
    f_measure_per_class,
)

CLASSES = [frozenset({"426783006"}), frozenset({"713427006", "59118001"}), frozenset({"164889003"})]


@pytest.fixture(scope="module")
def table(shared):
    return load_weights(shared / "data/challenge-2021/evaluation-2021/weights.csv")


def slow_confusion(labels, decisions):
    n_records, n_classes = labels.shape
    table = np.zeros((n_classes, n_classes))
    for n in range(n_records):
        share = 1 / max(sum(labels[n] | decisions[n]), 1)
        for j in range(n_classes):
            for k in range(n_classes):
                table[j, k] += share * (labels[n, j] and decisions[n, k])
    return table


@pytest.mark.parametrize(("n_records", "n_classes"), [(1, 1), (4, 3), (30, 5), (60, 26)])
def test_confusion_equals_loops_over_the_formula(n_records, n_classes):
    rng = np.random.default_rng([n_records, n_classes])
    labels, decisions = rng.random((2, n_records, n_classes)) < 0.3
    expected = slow_confusion(labels, decisions)
    np.testing.assert_allclose(modified_confusion(labels, decisions), expected, atol=1e-12)


def test_parts_of_a_set_add_up_to_the_whole(table):
    _, weights = table
    rng = np.random.default_rng(5)
    labels, decisions = rng.random((2, 90, 26)) < 0.1
    parts = [slice(0, 1), slice(1, 40), slice(40, 90)]
    total = sum(modified_confusion(labels[part], decisions[part]) for part in parts)
    np.testing.assert_allclose(total, modified_confusion(labels, decisions), atol=1e-12)
    sums = [challenge_sums(labels[part], decisions[part], weights, 14) for part in parts]
    whole = challenge_score(labels, decisions, weights, 14)
    assert (sums[0] + sums[1] + sums[2]).score == pytest.approx(whole, abs=1e-12)


def test_score_is_zero_where_the_truth_is_sinus_rhythm_everywhere(table):
    _, weights = table
    labels = np.zeros((5, 26), bool)
    labels[:, 14] = True
    assert challenge_score(labels, ~labels, weights, 14) == 0.0
    assert ChallengeSums(1.0, 2.0, 2.0).score == 0.0


def test_a_missing_sinus_class_or_a_wrong_table_is_refused(table):
    classes, weights = table
    assert find_class(classes) == 14
    with pytest.raises(ValueError, match="426783006"):
        find_class(classes[:14])
    labels = np.ones((2, 26))
    for index in (-1, 26):
        with pytest.raises(ValueError, match=f"is {index}"):
            challenge_score(labels, labels, weights, index)
    with pytest.raises(ValueError, match=r"\[26, 26\].*\[25, 25\]"):
        challenge_score(labels, labels, weights[:25, :25], 14)


def test_the_official_table_has_26_classes_over_30_codes(table):
    classes, weights = table
    assert len(classes) == 26
    assert len(frozenset().union(*classes)) == 30
    assert frozenset({"713427006", "59118001"}) in classes
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_array_equal(np.diag(weights), np.ones(26))
    assert weights.min() == 0.15


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",a,b\na,1,0\nb,0,1,5\n", "row 3 .* 3 cells.* 4"),
        (",a,b\nb,1,0\na,0,1\n", "same classes"),
        (",a,b\na,1,0\n", "same classes"),
        (",a,a|b\na,1,0\na|b,0,1\n", "two classes"),
        (",a,b\na,1,x\nb,0,1\n", "row a"),
        (",a,b\na,1,0\nb,nan,1\n", "row b.*finite"),
        ("\n", "square"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, text, message):
    path = tmp_path / "weights.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        load_weights(path)


@pytest.mark.parametrize(
    "line", ["#Dx: 59118001,164889003", "# Dx: 59118001, 164889003", "#  Dx :59118001,,164889003,"]
)
def test_both_spellings_of_the_diagnosis_line_and_empty_items_are_read(line):
    header = f"A0001 1 500 10\nA0001.mat 16+24 1000/mV 16 0 1 2 0 I\n#Age: 74\n{line}\n#Rx: Dx: 1\n"
    assert codes_from_header(header) == ["59118001", "164889003"]
    assert labels_from_header(header, CLASSES).tolist() == [False, True, True]
    comments = [text.lstrip("# ") for text in header.splitlines()[2:]]
    assert codes_from_header(comments) == ["59118001", "164889003"]


def test_repeated_lines_add_up_and_unknown_codes_are_left_out():
    comments = ["Dx: 426783006,10", "Dx: 713427006,59118001,426783006"]
    assert codes_from_header(comments) == ["426783006", "10", "713427006", "59118001"]
    assert labels_from_header(comments, CLASSES).tolist() == [True, True, False]
    assert not labels_from_header(["Dx: 10", "Dx:"], CLASSES).any()


def test_a_header_without_diagnosis_line_is_unlabelled():
    with pytest.raises(ValueError, match="Age: 74"):
        labels_from_header("A0001 0 500 10\n# Age: 74\n", CLASSES)


def test_output_columns_of_one_class_are_joined_and_the_rest_is_left_out(tmp_path):
    path = tmp_path / "A0001.csv"
    path.write_text("#A0001\n1,59118001,713427006,426783006\nT,0,True,0\n.9,.2,.6,nan\n", "utf-8")
    output = read_output_csv(path, CLASSES)
    assert output.record == "A0001"
    assert output.decisions.tolist() == [False, True, False]
    np.testing.assert_allclose(output.scores, [0.0, 0.4, 0.0], atol=1e-15)


@pytest.mark.parametrize("text", ["", "#A\n1,2\n0,1\n", "#A\n1,2\n0,1\n0.5\n"])
def test_a_malformed_output_file_is_refused_by_name(tmp_path, text):
    path = tmp_path / "A0001.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"A0001\.csv"):
        read_output_csv(path, CLASSES)


def test_the_28_official_records_score_as_the_official_code_of_2021_and_2020(shared, table):
    classes, weights = table
    folder = shared / "data/scoring/cinc2020-28-records"
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    headers = sorted((folder / "labels").glob("*.hea"))
    outputs = [read_output_csv(folder / "outputs" / f"{h.stem}.csv", classes) for h in headers]
    assert [output.record for output in outputs] == [header.stem for header in headers]
    labels = np.stack([labels_from_header(h.read_text("utf-8"), classes) for h in headers])
    decisions = np.stack([output.decisions for output in outputs])
    scores = np.stack([output.scores for output in outputs])

    of_2021 = expected["evaluation-2021"]
    assert [set(name.split("|")) for name in of_2021["classes"]] == classes
    assert auroc(scores, labels) == pytest.approx(of_2021["auroc"], abs=1e-9)
    assert average_precision(scores, labels) == pytest.approx(of_2021["auprc"], abs=1e-9)
    for name, values in (
        ("auroc_classes", auroc_per_class(scores, labels)),
        ("auprc_classes", average_precision_per_class(scores, labels)),
        ("f_measure_classes", f_measure_per_class(labels, decisions)),
    ):
        np.testing.assert_allclose(values, of_2021[name], atol=1e-9, equal_nan=True)
    assert_decisions(labels, decisions, weights, of_2021)

    *_, accuracy, f_plain, _, f_beta, g_beta, metric = expected["evaluation-2020"][
        "results_in_order_auroc_auprc_accuracy_f_fbeta_gbeta_challenge"
    ]
    # 2020 scored 24 classes: those of 2021 without bundle branch block and poor R wave progression.
    kept = [k for k, codes in enumerate(classes) if not codes & {"6374002", "365413008"}]
    labels, decisions = labels[:, kept], decisions[:, kept]
    of_2020 = {"accuracy": accuracy, "f_measure": f_plain, "challenge_metric": metric}
    assert_decisions(labels, decisions, weights[np.ix_(kept, kept)], of_2020, sinus_index=13)
    assert f_beta_g_beta(labels, decisions) == pytest.approx((f_beta, g_beta), abs=1e-9)


def test_186_label_vectors_score_as_the_official_code(shared, table):
    classes, weights = table
    folder = shared / "data/scoring/cinc2021-matrix"
    expected = json.loads((folder / "expected.json").read_text("utf-8"))["scores"]
    labels, scores = (read_table(folder / name) for name in ("y_true.csv", "y_prob.csv"))
    sinus = np.zeros_like(labels)
    sinus[:, find_class(classes)] = 1
    answers = {
        "seeded": (scores, scores >= 0.6),
        "always_true_label": (labels, labels),
        "always_sinus_rhythm": (sinus, sinus),
        "all_negative": (np.zeros_like(labels), np.zeros_like(labels)),
        "all_positive": (np.ones_like(labels), np.ones_like(labels)),
    }
    assert answers.keys() == expected.keys()
    for name, (values, decisions) in answers.items():
        official = expected[name]
        assert auroc(values, labels) == pytest.approx(official["auroc"], abs=1e-9)
        assert average_precision(values, labels) == pytest.approx(official["auprc"], abs=1e-9)
        assert_decisions(labels, decisions, weights, official)


def assert_decisions(labels, decisions, weights, official, sinus_index=14):
    ours = {
        "accuracy": accuracy_exact(labels, decisions),
        "f_measure": f_measure(labels, decisions),
        "challenge_metric": challenge_score(labels, decisions, weights, sinus_index),
    }
    assert ours == pytest.approx({name: official[name] for name in ours}, abs=1e-9)


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return np.array([row[1:] for row in csv.reader(file)][1:], dtype=np.float64)
