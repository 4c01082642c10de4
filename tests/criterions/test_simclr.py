"""SimCLR: a slow form of the formula, and the criterion around it."""

import numpy as np
import pytest
import torch

from tests.contrasts import (
    Given,
    check_dummy_takes_no_part,
    check_gathering,
    criterion,
    sample,
    unit,
    vectors,
)


def slow_simclr(rows, temp=0.1):
    """Sum over rows of the cross-entropy of the partner among all others."""
    total = 0.0
    for i in range(len(rows)):
        scores = {j: rows[i] @ rows[j] / temp for j in range(len(rows)) if j != i}
        total += np.log(sum(np.exp(s) for s in scores.values())) - scores[i ^ 1]
    return total


def batch(n_segments):
    return sample(2 * n_segments, view=[0, 1] * n_segments, n_views=2)


@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize("n_segments", [1, 2, 5])
def test_it_equals_the_slow_form(n_segments, width):
    model = Given(vectors(2 * n_segments, width))
    loss, size, _ = criterion("simclr")(model, batch(n_segments))
    loss.backward()
    assert size == 2 * n_segments
    assert loss.item() == pytest.approx(slow_simclr(unit(model.features)), rel=1e-5, abs=1e-6)
    assert model.features.grad.isfinite().all()


def test_the_patient_plays_no_part():
    features = vectors(6, 4)
    first = criterion("simclr")(Given(features), {**batch(3), "patient_id": torch.zeros(6)})[0]
    assert torch.equal(first, criterion("simclr")(Given(features), batch(3))[0])


def test_accuracy_counts_copies_whose_nearest_other_copy_is_the_partner():
    rows = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.9, 0.2]])[:, None]
    log = criterion("simclr")(Given(rows), batch(2))[2]
    assert (int(log["correct"]), int(log["count"])) == (2, 4)


def test_equal_vectors_are_no_success():
    log = criterion("simclr")(Given(torch.ones(6, 1, 4)), batch(3))[2]
    assert int(log["correct"]) == 0


def test_gathering_over_unequal_processes_equals_one_batch(tmp_path):
    check_gathering(tmp_path, "simclr", vectors(6, 5), batch(3), split=4)


def test_a_process_without_a_batch_of_its_own_adds_nothing_to_compare_with(tmp_path):
    check_dummy_takes_no_part(tmp_path, "simclr", vectors(6, 5), batch(3), split=4)


def test_a_batch_without_copies_is_refused():
    with pytest.raises(ValueError, match=r"no view and no n_views.*give task\.views=two"):
        criterion("simclr")(Given(vectors(2, 3)), sample(2))
