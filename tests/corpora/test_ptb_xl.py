import csv
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import wfdb

from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora.ptb_xl import PtbXl
from fairseq_ecg.data.manifest import read_classes, read_manifest
from fairseq_ecg.resources import challenge_labels, manifests_dir


@pytest.fixture(scope="module")
def root(shared):
    return shared / "data" / "ptb-xl"


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    dest = tmp_path_factory.mktemp("ptb_xl")
    return build_manifest("ptb_xl", root, dest, workers=2)


def count(manifest):
    return Counter(name for row in range(len(manifest)) for name in manifest.label_names(row))


def test_official_folds_become_splits(root, built):
    database = pd.read_csv(root / "ptbxl_database.csv")
    folds = database["strat_fold"].value_counts().sort_index().tolist()
    assert folds == [26, 23, 19, 27, 23, 10, 26, 21, 53, 36]
    for split, expected in (("train", sum(folds[:8])), ("valid", 53), ("test", 36)):
        assert len(read_manifest(built.dest / f"{split}.tsv")) == expected
    assert len(built.store) == 264


def test_no_patient_is_in_two_splits(built):
    index = built.store.index
    assert index.groupby("patient")["split"].nunique().max() == 1
    assert index["patient"].nunique() == 238
    assert index["patient"].str.startswith("ptbxl-").all()


def test_superclasses_are_those_of_the_data_sets_description(built):
    folder = built.dest / "superdiagnostic"
    assert read_classes(folder / "labels.txt") == ("CD", "HYP", "MI", "NORM", "STTC")
    manifests = [read_manifest(folder / f"{split}.tsv") for split in ("train", "valid", "test")]
    total = sum((count(manifest) for manifest in manifests), Counter())
    assert total == {"NORM": 147, "STTC": 57, "MI": 38, "CD": 37, "HYP": 22}
    assert sum(len(manifest) for manifest in manifests) == 264 - 9
    assert built.summary["label_sets"]["superdiagnostic"]["records_without_label"] == 9


def test_label_sets_have_the_benchmarks_classes_in_alphabetical_order(root):
    sets = PtbXl().label_sets(root)
    sizes = {name: len(label_set.names) for name, label_set in sets.items()}
    assert sizes == {
        "all": 71,
        "diagnostic": 44,
        "form": 19,
        "rhythm": 12,
        "subdiagnostic": 23,
        "superdiagnostic": 5,
        "cinc2021": 26,
    }
    for name, label_set in sets.items():
        if name != "cinc2021":
            assert list(label_set.names) == sorted(label_set.names)
    assert {"NDT", "NST_", "DIG", "LNGQT"} <= set(sets["diagnostic"].names) & set(
        sets["form"].names
    )


def test_a_statement_of_likelihood_zero_counts(built):
    manifest = read_manifest(built.dest / "all" / "train.tsv")
    assert manifest.label_names(manifest.paths.index("00001_hr")) == ["LVOLT", "NORM", "SR"]


def test_manifests_lead_to_the_store(built):
    for path in (built.dest / "train.tsv", built.dest / "rhythm" / "train.tsv"):
        manifest = read_manifest(path)
        assert manifest.root == built.store.path
        rows = [built.store.row_of(record) for record in manifest.paths]
        np.testing.assert_array_equal(built.store.n_samples[rows], manifest.n_samples)


@pytest.mark.parametrize("sampling", [100, 500])
def test_signals_are_wfdbs_at_both_rates(root, tmp_path, sampling):
    report = build_manifest("ptb_xl", root, tmp_path, corpus_options={"sampling": sampling})
    assert report.store.rate_hz == sampling
    path = str(report.store.index.iloc[17]["record"])
    folder = "records500" if sampling == 500 else "records100"
    expected = wfdb.rdrecord(str(root / folder / "00000" / path)).p_signal.T
    assert np.abs(report.store.read(17) - expected).max() <= 0.0005


def test_age_and_sex_come_along(root, built):
    database = pd.read_csv(root / "ptbxl_database.csv").set_index("ecg_id")
    index = built.store.index.set_index("record")
    assert index.loc["00001_hr", "age"] == database.loc[1, "age"] == 56
    assert (index["sex"] == "female").sum() == (database["sex"] == 1).sum()


