"""`fairseq-ecg synthesize`: a folder of made-up recordings to try the package on."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_ecg.corpora.synthetic import CODES, generate

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the parsers of `fairseq-ecg`; its `run` is left in the namespace."""
    parser = subparsers.add_parser(
        "synthesize",
        help="write a folder of made-up 12-lead ECGs",
        description=(
            "Write made-up 12-lead ECGs with SNOMED CT labels, as WFDB records in the layout of "
            "the CinC 2021 training set, to try the package where no recordings are at hand."
        ),
    )
    parser.add_argument("folder", type=Path, help="folder to make; must not exist or be empty")
    parser.add_argument("--patients", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--records-per-patient", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--rate-hz", type=float, default=500.0, help="default: %(default)g")
    parser.add_argument("--duration-s", type=float, default=10.0, help="default: %(default)g")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder and say what is in it; return the exit status.

    Raises:
        ValueError: a number is out of range, or the folder holds something.
    """
    start = time.perf_counter()
    written = generate(
        args.folder,
        num_patients=args.patients,
        records_per_patient=args.records_per_patient,
        seed=args.seed,
        rate_hz=args.rate_hz,
        duration_s=args.duration_s,
    )
    took_s = time.perf_counter() - start
    counts = Counter(finding for entry in written for finding in entry.findings)
    print(f"{len(written)} records of {args.patients} patients in {args.folder} ({took_s:.1f} s)")
    print("  ".join(f"{name} {counts[name]}" for name in CODES))
    return 0
