"""The folder that embeddings are written to, part by part, and read from.

A folder of embeddings::

    extraction.json           of which encoder, of which recordings, how; whether it is complete
    parts/part-00000.parquet  embeddings of some recordings, one row per recording or per frame
    embeddings.npy            in place of the parts, if that was asked for: float32 [N, D],
    index.parquet             and what each of its rows is

A part is written under a temporary name and renamed, so that it is whole or absent: a run that was
killed goes on at the first part that is missing. A folder of another encoder, of other recordings
or of other options is refused, never mixed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.data.atomic import TEMPORARY_SUFFIX, replacing

ABOUT_FILE = "extraction.json"
PARTS_FOLDER = "parts"
VALUES_FILE = "embeddings.npy"
INDEX_FILE = "index.parquet"
VERSION = 1

_COLUMNS = {
    "record": [("windows", pa.int32())],
    "frame": [("window", pa.int32()), ("frame", pa.int32()), ("time_s", pa.float64())],
}
_REASONS = {
    "checkpoint_sha256": "another checkpoint",
    "random_init": "an encoder with other random weights",
    "contract": "an encoder that expects other input",
    "data": "other recordings",
    "leads": "other leads",
    "per": "another unit",
    "format": "another format",
    "windows_of_a_part": "parts of another size",
}
_SHORT = ("random_init", "leads", "per", "format", "windows_of_a_part")


class EmbeddingError(ValueError):
    """Embeddings cannot be made or read as asked; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors and what each of them is of.

    Args:
        table: One row per vector: ``record``, ``patient``, ``split``; ``fingerprint``, a number of
            the recording's content (0: not known); ``seen``, whether the network was trained or
            pretrained on it; and how many ``windows`` it is the mean of, or of a frame its
            ``window`` and ``frame`` within it, from 0 on, and ``time_s``, where in the recording it
            begins.
        values: float32 [N, D].
        about: Content of ``extraction.json``; empty if they are in no folder.
    """

    table: pd.DataFrame
    values: np.ndarray
    about: Mapping[str, Any]


def read_embeddings(folder: str | Path, splits: Sequence[str] = ()) -> Embeddings:
    """Read what ``extract`` wrote.

    Args:
        folder: The folder.
        splits: Which of its splits; none: all of them.

    Raises:
        EmbeddingError: If it is no such folder, is not complete, or lacks a part or a split.
    """
    folder = Path(folder)
    about = read_about(folder)
    if not about["complete"]:
        raise EmbeddingError(
            f"{folder} is not complete; run the same `fairseq-ecg extract` again, it goes on where "
            "it stopped"
        )
    wanted = list(splits) or list(about["data"])
    for split in wanted:
        if split not in about["data"]:
            raise EmbeddingError(
                f"{folder} has no embeddings of the split {split!r}"
                f"{did_you_mean(split, about['data'])}; it has {', '.join(about['data'])}; "
                "extract it into a folder of its own"
            )
    try:
        table, values = (_read_npy if about["format"] == "npy" else _read_parts)(folder, about)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise EmbeddingError(
            f"{folder} cannot be read ({error}); extract again with --overwrite"
        ) from error
    kept = table["split"].isin(wanted).to_numpy()
    if kept.all():
        return Embeddings(table, values, about)
    return Embeddings(table[kept].reset_index(drop=True), values[kept], about)


def read_about(folder: str | Path) -> dict[str, Any]:
    """Return what a folder of embeddings says of itself.

    Args:
        folder: What ``extract`` wrote, or began to write.

    Raises:
        EmbeddingError: If it is no such folder, or of another version.
    """
    path = Path(folder) / ABOUT_FILE
    if not path.is_file():
        raise EmbeddingError(
            f"{folder} holds no embeddings ; it has no {ABOUT_FILE}); `fairseq-ecg extract` makes "
            "them"
        )
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = about["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddingError(f"{path} cannot be read ({error!r}); extract again") from None
    if version != VERSION:
        raise EmbeddingError(
            f"{path} is of version {version!r}, but this package reads {VERSION}; extract again"
        )
    return about


def take_up(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a folder says of itself, which must be what is asked for.

    Args:
        folder: An existing folder.
        asked: Content of ``extraction.json`` as it shall be.

    Returns:
        Content of the folder's own; nothing if it is empty.

    Raises:
        EmbeddingError: If it holds something else.
    """
    if not (folder / ABOUT_FILE).is_file():
        left = [path.name for path in folder.iterdir()]
        if any(not name.endswith(TEMPORARY_SUFFIX) for name in left if name != PARTS_FOLDER):
            raise EmbeddingError(
                f"{folder} holds other files ({left[0]}, ...); give the name of a folder that is "
                "empty or not there"
            )
        shutil.rmtree(folder / PARTS_FOLDER, ignore_errors=True)  # of whom, nothing says
        return {}
    found = read_about(folder)
    others = [
        f"{reason} ({_comparable(found, key)})" if key in _SHORT else reason
        for key, reason in _REASONS.items()
        if _comparable(found, key) != _comparable(asked, key)
    ]
    if others:
        raise EmbeddingError(
            f"{folder} holds embeddings of {', of '.join(others)}, made by "
            f"{found.get('checkpoint')}; give another folder, or --overwrite to discard them"
        )
    return found


