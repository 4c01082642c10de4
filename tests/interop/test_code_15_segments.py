"""Published output of fairseq-signals' preprocessing, met to the last bit."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io

from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.data.store import Store
from fairseq_ecg.interop.code_15_segments import PreprocessError, preprocess_code_15
from fairseq_ecg.interop.pack import pack
from tests.corpora.test_code_15 import write_code_15


@pytest.fixture(scope="module")
def both(shared, tmp_path_factory):
    """Return the folder we write of the ten public exams, and the published one."""
    dest = tmp_path_factory.mktemp("segments")
    preprocess_code_15(shared / "data" / "code-15", dest)
    return dest, shared / "data" / "code-15-reference-output"


def names_of(folder, split):
    return read_manifest(folder / f"{split}.tsv").recordings()[0]


def content(path):
    return {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}


@pytest.mark.parametrize("folder", ["org", "segmented"])
def test_every_file_holds_exactly_what_the_reference_holds(both, folder):
    ours, theirs = (root / folder for root in both)
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    assert len(names) == {"org": 10, "segmented": 14}[folder]
    for name in names:
        expected, found = content(theirs / name), content(ours / name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].dtype == value.dtype, (name, key)
            np.testing.assert_array_equal(found[key], value, err_msg=f"{name} {key}")


def test_the_tables_are_those_of_the_reference(both):
    ours, theirs = both
    assert (ours / "segmented.csv").read_bytes() == (theirs / "segmented.csv").read_bytes()
    expected, found = (pd.read_csv(root / "meta.csv", dtype=str) for root in (theirs, ours))
    assert list(found.columns) == list(expected.columns)
    # Rows of the original HDF5 files, of which the exams here are a part.
    left_out = ["hdf_ind"]
    pd.testing.assert_frame_equal(found.drop(columns=left_out), expected.drop(columns=left_out))


def test_the_labels_are_those_of_the_reference(both):
    ours, theirs = both
    np.testing.assert_array_equal(*(np.load(root / "labels" / "y.npy") for root in both))
    name = "labels/labels.csv"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    names = [pd.read_csv(root / "labels" / "label_def.csv")["name"].tolist() for root in both]
    assert names[0] == names[1]


def test_a_store_with_the_same_preprocessing_holds_the_same_segments(both, shared, tmp_path):
    build_manifest("code-15", shared / "data" / "code-15", tmp_path, preprocessing="ecg-fm")
    store = Store(tmp_path / "store")
    assert (store.unit, store.rate_hz) == ("standard deviations", 500)
    segments = pd.read_csv(both[1] / "segmented.csv")
    for path, save_file in zip(segments["path"], segments["save_file"], strict=True):
        number = int(path.removesuffix(".mat").rsplit("_", 1)[1])
        row = store.row_of(save_file.removesuffix(".mat").rsplit("_", 1)[1])
        expected = scipy.io.loadmat(both[1] / "segmented" / path)["feats"].astype(np.float32)
        found = store.read(row, 2500 * number, 2500 * (number + 1))
        np.testing.assert_array_equal(found, expected, err_msg=path)


def test_splits_are_those_of_a_store_with_the_same_values(shared, tmp_path):
    root = shared / "data" / "code-15"
    values = {"valid_fraction": 0.3, "test_fraction": 0.2, "seed": 3}
    report = preprocess_code_15(root, tmp_path / "files", splits=True, **values)
    build_manifest("code-15", root, tmp_path / "store", corpus_options=values)
    meta = pd.read_csv(tmp_path / "files" / "meta_split.csv")
    assert list(meta.columns) == ["idx", "save_file", "split", "patient_id"]
    for split, count in report.splits.items():
        exams = meta.loc[meta["split"] == split, "save_file"]
        assert len(exams) == count > 0
        assert {f"code_15_{name}.mat" for name in names_of(tmp_path / "store", split)} == set(exams)
        segments = names_of(tmp_path / "files" / "manifests", split)
        assert {name.rsplit("_", 1)[0] + ".mat" for name in segments} == set(exams)
    table = pd.read_csv(tmp_path / "files" / "segmented_split.csv")
    assert list(table.columns) == [*meta.columns, "path", "sample_size"]
    assert len(table) == 14


def test_exams_with_a_constant_lead_are_in_no_split_and_a_patient_in_one(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11, 12, 21, 31, 41])
    with h5py.File(root / "exams_part0.hdf5", "r+") as file:
        row = file["exam_id"][:].tolist().index(12)
        file["tracings"][row, 300:1500, 4] = 1.0
    report = preprocess_code_15(root, tmp_path / "out", splits=True, segment_s=1)
    assert report.splits == {"train": 2, "valid": 1, "test": 1}
    meta = pd.read_csv(tmp_path / "out" / "meta_split.csv")
    assert meta["save_file"].tolist() == [f"code_15_{exam}.mat" for exam in (11, 21, 31, 41)]
    definition = pd.read_csv(tmp_path / "out" / "labels" / "label_def.csv").set_index("name")
    assert definition.loc["is_male", "pos_count_train"] == 2
    assert definition.loc["is_male", "pos_weight_train"] == 0
    assert definition.loc["AF", "pos_weight_valid"] == np.inf
    assert definition.loc["RBBB", "pos_count_all"] == 5
    weights = json.loads((tmp_path / "out" / "labels" / "pos_weight.txt").read_text())
    assert weights == [0, 1, 0, 1, 1, 1, 1, 1]  # all are men with RBBB
    packed = pack(tmp_path / "out", tmp_path / "packed").store  # by segmented_split.csv
    assert len(packed) == 12
    assert len({*packed.patients}) == 4
    folder = preprocess_code_15(root, tmp_path / "out", splits=True, segment_s=1, test_fraction=0)
    assert folder.splits["test"] == 0
    assert not (tmp_path / "out" / "manifests" / "test.tsv").exists()


def test_exams_without_a_tracing_are_in_the_ledger_and_keep_their_number(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11, 12, 13], missing=[12])
    report = preprocess_code_15(root, tmp_path / "out", workers=1)
    assert report.meta["idx"].tolist() == [0, 2]
    assert [(row.record, row.reason) for row in read_ledger(tmp_path / "out" / "ledger.csv")] == [
        ("12", "missing_key")
    ]
    labels = np.load(tmp_path / "out" / "labels" / "y.npy")
    assert labels.shape == (3, 8)
    assert not labels[1].any()


def test_a_column_that_is_missing_or_wrong_is_named(tmp_path):
    root = write_code_15(tmp_path / "in", exams=[11])
    exams = root / "exams.csv"
    text = exams.read_text()
    exams.write_text(text.replace("RBBB", "rbbb"))
    with pytest.raises(PreprocessError, match=r"exams\.csv has no column 'RBBB'"):
        preprocess_code_15(root, tmp_path / "out")
    exams.write_text(text.replace("True", "yes"))
    with pytest.raises(PreprocessError, match=r"exams\.csv, line 2: \w+ must match"):
        preprocess_code_15(root, tmp_path / "out")
    with pytest.raises(PreprocessError, match="no exams.csv"):
        preprocess_code_15(tmp_path, tmp_path / "out")
    exams.write_text(text.replace("patient_id", "patient"))
    with pytest.raises(PreprocessError, match=r"exams\.csv has no column 'patient_id'"):
        preprocess_code_15(root, tmp_path / "out", splits=True)
    exams.write_text(text)
    with pytest.raises(CorpusError, match="must not be negative"):
        preprocess_code_15(root, tmp_path / "out", splits=True, valid_fraction=-1)
