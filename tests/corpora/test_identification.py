"""Manifests of identification: nobody on both sides, one pair per patient, the same for any order."""

import json

import numpy as np
import pytest

from fairseq_ecg.cli.main import main
from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora._identification import write_identification
from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.data.store import Store
from tests.builds import make_adu, write_record
from tests.recordings import write_mat

NAMES = ["train", *(f"{s}_{side}" for s in ("valid", "test") for side in ("gallery", "probe"))]


def make_store(folder, counts, split_of=lambda p: "train", dates=None, seed=0):
    """Build a store in which patient p has counts[p] recordings p<p>-<i>."""
    entries = []
    for p, count in enumerate(counts):
        for i in range(count):
            name = f"p{p:02d}-{i}"
            write_record(folder / "wfdb", name, make_adu(seed + 10 * p + i, n_samples=500 + p))
            codes = (f"date:{dates[i]}",) if dates else None
            entries.append(RecordEntry(name, name, f"p{p:02d}", split_of(p), codes))
    build_store(entries, folder / "wfdb", folder, BuildOptions(), corpus="people")
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """20 patients: 4 have one recording, the others two or three."""
    return make_store(tmp_path_factory.mktemp("people"), [1] * 4 + [2] * 8 + [3] * 8)


def read(folder):
    """Return rows (record, label) of every manifest that is there."""
    found = {}
    for name in NAMES:
        if (folder / f"{name}.tsv").exists():
            manifest = read_manifest(folder / f"{name}.tsv")
            assert manifest.kind == "identification"
            found[name] = list(zip(manifest.paths, map(int, manifest.labels), strict=True))
    return found


def patient(record):
    return record.split("-")[0]


def test_every_patient_is_on_one_side_and_evaluated_ones_have_a_pair(people, tmp_path):
    report = write_identification(
        people, dest=tmp_path, valid_fraction=0.25, test_fraction=0.25, seed=3
    )
    rows = read(report.dest)
    sides = {name: [patient(record) for record, _ in found] for name, found in rows.items()}
    assert len(sides["valid_gallery"]) == len(sides["test_gallery"]) == 4  # of 16 with two or more
    for split in ("valid", "test"):
        assert sides[f"{split}_gallery"] == sides[f"{split}_probe"]
        assert [label for _, label in rows[f"{split}_probe"]] == list(range(4))
        assert all(record.endswith("-0") for record, _ in rows[f"{split}_gallery"])
        assert all(record.endswith("-1") for record, _ in rows[f"{split}_probe"])
    everyone = [set(sides[name]) for name in ("train", "valid_gallery", "test_gallery")]
    assert sum(map(len, everyone)) == len(set.union(*everyone)) == 20
    labels = dict(zip(sides["train"], [label for _, label in rows["train"]], strict=True))
    assert sorted(labels.values()) == list(range(12))
    assert (report.train_patients, report.valid_patients, report.test_patients) == (12, 4, 4)
    used = sum(map(len, rows.values()))
    assert used + report.unused_records == 4 + 16 + 24
    facts = json.loads((report.dest / "summary.json").read_text())
    assert facts["train_records"] == report.train_records == len(rows["train"])
    assert "dest" not in facts


def test_the_division_depends_on_names_and_seed_only(people, tmp_path):
    first = read(write_identification(people, dest=tmp_path / "a", seed=1).dest)
    assert read(write_identification(people, dest=tmp_path / "b", seed=1).dest) == first
    assert read(write_identification(people, dest=tmp_path / "c", seed=2).dest) != first


def test_a_patient_is_counted_and_hashed_by_name_whatever_the_others_are(tmp_path):
    """More recordings of some patients do not move the others."""
    few = make_store(tmp_path / "few", [2] * 10)
    many = make_store(tmp_path / "many", [4] + [2] * 9)
    found = [read(write_identification(folder, seed=5).dest) for folder in (few, many)]
    assert found[0]["valid_probe"] == found[1]["valid_probe"]
    assert found[0]["test_gallery"] == found[1]["test_gallery"]


