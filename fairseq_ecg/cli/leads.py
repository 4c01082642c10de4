"""``fairseq-ecg leads``: a checkpoint's metrics with 12, 6, 4, 3, 2 and 1 leads, as a table."""

import argparse
from pathlib import Path

from fairseq_ecg.cli._evaluating import add_options, options_of
from fairseq_ecg.data.atomic import write_text
from fairseq_ecg.data.leads import LEAD_SETS
from fairseq_ecg.lead_robustness import lead_robustness


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "leads", help="evaluate a checkpoint with fewer and fewer leads, the others silent"
    )
    parser.add_argument("checkpoint", help="checkpoint of a network with twelve inputs (.pt)")
    parser.add_argument("data", help="folder of the manifests, as for evaluate")
    add_options(parser, split="test")
    parser.add_argument(
        "--sets",
        type=lambda text: text.split(","),
        default=[],
        metavar="SET,...",
        help=f"which of {', '.join(LEAD_SETS)} (default: all)",
    )
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print and write."""
    table = lead_robustness(
        args.checkpoint,
        args.data,
        args.split,
        sets=args.sets,
        **options_of(args),
    )
    print(table.to_string(float_format=lambda value: f"{value:.4f}"))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, table.to_csv(index_label="set", float_format="%.6f"))
    return 0
