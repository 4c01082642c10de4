"""Ranks and verification against loops written from their definitions."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from fairseq_ecg.metrics import identification
from fairseq_ecg.metrics.identification import (
    RANKS,
    nearest,
    rank_accuracies,
    rank_k_accuracy,
    verification,
)


def cosine(a, b):
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return 0.0 if length == 0 else float(a @ b) / length


def slow_rank_k(probe, probe_id, gallery, gallery_id, k):
    found = 0
    for vector, patient in zip(probe, probe_id, strict=True):
        similar = [cosine(vector, other) for other in gallery]
        order = sorted(range(len(gallery)), key=lambda i: (-similar[i], i))
        found += patient in [gallery_id[i] for i in order[:k]]
    return found / len(probe)


def draw(n, m, width, patients, seed):
    rng = np.random.default_rng(seed)
    # Few distinct values, so that similarities are equal now and then.
    probe, gallery = (rng.integers(-1, 2, (rows, width)).astype(float) for rows in (n, m))
    return probe, rng.integers(0, patients, n), gallery, rng.integers(0, patients, m)


@pytest.mark.parametrize("k", [1, 2, 5, 40])
@pytest.mark.parametrize(("n", "m", "width"), [(1, 1, 1), (7, 3, 2), (4, 30, 5), (30, 30, 3)])
def test_the_rank_is_that_of_a_loop_over_probes(n, m, width, k, monkeypatch):
    for seed in range(4):
        sides = draw(n, m, width, patients=m, seed=seed)
        scaled = [side * 2.0**-3 if side.ndim == 2 else side for side in sides]
        with monkeypatch.context() as patch:
            patch.setattr(identification, "_CHUNK", 40)
            assert rank_k_accuracy(*scaled, k=k) == pytest.approx(slow_rank_k(*sides, k))


def test_lengths_do_not_count_and_embeddings_that_are_all_alike_find_one_patient():
    gallery = np.eye(4)
    probe = gallery * np.array([[9.0], [1e-3], [5.0], [1.0]])
    assert rank_k_accuracy(probe, range(4), gallery, range(4)) == 1.0
    same = np.ones((4, 3))
    assert rank_k_accuracy(same, range(4), same, range(4)) == 0.25
    assert rank_k_accuracy(same, range(4), same, range(4), k=3) == 0.75
    assert rank_k_accuracy(np.zeros((1, 2)), [1], np.ones((2, 2)), [0, 1]) == 0.0


def test_a_patient_who_is_not_in_the_gallery_is_never_found_and_no_probes_give_nan():
    assert rank_k_accuracy(np.eye(2), [7, 0], np.eye(2), [0, 1], k=9) == 0.5
    assert np.isnan(rank_k_accuracy(np.empty((0, 2)), [], np.eye(2), [0, 1]))


def test_the_logged_names_are_ranks_1_and_5():
    sides = draw(20, 20, 3, patients=20, seed=3)
    found = rank_accuracies(*sides)
    assert found == {name: rank_k_accuracy(*sides, k=k) for name, k in RANKS.items()}
    assert list(found) == ["accuracy", "rank5_accuracy"]
    assert found["accuracy"] < found["rank5_accuracy"]


def test_the_nearest_is_the_first_of_the_most_similar():
    gallery = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
    row, similarity = nearest(np.array([[3.0, 0.0], [1.0, 1.0]]), gallery)
    assert row.tolist() == [1, 0]
    np.testing.assert_allclose(similarity, [1, np.sqrt(0.5)])


@pytest.mark.parametrize("seed", range(4))
def test_verification_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    patients = np.arange(30)
    gallery = rng.standard_normal((30, 4))
    probe = gallery + 2 * rng.standard_normal((30, 4))
    found = verification(probe, patients, gallery, patients)
    score = np.array([[cosine(a, b) for b in gallery] for a in probe]).ravel()
    same = np.eye(30).ravel()
    assert found["auroc"] == pytest.approx(roc_auc_score(same, score))
    accepted, true, _ = roc_curve(same, score, drop_intermediate=False)
    difference = accepted - (1 - true)
    at = np.interp(0, difference, np.arange(len(difference)))
    assert found["eer"] == pytest.approx(np.interp(at, np.arange(len(accepted)), accepted))


def test_verification_at_its_ends():
    perfect = verification(np.eye(3), range(3), np.eye(3), range(3))
    assert perfect == {"auroc": 1.0, "eer": 0.0}
    alike = verification(np.ones((3, 2)), range(3), np.ones((3, 2)), range(3))
    assert alike == {"auroc": 0.5, "eer": 0.5}
    wrong = verification(-np.eye(3), range(3), np.eye(3), range(3))
    assert wrong == {"auroc": 0.0, "eer": 1.0}
    alone = verification(np.eye(1), [0], np.eye(1), [0])
    assert np.isnan(alone["auroc"])
    assert np.isnan(alone["eer"])


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (([[1.0]], [0], [[1.0, 2.0]], [0]), "must have one width, but they have 1 and 2"),
        (([[1.0]], [0, 1], [[1.0]], [0]), r"probe_id must have one patient per row .* \[1\]"),
        (([[1.0]], [0], [[1.0]], [[0]]), r"gallery_id must have .* shape is \[1, 1\]"),
        (([[1.0]], [0], np.empty((0, 1)), []), "the gallery is empty"),
        (([[np.nan]], [0], [[1.0]], [0]), "must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(sides, message):
    with pytest.raises(ValueError, match=message):
        rank_k_accuracy(*sides)


def test_k_counts_from_1():
    with pytest.raises(ValueError, match="k must be at least 1, but is 0"):
        rank_k_accuracy([[1.0]], [0], [[1.0]], [0], k=0)
