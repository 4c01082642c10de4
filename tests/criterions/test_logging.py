"""Adding up logging outputs."""

import pytest
import torch

from fairseq_ecg.criterions._logging import sum_logs


def test_numbers_and_tensors_are_added_over_outputs():
    logs = [
        {"loss": torch.tensor(1.5), "n": 2, "mixed": 1.0},
        {"loss": torch.tensor([0.25]).sum(), "n": 3, "mixed": torch.tensor(2)},
    ]
    assert sum_logs(logs, ("loss", "n", "mixed")) == {"loss": 1.75, "n": 5.0, "mixed": 3.0}


def test_a_key_that_is_absent_counts_as_nothing():
    assert sum_logs([{"a": 1}, {}], ("a", "b")) == {"a": 1.0, "b": 0.0}
    assert sum_logs([], ("a",)) == {"a": 0.0}


def test_only_the_keys_asked_for_are_returned_as_python_floats():
    totals = sum_logs([{"a": torch.tensor(1), "b": 2, "c": "text"}], ("a", "b"))
    assert totals.keys() == {"a", "b"}
    assert all(type(value) is float for value in totals.values())


def test_one_element_tensors_of_any_shape_and_kind_are_accepted():
    logs = [{"a": torch.tensor([[2]]), "b": torch.tensor(True), "c": torch.tensor(0.5).half()}]
    assert sum_logs(logs, "abc") == {"a": 2.0, "b": 1.0, "c": 0.5}


def test_large_counts_stay_exact():
    logs = [{"n": torch.tensor(2**24 + 1), "loss": torch.tensor(0.5)}, {"n": torch.tensor(2)}]
    assert sum_logs(logs, ("n", "loss")) == {"n": 2**24 + 3, "loss": 0.5}


def test_gradients_do_not_matter():
    loss = torch.tensor(2.0, requires_grad=True) * 3
    assert sum_logs([{"loss": loss}], ("loss",)) == {"loss": 6.0}


def test_the_device_is_waited_for_once_however_many_keys_there_are(monkeypatch):
    fetches = []
    fetch = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: fetches.append(1) or fetch(t))
    for name in ("item", "__float__", "__int__", "__bool__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, lambda *a: pytest.fail("waited for the device"))
    logs = [{key: torch.tensor(1.0) for key in "abcde"} for _ in range(3)]
    assert set(sum_logs(logs, "abcde").values()) == {3.0}
    assert len(fetches) == 1
