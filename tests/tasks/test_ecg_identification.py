"""Items, gallery and probes of the identification task, and what it refuses."""

import logging

import numpy as np
import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from fairseq_ecg import preflight
from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.tasks.ecg_identification import (
    EcgIdentificationTask,
    average_embeddings,
    check_gallery,
)
from tests.builds import write_record
from tests.recordings import RATE_HZ, adu, batch, load, make_task, millivolts

LENGTHS = (400, 330, 400, 200, 500, 90)
PATIENTS = (0, 0, 1, 7, 8, 9)


@pytest.fixture
def data(tmp_path):
    """Six recordings: three of two patients to train on, the others in probes and gallery."""
    for i, n in enumerate(LENGTHS):
        write_record(tmp_path / "wfdb", f"r{i}", adu(i, n), RATE_HZ)
    write(tmp_path, "train", [0, 1, 2])
    write(tmp_path, "valid_probe", [3, 4])
    write_manifest(tmp_path / "valid_gallery.tsv", "wfdb", [("r5", 90, 8), ("r1", 330, 7)])
    return tmp_path


def write(folder, name, records, patients=PATIENTS, root="wfdb"):
    rows = [(f"r{i}", LENGTHS[i], patients[i]) for i in records]
    write_manifest(folder / f"{name}.tsv", root, rows)


def identification(data, **keys) -> EcgIdentificationTask:
    return make_task("ecg_identification", data, **keys)


def test_training_items_are_all_segments_with_the_number_of_their_patient(data):
    task = identification(data, segment_s=1.0)
    sample = batch(load(task))
    assert sample["label"].dtype == torch.int64
    assert sample["label"].tolist() == [0] * 4 + [0] * 3 + [1] * 4
    assert sample["net_input"]["source"].shape == (11, 12, 100)
    assert "gallery" not in sample
    assert task.num_labels == 2


def test_a_validation_is_the_middle_of_each_probe_then_of_each_gallery_recording(data):
    sample = batch(load(identification(data, segment_s=1.0), "valid"))
    assert sample["id"].tolist() == sample["record"].tolist() == [0, 1, 2, 3]
    assert sample["label"].tolist() == [7, 8, 8, 7]
    assert sample["gallery"].tolist() == [0, 0, 1, 1]
    source = sample["net_input"]["source"].numpy()
    for row, (record, start) in enumerate([(3, 50), (4, 200), (5, 0), (1, 115)]):
        n = min(100, LENGTHS[record])
        np.testing.assert_allclose(source[row, :, :n], millivolts(record, start, start + n))
    assert sample["net_input"]["padding_mask"].sum(1).tolist() == [0, 0, 10, 0]


def test_all_segments_of_each_recording_if_asked_for(data):
    dataset = load(identification(data, segment_s=1.0, score_per="record"), "valid")
    sample = batch(dataset)
    assert sample["record"].tolist() == [0] * 2 + [1] * 5 + [2] + [3] * 3
    assert sample["gallery"].tolist() == [0] * 7 + [1] * 4
    assert sample["id"].tolist() == list(range(11))
    mixed = batch(dataset, np.array([10, 0, 7]))
    assert mixed["id"].tolist() == [10, 0, 7]
    assert dataset[9]["record"] == 3
    assert dataset.sizes.tolist() == [100] * 7 + [90] + [100] * 3


def test_leads_are_silenced_on_both_sides(data):
    keys = {"leads_to_load": "2-lead", "enable_padding_leads": True}
    source = batch(load(identification(data, segment_s=1.0, **keys), "valid"))["net_input"][
        "source"
    ]
    assert (source[:, :2].abs().amax(dim=2) > 0).all()
    assert not source[:, 2:].any()


def test_segment_files_of_fairseq_signals_are_read_as_they_are(tmp_path):
    from tests.recordings import write_mat

    for i in range(4):
        write_mat(tmp_path / "mat" / f"{i % 2}_{i}.mat", i, 0, 100, patient_id=i % 2)
    rows = [(f"{i % 2}_{i}.mat", 100, i % 2) for i in range(4)]
    write_manifest(tmp_path / "valid_gallery.tsv", "mat", rows[:2])
    write_manifest(tmp_path / "valid_probe.tsv", "mat", rows[2:])
    task = identification(tmp_path)
    assert task.num_labels is None
    sample = batch(load(task, "valid"))
    assert sample["label"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(sample["net_input"]["source"][2], millivolts(0, 0, 100))


# --- scores -------------------------------------------------------------------------------------


def criterion_of(task):
    cfg = OmegaConf.structured(CRITERION_DATACLASS_REGISTRY["arcface"])
    return task.build_criterion(OmegaConf.merge(cfg, {"_name": "arcface"}))


def test_the_embedding_of_a_recording_is_the_mean_over_its_segments():
    scores = {
        "record": np.array([2, 0, 2, 1]),
        "label": np.array([5, 6, 5, 6]),
        "gallery": np.array([1, 0, 1, 1]),
        "embedding": np.array([[1, 0], [0, 1], [0, 1], [1, 1]], dtype=np.float32),
    }
    mean = average_embeddings(scores)
    assert mean["record"].tolist() == [0, 1, 2]
    assert mean["label"].tolist() == [6, 6, 5]
    assert mean["gallery"].tolist() == [0, 1, 1]
    np.testing.assert_allclose(mean["embedding"], [[0, 1], [1, 1], [0.5, 0.5]])


def test_scores_of_probes_and_gallery_become_the_logged_accuracy(data):
    task = identification(data, segment_s=1.0)
    criterion_of(task)
    scores = {
        "id": np.arange(4),
        "record": np.arange(4),
        "label": np.array([7, 8, 8, 7]),
        "gallery": np.array([0, 0, 1, 1]),
        "embedding": np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]),
    }
    assert task.epoch_metrics(scores) == {"accuracy": 0.5, "rank5_accuracy": 1.0}


