"""Tiny WFDB records, and builds that are killed at a chosen moment; for the tests of stores."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np

from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.leads import STANDARD_LEADS


def make_adu(seed=0, n_leads=12, n_samples=1000, amplitude=1500):
    """Draw A/D values of a slow wave with noise, int64 [C, T]."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_samples) / 500
    wave = amplitude * np.sin(2 * np.pi * (1 + rng.random((n_leads, 1))) * time)
    return np.rint(wave + rng.normal(0, 20, (n_leads, n_samples))).astype(np.int64)


def write_record(
    folder, name, adu, rate=500, leads=STANDARD_LEADS, gain="1000/mV", comments=(), n_samples=None
):
    """Write a record of format 16; return its path without suffix."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    n_samples = adu.shape[1] if n_samples is None else n_samples
    lines = [f"{name} {len(adu)} {rate} {n_samples}"]
    lines += [
        f"{name}.dat 16 {gain} 16 0 {row[0]} 0 0 {lead}"
        for row, lead in zip(adu, leads, strict=False)
    ]
    lines += [f"# {comment}" for comment in comments]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.dat").write_bytes(adu.T.astype("<i2").tobytes())
    return folder / name


def write_folder(folder, count=6):
    """Write records R00, R01, ... and return their entries; every third is at 250 Hz."""
    entries = []
    for i in range(count):
        rate = 250 if i % 3 == 2 else 500
        write_record(folder, f"R{i:02d}", make_adu(i, n_samples=600 + 10 * i), rate)
        entries.append(RecordEntry(f"R{i:02d}", f"R{i:02d}", f"P{i // 2}", "train", ("a",)))
    return entries


def contents(folder):
    """Return every file below a folder with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def build_and_die(entries, root, dest, options, replaces, before):
    """Build, and be killed at one renaming of a file: before it or after it."""
    count = 0
    real_replace = os.replace

    def replace(source, target):
        nonlocal count
        count += 1
        if count == replaces and before:
            os.kill(os.getpid(), signal.SIGKILL)
        real_replace(source, target)
        if count == replaces:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    os.fsync = lambda descriptor: None
    build_store(entries, root, dest, options)


def run_and_die(*args):
    """Run ``build_and_die`` in a process; return its exit code, -9 if it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.builds"])
    process = context.Process(target=build_and_die, args=args)
    process.start()
    process.join(60)
    return process.exitcode
