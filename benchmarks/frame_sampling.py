"""Frames from the sampler against whole segments read with wfdb, and its memory, in one run.

    python benchmarks/frame_sampling.py [FOLDER] [--patients 20 200 2000]

FOLDER holds records laid out as Icentia11k, a folder per patient; without it, two patients of four
segments of full length (2**20 + 1 samples at 250 Hz, 70 minutes) are made up. Speed: labelled
frames of 4096 samples in batches of 256, one process. Against it, both with ``wfdb.rdrecord`` and
``wfdb.rdann``: every segment of a patient read as a whole, then its frames cut from memory, as the
published code does with its own files; and each frame read by itself. As in the paper each segment
gives 82 frames (4096 per patient of 50 segments). Everything is read from a warm cache; the time is
that of the processor, the median of several rounds.

Memory: an epoch over generated patients with 8 segments each, their files links to one segment of
full length, each number in a process of its own; by how much the resident set was larger at its
peak than before the manifest was opened.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import wfdb

from fairseq_ecg.corpora._wfdb_tree import find_headers
from fairseq_ecg.data.annotated import AnnotatedSource
from fairseq_ecg.data.frame_labels import Marks, beat_label
from fairseq_ecg.data.frames import FrameDataset, frame_labels
from fairseq_ecg.data.leads import choose_leads
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.transforms.pipeline import Pipeline

FRAME = 4096
BATCH = 256
PER_SEGMENT = 82
SEGMENT = 2**20 + 1
RATE_HZ = 250
REPEATS = 3
BEAT_OF_SYMBOL = {"Q": 0, "N": 1, "S": 2, "a": 3, "V": 4}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--patients", type=int, nargs="*", default=[20, 200, 2000])
    parser.add_argument("--draws", type=int, default=32, help="frames per patient, for the memory")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure_memory(args.measure, args.draws)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or write_patients(Path(scratch) / "two", 2, 4)
        time_sampling(write_list(folder, Path(scratch) / "speed.tsv"))
        if args.patients:
            compare_memory(Path(scratch), args.patients, args.draws)


# --- speed ----------------------------------------------------------------------------------------


def time_sampling(manifest: Path) -> None:
    source = AnnotatedSource(read_manifest(manifest))
    root = read_manifest(manifest).root
    segments = len(source.names)
    count = segments * PER_SEGMENT
    dataset = make_dataset(source, count // len(source.patients))
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=BATCH)
    rng = np.random.default_rng(0)

    def sampled() -> None:
        for batch in batches:
            dataset.collater(dataset.__getitems__(batch))

    def opened_and_sampled() -> None:
        fresh = make_dataset(AnnotatedSource(read_manifest(manifest)), dataset.order.draws)
        for batch in batches:
            fresh.collater(fresh.__getitems__(batch))

    def whole_segments() -> None:
        for rows in source.patients:
            loaded = [read_whole(root / source.names[row]) for row in rows]
            for _ in range(PER_SEGMENT * len(rows)):
                values, marks = loaded[rng.integers(len(rows))]
                start = int(rng.integers(len(values) - FRAME))
                values[start : start + FRAME].copy()
                beat_label(marks, start, start + FRAME)

    def frame_by_frame() -> None:
        for row in rng.integers(segments, size=count // 20).tolist():
            start = int(rng.integers(source.n_samples[row] - FRAME))
            _, marks = read_whole(root / source.names[row], start, start + FRAME)
            beat_label(marks, start, start + FRAME)

    ways = {
        "sampler, marks in memory": (sampled, count),
        "sampler, opened anew": (opened_and_sampled, count),
        "wfdb, whole segments, frames from memory": (whole_segments, count),
        "wfdb, frame by frame": (frame_by_frame, count // 20),
    }
    print(f"frames of {FRAME} samples from {segments} segments, {count} frames, one process")
    compare(ways)
    whole = sum(4 * int(source.n_samples[row]) for row in source.patients[0]) / MIB
    per_segment = whole / len(source.patients[0])
    print(f"  a segment in memory: {per_segment:.1f} MiB; 50 of them: {50 * per_segment:.0f} MiB")


def make_dataset(source: AnnotatedSource, draws: int) -> FrameDataset:
    return FrameDataset(
        source,
        choose_leads("I"),
        Pipeline(),
        frame_labels("beat"),
        frame_size=FRAME,
        draws=draws,
        training=True,
    )


def read_whole(path: Path, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, Marks]:
    record = wfdb.rdrecord(str(path), sampfrom=start, sampto=stop)
    notes = wfdb.rdann(str(path), "atr")
    beats = [(s, BEAT_OF_SYMBOL[c]) for s, c in zip(notes.sample, notes.symbol, strict=True)
             if c in BEAT_OF_SYMBOL]  # fmt: skip
    sample, ids = np.array(beats, dtype=np.int32).reshape(-1, 2).T
    none = np.empty(0, dtype=np.int32)
    marks = Marks(sample, ids.astype(np.uint8), none, none.astype(np.uint8))
    return record.p_signal[:, 0].astype(np.float32), marks


def compare(ways: dict[str, tuple[Callable[[], None], int]]) -> None:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, (way, count) in ways.items():
            start = time.process_time()
            way()
            times[name].append((time.process_time() - start) / count)
    ours = statistics.median(next(iter(times.values())))
    for name, seconds in times.items():
        each = statistics.median(seconds)
        print(
            f"  {name:<42} {1 / each:>9,.0f} frames/s   {each * 1e6:>9.1f} us each   "
            f"{each / ours:>7.2f} x the sampler's time"
        )


# --- memory ---------------------------------------------------------------------------------------


def compare_memory(scratch: Path, numbers: list[int], draws: int) -> None:
    print(f"memory of the sampler, an epoch of {draws} frames per patient, 8 segments each")
    for number in numbers:
        folder = link_patients(scratch / str(number), number, 8)
        manifest = write_list(folder, scratch / f"{number}.tsv")
        words = [sys.executable, __file__, "--measure", str(manifest), "--draws", str(draws)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"  {number:>6,} patients, {8 * number:>7,} segments, {found['items']:>9,} frames   "
            f"opened {found['opened']:>6.1f} MiB   peak {found['peak']:>6.1f} MiB   "
            f"{found['rate']:>7,.0f} frames/s"
        )


def measure_memory(manifest: Path, draws: int) -> None:
    before = peak_mib()
    source = AnnotatedSource(read_manifest(manifest))
    dataset = make_dataset(source, draws)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=BATCH)
    opened = peak_mib()
    start = time.perf_counter()
    for batch in batches:
        dataset.collater(dataset.__getitems__(batch))
    seconds = time.perf_counter() - start
    found = {
        "items": len(dataset),
        "opened": opened - before,
        "peak": peak_mib() - before,
        "rate": len(dataset) / seconds,
    }
    print(json.dumps(found))


def peak_mib() -> float:
    """Return the largest resident set of this process so far (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


# --- made-up patients -----------------------------------------------------------------------------


def write_patients(folder: Path, patients: int, segments: int) -> Path:
    for patient in range(patients):
        for segment in range(segments):
            write_segment(folder, patient, segment)
    return folder


def write_segment(folder: Path, patient: int, segment: int) -> Path:
    """Write noise with a beat about every 0.8 s, most of them normal."""
    rng = np.random.default_rng((patient, segment))
    path = segment_path(folder, patient, segment)
    path.parent.mkdir(parents=True, exist_ok=True)
    adu = rng.integers(-100, 100, size=SEGMENT).astype("<i2")
    adu.tofile(f"{path}.dat")
    write_header(path, f"{path.name}.dat")
    sample = np.cumsum(rng.integers(150, 250, size=SEGMENT // 250))
    sample = sample[sample < SEGMENT]
    symbols = rng.choice(list("NNNNNNNNNQSV"), size=len(sample))
    wfdb.wrann(path.name, "atr", sample, symbols, fs=RATE_HZ, write_dir=str(path.parent))
    return path


def link_patients(folder: Path, patients: int, segments: int) -> Path:
    """Write one segment, and headers and links to it for all others."""
    first = write_segment(folder, 0, 0)
    for patient in range(patients):
        for segment in range(segments):
            path = segment_path(folder, patient, segment)
            if path != first:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_header(path, f"{path.name}.dat")
                for suffix in (".dat", ".atr"):
                    os.link(f"{first}{suffix}", f"{path}{suffix}")
    return folder


def segment_path(folder: Path, patient: int, segment: int) -> Path:
    return folder / f"p{patient // 1000:02d}/p{patient:05d}/p{patient:05d}_s{segment:02d}"


def write_header(path: Path, signal: str) -> None:
    lines = [f"{path.name} 1 {RATE_HZ} {SEGMENT}", f"{signal} 16 74.3648(0)/mV 16 0 0 0 0 ecg"]
    Path(f"{path}.hea").write_text("\n".join(lines) + "\n")


def write_list(folder: Path, manifest: Path) -> Path:
    """Write the manifest of all records below a folder; each folder of records is a patient."""
    paths = find_headers(folder)
    patients = {parent: n for n, parent in enumerate(dict.fromkeys(Path(p).parent for p in paths))}
    lengths = [int((folder / f"{path}.hea").read_text().split()[3]) for path in paths]
    rows = [(p, n, patients[Path(p).parent]) for p, n in zip(paths, lengths, strict=True)]
    write_manifest(manifest, folder.absolute(), rows)
    return manifest


if __name__ == "__main__":
    main()
