"""What the contrastive criterions share: precision, waiting for the device, the log."""

import math

import pytest
import torch
from fairseq.logging import metrics

from fairseq_ecg.criterions._contrast import ContrastiveCriterion
from tests.contrasts import Given, criterion, sample, vectors

NAMES = ["cmsc", "simclr", "3kg"]
KEYS = {"patient_id": [1, 1, 2, 2, 1, 1], "view": [0, 1] * 3, "n_views": 2}


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_float32_under_autocast(name):
    model, batch = Given(vectors(6, 4)), sample(6, **KEYS)
    expected = criterion(name)(model, batch)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(name)(model, batch)[0]
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_step_reads_nothing_back_from_the_device(name, monkeypatch):
    model, batch = Given(vectors(6, 4)), sample(6, **KEYS)

    def forbidden(*args):
        raise AssertionError("a tensor was read back")

    for method in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy", "nonzero"):
        monkeypatch.setattr(torch.Tensor, method, forbidden)
    loss, _, log = criterion(name)(model, batch)
    loss.backward()
    monkeypatch.undo()
    assert loss.isfinite()
    assert not any(torch.is_tensor(v) and v.requires_grad for v in log.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_log_is_bits_per_view_and_a_share_over_all_batches(name):
    built = criterion(name)
    logs = [built(Given(vectors(6, 4, seed)), sample(6, **KEYS))[2] for seed in range(2)]
    with metrics.aggregate(new_root=True) as aggregated:
        built.reduce_metrics(logs)
    values = aggregated.get_smoothed_values()
    total = sum(log["loss"].item() for log in logs)
    assert values["loss"] == pytest.approx(total / 12 / math.log(2), abs=1e-3)
    correct = sum(int(log["correct"]) for log in logs)
    assert values["accuracy"] == pytest.approx(correct / 12, abs=1e-5)
    assert values["nsignals"] == 12
    assert set(built.validation_metrics({})) <= set(values)
    assert built.logging_outputs_can_be_summed()


@pytest.mark.parametrize("keys", [{"temp": 0.0}, {"eps": -1.0}])
def test_numbers_that_are_not_positive_are_refused(keys):
    with pytest.raises(ValueError, match="must be positive"):
        ContrastiveCriterion(None, **keys)
