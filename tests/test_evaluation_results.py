"""What is said about an evaluation: tables of classes and groups, intervals, and words."""

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, precision_score, roc_auc_score

from fairseq_ecg.evaluation_results import (
    SMALLEST_GROUP,
    Evaluation,
    full_summary,
    remarks,
    subgroup_reliability,
    subgroups,
)
from fairseq_ecg.metrics.bootstrap import bootstrap_intervals
from fairseq_ecg.metrics.resampled import PER_CLASS, of_class
from tests.evaluations import drawn_evaluation


@pytest.mark.parametrize("single_label", [False, True])
def test_the_table_of_classes_is_scikit_learns(single_label):
    result = drawn_evaluation(single_label=single_label)
    table, decided = result.per_class(), result.decisions()
    assert list(table.index) == result.labels
    for k, (_, row) in enumerate(table.iterrows()):
        truth, chance = result.truth[:, k], result.probability[:, k]
        assert row["positives"] == truth.sum()
        assert row["patients"] == result.records.loc[truth == 1, "patient"].nunique()
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, chance), abs=1e-9)
        assert row["brier"] == pytest.approx(brier_score_loss(truth, chance), abs=1e-9)
        assert row["f1"] == pytest.approx(f1_score(truth, decided[:, k]), abs=1e-9)
        assert row["precision"] == pytest.approx(precision_score(truth, decided[:, k]), abs=1e-9)
    expected = [math.nan] * 3 if single_label else [0.3, 0.45, 0.6]
    assert table["threshold"].tolist() == pytest.approx(expected, nan_ok=True)
    assert not [name for name in table if name.endswith("_low")]


@pytest.mark.parametrize("single_label", [False, True])
def test_intervals_are_drawn_by_patient_and_stand_in_the_table(single_label):
    result = drawn_evaluation(single_label=single_label)
    result.add_intervals(50, seed=4)
    assert set(result.metrics) <= set(result.intervals)
    for name, value in result.metrics.items():
        assert result.intervals[name].value == pytest.approx(value, abs=1e-12, nan_ok=True)
    patients = result.records["patient"].to_numpy()
    expected = bootstrap_intervals(result.resampled(), patients, 50, seed=4)
    assert result.intervals == expected
    table = result.per_class()
    for metric in PER_CLASS:
        found = expected[of_class(metric, "class 1")]
        ends = [table.loc["class 1", f"{metric}_{end}"] for end in ("low", "high", "draws")]
        assert ends == [found.low, found.high, found.valid]
    by_record = drawn_evaluation(single_label=single_label, per_patient=1)
    by_record.add_intervals(50, seed=4)
    assert by_record.intervals != expected
    result.add_intervals(0)
    assert (result.intervals, result.draws) == ({}, 0)


def test_calibration_is_a_mean_over_classes_or_of_the_answers():
    result = drawn_evaluation()
    found = result.calibration()
    assert found["ece"] == pytest.approx(result.per_class()["ece"].mean())
    assert found["brier"] == pytest.approx(result.per_class()["brier"].mean())
    other = drawn_evaluation(single_label=True)
    assert other.calibration()["ece"] != pytest.approx(other.per_class()["ece"].mean())


def test_rows_of_nobody_known_stand_for_themselves():
    result = drawn_evaluation(4)
    result.records.loc[2:, "patient"] = ""
    assert result.patients().tolist() == ["p0", "p0", "record r002", "record r003"]
    result.records = None
    assert len(set(result.patients())) == 4
    assert "patients are not known" in remarks(result)[0]


