"""Future prediction as a task: keys, shapes of a batch, recordings without annotations."""

import pytest
import torch

from tests.patients import equal, write_release
from tests.recordings import batch, load, make_task


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    return write_release(folder, annotated=lambda patient, segment: segment == 1)


def future(data, **keys):
    keys = {
        **{"leads_to_load": "I", "frame_size": 128, "samples_per_patient": 6, "context_size": 4},
        **keys,
    }
    return make_task("ecg_future_prediction", data, **keys)


def test_a_batch_has_contexts_and_candidates(data):
    sample = batch(load(future(data, num_negatives=3)))
    assert sample["net_input"].keys() == {"source", "candidates"}
    assert sample["net_input"]["source"].shape == (24, 1, 512)
    assert sample["net_input"]["candidates"].shape == (24, 4, 1, 128)
    assert sample["label"].shape == (24, 4)
    assert (sample["label"].sum(dim=1) == 1).all()
    assert torch.bincount(sample["patient_id"]).tolist() == [6] * 4
    assert set(sample["record"].tolist()) >= {0, 1}  # also those without annotations


def test_overlap_and_offset_reach_the_batch(data):
    sample = batch(load(future(data, context_overlap=28, positive_offset=1)))
    assert sample["net_input"]["source"].shape == (24, 1, 4 * 100 + 28)


def test_the_contract_speaks_of_frames_and_of_no_classes(data):
    task = future(data, sample_rate=125)
    load(task)
    contract = task.state.input_contract
    assert (contract["rate_hz"], contract["segment_s"]) == (125, 128 / 125)
    assert contract["labels"] is None


def test_validation_is_the_same_in_all_epochs_and_runs(data):
    task = future(data, eval_samples_per_patient=3)
    dataset = load(task, "valid")
    assert len(dataset) == 6
    first = batch(dataset)
    dataset.set_epoch(4)
    assert equal(batch(dataset), first)
    assert equal(batch(load(future(data, eval_samples_per_patient=3, seed=5), "valid")), first)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"context_overlap": 28}, "task.context_overlap=28 with task.positive_offset=0 shows"),
        ({"context_overlap": 128, "positive_offset": 1}, "task.context_overlap is 128 samples"),
        ({"context_size": 0}, "task.context_size must be at least 1, got 0"),
        ({"num_negatives": 0}, "task.num_negatives must be at least 1"),
        ({"buffer_patients": 0}, "task.buffer_patients must be at least 1"),
        ({"positive_offset": -1}, "task.positive_offset must be at least 0"),
    ],
)
def test_keys_that_cannot_work_are_refused(data, keys, message):
    with pytest.raises(ValueError, match=message):
        future(data, **keys)
