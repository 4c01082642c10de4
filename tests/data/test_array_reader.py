"""Plain arrays: leads first or last, units, and everything that is no recording."""

import h5py
import numpy as np
import pytest

from fairseq_ecg.data.array_reader import ArrayReader
from fairseq_ecg.data.record_file import RecordError

LEADS = ("I", "II", "V1")


def millivolts(n_samples=200):
    return np.random.default_rng(0).normal(0, 0.5, (3, n_samples))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("unit", "factor"), [("mV", 1), ("uV", 1000), ("V", 0.001)])
def test_an_npy_is_read_whichever_way_it_lies(tmp_path, dtype, transposed, unit, factor):
    values = millivolts() * factor
    if dtype == np.int16 and unit != "uV":
        pytest.skip("whole numbers of microvolts only")
    stored = (values.T if transposed else values).astype(dtype)
    np.save(tmp_path / "x.npy", stored)
    reader = ArrayReader(250.0, LEADS, unit)
    signal = reader.read(tmp_path / "x.npy").signal
    np.testing.assert_allclose(
        signal.values_mv, millivolts(), atol=1e-3 if dtype == np.int16 else 1e-6
    )
    assert (signal.rate_hz, signal.leads) == (250.0, LEADS)
    facts = reader.facts(tmp_path / "x.npy")
    assert (facts.n_samples, facts.rate_hz, facts.leads) == (200, 250.0, LEADS)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_names_its_leads_and_may_have_other_columns(tmp_path, mark):
    values = millivolts()
    lines = [mark.join(["time", "Lead I", "ii", "V1 (mV)"])]
    lines += [mark.join(map(repr, [t / 250, *row])) for t, row in enumerate(values.T.tolist())]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    signal = ArrayReader(250.0).read(tmp_path / "x.csv").signal
    np.testing.assert_allclose(signal.values_mv, values, atol=1e-6)
    assert signal.leads == ("Lead I", "ii", "V1 (mV)")


def test_a_csv_without_names_takes_those_given(tmp_path):
    np.savetxt(tmp_path / "x.csv", millivolts().T, delimiter=",")
    signal = ArrayReader(250.0, LEADS).read(tmp_path / "x.csv").signal
    np.testing.assert_allclose(signal.values_mv, millivolts(), atol=1e-6)
    with pytest.raises(RecordError, match="--leads"):
        ArrayReader(250.0).read(tmp_path / "x.csv")


def test_the_only_array_of_an_hdf5_file_is_taken_or_one_by_name(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["one/ecg"] = millivolts()
        file["ages"] = np.arange(4)
    read = ArrayReader(250.0, LEADS).read(tmp_path / "x.h5").signal
    np.testing.assert_allclose(read.values_mv, millivolts(), atol=1e-6)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["two"] = 2 * millivolts()
    with pytest.raises(RecordError, match="one/ecg, two"):
        ArrayReader(250.0, LEADS).read(tmp_path / "x.h5")
    two = ArrayReader(250.0, LEADS, array="two").read(tmp_path / "x.h5").signal
    np.testing.assert_allclose(two.values_mv, 2 * millivolts(), atol=1e-6)
    with pytest.raises(RecordError, match="must hold one"):
        ArrayReader(250.0, LEADS, array="three").read(tmp_path / "x.h5")


def test_missing_values_stay_missing(tmp_path):
    values = millivolts()
    values[1, 7] = np.nan
    np.save(tmp_path / "x.npy", values)
    read = ArrayReader(250.0, LEADS).read(tmp_path / "x.npy").signal.values_mv
    assert np.argwhere(np.isnan(read)).tolist() == [[1, 7]]


@pytest.mark.parametrize(
    ("values", "leads", "reason", "text"),
    [
        (millivolts() * 1000, LEADS, "wrong_unit", "--unit uV"),
        (millivolts() / 1000, LEADS, "wrong_unit", "--unit V"),
        (millivolts(), ("I", "II"), "wrong_leads", r"\[2 leads"),
        (millivolts()[None], LEADS, "wrong_leads", r"\[1, 3, 200\]"),
        (np.empty((3, 0)), LEADS, "empty", "no samples"),
        (np.array(["a", "b", "c"]), LEADS, "wrong_leads", "must hold numbers"),
        (np.array([{}, {}, {}], dtype=object), LEADS, "unreadable_file", "no .npy file of numbers"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, values, leads, reason, text):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(RecordError, match=text) as error:
        ArrayReader(250.0, leads).read(tmp_path / "x.npy")
    assert error.value.reason == reason


@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.h5"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 40, b"I,II,V1\n1,2\n3,4,5,6\n"])
def test_broken_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError):
        ArrayReader(250.0, LEADS).read(tmp_path / name)


def test_a_flat_line_has_no_unit_to_be_wrong(tmp_path):
    np.save(tmp_path / "x.npy", np.full((3, 50), 2000.0))
    assert ArrayReader(250.0, LEADS).read(tmp_path / "x.npy").signal.n_samples == 50
