"""The store: every recording of a corpus in a few memory-mapped files, with a columnar index.

A finished store is one folder::

    shard-00000.bin ...   records one after the other, each [C, T] little-endian, C-contiguous
    index.parquet         one row per record (``index_schema``)
    store.json            written last: format, rate, leads, dtype, SHA-256 of every file, origin

``builder.build_store`` makes one; ``Store`` reads it. Nothing here writes.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fairseq_ecg._near_misses import near_misses
from fairseq_ecg.data.signal import MILLIVOLTS

FORMAT_VERSION = 1
DTYPES: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
STORE_FILE = "store.json"
INDEX_FILE = "index.parquet"
PLAN_FILE = "build.json"
"""Present while a store is being built (and of no interest afterwards)."""

_HASH_CHUNK = 1 << 22


class StoreError(ValueError):
    """A folder that is no usable store, or a record that is not in it."""


def shard_name(number: int) -> str:
    """Return the file name, without suffix, of one shard.

    Args:
        number: Shard number, from 0.
    """
    return f"shard-{number:05d}"


def index_schema(n_leads: int) -> pa.Schema:
    """Return the columns of the index.

    A sample's value in mV is ``(stored - baseline) / gain``, per lead.

    Args:
        n_leads: Number of leads C of the store.
    """
    per_lead = pa.list_(pa.float64(), n_leads)
    return pa.schema(
        [
            ("record", pa.string()),
            ("patient", pa.string()),
            ("rate_hz", pa.float64()),
            ("n_samples", pa.int64()),
            ("shard", pa.int32()),
            ("offset", pa.int64()),  # bytes from the start of the shard
            ("gain", per_lead),  # stored units per mV
            ("baseline", per_lead),  # stored value at 0 mV
            ("lead_present", pa.list_(pa.bool_(), n_leads)),
            ("codes", pa.list_(pa.string())),  # null: this record has no labels at all
            ("split", pa.string()),
            ("sha256", pa.string()),  # of the stored bytes
            ("age", pa.float64()),
            ("sex", pa.string()),
            ("source_rate_hz", pa.float64()),
            ("source_n_samples", pa.int64()),
            ("group", pa.int64()),  # null: the record is a group of its own
        ]
    )


def file_sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces.

    Args:
        path: The file.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Store:
    """Read access to a finished store.

    Safe with forked and spawned workers: shards are mapped when first read, once per process, and
    are left out when the object is pickled.

    Attributes:
        path: The store's folder.
        meta: Content of ``store.json``.
        rate_hz: Sampling rate of every record.
        unit: ``mV``, or ``standard deviations`` where each lead was standardised.
        leads: Names of the C rows of every record.
        records: Record names in row order.
        n_samples: Samples per record, int64 [N].
        patients: Patient of each record, in row order.
        groups: Number shared by records that contrastive learning takes for one, int64 [N]; the
            row of a record that stands alone.
        hashes: First 8 bytes, big-endian, of the SHA-256 of each stored signal, uint64 [N].
    """

    def __init__(self, path: str | Path) -> None:
        """Open a store and check that its files are there and have their full size.

        Args:
            path: The store's folder.

        Raises:
            StoreError: If the folder is no store, is unfinished, is of another version, or lacks
                a shard or a part of one.
        """
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        self.rate_hz = float(self.meta["rate_hz"])
        self.unit = str(self.meta.get("unit", MILLIVOLTS))
        self.leads: tuple[str, ...] = tuple(self.meta["leads"])
        self._dtype = DTYPES[self.meta["dtype"]]
        self._check_sizes()
        self._load_index()
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return (
            f"Store({str(self.path)!r}: {len(self)} records, {len(self.leads)} leads, "
            f"{self.rate_hz:g} Hz, {self.meta['dtype']})"
        )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_maps"] = {}
        for lazy in ("index", "_rows"):
            state.pop(lazy, None)
        return state

    @cached_property
    def index(self) -> pd.DataFrame:
        """All columns of the index as a table, read on first use."""
        return pq.read_table(self.path / INDEX_FILE).to_pandas()

    def columns(self, *names: str) -> pd.DataFrame:
        """Read some columns of the index, all records in row order.

        Args:
            *names: Of ``index_schema``.
        """
        return pq.read_table(self.path / INDEX_FILE, columns=list(names)).to_pandas()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {record: row for row, record in enumerate(self.records)}

    def row_of(self, record: str) -> int:
        """Return the row of a record.

        Args:
            record: Record name as in a manifest.

        Raises:
            StoreError: If it is not in the store; names the nearest ones.
        """
        row = self._rows.get(record)
        if row is None:
            near = near_misses(record, self.records)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise StoreError(f"{self.path}: no record {record!r} among {len(self)}{hint}")
        return row

    def read(
        self, row: int, start: int = 0, stop: int | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Read a piece of one record.

        Args:
            row: Row of the record; negative rows count from the end.
            start: First sample.
            stop: Sample after the last; None reads to the end.
            out: Array float32 [C, stop - start] that takes the values (any strides).

        Returns:
            Millivolts, float32 [C, stop - start]: ``out`` if it was given.

        Raises:
            StoreError: If the row or the range is outside, or ``out`` has another shape or dtype.
        """
        if not -len(self) <= row < len(self):
            raise StoreError(f"{self.path}: row {row} is outside 0 .. {len(self) - 1}")
        length = self.n_samples.item(row)
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise StoreError(
                f"{self.path}: samples {start} to {stop} of record {self.records[row]!r}, which "
                f"has {length}"
            )
        shape = (len(self.leads), stop - start)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        elif out.shape != shape or out.dtype != np.float32:
            raise StoreError(
                f"out must be float32 {list(shape)}, but is {out.dtype} {list(out.shape)}"
            )
        piece = self._stored(row)[:, start:stop]
        # Most recordings have one gain, and one number is a third faster than a column of them.
        scale = self._scale[row, 0] if self._uniform[row] else self._scale[row][:, None]
        if self._shifted[row]:
            piece = np.subtract(piece, self._baseline[row][:, None], out=out)
        np.multiply(piece, scale, out=out)
        return out

    def lead_mask(self, row: int | np.ndarray) -> np.ndarray:
        """Tell which leads were recorded.

        Args:
            row: Row of the record, or the rows of N records.

        Returns:
            bool [C] or [N, C]; True where the lead was recorded, False where its row is zero for
            lack of it.
        """
        mask: np.ndarray = self._lead_present[row].copy()
        return mask

    def verify(self) -> None:
        """Read everything once and compare it with what was written.

        Raises:
            StoreError: Names the first shard, index or record that differs, and what to do.
        """
        for name, facts in self.meta["files"].items():
            found = file_sha256(self.path / name)
            if found != facts["sha256"]:
                raise StoreError(
                    f"{self.path / name} was altered since it was written (SHA-256 "
                    f"{found[:12]}..., expected {facts['sha256'][:12]}...); restore it, or build "
                    "the store again with --overwrite"
                )

    def _stored(self, row: int) -> np.ndarray:
        """Return a record's stored numbers, [C, T], as a view of the memory map."""
        shard = self._shard.item(row)
        flat = self._maps.get(shard)
        if flat is None:
            flat = self._maps[shard] = self._map(shard)
        n_leads, length = len(self.leads), self.n_samples.item(row)
        first = self._offset.item(row) // self._dtype.itemsize
        return flat[first : first + n_leads * length].reshape(n_leads, length)

    def _map(self, shard: int) -> np.ndarray:
        path = self.path / f"{shard_name(shard)}.bin"
        try:
            # A plain array over the map: slicing np.memmap itself costs several microseconds.
            flat: np.ndarray = np.memmap(path, dtype=self._dtype, mode="r").view(np.ndarray)
            return flat
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be mapped into memory: {error}") from error

    def _check_sizes(self) -> None:
        for name, facts in self.meta["files"].items():
            path = self.path / name
            size = path.stat().st_size if path.is_file() else None
            if size == facts["size"]:
                continue
            state = "is missing" if size is None else f"has {size} bytes of {facts['size']}"
            raise StoreError(
                f"{path} {state}; restore it, or build the store again with --overwrite"
            )

    def _load_index(self) -> None:
        path = self.path / INDEX_FILE
        columns = ["record", "patient", "n_samples", "shard", "offset", "sha256"]
        per_lead = ["gain", "baseline", "lead_present"]
        try:
            later = [name for name in ("group",) if name in pq.read_schema(path).names]
            self._take_columns(pq.read_table(path, columns=columns + per_lead + later))
            self._check_places()
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise StoreError(
                f"{path} cannot be read ({error}); build the store again with --overwrite"
            ) from error

    def _take_columns(self, table: pa.Table) -> None:
        self.records: list[str] = table["record"].to_pylist()
        self.patients: list[str] = table["patient"].to_pylist()
        self.n_samples = table["n_samples"].to_numpy().astype(np.int64)
        self._shard = table["shard"].to_numpy()
        self._offset = table["offset"].to_numpy()
        self._scale = (1.0 / self._per_lead(table, "gain")).astype(np.float32)
        self._uniform = (self._scale == self._scale[:, :1]).all(axis=1)
        self._baseline = self._per_lead(table, "baseline").astype(np.float32)
        self._shifted = (self._baseline != 0).any(axis=1)
        self._lead_present = self._per_lead(table, "lead_present").astype(bool)
        self.groups = np.arange(len(table), dtype=np.int64)
        if "group" in table.column_names:
            known = table["group"].is_valid().to_numpy()
            self.groups[known] = table["group"].drop_null().to_numpy()
        heads = [int(text[:16], 16) for text in table["sha256"].to_pylist()]
        self.hashes = np.array(heads, dtype=np.uint64)

    def _check_places(self) -> None:
        """Check that every record lies inside its shard, so that reading needs no check."""
        numbers = np.unique(self._shard)
        sizes = [self.meta["files"][f"{shard_name(int(n))}.bin"]["size"] for n in numbers]
        size = np.array(sizes, dtype=np.int64)[np.searchsorted(numbers, self._shard)]
        n_bytes = self.n_samples * len(self.leads) * self._dtype.itemsize
        outside = (self._offset < 0) | (self.n_samples < 1) | (self._offset + n_bytes > size)
        if outside.any():
            record = self.records[int(np.flatnonzero(outside)[0])]
            raise ValueError(f"record {record!r} lies outside its shard")

    def _per_lead(self, table: pa.Table, name: str) -> np.ndarray:
        column = table[name].combine_chunks()
        flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(table), len(self.leads))


def _read_meta(path: Path) -> dict[str, Any]:
    marker = path / STORE_FILE
    if not marker.is_file():
        if (path / PLAN_FILE).is_file():
            raise StoreError(
                f"{path}: this store is not finished; run the same manifest command again, it "
                "goes on where it stopped"
            )
        raise StoreError(
            f"{path} is not a store (it has no {STORE_FILE}); 'fairseq-ecg manifest' makes one"
        )
    try:
        meta: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        version = meta["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{marker} cannot be read ({error!r}); build the store again") from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path}: store format version {version!r}, but this package reads {FORMAT_VERSION}; "
            "build the store again with --overwrite"
        )
    missing = sorted({"rate_hz", "leads", "dtype", "files"} - set(meta))
    if missing or meta["dtype"] not in DTYPES or not _are_files(meta["files"]):
        raise StoreError(
            f"{marker}: missing or unknown entries {', '.join(missing)}; build the store again "
            "with --overwrite"
        )
    return meta


def _are_files(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(facts, dict) and {"size", "sha256"} <= set(facts) for facts in files.values()
    )
