"""Telling patients by their embeddings: who is it (rank-k accuracy), is it the same (EER, AUROC).

Recordings are compared by the cosine of their embeddings; a vector of zeros has cosine 0 with all.
Shapes: N probes, M gallery recordings, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics._checks import as_scores
from fairseq_ecg.metrics.multilabel import auroc

RANKS = {"accuracy": 1, "rank5_accuracy": 5}
"""Logged names of the accuracies, and how many gallery recordings each looks at."""

# Similarities held at a time; 64 MiB of float64.
_CHUNK = 1 << 23


def rank_accuracies(
    probe: ArrayLike, probe_id: ArrayLike, gallery: ArrayLike, gallery_id: ArrayLike
) -> dict[str, float]:
    """Return ``rank_k_accuracy`` for each of ``RANKS``, by name."""
    sides = probe, probe_id, gallery, gallery_id
    return {name: rank_k_accuracy(*sides, k=k) for name, k in RANKS.items()}


def rank_k_accuracy(
    probe: ArrayLike,
    probe_id: ArrayLike,
    gallery: ArrayLike,
    gallery_id: ArrayLike,
    k: int = 1,
) -> float:
    """Return the share of probes whose patient is among the k most similar gallery recordings.

    Of equally similar recordings the earlier one in the gallery counts as more similar, so that
    embeddings that are all alike give 1 / M and not 1.

    Args:
        probe: Embeddings, real [N, D].
        probe_id: Patient of each probe, [N].
        gallery: Embeddings, real [M, D].
        gallery_id: Patient of each gallery recording, [M].
        k: How many recordings are looked at; with k >= M every patient who is there is found.

    Returns:
        In [0, 1]; NaN without probes. A probe whose patient is not in the gallery is never found.

    Raises:
        ValueError: If the shapes do not fit, a value is not finite, the gallery is empty or k is
            less than 1.
    """
    found = are_found(probe, probe_id, gallery, gallery_id, k)
    return float(found.mean()) if len(found) else float("nan")


def are_found(
    probe: ArrayLike,
    probe_id: ArrayLike,
    gallery: ArrayLike,
    gallery_id: ArrayLike,
    k: int = 1,
) -> NDArray[np.bool_]:
    """Return which probes `rank_k_accuracy` counts, bool [N].

    Args:
        probe: Embeddings, real [N, D].
        probe_id: Patient of each probe, [N].
        gallery: Embeddings, real [M, D].
        gallery_id: Patient of each gallery recording, [M].
        k: How many recordings are looked at.

    Raises:
        ValueError: As ``rank_k_accuracy``.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, but is {k}")
    probe, probe_id, gallery, gallery_id = _checked(probe, probe_id, gallery, gallery_id)
    found = np.zeros(len(probe), dtype=np.bool_)
    for rows in _chunks(len(probe), len(gallery)):
        cosine = probe[rows] @ gallery.T
        own = np.where(probe_id[rows, None] == gallery_id, cosine, -np.inf)
        place = own.argmax(axis=1)[:, None]
        best = np.take_along_axis(own, place, axis=1)
        earlier = np.arange(len(gallery)) < place
        rank = ((cosine > best) | ((cosine == best) & earlier)).sum(axis=1)
        found[rows] = (rank < k) & np.isfinite(best[:, 0])
    return found


def nearest(probe: ArrayLike, gallery: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the most similar gallery recording of each probe and its cosine; ties: the first.

    Args:
        probe: Embeddings, real [N, D].
        gallery: Embeddings, real [M, D].

    Returns:
        Row in the gallery, int64 [N]; cosine, float64 [N].

    Raises:
        ValueError: As ``rank_k_accuracy``.
    """
    probe, _, gallery, _ = _checked(
        probe, np.zeros(len(np.asarray(probe))), gallery, np.zeros(len(np.asarray(gallery)))
    )
    row = np.empty(len(probe), dtype=np.int64)
    similarity = np.empty(len(probe))
    for rows in _chunks(len(probe), len(gallery)):
        cosine = probe[rows] @ gallery.T
        row[rows] = cosine.argmax(axis=1)
        similarity[rows] = cosine.max(axis=1)
    return row, similarity


def verification(
    probe: ArrayLike, probe_id: ArrayLike, gallery: ArrayLike, gallery_id: ArrayLike
) -> dict[str, float]:
    """Return how well the cosine tells pairs of one patient from pairs of two.

    All N * M pairs are held in memory at once.

    Args:
        probe: Embeddings, real [N, D].
        probe_id: Patient of each probe, [N].
        gallery: Embeddings, real [M, D].
        gallery_id: Patient of each gallery recording, [M].

    Returns:
        ``auroc``, ties counting one half; ``eer``, the equal error rate: false acceptances and
        false rejections where both shares are equal, on the straight line between the two
        thresholds around that point. NaN if there is no pair of one patient, or none of two.

    Raises:
        ValueError: As ``rank_k_accuracy``.
    """
    probe, probe_id, gallery, gallery_id = _checked(probe, probe_id, gallery, gallery_id)
    cosine = (probe @ gallery.T).reshape(-1)
    same = (probe_id[:, None] == gallery_id).reshape(-1)
    area = auroc(cosine[:, None], same[:, None])
    return {"auroc": area, "eer": _equal_error_rate(cosine, same)}


def _equal_error_rate(score: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    if not same.any() or same.all():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # where a threshold can lie
    accepted_same = np.append(0, np.cumsum(same[order])[last])
    accepted_other = np.append(0, np.cumsum(~same[order])[last])
    rejected = 1 - accepted_same / same.sum()
    accepted = accepted_other / (~same).sum()
    difference = accepted - rejected  # from -1 up to 1
    after = int(np.argmax(difference >= 0))
    step = difference[after] - difference[after - 1]
    share = -difference[after - 1] / step
    return float(accepted[after - 1] + share * (accepted[after] - accepted[after - 1]))


def _checked(
    probe: ArrayLike, probe_id: ArrayLike, gallery: ArrayLike, gallery_id: ArrayLike
) -> tuple[NDArray[np.float64], NDArray, NDArray[np.float64], NDArray]:
    """Return embeddings of length 1, float64, and patients; all checked."""
    sides = []
    for name, embedding, patient in (
        ("probe", probe, probe_id),
        ("gallery", gallery, gallery_id),
    ):
        values, patients = as_scores(embedding).astype(np.float64), np.asarray(patient)
        if patients.shape != values.shape[:1]:
            raise ValueError(
                f"{name}_id must have one patient per row of {name}, [{len(values)}], but its "
                f"shape is {list(patients.shape)}"
            )
        norm = np.linalg.norm(values, axis=1, keepdims=True)
        sides.append((values / np.where(norm > 0, norm, 1.0), patients))
    (probe, probe_id), (gallery, gallery_id) = sides
    if probe.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"probe and gallery must have one width, but they have {probe.shape[1]} and "
            f"{gallery.shape[1]}"
        )
    if not len(gallery):
        raise ValueError("the gallery is empty; every probe needs a recording to be compared with")
    return probe, probe_id, gallery, gallery_id


def _chunks(n_probes: int, n_gallery: int) -> list[slice]:
    step = max(_CHUNK // n_gallery, 1)
    return [slice(first, first + step) for first in range(0, n_probes, step)]
