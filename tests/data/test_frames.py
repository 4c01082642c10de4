"""Frames: where they are cut, and that their labels are those of what is marked inside them."""

from collections import Counter

import numpy as np
import pytest

from fairseq_ecg.data.annotated import AnnotatedSource
from fairseq_ecg.data.frame_labels import (
    BEATS,
    BEATS_3,
    HEART_RATES,
    RHYTHMS,
    RHYTHMS_4,
    beat_label,
    heart_rate_label,
    rhythm_label,
)
from fairseq_ecg.data.frames import FrameDataset, FrameLabels, frame_labels
from fairseq_ecg.data.leads import choose_leads
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.transforms.pipeline import Pipeline
from fairseq_ecg.transforms.resample import resample
from tests.holter import write_patients
from tests.patients import CountingPatients, equal, loaded

SIZE = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("holter")
    for rate_hz in (250, 360):
        segments = write_patients(folder / f"at_{rate_hz}", 5, seconds=40, rate_hz=rate_hz)
        rows = [[s.path, len(s.adu), s.patient] for s in segments]
        write_manifest(folder / f"at_{rate_hz}.tsv", f"at_{rate_hz}", rows)
    return folder


def make(source, labels, **options):
    options = {"frame_size": SIZE, "draws": 30, "together": 3, "training": True, **options}
    return FrameDataset(source, choose_leads("I"), Pipeline(), labels, **options)


def open_at(folder, rate_hz):
    return AnnotatedSource(read_manifest(folder / f"at_{rate_hz}.tsv"))


@pytest.mark.parametrize(
    ("chosen", "names", "rule"),
    [
        (("beat",), BEATS, lambda m, a, b: BEATS[beat_label(m, a, b)]),
        (("beat", 3), BEATS_3, lambda m, a, b: BEATS[beat_label(m, a, b)]),
        (("rhythm",), RHYTHMS, lambda m, a, b: RHYTHMS[rhythm_label(m, a, b)]),
        (("rhythm", 5, 4), RHYTHMS_4, lambda m, a, b: RHYTHMS[rhythm_label(m, a, b)]),
        (("heart_rate",), HEART_RATES, lambda m, a, b: HEART_RATES[heart_rate_label(m, a, b, 250)]),
    ],
)
def test_labels_are_those_of_the_marks_inside_the_frame(folder, chosen, names, rule):
    source = open_at(folder, 250)
    dataset = make(source, frame_labels(*chosen))
    assert dataset.labels.names == names
    seen = Counter()
    for index, item in enumerate(dataset.__getitems__(range(len(dataset)))):
        frame = dataset.frame(index)
        stop = frame.start + SIZE
        assert item["record"] == frame.row
        np.testing.assert_array_equal(
            item["source"], source.read(frame.row, frame.start, stop, (0,))
        )
        assert item["label"].sum() == 1
        name = names[item["label"].argmax()]
        assert name == rule(source.marks(frame.row), frame.start, stop)
        seen[name] += 1
    assert len(seen) >= 3


def test_a_margin_widens_what_the_heart_rate_is_counted_in_and_keeps_the_frame(folder):
    source = open_at(folder, 250)
    dataset = make(source, frame_labels("heart_rate"), margin=300)
    other = 0
    for index in range(len(dataset)):
        frame = dataset.frame(index)
        stop = frame.start + SIZE
        assert frame.start >= 300
        assert stop + 300 <= source.n_samples[frame.row]
        marks = source.marks(frame.row)
        assert frame.label == heart_rate_label(marks, frame.start - 300, stop + 300, 250)
        other += frame.label != heart_rate_label(marks, frame.start, stop, 250)
    assert other
    assert dataset[0]["source"].shape == (1, SIZE)


