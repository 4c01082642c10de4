"""A run ends when the training accuracy has stopped growing; the count survives a resume."""

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_ecg.tasks._training_accuracy import TrainingAccuracy
from tests.criterions.test_ecg_cross_entropy import write_single
from tests.recordings import make_task, write_folder
from tests.runs import logged, single_label_words, train


def epochs_until_stop(shares, patience):
    """Count epochs as the rule says, share by share."""
    best, since = -1.0, 0
    for epoch, share in enumerate(shares, start=1):
        best, since = (share, 0) if share > best else (best, since + 1)
        if since == patience:
            return epoch
    return None


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("interrupt", [None, 0, 3, 5])
def test_epochs_without_gain_are_counted(patience, interrupt):
    right = [2, 5, 5, 4, 6, 6, 1, 6, 6]
    counter = TrainingAccuracy(patience)
    stops = []
    for epoch, count in enumerate(right):
        counter.add([{"correct": torch.tensor(count - 1), "sample_size": 7}])
        if epoch == interrupt:  # within an epoch
            state = counter.state()
            counter = TrainingAccuracy(patience)
            counter.restore(state)
        counter.add([{"correct": 1, "sample_size": 2}, {"correct": 0, "sample_size": 1}])
        stops.append(counter.end_epoch())
    assert stops.index(True) + 1 == epochs_until_stop(right, patience)


def test_without_patience_nothing_is_counted_and_nothing_ends():
    counter = TrainingAccuracy(0)
    for _ in range(5):
        counter.add([{"correct": 0, "sample_size": 4}])
        assert not counter.end_epoch()
    assert counter.state() == {"best": -1.0, "epochs_without_gain": 0, "right": 0.0, "seen": 0.0}
    counter.restore({})
    assert counter.best == -1.0


def test_an_epoch_without_updates_says_nothing():
    counter = TrainingAccuracy(1)
    assert not counter.end_epoch()
    assert counter.epochs_without_gain == 0


def test_values_without_a_meaning_are_refused(tmp_path):
    data = write_folder(tmp_path, [100, 100], labels=["a", "b"])
    with pytest.raises(ValueError, match="patience_train_accuracy must be 0 or more, got -1"):
        make_task("ecg_classification", data, patience_train_accuracy=-1)
    task = make_task("ecg_classification", data, patience_train_accuracy=3)
    several = OmegaConf.create({"_name": "binary_cross_entropy_with_logits"})
    with pytest.raises(ValueError, match="patience_train_accuracy=3 counts right answers, one for"):
        task.build_criterion(several)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_ends_in_good_order_and_a_resumed_one_at_the_same_epoch(tmp_path, processes):
    data = write_single(tmp_path / "data")
    words = [
        *single_label_words(tmp_path),
        f"task.data={data}",
        "task.patience_train_accuracy=3",
        "task.rebuild_batches=true",
        "optimization.max_epoch=25",
        "optimization.lr=[0.01]",
        "model.dropout=0.3",
    ]
    whole = train(tmp_path / "whole", words, processes)  # status 0
    shares = by_epoch(whole)
    assert len(shares) == epochs_until_stop(shares, 3) < 25
    assert whole.output.count("early stop since the training accuracy has not exceeded") == 1
    last = torch.load(whole.checkpoints / "checkpoint_last.pt", weights_only=True)
    assert last["extra_state"]["train_iterator"]["epoch"] == len(shares) + 1

    for stop in (4, 7):  # within epochs, or at the end of one
        train(tmp_path / "parts", [*words, f"optimization.max_update={stop}"], processes)
    parts = train(tmp_path / "parts", words, processes)
    assert by_epoch(parts) == shares


def by_epoch(run):
    """Return the training accuracy of each epoch, of an interrupted one as it ended at last."""
    lines = {line["epoch"]: line["train_accuracy"] for line in logged(run.cwd, "train")}
    return [lines[epoch] for epoch in sorted(lines)]
