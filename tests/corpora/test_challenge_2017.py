"""CinC 2017: sizes of the divisions, what is the same in all of them, and folders with faults."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import scipy.io

from fairseq_ecg.cli.main import main
from fairseq_ecg.corpora._base import SPLITS, CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora.challenge_2017 import CLASSES, Challenge2017, read_reference
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.manifest import read_manifest
from tests.builds import make_adu, write_record
from tests.challenge import reference_of, write_corpus, write_reference

# As PhysioNet's page of the challenge counts them, version 3, and as an earlier table does.
COUNTS = [
    {"A": 758, "N": 5076, "O": 2415, "~": 279},
    {"A": 738, "N": 5050, "O": 2456, "~": 284},
]


def members(label_set):
    return {
        split: {record for record, where in label_set.splits.items() if where == split}
        for split in SPLITS
    }


# --- divisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", COUNTS)
def test_the_whole_data_set_is_divided_as_published(counts, tmp_path):
    reference = reference_of(counts)
    write_reference(tmp_path / "REFERENCE-v3.csv", reference)
    sets = Challenge2017().label_sets(tmp_path)
    seeds = [f"af_s{seed:03d}" for seed in range(10, 101, 10)]
    assert list(sets) == ["af", *seeds]
    assert sets["af"] is sets["af_s010"]
    for label_set in sets.values():
        parts = members(label_set)
        assert [len(parts[split]) for split in SPLITS] == [6395, 427, 1706]
        for part in parts.values():
            found = Counter(reference[record] for record in part)
            for name, count in counts.items():
                assert abs(found[name] - len(part) * count / 8528) < 2
    tests = {frozenset(members(label_set)["test"]) for label_set in sets.values()}
    valids = {frozenset(members(label_set)["valid"]) for label_set in sets.values()}
    assert (len(tests), len(valids)) == (1, 10)


def test_smaller_training_sets_are_nested_and_stratified(tmp_path):
    reference = reference_of(COUNTS[0])
    write_reference(tmp_path / "REFERENCE-v3.csv", reference)
    for label_set in Challenge2017(split_seeds="10,20").label_sets(tmp_path).values():
        subsets = label_set.subsets
        assert {name: len(part) for name, part in subsets.items()} == {
            "train_010": 640, "train_025": 1599, "train_050": 3198, "train_075": 4797,
        }  # fmt: skip
        sets = [*subsets.values(), members(label_set)["train"]]
        assert all(small < large for small, large in zip(sets, sets[1:], strict=False))
        for part in subsets.values():
            found = Counter(reference[record] for record in part)
            for name, count in COUNTS[0].items():
                assert abs(found[name] - len(part) * count / 8528) < 2


def test_the_order_of_the_table_plays_no_part_and_the_seeds_do(tmp_path):
    reference = reference_of({"A": 20, "N": 60, "O": 30, "~": 10})
    write_reference(tmp_path / "one" / "REFERENCE-v3.csv", reference)
    backwards = dict(reversed(reference.items()))
    write_reference(tmp_path / "two" / "REFERENCE-v3.csv", backwards)
    one, two = (Challenge2017().label_sets(tmp_path / name) for name in ("one", "two"))
    assert [(s.splits, s.subsets) for s in one.values()] == [
        (s.splits, s.subsets) for s in two.values()
    ]
    other = Challenge2017(seed=43).label_sets(tmp_path / "one")["af"]
    assert members(other)["test"] != members(one["af"])["test"]


# --- a build --------------------------------------------------------------------------------------


def test_the_real_recordings_become_a_store_and_label_sets(shared, tmp_path):
    root = shared / "data" / "challenge-2017"
    built = build_manifest(
        "challenge-2017", root, tmp_path, corpus_options={"split_seeds": "10,20"}
    )
    assert (built.store.rate_hz, built.store.unit, len(built.store)) == (250, "mV", 801)
    assert built.ledger == []
    facts = built.summary["label_sets"]["af"]
    assert facts["counts"] == {"A": 200, "N": 267, "O": 220, "~": 114}
    assert facts["splits"] == {"train": 600, "valid": 40, "test": 161}
    assert facts["subsets"]["train_010"] == 60
    table = root / "REFERENCE-v3.csv"
    assert built.summary["source"] == {
        "reference": "REFERENCE-v3.csv",
        "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
        "records": 801,
        "counts": facts["counts"],
        "records_labelled_differently": {"training2017/REFERENCE.csv": 0},
    }
    reference = read_reference(table)
    for name in ("af", "af_s010", "af_s020"):
        found = {}
        for split in SPLITS:
            manifest = read_manifest(tmp_path / name / f"{split}.tsv")
            found |= dict(zip(manifest.paths, manifest.labels, strict=True))
        assert found == reference
    tests = {(tmp_path / name / "test.tsv").read_bytes() for name in ("af", "af_s010", "af_s020")}
    assert len(tests) == 1
    small = read_manifest(tmp_path / "af_s020" / "train_010.tsv").paths
    assert set(small) < set(read_manifest(tmp_path / "af_s020" / "train.tsv").paths)


def test_the_only_lead_is_taken_for_lead_i_in_millivolts(shared, tmp_path):
    root = shared / "data" / "challenge-2017"
    built = build_manifest("challenge-2017", root, tmp_path, rate_hz=300.0)
    record = "A00001"
    original = scipy.io.loadmat(root / "training2017" / f"{record}.mat")["val"][0] / 1000
    values = built.store.read(built.store.row_of(record))
    np.testing.assert_allclose(values[0], original, atol=1e-6)
    assert not values[1:].any()


def test_a_record_without_its_samples_changes_nobody_elses_place(tmp_path):
    reference = reference_of({"A": 8, "N": 20, "O": 10, "~": 6})
    whole = write_corpus(tmp_path / "whole", reference)
    lost = sorted(reference)[7]
    part = write_corpus(tmp_path / "part", reference, missing=(lost,))
    options = {"split_seeds": "1,2", "subsets": "50"}
    for root in (whole, part):
        build_manifest(
            "challenge-2017", root, tmp_path / f"{root.name}_out", corpus_options=options
        )
    for path in sorted((tmp_path / "whole_out").glob("af*/*.tsv")):
        kept = [line for line in path.read_text().splitlines() if not line.startswith(lost)]
        other = tmp_path / "part_out" / path.parent.name / path.name
        assert other.read_text().splitlines() == kept, path
    (row,) = read_ledger(tmp_path / "part_out" / "ledger.csv")
    assert (row.record, row.reason, row.action) == (lost, "missing_file", "excluded")


def test_a_record_without_a_label_is_in_no_label_set_and_in_the_ledger(tmp_path):
    reference = reference_of({"A": 8, "N": 20, "O": 10, "~": 6})
    root = write_corpus(tmp_path / "ecg", reference)
    write_record(root / "training2017", "A09999", make_adu(99, 1, 600), 300, ("ECG",))
    built = build_manifest("challenge-2017", root, tmp_path / "out")
    (row,) = built.ledger
    assert (row.record, row.reason, row.action) == ("A09999", "no_label", "kept")
    assert "A09999" in read_manifest(tmp_path / "out" / "train.tsv").paths
    for path in (tmp_path / "out").glob("af*/*.tsv"):
        assert "A09999" not in path.read_text()
    assert built.summary["label_sets"]["af"]["records_without_label"] == 1


@pytest.mark.parametrize(("policy", "count"), [("one_split", 43), ("keep", 44)])
def test_twins_of_two_splits_are_told_apart_in_each_division(tmp_path, policy, count):
    reference = reference_of({"A": 8, "N": 20, "O": 10, "~": 6})
    root = write_corpus(tmp_path / "ecg", reference)
    sets = Challenge2017(split_seeds="1,2").label_sets(root)
    one, two = (sets[f"af_s{seed:03d}"].splits for seed in (1, 2))
    first, second = next(
        (a, b)
        for a in sorted(reference)
        for b in sorted(reference)
        if a < b and one[a] == one[b] and two[a] != two[b]
    )
    folder = root / "training2017"
    (folder / f"{second}.dat").write_bytes((folder / f"{first}.dat").read_bytes())
    header = (folder / f"{first}.hea").read_text()
    (folder / f"{second}.hea").write_text(header.replace(first, second))
    built = build_manifest(
        "challenge-2017",
        root,
        tmp_path / "out",
        corpus_options={"split_seeds": "1,2"},
        duplicates=policy,
    )
    facts = built.summary["label_sets"]
    assert sum(facts["af_s001"]["splits"].values()) == 44
    assert sum(facts["af_s002"]["splits"].values()) == count


def test_overwriting_removes_the_smaller_training_sets_of_before(tmp_path):
    root = write_corpus(tmp_path / "ecg", reference_of({"A": 8, "N": 20, "O": 10, "~": 6}))
    out = tmp_path / "out"
    build_manifest(
        "challenge-2017", root, out, corpus_options={"split_seeds": "1,2", "subsets": "10,50"}
    )
    assert (out / "af_s002" / "train_010.tsv").is_file()
    options = {"split_seeds": "1", "subsets": "20"}
    build_manifest("challenge-2017", root, out, overwrite=True, corpus_options=options)
    assert sorted(path.name for path in out.glob("af*/train_*.tsv")) == ["train_020.tsv"] * 2
    assert not (out / "af_s002").exists()


# --- faults ---------------------------------------------------------------------------------------


def test_other_labels_and_a_missing_version_are_told(tmp_path, capsys):
    reference = reference_of({"A": 8, "N": 20, "O": 10, "~": 6})
    root = write_corpus(tmp_path / "ecg", reference)
    first = sorted(reference)[0]
    other = {**reference, first: "A" if reference[first] == "O" else "O"}
    write_reference(root / "training2017" / "REFERENCE.csv", other)
    out = ["--dest", str(tmp_path / "out"), "--split-seeds", "1"]
    assert main(["manifest", "challenge-2017", str(root), *out]) == 0
    text = capsys.readouterr().out
    assert "labels: REFERENCE-v3.csv (A 8, N 20, O 10, ~ 6), SHA-256" in text
    assert "training2017/REFERENCE.csv is not used; recordings with another label there: 1" in text
    label = read_manifest(tmp_path / "out" / "train.tsv")
    assert label.labels is None
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["source"]["records_labelled_differently"] == {"training2017/REFERENCE.csv": 1}

    (root / "training2017" / "REFERENCE.csv").write_text("what,is,this\n")
    (root / "REFERENCE-v3.csv").rename(root / "REFERENCE.csv")
    out = ["--dest", str(tmp_path / "v1"), "--split-seeds", "1"]
    assert main(["manifest", "challenge-2017", str(root), *out]) == 0
    text = capsys.readouterr().out
    assert "there is no REFERENCE-v3.csv" in text
    assert "training2017/REFERENCE.csv cannot be read and is not used" in text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("A00001,X\n", r"line 1: must be .* one of A, N, O, ~, .* but is 'A00001,X'"),
        ("A00001,N\nA00002\n", "line 2: must be a recording and one of"),
        ("A00001,N,1\n", "line 1: must be a recording"),
        (",N\n", "line 1: must be a recording"),
        ("A00001,N\n\nA00001,O\n", "line 3: A00001 is O, but N in another line; keep one"),
        ("\n", "lists no recordings"),
    ],
)
def test_a_table_with_a_fault_names_the_line(tmp_path, lines, message):
    path = tmp_path / "REFERENCE-v3.csv"
    path.write_text(lines)
    with pytest.raises(CorpusError, match=message):
        read_reference(path)


def test_spaces_blank_lines_and_foreign_line_ends_are_read(tmp_path):
    path = tmp_path / "REFERENCE.csv"
    path.write_bytes(b"\xef\xbb\xbfA00001, N\r\n\r\nA00002,~\r\nA00001,N\r\n")
    assert read_reference(path) == {"A00001": "N", "A00002": "~"}
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="no table of labels"):
        read_reference(path)


def test_other_folders_are_refused_with_what_was_expected(tmp_path):
    with pytest.raises(CorpusError, match=r"no REFERENCE-v3.csv or REFERENCE.csv; give the folder"):
        Challenge2017().entries(tmp_path)
    root = write_corpus(tmp_path / "ecg", {"A00001": "N", "A00002": "A"})
    write_reference(root / "REFERENCE-v3.csv", {"B1": "N"})
    with pytest.raises(CorpusError, match="holds none of the 1 recordings that REFERENCE-v3.csv"):
        Challenge2017().entries(root)
    write_record(root / "training2017" / "more", "A00001", make_adu(0, 1, 600), 300, ("ECG",))
    with pytest.raises(CorpusError, match="has A00001 twice: training2017/A00001 and"):
        Challenge2017().entries(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_seeds": ""}, "split_seeds must name one seed"),
        ({"split_seeds": "1,1"}, "split_seeds must be different whole numbers"),
        ({"subsets": "100"}, "subsets must be different whole numbers from 1 to 99"),
        ({"test_fraction": 1.0}, r"test_fraction must lie in \[0, 1\), but is 1.0"),
        ({"valid_fraction": -0.1}, "valid_fraction must lie"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path, options, message):
    write_reference(tmp_path / "REFERENCE.csv", {"A00001": "N"})
    with pytest.raises(CorpusError, match=message):
        Challenge2017(**options).label_sets(tmp_path)


def test_the_classes_are_in_alphabetical_order():
    assert tuple(sorted(CLASSES)) == CLASSES
