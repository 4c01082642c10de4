import csv
import os

import numpy as np
import pytest
import wfdb

from fairseq_ecg.corpora._base import SPLITS, CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora._wfdb_tree import read_comments
from fairseq_ecg.corpora.physionet2021 import PhysioNet2021, database_of
from fairseq_ecg.corpora.synthetic import generate
from fairseq_ecg.data.manifest import read_classes, read_manifest
from fairseq_ecg.resources import challenge_classes, challenge_weights_file, manifests_dir
from tests.builds import make_adu, write_record

COUNTS = {
    "NSR": 35, "CRBBB|RBBB": 32, "PAC|SVPB": 27, "STach": 23, "AF": 17, "SB": 12, "TAb": 11,
    "PVC|VPB": 8, "IAVB": 8, "NSIVCB": 8, "CLBBB|LBBB": 7, "LAD": 4, "TInv": 4, "Brady": 4,
    "IRBBB": 3, "AFL": 3, "LQT": 2, "SA": 2, "LQRSV": 2, "PR": 1, "QAb": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(shared):
    return shared / "data" / "challenge-2021"


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    return build_manifest("physionet2021", root, tmp_path_factory.mktemp("cinc"))


def test_all_records_are_stored_and_the_scored_classes_counted(built):
    assert len(built.store) == 186
    facts = built.summary["label_sets"]["cinc2021"]
    assert {name: n for name, n in facts["counts"].items() if n} == COUNTS
    assert facts["records_without_label"] == 0
    paths = [read_manifest(built.dest / "cinc2021" / f"{split}.tsv").paths for split in SPLITS]
    in_a_split = built.store.index.query("split != ''")["record"]
    assert sorted(path for found in paths for path in found) == sorted(in_a_split)


def test_records_without_a_scored_class_are_counted(built, root):
    label_set = PhysioNet2021().label_sets(root)["cinc2021"]
    names = [label_set.apply(codes) for codes in built.store.index["codes"]]
    assert sum(not found for found in names) == 37


def test_the_one_record_of_another_rate_is_resampled(built, root):
    row = built.store.row_of("S0001")
    facts = built.store.index.iloc[row]
    assert (facts["source_rate_hz"], facts["rate_hz"]) == (1000, 500)
    assert facts["n_samples"] == facts["source_n_samples"] // 2
    path = next(root.rglob("S0001.hea")).with_suffix("")
    expected = wfdb.rdrecord(str(path)).p_signal.T[:, ::2]
    difference = built.store.read(row) - expected
    assert np.sqrt(np.mean(difference**2)) < 0.02
    other = np.delete(np.arange(186), row)
    assert (built.store.index["source_rate_hz"].to_numpy()[other] == 500).all()


def test_known_defects_are_in_the_ledger(built):
    rows = {(row.record, row.reason) for row in built.ledger}
    assert ("E07510", "duplicate") in rows
    assert sum(row.reason == "flat_lead" for row in built.ledger) == 4
    apart = {row.record for row in built.ledger if row.action == "in_no_split"}
    assert apart == set(built.store.index["record"][built.store.index["split"] == ""])
    assert {row.action for row in built.ledger} <= {"kept", "in_no_split"}


def test_a_duplicate_is_never_in_another_split_than_its_twin(built):
    splits = dict(zip(built.store.records, built.store.index["split"], strict=True))
    assert splits["E07510"] in ("", splits["E07509"])


def test_no_patient_is_in_two_splits(built):
    index = built.store.index
    assert index[index["split"] != ""].groupby("patient")["split"].nunique().max() == 1
    assert set(index["split"]) <= {"train", "valid", "test", ""}


def test_class_names_are_the_official_ones_in_order(built):
    names = read_classes(built.dest / "cinc2021" / "labels.txt")
    assert names[:5] == ("AF", "AFL", "BBB", "Brady", "CLBBB|LBBB")
    assert names[14] == "NSR"
    assert names[-1] == "TInv"
    assert names == read_classes(manifests_dir() / "physionet2021" / "labels.txt")


def test_shipped_classes_are_those_of_the_shipped_weights(shared):
    with open(challenge_weights_file(), newline="") as file:
        rows = list(csv.reader(file))
    codes = ["|".join(found) for found in challenge_classes().values()]
    assert rows[0][1:] == codes
    assert [row[0] for row in rows[1:]] == codes
    official = shared / "data" / "challenge-2021" / "evaluation-2021"
    assert challenge_weights_file().read_text() == (official / "weights.csv").read_text()
    with open(official / "weights_abbreviations.csv", newline="") as file:
        assert next(csv.reader(file))[1:] == list(challenge_classes())


def test_both_header_styles_and_odd_codes_are_read(tmp_path):
    adu = make_adu()
    comments = ("Age: 84", "Sex: Female", "Dx: 164889003,,426783006,164889003, ,999,")
    new = read_comments(write_record(tmp_path, "new", adu, comments=comments))
    path = write_record(tmp_path, "old", adu, comments=comments)
    hea = path.with_suffix(".hea")
    hea.write_text(hea.read_text().replace("# ", "#"))
    assert read_comments(path) == new
    assert new.codes == ("164889003", "426783006", "999")
    assert (new.age, new.sex) == (84.0, "female")
    hea.write_text(hea.read_text().replace("84", "NaN").replace("Female", "Unknown"))
    assert (read_comments(path).age, read_comments(path).sex) == (None, "")
    label_set = PhysioNet2021().label_sets(tmp_path)["cinc2021"]
    assert label_set.apply(new.codes) == ["AF", "NSR"]


def test_merged_codes_give_one_class(tmp_path):
    label_set = PhysioNet2021().label_sets(tmp_path)["cinc2021"]
    for one, other, name in (
        ("733534002", "164909002", "CLBBB|LBBB"),
        ("713427006", "59118001", "CRBBB|RBBB"),
        ("284470004", "63593006", "PAC|SVPB"),
        ("427172004", "17338001", "PVC|VPB"),
    ):
        assert label_set.apply([one]) == label_set.apply([other, one]) == [name]


def test_ptb_xls_patients_and_folds_are_used_where_they_are_given(shared, root):
    database = shared / "data" / "ptb-xl" / "ptbxl_database.csv"
    entries = PhysioNet2021(ptbxl_database=str(database)).entries(root)
    found = {e.record: (e.patient, e.split) for e in entries if e.record.startswith("HR000")}
    assert found["HR00001"] == ("ptbxl-15709", "train")
    assert found["HR00010"] == ("ptbxl-9456", "valid")
    unknown = {e.record: e.patient for e in entries if e.record.startswith("HR06")}
    assert all(record == patient for record, patient in unknown.items())
    with pytest.raises(CorpusError, match="has no absent.csv"):
        PhysioNet2021(ptbxl_database=str(database.with_name("absent.csv"))).entries(root)


def test_signals_of_both_releases_are_the_same_recordings(shared, root, built, tmp_path):
    ptb_xl = build_manifest("ptb_xl", shared / "data" / "ptb-xl", tmp_path)
    for number in (1, 2, 4, 5, 7, 8, 10):
        ours = ptb_xl.store.hashes[ptb_xl.store.row_of(f"{number:05d}_hr")]
        assert built.store.hashes[built.store.row_of(f"HR{number:05d}")] == ours


def test_people_with_several_unmarked_recordings_stay_in_train(root):
    entries = PhysioNet2021(databases="ptb,cpsc_2018_extra", test_fraction=0.9).entries(root)
    assert {entry.split for entry in entries if entry.record == "S0001"} == {"train"}
    assert sum(entry.split == "test" for entry in entries) == 20


def test_databases_can_be_chosen(root):
    entries = PhysioNet2021(databases="georgia, ptb").entries(root)
    assert len(entries) == 22
    with pytest.raises(CorpusError, match=r"no recording of 'st_petersburg_incart'.*ningbo \(21\)"):
        PhysioNet2021(databases="st_petersburg_incart").entries(root)


@pytest.mark.parametrize(
    ("path", "database"),
    [
        ("training/georgia/g1/E00001", "georgia"),
        ("WFDB/JS10646", "chapman_shaoxing"),
        ("WFDB/JS10647", "ningbo"),
        ("HR00001", "ptb-xl"),
        ("training/synthetic/g1/SY00001", "synthetic"),
        ("x/y", ""),
    ],
)
def test_databases_are_known_by_folder_or_by_name(path, database):
    assert database_of(path) == database


def test_a_table_of_patients_beside_the_records_keeps_them_together(tmp_path):
    generate(tmp_path / "made", num_patients=10, records_per_patient=3, duration_s=2)
    entries = PhysioNet2021().entries(tmp_path / "made")
    assert len(entries) == 30
    assert len({entry.patient for entry in entries}) == 10
    assert len({(entry.patient, entry.split) for entry in entries}) == 10


def test_a_table_of_patients_can_be_given_and_must_have_its_columns(tmp_path):
    for i in range(4):
        write_record(tmp_path / "ecg", f"X{i}", make_adu(), comments=("Dx: 1",))
    (tmp_path / "ecg" / "records.csv").write_text("idx,save_file\n1,a\n")
    assert len({entry.patient for entry in PhysioNet2021().entries(tmp_path / "ecg")}) == 4
    table = tmp_path / "people.csv"
    table.write_text("record,patient\nX0,p\nX1,p\nX2,\n")
    entries = PhysioNet2021(patients=str(table)).entries(tmp_path / "ecg")
    assert [entry.patient for entry in entries] == ["p", "p", "X2", "X3"]
    table.write_text("a,b\n1,2\n")
    with pytest.raises(CorpusError, match="must be a table with record and patient"):
        PhysioNet2021(patients=str(table)).entries(tmp_path / "ecg")


def test_a_pipe_among_the_headers_does_not_stop_the_listing(tmp_path):
    write_record(tmp_path, "a", make_adu(), comments=("Dx: 1",))
    os.mkfifo(tmp_path / "b.hea")
    report = build_manifest("physionet2021", tmp_path, tmp_path / "dest")
    assert {row.record: row.reason for row in report.ledger} == {"b": "not_a_file"}


def test_records_of_one_name_are_told_apart_by_their_folder(tmp_path):
    for folder in ("a", "b"):
        write_record(tmp_path / folder, "X1", make_adu(), comments=("Dx: 1",))
    write_record(tmp_path / "c", "X2", make_adu(), comments=("Dx: 1",))
    assert [entry.record for entry in PhysioNet2021().entries(tmp_path)] == ["a/X1", "b/X1", "X2"]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="no WFDB header; expected training/<database>"):
        PhysioNet2021().entries(tmp_path)
    write_record(tmp_path, "a", make_adu())
    with pytest.raises(CorpusError, match="none of the 1 headers .* '# Dx: ...'.*corpus wfdb"):
        PhysioNet2021().entries(tmp_path)
