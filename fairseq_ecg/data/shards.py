"""One shard of a store: cutting a list of recordings into shards, and making one of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fairseq_ecg.data.atomic import replacing, write_json
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry, ingest, record_facts
from fairseq_ecg.data.ledger import LedgerRow
from fairseq_ecg.data.pool import BuildError
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.store import DTYPES, index_schema, shard_name

_MAX_SHARDS = 256
_SIZE_SAMPLE = 200


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard.

    Attributes:
        number: Shard number.
        entries: Its records, in row order.
        root: Folder of the recordings.
        folder: Folder of the store.
        options: Options of the store.
    """

    number: int
    entries: tuple[RecordEntry, ...]
    root: Path
    folder: Path
    options: BuildOptions


def build_shard(task: ShardTask) -> int:
    """Make one shard: the function that workers run.

    Args:
        task: What to read and where to write.

    Returns:
        The number of entries dealt with.
    """
    base = task.folder / shard_name(task.number)
    schema = index_schema(len(task.options.leads))
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    remarks: list[LedgerRow] = []
    digest = hashlib.sha256()
    offset = 0
    with replacing(base.with_suffix(".bin")) as file:
        for entry in task.entries:
            result = ingest(entry, task.root, task.options)
            remarks += result.remarks
            if result.stored is None or result.facts is None:
                continue
            content = result.stored.data.cast("B")
            file.write(content)
            digest.update(content)
            place = {
                "shard": task.number,
                "offset": offset,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, value in (result.facts | place).items():
                columns[name].append(value)
            offset += content.nbytes
    with replacing(base.with_suffix(".parquet")) as file:
        pq.write_table(_make_table(columns, schema), file)
    write_json(
        base.with_suffix(".json"),
        {
            "size": offset,
            "sha256": digest.hexdigest(),
            "remarks": [dataclasses.astuple(row) for row in remarks],
        },
    )
    return len(task.entries)


def _make_table(columns: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        values = columns[field.name]
        if pa.types.is_fixed_size_list(field.type):
            flat = np.concatenate(values) if values else np.empty(0)
            arrays.append(
                pa.FixedSizeListArray.from_arrays(
                    pa.array(flat, type=field.type.value_type), field.type.list_size
                )
            )
        else:
            arrays.append(pa.array(values, type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def cut_shards(
    entries: Sequence[RecordEntry], root: Path, folder: Path, options: BuildOptions
) -> Iterator[ShardTask]:
    """Cut a list of recordings into shards.

    Args:
        entries: The recordings, sorted.
        root: Folder of the recordings.
        folder: Folder of the store.
        options: Options of the store.

    Yields:
        Tasks for ``build_shard``, in order.
    """
    # Every process maps every shard, and each map takes a file descriptor: hence the upper limit.
    size = max(options.shard_records, -(-len(entries) // _MAX_SHARDS))
    for number, first in enumerate(range(0, len(entries), size)):
        yield ShardTask(number, tuple(entries[first : first + size]), root, folder, options)


def is_complete(task: ShardTask) -> bool:
    """Tell whether a shard was made to its end.

    Args:
        task: The shard.
    """
    base = task.folder / shard_name(task.number)
    try:
        size = json.loads(base.with_suffix(".json").read_text(encoding="utf-8"))["size"]
        return base.with_suffix(".bin").stat().st_size == size and (
            base.with_suffix(".parquet").is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_space(
    folder: Path, entries: Sequence[RecordEntry], root: Path, options: BuildOptions
) -> int:
    """Compare the free space with an estimate from the headers of some of the records.

    Args:
        folder: Folder of the store.
        entries: The recordings that are still to be stored.
        root: Folder of the recordings.
        options: Options of the store.

    Returns:
        The estimate, in bytes; 0 if no header can be read.

    Raises:
        BuildError: If the disk is too small; says how much is needed and free.
    """
    sample = entries[:: max(1, len(entries) // _SIZE_SAMPLE)]
    seconds = []
    for entry in sample:
        try:
            facts = record_facts(entry, root)
        except (RecordError, OSError, ValueError):
            continue
        seconds.append(min(facts.n_samples / facts.rate_hz, options.max_seconds))
    if not seconds:
        return 0
    itemsize = DTYPES[options.dtype].itemsize
    per_record = np.mean(seconds) * options.rate_hz * len(options.leads) * itemsize
    needed = int(per_record * len(entries))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BuildError(
            f"{folder} needs about {needed / 1e9:.1f} GB more, but {free / 1e9:.1f} GB are free; "
            "make room or choose another --dest"
        )
    return needed
