"""Identification from a folder of recordings to an accuracy, on one process and on two."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from fairseq_ecg.cli.main import main
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora._identification import write_identification
from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.evaluation import evaluate
from tests.builds import write_record
from tests.runs import TUNING_FROM_SCRATCH, logged, train

ARGUMENTS = [
    *("--config-name", "identification_small", *TUNING_FROM_SCRATCH),
    *("criterion.scale=16", "criterion.margin=0.2"),
]
PATIENTS, RATE_HZ = 16, 100


def tone(patient: int, recording: int) -> np.ndarray:
    """Microvolts of a recording that sounds like its patient, int64 [12, 250]."""
    rng = np.random.default_rng((patient, recording))
    time = np.arange(250) / RATE_HZ
    weights = np.random.default_rng(patient).uniform(-1, 1, (12, 1))
    wave = weights * np.sin(2 * np.pi * (2 + patient % 8) * time + rng.uniform(0, 6))
    return np.rint(1000 * (wave + 0.02 * rng.standard_normal((12, 250)))).astype(np.int64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """16 patients with three recordings each; 5 of them in valid."""
    folder = tmp_path_factory.mktemp("people")
    entries = []
    for p in range(PATIENTS):
        for i in range(3):
            write_record(folder / "wfdb", f"p{p:02d}-{i}", tone(p, i), RATE_HZ)
            entries.append(RecordEntry(f"p{p:02d}-{i}", f"p{p:02d}-{i}", f"p{p:02d}", "train"))
    build_store(entries, folder / "wfdb", folder, BuildOptions(rate_hz=RATE_HZ))
    return write_identification(folder, valid_fraction=0.3, test_fraction=0.1).dest


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    arguments = [*ARGUMENTS, f"task.data={data}", "optimization.max_epoch=6"]
    return train(tmp_path_factory.mktemp("run"), [*arguments, "optimization.lr=[0.003]"])


@pytest.fixture(scope="module")
def best(run):
    return str(run.checkpoints / "checkpoint_best.pt")


def test_the_network_learns_whose_recordings_they_are(run):
    losses = [line["train_loss"] for line in logged(run.cwd, "train")]
    assert losses[-1] < losses[0]
    assert logged(run.cwd, "train")[-1]["train_accuracy"] > 1.5 / 9


def test_the_best_checkpoint_is_the_one_with_the_best_accuracy(run, best):
    accuracies = [line["valid_accuracy"] for line in logged(run.cwd, "valid")]
    assert len(accuracies) == 6
    stored = torch.load(best, weights_only=True)["extra_state"]
    assert stored["val_loss"] == pytest.approx(max(accuracies), abs=1e-5)
    assert all(math.isnan(line["valid_loss"]) for line in logged(run.cwd, "valid"))
    assert logged(run.cwd, "valid")[-1]["valid_rank5_accuracy"] == 1.0  # five in the gallery


def test_an_evaluation_repeats_the_validation(run, data):
    last = str(run.checkpoints / "checkpoint_last.pt")
    valid = logged(run.cwd, "valid")[-1]
    result = evaluate(last, str(data), "valid", score_per="segment", batch_size=3)
    assert result.metrics["accuracy"] == pytest.approx(valid["valid_accuracy"], abs=1e-5)
    assert result.metrics["rank5_accuracy"] == 1.0
    assert (len(result.names), result.num_segments, result.overlap) == (5, 10, 0)
    right = result.patient == result.nearest_patient
    assert right.mean() == pytest.approx(valid["valid_accuracy"], abs=1e-5)
    assert ((result.similarity <= 1 + 1e-6) & (result.similarity > -1)).all()


def test_accuracies_have_intervals_drawn_by_patient_and_pairs_have_none(best, data, capsys):
    result = evaluate(best, str(data), "valid", bootstrap=30)
    assert list(result.intervals) == ["accuracy", "rank5_accuracy"]
    for name, interval in result.intervals.items():
        assert interval.value == pytest.approx(result.metrics[name])
        assert interval.low <= interval.value <= interval.high
    assert evaluate(best, str(data), "valid").intervals == {}
    assert main(["evaluate", best, str(data), "--split", "valid", "--bootstrap", "30"]) == 0
    assert "auroc and eer are of pairs, which share patients" in capsys.readouterr().out
    with pytest.raises(ValueError, match="decides no classes; only probabilities can be averaged"):
        evaluate([best, best], str(data), "valid")


def test_fewer_leads_are_other_recordings(best, data):
    whole, single = (evaluate(best, str(data), "valid", leads=leads) for leads in (None, "1-lead"))
    assert not np.allclose(whole.similarity, single.similarity, atol=1e-6)
    assert whole.num_segments == 20  # two windows of each recording


def test_the_command_evaluates_what_the_model_is_for(best, data, tmp_path, capsys):
    arguments = ["evaluate", best, str(data), "--split", "valid", "--out", str(tmp_path)]
    assert main(arguments) == 0
    result = evaluate(best, str(data), "valid")
    printed = capsys.readouterr().out
    assert f"accuracy  {result.metrics['accuracy']:.4f}" in printed
    assert "5 probes of valid, 20 segments" in printed
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["metrics"] == pytest.approx(result.metrics)
    assert list(summary["metrics"]) == ["accuracy", "rank5_accuracy", "auroc", "eer"]
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table["record"].tolist() == result.names
    assert table["nearest"].tolist() == result.nearest
    assert (table["patient"] == table["nearest_patient"]).mean() == result.metrics["accuracy"]


def test_the_table_over_sets_of_leads_takes_the_checkpoint(best, data, capsys):
    assert main(["leads", best, str(data), "--split", "valid", "--sets", "12-lead,1-lead"]) == 0
    assert "rank5_accuracy" in capsys.readouterr().out


def test_people_trained_on_are_counted_by_their_recordings(best, data, tmp_path):
    for side in ("probe", "gallery"):
        lines = (data / "train.tsv").read_text().splitlines()
        records = {line.split("\t")[2]: line for line in lines[1:]}
        text = "\n".join([str(data.parent / "store"), *records.values()]) + "\n"
        (tmp_path / f"again_{side}.tsv").write_text(text)
    result = evaluate(best, str(tmp_path), "again")
    assert result.metrics["accuracy"] == 1.0  # each probe is its own gallery recording
    assert result.overlap == 2 * len(records)


@pytest.mark.parametrize("score_per", ["segment", "record"])
def test_two_processes_log_what_one_does(data, run, tmp_path, score_per):
    """5 probes and 5 gallery recordings in batches of 4: one process gets a batch less."""
    arguments = [
        *ARGUMENTS,
        f"task.data={data}",
        f"task.score_per={score_per}",
        f"checkpoint.finetune_from_model={run.checkpoints}/checkpoint_last.pt",
        "optimization.lr=[0.0]",
        "optimization.stop_min_lr=-1",
        "optimization.max_epoch=1",
    ]
    found = []
    for processes in (1, 2):
        done = train(tmp_path / str(processes), arguments, processes)
        found.append(logged(done.cwd, "valid")[-1])
    last = str(run.checkpoints / "checkpoint_last.pt")
    expected = evaluate(last, str(data), "valid", score_per=score_per).metrics
    for valid in found:
        assert valid["valid_accuracy"] == pytest.approx(expected["accuracy"], abs=1e-5)
        assert valid["valid_rank5_accuracy"] == expected["rank5_accuracy"]


def test_ecg_id_from_its_folder_to_an_accuracy(shared, tmp_path):
    build_manifest("ecg-id", shared / "data/ecg-id-database-1.0.0", tmp_path / "data")
    report = write_identification(tmp_path / "data", valid_fraction=0.5, test_fraction=0.3)
    assert (report.train_patients, report.valid_patients, report.test_patients) == (12, 30, 18)
    arguments = [*ARGUMENTS, f"task.data={report.dest}", "dataset.batch_size=32"]
    done = train(tmp_path / "run", [*arguments, "optimization.max_epoch=2"])
    valid = logged(done.cwd, "valid")
    best = str(done.checkpoints / "checkpoint_best.pt")
    result = evaluate(best, str(report.dest), "valid", score_per="segment")
    assert result.metrics["accuracy"] == pytest.approx(
        max(line["valid_accuracy"] for line in valid), abs=1e-5
    )
    assert result.metrics["accuracy"] > 1 / 30
    assert result.overlap == 0
