"""Nested MATLAB variables against scipy, with memory that follows what is kept."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from fairseq_ecg.data.mat_tree import read_mat_tree
from fairseq_ecg.data.record_file import RecordError
from tests.data.test_mat_reader import (
    MEGABYTE,
    compressed_file,
    element,
    matrix_header,
    plain_file,
)
from tests.trials import cell

TREE = {
    "rate": 256,
    "name": "a text",
    "films": cell([np.arange(6.0).reshape(2, 3), np.ones((1, 4), np.float32), "words"]),
    "nested": {"deep": {"deeper": np.arange(300, dtype=np.int16).reshape(100, 3)}},
    "nothing": np.zeros((0, 0)),
    "EEG": {"stimuli": np.zeros((5000, 14))},
}


@pytest.fixture(params=[True, False])
def path(tmp_path, request):
    path = tmp_path / "tree.mat"
    scipy.io.savemat(path, {"other": 1, "TREE": TREE}, do_compression=request.param)
    return path


def test_a_tree_is_read_as_it_was_written(path):
    tree = read_mat_tree(path, "TREE")
    assert list(tree) == list(TREE)
    assert tree["name"] == "a text"
    assert tree["rate"].tolist() == [[256]]
    np.testing.assert_array_equal(tree["films"][0], TREE["films"][0, 0])
    assert tree["films"][1].tolist() == [[1, 1, 1, 1]]
    assert tree["films"][2] == "words"
    deeper = tree["nested"]["deep"]["deeper"]
    assert deeper.dtype == np.int16
    np.testing.assert_array_equal(deeper, TREE["nested"]["deep"]["deeper"])
    assert tree["nothing"].size == 0


def test_fields_are_passed_over_at_any_depth(path):
    tree = read_mat_tree(path, "TREE", skip=("EEG", "deeper"))
    assert "EEG" not in tree
    assert tree["nested"] == {"deep": {}}
    np.testing.assert_array_equal(tree["films"][0], TREE["films"][0, 0])


def test_an_array_of_structs_is_a_list(tmp_path):
    people = np.zeros((1, 2), dtype=[("age", object), ("sex", object)])
    people["age"][0], people["sex"][0] = [31, 42], ["f", "m"]
    scipy.io.savemat(tmp_path / "a.mat", {"people": people})
    found = read_mat_tree(tmp_path / "a.mat", "people")
    assert [(one["age"].item(), one["sex"]) for one in found] == [(31, "f"), (42, "m")]


def test_cells_run_down_the_columns(tmp_path):
    cells = np.empty((2, 2), dtype=object)
    cells[:] = [[1, 2], [3, 4]]
    scipy.io.savemat(tmp_path / "a.mat", {"cells": cells})
    assert [c.item() for c in read_mat_tree(tmp_path / "a.mat", "cells")] == [1, 3, 2, 4]


def test_a_surplus_behind_the_variable_is_not_looked_at(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": cell([np.arange(9.0)])}, do_compression=True)
    content = (tmp_path / "a.mat").read_bytes()
    body = zlib.decompress(content[136:])
    longer = zlib.compress(body + b"\1" * 50)
    tag = struct.pack("<II", 15, len(longer))
    (tmp_path / "a.mat").write_bytes(content[:128] + tag + longer)
    with pytest.raises(ValueError, match="Did not fully consume"):
        scipy.io.loadmat(tmp_path / "a.mat")
    np.testing.assert_array_equal(read_mat_tree(tmp_path / "a.mat", "x")[0][0], np.arange(9.0))


def test_what_is_passed_over_costs_no_memory(tmp_path):
    big = {"EEG": np.zeros((MEGABYTE, 8)), "ECG": np.ones((10, 2))}
    scipy.io.savemat(tmp_path / "a.mat", {"x": big}, do_compression=True)
    tracemalloc.start()
    tree = read_mat_tree(tmp_path / "a.mat", "x", skip=("EEG",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tree["ECG"].shape == (10, 2)
    assert peak < 8 * MEGABYTE


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    path = compressed_file(
        tmp_path / "a.mat",
        matrix_header(b"x", dims=(1, 64 * MEGABYTE)) + struct.pack("<II", 9, 512 * MEGABYTE),
        512 * MEGABYTE,
    )
    tracemalloc.start()
    with pytest.raises(RecordError, match="exceeds the memory allowed") as error:
        read_mat_tree(path, "x", max_bytes=16 * MEGABYTE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.value.reason == "too_large"
    assert peak < 8 * MEGABYTE


@pytest.mark.parametrize(
    "value", [1 + 2j, scipy.sparse.eye(3).tocsc(), {"inside": cell([np.array([1j])])}]
)
def test_other_classes_are_refused(tmp_path, value):
    scipy.io.savemat(tmp_path / "a.mat", {"x": value})
    with pytest.raises(RecordError, match="must hold real numbers or text") as error:
        read_mat_tree(tmp_path / "a.mat", "x")
    assert error.value.reason == "unsupported_mat"


def test_a_missing_variable_names_those_there(path):
    with pytest.raises(RecordError, match="must hold 'DREAMER', but holds TREE, other"):
        read_mat_tree(path, "DREAMER")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_file_that_is_cut_short_is_refused(path, share, tmp_path):
    content = path.read_bytes()
    cut = tmp_path / "cut.mat"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RecordError):
        read_mat_tree(cut, "TREE")


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (matrix_header(b"x", mclass=1, dims=(1, 2_000_000)), "members of x .* more than 1000000"),
        (
            matrix_header(b"x", mclass=1, dims=(1, 2))
            + 2 * element(14, matrix_header(b"", 1, (600_000, 1)) + 600_000 * element(14, b"")),
            r"600000 members of x\{2\} it has more than 1000000",
        ),
        (
            matrix_header(b"x", mclass=2, dims=(2**30, 2**30))
            + element(5, struct.pack("<i", 8))
            + element(1, b""),
            "members of x it has more than 1000000",
        ),
        (matrix_header(b"x", mclass=1, dims=(1, 1)) + element(9, bytes(8)), "element of type 14"),
        (matrix_header(b"x", dims=(1, 2)) + element(9, bytes(8)), "must have 2 numbers of 8 bytes"),
        (matrix_header(b"x", dims=(1, 1)) + element(99, bytes(8)), "stored as type 99"),
        (matrix_header(b"x", mclass=1, dims=(1, 1)), "ends 8 bytes early"),
    ],
)
def test_contradictions_inside_are_named(tmp_path, body, match):
    with pytest.raises(RecordError, match=match):
        read_mat_tree(plain_file(tmp_path / "a.mat", body), "x")


def test_nesting_without_end_is_refused(tmp_path):
    body = b""
    for _ in range(20):
        body = matrix_header(b"x", mclass=1, dims=(1, 1)) + (element(14, body) if body else b"")
    with pytest.raises(RecordError, match="nested more than 12 levels"):
        read_mat_tree(plain_file(tmp_path / "a.mat", body), "x")
