"""Recordings -> a store, shard by shard, so that a stopped build goes on where it stopped.

A shard is a pure function of its entries and the options. Its three files are written in this
order, each under a temporary name first: ``shard-N.bin``, ``shard-N.parquet`` (its rows of the
index), ``shard-N.json`` (sizes, hash and remarks). The last one makes it complete. When all are,
they are joined into ``index.parquet`` and the ledger, and ``store.json`` makes the store complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from fairseq_ecg.data.atomic import TEMPORARY_SUFFIX, remove_temporary_files, replacing, write_json
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.ledger import (
    EXCLUDED,
    IN_NO_SPLIT,
    KEPT,
    LedgerRow,
    read_ledger,
    write_ledger,
)
from fairseq_ecg.data.pool import BuildError, exclusive, map_shards
from fairseq_ecg.data.shards import build_shard, check_space, cut_shards, is_complete
from fairseq_ecg.data.store import (
    FORMAT_VERSION,
    INDEX_FILE,
    PLAN_FILE,
    STORE_FILE,
    Store,
    StoreError,
    file_sha256,
)

STORE_FOLDER = "store"
LEDGER_FILE = "ledger.csv"
SUMMARY_FILE = "summary.json"
# Starting processes takes some seconds (they import the package), as does writing this much.
_BYTES_WORTH_A_POOL = 1 << 30
NO_SPLIT = ""
"""Split of a record that is in the store but in no manifest."""


@dataclass(frozen=True)
class BuildReport:
    """The result of ``build_store``.

    Attributes:
        store: The finished store.
        ledger: All remarks.
        n_entries: Records that the corpus listed.
        was_finished: True if there was nothing left to do.
    """

    store: Store
    ledger: list[LedgerRow]
    n_entries: int
    was_finished: bool


@dataclass(frozen=True)
class DatasetReport:
    """A folder with manifests and the store that was made along with them.

    Attributes:
        dest: The folder written to.
        store: The store, opened; None for recordings that are read where they lie.
        ledger: All remarks on records.
        summary: Content of ``SUMMARY_FILE``.
        was_finished: True if the store was there already.
    """

    dest: Path
    store: Store | None
    ledger: list[LedgerRow]
    summary: dict[str, Any]
    was_finished: bool


def build_store(
    entries: Sequence[RecordEntry],
    root: str | Path,
    dest: str | Path,
    options: BuildOptions | None = None,
    *,
    corpus: str = "",
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> BuildReport:
    """Build ``dest/store`` and ``dest/ledger.csv``, or go on with a build that was stopped.

    Memory does not grow with the number of recordings, apart from their index. The same entries
    and options give the same bytes, whatever the number of workers and of interruptions.

    Args:
        entries: The recordings, in any order; record names must be unique.
        root: Folder that the entries' paths are relative to.
        dest: Folder to write to; made if absent.
        options: Options of the store; None for the defaults.
        corpus: Name to note in the store.
        workers: Processes; 1, like a small build, works in this one.
        executor: Any ``concurrent.futures`` executor, such as a Dask client's, in place of our
            own processes; its workers must see ``root`` and ``dest`` under the same paths.
        overwrite: Discard an earlier build in ``dest``, whatever its state.
        progress: Show a progress bar.

    Returns:
        The store, opened, and the ledger.

    Raises:
        BuildError: If there are no entries, a name is repeated, ``dest`` holds another build or
            cannot be written, the disk is too small, a worker died, or no record can be kept.
    """
    options = options or BuildOptions()
    root, dest = Path(root).absolute(), Path(dest).absolute()
    folder = dest / STORE_FOLDER
    entries = sorted(entries, key=lambda entry: entry.record)
    _check_entries(entries)
    plan = _make_plan(entries, options, corpus)
    _make_folder(folder)
    with exclusive(folder):
        remove_temporary_files(dest)
        remove_temporary_files(folder)
        if overwrite:
            _clear(folder, dest)
        was_finished = not overwrite and _compare_plans(folder, plan)
        if was_finished:
            _remove_leftovers(folder)
        else:
            write_json(folder / PLAN_FILE, plan)
            _build_shards(entries, root, folder, options, workers, executor, progress)
            paths = {entry.record: entry.path for entry in entries}
            _finish(folder, dest, plan, paths, options.store_unit)
    store = Store(folder)
    return BuildReport(store, _read_ledger(dest), len(entries), was_finished)


def _check_entries(entries: Sequence[RecordEntry]) -> None:
    if not entries:
        raise BuildError("there are no records to build a store from")
    for one, other in zip(entries, entries[1:], strict=False):
        if one.record == other.record:
            raise BuildError(
                f"record name {one.record!r} occurs twice: {one.path!r} and {other.path!r}; "
                "names must be unique in a store"
            )


def _make_plan(
    entries: Sequence[RecordEntry], options: BuildOptions, corpus: str
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(json.dumps(_identity(entry)).encode() + b"\n")
    return {
        "format_version": FORMAT_VERSION,
        "corpus": corpus,
        "n_entries": len(entries),
        "entries_sha256": digest.hexdigest(),
        "options": json.loads(json.dumps(dataclasses.asdict(options))),
    }


def _identity(entry: RecordEntry) -> list[Any]:
    *plain, reader = (getattr(entry, field.name) for field in dataclasses.fields(entry))
    if reader is None:
        return plain
    return [*plain, type(reader).__name__, *dataclasses.astuple(reader)]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.00000000{TEMPORARY_SUFFIX}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be written to ({error.strerror}); choose another --dest"
        ) from error


def _compare_plans(folder: Path, plan: dict[str, Any]) -> bool:
    """Tell whether the store in ``folder`` is finished; raise if it is not this one."""
    if (folder / STORE_FILE).is_file():
        found = Store(folder).meta
        _require_same_plan(folder, found, plan)
        return True
    if (folder / PLAN_FILE).is_file():
        try:
            found = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError(f"{folder / PLAN_FILE} is damaged; use --overwrite") from error
        _require_same_plan(folder, found, plan)
        return False
    foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if foreign:
        raise BuildError(
            f"{folder} is no store, but is not empty ({foreign[0]}, ...); choose another --dest"
        )
    return False


def _require_same_plan(folder: Path, found: dict[str, Any], plan: dict[str, Any]) -> None:
    changes = []
    for name in ("format_version", "corpus"):
        if found.get(name) != plan[name]:
            changes.append(f"{name} was {found.get(name)!r}, now {plan[name]!r}")
    # Options that did not exist yet had what is their default now.
    before = dataclasses.asdict(BuildOptions()) | found.get("options", {})
    for name, value in plan["options"].items():
        earlier = json.loads(json.dumps(before.get(name)))
        if earlier != value:
            changes.append(f"{name} was {earlier!r}, now {value!r}")
    if found.get("entries_sha256") != plan["entries_sha256"]:
        changes.append(
            f"the records, their labels or their splits changed ({found.get('n_entries')} records "
            f"before, {plan['n_entries']} now)"
        )
    if changes:
        raise BuildError(
            f"{folder} was built, or begun, differently: {'; '.join(changes)}. Give the same "
            "options, another --dest, or --overwrite to discard it"
        )


def _build_shards(
    entries: Sequence[RecordEntry],
    root: Path,
    folder: Path,
    options: BuildOptions,
    workers: int,
    executor: Executor | None,
    progress: bool,
) -> None:
    tasks = list(cut_shards(entries, root, folder, options))
    pending = [task for task in tasks if not is_complete(task)]
    n_pending = sum(len(task.entries) for task in pending)
    n_bytes = check_space(
        folder, [entry for task in pending for entry in task.entries], root, options
    )
    if n_bytes < _BYTES_WORTH_A_POOL:
        workers = 1
    with tqdm(
        total=len(entries),
        initial=len(entries) - n_pending,
        unit=" records",
        desc="store",
        disable=not progress,
    ) as bar:
        for count in map_shards(build_shard, pending, workers, executor):
            bar.update(count)


def _finish(
    folder: Path, dest: Path, plan: dict[str, Any], paths: dict[str, str], unit: str
) -> None:
    """Join the shards' indexes and ledgers and mark the store as complete."""
    names = [path.stem for path in sorted(folder.glob("shard-*.json"))]
    parts = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    remarks = [LedgerRow(*row) for part in parts for row in part["remarks"]]
    tables = [pq.read_table(folder / f"{name}.parquet") for name in names]
    index = pa.concat_tables(tables).combine_chunks()
    index, duplicates = _find_duplicates(index, plan["options"]["duplicates"], paths)
    write_ledger(dest / LEDGER_FILE, remarks + duplicates)
    if not len(index):
        raise BuildError(
            f"not one of {plan['n_entries']} records could be kept; the first one: "
            f"{remarks[0].detail}; {dest / LEDGER_FILE} has all"
        )
    with replacing(folder / INDEX_FILE) as file:
        pq.write_table(index, file)
    files = {
        f"{name}.bin": {"size": part["size"], "sha256": part["sha256"]}
        for name, part in zip(names, parts, strict=True)
    }
    files[INDEX_FILE] = {
        "size": (folder / INDEX_FILE).stat().st_size,
        "sha256": file_sha256(folder / INDEX_FILE),
    }
    facts = {
        "rate_hz": plan["options"]["rate_hz"],
        "leads": plan["options"]["leads"],
        "dtype": plan["options"]["dtype"],
        "unit": unit,
        "n_records": len(index),
        "n_samples": int(np.sum(index["n_samples"].to_numpy())),
        "files": files,
    }
    write_json(folder / STORE_FILE, plan | facts)
    _remove_leftovers(folder)