def _comparable(about: Mapping[str, Any], key: str) -> Any:
    """Return a value without what may change when files are moved."""
    value = about.get(key)
    if key != "data" or not isinstance(value, Mapping):
        return value
    moved = ("folder", "corpus")
    return {n: {k: v for k, v in of.items() if k not in moved} for n, of in value.items()}


def discard(folder: Path) -> None:
    """Remove embeddings from a folder, and nothing else.

    Args:
        folder: What ``extract`` wrote, or any other folder.
    """
    if (folder / ABOUT_FILE).is_file():
        for name in (ABOUT_FILE, VALUES_FILE, INDEX_FILE):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / PARTS_FOLDER, ignore_errors=True)


def part_path(folder: Path, number: int) -> Path:
    """Return where a part is.

    Args:
        folder: The folder of embeddings.
        number: Of the part, from 0 on.
    """
    return folder / PARTS_FOLDER / f"part-{number:05d}.parquet"


def _schema(per: str, width: int | None) -> pa.Schema:
    """Return the columns of a part; of an index without the vectors (``width`` None)."""
    fields = [
        ("record", pa.string()),
        ("patient", pa.string()),
        ("split", pa.string()),
        ("fingerprint", pa.uint64()),
        ("seen", pa.bool_()),
        *_COLUMNS[per],
    ]
    vectors = [] if width is None else [("embedding", pa.list_(pa.float32(), width))]
    return pa.schema([*fields, *vectors])


def write_part(path: Path, found: Embeddings, per: str) -> None:
    """Write some embeddings, whole or not at all.

    Args:
        path: What ``part_path`` returned.
        found: The embeddings.
        per: "record" or "frame".
    """
    width = found.values.shape[1]
    index = pa.Table.from_pandas(found.table, schema=_schema(per, None), preserve_index=False)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(found.values.reshape(-1)), width)
    table = index.append_column("embedding", vectors)
    with replacing(path) as file:
        pq.write_table(table.cast(_schema(per, width)), file)


def join(folder: Path, about: Mapping[str, Any]) -> None:
    """Write all parts as one array and its index, one part at a time.

    Args:
        folder: The folder of embeddings.
        about: Content of its ``extraction.json``.
    """
    paths = [part_path(folder, number) for number in range(about["parts"])]
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, about["width"])}
    with replacing(folder / VALUES_FILE) as file, replacing(folder / INDEX_FILE) as index:
        np.lib.format.write_array_header_1_0(file, header)
        with pq.ParquetWriter(index, _schema(about["per"], None)) as writer:
            for path in paths:
                table = pq.read_table(path)
                file.write(_vectors(table, about["width"]).astype("<f4").tobytes())
                writer.write_table(table.drop_columns(["embedding"]))


def count_rows(folder: Path, about: Mapping[str, Any]) -> int:
    """Return how many vectors there are; args as ``join``."""
    if about["format"] == "npy":
        return int(pq.read_metadata(folder / INDEX_FILE).num_rows)
    numbers = range(about["parts"])
    return sum(pq.read_metadata(part_path(folder, number)).num_rows for number in numbers)


def _read_npy(folder: Path, about: Mapping[str, Any]) -> tuple[pd.DataFrame, np.ndarray]:
    table = pq.read_table(folder / INDEX_FILE).to_pandas()
    values = np.load(folder / VALUES_FILE, mmap_mode="r", allow_pickle=False)
    if values.shape != (len(table), about["width"]):
        raise ValueError(f"{VALUES_FILE} is {list(values.shape)}, its index has {len(table)} rows")
    return table, values


def _read_parts(folder: Path, about: Mapping[str, Any]) -> tuple[pd.DataFrame, np.ndarray]:
    values = np.empty((about["rows"], about["width"]), dtype=np.float32)
    tables, start = [], 0
    for number in range(about["parts"]):
        table = pq.read_table(part_path(folder, number))
        values[start : start + len(table)] = _vectors(table, about["width"])
        start += len(table)
        tables.append(table.drop_columns(["embedding"]).to_pandas())
    if start != len(values):
        raise ValueError(f"its parts have {start} rows of {len(values)}")
    return pd.concat(tables, ignore_index=True), values


def _vectors(table: pa.Table, width: int) -> np.ndarray:
    column = table["embedding"].combine_chunks()
    flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), width)