def test_challenge_classes_agree_with_the_challenges_headers(shared, root):
    label_set = PtbXl().label_sets(root)["cinc2021"]
    assert list(label_set.names) == challenge_labels()
    from fairseq_ecg.corpora.physionet2021 import PhysioNet2021

    challenge = PhysioNet2021(databases="ptb-xl")
    folder = shared / "data" / "challenge-2021"
    theirs = challenge.label_sets(folder)["cinc2021"]
    headers = {entry.record: entry for entry in challenge.entries(folder)}
    compared = 0
    for entry in PtbXl().entries(root):
        twin = headers.get(f"HR{entry.record[:5]}")
        if twin is None:
            continue
        compared += 1
        ours = set(label_set.apply(entry.codes))
        # The header, of June 2020, lists a sinus arrhythmia that PTB-XL 1.0.3 does not.
        extra = {"SA"} if twin.record == "HR00010" else set()
        assert ours | extra == set(theirs.apply(twin.codes)), twin.record
    assert compared == 7


def test_the_shipped_table_names_only_statements_that_exist(root):
    with open(manifests_dir() / "ptb_xl" / "cinc2021.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    statements = {row["statement"] for row in rows if not row["statement"].startswith("axis:")}
    assert statements <= set(PtbXl().label_sets(root)["all"].names)
    assert {row["class"] for row in rows} == set(challenge_labels()) - {
        "BBB",
        "Brady",
        "PRWP",
        "PVC|VPB",
    }
    assert {row["basis"] for row in rows} == {"header", "name", "inferred"}


def test_shipped_counts_are_the_challenges(shared):
    folder = shared / "data" / "challenge-2021" / "evaluation-2021"
    official = pd.read_csv(folder / "dx_mapping_scored.csv").set_index("Abbreviation")["PTB_XL"]
    with open(manifests_dir() / "ptb_xl" / "cinc2021.csv", newline="") as file:
        for row in csv.DictReader(file):
            codes = row["class"].split("|")
            assert int(row["ptb_xl_count"]) == official[codes].sum(), row["class"]


def test_another_table_for_the_challenges_classes_can_be_given(root, tmp_path):
    table = tmp_path / "map.csv"
    table.write_text("statement,class\nPVC,PVC|VPB\n")
    label_set = PtbXl(cinc_map=str(table)).label_sets(root)["cinc2021"]
    assert label_set.apply(["PVC", "SR"]) == ["PVC|VPB"]
    table.write_text("statement,class\nPVC,XYZ\n")
    with pytest.raises(CorpusError, match="'XYZ' is none of AF, AFL"):
        PtbXl(cinc_map=str(table)).label_sets(root)


def test_another_folder_says_what_was_expected(tmp_path):
    with pytest.raises(CorpusError, match=r"not the folder of PTB-XL: it has no ptbxl_database"):
        PtbXl().entries(tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text("ecg_id\n1\n")
    with pytest.raises(CorpusError, match="missing: patient_id"):
        PtbXl().entries(tmp_path)


HEADER = "ecg_id,patient_id,age,sex,scp_codes,heart_axis,strat_fold,filename_lr,filename_hr\n"


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("1,5.0,50,0,__import__('os').getcwd(),,3,a,b", "line 2: scp_codes must be a dictionary"),
        ("1,5.0,50,0,['NORM'],,3,a,b", "line 2: scp_codes"),
        ("1,x,50,0,{},,3,a,b", "line 2: patient_id must be a whole number"),
        ("1,5.0,50,0,{},,11,a,b", "line 2: strat_fold must be 1 to 10"),
        ("1,5.0,50", "line 2: the row is cut short"),
    ],
)
def test_damaged_rows_are_refused_with_their_line(tmp_path, row, match):
    (tmp_path / "ptbxl_database.csv").write_text(HEADER + row + "\n")
    with pytest.raises(CorpusError, match=match):
        PtbXl().entries(tmp_path)
