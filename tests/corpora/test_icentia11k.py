"""Icentia11k: who is in which part, whatever a copy holds."""

import pytest

from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora.icentia11k import Icentia11k, find_patients
from tests.holter import segment_path, write_patients


def splits_of(root, **options):
    return {entry.path: entry.split for entry in Icentia11k(**options).entries(root)}


def test_the_division_is_the_published_one():
    valid, order = Icentia11k().division()
    assert sorted(valid)[:8] == [8, 29, 51, 53, 123, 150, 195, 230]
    assert order[:6] == [4565, 2915, 10536, 2163, 7548, 7027]
    assert len(valid) == 550
    assert sorted([*valid, *order]) == list(range(11000))
    assert Icentia11k(seed=1).division()[1][:6] != order[:6]


def test_parts_of_the_training_set_are_nested_and_of_the_stated_sizes():
    corpus = Icentia11k(subsets="100, 1,50,10,20")
    parts = corpus.parts_of_train()
    assert {name: len(part) for name, part in parts.items()} == {
        **{"train_001": 105, "train_010": 1045, "train_020": 2090},
        **{"train_050": 5225, "train_100": 10450},
    }
    ordered = [set(part) for part in parts.values()]
    assert all(small < large for small, large in zip(ordered, ordered[1:], strict=False))
    assert ordered[0] == {str(id) for id in corpus.division()[1][:105]}


def test_a_share_of_the_patients_is_the_same_in_every_copy(tmp_path):
    _, order = Icentia11k().division()
    inside, outside = order[:3], order[1045:1048]
    write_patients(tmp_path, [*inside, *outside, 8, 29], segments=1, seconds=2)
    assert splits_of(tmp_path, patients=0.1) == {
        **{segment_path(id, 0): "train" for id in inside},
        **{segment_path(id, 0): "valid" for id in (8, 29)},
    }
    assert len(splits_of(tmp_path)) == 8


def test_a_small_copy_has_validation_patients_too(tmp_path):
    write_patients(tmp_path, 5, segments=1, seconds=2)
    splits = splits_of(tmp_path)
    assert sorted(splits.values()) == ["train"] * 4 + ["valid"]
    assert set(splits_of(tmp_path, valid_patients=0).values()) == {"train"}
    order = Icentia11k()._validation_order()
    first = min(range(5), key=order.index)
    assert splits[segment_path(first, 0)] == "valid"


@pytest.mark.parametrize("patient", [0, 8])
def test_one_patient_alone_is_in_train(tmp_path, patient):
    write_patients(tmp_path, [patient], seconds=2)
    assert set(splits_of(tmp_path).values()) == {"train"}


def test_segments_are_in_the_order_of_patients(tmp_path):
    write_patients(tmp_path, [10999, 1000, 3], segments=2, seconds=2)
    paths = [entry.path for entry in Icentia11k(valid_patients=0).entries(tmp_path)]
    assert paths == [segment_path(id, i) for id in (3, 1000, 10999) for i in (0, 1)]


def test_folders_of_other_names_are_none_of_it(tmp_path):
    write_patients(tmp_path, [3], seconds=2)
    for name in ("p00/p01000", "p00/notes", "p11/p11000", "x/p00004"):
        (tmp_path / name).mkdir(parents=True)
    assert list(find_patients(tmp_path)) == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": 0}, "above 0, at most 1"),
        ({"patients": 1.5}, "above 0, at most 1"),
        ({"patients": 0.0005}, "in steps of 0.001"),
        ({"valid_patients": 11000}, "whole number below 11000"),
        ({"valid_patients": -1}, "whole number below 11000"),
        ({"valid_patients": 1.5}, "whole number below 11000"),
        ({"subsets": "0"}, "whole numbers from 1 to 100"),
        ({"subsets": "5,x"}, "but is '5,x'"),
        ({"subsets": "50", "patients": 0.1}, "has 50 percent, but --patients 0.1"),
        ({"patients": 0.001, "valid_patients": 0}, "none is in valid or among the first 0.001"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, message):
    write_patients(tmp_path, 1, segments=1, seconds=2)
    with pytest.raises(CorpusError, match=message):
        splits_of(tmp_path, **options)


def test_another_folder_is_refused(tmp_path):
    write_patients(tmp_path, 1, segments=1, seconds=2)
    with pytest.raises(CorpusError, match="the folder that holds p00 to p10"):
        splits_of(tmp_path / "p00")


def test_the_real_segment(shared, tmp_path):
    report = build_manifest(
        "icentia11k", shared / "data/icentia11k-continuous-ecg", tmp_path / "out"
    )
    summary = report.summary
    assert summary["beats"]["normal"] == 6641
    assert summary["beats"]["undefined"] == 244
    assert summary["manifests"]["train"] == {"records": 1, "patients": 1}
    assert summary["source"] == {
        **{"patients_in_folder": 1, "patients_absent": 10999, "moved_to_valid": []}
    }
    assert summary["rhythm_hours"]["normal"] == pytest.approx(1.1271, abs=1e-4)
