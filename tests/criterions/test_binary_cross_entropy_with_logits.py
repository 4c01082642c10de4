"""Loss, logged shares and epoch metrics against numpy and scikit-learn, over uneven batches."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.logging import metrics
from omegaconf import OmegaConf
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from torch import nn

from fairseq_ecg.criterions._multilabel_losses import (
    asymmetric_loss,
    challenge_score_loss,
    focal_loss,
    sparsity_loss,
)
from fairseq_ecg.criterions.binary_cross_entropy_with_logits import (
    BinaryCrossEntropyWithLogits,
    binary_cross_entropy,
    count_decisions,
)
from fairseq_ecg.metrics.cinc2021 import challenge_score, find_class, load_weights
from fairseq_ecg.resources import challenge_labels, challenge_weights_file
from tests.recordings import load, make_task, write_folder

NAME = "binary_cross_entropy_with_logits"
K = 4


class Echo(nn.Module):
    """A model whose logits are its input."""

    def forward(self, source):
        return {"out": source}


def criterion(training=False, num_labels=K, label_names=None, **keys):
    task = SimpleNamespace(num_labels=num_labels, label_names=label_names)
    return BinaryCrossEntropyWithLogits(task, **keys).train(training)


def batches(sizes=(5, 1, 8), n_classes=K, seed=0):
    rng = np.random.default_rng(seed)
    for n in sizes:
        labels = (rng.random((n, n_classes)) < 0.4).astype(np.float32)
        logits = rng.normal(size=(n, n_classes)).astype(np.float32) + labels
        yield {
            "net_input": {"source": torch.tensor(logits, requires_grad=True)},
            "label": torch.tensor(labels),
        }


def joined(samples):
    logits = np.concatenate([s["net_input"]["source"].detach().numpy() for s in samples])
    labels = np.concatenate([s["label"].numpy() for s in samples])
    return 1 / (1 + np.exp(-logits.astype(np.float64))), labels


def formula(logits, labels, pos_weight=1.0, weight=1.0):
    """-w (c y ln p + (1 - y) ln(1 - p)), in float64."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    terms = pos_weight * labels * np.log(p) + (1 - labels) * np.log(1 - p)
    return -(weight * terms).sum()


def logged(crit, samples):
    outputs = [crit(Echo(), sample)[2] for sample in samples]
    for output in outputs:
        output.pop("scores", None)
    with metrics.aggregate(new_root=True) as agg:
        crit.reduce_metrics(outputs)
    return agg.get_smoothed_values()


# --- loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"pos_weight": [0.5, 2.0, 1.0, 30.0]},
        {"weight": [1.0, 0.0, 3.0, 0.25]},
        {"pos_weight": [0.5, 2.0, 1.0, 30.0], "weight": [1.0, 0.0, 3.0, 0.25]},
    ],
)
def test_the_loss_is_the_weighted_formula_summed_over_items_and_classes(keys):
    crit = criterion(training=True, **keys)
    for sample in batches():
        loss, size, output = crit(Echo(), sample)
        logits, labels = sample["net_input"]["source"].detach().numpy(), sample["label"].numpy()
        expected = formula(logits, labels, **{k: np.array(v) for k, v in keys.items()})
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        assert float(output["loss"]) == pytest.approx(expected, rel=1e-5)
        assert size == output["sample_size"] == labels.size
        assert output["nsentences"] == len(labels)


def test_the_gradient_is_probability_minus_label():
    (sample,) = batches((6,))
    crit = criterion(training=True, pos_weight=[1.0, 1.0, 1.0, 5.0])
    crit(Echo(), sample)[0].backward()
    p = torch.sigmoid(sample["net_input"]["source"].detach())
    y = sample["label"]
    c = torch.tensor([1.0, 1.0, 1.0, 5.0])
    expected = (1 - y) * p - c * y * (1 - p)
    torch.testing.assert_close(sample["net_input"]["source"].grad, expected)


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.full((64, 64), 3.0, dtype=torch.bfloat16)
    loss = binary_cross_entropy(logits, torch.zeros(64, 64))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(64 * 64 * math.log1p(math.exp(3)), rel=1e-5)


