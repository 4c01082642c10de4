"""Options of every verb that evaluates a checkpoint on a split."""

import argparse
from typing import Any


def add_options(parser: argparse.ArgumentParser, split: str) -> None:
    """Add the options to a verb.

    Args:
        parser: The verb's parser.
        split: The manifest it takes by default.
    """
    parser.add_argument("--split", default=split, help=f"which manifest (default: {split})")
    parser.add_argument(
        "--label-file",
        metavar="Y.NPY",
        help="label array of a folder of .mat segments, with label_def.csv beside it",
    )
    parser.add_argument(
        "--score-per",
        default="record",
        choices=("record", "segment"),
        help="average the segments of a recording (default), or keep them apart (arcface: take the "
        "middle one)",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="segments per forward pass")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of ``evaluation.evaluate`` that the options give.

    Args:
        args: The parsed arguments.
    """
    names = ("label_file", "score_per", "batch_size", "device")
    return {name: getattr(args, name) for name in names}
