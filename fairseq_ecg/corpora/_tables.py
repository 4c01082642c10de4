"""Reading the tables that list the recordings of a corpus."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fairseq_ecg.corpora._base import CorpusError


def read_table(
    path: Path, columns: Sequence[str], corpus: str, wanted: str
) -> list[tuple[int, dict[str, str]]]:
    """Read a table with a line of column names, separated by commas.

    Args:
        path: The file, in the folder of the corpus.
        columns: Columns that must be there.
        corpus: Whose table it is, for the error.
        wanted: What the right folder holds, for the error.

    Returns:
        Line number and cells of each row, at least one.

    Raises:
        CorpusError: If there is no such file, a column is missing, it has no rows, or a row is cut
            short.
    """
    if not path.is_file():
        raise CorpusError(
            f"{path.parent} is not the folder of {corpus}: it has no {path.name}; give the folder "
            f"that holds {wanted}"
        )
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        found = reader.fieldnames or ()
        rows = [(reader.line_num, row) for row in reader]
    missing = [name for name in columns if name not in found]
    if missing or not rows:
        raise CorpusError(
            f"{path} must have rows and the columns {', '.join(columns)}; "
            + (f"missing: {', '.join(missing)}" if missing else "it has no rows")
        )
    for line, row in rows:
        cut = [name for name in columns if row[name] is None]
        if cut:
            raise CorpusError(f"{path}, line {line}: the row is cut short before {cut[0]}")
    return rows


def whole_number(row: dict[str, str], column: str, path: Path, line: int) -> int:
    """Return a cell that holds a whole number, perhaps written as ``7.0``.

    Args:
        row: Cells by column.
        column: Which one.
        path: The table, for the error.
        line: Line number of the row, for the error.

    Raises:
        CorpusError: If it holds something else.
    """
    text = row[column].strip().removesuffix(".0")
    try:
        return int(text)
    except ValueError:
        raise CorpusError(
            f"{path}, line {line}: {column} must be a whole number, but is {row[column]!r}"
        ) from None


def whole_numbers(option: str, text: str, low: int, high: int | None = None) -> tuple[int, ...]:
    """Read an option that lists whole numbers, separated by commas.

    Args:
        option: Its name, for the error.
        text: As given; empty for none.
        low: Smallest number that has a meaning.
        high: Largest one; None for no limit.

    Raises:
        CorpusError: If something else is listed, or a number twice.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    numbers = tuple(int(word) for word in words if word.isascii() and word.isdecimal())
    inside = all(low <= number and (high is None or number <= high) for number in numbers)
    if len(numbers) != len(words) or len(set(numbers)) != len(numbers) or not inside:
        limits = f"from {low} on" if high is None else f"from {low} to {high}"
        raise CorpusError(
            f"{option} must be different whole numbers {limits}, separated by commas, but is "
            f"{text!r}"
        )
    return numbers
