"""Label arrays of fairseq-signals: ``y.npy``, and ``label_def.csv`` that names its columns."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

LABEL_ARRAY_FILE = "y.npy"
LABEL_DEFINITION_FILE = "label_def.csv"


class LabelArrayError(ValueError):
    """A label array, or the table of its names, that cannot be used."""


def read_label_array(path: str | Path) -> tuple[np.ndarray, list[str] | None]:
    """Read a label array and, if they stand beside it, the names of its classes.

    Args:
        path: An ``.npy`` file, [N, K], row i for the segments with ``idx`` i.

    Returns:
        The labels, float32 [N, K], and the K names of the column ``name`` in the ``label_def.csv``
        of the same folder; None if there is no such file.

    Raises:
        LabelArrayError: If a file cannot be read, or the names do not fit the columns.
    """
    path = Path(path)
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LabelArrayError(
            f"{path} cannot be read as an array of labels; objects are never unpickled: save "
            f"numbers (y.astype('float32')). numpy says: {error}"
        ) from error
    if labels.ndim != 2 or labels.dtype.kind not in "fiub":
        raise LabelArrayError(
            f"{path} must be an array [N, K], but has numbers of type {labels.dtype} and the shape "
            f"{labels.shape}" + ("; for one class save y[:, None]" if labels.ndim == 1 else "")
        )
    definition = path.parent / LABEL_DEFINITION_FILE
    names = read_label_names(definition) if definition.is_file() else None
    if names is not None and len(names) != labels.shape[1]:
        raise LabelArrayError(
            f"{definition} names {len(names)} classes, but {path} has {labels.shape[1]} columns; "
            "keep the two files of one run together"
        )
    return labels.astype(np.float32), names


def read_label_names(path: str | Path) -> list[str]:
    """Read the class names of a ``label_def.csv``, in column order.

    Args:
        path: The file.

    Raises:
        LabelArrayError: If it has no column ``name``, no rows, or a name twice.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelArrayError(f"{path} cannot be read: {error}") from error
    columns = list(reader.fieldnames or ())
    if "name" not in columns or not rows:
        raise LabelArrayError(
            f"{path} must have a column name and one row per class, but has "
            f"{len(rows)} rows of the columns {', '.join(columns) or 'none'}"
        )
    names = [(row["name"] or "").strip() for row in rows]
    repeated = sorted({name for name in names if names.count(name) > 1 or not name})
    if repeated:
        raise LabelArrayError(f"{path}: name {repeated[0]!r} must not be empty nor occur twice")
    return names