def test_the_probe_is_of_another_day_where_days_are_known(tmp_path):
    days = ["2004-12-07", "2004-12-07", "2005-03-15"]
    folder = make_store(tmp_path, [3] * 3 + [2], dates=days)
    report = write_identification(folder, valid_fraction=0.5, test_fraction=0.25)
    for split in ("valid", "test"):
        for probe, _ in read(report.dest)[f"{split}_probe"]:
            assert probe.endswith("-1" if patient(probe) == "p03" else "-2")
    assert 2 <= report.days_apart <= 3


def test_splits_of_the_store_are_kept_if_asked_for(tmp_path):
    split_of = ["train", "train", "valid", "valid", "test"].__getitem__
    folder = make_store(tmp_path, [1, 2, 1, 2, 3], split_of)
    report = write_identification(folder, keep_splits=True)
    rows = read(report.dest)
    assert rows["train"] == [("p00-0", 0), ("p01-0", 1), ("p01-1", 1)]
    assert rows["valid_gallery"] == [("p03-0", 0)]
    assert rows["test_probe"] == [("p04-1", 0)]
    assert (report.single_patients, report.unused_records) == (1, 1)


def test_each_recording_is_a_class_if_asked_for(people, tmp_path):
    report = write_identification(people, dest=tmp_path, records_as_patients=True)
    labels = [label for _, label in read(report.dest)["train"]]
    assert labels == list(range(report.train_records))
    assert report.train_patients == report.train_records


def test_trained_on_one_store_evaluated_on_another(people, tmp_path):
    """Patients of both, by name, are evaluated only."""
    other = make_store(tmp_path / "other", [2, 2, 1] + [0] * 20 + [2], seed=500)
    report = write_identification(
        other, people, tmp_path / "dest", valid_fraction=0.1, test_fraction=0.2
    )
    rows = read(report.dest)
    assert sorted(len(rows[f"{s}_probe"]) for s in ("valid", "test")) == [1, 2]
    assert read_manifest(report.dest / "train.tsv").root == people / "store"
    assert read_manifest(report.dest / "test_probe.tsv").root == other / "store"
    trained = {patient(record) for record, _ in rows["train"]}
    assert trained == {f"p{p:02d}" for p in range(2, 20)}
    assert report.known_records == 2  # p00 and p01 have one recording each in the training store


def test_the_root_is_relative_where_the_folder_can_be_moved_as_a_whole(people, tmp_path):
    inside = write_identification(people).dest
    assert (inside / "train.tsv").read_text().startswith("../store\n")
    outside = write_identification(people, dest=tmp_path).dest
    assert (outside / "train.tsv").read_text().startswith(f"{people / 'store'}\n")


def test_manifests_of_an_earlier_call_do_not_stay(people, tmp_path):
    folder = write_identification(people, dest=tmp_path).dest
    assert set(read(folder)) == set(NAMES)
    write_identification(people, dest=tmp_path, test_fraction=0.0)
    assert set(read(folder)) == {"train", "valid_gallery", "valid_probe"}


def test_duplicates_that_a_store_has_in_no_split_are_left_out(tmp_path):
    entries = []
    for p, seed in ((0, 0), (0, 1), (1, 0), (1, 2), (2, 3), (2, 4)):
        name = f"p{p}-{seed}"
        write_record(tmp_path / "wfdb", name, make_adu(seed))
        entries.append(RecordEntry(name, name, f"p{p}", "valid" if p else "train"))
    build_store(entries, tmp_path / "wfdb", tmp_path, BuildOptions())
    assert "" in Store(tmp_path / "store").index["split"].tolist()
    rows = read(write_identification(tmp_path, keep_splits=True).dest)
    assert "p1-0" not in {record for found in rows.values() for record, _ in found}
    assert [record for record, _ in rows["valid_gallery"]] == ["p2-3"]


# --- segment files of fairseq-signals -------------------------------------------------------------


