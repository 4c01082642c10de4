"""Whole training runs: kill and resume, graceful stop, several processes, exact validation."""

import random
import signal
import time

import numpy as np
import pytest
import torch
from fairseq import tasks
from sklearn.metrics import average_precision_score, roc_auc_score

import fairseq_ecg_launch as launch
from fairseq_ecg.metrics import multilabel, ptbxl
from tests.runs import CLASSIFICATION, PRETRAINING, Run, logged, train, write_segments

# What must not depend on when, where and how often a run was interrupted.
_EXACT = ("loss", "gnorm", "lr", "nsentences", "num_updates", "epoch")
KILLS = 5


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    return write_segments(tmp_path_factory.mktemp("segments") / "data")


def lines(cwd, tag="train_inner"):
    """Return the exact part of each logged line by update; the same update must agree with itself."""
    by_update = {}
    for line in logged(cwd, tag):
        exact = tuple(line.get(key) for key in _EXACT)
        update = int(line.get("num_updates", line.get(f"{tag}_num_updates", 0)))
        assert by_update.setdefault(update, exact) == exact, f"update {update} differs: {exact}"
    return by_update


def pretraining(data, workers):
    return [
        *PRETRAINING,
        f"task.data={data}",
        f"dataset.num_workers={workers}",
        "task.rebuild_batches=true",
        "optimization.max_epoch=4",
        "optimization.update_freq=[2]",
        "checkpoint.save_interval_updates=2",
        "checkpoint.keep_interval_updates=1",
    ]


