"""Time our WFDB reader against wfdb-python and plain `np.fromfile`, in one run.

Usage: python benchmarks/wfdb_reading.py FOLDER [--records 50] [--rounds 5]

FOLDER is searched for records (`.hea`). Each reader reads all chosen records in turn; the best
of the rounds is printed per record, so the files come from the page cache.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import wfdb

from fairseq_ecg.data.wfdb_reader import RecordError, read_header, read_raw, read_signal


def best_us(read: Callable[[str], object], stems: Sequence[str], rounds: int) -> float:
    """Return the best mean time per record over several rounds, in microseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for stem in stems:
            read(stem)
        times.append((time.perf_counter() - start) / len(stems))
    return min(times) * 1e6


def choose(folder: Path, n_records: int) -> list[str]:
    """Spread the choice evenly over the readable records of a folder."""
    stems = []
    for path in sorted(folder.rglob("*.hea")):
        try:
            read_raw(path)
        except RecordError as error:
            print(f"left out: {error}")
        else:
            stems.append(str(path.with_suffix("")))
    if not stems:
        raise SystemExit(f"{folder} must hold WFDB records, but none could be read")
    return stems[:: max(1, len(stems) // n_records)][:n_records]


def main() -> None:
    """Print one line per job: ours, the other's, and how many times faster ours is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # Importing fairseq switches on debug messages for all; wfdb's file layer sends many.
    logging.getLogger().setLevel(logging.WARNING)

    stems = choose(arguments.folder, arguments.records)
    headers = {stem: read_header(stem) for stem in stems}
    files = {stem: str(Path(stem).parent / headers[stem].files[0]) for stem in stems}
    sizes = sorted({f"{header.n_leads}x{header.n_samples}" for header in headers.values()})
    print(f"{len(stems)} records, leads x samples: {', '.join(sizes[:5])}")

    jobs = [
        ("header", read_header, "wfdb.rdheader", wfdb.rdheader),
        ("record, mV", read_signal, "wfdb.rdrecord", wfdb.rdrecord),
        ("record, raw", read_raw, "wfdb.rdrecord(physical=False)",
         lambda stem: wfdb.rdrecord(stem, physical=False)),
        ("samples, raw", lambda stem: read_raw(stem, headers[stem]), "np.fromfile",
         lambda stem: np.fromfile(files[stem], dtype="<i2")),
    ]  # fmt: skip
    print(f"{'job':<14}{'ours us':>10}{'other us':>12}{'ratio':>9}  other")
    for job, ours, name, other in jobs:
        ours_us = best_us(ours, stems, arguments.rounds)
        other_us = best_us(other, stems, arguments.rounds)
        print(f"{job:<14}{ours_us:>10.1f}{other_us:>12.1f}{other_us / ours_us:>8.1f}x  {name}")


if __name__ == "__main__":
    main()
