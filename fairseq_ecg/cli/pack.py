"""``fairseq-ecg pack``: a folder of fairseq-signals -> a store and manifests."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairseq_ecg.cli._building import add_options, add_overwrite, options_of
from fairseq_ecg.data.builder import LEDGER_FILE, SUMMARY_FILE, DatasetReport
from fairseq_ecg.data.ledger import REASONS
from fairseq_ecg.interop.pack import pack

__all__ = ["add_parser", "pack", "run"]


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb to the command.

    Args:
        subparsers: Where to add it.
    """
    parser = subparsers.add_parser(
        "pack",
        help="turn a folder of fairseq-signals into a store and manifests",
        description=(
            "Pack the .mat segments that the manifests or tables of a folder of fairseq-signals "
            "list into a store, bit for bit, with manifests of the same kind and order. A stopped "
            "run goes on when the same command is given again."
        ),
    )
    add = parser.add_argument
    add("folder", type=Path, help="holds train.tsv, ..., or segmented.csv and meta_split.csv")
    add("--dest", type=Path, required=True, help="folder to write to")
    add(
        "--labels",
        type=Path,
        help="label array, such as labels/y.npy (default: the one in the folder, or the labels in "
        "the segments)",
    )
    add_options(parser)
    add_overwrite(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Pack and print a summary; return the exit status.

    Args:
        args: What the parser of ``add_parser`` returns.
    """
    report = pack(args.folder, args.dest, labels=args.labels, **options_of(args))
    print(format_report(report))
    return 0


def format_report(report: DatasetReport) -> str:
    """Return the summary of a run as text.

    Args:
        report: Its result.
    """
    summary = report.summary
    lines = [
        f"{summary['segments_kept']} segments, {summary['hours']:.1f} h at "
        f"{summary['rate_hz']:g} Hz, in {summary['unit']}"
        + (" (was finished already)" if report.was_finished else "")
    ]
    for name, facts in summary["manifests"].items():
        line = f"  {name}: {facts['lines']} lines ({facts['kind']})"
        if "recordings_with_pairs" in facts:
            line += f", {facts['recordings_with_pairs']} recordings with pairs"
        if "labelled" in facts:
            line += f", {facts['labelled']} with labels"
        if facts["lines_left_out"]:
            line += f", {facts['lines_left_out']} left out"
        lines.append(line)
    for action, counts in summary["ledger"].items():
        for reason, count in counts.items():
            meaning = f" ({REASONS[reason]})" if reason in REASONS else ""
            lines.append(f"  {action}: {count} {reason}{meaning}")
    lines.append(f"details: {report.dest / LEDGER_FILE}, {report.dest / SUMMARY_FILE}")
    return "\n".join(lines)
