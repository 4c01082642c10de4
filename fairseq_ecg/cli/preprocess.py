"""``fairseq-ecg preprocess``: recordings -> the ``.mat`` segments and tables of fairseq-signals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairseq_ecg.cli._building import add_options, options_of
from fairseq_ecg.interop._splits import MANIFEST_FOLDER
from fairseq_ecg.interop.code_15_segments import LEDGER_FILE, preprocess_code_15

__all__ = ["add_parser", "preprocess_code_15", "run"]


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb to the command.

    Args:
        subparsers: Where to add it.
    """
    parser = subparsers.add_parser(
        "preprocess",
        help="write the .mat segments that fairseq-signals' preprocessing writes",
        description=(
            "Write org/, segmented/, meta.csv, segmented.csv and labels/ as the newer "
            "preprocessing of fairseq-signals does, to go on with a project of ECG-FM; with "
            "--splits also meta_split.csv, segmented_split.csv and manifests/. For "
            "training here, `fairseq-ecg manifest ... --preprocessing ecg-fm` makes a store of the "
            "same numbers."
        ),
    )
    add = parser.add_argument
    add("corpus", choices=("code-15",), help="whose recordings")
    add("folder", type=Path, help="folder of the recordings, as distributed")
    add("--dest", type=Path, required=True, help="folder to write to")
    add("--rate", type=float, default=500.0, help="rate of the segments in Hz (%(default)g)")
    add("--segment-seconds", type=float, default=5.0, help="length of a segment (%(default)g)")
    add(
        "--splits",
        action="store_true",
        help="divide the patients, as `fairseq-ecg manifest` does with the same values",
    )
    add("--valid-fraction", type=float, default=0.1, help="share of them in valid (%(default)g)")
    add("--test-fraction", type=float, default=0.1, help="share of them in test (%(default)g)")
    add("--seed", type=int, default=0, help="of the division (%(default)s)")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder and say what is in it; return the exit status.

    Args:
        args: What the parser of ``add_parser`` returns.
    """
    report = preprocess_code_15(
        args.folder,
        args.dest,
        rate_hz=args.rate,
        segment_s=args.segment_seconds,
        splits=args.splits,
        valid_fraction=args.valid_fraction,
        test_fraction=args.test_fraction,
        seed=args.seed,
        **options_of(args),
    )
    print(
        f"{len(report.meta)} exams, {len(report.segmented)} segments in {report.dest}; "
        f"{len(report.ledger)} left out (see {report.dest / LEDGER_FILE})"
    )
    if report.splits:
        counts = ", ".join(f"{split} {count}" for split, count in report.splits.items())
        print(f"exams by split: {counts}; manifests in {report.dest / MANIFEST_FOLDER}")
    return 0