def test_recordings_of_another_rate_are_cut_longer_resampled_and_labelled_in_their_own_samples(
    folder,
):
    source = open_at(folder, 360)
    dataset = make(source, frame_labels("heart_rate"), rate_hz=250.0, draws=8)
    needed = -(-SIZE * 36 // 25)
    for index, item in enumerate(dataset.__getitems__(range(len(dataset)))):
        frame = dataset.frame(index)
        stop = frame.start + needed
        assert stop <= source.n_samples[frame.row]
        assert frame.label == heart_rate_label(source.marks(frame.row), frame.start, stop, 360)
        # Of the recording without its first samples the frame's place is a whole number.
        skip, first = frame.start % 36, frame.start // 36 * 25
        whole = source.read(frame.row, skip, int(source.n_samples[frame.row]), (0,))
        expected = resample(whole, 360, 250)[:, first : first + SIZE]
        np.testing.assert_allclose(item["source"], expected, atol=2e-4 * np.ptp(whole))


def test_frames_of_a_skipped_class_are_drawn_again():
    def classify(row, start, stop, rate_hz):
        return -1 if start % 4 else row % 2

    dataset = make(CountingPatients([2] * 4, 2000), FrameLabels(("even", "odd"), classify))
    for item in dataset.__getitems__(range(len(dataset))):
        assert (item["source"][0, 0] - 5000 * item["record"]) % 4 == 0
        assert item["label"].tolist() == [1 - item["record"] % 2, item["record"] % 2]
    counts = Counter(item["patient_id"] for item in dataset.__getitems__(range(len(dataset))))
    assert counts == dict.fromkeys(range(4), 30)


def test_a_patient_without_a_usable_frame_is_replaced_within_its_window(caplog):
    def classify(row, start, stop, rate_hz):
        return -1 if row == 1 else 0

    dataset = make(CountingPatients([1] * 9, 2000, numbers=range(100, 109)),
                   FrameLabels(("usable",), classify))  # fmt: skip
    window = 3 * 30
    for first in range(0, len(dataset), window):
        patients = {dataset.order.place(i, 1)[0] for i in range(first, first + window)}
        items = dataset.__getitems__(range(first, first + window))
        counts = Counter(item["record"] for item in items)
        assert set(counts) == patients - {1}
        if 1 in patients:
            assert all(35 < count < 55 for count in counts.values())
    assert caplog.text.count("patient 101 gave no frame of the classes usable in 64 draws") == 1
    again = make(dataset.source, dataset.labels)
    assert equal(loaded(dataset, 2, 7), loaded(again, 0, 7))


def test_a_window_without_a_usable_frame_names_its_patients_and_the_way_out():
    labels = FrameLabels(("a", "b"), lambda *_: -1, "give task.beat_classes=5")
    dataset = make(CountingPatients([1] * 2, 2000, numbers=[7, 9]), labels, training=False)
    with pytest.raises(
        ValueError, match=r"of the patients 7, 9 64 frames each.*classes a, b; give task.beat_c"
    ):
        dataset[0]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("beat", 4), r"beat_classes=4: give 5 or 3 \(normal, PAC, PVC\)"),
        (("rhythm", 5, 3), r"rhythm_classes=3: give 6 or 4 \(noise, normal, AF, AFL\)"),
        (("pulse",), "label_type=pulse: give one of beat, rhythm, heart_rate"),
    ],
)
def test_choices_that_do_not_exist_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        frame_labels(*chosen)


def test_real_recordings_at_both_rates_give_labelled_frames(shared, tmp_path):
    mitdb = shared / "data/mitdb"
    write_manifest(
        tmp_path / "mitdb.tsv",
        mitdb,
        [[n, 650_000, i] for i, n in enumerate(("100", "119", "203"))],
    )
    source = AnnotatedSource(read_manifest(tmp_path / "mitdb.tsv"))
    options = {"frame_size": 1024, "draws": 40, "together": 3, "rate_hz": 250.0}
    dataset = FrameDataset(
        source, choose_leads("II"), Pipeline(), frame_labels("beat", 3), **options
    )
    items = dataset.__getitems__(range(len(dataset)))
    assert all(np.isfinite(item["source"]).all() and item["source"].any() for item in items)
    labels = np.array([item["label"].argmax() for item in items]).reshape(3, 40)
    assert Counter(labels[0].tolist())[0] > 30  # record 100: nearly all beats are normal
    assert (labels[1:] == 2).sum() > 40  # 119 and 203: many PVCs