# --- what is refused or reported ----------------------------------------------------------------


def test_a_probe_without_its_patient_in_the_gallery_is_named(data):
    write_manifest(data / "valid_gallery.tsv", "wfdb", [("r5", 90, 9), ("r1", 330, 7)])
    message = r"probe r4 is of patient 8, who has no recording in the gallery \(1 such probes\)"
    with pytest.raises(ValueError, match=message):
        load(identification(data), "valid")


def test_a_patient_who_is_twice_in_the_gallery_is_named():
    with pytest.raises(ValueError, match="patient 4 is in the gallery 3 times, as b and d; leave"):
        check_gallery(np.array([1]), np.array([1, 4, 2, 4, 4]), ["p"], list("abcde"))


@pytest.mark.parametrize(
    ("third", "labels", "message"),
    [
        ("x1", None, "label 'x1' is no integer"),
        (None, None, "number of the patient as third column, but is a plain list"),
        (
            "a",
            "a\n",
            r"third column, but is class names \(labels.txt\).*fairseq-ecg identification",
        ),
    ],
)
def test_labels_that_are_no_numbers_of_patients_are_refused(data, third, labels, message):
    row = ("r0", 400) if third is None else ("r0", 400, third)
    write_manifest(data / "train.tsv", "wfdb", [row])
    if labels:
        (data / "labels.txt").write_text(labels)
    with pytest.raises(ValueError, match=message):
        load(identification(data))


def test_numbers_that_do_not_occur_are_said_and_count_as_classes(data, caplog):
    write_manifest(data / "train.tsv", "wfdb", [("r0", 400, 0), ("r2", 400, 3)])
    task = identification(data)
    load(task)
    assert task.num_labels == 4
    assert "2 patient numbers of the training manifest do not occur" in caplog.text


def test_probes_and_gallery_of_two_rates_are_refused(data):
    write_record(data / "slow", "r1", adu(1, 330), 50)
    write_manifest(data / "valid_gallery.tsv", "slow", [("r1", 330, 7)])
    write(data, "valid_probe", [3])
    with pytest.raises(ValueError, match="probes have 100 Hz, the gallery 50 Hz; build both"):
        load(identification(data), "valid")


@pytest.mark.parametrize("order", [("train", "valid"), ("valid", "train")])
def test_people_who_are_trained_on_and_evaluated_are_reported(data, order, caplog):
    entries = [RecordEntry(f"r{i}", f"r{i}", f"p{i % 5}", "train") for i in range(6)]
    build_store(entries, data / "wfdb", data, BuildOptions(rate_hz=RATE_HZ, min_seconds=0))
    for name, records in (("train", [0, 1]), ("valid_probe", [3, 4]), ("valid_gallery", [5, 3])):
        write(data, name, records, patients=(0, 1, 2, 7, 8, 8), root="store")
    task = identification(data)
    with caplog.at_level(logging.WARNING):
        for split in order:
            load(task, split)
    assert caplog.text.count("1 patients are trained on and evaluated too (p0, ...)") == 1


# --- before a run -------------------------------------------------------------------------------


def whole(data, **dataset):
    cfg = {"task": {"_name": "ecg_identification", "data": str(data)}, "dataset": dataset}
    return OmegaConf.create(cfg)


def test_a_run_needs_probes_and_gallery_of_each_validation_split(data):
    preflight._check_data(whole(data))
    (data / "valid_gallery.tsv").rename(data / "vald_gallery.tsv")
    message = r"has no valid_gallery.tsv; did you mean vald_gallery.*there are: train, vald_gallery"
    with pytest.raises(preflight.ConfigError, match=message):
        preflight._check_data(whole(data))
    preflight._check_data(whole(data, disable_validation=True))


def test_a_training_split_of_any_name_has_one_manifest(data):
    assert EcgIdentificationTask.manifests_of("mine", training=True) == ["mine"]
    assert EcgIdentificationTask.manifests_of("test", training=False) == [
        "test_probe",
        "test_gallery",
    ]
    (data / "train.tsv").rename(data / "mine.tsv")
    preflight._check_data(whole(data, train_subset="mine"))
