"""The folder of an evaluation: every file, what comes back, and a disk that runs full."""

import errno
import json
import os

import numpy as np
import pandas as pd
import pytest

from fairseq_ecg.evaluation_files import (
    FILES,
    METRICS_FILE,
    read_evaluation,
    with_interval,
    write_evaluation,
)
from fairseq_ecg.evaluation_results import Identification, ReconstructionErrors
from fairseq_ecg.metrics.bootstrap import Interval, paired_difference
from fairseq_ecg.metrics.resampled import PER_CLASS
from tests.builds import contents
from tests.evaluations import drawn_evaluation

TABLES = {
    *("metrics.json", "metrics.csv", "metrics.md", "predictions.csv", "truth.csv", "records.csv"),
    "subgroups.csv",
}
PICTURES = {"curves.png", "calibration.png", "subgroups.png"}


def written(tmp_path, draws=30, pictures=False, **options):
    result = drawn_evaluation(80, **options)
    result.add_intervals(draws)
    write_evaluation(result, tmp_path / "out", pictures=pictures)
    return result, tmp_path / "out"


@pytest.mark.parametrize("single_label", [False, True])
def test_every_file_is_there(tmp_path, single_label):
    _, folder = written(tmp_path, pictures=True, single_label=single_label)
    own = {"confusion.csv", "confusion.png"} if single_label else {"cooccurrence.png"}
    assert set(os.listdir(folder)) == TABLES | PICTURES | own
    assert set(os.listdir(folder)) <= set(FILES)
    for name in PICTURES:
        assert (folder / name).read_bytes()[1:4] == b"PNG"


def test_the_json_holds_numbers_intervals_classes_groups_and_words(tmp_path):
    result, folder = written(tmp_path)
    content = json.loads((folder / METRICS_FILE).read_text())
    assert content["metrics"] == pytest.approx(result.metrics)
    assert set(content["intervals"]) == set(result.metrics)
    found = content["intervals"]["macro_auroc"]
    assert found == vars(result.intervals["macro_auroc"])
    assert content["bootstrap"] == {"draws": 30, "level": 0.95, "by": "patient"}
    assert content["thresholds"] == dict(zip(result.labels, result.thresholds, strict=True))
    assert [row["class"] for row in content["classes"]] == result.labels
    assert (content["patients"], content["rows"]) == (40, 80)
    assert {row["attribute"] for row in content["subgroups"]} == {"age", "sex", "corpus"}
    assert content["remarks"] == []


def test_the_long_table_has_a_row_per_number(tmp_path):
    result, folder = written(tmp_path)
    table = pd.read_csv(folder / "metrics.csv", keep_default_na=False, na_values={"low": [""]})
    assert list(table.columns) == ["metric", "class", "value", "low", "high", "n", "draws"]
    whole = table[table["class"] == ""].set_index("metric")
    assert set(whole.index) == {*result.metrics, "ece", "brier"}
    assert float(whole.loc["f1", "low"]) == pytest.approx(result.intervals["f1"].low, rel=1e-8)
    assert (whole.loc["f1", "n"], whole.loc["f1", "draws"]) == (80, "30")
    assert np.isnan(whole.loc["ece", "low"])
    each = table[table["class"] == "class 2"]
    assert sorted(each["metric"]) == sorted((*PER_CLASS, "ece"))


def test_the_page_shows_values_with_intervals(tmp_path):
    result, folder = written(tmp_path)
    text = (folder / "metrics.md").read_text()
    area = result.intervals["macro_auroc"]
    assert f"| macro_auroc | {area.value:.3f} ({area.low:.3f}-{area.high:.3f}) |" in text
    assert "80 records of 40 patients" in text
    assert "| sex: male |" in text
    assert "## Remarks" not in text
    assert with_interval(float("nan")) == "-"
    assert with_interval(0.5) == "0.500"


