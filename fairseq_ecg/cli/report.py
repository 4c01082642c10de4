"""``fairseq-ecg report``: one page about a training run, in one file."""

import argparse
import logging
from pathlib import Path

from fairseq_ecg.report import write_report


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser("report", help="one HTML page about a training run")
    parser.add_argument(
        "folder", type=Path, metavar="run", help="folder of the run (hydra.run.dir)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the page, such as report.html")
    parser.add_argument(
        "--evaluations",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="what `evaluate --out` wrote, if it is not inside the run's folder",
    )
    parser.add_argument("--title", help="of the page (default: the name of the run's folder)")
    parser.add_argument(
        "--examples", type=int, default=3, help="recordings to draw (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    if args.out.is_dir():
        raise ValueError(f"--out {args.out} is a folder; give the name of the page in it")
    logging.getLogger("fairseq_ecg").setLevel(logging.WARNING)
    path = write_report(
        args.folder, args.out, args.evaluations, title=args.title, examples=args.examples
    )
    print(path)
    return 0