@pytest.mark.parametrize(("workers", "processes"), [(0, 1), (2, 1), (0, 2), (2, 2)])
def test_a_run_killed_at_random_moments_continues_exactly(tmp_path, segments, workers, processes):
    arguments = pretraining(segments, workers)
    whole = train(tmp_path / "whole", arguments, processes)
    expected = lines(whole.cwd)
    assert len(expected) >= 8
    draw = random.Random(workers * 10 + processes)
    for kill in range(KILLS):
        run = Run(tmp_path / "killed", arguments, processes)
        if kill % 2:
            _wait_until_saving(run)
        else:
            time.sleep(draw.uniform(0.2, 2.5))
        run.signal(signal.SIGKILL)
    train(tmp_path / "killed", arguments, processes)
    assert lines(tmp_path / "killed") == expected
    first, second = (
        torch.load(cwd / "run/checkpoints/checkpoint_last.pt", weights_only=True)["model"]
        for cwd in (tmp_path / "whole", tmp_path / "killed")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def _wait_until_saving(run, timeout=60):
    """Return in the midst of a save: when a temporary file appears, or the run is over."""
    end = time.monotonic() + timeout
    while run.running and time.monotonic() < end:
        if any(run.checkpoints.glob("*.tmp")):
            return
        time.sleep(0.0005)


@pytest.mark.parametrize(
    ("processes", "workers", "whole_group"), [(1, 0, False), (2, 0, False), (1, 2, True)]
)
def test_sigterm_saves_ends_with_0_and_continues_exactly(
    tmp_path, segments, processes, workers, whole_group
):
    arguments = [*PRETRAINING, f"task.data={segments}", "optimization.max_epoch=30"]
    arguments += [f"dataset.num_workers={workers}"]
    expected = lines(train(tmp_path / "whole", arguments, processes).cwd)
    run = Run(tmp_path / "stopped", arguments, processes)
    while not (run.cwd / "run/hydra_train.log").exists() or len(logged(run.cwd)) < 5:
        assert run.running
        time.sleep(0.01)
    if whole_group:
        run.signal(signal.SIGTERM)  # a scheduler tells the loader workers too
    else:
        run.processes[-1].terminate()  # one process is told, all stop after the same update
    assert run.wait() == 0
    stopped = lines(run.cwd)
    assert 5 <= len(stopped) < len(expected)
    train(tmp_path / "stopped", arguments, processes)
    assert lines(run.cwd) == expected


def test_two_processes_learn_as_one_on_the_joined_batch(tmp_path, segments):
    arguments = [*CLASSIFICATION, f"task.data={segments}", "optimization.max_epoch=3"]
    one = train(tmp_path / "one", [*arguments, "optimization.update_freq=[2]"])
    two = train(tmp_path / "two", arguments, processes=2)
    for tag, keys in (("train_inner", ("loss", "gnorm")), ("valid", ("valid_loss", "valid_auroc"))):
        curves = [[[line[k] for k in keys] for line in logged(run.cwd, tag)] for run in (one, two)]
        assert len(curves[0]) >= 3
        np.testing.assert_allclose(curves[0], curves[1], rtol=2e-3)


@pytest.mark.parametrize(
    ("workers", "processes", "score_per"),
    [(0, 1, "segment"), (2, 1, "segment"), (0, 2, "segment"), (2, 2, "segment"), (0, 2, "record")],
)
def test_every_recording_is_evaluated_once_and_metrics_are_scikit_learns(
    tmp_path, segments, workers, processes, score_per
):
    # 13 recordings of two segments: neither is a multiple of the batch size or of the processes
    run = train(
        tmp_path,
        [
            *CLASSIFICATION,
            f"task.data={segments}",
            f"task.score_per={score_per}",
            f"dataset.num_workers={workers}",
            "dataset.batch_size=3",
            "optimization.max_epoch=1",
            "checkpoint.best_checkpoint_metric=macro_auprc",
            "criterion.report_f_max=true",
            "criterion.report_f_beta=true",
        ],
        processes,
    )
    valid = logged(run.cwd, "valid")[-1]
    labels, scores = _scores(run, segments, score_per)
    assert len(scores) == (26 if score_per == "segment" else 13)
    assert valid["valid_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=2e-6)
    assert valid["valid_micro_auroc"] == pytest.approx(
        roc_auc_score(labels.ravel(), scores.ravel()), abs=2e-6
    )
    assert valid["valid_macro_auprc"] == pytest.approx(
        average_precision_score(labels, scores), abs=2e-6
    )
    beta = multilabel.f_beta_g_beta(labels, multilabel.decide(scores, 0.5, fallback=True))
    logged_beta = [valid[f"valid_{name}"] for name in ("f_beta", "g_beta")]
    assert logged_beta == pytest.approx(beta, abs=2e-6)
    assert valid["valid_f_max"] == pytest.approx(ptbxl.f_max(scores, labels), abs=2e-6)
    best = torch.load(run.checkpoints / "checkpoint_best.pt", weights_only=True)
    assert best["extra_state"]["val_loss"] == pytest.approx(valid["valid_macro_auprc"], abs=2e-6)


def _scores(run, data, score_per):
    from fairseq_ecg.evaluation import evaluate

    result = evaluate(
        str(run.checkpoints / "checkpoint_last.pt"), str(data), "valid", score_per=score_per
    )
    return result.truth, result.probability


def test_early_stopping_counts_on_after_a_resume(tmp_path, segments):
    arguments = [
        *CLASSIFICATION,
        f"task.data={segments}",
        "checkpoint.patience=3",
        "optimization.lr=[0.0]",  # nothing gets better
        "optimization.stop_min_lr=-2",
    ]
    whole = train(tmp_path / "whole", [*arguments, "optimization.max_epoch=20"])
    assert len(logged(whole.cwd, "valid")) == 4
    train(tmp_path / "parts", [*arguments, "optimization.max_epoch=2"])
    parts = train(tmp_path / "parts", [*arguments, "optimization.max_epoch=20"])
    assert len(logged(parts.cwd, "valid")) == 4


def test_finetuning_starts_from_the_pretrained_weights(tmp_path, segments):
    pretrained = train(
        tmp_path / "a", [*PRETRAINING, f"task.data={segments}", "optimization.max_epoch=1"]
    )
    path = pretrained.checkpoints / "checkpoint_last.pt"
    tuned = train(
        tmp_path / "b",
        [
            *CLASSIFICATION,
            f"task.data={segments}",
            f"model.model_path={path}",
            "model.no_pretrained_weights=false",
            "model.feature_grad_mult=0.0",
            "optimization.max_epoch=1",
        ],
    )
    before, after = (
        torch.load(p, weights_only=True)["model"]
        for p in (path, tuned.checkpoints / "checkpoint_last.pt")
    )
    frozen = [key for key in before if key.startswith("feature_extractor.")]
    assert frozen
    assert all(torch.equal(before[key], after[f"encoder.{key}"]) for key in frozen)
    moved = "encoder.layers.0.fc1.weight"
    change = (after[f"encoder.{moved}"] - before[moved]).norm() / before[moved].norm()
    assert 0 < change < 0.5


def test_bf16_autocast_is_a_key_of_the_task_and_stays_close_to_float32(tmp_path, segments):
    exact = train(
        tmp_path / "exact", [*CLASSIFICATION, f"task.data={segments}", "optimization.max_epoch=1"]
    )
    bf16 = train(
        tmp_path / "bf16",
        [
            *CLASSIFICATION,
            f"task.data={segments}",
            "optimization.max_epoch=1",
            "task.autocast_bf16=true",
        ],
    )
    a, b = (logged(run.cwd)[-1]["loss"] for run in (exact, bf16))
    assert a != b
    assert a == pytest.approx(b, rel=0.05)


@pytest.mark.parametrize("wanted", [True, False])
def test_compile_is_a_key_of_the_task_and_keeps_the_keys_of_the_weights(segments, wanted):
    line = launch.CommandLine(
        [*CLASSIFICATION, f"task.data={segments}", f"task.compile={str(wanted).lower()}"]
    )
    cfg = launch.compose(line)
    model = tasks.setup_task(cfg.task).build_model(cfg.model)
    assert (model._compiled_call_impl is not None) is wanted
    assert not any("_orig_mod" in key for key in model.state_dict())


def test_jobs_of_one_sweep_do_not_inherit_each_others_best_score(tmp_path, segments):
    run = Run(
        tmp_path,
        [
            *CLASSIFICATION,
            "-m",
            f"hydra.sweep.dir={tmp_path}/sweep",
            f"task.data={segments}",
            "optimization.max_epoch=1",
            "common.seed=1,2",
        ],
    )
    assert run.wait() == 0, run.output[-3000:]
    for job in ("0", "1"):
        assert (tmp_path / "sweep" / job / "checkpoints/checkpoint_best.pt").is_file()
