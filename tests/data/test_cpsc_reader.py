"""The struct of a CPSC 2018 file: its numbers, its person, and what is refused."""

import numpy as np
import pytest
import scipy.io

from fairseq_ecg.data.cpsc_reader import CpscReader
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.record_file import RecordError


def write(path, **fields):
    content = {"sex": "Male", "age": 52, "data": np.arange(24.0).reshape(12, 2) / 8, **fields}
    scipy.io.savemat(path, {"ECG": {k: v for k, v in content.items() if v is not None}})
    return path


def test_a_real_file_is_read_as_scipy_reads_it(shared):
    path = shared / "data/cpsc2018/TrainingSet1/A1981.mat"
    expected = scipy.io.loadmat(path)["ECG"][0, 0]
    recording, facts = CpscReader().read(path), CpscReader().facts(path)
    np.testing.assert_array_equal(recording.signal.values_mv, expected["data"].astype(np.float32))
    assert recording.signal.values_mv.flags.c_contiguous
    assert (recording.age, recording.sex) == (48.0, "female")
    assert facts.n_samples == recording.signal.n_samples == 7950
    assert facts.rate_hz == recording.signal.rate_hz == 500
    assert facts.leads == recording.signal.leads == STANDARD_LEADS


@pytest.mark.parametrize(
    ("fields", "age", "sex"),
    [
        ({}, 52.0, "male"),
        ({"age": np.nan, "sex": "female"}, None, "female"),
        ({"age": -1, "sex": "Unknown"}, None, ""),
        ({"age": None, "sex": None}, None, ""),
    ],
)
def test_age_and_sex_are_left_open_where_the_file_does_not_say_them(tmp_path, fields, age, sex):
    recording = CpscReader().read(write(tmp_path / "a.mat", **fields))
    assert (recording.age, recording.sex) == (age, sex)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data": None}, "missing_key"),
        ({"data": np.zeros((2, 12))}, "wrong_leads"),
        ({"data": np.zeros((12, 0))}, "empty"),
        ({"data": "text"}, "bad_mat"),
    ],
)
def test_other_content_is_refused_with_its_reason(tmp_path, fields, reason):
    path = write(tmp_path / "a.mat", **fields)
    for call in (CpscReader().facts, CpscReader().read):
        with pytest.raises(RecordError, match=r"a\.mat") as error:
            call(path)
        assert error.value.reason == reason


def test_a_file_of_another_kind_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"val": np.zeros((12, 5))})
    with pytest.raises(RecordError, match="'ECG'"):
        CpscReader().read(tmp_path / "a.mat")
