"""Pretraining on frames through the launcher: exact resume, workers, processes, evaluation."""

import math

import pytest

from fairseq_ecg.cli.main import main
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.evaluation_files import read_evaluation
from tests.patients import run_words, write_release
from tests.runs import Run, logged, train

_EXACT = ("loss", "gnorm", "accuracy", "bsz", "num_updates", "epoch")
BEAT = {"_name": "ecg_frame_classification", "label_type": "beat", "shuffle_patients": 2}
FUTURE = {"_name": "ecg_future_prediction", "context_size": 3, "buffer_patients": 2}
CPC = {
    "criterion": {"_name": "ecg_cpc"},
    "model": {"_name": "ecg_resnet_cpc", "widths": [4, 4, 8, 8], "context_heads": 2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("frames") / "data")


@pytest.fixture(scope="module")
def beat(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beat")
    return train(folder, run_words(folder, data, BEAT))


@pytest.fixture(scope="module")
def future(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("future")
    return train(folder, run_words(folder, data, FUTURE, **CPC))


def lines(cwd, tag="train_inner"):
    return [tuple(line.get(key) for key in _EXACT) for line in logged(cwd, tag)]


@pytest.mark.parametrize(("task", "sections"), [(BEAT, {}), (FUTURE, CPC)])
def test_a_run_stopped_in_the_middle_of_an_epoch_continues_exactly(
    data, beat, future, tmp_path, task, sections
):
    whole = beat if task is BEAT else future
    expected = lines(whole.cwd)
    assert len(set(expected)) == 8
    assert all(math.isfinite(line[0]) for line in expected)
    words = run_words(tmp_path, data, task, **sections)
    train(tmp_path, [*words, "optimization.max_update=6", "dataset.num_workers=2"])
    assert len(lines(tmp_path)) == 6
    train(tmp_path, [*words, "dataset.num_workers=1"])
    assert lines(tmp_path) == expected
    assert lines(tmp_path, "valid")[-1] == lines(whole.cwd, "valid")[-1]


def test_two_processes_share_the_batches_of_one_and_validate_every_frame(data, beat, tmp_path):
    both = train(tmp_path, run_words(tmp_path, data, BEAT, dataset={"batch_size": 4}), processes=2)
    first, second = (logged(run.cwd, "train_inner") for run in (beat, both))
    assert [line["bsz"] for line in first] == [line["bsz"] for line in second] == [8] * 8
    valid = logged(both.cwd, "valid")[-1]
    found = evaluate(str(both.checkpoints / "checkpoint_last.pt"), str(data), "valid").metrics
    assert valid["valid_accuracy"] == pytest.approx(found["accuracy"], abs=1e-4)


def test_evaluation_repeats_the_last_validation_class_by_class(beat, data):
    valid = logged(beat.cwd, "valid")[-1]
    result = evaluate(str(beat.checkpoints / "checkpoint_last.pt"), str(data), "valid")
    assert (result.unit, len(result.names), result.num_segments) == ("frame", 16, 16)
    assert set(result.names) <= {f"p00/p{p:05d}/p{p:05d}_s{s:02d}" for p in (4, 5) for s in (0, 1)}
    assert result.labels == ["undefined", "normal", "PAC", "aberrated", "PVC"]
    for name, value in result.metrics.items():
        assert valid[f"valid_{name}"] == pytest.approx(value, abs=1e-3, nan_ok=True), name
    assert {"accuracy", "f1", "f1_normal", "f1_PVC"} <= result.metrics.keys()
    assert result.overlap == 0
    assert evaluate(str(beat.checkpoints / "checkpoint_last.pt"), str(data), "train").overlap == 8


def test_the_command_prints_and_writes_the_scores_of_frames(beat, data, tmp_path, capsys):
    checkpoint = str(beat.checkpoints / "checkpoint_best.pt")
    words = ["evaluate", checkpoint, str(data), "--split", "valid", "--out", str(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "f1_normal" in printed
    assert "16 frames of valid" in printed
    header, *rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert header.startswith("record,start_sample,undefined,normal,")
    assert len({tuple(row.split(",")[:2]) for row in rows}) == len(rows) == 16
    read = read_evaluation(tmp_path)
    assert read.labels[:2] == ["undefined", "normal"]
    assert all(f"{start}" == row.split(",")[1] for start, row in zip(read.start, rows, strict=True))


def test_a_classifier_of_rhythms_starts_from_one_of_beats(beat, data, tmp_path):
    task = {**BEAT, "label_type": "rhythm", "rhythm_classes": 4}
    start = {
        "model_path": str(beat.checkpoints / "checkpoint_last.pt"),
        "no_pretrained_weights": False,
    }
    run = train(tmp_path, run_words(tmp_path, data, task, model=start))
    result = evaluate(str(run.checkpoints / "checkpoint_last.pt"), str(data), "valid")
    assert result.labels == ["noise", "normal", "AF", "AFL"]


def test_a_network_that_predicts_says_how_well_in_its_log_and_why_it_is_not_evaluated(future, data):
    assert 0 <= logged(future.cwd, "valid")[-1]["valid_accuracy"] <= 1
    with pytest.raises(ValueError, match=r"trained to find the frame that follows.*model_path"):
        evaluate(str(future.checkpoints / "checkpoint_last.pt"), str(data), "valid")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("checkpoint.best_checkpoint_metric=auroc", "auroc is never logged by this criterion"),
        ("task.beat_classes=4", "task.beat_classes=4: give 5 or 3"),
        ("task.samples_per_pateint=4", "samples_per_pateint"),
        ("dataset.train_subset=train_010", "has no train_010.tsv"),
    ],
)
def test_mistakes_are_refused_before_anything_is_made(data, tmp_path, change, message):
    run = Run(tmp_path, [*run_words(tmp_path, data, BEAT), change])
    assert run.wait() == 2
    assert message in run.output
    assert not run.checkpoints.exists()