def test_what_has_no_number_is_said_in_words():
    result = drawn_evaluation(60, 5)
    result.truth[:, 0], result.truth[:, 1] = 0, 1
    result.truth[:, 2] = 0
    result.truth[4:6, 2] = 1  # one patient, both recordings
    result.probability[:, 3] = 0.25
    result.add_intervals(100)
    said = {words.partition(":")[0].split(",")[0]: words for words in remarks(result)}
    assert said["classes without a positive record"].endswith(": class 0")
    assert said["classes without a negative record"].endswith(": class 1")
    assert said["classes with positives of one patient only"].endswith(": class 2")
    assert said["classes with one score for all"].endswith(": class 3")
    (drawn,) = [words for words in remarks(result) if words.startswith("draws without")]
    without = 100 - result.intervals["auroc/class 2"].valid
    assert drawn.endswith(f"of 100: class 2 {without}")
    assert 20 < without < 60  # a patient of 30 is left out by 36 of 100 draws
    assert remarks(drawn_evaluation(200)) == []


def test_one_patient_alone_is_said_to_be_alone():
    result = drawn_evaluation(6, per_patient=6)
    result.add_intervals(20)
    assert "all rows are of one patient" in remarks(result)[0]
    assert all(math.isnan(interval.low) for interval in result.intervals.values())
    few = drawn_evaluation(20)
    few.add_intervals(20)
    assert "intervals from 10 patients are too narrow" in remarks(few)[0]


def test_groups_are_compared_over_the_classes_that_each_of_them_can_tell_apart():
    result = drawn_evaluation(200)
    male = (result.records["sex"] == "male").to_numpy()
    result.truth[male, 0] = 0
    table = subgroups(result, draws=40).set_index(["attribute", "group"])
    assert set(table.loc["sex"].index) == {"female", "male"}  # unknown is no group
    assert table.loc["sex", "classes"].tolist() == [2, 2]
    assert table.loc["corpus", "classes"].tolist() == [3, 3]
    row = table.loc[("sex", "male")]
    expected = roc_auc_score(result.truth[male][:, 1:], result.probability[male][:, 1:])
    assert row["auroc"] == pytest.approx(expected, abs=1e-9)
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert row["rows"] == male.sum()
    assert row["patients"] == result.records.loc[male, "patient"].nunique()
    found = subgroup_reliability(result)
    assert set(found) == {"age", "sex", "corpus"}
    assert found["sex"]["male"].count.sum() == 2 * male.sum()
    assert table.loc["age", "rows"].sum() == result.records["age"].notna().sum()


def test_groups_that_are_too_small_have_counts_only():
    result = drawn_evaluation(100)
    result.records["sex"] = ["x"] * (SMALLEST_GROUP - 1) + ["y"] * (101 - SMALLEST_GROUP)
    table = subgroups(result, draws=0).set_index("group")
    assert math.isnan(table.loc["x", "auroc"])
    assert table.loc["x", "rows"] == SMALLEST_GROUP - 1
    assert table.loc["y", "auroc"] > 0
    assert math.isnan(table.loc["y", "auroc_low"])
    assert "sex" not in subgroup_reliability(result)  # nothing to compare with


def test_groups_of_classes_that_exclude_each_other_are_judged_by_their_answers():
    result = drawn_evaluation(200, single_label=True)
    table = subgroups(result, draws=0).set_index("group")
    found = subgroup_reliability(result)["corpus"]
    assert table.loc["one", "ece"] == pytest.approx(found["one"].error)
    assert found["one"].count.sum() == table.loc["one", "rows"]


def test_of_nothing_known_there_are_no_groups():
    result = drawn_evaluation()
    result.records = None
    assert len(subgroups(result)) == 0
    assert subgroup_reliability(result) == {}


def test_an_evaluation_without_a_summary_has_the_usual_numbers_cut_at_one_half():
    result = drawn_evaluation()
    plain = Evaluation(result.names, result.labels, result.probability, result.truth)
    assert plain.thresholds.tolist() == [0.5, 0.5, 0.5]
    plain.add_intervals(10)
    expected = full_summary(result.labels)(result.probability, result.truth)
    for name, value in expected.items():
        assert plain.intervals[name].value == pytest.approx(value, abs=1e-12)
    np.testing.assert_array_equal(plain.decisions(), result.probability > 0.5)
