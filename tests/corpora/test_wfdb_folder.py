import pytest

from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora.wfdb_folder import WfdbFolder
from fairseq_ecg.data.manifest import ManifestError, read_manifest
from tests.builds import make_adu, write_record


@pytest.fixture
def root(tmp_path):
    for i in range(12):
        write_record(tmp_path / "ecg" / f"day{i % 2}", f"r{i}", make_adu(i))
    return tmp_path / "ecg"


def write_labels(folder, text):
    path = folder / "labels.csv"
    path.write_text(text)
    return str(path)


def test_a_folder_without_labels_gives_all_records(root, tmp_path):
    report = build_manifest("wfdb", root, tmp_path / "dest")
    assert len(report.store) == 12
    assert report.summary["label_sets"] == {}
    assert report.ledger == []
    assert "day0/r0" in report.store.records
    assert {name: s["records"] for name, s in report.summary["splits"].items()} == {
        "train": 10,
        "valid": 1,
        "test": 1,
    }


def test_labels_patients_and_splits_of_a_table_are_used(root, tmp_path):
    rows = [f"r{i},P{i // 3},{'test' if i == 0 else ''},{i % 2},{int(i > 9)}" for i in range(11)]
    labels = write_labels(tmp_path, "record,patient,split,AF,B 1\n" + "\n".join(rows) + "\n")
    report = build_manifest("wfdb", root, tmp_path / "dest", corpus_options={"labels": labels})
    index = report.store.index.set_index("record")
    assert index.loc[["day0/r0", "day1/r1", "day0/r2"], "split"].tolist() == ["test"] * 3
    assert index.groupby("patient")["split"].nunique().max() == 1
    assert report.summary["label_sets"]["labels"]["counts"] == {"AF": 5, "B 1": 1}
    assert report.summary["label_sets"]["labels"]["records_without_label"] == 1
    named = {}
    for split in ("train", "valid", "test"):
        manifest = read_manifest(report.dest / "labels" / f"{split}.tsv")
        named |= {path: manifest.label_names(i) for i, path in enumerate(manifest.paths)}
    assert len(named) == 11
    assert named["day0/r10"] == ["B 1"]
    assert named["day0/r0"] == []
    assert named["day1/r3"] == ["AF"]


def test_a_row_without_a_file_ends_in_the_ledger(root, tmp_path):
    labels = write_labels(tmp_path, "record,AF\nr1,1\nabsent,1\n../../secret,0\n")
    report = build_manifest("wfdb", root, tmp_path / "dest", corpus_options={"labels": labels})
    assert {row.record: row.reason for row in report.ledger if row.action == "excluded"} == {
        "absent": "missing_file",
        "../../secret": "unsafe_path",
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("AF\n1\n", "line 1: must name the columns record"),
        ("record,patient\nr1,P\n", "at least one class"),
        ("record,AF,AF\nr1,1,1\n", "each once"),
        ("record,AF\nr1,2\n", "line 2: AF must be 0 or 1, but is '2'"),
        ("record,AF\nr1\n", "line 2: 1 cells, but line 1 names 2"),
        ("record,AF\n,1\n", "line 2: the record is empty"),
        ("record,split,AF\nr1,dev,1\n", "line 2: split must be train, valid, test"),
        ("record,AF\nr1,1\nr1,0\n", "line 3: record 'r1' occurs in line 2"),
        ("record,patient,split,AF\nr1,P,train,1\nr2,P,test,1\n", "line 3: patient 'P' is in train"),
    ],
)
def test_mistakes_in_the_table_are_named_with_their_line(root, tmp_path, text, match):
    with pytest.raises(CorpusError, match=match):
        WfdbFolder(labels=write_labels(tmp_path, text)).entries(root)


def test_a_class_that_no_manifest_can_hold_is_refused_before_the_work(root, tmp_path):
    labels = write_labels(tmp_path, "record,A;B\nr1,1\n")
    with pytest.raises(ManifestError, match="class name 'A;B'"):
        build_manifest("wfdb", root, tmp_path / "dest", corpus_options={"labels": labels})
    assert not (tmp_path / "dest").exists()


def test_a_name_of_two_files_must_be_given_with_its_folder(root, tmp_path):
    write_record(root / "day1", "r0", make_adu(50))
    with pytest.raises(CorpusError, match="line 2: 2 files are called 'r0'"):
        WfdbFolder(labels=write_labels(tmp_path, "record,AF\nr0,1\n")).entries(root)
    entries = WfdbFolder(labels=write_labels(tmp_path, "record,AF\nday1/r0,1\n")).entries(root)
    assert [e.record for e in entries if e.codes == ("AF",)] == ["day1/r0"]


def test_missing_table_and_empty_folder_are_refused(root, tmp_path):
    with pytest.raises(CorpusError, match=r"absent\.csv cannot be read"):
        WfdbFolder(labels=str(tmp_path / "absent.csv")).entries(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no WFDB header"):
        WfdbFolder().entries(tmp_path / "empty")