@pytest.fixture
def segments(tmp_path):
    """Ten patients with two files each, patient_id inside, in three manifests."""
    splits = {"train": [], "valid": [], "test": []}
    for p in range(10):
        split = "valid" if p == 8 else "test" if p == 9 else "train"
        for i in range(2):
            write_mat(tmp_path / "mat" / f"{p}_{i}.mat", p, 0, 100, patient_id=p, idx=2 * p + i)
            splits[split].append((f"{p}_{i}.mat", 100))
    for split, rows in splits.items():
        write_manifest(tmp_path / f"{split}.tsv", "mat", rows[::-1])
    return tmp_path


def test_patients_of_segment_files_are_those_inside_them(segments):
    rows = read(write_identification(segments, valid_fraction=0.2).dest)
    for split in ("valid", "test"):
        for gallery, probe in zip(rows[f"{split}_gallery"], rows[f"{split}_probe"], strict=True):
            assert gallery[0] == probe[0].replace("_1", "_0")
    assert len(rows["train"]) == 14
    assert [label for _, label in rows["train"]] == np.repeat(range(7), 2).tolist()


def test_their_manifests_are_their_splits_and_idx_is_the_recording(segments):
    report = write_identification(segments, keep_splits=True, records_as_patients=True)
    rows = read(report.dest)
    assert rows["valid_gallery"] == [("8_0.mat", 0)]
    assert rows["test_probe"] == [("9_1.mat", 0)]
    assert report.train_patients == 16


def test_numbers_of_patients_in_two_folders_of_files_are_not_the_same_people(segments, people):
    report = write_identification(segments, people, segments / "dest")
    assert (report.train_patients, report.known_records) == (20, 0)
    other = write_identification(people, segments, segments / "other")
    assert (other.train_patients, other.known_records) == (10, 0)
    assert read_manifest(other.dest / "train.tsv").root == segments / "mat"


# --- refusals and the command ---------------------------------------------------------------------


def test_nobody_to_evaluate_or_to_train_on_is_refused(people, tmp_path):
    single = make_store(tmp_path / "single", [1] * 3)
    message = "there are 0 patients to evaluate and 3 recordings to train on.*0 of 3 patients"
    with pytest.raises(CorpusError, match=message):
        write_identification(single)
    double = make_store(tmp_path / "double", [2] * 3)
    with pytest.raises(CorpusError, match="3 patients to evaluate and 0 recordings to train on"):
        write_identification(double, valid_fraction=0.5, test_fraction=0.5)
    assert not (double / "identification").exists()
    with pytest.raises(CorpusError, match="must not be negative nor exceed 1"):
        write_identification(people, valid_fraction=0.9, test_fraction=0.9)


def test_a_patient_in_two_splits_is_named(segments):
    write_manifest(segments / "valid.tsv", "mat", [("8_0.mat", 100), ("3_1.mat", 100)])
    with pytest.raises(CorpusError, match="patient '3' is in train and in valid.*--keep-splits"):
        write_identification(segments, keep_splits=True)


def test_folders_that_are_none_are_refused(tmp_path, segments):
    with pytest.raises(CorpusError, match="holds neither a store nor manifests; give a folder"):
        write_identification(tmp_path / "mat")
    write_manifest(segments / "valid.tsv", "elsewhere", [("8_0.mat", 100)])
    with pytest.raises(CorpusError, match="have different roots"):
        write_identification(segments)


def test_the_command_writes_and_says_what(people, tmp_path, capsys):
    arguments = ["identification", str(people), "--dest", str(tmp_path), "--valid-fraction", "0.25"]
    assert main([*arguments, "--test-fraction", "0.25", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "of 12 patients" in printed
    assert "valid: 4 patients, test: 4 patients" in printed
    assert "further recordings of evaluated patients are not used" in printed
    assert "not trained on" not in printed
    assert len(read(tmp_path / "identification")["test_probe"]) == 4
    assert main(["identification", str(tmp_path / "nothing")]) == 2
    assert "holds neither a store nor manifests" in capsys.readouterr().err


def test_ptb_xl_gives_the_patients_with_two_recordings(shared, tmp_path):
    build_manifest("ptb-xl", shared / "data/ptb-xl", tmp_path)
    report = write_identification(tmp_path, valid_fraction=0.3, test_fraction=0.3)
    assert report.valid_patients == report.test_patients == 5  # of 17
    assert report.train_patients == 238 - 10
