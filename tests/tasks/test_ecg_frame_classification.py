"""Frame classification as a task: keys, what is drawn where, what the checkpoint will expect."""

import numpy as np
import pytest
import torch

from fairseq_ecg.contract import InputContract
from fairseq_ecg.data.frame_labels import BEATS, BEATS_3, HEART_RATES, RHYTHMS_4
from fairseq_ecg.data.wfdb_reader import RecordError
from fairseq_ecg.tasks._base import gather_scores
from tests.patients import equal, write_release
from tests.recordings import batch, load, make_task, write_tone_store

CONSTANTS = {"normalize": True, "mean_mv": 0.0018, "std_mv": 1.3711}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release"))


def frames(data, **keys):
    keys = {"leads_to_load": "I", "frame_size": 256, "samples_per_patient": 6, **keys}
    return make_task("ecg_frame_classification", data, **keys)


def test_a_batch_has_frames_of_every_patient_and_one_class_each(data):
    task = frames(data)
    sample = batch(load(task))
    assert sample["net_input"]["source"].shape == (24, 1, 256)
    assert sample["net_input"].keys() == {"source"}
    assert sample["label"].shape == (24, 5)
    assert (sample["label"].sum(dim=1) == 1).all()
    assert torch.bincount(sample["patient_id"]).tolist() == [6] * 4
    assert (sample["record"] // 2 == sample["patient_id"]).all()
    assert (task.num_labels, task.num_leads) == (5, 1)


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({}, BEATS),
        ({"beat_classes": 3}, BEATS_3),
        ({"label_type": "rhythm", "rhythm_classes": 4}, RHYTHMS_4),
        ({"label_type": "heart_rate", "hr_label_margin": 250}, HEART_RATES),
    ],
)
def test_the_classes_are_those_asked_for_and_stand_in_the_contract(data, keys, names):
    task = frames(data, **keys)
    assert task.label_names == list(names)
    assert batch(load(task))["label"].shape[1] == task.num_labels == len(names)
    contract = InputContract.from_dict(task.state.input_contract)
    assert contract.labels == names


def test_the_contract_has_the_rate_and_length_of_the_frames(data):
    task = frames(data, sample_rate=125)
    load(task)
    contract = InputContract.from_dict(task.state.input_contract)
    assert (contract.rate_hz, contract.segment_s) == (125, 2.048)
    assert contract.present_leads == ("I",)
    assert contract.trained_on["corpus"] == "release"
    native = frames(data, sample_rate=None)
    load(native)
    assert native.state.input_contract["rate_hz"] == 250


def test_constants_scale_the_samples_and_perturbations_come_in_training_only(data):
    plain, scaled = (
        batch(load(frames(data), "valid")),
        batch(load(frames(data, **CONSTANTS), "valid")),
    )
    expected = (plain["net_input"]["source"] - 0.0018) / 1.3711
    torch.testing.assert_close(scaled["net_input"]["source"], expected)
    noisy = {"perturbation_mode": ["emg_noise"], "p": 1.0}
    assert equal(batch(load(frames(data, **noisy), "valid")), plain)
    train = [batch(load(frames(data, **keys)))["net_input"]["source"] for keys in ({}, noisy)]
    assert not torch.equal(*train)
    assert (train[0] - train[1]).abs().max() < 0.5


def test_validation_may_draw_another_number_of_frames_which_never_change(data):
    task = frames(data, eval_samples_per_patient=4)
    assert len(load(task)) == 4 * 6
    dataset = load(task, "valid")
    assert len(dataset) == 2 * 4
    first = batch(dataset)
    dataset.set_epoch(5)
    assert equal(batch(dataset), first)
    assert equal(batch(load(frames(data, eval_samples_per_patient=4, seed=9), "valid")), first)
    assert len(load(frames(data), "valid")) == 2 * 6


