import json

import numpy as np
import pytest

from fairseq_ecg.metrics import ptbxl
from fairseq_ecg.metrics.ptbxl import f_max


def slow_f_max(scores, labels, thresholds):
    best = 0.0
    for threshold in thresholds:
        precisions, recalls = [], []
        for score, label in zip(scores, labels, strict=True):
            chosen = score > threshold
            if chosen.any():
                precisions.append((chosen & label).sum() / chosen.sum())
            if label.any():
                recalls.append((chosen & label).sum() / label.sum())
        p, r = np.mean(precisions) if precisions else 0.0, np.mean(recalls)
        best = max(best, 2 * p * r / (p + r) if p + r else 0.0)
    return best


@pytest.mark.parametrize(("n_records", "n_classes"), [(1, 1), (5, 3), (40, 7), (101, 2)])
def test_f_max_equals_loops_over_the_formula(n_records, n_classes, monkeypatch):
    monkeypatch.setattr(ptbxl, "_ROWS_AT_ONCE", 16)
    rng = np.random.default_rng([n_records, n_classes])
    labels = rng.random((n_records, n_classes)) < 0.4
    labels[0, 0] = True
    scores = np.round(np.clip(rng.normal(0.3, 0.2, labels.shape) + 0.2 * labels, 0, 1), 2)
    for thresholds in (np.linspace(0, 1, 101), np.array([0.25]), np.array([-1.0, 0.3, 2.0])):
        expected = slow_f_max(scores, labels, thresholds)
        assert f_max(scores, labels, thresholds) == pytest.approx(expected, abs=1e-12)


def test_the_published_f_max_of_the_validation_fold_comes_out(shared):
    folder = shared / "data/scoring/ptbxl-all-71"
    expected = json.loads((folder / "expected.json").read_text("utf-8"))["published"]["val"]["Fmax"]
    with np.load(folder / "val.npz") as tables:
        assert f_max(tables["y_pred"], tables["y_true"]) == pytest.approx(expected, abs=1e-9)


def test_the_published_f_max_does_not_depend_on_whether_a_score_at_the_threshold_decides(shared):
    with np.load(shared / "data/scoring/ptbxl-all-71/val.npz") as tables:
        scores, labels = tables["y_pred"], tables["y_true"]
    below = np.nextafter(np.linspace(0, 1, 101).astype(scores.dtype), np.float32(-1))
    assert f_max(scores, labels, below) == pytest.approx(f_max(scores, labels), abs=1e-12)


def test_a_perfect_ranking_reaches_one_and_no_label_is_nan():
    labels = np.eye(4, dtype=bool)
    assert f_max(labels * 0.9, labels) == 1.0
    assert np.isnan(f_max(labels * 0.9, np.zeros_like(labels)))
    assert f_max(np.zeros((4, 4)), labels) == 0.0


def test_thresholds_that_do_not_ascend_are_refused():
    with pytest.raises(ValueError, match="ascend"):
        f_max([[0.2]], [[1]], [0.5, 0.5])
    with pytest.raises(ValueError, match="ascend"):
        f_max([[0.2]], [[1]], [])
