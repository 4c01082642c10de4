"""CODE-15%: tracings found by their id, padding taken off, twice the millivolts halved."""

import h5py
import numpy as np
import pytest

from fairseq_ecg.corpora._base import CorpusError, get_corpus
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.store import Store

HEADER = (
    "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,"
    "normal_ecg,trace_file"
)


def tracing(exam_id, n_samples=1200):
    """Return the numbers of one exam, float32 [T, 12]; no sample is zero in all leads."""
    rng = np.random.default_rng(exam_id)
    return rng.normal(1, 0.5, (n_samples, 12)).astype(np.float32)


def write_code_15(root, exams, missing=(), padded=2000):
    """Write a folder in the distributed layout; the rows of the file run against the table."""
    root.mkdir(parents=True)
    lines, kept = [HEADER], [exam for exam in exams if exam not in missing]
    for exam in exams:
        lines.append(
            f"{exam},50,True,49.5,False,True,False,False,False,False,{exam // 10},,,False,"
            "exams_part0.hdf5"
        )
    (root / "exams.csv").write_text("\n".join(lines) + "\n")
    rows = np.zeros((len(kept) + 1, padded, 12), dtype=np.float32)
    for row, exam in enumerate(reversed(kept)):
        rows[row, 300:1500] = tracing(exam)
    with h5py.File(root / "exams_part0.hdf5", "w") as file:
        file["exam_id"] = np.array([*reversed(kept), 0], dtype=np.int64)
        file["tracings"] = rows
    return root


def test_each_exam_is_stored_without_padding_in_millivolts(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11, 12, 25])
    build_manifest("code-15", root, tmp_path / "out", dtype="float32")
    store = Store(tmp_path / "out" / "store")
    assert store.records == ["11", "12", "25"]
    assert (store.rate_hz, store.unit) == (400, "mV")
    for row, exam in enumerate([11, 12, 25]):
        np.testing.assert_array_equal(store.read(row), tracing(exam).T / 2)
    assert store.patients == ["code15-1", "code15-1", "code15-2"]
    assert store.index["sex"].tolist() == ["male"] * 3


def test_the_scale_is_an_option(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11])
    options = {"units_per_mv": 1.0}
    build_manifest("code-15", root, tmp_path / "out", dtype="float32", corpus_options=options)
    np.testing.assert_array_equal(Store(tmp_path / "out" / "store").read(0), tracing(11).T)


def test_label_sets_follow_the_columns(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11])
    sets = get_corpus("code-15").label_sets(root)
    codes = get_corpus("code-15").entries(root)[0].codes
    assert sets["diagnoses"].apply(codes) == ["RBBB"]
    assert sets["ecg_fm"].apply(codes) == ["is_male", "RBBB"]
    assert len(sets["ecg_fm"].names) == 8


def test_what_is_not_in_the_files_is_noted(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11, 12], missing=[12])
    text = (root / "exams.csv").read_text()
    row = text.splitlines()[1].replace("11,", "13,", 1).replace("part0", "part9")
    (root / "exams.csv").write_text(f"{text}{row}\n")
    build_manifest("code-15", root, tmp_path / "out")
    found = {row.record: row.reason for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert found == {"12": "missing_key", "13": "missing_file"}


def test_a_file_that_is_cut_short_excludes_its_exams_only(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11])
    text = (root / "exams.csv").read_text()
    row = text.splitlines()[1].replace("11,", "13,", 1).replace("part0", "part1")
    (root / "exams.csv").write_text(f"{text}{row}\n")
    content = (root / "exams_part0.hdf5").read_bytes()
    (root / "exams_part1.hdf5").write_bytes(content[: len(content) // 2])
    build_manifest("code-15", root, tmp_path / "out")
    found = {row.record: row.reason for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert found == {"13": "unreadable_file"}


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("RBBB", "rbbb", "missing: RBBB"),
        ("True", "perhaps", r"exams\.csv, line 2: is_male must be True or False"),
        (",1,,", ",x,,", r"exams\.csv, line 2: patient_id must be a whole number"),
    ],
)
def test_bad_tables_are_refused_by_column(tmp_path, old, new, match):
    root = write_code_15(tmp_path / "in", exams=[11])
    text = (root / "exams.csv").read_text()
    (root / "exams.csv").write_text(text.replace(old, new))
    with pytest.raises(CorpusError, match=match):
        get_corpus("code-15").entries(root)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="is not the folder of CODE-15%"):
        get_corpus("code-15").entries(tmp_path)
    (tmp_path / "exams.csv").write_text(f"{HEADER}\n")
    with pytest.raises(CorpusError, match="no rows"):
        get_corpus("code-15").entries(tmp_path)


def test_a_folder_without_any_part_is_refused(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11])
    (root / "exams_part0.hdf5").unlink()
    with pytest.raises(CorpusError, match=r"holds no tracing: exams\.csv names exams_part0\.hdf5"):
        get_corpus("code-15").entries(root)


def test_real_amplitudes_are_those_of_an_ecg(shared, tmp_path):
    build_manifest("code-15", shared / "data" / "code-15", tmp_path)
    store = Store(tmp_path / "store")
    assert len(store) == 10
    assert sorted(set(store.n_samples.tolist())) == [2934, 4096]
    peaks = []
    for row in range(len(store)):
        values = store.read(row)
        peaks.append(float(np.ptp(values[1] - np.median(values[1]))))
    assert 0.3 < np.median(peaks) < 3.0