def test_weights_move_with_the_criterion_and_stay_out_of_checkpoints():
    crit = criterion(pos_weight=[1.0] * K)
    assert crit.to(torch.float64).pos_weight.dtype == torch.float64
    assert crit.state_dict() == {}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pos_weight": [1.0, 2.0]}, "criterion.pos_weight has 2 values for 4 classes"),
        ({"weight": [1.0] * 5}, "criterion.weight has 5 values for 4 classes"),
        ({"pos_weight": [1.0, 1.0, math.inf, 1.0]}, "criterion.pos_weight must be finite"),
        ({"weight": [1.0, 1.0, -1.0, 1.0]}, "criterion.weight must be finite and not negative"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_by_name(keys, message):
    with pytest.raises(ValueError, match=message):
        criterion(**keys)


def test_scores_and_labels_of_different_width_are_refused_with_the_way_out():
    (sample,) = batches((3,))
    sample["label"] = sample["label"][:, :3]
    with pytest.raises(ValueError, match="model gives 4 scores, the data have 3.*num_labels=null"):
        criterion()(Echo(), sample)


# --- logged values ------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_logged_shares_over_batches_are_scikit_learns_over_all_items(threshold):
    samples = list(batches())
    probability, labels = joined(samples)
    decisions = probability > threshold
    values = logged(criterion(threshold=threshold), samples)
    expected = {
        "accuracy": accuracy_score(labels.ravel(), decisions.ravel()),
        "em_accuracy": accuracy_score(labels, decisions),
        "precision": precision_score(labels, decisions, average="micro", zero_division=0),
        "recall": recall_score(labels, decisions, average="micro", zero_division=0),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=6e-5), name
    assert len({round(v, 3) for v in expected.values()}) > 2


def test_the_logged_loss_is_in_bits_per_decision():
    samples = list(batches())
    probability, labels = joined(samples)
    nats = -(labels * np.log(probability) + (1 - labels) * np.log(1 - probability)).mean()
    assert logged(criterion(), samples)["loss"] == pytest.approx(nats / math.log(2), abs=6e-5)


def test_knowing_nothing_costs_one_bit_per_decision():
    sample = {"net_input": {"source": torch.zeros(3, K)}, "label": torch.eye(3, K)}
    assert logged(criterion(), [sample])["loss"] == 1.0


def test_logged_values_add_up_over_calls_as_over_log_lines():
    samples = list(batches())
    crit = criterion()
    with metrics.aggregate(new_root=True) as agg:
        for sample in samples:
            output = crit(Echo(), sample)[2]
            output.pop("scores")
            crit.reduce_metrics([output])
    for name, value in logged(criterion(), samples).items():
        assert agg.get_smoothed_values()[name] == pytest.approx(value, abs=2e-4), name


def test_no_decision_at_all_logs_zeros_not_an_error():
    sample = {"net_input": {"source": torch.full((2, K), -9.0)}, "label": torch.zeros(2, K)}
    values = logged(criterion(), [sample])
    assert (values["precision"], values["recall"]) == (0.0, 0.0)
    assert (values["accuracy"], values["em_accuracy"]) == (1.0, 1.0)


def test_a_probability_at_the_threshold_decides_nothing():
    counts = count_decisions(torch.tensor([[0.5, 0.6]]), torch.tensor([[1.0, 1.0]]), 0.5)
    assert {k: int(v) for k, v in counts.items()} == {
        "correct": 1, "em_correct": 0, "tp": 1, "fp": 0, "fn": 1,
    }  # fmt: skip


def test_every_logging_output_can_be_summed():
    assert BinaryCrossEntropyWithLogits.logging_outputs_can_be_summed()
    _, _, output = criterion(training=True)(Echo(), next(batches()))
    assert all(torch.is_tensor(v) or isinstance(v, int) for v in output.values())


# --- validation ---------------------------------------------------------------------------------


def test_scores_are_handed_over_in_evaluation_only():
    sample = next(batches())
    assert "scores" not in criterion(training=True)(Echo(), sample)[2]
    scores = criterion(training=False)(Echo(), sample)[2]["scores"]
    expected = torch.sigmoid(sample["net_input"]["source"])
    assert torch.equal(scores["probability"], expected)
    assert not scores["probability"].requires_grad
    assert torch.equal(scores["label"], sample["label"])


def cinc_samples():
    return list(batches((9, 2, 20), n_classes=26))


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_epoch_metrics_are_scikit_learns_and_the_challenges(average):
    crit = criterion(
        num_labels=26,
        label_names=challenge_labels(),
        report_auc=True,
        auc_average=average,
        report_cinc_score=True,
    )
    probability, labels = joined(cinc_samples())
    values = crit.epoch_metrics(probability, labels)
    assert values["auroc"] == pytest.approx(roc_auc_score(labels, probability, average=average))
    assert values["auprc"] == pytest.approx(
        average_precision_score(labels, probability, average=average)
    )
    classes, weights = load_weights(challenge_weights_file())
    assert values["cinc_score"] == pytest.approx(
        challenge_score(labels, probability > 0.5, weights, find_class(classes))
    )


@pytest.mark.parametrize("auc", [False, True])
@pytest.mark.parametrize("cinc", [False, True])
@pytest.mark.parametrize("f", [False, True])
def test_the_names_promised_before_a_run_are_those_a_validation_logs(tmp_path, auc, cinc, f):
    """``checkpoint.best_checkpoint_metric`` is checked against this promise."""
    names = challenge_labels()
    folder = write_folder(tmp_path, [100] * 26, labels=names)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    task = make_task("ecg_classification", folder)
    cfg = OmegaConf.structured(CRITERION_DATACLASS_REGISTRY[NAME])
    asked = {"report_auc": auc, "report_cinc_score": cinc, "report_f_max": f, "report_f_beta": f}
    cfg = OmegaConf.merge(cfg, {"_name": NAME, **asked})
    crit = task.build_criterion(cfg).eval()
    dataset = load(task, "valid")
    task.begin_valid_epoch(1, None)
    with metrics.aggregate(new_root=True) as agg:
        for i in range(0, 26, 8):
            sample = dataset.collater(dataset.__getitems__(range(26)[i : i + 8]))
            sample["net_input"] = {"source": torch.randn(len(sample["id"]), 26)}
            _, _, output = task.valid_step(sample, Echo(), crit)
            assert "scores" not in output
            task.reduce_metrics([output], crit)
    stats = agg.get_smoothed_values()
    task.post_validate(None, stats, agg)
    own = {key for key in stats if key not in ("wpb", "wps", "bsz") and not key.startswith("_")}
    promised = BinaryCrossEntropyWithLogits.validation_metrics(cfg)
    assert len(set(promised)) == len(promised)
    assert own == set(promised)
    assert {"f_max", "f_beta", "g_beta"}.isdisjoint(promised) != f
    assert all(not math.isnan(stats[name]) for name in promised)


def test_a_validation_scores_each_item_with_its_own_record(tmp_path):
    folder = write_folder(tmp_path, [250, 100, 320], labels=["a", "b", "a;b"])
    task = make_task("ecg_classification", folder, segment_s=1.0, score_per="record")
    cfg = OmegaConf.structured(CRITERION_DATACLASS_REGISTRY[NAME])
    crit = task.build_criterion(OmegaConf.merge(cfg, {"_name": NAME, "report_auc": True})).eval()
    dataset = load(task, "valid")
    task.begin_valid_epoch(1, None)
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    for indices in ([4, 5], [0, 1, 2, 3], [4, 5]):  # the last is the engine's repetition
        sample = dataset.collater(dataset.__getitems__(indices))
        sample["net_input"] = {"source": logits[indices]}
        task.valid_step(sample, Echo(), crit)
    stats = {}
    task.post_validate(None, stats, None)
    p = torch.sigmoid(logits).numpy()
    mean = np.stack([p[:2].mean(axis=0), p[2], p[3:].mean(axis=0)])
    assert stats["auroc"] == pytest.approx(roc_auc_score([[1, 0], [0, 1], [1, 1]], mean))


# --- the challenge's classes --------------------------------------------------------------------


def test_other_classes_than_the_challenges_are_refused_with_the_way_out():
    names = challenge_labels()
    with pytest.raises(ValueError, match=r"the 26 classes of .*but task.data has 4.*cinc2021"):
        criterion(label_names=list("abcd"), report_cinc_score=True)
    with pytest.raises(ValueError, match=r"26 classes of .*weights.csv in its order.*cinc2021"):
        criterion(num_labels=26, label_names=names[::-1], report_cinc_score=True)
    criterion(num_labels=26, label_names=names, report_cinc_score=True)
    criterion(num_labels=26, label_names=None, report_cinc_score=True)


def test_a_weights_file_in_another_order_needs_the_classes_in_that_order(tmp_path):
    lines = [line.split(",") for line in challenge_weights_file().read_text().splitlines()]
    order = [0, 2, 1, *range(3, 27)]
    path = tmp_path / "weights.csv"
    path.write_text("\n".join(",".join(lines[i][j] for j in order) for i in order))
    names = challenge_labels()
    keys = {"num_labels": 26, "report_cinc_score": True, "weights_file": str(path)}
    with pytest.raises(ValueError, match="in its order"):
        criterion(label_names=names, **keys)
    swapped = [names[1], names[0], *names[2:]]
    crit = criterion(label_names=swapped, **keys)
    probability, labels = joined(cinc_samples())
    reference = criterion(num_labels=26, label_names=names, report_cinc_score=True)
    back = [1, 0, *range(2, 26)]
    assert crit.epoch_metrics(probability[:, back], labels[:, back])["cinc_score"] == pytest.approx(
        reference.epoch_metrics(probability, labels)["cinc_score"]
    )


def test_a_table_of_ones_own_classes_is_taken_as_it_is(tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text(",1,426783006\n1,1.0,0.5\n426783006,0.5,1.0\n")
    crit = criterion(
        num_labels=2,
        label_names=["mine", "sinus"],
        report_cinc_score=True,
        weights_file=str(path),
    )
    truth = np.array([[1, 0], [0, 1]])
    assert crit.epoch_metrics(truth * 0.9, truth)["cinc_score"] == pytest.approx(1.0)
    assert crit.summary.sinus_index == 1


# --- other losses, and terms of a whole batch ---------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "plain"),
    [
        ({"base_loss": "asymmetric"}, lambda z, y: asymmetric_loss(z, y, 4, 0, 0.05)),
        (
            {"base_loss": "asymmetric", "gamma_neg": 2, "gamma_pos": 1, "clip": 0},
            lambda z, y: asymmetric_loss(z, y, 2, 1, 0),
        ),
        ({"base_loss": "focal"}, lambda z, y: focal_loss(z, y, 0.25, 2)),
        (
            {"base_loss": "focal", "focal_alpha": 0.5, "focal_gamma": 0},
            lambda z, y: focal_loss(z, y, 0.5, 0),
        ),
    ],
)
def test_another_loss_takes_the_place_of_the_cross_entropy(keys, plain):
    (sample,) = batches((6,))
    loss, size, output = criterion(training=True, **keys)(Echo(), sample)
    logits, labels = sample["net_input"]["source"], sample["label"]
    torch.testing.assert_close(loss, plain(logits, labels))
    assert float(output["loss"]) == float(loss)
    assert size == labels.numel()


def test_terms_of_the_batch_count_as_much_per_decision_as_their_weight_says():
    sample = cinc_samples()[0]
    task = {"training": True, "num_labels": 26, "label_names": challenge_labels()}
    logits, labels = sample["net_input"]["source"], sample["label"]
    plain = criterion(**task)(Echo(), sample)[0]
    crit = criterion(**task, score_weight=3.0, sparsity_weight=0.5)
    loss, size, output = crit(Echo(), sample)
    classes, weights = load_weights(challenge_weights_file())
    score = challenge_score_loss(
        logits, labels, torch.from_numpy(weights).float(), find_class(classes)
    )
    expected = plain / size + 3.0 * score + 0.5 * sparsity_loss(logits)
    torch.testing.assert_close(loss / size, expected)
    assert float(output["score_loss"]) == pytest.approx(float(score) * len(labels), rel=1e-5)


def test_terms_are_logged_as_means_over_items_under_the_names_that_are_promised():
    samples = cinc_samples()
    task = {"training": True, "num_labels": 26, "label_names": challenge_labels()}
    keys = {"score_weight": 1.0, "sparsity_weight": 1.0}
    values = logged(criterion(**task, **keys), samples)
    sizes = [len(sample["label"]) for sample in samples]
    sparsity = [float(sparsity_loss(s["net_input"]["source"].detach())) for s in samples]
    assert values["sparsity_loss"] == pytest.approx(np.average(sparsity, weights=sizes), abs=1e-4)
    cfg = OmegaConf.structured(CRITERION_DATACLASS_REGISTRY[NAME])
    promised = BinaryCrossEntropyWithLogits.validation_metrics(OmegaConf.merge(cfg, keys))
    assert {"score_loss", "sparsity_loss"} <= set(promised)
    assert not {"score_loss"} & set(BinaryCrossEntropyWithLogits.validation_metrics(cfg))
    assert not {"score_loss", "sparsity_loss"} & set(logged(criterion(**task), samples))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"base_loss": "focal", "pos_weight": [1.0] * K}, "pos_weight has no effect.*focal"),
        ({"gamma_neg": 0.5}, "criterion.gamma_neg is 0.5; give 0, or 1 and more"),
        ({"focal_gamma": -1.0}, "criterion.focal_gamma is -1"),
        ({"clip": 1.0}, "criterion.clip is 1.0; give a share"),
        ({"score_weight": -1.0}, "criterion.score_weight is -1.0; give 0 or more"),
        ({"score_weight": 1.0}, "score_weight needs the 26 classes.*or score_weight=0"),
    ],
)
def test_options_of_losses_without_a_meaning_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        criterion(label_names=list("abcd"), **keys)
