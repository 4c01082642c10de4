"""Reading the tables that list the recordings of a corpus."""

import re

import pytest

from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._tables import read_table, whole_number, whole_numbers


def read(path, columns=("id", "age")):
    return read_table(path, columns, "TOY", "toy.csv and the recordings")


def test_rows_come_with_their_line_numbers_and_all_their_cells(tmp_path):
    path = tmp_path / "toy.csv"
    path.write_text('\ufeffid,age,note\n1,50,"two\nlines"\n2,60,\n', encoding="utf-8")
    assert read(path) == [
        (3, {"id": "1", "age": "50", "note": "two\nlines"}),
        (4, {"id": "2", "age": "60", "note": ""}),
    ]


def test_a_folder_without_the_table_is_not_the_corpus(tmp_path):
    message = f"{tmp_path} is not the folder of TOY: it has no toy.csv; give the folder that holds "
    with pytest.raises(CorpusError, match=re.escape(message + "toy.csv and the recordings")):
        read(tmp_path / "toy.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have rows and the columns id, age; missing: id, age"),
        ("id\n1\n", "missing: age"),
        ("id,age\n", "it has no rows"),
        ("id,age\n1,50\n2\n", "line 3: the row is cut short before age"),
    ],
)
def test_what_a_table_lacks_is_named(tmp_path, text, message):
    (tmp_path / "toy.csv").write_text(text)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path / "toy.csv")


@pytest.mark.parametrize(
    ("text", "number"), [("7", 7), (" 7.0 ", 7), ("-3", -3), ("9007199254740993", 2**53 + 1)]
)
def test_whole_numbers_are_read_exactly(tmp_path, text, number):
    assert whole_number({"id": text}, "id", tmp_path / "toy.csv", 2) == number


@pytest.mark.parametrize("text", ["", "7.5", "seven", "nan", "inf"])
def test_anything_else_is_refused_with_its_place(tmp_path, text):
    message = rf"toy.csv, line 2: id must be a whole number, but is {re.escape(repr(text))}"
    with pytest.raises(CorpusError, match=message):
        whole_number({"id": text}, "id", tmp_path / "toy.csv", 2)


def test_lists_of_whole_numbers_are_read_or_refused():
    assert whole_numbers("subsets", " 10, 25,50,", 1, 99) == (10, 25, 50)
    assert whole_numbers("subsets", "", 1, 99) == ()
    for text in ("10,10", "0", "100", "ten", "1.5", "-1"):
        with pytest.raises(CorpusError, match=r"subsets must be .* from 1 to 99, .* but is"):
            whole_numbers("subsets", text, 1, 99)
    with pytest.raises(CorpusError, match="from 0 on"):
        whole_numbers("split_seeds", "-1", 0)
