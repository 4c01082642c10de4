"""3KG: a slow form of the formula, and the criterion around it."""

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


def slow_3kg(rows, patients, temp=0.1):
    """Sum over ordered positive pairs of the cross-entropy among the positive and all negatives."""
    total = 0.0
    for i in range(len(rows)):
        score = rows @ rows[i] / temp
        negatives = sum(np.exp(score[j]) for j in range(len(rows)) if patients[j] != patients[i])
        for j in range(len(rows)):
            if j != i and patients[j] == patients[i]:
                total += np.log(np.exp(score[j]) + negatives) - score[j]
    return total


def batch(patients):
    view = [0, 1] * len(patients)
    return sample(len(view), patient_id=np.repeat(patients, 2), view=view, n_views=2)


@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize(
    "patients", [[4], [4, 5], [4, 4], [1, 2, 3, 4, 5], [1, 2, 1, 4, 1]], ids=str
)
def test_it_equals_the_slow_form(patients, width):
    model = Given(vectors(2 * len(patients), width))
    loss, size, _ = criterion("3kg")(model, batch(patients))
    loss.backward()
    expected = slow_3kg(unit(model.features), np.repeat(patients, 2))
    assert size == 2 * len(patients)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert model.features.grad.isfinite().all()


def test_with_one_segment_per_patient_it_is_simclr():
    features = vectors(8, 4)
    losses = [
        criterion(name)(Given(features), batch([1, 2, 3, 4]))[0] for name in ("3kg", "simclr")
    ]
    assert torch.allclose(*losses)


def test_gathering_over_unequal_processes_equals_one_batch(tmp_path):
    check_gathering(tmp_path, "3kg", vectors(6, 5), batch([1, 2, 1]), split=4)


def test_a_process_without_a_batch_of_its_own_adds_nothing_to_compare_with(tmp_path):
    check_dummy_takes_no_part(tmp_path, "3kg", vectors(6, 5), batch([1, 2, 1]), split=4)


def test_a_batch_without_copies_is_refused():
    with pytest.raises(ValueError, match=r"no view, which.*give task\.views=3kg"):
        criterion("3kg")(Given(vectors(2, 3)), sample(2, patient_id=[1, 2]))
