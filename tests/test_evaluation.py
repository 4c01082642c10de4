"""Scores of a checkpoint that was really trained, on splits of a store."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from fairseq_ecg.checkpoint import read_checkpoint
from fairseq_ecg.cli.main import main
from fairseq_ecg.conversion import FORMATS, convert_checkpoint
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.metrics.multilabel import decide, f_beta_g_beta
from fairseq_ecg.metrics.ptbxl import f_max
from tests.recordings import write_mat, write_tone_store
from tests.runs import CLASSIFICATION, PRETRAINING, logged, train, write_segments


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_tone_store(tmp_path_factory.mktemp("tones") / "data")
    lines = (folder / "train.tsv").read_text().splitlines()
    (folder / "again.tsv").write_text("\n".join(lines) + "\n")
    (folder / "nothing.tsv").write_text("\n".join([lines[0], lines[1]]) + "\n")  # r000: no class
    files = (folder / "test.tsv").read_text().replace("store\n", "wfdb\n", 1)
    (folder / "files.tsv").write_text(files)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run with lead masking in training, whose label file is gone afterwards."""
    cwd = tmp_path_factory.mktemp("run")
    np.save(cwd / "y.npy", np.zeros((22, 3)))
    done = train(
        cwd,
        [
            *CLASSIFICATION,
            f"task.data={data}",
            f"task.label_file={cwd}/y.npy",
            "task.perturbation_mode=[random_leads_masking]",
            "task.min_sample_size=100",
            "criterion.report_f_max=true",
            "criterion.report_f_beta=true",
            "model.dropout=0.2",
            "optimization.max_epoch=4",
            "optimization.lr=[0.01]",
        ],
    )
    (cwd / "y.npy").unlink()
    return done