def test_the_engine_is_told_not_to_shuffle_the_batches(data):
    task = frames(data, shuffle_patients=2)
    dataset = load(task)
    iterator = task.get_batch_iterator(dataset, max_sentences=3, seed=1)
    for epoch in (1, 2):
        batches = list(iterator.next_epoch_itr(shuffle=True))
        assert [b["id"].tolist() for b in batches] == [[i, i + 1, i + 2] for i in range(0, 24, 3)]
        patients = torch.cat([b["patient_id"] for b in batches])
        assert len(patients[:12].unique()) == len(patients[12:].unique()) == 2
        if epoch == 1:
            first = patients
    assert not torch.equal(first, patients)
    state = iterator.state_dict()
    again = frames(data, shuffle_patients=2)
    resumed = again.get_batch_iterator(load(again), max_sentences=3, seed=1)
    resumed.load_state_dict({**state, "epoch": 2, "iterations_in_epoch": 5})
    rest = list(resumed.next_epoch_itr(shuffle=True))
    assert all(map(equal, rest, batches[5:]))
    assert len(rest) == 3


def test_scores_become_metrics_of_every_class(data):
    from omegaconf import OmegaConf

    task = frames(data, beat_classes=3)
    task.build_criterion(OmegaConf.create({"_name": "ecg_cross_entropy"}))
    labels = batch(load(task, "valid"))["label"].numpy()
    parts = [{"id": np.arange(12), "record": np.arange(12), "probability": labels, "label": labels}]
    metrics = task.epoch_metrics(gather_scores(parts))
    assert metrics["accuracy"] == 1
    assert {"f1", "f1_normal", "f1_PAC", "f1_PVC"} <= metrics.keys()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"beat_classes": 4}, "task.beat_classes=4: give 5 or 3"),
        ({"rhythm_classes": 5}, "task.rhythm_classes=5: give 6 or 4"),
        ({"hr_label_margin": 5}, "task.hr_label_margin=5 is for task.label_type=heart_rate, but"),
        ({"label_type": "heart_rate", "hr_label_margin": -1}, "hr_label_margin must be at least 0"),
        ({"frame_size": 0}, "task.frame_size must be at least 1, got 0"),
        ({"samples_per_patient": 0}, "task.samples_per_patient must be at least 1"),
        ({"eval_samples_per_patient": 0}, "task.eval_samples_per_patient must be at least 1"),
        ({"shuffle_patients": 0}, "task.shuffle_patients must be at least 1"),
        ({"segment_s": 5.0}, "task.segment_s=5 is for windows of whole recordings, but"),
        ({"max_sample_size": 100}, "task.max_sample_size=100 is for windows of whole"),
        ({"standardize": "record"}, "task.standardize=record would read whole recordings"),
    ],
)
def test_keys_that_cannot_work_are_refused(data, keys, message):
    with pytest.raises(ValueError, match=message):
        frames(data, **keys)


def test_frames_longer_than_every_recording_are_refused(data):
    with pytest.raises(ValueError, match="needs 8000 samples .* longest recording has 7500"):
        load(frames(data, frame_size=8000))


def test_recordings_without_annotations_are_refused_at_the_start(tmp_path):
    data = write_release(tmp_path, annotated=lambda patient, segment: False)
    with pytest.raises(RecordError, match=r"p00000_s00.atr does not exist, and labels are made"):
        load(frames(data))


def test_leads_that_no_recording_has_and_empty_manifests_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"none of the leads II, V6, only I; .*task.leads_to_load"):
        load(frames(data, leads_to_load="II,V6"))
    (tmp_path / "valid.tsv").write_text(f"{tmp_path}\n")
    with pytest.raises(ValueError, match=r"valid.tsv lists no recordings"):
        load(frames(tmp_path), "valid")


def test_manifests_of_a_label_set_are_refused_with_the_way_out(tmp_path):
    data = write_tone_store(tmp_path)
    with pytest.raises(ValueError, match="must list recordings as path TAB n_samples TAB number"):
        load(frames(data))
