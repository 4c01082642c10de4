"""Recordings by name: every format, folders, stores and their records, and what is wrong."""

import sys

import h5py
import numpy as np
import pytest

from fairseq_ecg.data.array_reader import ArrayReader
from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.hdf5_reader import TracingReader
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.recordings import ArrayFacts, Fault, NamedRecording, find_recordings
from fairseq_ecg.data.signal import STANDARD_DEVIATIONS
from tests.builds import write_record
from tests.recordings import RATE_HZ, adu, millivolts, write_mat

ARRAYS = ArrayFacts(100.0, ("I", "II"))


def names(found):
    return [item.name for item in found]


@pytest.fixture
def folder(tmp_path):
    """Two WFDB records, a segment, an array and a table that is none."""
    for record, below in ((0, "a"), (1, "a/b")):
        write_record(tmp_path / below, f"r{record}", adu(record, 300), RATE_HZ)
    write_mat(tmp_path / "s_0.mat", 2, 0, 200)
    np.save(tmp_path / "x.npy", millivolts(3, 0, 200, (0, 1)))
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / ".hidden.npy").write_bytes(b"")
    return tmp_path


@pytest.fixture
def store(folder):
    entries = [RecordEntry(n, n, n, "train") for n in ("r0", "b/r1")]
    build_store(entries, folder / "a", folder / "built", BuildOptions(rate_hz=RATE_HZ))
    return folder / "built"


@pytest.mark.parametrize("name", ["r0", "r0.hea", "r0.dat"])
def test_a_wfdb_record_is_found_by_any_of_its_names(folder, name):
    (found,) = find_recordings([folder / "a" / name])
    assert (found.name, found.reader) == ("r0", None)
    np.testing.assert_allclose(found.read().values_mv, millivolts(0, 0, 300), atol=1e-6)
    assert found.facts().rate_hz == RATE_HZ


def test_a_folder_gives_all_that_can_be_read_by_the_paths_below_it(folder):
    assert names(find_recordings([folder])) == ["a/b/r1", "a/r0", "s_0"]
    with_arrays = find_recordings([folder], ARRAYS)
    assert names(with_arrays) == ["a/b/r1", "a/r0", "s_0", "x"]
    assert with_arrays[-1].reader == ArrayReader(100.0, ("I", "II"))
    assert with_arrays[-1].read().leads == ("I", "II")


def test_a_store_gives_its_records_and_one_of_them_by_its_path(store):
    for place in (store, store / "store"):
        found = find_recordings([place])
        assert names(found) == ["b/r1", "r0"]
        assert [item.stored_as for item in found] == ["b/r1", "r0"]
        (one,) = find_recordings([place / "b/r1"])
        np.testing.assert_allclose(one.read().values_mv, millivolts(1, 0, 300), atol=1e-6)
        (fault,) = find_recordings([place / "b/r2"])
        assert fault.reason == "unreadable_file"
        assert "nearest: b/r1" in fault.detail


def test_leads_that_a_store_does_not_have_are_not_read(folder):
    write_record(folder / "few", "f", adu(0, 300)[:2], RATE_HZ, leads=("I", "V2"))
    entry = RecordEntry("f", "f", "f", "train")
    build_store([entry], folder / "few", folder / "kept", BuildOptions(rate_hz=RATE_HZ))
    (found,) = find_recordings([folder / "kept/f"])
    assert found.read().leads == found.facts().leads == ("I", "V2")


def test_a_store_that_was_built_anew_is_opened_anew(store, folder):
    (before,) = find_recordings([store / "r0"])
    assert before.facts().n_samples == 300
    write_record(folder / "a", "r0", adu(0, 250), RATE_HZ)
    entries = [RecordEntry("r0", "r0", "r0", "train")]
    options = BuildOptions(rate_hz=RATE_HZ)
    build_store(entries, folder / "a", store, options, overwrite=True)
    assert before.facts().n_samples == 250


def test_tracings_are_found_by_their_exams(tmp_path):
    tracings = np.zeros((3, 500, 12), dtype=np.float32)
    tracings[:2, 50:450] = 0.1 * np.random.default_rng(0).standard_normal((2, 400, 12))
    with h5py.File(tmp_path / "exams.hdf5", "w") as file:
        file["exam_id"], file["tracings"] = [17, 4, 0], tracings
    found = find_recordings([tmp_path / "exams.hdf5"])
    assert names(found) == ["17", "4"]
    assert found[1].reader == TracingReader(4, 1)
    assert find_recordings([tmp_path]) == found
    assert find_recordings([tmp_path / "exams.hdf5/4"]) == found[1:]
    (fault,) = find_recordings([tmp_path / "exams.hdf5/5"])
    assert fault.reason == "missing_key"


def test_the_unit_of_a_segment_is_told(tmp_path):
    write_mat(tmp_path / "m.mat", 0, 0, 200)
    write_mat(tmp_path / "s.mat", 0, 0, 200, idx=3, mean=np.zeros(12), std=np.ones(12))
    found = find_recordings([tmp_path])
    assert [item.unit for item in found] == ["mV", STANDARD_DEVIATIONS]


def test_what_is_named_twice_is_found_once_and_equal_names_are_told_apart(folder):
    write_record(folder / "c", "r0", adu(4, 300), RATE_HZ)
    places = [folder / "a/r0", folder / "a/r0.hea", folder / "c/r0"]
    assert names(find_recordings(places)) == [str(folder / "a/r0"), str(folder / "c/r0")]


def test_what_cannot_be_read_is_a_fault_and_the_others_are_found(folder):
    (folder / "broken.mat").write_bytes(b"MATLAB")
    (folder / "empty").mkdir()
    places = ["absent", "broken.mat", "notes.txt", "x.npy", "empty", "a/r0"]
    found = find_recordings([folder / place for place in places])
    faults = {item.place.rsplit("/", 1)[1]: item for item in found if isinstance(item, Fault)}
    assert list(faults) == places[:-1]
    assert isinstance(found[-1], NamedRecording)
    assert faults["absent"].reason == "missing_file"
    assert faults["notes.txt"].reason == "unsupported_format"
    assert "--rate" in faults["x.npy"].detail
    assert "holds no store" in faults["empty"].detail
    in_folder = find_recordings([folder])
    assert [type(item).__name__ for item in in_folder].count("Fault") == 1


@pytest.mark.parametrize(("key", "value"), [("unit", "kV"), ("rate_hz", 0.0), ("rate_hz", -1.0)])
def test_facts_that_cannot_be_are_refused(key, value):
    with pytest.raises(ValueError, match="unit|rate"):
        ArrayFacts(**{key: value})


def test_without_the_package_for_hdf5_only_such_files_are_faults(folder, monkeypatch):
    (folder / "x.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    fault, other = find_recordings([folder / "x.h5", folder / "a/r0"], ARRAYS)
    assert "pip install" in fault.detail
    assert other.name == "r0"
