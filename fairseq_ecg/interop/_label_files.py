"""The folder ``labels`` of fairseq-signals: which recording has which class, and how many have."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fairseq_ecg.data.atomic import replacing, write_text
from fairseq_ecg.data.label_arrays import LABEL_ARRAY_FILE, LABEL_DEFINITION_FILE
from fairseq_ecg.interop._tables import write_table

POSITIVE_WEIGHT_FILE = "pos_weight.txt"


def write_labels(
    folder: Path, labels: pd.DataFrame, members: Mapping[str, Sequence[int]] | None = None
) -> None:
    """Write ``labels.csv``, ``y.npy`` and ``label_def.csv``.

    With splits, ``label_def.csv`` counts each of them too, and ``pos_weight.txt`` has what
    ``criterion.pos_weight`` takes: negatives per positive of each class in ``train``. A class
    without a positive there has 1, which multiplies nothing, in place of the infinity of
    ``label_def.csv``, with which no loss can be computed.

    Args:
        folder: Where.
        labels: bool, [N, K]; the index is the number of each recording, the columns are classes.
        members: Numbers of the recordings in each split.
    """
    numbers = labels.index.to_numpy()
    table = labels.reset_index(drop=True)
    table.insert(0, "idx", numbers)
    write_table(folder / "labels.csv", table, index=False)
    array = np.zeros((numbers.max() + 1, labels.shape[1]))
    array[numbers] = labels.to_numpy()
    content = io.BytesIO()
    np.save(content, array)
    with replacing(folder / LABEL_ARRAY_FILE) as file:
        file.write(content.getvalue())
    definition = pd.DataFrame({"name": labels.columns})
    for split, chosen in (members or {}).items():
        if len(chosen):
            share = _count(definition, split, labels.loc[chosen])
            with np.errstate(divide="ignore"):
                definition[f"pos_weight_{split}"] = (1 - share) / share
    _count(definition, "all", labels)
    write_table(folder / LABEL_DEFINITION_FILE, definition, index=False)
    if "pos_weight_train" in definition:
        weights = definition["pos_weight_train"].replace(np.inf, 1.0)
        text = ",".join(f"{weight:.6f}" for weight in weights)
        write_text(folder / POSITIVE_WEIGHT_FILE, f"[{text}]\n")


def _count(definition: pd.DataFrame, split: str, labels: pd.DataFrame) -> np.ndarray:
    """Add how many recordings have each class, and return their share, [K]."""
    counts = labels.sum().to_numpy()
    definition[f"pos_count_{split}"] = counts
    definition[f"pos_percent_{split}"] = counts / len(labels)
    return counts / len(labels)
