"""Recognition of forms and contrast of copies: slow forms of the formulas, the log, the errors."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.logging import metrics
from torch import nn

from fairseq_ecg.criterions.ecg_transform_recognition import (
    COEFFICIENTS,
    FORMS,
    EcgTransformRecognition,
    kernel_penalty,
    nt_xent,
)
from fairseq_ecg.transforms import recognition
from tests.contrasts import (
    check_dummy_takes_no_part,
    check_gathering,
    criterion,
    sample,
    vectors,
)

NAME = "ecg_transform_recognition"


class Answers(nn.Module):
    """Gives the logits and projections it was asked to give, and has layers of known weights."""

    def __init__(self, logits=None, projection=None, channel_weights=None):
        super().__init__()
        self.channel_weights = channel_weights
        self.logits = None if logits is None else nn.Parameter(logits)
        self.projection = None if projection is None else nn.Parameter(projection)
        self.conv, self.linear, self.norm = nn.Conv1d(1, 2, 3), nn.Linear(2, 2), nn.LayerNorm(2)
        for parameter in (self.conv.weight, self.linear.weight):
            nn.init.constant_(parameter, 2.0)

    def forward(self, source):
        return {
            "logits": self.logits,
            "projection": self.projection,
            "channel_weights": self.channel_weights,
        }


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def batch(windows, n_views, **keys):
    return sample(windows * n_views, view=[*range(n_views)] * windows, n_views=n_views, **keys)


def slow_binary(logits, n_views=7):
    """Sum over heads of the weighted mean over rows of -log of what was asked."""
    total = 0.0
    for head in range(7):
        terms = []
        for row, scores in enumerate(logits):
            if row % n_views < 7:
                p = 1 / (1 + math.exp(-scores[head]))
                terms.append(-math.log(p if row % n_views == head else 1 - p))
        total += COEFFICIENTS[head] * np.mean(terms)
    return total


def slow_softmax(logits):
    terms = [
        math.log(sum(math.exp(s) for s in scores)) - scores[row % 7]
        for row, scores in enumerate(logits)
    ]
    return np.mean(terms)


def slow_nt_xent(vectors, temp, patients=None):
    """Average -log softmax over the 2N anchors; pairs are neighbours."""
    terms = []
    for i, a in enumerate(vectors):
        scores = {}
        for j, b in enumerate(vectors):
            masked = patients is not None and patients[i] == patients[j] and j != i ^ 1
            if i != j and not masked:
                scores[j] = a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temp
        terms.append(math.log(sum(math.exp(s) for s in scores.values())) - scores[i ^ 1])
    return np.mean(terms)


def logged(outputs):
    with metrics.aggregate() as meters:
        EcgTransformRecognition.reduce_metrics(outputs)
        return meters.get_smoothed_values()


# --- losses ---------------------------------------------------------------------------------------


def test_the_forms_are_those_of_the_data_and_the_weights_sum_to_one():
    assert FORMS == recognition.FORMS
    assert sum(COEFFICIENTS) == pytest.approx(1.0)


@pytest.mark.parametrize("windows", [1, 2, 5])
def test_seven_heads_equal_the_slow_form(windows):
    model = Answers(3 * rows(7 * windows, 7))
    loss, size, _ = criterion(NAME, l2=0.0)(model, batch(windows, 7))
    assert size == windows
    expected = windows * slow_binary(model.logits.detach().double().numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("windows", [1, 4])
def test_one_answer_of_seven_equals_the_slow_form(windows):
    model = Answers(3 * rows(7 * windows, 7))
    loss = criterion(NAME, l2=0.0, loss="softmax7")(model, batch(windows, 7))[0]
    expected = windows * slow_softmax(model.logits.detach().double().numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_weight_of_a_head_touches_that_head_alone():
    def gradient(coefficients):
        model = Answers(rows(14, 7))
        criterion(NAME, coefficients=coefficients)(model, batch(2, 7))[0].backward()
        return model.logits.grad

    only_third = gradient([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert only_third[:, 2].all()
    assert not only_third[:, [0, 1, 3, 4, 5, 6]].any()


def test_the_penalty_is_half_the_squares_of_kernels_and_part_of_the_loss_once():
    model = Answers(rows(21, 7))
    expected = 0.5 * 4.0 * (6 + 4)
    assert kernel_penalty(model).item() == pytest.approx(expected)
    with_it, without = (criterion(NAME, l2=l2)(model, batch(3, 7)) for l2 in (0.01, 0.0))
    assert (with_it[0] - without[0]).item() == pytest.approx(3 * 0.01 * expected, rel=1e-4)
    with_it[0].backward()
    assert torch.allclose(model.conv.weight.grad, torch.full((2, 1, 3), 3 * 0.01 * 2.0))
    assert model.conv.bias.grad is None
    assert model.norm.weight.grad is None
    model.linear.weight.requires_grad = False
    assert kernel_penalty(model).item() == pytest.approx(0.5 * 4.0 * 6)


@pytest.mark.parametrize("patients", [None, [0, 0, 1, 1, 0, 0, 2, 2]])
@pytest.mark.parametrize("temp", [0.05, 0.5])
@pytest.mark.parametrize("width", [2, 8])
def test_the_contrast_equals_the_slow_form(patients, temp, width):
    vectors = rows(8, width)
    keys = None if patients is None else torch.tensor(patients)
    loss = nt_xent(vectors, torch.tensor([0, 1] * 4), 2, temp, keys)[0]
    expected = slow_nt_xent(vectors.double().numpy(), temp, patients)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("windows", [2, 5])
@pytest.mark.parametrize("temp", [0.1, 0.5])
def test_equal_copies_and_orthogonal_windows_leave_the_known_rest(windows, temp):
    vectors = torch.eye(windows).repeat_interleave(2, 0) * 3
    model = Answers(projection=vectors)
    keys = {"mode": "contrastive", "temp": temp, "l2": 0.0}
    loss, size, log = criterion(NAME, **keys)(model, batch(windows, 2))
    expected = math.log(1 + (2 * windows - 2) * math.exp(-1 / temp))
    assert loss.item() / size == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert (int(log["correct"]), int(log["count"])) == (2 * windows, 2 * windows)


def test_jointly_each_loss_sees_its_own_rows():
    logits, projection = rows(27, 7), rows(27, 4, seed=1)
    model = Answers(logits, projection)
    loss, size, log = criterion(NAME, mode="joint", lambda_ntxent=0.3, l2=0.0)(model, batch(3, 9))
    copies = projection.reshape(3, 9, 4)[:, 7:].reshape(6, 4).double().numpy()
    recognised = slow_binary(logits.double().numpy(), n_views=9)
    contrasted = 0.3 * slow_nt_xent(copies, 0.1)
    assert size == 3
    assert loss.item() == pytest.approx(3 * (recognised + contrasted), rel=1e-5)
    assert log["loss_ntxent"].item() == pytest.approx(3 * contrasted, rel=1e-4)
    loss.backward()
    forms = model.logits.grad.reshape(3, 9, 7)
    assert forms[:, :7].any()
    assert not forms[:, 7:].any()
    assert not model.projection.grad.reshape(3, 9, 4)[:, :7].any()


CONTRAST = {"mode": "contrastive", "mask_same_patient": True}
PATIENTS = [1, 1, 1, 1, 2, 2]


def test_gathering_over_unequal_processes_equals_one_batch(tmp_path):
    given = batch(3, 2, patient_id=PATIENTS)
    check_gathering(tmp_path, NAME, vectors(6, 5), given, 4, l2=0.0, **CONTRAST)


def test_what_a_process_repeats_takes_no_part(tmp_path):
    given = batch(3, 2, patient_id=PATIENTS)
    check_dummy_takes_no_part(tmp_path, NAME, vectors(6, 5), given, 4, l2=0.0, **CONTRAST)


# --- what is logged -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["multi_binary", "softmax7"])
def test_accuracy_and_f1_are_exact_over_batches_of_unequal_size(loss):
    answers = [3 * rows(7 * n, 7, seed=n) for n in (1, 4, 2)]
    judge = criterion(NAME, loss=loss)
    outputs = [judge(Answers(a), batch(len(a) // 7, 7))[2] for a in answers]
    values = logged(outputs)
    logits = torch.cat(answers).numpy()
    truth = np.arange(len(logits)) % 7
    largest = logits.argmax(1)
    assert values["accuracy"] == pytest.approx((largest == truth).mean(), abs=1e-5)
    scores = []
    for form, name in enumerate(FORMS):
        yes = largest == form if loss == "softmax7" else logits[:, form] > 0
        is_form = truth == form
        assert values[f"accuracy_{name}"] == pytest.approx((yes == is_form).mean(), abs=1e-5)
        tp, wrong = (yes & is_form).sum(), (yes != is_form).sum()
        scores.append(2 * tp / (2 * tp + wrong))
        assert values[f"f1_{name}"] == pytest.approx(scores[-1], abs=1e-5)
    assert values["f1"] == pytest.approx(np.mean(scores), abs=2e-5)
    total = sum(float(o["loss"]) for o in outputs) / 7
    assert values["loss"] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(("mode", "n_views"), [("transforms", 7), ("joint", 9)])
def test_weights_of_channels_are_averaged_for_each_form(mode, n_views):
    outputs, weights = [], [rows(n_views * n, 5, seed=n).sigmoid() for n in (1, 3)]
    for given in weights:
        model = Answers(rows(len(given), 7), rows(len(given), 3), given)
        outputs.append(criterion(NAME, mode=mode)(model, batch(len(given) // n_views, n_views))[2])
    values, together = logged(outputs), torch.cat(weights)
    for form, name in enumerate(FORMS):
        expected = together[form::n_views].mean().item()
        assert values[f"channel_weight_{name}"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", ["transforms", "contrastive", "joint"])
@pytest.mark.parametrize("l2", [0.0, 1e-4])
def test_the_names_that_can_be_best_are_those_that_are_logged(mode, l2):
    n_views = {"transforms": 7, "contrastive": 2, "joint": 9}[mode]
    model = Answers(rows(2 * n_views, 7), rows(2 * n_views, 3))
    judge = criterion(NAME, mode=mode, l2=l2)
    values = logged([judge(model, batch(2, n_views))[2]])
    names = EcgTransformRecognition.validation_metrics({"mode": mode, "l2": l2})
    visible = {name for name in values if not name.startswith("_")}
    assert set(names) == visible - {"ntokens", "nsentences"}


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "given", "message"),
    [
        ("transforms", sample(7), r"the batch has no views.*needs 7; give task.views=transforms"),
        ("transforms", batch(1, 2), r"has 2 views of each window.*give task.views=transforms"),
        ("contrastive", batch(1, 7), r"mode=contrastive needs 2; give task.views=two"),
        ("joint", batch(1, 7), r"mode=joint needs 9; give task.views=transforms_and_pair"),
    ],
)
def test_a_batch_of_other_views_is_refused(mode, given, message):
    with pytest.raises(ValueError, match=message):
        criterion(NAME, mode=mode)(Answers(rows(7, 7), rows(7, 3)), given)


@pytest.mark.parametrize(
    ("model", "mode", "message"),
    [
        (Answers(), "transforms", "no logits, .*model._name=ecg_transform_cnn"),
        (Answers(rows(7, 5)), "transforms", "gives 5 logits, but there are 7 forms"),
        (Answers(rows(9, 7)), "joint", "no projection, .*model.projection_dim=64"),
    ],
)
def test_a_model_that_does_not_answer_is_refused(model, mode, message):
    n_views = {"transforms": 7, "joint": 9}[mode]
    with pytest.raises(ValueError, match=message):
        criterion(NAME, mode=mode)(model, batch(1, n_views))


@pytest.mark.parametrize(("loss", "n_heads"), [("softmax7", 7), ("multi_binary", 1)])
def test_heads_of_the_other_loss_are_refused(loss, n_heads):
    model = Answers(rows(7, 7))
    model.heads = nn.ModuleList(nn.Linear(1, 1) for _ in range(8 - n_heads))
    criterion(NAME, loss=loss)(model, batch(1, 7))
    model.heads = nn.ModuleList(nn.Linear(1, 1) for _ in range(n_heads))
    with pytest.raises(ValueError, match=f"needs model.heads={loss}, but the model has {n_heads}"):
        criterion(NAME, loss=loss)(model, batch(1, 7))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"coefficients": [1.0]},
            "coefficients must be 7 numbers of 0 or more, one for each of ori",
        ),
        ({"coefficients": [-1.0] * 7}, "coefficients must be 7 numbers"),
        ({"coefficients": [0.0] * 7}, "are all 0.*give criterion.mode=contrastive"),
        ({"coefficients": [1.0] * 7, "loss": "softmax7"}, "no effect with loss=softmax7"),
        ({"l2": -1.0}, "criterion.l2 is -1.0; give 0 or more"),
        ({"lambda_ntxent": math.nan}, "criterion.lambda_ntxent is nan"),
        ({"temp": 0.0}, "criterion.temp is 0.0; give a number above 0"),
        ({"mask_same_patient": True}, "criterion.mode=transforms contrasts none"),
    ],
)
def test_values_that_cannot_work_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        criterion(NAME, **keys)


@pytest.mark.parametrize(
    ("mode", "views", "message"),
    [
        ("transforms", "two", "mode=transforms needs task.views=transforms, but it is two"),
        ("joint", "auto", "mode=joint needs task.views=transforms_and_pair, but it is auto"),
        ("contrastive", "auto", "mode=contrastive needs task.views=two"),
        ("transforms", "auto", None),
        ("joint", "transforms_and_pair", None),
    ],
)
def test_a_task_of_other_views_is_refused_before_it_runs(mode, views, message):
    task = SimpleNamespace(cfg=SimpleNamespace(views=views, positives="record"))
    if message is None:
        assert EcgTransformRecognition(task, mode=mode).mode == mode
        return
    with pytest.raises(ValueError, match=message):
        EcgTransformRecognition(task, mode=mode)


def test_masking_patients_needs_a_task_that_knows_them():
    task = SimpleNamespace(cfg=SimpleNamespace(views="two", positives="record"))
    with pytest.raises(ValueError, match="needs to know patients.*give task.positives=patient"):
        EcgTransformRecognition(task, mode="contrastive", mask_same_patient=True)
