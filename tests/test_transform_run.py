"""Recognition of transformations through the launcher: every mode, one process and two."""

import math

import pytest

from fairseq_ecg.criterions.ecg_transform_recognition import EcgTransformRecognition
from tests.runs import logged, train, write_segments

MODES = {
    "transforms": ["task.views=auto"],
    "joint": ["task.views=transforms_and_pair", "model.projection_dim=4"],
    "contrastive": [
        "task.views=two",
        "task.perturbation_mode=[scale_shift_noise_warp]",
        "model.projection_dim=4",
        "model.heads=none",
        "checkpoint.best_checkpoint_metric=pair_accuracy",
    ],
}


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    return write_segments(tmp_path_factory.mktemp("transform") / "data")


def words(segments, mode, *more):
    return [
        "--config-name",
        "transform_small",
        "common.log_interval=1",
        "dataset.num_workers=0",
        "dataset.batch_size=3",
        "task.segment_s=2.0",
        "task.standardize=none",
        "task.leads_to_load=[II]",
        "model.widths=[4,4,8]",
        "model.head_hidden=[8]",
        f"task.data={segments}",
        f"criterion.mode={mode}",
        *MODES[mode],
        *more,
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_trains_and_logs_what_can_be_best(mode, segments, tmp_path):
    run = train(tmp_path, words(segments, mode, "optimization.max_update=3"))
    lines = logged(run.cwd)
    assert len(lines) == 3
    valid = logged(run.cwd, "valid")[-1]
    for name in EcgTransformRecognition.validation_metrics({"mode": mode, "l2": 1e-4}):
        assert math.isfinite(lines[-1][name]), name
        assert math.isfinite(valid[f"valid_{name}"]), name
    parts = [valid[name] for name in valid if name.startswith("valid_loss_")]
    assert valid["valid_loss"] == pytest.approx(sum(parts), abs=1e-3)
    assert (run.checkpoints / "checkpoint_best.pt").exists()


def test_validation_is_the_same_for_any_number_of_processes(segments, tmp_path):
    """13 recordings in batches of 3: the second process repeats a batch, which must not count."""
    more = ["optimization.max_update=1", "optimization.lr=[1e-12]"]
    found = []
    for processes in (1, 2):
        run = train(tmp_path / str(processes), words(segments, "transforms", *more), processes)
        found.append(logged(run.cwd, "valid")[-1])
    names = EcgTransformRecognition.validation_metrics({"mode": "transforms"})
    alone, together = ([line[f"valid_{name}"] for name in names] for line in found)
    assert together == pytest.approx(alone, abs=1e-4)
    assert len(set(alone)) > 8  # not all of them 0
