"""Loss, logged numbers and epoch metrics of single labels against the formula and scikit-learn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.logging import metrics
from omegaconf import OmegaConf
from sklearn.metrics import accuracy_score, f1_score, log_loss

from fairseq_ecg.cli.main import main
from fairseq_ecg.criterions.ecg_cross_entropy import EcgCrossEntropy, softmax_cross_entropy
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.metrics.multiclass import SingleLabelSummary
from tests.criterions.test_binary_cross_entropy_with_logits import Echo
from tests.recordings import load, make_task, write_folder
from tests.runs import logged as logged_by
from tests.runs import single_label_words, train, write_segments

K = 4


def criterion(training=False, num_labels=K, label_names=None, **keys):
    task = SimpleNamespace(num_labels=num_labels, label_names=label_names)
    return EcgCrossEntropy(task, **keys).train(training)


def batches(sizes=(5, 1, 8), n_classes=K, seed=0):
    rng = np.random.default_rng(seed)
    for n in sizes:
        labels = np.eye(n_classes, dtype=np.float32)[rng.integers(n_classes, size=n)]
        logits = rng.normal(size=(n, n_classes)).astype(np.float32) + labels
        yield {
            "net_input": {"source": torch.tensor(logits, requires_grad=True)},
            "label": torch.tensor(labels),
        }


def formula(logits, labels, weights, smoothing):
    """-sum_k w_k q_k ln p_k, term by term in float64."""
    total = 0.0
    for z, y in zip(logits.astype(np.float64), labels, strict=True):
        log_p = z - math.log(sum(math.exp(v) for v in z))
        for k, w in enumerate(weights):
            q = (1 - smoothing) * y[k] + smoothing / len(weights)
            total -= w * q * log_p[k]
    return total


def test_the_penalty_is_part_of_the_loss_of_training_only():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(K, K)

        def forward(self, source):
            return {"out": self.layer(source)}

    model, sample = Linear(), next(batches((5,)))
    half = 0.5 * model.layer.weight.square().sum().item()
    for training, expected in ((True, 5 * 0.01 * half), (False, 0.0)):
        with_it, without = (criterion(training, l2=l2)(model, sample)[0] for l2 in (0.01, 0.0))
        assert (with_it - without).item() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="criterion.l2 is -1"):
        criterion(l2=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 30.0]])
def test_the_loss_is_the_weighted_smoothed_formula_summed_over_items(weights, smoothing):
    crit = criterion(training=True, class_weights=weights, label_smoothing=smoothing)
    for sample in batches():
        loss, size, output = crit(Echo(), sample)
        logits, labels = sample["net_input"]["source"].detach().numpy(), sample["label"].numpy()
        expected = formula(logits, labels, weights or [1.0] * K, smoothing)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        assert float(output["loss"]) == pytest.approx(expected, rel=1e-5)
        assert size == output["sample_size"] == output["nsentences"] == len(labels)
        assert "scores" not in output


def test_without_weights_it_is_scikit_learns_log_loss():
    (sample,) = batches((9,))
    logits, labels = sample["net_input"]["source"].detach(), sample["label"]
    expected = log_loss(labels.argmax(1), torch.softmax(logits.double(), 1), labels=range(K))
    assert float(softmax_cross_entropy(logits, labels)) / 9 == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_probability_minus_label():
    (sample,) = batches((6,))
    criterion(training=True)(Echo(), sample)[0].backward()
    source = sample["net_input"]["source"]
    torch.testing.assert_close(source.grad, torch.softmax(source.detach(), 1) - sample["label"])


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.tensor([[300.0, 0.0]], dtype=torch.bfloat16)
    loss = softmax_cross_entropy(logits, torch.tensor([[0.0, 1.0]]))
    assert loss.dtype == torch.float32
    assert float(loss) == 300


def test_the_log_is_that_of_all_batches_together():
    crit, samples = criterion(), list(batches())
    outputs = [crit(Echo(), sample)[2] for sample in samples]
    scores = [output.pop("scores") for output in outputs]
    with metrics.aggregate(new_root=True) as agg:
        crit.reduce_metrics(outputs)
    found = agg.get_smoothed_values()
    probability = np.concatenate([s["probability"].numpy() for s in scores])
    labels = np.concatenate([s["label"].numpy() for s in scores])
    truth, answers = labels.argmax(1), probability.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, answers), abs=1e-4)
    bits = log_loss(truth, probability, labels=range(K)) / math.log(2)
    assert found["loss"] == pytest.approx(bits, abs=1e-4)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    values = crit.epoch_metrics(probability, labels)
    assert values["f1"] == pytest.approx(f1_score(truth, answers, average="macro"))


def test_f1_of_each_class_is_logged_under_its_name():
    crit = criterion(num_labels=2, label_names=["no stress", "stress"])
    assert crit.epoch_metric_names()[-2:] == ["f1_no_stress", "f1_stress"]
    assert {"loss", "f1"} <= set(EcgCrossEntropy.validation_metrics({}))


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"class_weights": [1.0]}, "criterion.class_weights has 1 values for 4 classes"),
        ({"class_weights": [1.0, -1, 1, 1]}, "class_weights must be finite and not negative"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0; give a share in \[0, 1\)"),
        ({"label_smoothing": -0.1}, "criterion.label_smoothing is -0.1"),
    ],
)
def test_values_without_a_meaning_are_refused_by_key(keys, match):
    with pytest.raises(ValueError, match=match):
        criterion(**keys)


def test_logits_of_another_width_are_refused():
    (sample,) = batches((2,))
    sample["label"] = sample["label"][:, :3]
    with pytest.raises(ValueError, match="gives 4 scores, the data have 3 labels"):
        criterion()(Echo(), sample)


# --- with a task --------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "count"), [("a;b", 2), ("", 0)])
def test_labels_that_do_not_exclude_each_other_are_refused_by_name(tmp_path, label, count):
    write_folder(tmp_path, [200] * 3, labels=["a", label, "b"])
    task = make_task("ecg_classification", tmp_path)
    load(task)  # nothing wrong with them as such
    task.build_criterion(OmegaConf.create({"_name": "ecg_cross_entropy"}))
    with pytest.raises(ValueError, match=f"r1 has {count} classes, but .* exactly one .1 of 3"):
        load(task)


def write_single(folder):
    """Write the tones of ``tests.runs`` of which one alone sounds: three classes."""
    write_segments(folder, count=22)
    for split in ("train", "valid", "test"):
        path = folder / f"{split}.tsv"
        first, *rest = path.read_text().splitlines()
        rows = [row for row in rest if row.rpartition("\t")[2] in "abc" and row[-1] != "\t"]
        path.write_text("\n".join([first, *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    return write_single(folder / "data"), train(
        folder / "run",
        [
            *single_label_words(folder, label_smoothing=0.1),
            f"task.data={folder}/data",
            "optimization.max_epoch=2",
            "optimization.lr=[0.01]",
        ],
    )


@pytest.mark.parametrize("score_per", ["segment", "record"])
def test_a_validation_is_the_same_for_any_number_of_processes(tmp_path, score_per):
    """18 segments in batches of 4: the second process repeats a batch, which must not count."""
    data = write_single(tmp_path / "data")
    (data / "valid.tsv").write_text((data / "train.tsv").read_text())
    words = [
        *single_label_words(tmp_path, class_weights=[1.0, 2.0, 0.5], label_smoothing=0.1),
        f"task.data={data}",
        f"task.score_per={score_per}",
        "task.segment_s=0.9",  # two of each of 9 recordings
        "optimization.max_update=1",
        "optimization.lr=[1e-12]",
    ]
    found = []
    for processes in (1, 2):
        done = train(tmp_path / str(processes), words, processes)
        found.append(logged_by(done.cwd, "valid")[-1])
    names = ["loss", *SingleLabelSummary(("a", "b", "c")).names]
    alone, together = ([line[f"valid_{name}"] for name in names] for line in found)
    assert together == pytest.approx(alone, abs=1e-4)
    assert 0 < found[0]["valid_accuracy"] < 1


def test_evaluation_repeats_what_training_logged(run, tmp_path, capsys):
    data, done = run
    path = str(done.checkpoints / "checkpoint_last.pt")
    result = evaluate(path, str(data), "valid", score_per="segment")
    last = logged_by(done.cwd, "valid")[-1]
    for name in ("accuracy", "f1", "precision", "recall", "f1_a"):
        assert result.metrics[name] == pytest.approx(last[f"valid_{name}"], abs=1e-3), name
    np.testing.assert_allclose(result.probability.sum(axis=1), 1, rtol=1e-5)
    assert result.confusion().to_numpy().sum() == len(result.names)
    arguments = ["evaluate", path, str(data), "--split", "valid", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "confusion (row: true, column: answered)" in printed
    table = (tmp_path / "out" / "confusion.csv").read_text().splitlines()
    assert table[0] == "true,a,b,c"
    assert len(table) == 4


def test_thresholds_are_refused_because_the_most_probable_class_decides(run, tmp_path, capsys):
    data, done = run
    path = str(done.checkpoints / "checkpoint_last.pt")
    assert main(["evaluate", path, str(data), "--split", "valid", "--threshold", "0.3"]) == 2
    assert "decides for the most probable class" in capsys.readouterr().err
    out = str(tmp_path / "thresholds.json")
    assert main(["thresholds", path, str(data), "--out", out]) == 2
    assert "there are no thresholds to choose" in capsys.readouterr().err
