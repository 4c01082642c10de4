"""``fairseq-ecg VERB ...``: parse, call, print. Each verb is one file here and a plain function."""

import argparse
import sys
from collections.abc import Sequence

from fairseq_ecg.cli import demo, evaluate, manifest, synthesize

VERBS = (manifest, evaluate, synthesize, demo)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="fairseq-ecg",
        description="Pretrain, fine-tune and evaluate ECG models with fairseq.",
        epilog="Training: fairseq-hydra-train --user-dir fairseq_ecg --config-name PRESET "
        "KEY=VALUE ..., or the same after `fairseq-ecg train`.",
    )
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    subparsers.add_parser("train", help="train; the same as fairseq-hydra-train", add_help=False)
    for module in VERBS:
        module.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return its exit status; expected errors become one line on stderr."""
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        print(f"fairseq-ecg {args.verb}: error: {error}", file=sys.stderr)
        return 2
