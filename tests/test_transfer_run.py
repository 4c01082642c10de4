"""Transfer learning from end to end: made patients, 20 updates on beats, atrial fibrillation."""

import math

import pytest
import torch

from fairseq_ecg.cli.main import main
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.evaluation import evaluate
from tests.challenge import reference_of, write_corpus
from tests.patients import write_release
from tests.runs import logged, train

SMALL = ["common.log_interval=1", "dataset.num_workers=0", "dataset.batch_size=8"]
NETWORK = "model.widths=[4,4,8,8]"
BEAT = [
    *("--config-name", "beat_resnet18_small", *SMALL, NETWORK, "task.frame_size=256"),
    *("task.samples_per_patient=64", "task.shuffle_patients=2", "optimization.max_update=20"),
]
AF = [
    *("--config-name", "af_resnet18_small", *SMALL, "task.segment_s=4.096"),
    "optimization.max_epoch=1",
]


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("transfer") / "holter")


@pytest.fixture(scope="module")
def label_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("challenge")
    source = write_corpus(folder / "source", reference_of({"A": 10, "N": 16, "O": 12, "~": 10}))
    options = {"split_seeds": "10", "subsets": ""}
    build_manifest("challenge-2017", source, folder / "data", corpus_options=options, rate_hz=250.0)
    return folder / "data" / "af_s010"


@pytest.fixture(scope="module")
def beat(patients, tmp_path_factory):
    return train(tmp_path_factory.mktemp("beat"), [*BEAT, f"task.data={patients}"])


def tune(cwd, start, label_set, *more):
    return train(cwd, [*AF, f"task.data={label_set}", f"model.model_path={start}", *more])


def last(run):
    return run.checkpoints / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def tuned(beat, label_set, tmp_path_factory):
    return tune(tmp_path_factory.mktemp("tuned"), last(beat), label_set)


def losses(run, tag="train_inner"):
    key = "loss" if tag == "train_inner" else f"{tag}_loss"
    return [line[key] for line in logged(run.cwd, tag)]


def weights(run):
    return torch.load(last(run), map_location="cpu", weights_only=True)["model"]


def test_beats_are_learnt_and_the_network_goes_on_to_another_data_set(beat, tuned, label_set):
    first = losses(beat)
    assert len(first) == 20
    assert sum(first[-5:]) < sum(first[:5])
    assert all(math.isfinite(loss) for loss in losses(tuned))
    result = evaluate(str(tuned.checkpoints / "checkpoint_best.pt"), str(label_set), "test")
    assert {"f1", "f1_cinc", "f1_A", "f1_~"} <= result.metrics.keys()
    assert len(result.names) == len((label_set / "test.tsv").read_text().splitlines()) - 1


def test_the_backbone_is_that_of_the_checkpoint_and_the_last_layer_is_new(
    beat, label_set, tmp_path
):
    still = tune(tmp_path, last(beat), label_set, "optimization.lr=[0.0]")
    before, after = weights(beat), weights(still)
    assert before.keys() == after.keys()
    learnt = [name for name in before if name.startswith("encoder.") and "running" not in name]
    learnt = [name for name in learnt if not name.endswith("num_batches_tracked")]
    assert len(learnt) == 3 * 20
    for name in learnt:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    heads = [name for name in before if not name.startswith("encoder.")]
    assert {tuple(before[name].shape) for name in heads} == {(5, 8), (5,)}
    assert {tuple(after[name].shape) for name in heads} == {(4, 8), (4,)}


def test_the_same_seed_gives_the_same_losses_in_both_phases(
    beat, tuned, patients, label_set, tmp_path
):
    again = train(tmp_path / "beat", [*BEAT, f"task.data={patients}"])
    assert losses(again) == losses(beat)
    assert losses(again, "valid") == losses(beat, "valid")
    once_more = tune(tmp_path / "af", last(again), label_set)
    assert losses(once_more) == losses(tuned)
    assert losses(once_more, "valid") == losses(tuned, "valid")
    other = train(tmp_path / "other", [*BEAT, f"task.data={patients}", "common.seed=2"])
    assert losses(other) != losses(beat)


def test_an_exported_backbone_starts_the_same_run(beat, tuned, label_set, tmp_path):
    pytest.importorskip("safetensors")
    folder = tmp_path / "exported"
    assert main(["export", str(last(beat)), "--dest", str(folder), "--for", "finetuning"]) == 0
    assert losses(tune(tmp_path / "af", folder, label_set)) == losses(tuned)
