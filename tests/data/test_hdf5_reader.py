import builtins

import h5py
import numpy as np
import pytest

from fairseq_ecg.data.hdf5_reader import (
    MissingPackageError,
    TracingReader,
    read_exam_ids,
    strip_padding,
)
from fairseq_ecg.data.record_file import RecordError


def write(path, ids=(5, 0), n_samples=40, **datasets):
    tracings = np.zeros((len(ids), n_samples, 12), dtype=np.float32)
    tracings[:, 10:20, 3] = 1.0
    tracings[-1] = 0
    content = {"exam_id": np.array(ids), "tracings": tracings, **datasets}
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file[name] = values
    return path


def test_padding_is_what_is_zero_in_every_lead_at_both_ends():
    values = np.array([[0, 1, 0, 0, 2, 0], [0, 0, 0, 3, 0, 0]])
    assert strip_padding(values).tolist() == [[1, 0, 0, 2], [0, 0, 3, 0]]
    assert strip_padding(np.zeros((2, 5))).shape == (2, 0)
    assert strip_padding(np.ones((2, 5))).shape == (2, 5)


def test_a_tracing_is_read_by_row_and_checked_by_id(tmp_path):
    path = write(tmp_path / "a.hdf5")
    assert read_exam_ids(path).tolist() == [5, 0]
    signal = TracingReader(5, 0, 2.0).read(path).signal
    assert (signal.rate_hz, signal.n_samples) == (400, 10)
    assert (signal.values_mv[3] == 0.5).all()
    assert TracingReader(5, 0).facts(path).n_samples == 40
    for reader in (TracingReader(6, 0), TracingReader(5, -1), TracingReader(5, 9)):
        with pytest.raises(RecordError, match="has no tracing of exam") as error:
            reader.read(path)
        assert error.value.reason == "missing_key"
    with pytest.raises(RecordError, match="all zero"):
        TracingReader(0, 1).read(path)


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ({"tracings": None}, "missing_key"),
        ({"exam_id": None}, "missing_key"),
        ({"tracings": np.zeros((2, 40, 8), np.float32)}, "bad_header"),
        ({"tracings": np.zeros((3, 40, 12), np.float32)}, "bad_header"),
        ({"tracings": np.zeros((2, 40, 12), np.int16)}, "bad_header"),
        ({"exam_id": np.array([[5, 0]])}, "bad_header"),
        ({"exam_id": np.array([5.0, 0.0])}, "bad_header"),
    ],
)
def test_files_of_another_layout_are_refused(tmp_path, datasets, reason):
    path = write(tmp_path / "a.hdf5", **datasets)
    with pytest.raises(RecordError, match=r"a\.hdf5") as error:
        TracingReader(5, 0).facts(path)
    assert error.value.reason == reason


def test_what_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "a.hdf5").write_bytes(b"nothing of the kind")
    with pytest.raises(RecordError, match="cannot be read as HDF5"):
        read_exam_ids(tmp_path / "a.hdf5")
    with pytest.raises(RecordError, match="does not exist"):
        read_exam_ids(tmp_path / "b.hdf5")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"fairseq-ecg\[hdf5\]"):
        read_exam_ids(tmp_path / "a.hdf5")