@pytest.fixture(scope="module")
def checkpoint(run):
    return str(run.checkpoints / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def result(checkpoint, data):
    return evaluate(checkpoint, str(data))


def test_the_rows_are_the_recordings_of_the_manifest(result):
    assert result.names == [f"r{i:03d}" for i in range(15, 22)]
    assert result.labels == ["a", "b", "c"]
    expected = [[(i >> k) & 1 for k in range(3)] for i in range(15, 22)]
    assert result.truth.tolist() == expected
    assert result.num_segments == 14
    assert result.probability.shape == (7, 3)
    assert np.unique(result.probability).size == 21


def test_metrics_are_scikit_learns_on_the_rows(result):
    assert result.metrics["auroc"] == pytest.approx(roc_auc_score(result.truth, result.probability))
    decisions = result.probability > 0.5
    assert result.metrics["f1"] == pytest.approx(
        f1_score(result.truth, decisions, average="macro", zero_division=0)
    )
    assert "cinc_score" not in result.metrics
    assert result.metrics["f_max"] == f_max(result.probability, result.truth)
    decisions = decide(result.probability, 0.5, fallback=True)
    expected = f_beta_g_beta(result.truth, decisions)
    assert (result.metrics["f_beta"], result.metrics["g_beta"]) == expected


def test_a_recordings_score_is_the_mean_over_its_segments(checkpoint, data, result):
    segments = evaluate(checkpoint, str(data), score_per="segment", batch_size=5)
    assert segments.names == [name for name in result.names for _ in range(2)]
    mean = segments.probability.reshape(7, 2, 3).mean(axis=1)
    np.testing.assert_allclose(result.probability, mean, atol=1e-6)
    assert not np.array_equal(segments.probability[::2], segments.probability[1::2])


def test_the_threshold_decides(checkpoint, data):
    low, high = (evaluate(checkpoint, str(data), threshold=t) for t in (0.0, 1.0))
    assert low.metrics["auroc"] == high.metrics["auroc"]
    assert (low.metrics["f1"], high.metrics["f1"]) != (0, 0)
    assert high.metrics["f1"] == 0.0
    assert low.metrics["f1"] > 0.3


def test_the_last_validation_of_the_run_is_repeated_exactly(run, checkpoint, data):
    valid = logged(run.cwd, "valid")[-1]
    again = evaluate(checkpoint, str(data), "valid", score_per="segment")
    for name, value in again.metrics.items():
        assert value == pytest.approx(valid[f"valid_{name}"], abs=2e-4), name


def test_recordings_trained_on_are_counted_those_in_files_by_their_names(
    checkpoint, data, result, caplog
):
    assert result.overlap == 3
    assert evaluate(checkpoint, str(data), "train").overlap == 18
    assert "by their names" not in caplog.text
    assert evaluate(checkpoint, str(data), "files").overlap == 3
    assert "by their names, not by their samples" in caplog.text


def test_the_training_split_is_scored_whole_in_order_and_without_perturbation(checkpoint, data):
    train_split, copy = (evaluate(checkpoint, str(data), split) for split in ("train", "again"))
    assert train_split.names == copy.names == [f"r{i:03d}" for i in range(18)]
    np.testing.assert_allclose(train_split.probability, copy.probability, atol=1e-6)


def test_a_folder_of_files_scores_as_the_store_made_of_it(checkpoint, data, result):
    files = evaluate(checkpoint, str(data), "files")
    np.testing.assert_allclose(files.probability, result.probability, atol=0.01)


def changed(checkpoint, path, **contract):
    """Write a copy of a checkpoint whose contract says something else."""
    raw = torch.load(checkpoint, weights_only=True)
    raw["task_state"]["input_contract"].update(contract)
    torch.save(raw, path)
    return str(path)


def test_recordings_that_the_encoder_was_pretrained_on_are_counted_too(
    checkpoint, data, tmp_path, capsys
):
    known = read_checkpoint(checkpoint).contract["trained_on"]["records"]
    trained_on = {"records": known[:0], "pretraining": {"records": known}}
    path = changed(checkpoint, tmp_path / "a.pt", trained_on=trained_on)
    result = evaluate(path, str(data))
    assert (result.overlap, result.pretraining_overlap) == (0, 3)
    assert main(["evaluate", path, str(data), "--out", str(tmp_path)]) == 0
    assert "encoder was pretrained on 3 of these recordings" in capsys.readouterr().err
    assert json.loads((tmp_path / "metrics.json").read_text())["pretrained_on"] == 3


@pytest.mark.parametrize(
    ("standardize", "least"),
    # One scale for all hardly counts.
    [("record", 1e-3), ("person", 1e-3), ("window", 1e-6), ("window_lead", 1e-3)],
)
def test_recordings_are_standardised_if_the_checkpoint_expects_it(
    checkpoint, data, result, tmp_path, standardize, least
):
    expects = {"unit": "standard deviations", "standardize": standardize}
    path = changed(checkpoint, tmp_path / "a.pt", **expects)
    other = evaluate(path, str(data))
    assert np.abs(other.probability - result.probability).max() > least
    task_cfg = read_checkpoint(checkpoint).task_cfg
    assert task_cfg["standardize"] == "none"


def test_windows_and_frequencies_of_the_training_are_taken_over(checkpoint, data, result, tmp_path):
    raw = torch.load(checkpoint, weights_only=True)
    raw["cfg"]["task"].update(windowing="random", eval_windows=3, highpass_hz=10.0)
    raw["task_state"]["input_contract"]["highpass_hz"] = 10.0
    torch.save(raw, tmp_path / "a.pt")
    other = evaluate(str(tmp_path / "a.pt"), str(data))
    assert other.num_segments == 3 * 7
    assert np.abs(other.probability - result.probability).max() > 1e-3
    del raw["cfg"]["task"]["highpass_hz"]  # a file that knows it from its contract only
    torch.save(raw, tmp_path / "c.pt")
    again = evaluate(str(tmp_path / "c.pt"), str(data))
    np.testing.assert_array_equal(again.probability, other.probability)


def test_a_foreign_classifier_is_scored_like_ours(checkpoint, data, result, tmp_path):
    convert_checkpoint(checkpoint, tmp_path / "theirs.pt", FORMATS[1])
    raw = torch.load(tmp_path / "theirs.pt", weights_only=True)
    del raw["extra_state"]["input_contract"]
    raw["cfg"]["task"] |= {"patient_dataset": False, "clocs_mode": None}  # keys of its own
    torch.save(raw, tmp_path / "theirs.pt")
    again = evaluate(str(tmp_path / "theirs.pt"), str(data), score_per="segment")
    first = evaluate(checkpoint, str(data), score_per="segment")
    # it has no key for the length of segments: recordings are scored whole
    assert (again.num_segments, first.num_segments) == (7, 14)
    assert again.overlap == 0
    assert np.isfinite(again.probability).all()


# --- refusals -----------------------------------------------------------------------------------


def test_recordings_of_another_rate_are_refused_with_the_way_out(checkpoint, tmp_path):
    other = write_segments(tmp_path / "data", count=4, rate_hz=200)
    write_manifest(other / "test.tsv", "wfdb", [("r001", 400, "a")])
    with pytest.raises(ValueError, match="expects 100 Hz, but the recordings have 200.*--rate 100"):
        evaluate(checkpoint, str(other))


@pytest.mark.parametrize("names", ["a\nc\nb\n", "a\nb\nc\nd\n"])
def test_other_classes_or_another_order_are_refused(checkpoint, tmp_path, names):
    other = write_segments(tmp_path / "data", count=20)
    (other / "labels.txt").write_text(names)
    found = len(names.split())
    with pytest.raises(ValueError, match=rf"expects 3 classes \(a, b, c.*data have {found} \(a, "):
        evaluate(checkpoint, str(other))


def test_data_without_a_vocabulary_are_refused(checkpoint, tmp_path):
    write_manifest(tmp_path / "test.tsv", "wfdb", [("r0", 100)])
    with pytest.raises(ValueError, match="has no labels.txt; give the folder of a label set"):
        evaluate(checkpoint, str(tmp_path))


def test_a_split_that_does_not_exist_is_named(checkpoint, data):
    with pytest.raises(ValueError, match=r"tset\.tsv: no such file"):
        evaluate(checkpoint, str(data), "tset")


def test_an_unknown_way_of_scoring_is_refused(checkpoint, data):
    with pytest.raises(ValueError, match="score_per must be record or segment, got 'patient'"):
        evaluate(checkpoint, str(data), score_per="patient")


def test_a_checkpoint_that_decides_nothing_is_refused(data, tmp_path):
    pretrained = train(tmp_path, [*PRETRAINING, f"task.data={data}", "optimization.max_update=1"])
    path = pretrained.checkpoints / "checkpoint_last.pt"
    with pytest.raises(ValueError, match=r"network \(EcgWav2Vec2\) decides no classes; fine-tune"):
        evaluate(str(path), str(data))


# --- the command --------------------------------------------------------------------------------


def test_the_command_prints_and_writes_what_the_function_returns(
    checkpoint, data, result, tmp_path, capsys
):
    out = tmp_path / "new" / "folder"
    assert main(["evaluate", checkpoint, str(data), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert f"auroc  {result.metrics['auroc']:.4f}" in printed.out
    assert "7 records of test, 14 segments" in printed.out
    assert "trained on 3 of these recordings" in printed.err
    summary = json.loads((out / "metrics.json").read_text())
    assert summary["metrics"] == pytest.approx(result.metrics, nan_ok=True)
    assert (summary["rows"], summary["segments"], summary["trained_on"]) == (7, 14, 3)
    table = pd.read_csv(out / "predictions.csv")
    assert table["record"].tolist() == result.names
    np.testing.assert_allclose(table[["a", "b", "c"]], result.probability, rtol=1e-8)
    truth = pd.read_csv(out / "truth.csv")
    assert list(truth.columns) == list(table.columns)
    assert truth["record"].tolist() == result.names
    assert truth[["a", "b", "c"]].to_numpy().tolist() == result.truth.tolist()


def test_a_number_without_meaning_is_null_in_the_file(checkpoint, data, tmp_path, capsys):
    arguments = ["evaluate", checkpoint, str(data), "--split", "nothing", "--out", str(tmp_path)]
    assert main([*arguments, "--score-per", "segment", "--batch-size", "1"]) == 0
    assert "2 segments of nothing, 2 segments" in capsys.readouterr().out
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    values = json.loads(text)["metrics"]
    assert values["auroc"] is None
    result = evaluate(checkpoint, str(data), "nothing", score_per="segment")
    assert {k for k, v in values.items() if v is None} == {
        k for k, v in result.metrics.items() if math.isnan(v)
    }
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 2


def test_no_recording_of_the_training_set_means_no_warning(checkpoint, data, capsys):
    root, *rows = (data / "test.tsv").read_text().splitlines()
    (data / "unseen.tsv").write_text("\n".join([root, *rows[3:]]) + "\n")
    assert main(["evaluate", checkpoint, str(data), "--split", "unseen"]) == 0
    assert capsys.readouterr().err == ""


def test_an_expected_error_is_one_line_and_status_2(checkpoint, data, capsys):
    assert main(["evaluate", checkpoint, str(data), "--split", "tset"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("fairseq-ecg evaluate: error: ")
    assert printed.err.count("\n") == 1
    assert main(["evaluate", "nowhere.pt", str(data)]) == 2
    assert "there is no such checkpoint" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(checkpoint, data, tmp_path, capsys):
    content = Path(checkpoint).read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    assert main(["evaluate", str(tmp_path / "cut.pt"), str(data)]) == 2
    assert "cut.pt is truncated" in capsys.readouterr().err


def test_evaluation_leaves_no_gradients_and_needs_no_task_of_fairseq(checkpoint, data):
    torch.manual_seed(5)
    first = evaluate(checkpoint, str(data)).probability
    torch.manual_seed(6)
    np.testing.assert_array_equal(first, evaluate(checkpoint, str(data)).probability)


def test_evaluation_repeats_what_training_logged_with_its_threshold_and_average(data, tmp_path):
    run = train(
        tmp_path,
        [
            *CLASSIFICATION,
            f"task.data={data}",
            "criterion.threshold=0.3",
            "criterion.auc_average=micro",
            "optimization.max_epoch=2",
            "optimization.lr=[0.01]",
        ],
    )
    logged_last = logged(run.cwd, "valid")[-1]
    path = str(run.checkpoints / "checkpoint_last.pt")
    metrics = evaluate(path, str(data), "valid", score_per="segment").metrics
    for name in ("auroc", "auprc", "f1"):
        assert metrics[name] == pytest.approx(logged_last[f"valid_{name}"], abs=1e-3)
    assert metrics["auroc"] == metrics["micro_auroc"] != metrics["macro_auroc"]
    other = evaluate(path, str(data), "valid", score_per="segment", threshold=0.9).metrics
    assert other["f1"] != metrics["f1"]
    converted = str(tmp_path / "converted.pt")
    convert_checkpoint(path, converted)
    assert evaluate(converted, str(data), "valid", score_per="segment").metrics == metrics


def test_a_folder_of_segments_is_evaluated_with_its_label_file(tmp_path, capsys):
    for i in range(8):
        write_mat(tmp_path / f"mat/s{i}.mat", i, 0, 100, idx=i)
    for split in ("train", "valid"):
        write_manifest(tmp_path / f"{split}.tsv", "mat", [(f"s{i}.mat", 100) for i in range(8)])
    np.save(tmp_path / "y.npy", (np.arange(8)[:, None] >> np.arange(3)) & 1)
    (tmp_path / "label_def.csv").write_text("name\nx\ny\nz\n")
    words = [*CLASSIFICATION, f"task.data={tmp_path}", f"task.label_file={tmp_path}/y.npy"]
    run = train(tmp_path / "run", [*words, "task.segment_s=null", "optimization.max_update=2"])
    checkpoint = str(run.checkpoints / "checkpoint_last.pt")
    assert main(["evaluate", checkpoint, str(tmp_path), "--split", "valid"]) == 2
    assert "--label-file y.npy), or the folder that `fairseq-ecg pack`" in capsys.readouterr().err
    result = evaluate(checkpoint, str(tmp_path), "valid", label_file=str(tmp_path / "y.npy"))
    assert result.labels == ["x", "y", "z"]
    assert result.truth.tolist() == np.load(tmp_path / "y.npy", allow_pickle=False).tolist()
    label_file = ["--label-file", str(tmp_path / "y.npy")]
    for verb in ("evaluate", "leads"):
        words = [verb, checkpoint, str(tmp_path), "--split", "valid", *label_file]
        assert main(words) == 0