@pytest.mark.parametrize("single_label", [False, True])
def test_what_was_written_comes_back_and_can_be_compared(tmp_path, single_label):
    result, folder = written(tmp_path, single_label=single_label)
    again = read_evaluation(folder)
    assert (again.names, again.labels) == (result.names, result.labels)
    assert again.single_label == single_label
    assert (again.split, again.checkpoints) == ("test", ("best.pt",))
    np.testing.assert_array_equal(again.decisions(), result.decisions())
    pd.testing.assert_frame_equal(again.records, result.records, check_dtype=False)
    assert again.patients().tolist() == result.patients().tolist()
    found = paired_difference(result.resampled(), again.resampled(), again.patients(), 20)
    assert found["f1"].value == 0
    assert abs(found["auroc/class 0"].value) < 1e-9


def test_a_folder_of_an_older_kind_is_read_without_what_it_lacks(tmp_path):
    result, folder = written(tmp_path)
    for name in ("metrics.json", "records.csv"):
        (folder / name).unlink()
    again = read_evaluation(folder)
    assert again.records is None
    assert again.thresholds.tolist() == [0.5] * 3
    (folder / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json is no JSON"):
        read_evaluation(folder)


def test_records_of_other_rows_are_refused(tmp_path):
    _, folder = written(tmp_path)
    lines = (folder / "records.csv").read_text().splitlines()
    (folder / "records.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"records\.csv has other rows than predictions\.csv"):
        read_evaluation(folder)


def test_a_number_without_meaning_is_null_and_empty(tmp_path):
    result = drawn_evaluation(12)
    result.truth[:, 1] = 0
    result.metrics = result.summary(result.probability, result.truth)
    result.add_intervals(20)
    write_evaluation(result, tmp_path, pictures=True)
    text = (tmp_path / METRICS_FILE).read_text()
    assert "NaN" not in text
    assert json.loads(text)["classes"][1]["auroc"] is None
    assert "auroc,class 1,,,,12,0\n" in (tmp_path / "metrics.csv").read_text()
    assert "classes without a positive record" in (tmp_path / "metrics.md").read_text()


def test_what_an_earlier_evaluation_left_is_gone_and_foreign_files_stay(tmp_path):
    _, folder = written(tmp_path, single_label=True, pictures=True)
    (folder / "thresholds.json").write_text("mine")
    write_evaluation(drawn_evaluation(8), folder, also={"more.txt": "text"})
    assert "confusion.csv" not in os.listdir(folder)  # else it would be read as single-label
    assert "confusion.png" not in os.listdir(folder)
    assert (folder / "thresholds.json").read_text() == "mine"
    assert (folder / "more.txt").read_text() == "text"
    assert not read_evaluation(folder).single_label


@pytest.mark.parametrize("files", [0, 3, 9])
def test_a_disk_that_runs_full_leaves_no_half_written_result(tmp_path, monkeypatch, files):
    _, folder = written(tmp_path)
    before = contents(tmp_path)
    count = 0
    real = os.fsync

    def fsync(descriptor):
        nonlocal count
        count += 1
        if count > files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr("fairseq_ecg.data.atomic.os.fsync", fsync)
    for target in (folder, tmp_path / "new"):
        count = 0
        with pytest.raises(OSError, match="No space left"):
            write_evaluation(drawn_evaluation(30, seed=5), target, pictures=True)
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["out"]


def test_identifications_and_reconstructions_are_written_with_their_intervals(tmp_path):
    interval = {"accuracy": Interval(0.5, 0.25, 0.75, 10)}
    found = Identification(
        ["a", "b"], np.array([0, 1]), ["c", "d"], np.array([0, 0]), np.array([0.9, 0.8]),
        {"accuracy": 0.5, "eer": 0.25}, 4, 0, intervals=interval, draws=10,
    )  # fmt: skip
    write_evaluation(found, tmp_path / "a", pictures=True)
    assert "| accuracy | 0.500 (0.250-0.750) |" in (tmp_path / "a/metrics.md").read_text()
    content = json.loads((tmp_path / "a/metrics.json").read_text())
    assert content["intervals"]["accuracy"]["low"] == 0.25
    errors = ReconstructionErrors(["a"], {"mse": np.array([1.0])}, {"mse": 1.0}, 1, 0)
    write_evaluation(errors, tmp_path / "b", pictures=True)
    assert sorted(os.listdir(tmp_path / "b")) == [
        *("metrics.csv", "metrics.json", "metrics.md", "predictions.csv")
    ]
