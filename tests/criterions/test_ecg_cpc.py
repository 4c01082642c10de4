"""The loss of future prediction against its formula; sums are exact over batches."""

import math

import numpy as np
import pytest
import torch
from fairseq.logging import metrics
from torch import nn

from fairseq_ecg.criterions.ecg_cpc import EcgCpc


class Scores(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, source):
        return {"out": self.scores}


def batch_of(positives, n_candidates):
    label = nn.functional.one_hot(torch.tensor(positives), n_candidates).float()
    return {"net_input": {"source": torch.zeros(len(label), 1, 1)}, "label": label}


def reduced(logs):
    with metrics.aggregate(new_root=True) as found:
        EcgCpc.reduce_metrics(logs)
    return found.get_smoothed_values()


@pytest.mark.parametrize("n_candidates", [2, 5])
def test_the_loss_is_the_formula(n_candidates):
    torch.manual_seed(0)
    scores = torch.randn(6, n_candidates) * 3
    positives = torch.randint(n_candidates, (6,)).tolist()
    criterion = EcgCpc(None)
    loss, size, log = criterion(Scores(scores), batch_of(positives, n_candidates))
    rows = scores.double().numpy()
    each = [
        -math.log(np.exp(row[right]) / np.exp(row).sum())
        for row, right in zip(rows, positives, strict=True)
    ]
    assert size == 6
    assert loss.item() == pytest.approx(sum(each), rel=1e-5)
    values = reduced([log])
    assert values["loss"] == pytest.approx(sum(each) / 6 / math.log(2), abs=1e-4)
    right = sum(row.argmax() == p for row, p in zip(rows, positives, strict=True))
    assert values["accuracy"] == pytest.approx(right / 6, abs=1e-4)
    assert set(EcgCpc.validation_metrics(None)) <= set(values)


def test_guessing_costs_one_bit_of_two_candidates():
    _, _, log = EcgCpc(None)(Scores(torch.zeros(4, 2)), batch_of([0, 1, 0, 1], 2))
    assert reduced([log])["loss"] == pytest.approx(1.0)


def test_sums_of_unequal_batches_are_those_of_all_items():
    torch.manual_seed(0)
    scores, positives = torch.randn(7, 3), [0, 2, 1, 1, 0, 2, 2]
    whole = EcgCpc(None)(Scores(scores), batch_of(positives, 3))[2]
    parts = [
        EcgCpc(None)(Scores(scores[part]), batch_of(positives[part], 3))[2]
        for part in (slice(0, 5), slice(5, 7))
    ]
    assert EcgCpc.logging_outputs_can_be_summed()
    assert reduced(parts) == pytest.approx(reduced([whole]))


def test_scores_of_half_precision_are_compared_in_float32():
    scores = torch.tensor([[100.0, 99.0]], dtype=torch.bfloat16)
    loss, _, _ = EcgCpc(None)(Scores(scores), batch_of([1], 2))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1 + math.e), rel=1e-4)


def test_other_numbers_of_candidates_are_refused():
    with pytest.raises(ValueError, match="gives 3 scores, the data have 2"):
        EcgCpc(None)(Scores(torch.zeros(1, 3)), batch_of([0], 2))
