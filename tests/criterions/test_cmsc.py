"""CMSC, CMLC and CMSMLC: slow forms written from the formulas, and the criterion around them."""

import itertools

import numpy as np
import pytest
import torch

from fairseq_ecg.criterions.cmsc import CmscCriterion, pair_loss
from tests.contrasts import (
    Given,
    check_dummy_takes_no_part,
    check_gathering,
    criterion,
    sample,
    unit,
    vectors,
)

PATIENTS = {1: [[4]], 2: [[4, 5], [4, 4]], 5: [[1, 2, 3, 4, 5], [1, 2, 1, 4, 1], [1, 1, 2, 2, 2]]}
GRID = [
    pytest.param(patients, width, id=f"{patients}-{width}")
    for n in PATIENTS
    for patients in PATIENTS[n]
    for width in (3, 8)
]


def log_share(scores, j):
    """Log of the softmax of one entry."""
    return scores[j] - scores.max() - np.log(np.exp(scores - scores.max()).sum())


def slow_pairs(first, second, patients, temp=0.1):
    """Mean over positives of P by rows and of its transpose by columns, halved."""
    scores = first @ second.T / temp
    positives = [(i, j) for i, a in enumerate(patients) for j, b in enumerate(patients) if a == b]
    by_row = np.mean([-log_share(scores[i], j) for i, j in positives])
    by_column = np.mean([-log_share(scores[:, j], i) for i, j in positives])
    return (by_row + by_column) / 2


def slow_views(views, patients, temp=0.1):
    """Average over unordered pairs of views of the four terms of CLOCS; views: [V, n, D].

    Off the diagonal every pair of items counts by row and by column, not only each triangle once.
    """
    losses = []
    n = len(patients)
    others = [(i, j) for i in range(n) for j in range(n) if i != j and patients[i] == patients[j]]
    for v, w in itertools.combinations(range(len(views)), 2):
        scores = views[v] @ views[w].T / temp
        terms = [
            np.mean([-log_share(scores[i], i) for i in range(n)]),
            np.mean([-log_share(scores[:, i], i) for i in range(n)]),
        ]
        if others:
            terms.append(np.mean([-log_share(scores[i], j) for i, j in others]))
            terms.append(np.mean([-log_share(scores[:, j], i) for i, j in others]))
        losses.append(np.mean(terms))
    return np.mean(losses)


@pytest.mark.parametrize(("patients", "width"), GRID)
def test_pairs_equal_the_slow_form(patients, width):
    features = vectors(2 * len(patients), width)
    batch = sample(len(features), patient_id=np.repeat(patients, 2), segment=[0, 1] * len(patients))
    loss, size, _ = criterion("cmsc")(Given(features), batch)
    expected = slow_pairs(unit(features)[::2], unit(features)[1::2], patients)
    assert size == len(features)
    assert loss.item() / size == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("n_views", [2, 3, 4])
@pytest.mark.parametrize(("patients", "width"), GRID)
def test_views_equal_the_slow_form(patients, width, n_views):
    rows = n_views * len(patients)
    features = vectors(rows, width)
    batch = sample(
        rows,
        patient_id=np.repeat(patients, n_views),
        view=list(range(n_views)) * len(patients),
        n_views=n_views,
    )
    loss, size, _ = criterion("cmsc")(Given(features), batch)
    views = unit(features).reshape(len(patients), n_views, width).transpose(1, 0, 2)
    assert loss.item() / size == pytest.approx(slow_views(views, patients), rel=1e-5, abs=1e-7)


def test_two_views_of_different_patients_are_a_pair():
    features = vectors(10, 4)
    patients, halves = np.repeat(range(5), 2), [0, 1] * 5
    by_segment = criterion("cmsc")(
        Given(features), sample(10, patient_id=patients, segment=halves)
    )[0]
    by_view = criterion("cmsc")(
        Given(features), sample(10, patient_id=patients, view=halves, n_views=2)
    )[0]
    assert torch.allclose(by_segment, by_view)


@pytest.mark.parametrize("keys", [{"segment": [0, 1]}, {"view": [0, 1], "n_views": 2}])
def test_one_pair_gives_zero_and_no_nan(keys):
    model = Given(vectors(2, 3))
    loss, _, log = criterion("cmsc")(model, sample(2, patient_id=[7, 7], **keys))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(model.features.grad, torch.zeros_like(model.features))
    assert (int(log["correct"]), int(log["count"])) == (2, 2)


def test_padding_does_not_reach_the_loss():
    features, padding = torch.randn(4, 6, 5), torch.zeros(4, 6, dtype=torch.bool)
    padding[1, 4:] = True
    batch = sample(4, patient_id=[0, 0, 1, 1], segment=[0, 1, 0, 1])
    losses = [
        criterion("cmsc")(Given(values, mask), batch)[0]
        for values, mask in (
            (features, padding),
            (features.masked_fill(padding[..., None], 99.0), padding),
            (features, None),
        )
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_gradients_are_those_of_finite_differences_of_the_loss_of_directions():
    """The norm is a constant to the gradient, so unit vectors must be checked."""
    unit_rows = torch.nn.functional.normalize(vectors(6, 4)[:, 0].double())
    patients, segments = torch.tensor([0, 0, 1, 1, 0, 0]), torch.tensor([0, 1] * 3)
    assert torch.autograd.gradcheck(
        lambda rows: pair_loss(rows, patients, segments), unit_rows.requires_grad_()
    )


@pytest.mark.parametrize(
    "keys",
    [{"segment": [0, 1] * 3}, {"view": [0, 1] * 3, "n_views": 2}],
    ids=["pairs", "views"],
)
def test_gathering_over_unequal_processes_equals_one_batch(keys, tmp_path):
    batch = sample(6, patient_id=[1, 1, 2, 2, 1, 1], **keys)
    check_gathering(tmp_path, "cmsc", vectors(6, 5), batch, split=4)


@pytest.mark.parametrize(
    "keys",
    [{"segment": [0, 1] * 3}, {"view": [0, 1] * 3, "n_views": 2}],
    ids=["pairs", "views"],
)
def test_a_process_without_a_batch_of_its_own_adds_nothing_to_compare_with(keys, tmp_path):
    batch = sample(6, patient_id=[1, 1, 2, 2, 1, 1], **keys)
    check_dummy_takes_no_part(tmp_path, "cmsc", vectors(6, 5), batch, split=4)


def test_a_batch_without_views_is_refused():
    with pytest.raises(ValueError, match=r"no segment.*task\.views=cmsc, cmlc or cmsmlc"):
        criterion("cmsc")(Given(vectors(2, 3)), sample(2, patient_id=[1, 2]))


def test_it_is_registered_with_the_references_keys():
    built = criterion("cmsc", temp=0.2, eps=1e-6, all_gather=True)
    assert isinstance(built, CmscCriterion)
    assert (built.temp, built.eps, built.all_gather) == (0.2, 1e-6, True)
