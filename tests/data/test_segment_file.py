"""Segments of both preprocessings of fairseq-signals, and what is wrong with a file."""

import numpy as np
import pytest
import scipy.io

from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.segment_file import SegmentReader, read_segment

FEATS = np.arange(24.0).reshape(12, 2)


def write(path, **content):
    scipy.io.savemat(path, {"feats": FEATS, "curr_sample_rate": 500, **content})
    return path


def test_the_older_preprocessing_has_patients_labels_and_millivolts(tmp_path):
    label = np.array([True, False, True])
    segment = read_segment(write(tmp_path / "a.mat", patient_id=7, label=label, age=50, sex=1))
    assert (segment.rate_hz, segment.unit) == (500, "mV")
    assert (segment.idx, segment.patient_id, segment.group) == (None, 7, 7)
    assert segment.label.tolist() == [1, 0, 1]
    assert segment.values.dtype == np.float32
    np.testing.assert_array_equal(segment.values, FEATS)


def test_the_newer_preprocessing_has_numbers_and_standard_deviations(tmp_path):
    facts = {"idx": 3, "patient_id": 7, "segment_i": 1}
    statistics = {"mean": np.zeros((12, 1)), "std": np.ones((12, 1))}
    segment = read_segment(write(tmp_path / "a.mat", **facts, **statistics))
    assert (segment.unit, segment.group) == ("standard deviations", 3)
    assert read_segment(write(tmp_path / "org.mat", **facts)).unit == "mV"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"feats": np.zeros((1, 5))}, "wrong_leads"),
        ({"feats": np.full((12, 5), np.nan)}, "nan"),
        ({"feats": np.zeros((12, 0))}, "empty"),
        ({"feats": "text"}, "bad_mat"),
        ({"curr_sample_rate": [500, 500]}, "bad_header"),
        ({"curr_sample_rate": 0}, "bad_header"),
        ({"idx": 1.5}, "bad_header"),
        ({"label": "N"}, "bad_label"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path, content, reason):
    with pytest.raises(RecordError, match=r"a\.mat") as error:
        read_segment(write(tmp_path / "a.mat", **content))
    assert error.value.reason == reason


def test_other_mat_files_are_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"val": FEATS})
    with pytest.raises(RecordError, match="feats and curr_sample_rate"):
        read_segment(tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("fields", "content", "reason"),
    [
        ({"rate_hz": 400.0}, {}, "wrong_rate"),
        ({"unit": "standard deviations"}, {}, "wrong_unit"),
        ({"n_samples": 3}, {}, "size_mismatch"),
        ({"has_idx": True}, {}, "missing_key"),
        ({}, {"idx": 1}, "missing_key"),
        ({"n_classes": 3}, {"label": [1, 0]}, "bad_label"),
        ({"n_classes": 2}, {"label": [0.5, 0]}, "bad_label"),
        ({"n_classes": 2}, {}, "bad_label"),
    ],
)
def test_a_segment_that_differs_from_its_folder_is_refused(tmp_path, fields, content, reason):
    expected = {"n_samples": 2, "rate_hz": 500.0, "unit": "mV", "has_idx": False, **fields}
    with pytest.raises(RecordError) as error:
        SegmentReader(**expected).read(write(tmp_path / "a.mat", **content))
    assert error.value.reason == reason


def test_codes_are_the_positions_of_the_classes(tmp_path):
    path = write(tmp_path / "a.mat", patient_id=4, label=[0, 1, 1])
    recording = SegmentReader(2, 500.0, "mV", False, 3).read(path)
    assert (recording.codes, recording.patient, recording.group) == (("1", "2"), "4", 4)
