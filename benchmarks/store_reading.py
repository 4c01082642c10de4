"""Reading batches from the store, and building it, against the ways it replaces, in one run.

    python benchmarks/store_reading.py FOLDER [--batches 200]

FOLDER holds WFDB records of 12 leads (PTB-XL's ``records500``, say). Reading: random windows of 12
leads by 2500 samples in batches of 64, from the store, from one ``.mat`` file per window (as
fairseq-signals keeps them), and by a fancy gather from one plain memory map. Building: records per
second against ``wfdb.rdsamp`` and ``scipy.io.savemat`` per record. Each is timed several times in
turn and the median is printed, with the ratio to the store. Everything is read from a warm cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
import wfdb

from fairseq_ecg.corpora._wfdb_tree import find_headers
from fairseq_ecg.data.builder import RecordEntry, build_store
from fairseq_ecg.data.store import Store

WINDOW = 2500
BATCH = 64
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batches", type=int, default=50, help="batches per timing")
    parser.add_argument("--limit", type=int, default=2000, help="records at most")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        paths = find_headers(args.folder)[: args.limit]
        entries = [RecordEntry(p, p, p, "train") for p in paths]
        store = time_building(args.folder, entries, Path(scratch))
        time_reading(store, Path(scratch), args.batches)


def time_building(root: Path, entries: list[RecordEntry], scratch: Path) -> Store:
    ours, theirs = [], []
    for repeat in range(3):
        start = time.perf_counter()
        report = build_store(entries, root, scratch / f"build{repeat}")
        ours.append(time.perf_counter() - start)
        folder = scratch / f"mat{repeat}"
        folder.mkdir()
        start = time.perf_counter()
        for number, entry in enumerate(entries):
            values, facts = wfdb.rdsamp(str(root / entry.path))
            content = {"feats": values.T, "curr_sample_rate": facts["fs"], "idx": number}
            scipy.io.savemat(folder / f"{number}.mat", content)
        theirs.append(time.perf_counter() - start)
    print(f"{len(entries)} records, one process")
    report_line("build the store", len(entries), ours, ours, "records")
    report_line("wfdb.rdsamp + scipy.io.savemat", len(entries), theirs, ours, "records")
    return report.store


def time_reading(store: Store, scratch: Path, batches: int) -> None:
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(store.n_samples >= WINDOW)
    if not len(rows):
        raise SystemExit(f"no record has {WINDOW} samples")
    segments = write_segments(store, rows, scratch / "segments")
    plain = write_plain(store, rows, scratch / "plain.bin")
    chosen = rng.integers(len(rows), size=(batches, BATCH))
    starts = (rng.random((batches, BATCH)) * (store.n_samples[rows[chosen]] - WINDOW + 1)).astype(
        int
    )
    batch = np.empty((BATCH, len(store.leads), WINDOW), dtype=np.float32)

    def from_store() -> None:
        for which, where in zip(rows[chosen].tolist(), starts.tolist(), strict=True):
            for out, row, start in zip(batch, which, where, strict=True):
                store.read(row, start, start + WINDOW, out=out)

    def from_mat() -> None:
        for which in chosen:
            for out, row in zip(batch, which, strict=True):
                out[:] = scipy.io.loadmat(segments[row])["feats"]

    def from_plain() -> None:
        for which in chosen:
            np.multiply(plain[which], np.float32(1e-3), out=batch)

    ways = {
        "store (Store.read into one batch)": from_store,
        "one .mat per window (scipy.io.loadmat)": from_mat,
        "plain int16 memory map, fancy gather": from_plain,
    }
    print(f"\nwindows of {len(store.leads)} x {WINDOW}, {batches} batches of {BATCH}, one process")
    compare(ways, batches * BATCH)


def compare(ways: dict[str, Callable[[], None]], count: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    ours = times[next(iter(times))]
    for name, seconds in times.items():
        report_line(name, count, seconds, ours, "windows")


def write_segments(store: Store, rows: np.ndarray, folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{row}.mat" for row in rows]
    for row, path in zip(rows, paths, strict=True):
        values = store.read(int(row), 0, WINDOW).astype(np.float64)
        scipy.io.savemat(path, {"feats": values, "curr_sample_rate": store.rate_hz, "idx": row})
    return paths


def write_plain(store: Store, rows: np.ndarray, path: Path) -> np.ndarray:
    shape = (len(rows), len(store.leads), WINDOW)
    plain = np.memmap(path, dtype=np.int16, mode="w+", shape=shape)
    for i, row in enumerate(rows):
        plain[i] = np.rint(store.read(int(row), 0, WINDOW) * 1000).clip(-32768, 32767)
    plain.flush()
    return np.memmap(path, dtype=np.int16, mode="r", shape=shape)


def report_line(name: str, count: int, times: list[float], ours: list[float], unit: str) -> None:
    seconds, reference = statistics.median(times), statistics.median(ours)
    print(
        f"  {name:<40} {count / seconds:>10,.0f} {unit}/s   {seconds / count * 1e6:>8.1f} us "
        f"each   {seconds / reference:>6.2f} x the store's time"
    )


if __name__ == "__main__":
    main()
