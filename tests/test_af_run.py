"""Atrial fibrillation on real recordings of CinC 2017, through the presets: train, evaluate, go on."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from fairseq_ecg.cli.main import main
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.evaluation import evaluate
from tests.runs import Run, logged, train

WORDS = [
    *("--config-name", "af_resnet18_scratch_small", "common.log_interval=1"),
    *("dataset.num_workers=0", "dataset.batch_size=7", "dataset.train_subset=train_010"),
    *("task.segment_s=20.48", "model.widths=[4,4,4,4]", "optimization.max_epoch=1"),
]


@pytest.fixture(scope="module")
def stores(shared, tmp_path_factory):
    """Return folders of manifests by rate, Hz."""
    folder = tmp_path_factory.mktemp("af")
    for rate_hz in (250.0, 125.0):
        build_manifest(
            "challenge-2017",
            shared / "data" / "challenge-2017",
            folder / f"{rate_hz:g}",
            corpus_options={"split_seeds": "10", "subsets": "10"},
            rate_hz=rate_hz,
        )
    return {rate: folder / str(rate) / "af" for rate in (250, 125)}


@pytest.fixture(scope="module")
def tuned(stores, tmp_path_factory):
    return train(tmp_path_factory.mktemp("run"), [*WORDS, f"task.data={stores[250]}"])


@pytest.mark.parametrize("processes", [1, 2])
def test_every_validation_record_is_evaluated_exactly_once(stores, tuned, tmp_path, processes):
    done = tuned if processes == 1 else train(
        tmp_path, [*WORDS, f"task.data={stores[250]}", "dataset.batch_size=9"], processes
    )  # fmt: skip
    valid = logged(done.cwd, "valid")[-1]
    result = evaluate(str(done.checkpoints / "checkpoint_last.pt"), str(stores[250]), "valid")
    assert sorted(result.names) == sorted(read_manifest(stores[250] / "valid.tsv").paths)
    assert len(result.names) == result.num_segments == 40
    truth, answers = result.truth.argmax(axis=1), result.probability.argmax(axis=1)
    occurring = sorted({*truth, *answers})
    keys = {"average": "macro", "zero_division": 0}
    f1 = f1_score(truth, answers, labels=occurring, **keys)
    f1_cinc = f1_score(truth, answers, labels=[k for k in occurring if k != 3], **keys)
    assert valid["valid_f1"] == pytest.approx(f1, abs=1e-5)
    assert valid["valid_f1_cinc"] == pytest.approx(f1_cinc, abs=1e-5)
    assert valid["valid_accuracy"] == pytest.approx(np.mean(truth == answers), abs=1e-5)


def test_the_test_set_is_evaluated_and_both_means_are_printed(stores, tuned, tmp_path, capsys):
    path = str(tuned.checkpoints / "checkpoint_best.pt")
    assert main(["evaluate", path, str(stores[250]), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    numbers = dict(line.split()[:2] for line in printed.splitlines()[:10])
    each = [float(numbers[f"f1_{name}"]) for name in ("N", "A", "O", "~")]
    assert float(numbers["f1_cinc"]) == pytest.approx(sum(each[:3]) / 3, abs=1e-4)
    assert float(numbers["f1"]) == pytest.approx(sum(each) / 4, abs=1e-4)
    assert "161 records of test" in printed


def test_an_encoder_goes_on_at_another_rate_only_if_told_so(stores, tuned, tmp_path):
    words = [
        *WORDS,
        f"model.model_path={tuned.checkpoints / 'checkpoint_last.pt'}",
        "model.no_pretrained_weights=false",
        f"task.data={stores[125]}",
        "task.sample_rate=125",
        "optimization.lr=[1e-12]",
    ]
    run = Run(tmp_path / "refused", words)
    assert run.wait() == 2
    assert "expects 250 Hz, but the recordings have 125 Hz" in run.output
    done = train(tmp_path / "told", [*words, "task.contract_ignores=[rate_hz]"])
    assert "expects rate_hz: 250.0, but gets 125.0; task.contract_ignores lets it" in done.output
    before, after = (
        torch.load(run.checkpoints / "checkpoint_last.pt", weights_only=True)
        for run in (tuned, done)
    )
    for key, tensor in before["model"].items():
        if key.startswith("encoder.") and key.endswith("weight"):
            torch.testing.assert_close(after["model"][key], tensor)
    assert after["task_state"]["input_contract"]["rate_hz"] == 125
    with pytest.raises(ValueError, match="250 Hz"):
        evaluate(str(done.checkpoints / "checkpoint_last.pt"), str(stores[250]), "valid")


def test_a_best_metric_of_other_classes_is_refused_before_the_start(stores, tmp_path):
    words = [*WORDS, f"task.data={stores[250]}"]
    train(tmp_path / "known", [*words, "checkpoint.best_checkpoint_metric=f1_cinc"])
    labels = stores[250] / "labels.txt"
    other = tmp_path / "data"
    other.mkdir()
    (other / "labels.txt").write_text(labels.read_text().replace("~", "noise"))
    for split in ("train_010", "valid"):
        text = (stores[250] / f"{split}.tsv").read_text().replace("~", "noise")
        text = text.replace("../store", str(stores[250].parent / "store"))
        (other / f"{split}.tsv").write_text(text)
    refused = ["checkpoint.best_checkpoint_metric=f1_cinc", f"task.data={other}"]
    run = Run(tmp_path / "run", [*words, *refused])
    assert run.wait() == 2
    assert "best_checkpoint_metric=f1_cinc is not defined for the classes of" in run.output
