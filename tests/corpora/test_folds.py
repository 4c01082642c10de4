"""Stratified folds: shares of every label, the same for any order of the records."""

import numpy as np
import pytest

from fairseq_ecg.corpora._folds import split_of, stratified_folds

SHARES = {"AF": 0.18, "NORM": 0.13, "PAC": 0.09, "RBBB": 0.27, "STE": 0.03}


def draw(n_records, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"A{i:04d}": [name for name, share in SHARES.items() if rng.random() < share]
        for i in range(n_records)
    }


@pytest.mark.parametrize("n_records", [200, 1000, 2003])
@pytest.mark.parametrize("seed", [0, 7])
def test_each_fold_has_its_share_of_records_and_of_every_label(n_records, seed):
    labels = draw(n_records)
    folds = stratified_folds(labels, seed)
    assert folds.keys() == labels.keys()
    sizes = np.bincount(list(folds.values()), minlength=11)[1:]
    assert sizes.max() - sizes.min() <= 2
    for name in SHARES:
        counts = np.zeros(10)
        for record, found in labels.items():
            counts[folds[record] - 1] += name in found
        assert np.abs(counts - counts.mean()).max() <= 2.0, name


def test_the_folds_of_a_random_division_are_far_less_even():
    labels = draw(1000)
    folds = np.random.default_rng(0).integers(1, 11, 1000)
    counts = np.bincount(folds[["AF" in found for found in labels.values()]], minlength=11)[1:]
    assert np.abs(counts - counts.mean()).max() > 4


def test_the_order_of_records_and_of_their_labels_plays_no_part_but_the_seed_does():
    labels = draw(300)
    folds = stratified_folds(labels, 3)
    backwards = {record: labels[record][::-1] for record in reversed(labels)}
    assert stratified_folds(backwards, 3) == folds
    assert stratified_folds(labels, 4) != folds


@pytest.mark.parametrize("n_records", [0, 1, 2, 3, 6, 9])
def test_few_records_fill_the_folds_that_are_held_out_first(n_records):
    folds = stratified_folds({f"r{i}": [] for i in range(n_records)}, 0)
    assert sorted(folds.values(), reverse=True) == list(range(10, 10 - n_records, -1))


def test_a_record_with_a_rare_and_a_common_label_counts_for_both():
    labels = {f"r{i}": ["common"] for i in range(18)} | {
        f"s{i}": ["common", "rare"] for i in (1, 2)
    }
    folds = stratified_folds(labels, 0, n_folds=2)
    assert folds["s1"] != folds["s2"]
    assert sorted(folds.values()) == [1] * 10 + [2] * 10


def test_folds_one_to_eight_are_trained_on():
    assert [split_of(fold) for fold in range(1, 11)] == ["train"] * 8 + ["valid", "test"]
