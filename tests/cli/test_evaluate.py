"""The verb as a user runs it: one checkpoint and several, thresholds, files, and what is refused."""

import errno
import json
import os

import numpy as np
import pandas as pd
import pytest
import torch

from fairseq_ecg.cli.main import main
from fairseq_ecg.cli.thresholds import choose_thresholds, read_thresholds
from fairseq_ecg.contract import ContractError
from fairseq_ecg.evaluation import evaluate, evaluate_splits
from fairseq_ecg.evaluation_files import read_evaluation
from tests.builds import contents
from tests.recordings import write_tone_store
from tests.runs import CLASSIFICATION, single_label_words, train, write_segments


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    words = [*CLASSIFICATION, f"task.data={data}", "optimization.max_update=12"]
    done = train(tmp_path_factory.mktemp("run"), [*words, "optimization.lr=[0.01]"])
    return str(done.checkpoints / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """Another network."""
    path = tmp_path_factory.mktemp("second") / "second.pt"
    return changed(first, path, head=lambda values: values.flip(-1))


def changed(checkpoint, path, head=None, criterion=None, **contract):
    """Write a copy of a checkpoint with another head and other settings."""
    raw = torch.load(checkpoint, weights_only=True)
    for name, values in raw["model"].items():
        if head is not None and name.startswith("proj"):
            raw["model"][name] = head(values)
    raw["task_state"]["input_contract"].update(contract)
    raw["cfg"]["criterion"].update(criterion or {})
    torch.save(raw, path)
    return str(path)


# --- intervals and what is known of the rows --------------------------------------------------------


def test_intervals_are_asked_for_and_leave_the_numbers_alone(first, data):
    plain, drawn = evaluate(first, str(data)), evaluate(first, str(data), bootstrap=40, seed=3)
    assert plain.intervals == {}
    assert drawn.metrics == plain.metrics
    assert drawn.intervals["macro_auroc"].value == pytest.approx(plain.metrics["macro_auroc"])
    assert drawn.draws == 40
    assert evaluate(first, str(data), bootstrap=40, seed=4).intervals != drawn.intervals


def test_rows_say_whose_they_are_and_whether_they_were_trained_on(first, data):
    records = evaluate(first, str(data)).records
    assert records["patient"].tolist() == [f"pr{i:03d}" for i in range(15, 22)]
    assert records["trained_on"].tolist() == [True] * 3 + [False] * 4
    assert not records["pretrained_on"].any()
    assert set(records["corpus"]) == {"tones"}
    assert records["age"].isna().all()
    segments = evaluate(first, str(data), score_per="segment")
    assert segments.records["patient"].tolist() == [
        name for name in records["patient"] for _ in "ab"
    ]


def test_splits_together_have_the_rows_of_both(first, data):
    both = evaluate_splits(first, str(data), ["valid", "test"], bootstrap=20)
    assert both.records["record"].tolist() == both.names
    assert both.split == "valid+test"
    assert both.intervals["f1"].value == pytest.approx(both.metrics["f1"])


# --- several checkpoints ----------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_probability(first, second, data):
    one, other = evaluate(first, str(data)), evaluate(second, str(data))
    both = evaluate([first, second], str(data), bootstrap=10)
    mean = (one.probability + other.probability) / 2
    np.testing.assert_allclose(both.probability, mean, atol=1e-7)
    assert both.metrics == pytest.approx(both.summary(mean, one.truth), nan_ok=True)
    assert both.metrics["auroc"] not in (one.metrics["auroc"], other.metrics["auroc"])
    assert both.checkpoints == (first, second)
    assert both.intervals["auroc"].value == pytest.approx(both.metrics["auroc"])
    np.testing.assert_array_equal(evaluate([first], str(data)).probability, one.probability)


def test_what_any_member_was_trained_on_counts_once(first, data, tmp_path):
    known = torch.load(first, weights_only=True)["task_state"]["input_contract"]["trained_on"]
    records = known["records"]
    halves = [
        changed(first, tmp_path / f"{i}.pt", trained_on={"records": part})
        for i, part in enumerate((records[: len(records) // 2], records[len(records) // 2 - 2 :]))
    ]
    each = [evaluate(path, str(data), "train").overlap for path in halves]
    assert sum(each) == 18 + 2
    assert evaluate(halves, str(data), "train").overlap == 18


def test_networks_that_cannot_be_averaged_are_refused(first, data, tmp_path):
    other = changed(first, tmp_path / "b.pt", labels=["a", "c", "b"])
    with pytest.raises(
        ContractError, match=r"b\.pt decides other classes \(a, c, b, \.\.\.\) than"
    ):
        evaluate([first, other], str(data))
    other = changed(first, tmp_path / "c.pt", criterion={"threshold": 0.2})
    with pytest.raises(ValueError, match=r"other thresholds or averages .*--threshold 0\.5"):
        evaluate([first, other], str(data))
    assert evaluate([first, other], str(data), threshold=0.5).thresholds.tolist() == [0.5] * 3
    with pytest.raises(ValueError, match="there is no checkpoint to evaluate"):
        evaluate([], str(data))


def test_a_network_that_answers_with_nan_is_refused_by_the_recording(first, data, tmp_path):
    broken = changed(first, tmp_path / "nan.pt", head=lambda values: values * float("nan"))
    message = r"nan\.pt: the network puts out nan for class a of r015 \(7 of 7 records are affected"
    with pytest.raises(ValueError, match=message):
        evaluate(broken, str(data))


# --- the command ------------------------------------------------------------------------------------


def test_the_command_searches_on_validation_and_keeps_what_it_found(
    first, second, data, tmp_path, capsys
):
    out = tmp_path / "out"
    words = ["evaluate", first, second, str(data), "--search-thresholds", "valid"]
    assert main([*words, "--bootstrap", "50", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    chosen = read_thresholds(out / "thresholds.json")
    assert chosen == choose_thresholds([first, second], str(data))
    assert (chosen.split, chosen.checkpoint) == ("valid", f"{first} + {second}")
    result = evaluate([first, second], str(data), threshold=chosen.thresholds)
    content = json.loads((out / "metrics.json").read_text())
    assert content["metrics"] == pytest.approx(result.metrics, nan_ok=True)
    assert content["thresholds"] == chosen.thresholds
    assert content["checkpoints"] == [first, second]
    assert "95 % intervals: 50 draws of patients" in printed.out
    assert "note: intervals from 7 patients are too narrow" in printed.out
    assert "chosen" not in printed.err
    assert read_evaluation(out).names == result.names
    for picture in ("curves.png", "calibration.png", "cooccurrence.png"):
        assert (out / picture).is_file()
    again = ["evaluate", first, second, str(data), "--thresholds", str(out / "thresholds.json")]
    assert main([*again, "--bootstrap", "0", "--out", str(out), "--no-pictures"]) == 0
    assert capsys.readouterr().err.count("\n") == 1  # of the recordings trained on
    assert not (out / "curves.png").exists()
    assert json.loads((out / "metrics.json").read_text())["intervals"] == {}


def test_classes_that_exclude_each_other_have_a_confusion(tmp_path, capsys):
    data = write_segments(tmp_path / "data")
    for split in ("train", "valid", "test"):
        path = data / f"{split}.tsv"
        lines = path.read_text().splitlines()
        rows = [line.split("\t") for line in lines[1:]]
        kept = ["\t".join(row) for row in rows if row[2] in ("a", "b", "c")]
        path.write_text("\n".join([lines[0], *kept]) + "\n")
    words = [*single_label_words(tmp_path), f"task.data={data}", "optimization.max_update=2"]
    (data / "test.tsv").write_text((data / "train.tsv").read_text())
    (data / "valid.tsv").write_text((data / "train.tsv").read_text())
    done = train(tmp_path / "run", words)
    path, out = str(done.checkpoints / "checkpoint_last.pt"), tmp_path / "out"
    assert main(["evaluate", path, str(data), "--bootstrap", "20", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "confusion (row: true, column: answered)" in printed.out
    assert "patients are not known" in printed.out  # recordings in files
    again = read_evaluation(out)
    assert again.single_label
    assert again.confusion().to_numpy().sum() == len(again.names) == 9
    assert (out / "confusion.png").is_file()
    words = ["evaluate", path, str(data), "--search-thresholds", "valid", "--bootstrap", "0"]
    assert main(words) == 2
    assert "there are no thresholds to choose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--search-thresholds", "test"], "on the recordings that are scored; choose them on"),
        (["--split", "tset"], "tset.tsv: no such file"),
        (["--search-thresholds", "vaild"], "vaild.tsv: no such file"),
        (["--bootstrap", "-1"], "--bootstrap must be 0 or more, but is -1"),
        (["--thresholds", "gone.json"], "gone.json: there is no such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(first, data, tmp_path, capsys, words, message):
    assert main(["evaluate", first, str(data), *words, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert contents(tmp_path) == {}


def test_recordings_that_the_network_does_not_expect_leave_no_file(first, tmp_path, capsys):
    other = write_segments(tmp_path / "data", count=20, rate_hz=200)
    assert main(["evaluate", first, str(other), "--out", str(tmp_path / "out")]) == 2
    assert "expects 100 Hz, but the recordings have 200 Hz" in capsys.readouterr().err
    (other / "labels.txt").write_text("x\ny\nz\n")
    assert main(["evaluate", first, str(other), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_said_before_anything_is_computed(
    first, data, tmp_path, capsys
):
    (tmp_path / "out").write_text("mine")
    assert main(["evaluate", "nowhere.pt", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "out is a file; give the name of a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_a_full_disk_is_an_error_without_a_half_written_folder(
    first, data, tmp_path, capsys, monkeypatch
):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fairseq_ecg.data.atomic.os.fsync", full)
    words = ["evaluate", first, str(data), "--bootstrap", "0", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_the_long_table_opens_in_pandas(first, data, tmp_path):
    words = ["evaluate", first, str(data), "--bootstrap", "20", "--out", str(tmp_path)]
    assert main([*words, "--no-pictures"]) == 0
    table = pd.read_csv(tmp_path / "metrics.csv")
    row = table[(table["metric"] == "auroc") & (table["class"] == "b")].iloc[0]
    assert row["low"] <= row["value"] <= row["high"]
