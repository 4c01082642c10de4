"""CPSC 2018 in both of its forms: the same nine classes and the same folds."""

import numpy as np
import pytest
import scipy.io

from fairseq_ecg.corpora._base import SPLITS, CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora.cpsc2018 import Cpsc2018, read_reference
from fairseq_ecg.corpora.physionet2021 import PhysioNet2021
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.manifest import read_classes, read_manifest
from fairseq_ecg.resources import cpsc_classes
from tests.builds import make_adu, write_record

HEADER = "Recording,First_label,Second_label,Third_label"
NAMES = ("NORM", "AF", "1AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE")
CODES = cpsc_classes()


def write_cpsc(root, rows, missing=()):
    """Write recordings over two folders, as distributed, and the table in the first of them."""
    for number, row in enumerate(rows):
        record = row.split(",")[0]
        folder = root / f"TrainingSet{1 + number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        data = np.random.default_rng(number).normal(0, 0.4, (12, 600))
        if record not in missing:
            content = {"ECG": {"sex": "Female", "age": 40 + number, "data": data}}
            scipy.io.savemat(folder / f"{record}.mat", content)
    (root / "TrainingSet1" / "REFERENCE.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return root


def test_the_real_recordings_become_a_store_with_their_people_and_classes(shared, tmp_path):
    built = build_manifest("cpsc2018", shared / "data" / "cpsc2018", tmp_path)
    index = built.store.index.set_index("record")
    assert (built.store.rate_hz, built.store.unit) == (500, "mV")
    assert index.loc["A1981", "age"] == 48
    assert index.loc["A1981", "sex"] == "female"
    assert index["n_samples"].tolist() == [5000, 7950, 5000, 7500, 5517, 6778]
    labels = {}
    for split in SPLITS:
        manifest = read_manifest(tmp_path / "cpsc2018" / f"{split}.tsv")
        labels |= dict(zip(manifest.paths, manifest.labels, strict=True))
    assert labels == {
        "A1980": "PAC", "A1981": "STD", "A1982": "1AVB",
        "A1983": "NORM", "A1985": "STD", "A1987": "RBBB",
    }  # fmt: skip
    assert read_classes(tmp_path / "cpsc2018" / "labels.txt") == NAMES
    values = built.store.read(built.store.row_of("A1981"))
    original = scipy.io.loadmat(shared / "data/cpsc2018/TrainingSet1/A1981.mat")["ECG"][0, 0]
    assert np.abs(values - original["data"]).max() < 1e-3


def test_the_form_of_cinc_2021_gives_the_same_classes(shared):
    root = shared / "data" / "challenge-2021" / "training" / "cpsc_2018"
    entries = Cpsc2018().entries(root)
    label_set = Cpsc2018().label_sets(root)["cpsc2018"]
    found = [label_set.apply(entry.codes) for entry in entries]
    assert len(entries) == 100
    assert sum(len(names) for names in found) == 102
    counts = {name: sum(name in names for names in found) for name in NAMES}
    assert counts == {
        "NORM": 13, "AF": 13, "1AVB": 5, "LBBB": 6, "RBBB": 25,
        "PAC": 11, "PVC": 11, "STD": 14, "STE": 4,
    }  # fmt: skip
    for name in ("NORM", "AF", "RBBB", "PAC", "PVC", "STD"):
        held_out = {e.split for e, names in zip(entries, found, strict=True) if name in names}
        assert held_out == set(SPLITS), name
    splits = [entry.split for entry in entries]
    assert [splits.count(split) for split in SPLITS] == [80, 10, 10]


def test_both_forms_are_divided_alike(tmp_path):
    rng = np.random.default_rng(0)
    labels = {f"A{i:04d}": NAMES[rng.integers(9)] for i in range(1, 31)}
    write_cpsc(tmp_path / "mat", [f"{name},{CODES[c][0]},," for name, c in labels.items()])
    for name, label in labels.items():
        comments = (f"Dx: {CODES[label][1]}",)
        write_record(tmp_path / "wfdb" / "g1", name, make_adu(n_samples=600), comments=comments)
    one, other = (
        {entry.record: entry.split for entry in Cpsc2018(seed=5).entries(tmp_path / form)}
        for form in ("mat", "wfdb")
    )
    assert one == other
    assert set(one.values()) == set(SPLITS)
    assert Cpsc2018(seed=6).entries(tmp_path / "mat") != Cpsc2018(seed=5).entries(tmp_path / "mat")


def test_the_challenge_corpus_offers_the_nine_classes_of_this_database_alone(shared, tmp_path):
    root = shared / "data" / "challenge-2021"
    assert "cpsc2018" not in PhysioNet2021().label_sets(root)
    assert "cpsc2018" not in PhysioNet2021(databases="cpsc_2018,georgia").label_sets(root)
    label_set = PhysioNet2021(databases="cpsc_2018").label_sets(root)["cpsc2018"]
    assert label_set.names == NAMES
    assert label_set.apply(["164889003", "59118001", "1"]) == ["NORM", "AF", "RBBB"]
    assert label_set.apply(["427084000"]) is None


def test_up_to_three_labels_of_several_tables_are_read(tmp_path):
    root = write_cpsc(tmp_path, ["A0001,5,2,", "A0002,1,,", "A0003,2.0,6.0,7.0"])
    (root / "TrainingSet2" / "REFERENCE.csv").write_text(f"{HEADER}\nA0002,1,,\nA0009,8,8,\n")
    tables = sorted(root.rglob("REFERENCE.csv"))
    assert read_reference(tables) == {
        "A0001": ("5", "2"),
        "A0002": ("1",),
        "A0003": ("2", "6", "7"),
        "A0009": ("8",),
    }
    label_set = Cpsc2018().label_sets(root)["cpsc2018"]
    assert label_set.apply(("2", "6", "7")) == ["AF", "PAC", "PVC"]


def test_what_is_listed_but_not_there_is_noted_and_what_is_not_listed_has_no_label(tmp_path):
    root = write_cpsc(tmp_path / "in", ["A0001,5,,", "A0002,1,,", "A0003,2,,"], missing=["A0002"])
    (root / "TrainingSet1" / "A0001.mat").rename(root / "TrainingSet1" / "A0100.mat")
    report = build_manifest("cpsc2018", root, tmp_path / "out")
    found = {row.record: row.reason for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert found == {"A0001": "missing_file", "A0002": "missing_file"}
    assert report.store.records == ["A0003", "A0100"]
    assert report.summary["label_sets"]["cpsc2018"]["records_without_label"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("A0001,10,,", r"REFERENCE\.csv, line 3: a label must be 1 to 9, not '10'"),
        ("A0002,2,,", "line 3: A0002 has the labels 2, but 1 in another row"),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path, row, message):
    root = write_cpsc(tmp_path, ["A0002,1,,"])
    with open(root / "TrainingSet1" / "REFERENCE.csv", "a") as file:
        file.write(f"{row}\n")
    with pytest.raises(CorpusError, match=message):
        Cpsc2018().entries(root)


def test_other_folders_are_refused_with_what_was_expected(tmp_path):
    with pytest.raises(CorpusError, match=r"not the folder of CPSC 2018: .*REFERENCE\.csv"):
        Cpsc2018().entries(tmp_path)
    write_record(tmp_path / "georgia", "E00001", make_adu(), comments=("Dx: 1",))
    with pytest.raises(CorpusError, match=r"CPSC 2018.*no recording of 'cpsc_2018'.*georgia \(1\)"):
        Cpsc2018().entries(tmp_path)
    root = write_cpsc(tmp_path / "cpsc", ["A0001,5,,"], missing=["A0001"])
    with pytest.raises(CorpusError, match="none of the 1 recordings that REFERENCE.csv lists"):
        Cpsc2018().entries(root)
