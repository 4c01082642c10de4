"""Beginnings of a stratified order: exact in size, nested, true to the shares of the classes."""

import hashlib
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from fairseq_ecg.corpora._stratified import (
    nested_subsets,
    share_of,
    stratified_order,
)

COUNTS = {"A": 738, "N": 5050, "O": 2456, "~": 284}


def drawn(counts, seed=0):
    classes = [name for name, count in counts.items() for _ in range(count)]
    shuffled = np.random.default_rng(seed).permutation(classes)
    return {f"r{i:05d}": str(name) for i, name in enumerate(shuffled)}


@pytest.mark.parametrize("counts", [COUNTS, {"a": 3, "b": 1, "c": 96}, {"a": 5, "b": 5}])
def test_every_beginning_has_of_each_class_its_share(counts):
    labels = drawn(counts)
    order = stratified_order(labels, "test:1")
    assert sorted(order) == sorted(labels)
    seen = Counter()
    for n, record in enumerate(order, start=1):
        seen[labels[record]] += 1
        for name, count in counts.items():
            assert abs(seen[name] - n * count / len(labels)) < 1.5, (n, name)


def test_the_order_of_the_table_plays_no_part_and_seeds_do():
    labels = drawn(COUNTS)
    order = stratified_order(labels, "test:1")
    backwards = dict(reversed(labels.items()))
    assert stratified_order(backwards, "test:1") == order
    assert stratified_order(labels, "test:2") != order
    assert stratified_order(labels, "valid:1") != order


def slow_order(labels, seed):
    """The rule word for word, in whole fractions."""
    places = []
    for name in set(labels.values()):
        found = [record for record in labels if labels[record] == name]
        hashes = {r: hashlib.sha256(f"{seed}:{r}".encode()).digest() for r in found}
        found.sort(key=hashes.get)
        for i, record in enumerate(found, start=1):
            places.append(((Fraction(i) - Fraction(1, 2)) / len(found), hashes[record], record))
    return [record for *_, record in sorted(places)]


@pytest.mark.parametrize("counts", [{"a": 1}, {"a": 4, "b": 2, "c": 6}, {"a": 17, "b": 30, "c": 5}])
def test_the_order_is_that_of_the_rule(counts):
    labels = drawn(counts)
    assert stratified_order(labels, "valid:7") == slow_order(labels, "valid:7")


def test_the_order_is_the_same_for_ever():
    """Test sets of published numbers hang on it."""
    labels = {f"A{i:05d}": "NNNAO~"[i % 6] for i in range(1, 13)}
    found = [int(record[1:]) for record in stratified_order(labels, "test:42")]
    assert found == [1, 4, 6, 9, 11, 12, 8, 10, 3, 7, 5, 2]


def test_a_record_more_changes_few_places_of_the_others():
    labels = drawn(COUNTS)
    before = set(share_of(0.2, stratified_order(labels, "test:1")))
    after = set(share_of(0.2, stratified_order({**labels, "new": "N"}, "test:1")))
    assert len(before ^ after) <= 3


@pytest.mark.parametrize(
    ("fraction", "n", "count"),
    [(0.2, 8528, 1706), (0.0625, 6822, 427), (0.1, 30, 3), (0.1, 31, 4), (0.7, 10, 7), (0, 5, 0),
     (0.29, 100, 29), (Fraction(1, 3), 9, 3)],
)  # fmt: skip
def test_a_share_is_rounded_up_of_the_number_as_it_is_written(fraction, n, count):
    assert share_of(fraction, list(range(n))) == list(range(count))


def test_smaller_training_sets_are_nested_and_named_by_their_percent():
    train = drawn(COUNTS)
    subsets = nested_subsets(train, (1, 10, 25, 99), "subset:1")
    assert list(subsets) == ["train_001", "train_010", "train_025", "train_099"]
    assert [len(found) for found in subsets.values()] == [86, 853, 2132, 8443]
    sets = list(subsets.values())
    assert all(small < large for small, large in zip(sets, sets[1:], strict=False))