def _find_duplicates(
    index: pa.Table, policy: str, paths: dict[str, str]
) -> tuple[pa.Table, list[LedgerRow]]:
    """Find records with the samples of an earlier one and do with them what the policy says."""
    records, splits = index["record"].to_pylist(), index["split"].to_pylist()
    first_row: dict[str, int] = {}
    found, keep = [], np.ones(len(index), dtype=bool)
    for row, sha256 in enumerate(index["sha256"].to_pylist()):
        twin = first_row.setdefault(sha256, row)
        if twin == row:
            continue
        detail, action = f"same samples as {records[twin]}", KEPT
        if splits[twin] != splits[row]:
            detail += f", which is in {splits[twin]}, not in {splits[row]}"
            if policy == "one_split":
                splits[row], action = NO_SPLIT, IN_NO_SPLIT
        if policy == "exclude":
            keep[row], action = False, EXCLUDED
        found.append(LedgerRow(records[row], paths[records[row]], "duplicate", detail, action))
    column = index.schema.get_field_index("split")
    index = index.set_column(column, index.schema.field(column), pa.array(splits, pa.string()))
    return index.filter(pa.array(keep)), found


def _read_ledger(dest: Path) -> list[LedgerRow]:
    try:
        return read_ledger(dest / LEDGER_FILE)
    except (OSError, TypeError, UnicodeDecodeError) as error:
        raise BuildError(
            f"{dest / LEDGER_FILE} is missing or damaged ({error}), although the store is "
            "finished; --overwrite builds both again"
        ) from error


def _remove_leftovers(folder: Path) -> None:
    """Remove what only an unfinished build needs."""
    for suffix in ("json", "parquet"):
        for path in folder.glob(f"shard-*.{suffix}"):
            path.unlink()
    (folder / PLAN_FILE).unlink(missing_ok=True)


def _clear(folder: Path, dest: Path) -> None:
    """Remove a build, marker first, and nothing that no build writes."""
    for name in (STORE_FILE, PLAN_FILE, INDEX_FILE):
        (folder / name).unlink(missing_ok=True)
    for suffix in ("json", "parquet", "bin"):
        for path in folder.glob(f"shard-*.{suffix}"):
            path.unlink()
    (dest / LEDGER_FILE).unlink(missing_ok=True)
