"""The tables of a folder that fairseq-signals preprocessed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from fairseq_ecg.data.atomic import write_text

META_FILE, META_SPLIT_FILE = "meta.csv", "meta_split.csv"
SEGMENTED_FILE, SEGMENTED_SPLIT_FILE = "segmented.csv", "segmented_split.csv"


def read_table(path: Path, columns: Iterable[str], error: type[ValueError]) -> pd.DataFrame:
    """Read a table with a line of column names, separated by commas; every cell is text.

    Args:
        path: The file.
        columns: Columns that must be there.
        error: What to raise.

    Raises:
        ValueError: ``error``, if the file cannot be read as a table or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be read as a table: {reason}") from reason
    for column in columns:
        if column not in table.columns:
            raise error(
                f"{path} has no column {column!r}; it has: {', '.join(map(str, table.columns))}"
            )
    return table


def write_table(path: Path, table: pd.DataFrame, index: bool) -> None:
    """Write a table as ``read_table`` reads it, whole or not at all.

    Args:
        path: The file; its folder is made if absent.
        table: What to write.
        index: Whether the index is the first column, without a name.
    """
    write_text(path, table.to_csv(index=index, lineterminator="\n"))
