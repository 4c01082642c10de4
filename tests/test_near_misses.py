"""The closest known names, for errors about an unknown one."""

import pytest

from fairseq_ecg._near_misses import did_you_mean, near_misses

KNOWN = {"batch_size": 1, "batch_size_valid": 2, "num_workers": 3, 8: 4}


def test_the_closest_name_comes_first_and_far_ones_are_left_out():
    assert near_misses("batch_sise", KNOWN) == ["batch_size", "batch_size_valid"]
    assert near_misses("momentum", KNOWN) == []


def test_no_more_than_three_are_named():
    assert len(near_misses("lead", [f"lead_{i}" for i in range(9)])) == 3


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_worker", "; did you mean num_workers?"),
        ("batch_sise", "; did you mean batch_size or batch_size_valid?"),
        (8, "; did you mean 8?"),
        (None, ""),
        ("", ""),
    ],
)
def test_the_hint_continues_a_sentence_and_is_empty_without_near_misses(name, hint):
    assert did_you_mean(name, KNOWN) == hint
