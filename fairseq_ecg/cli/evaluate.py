"""``fairseq-ecg evaluate``: a checkpoint on one split, as a table and as files."""

import argparse
import json
import sys
from pathlib import Path

from fairseq_ecg.cli._evaluating import add_options, options_of
from fairseq_ecg.cli.thresholds import ChosenThresholds, read_thresholds
from fairseq_ecg.data.atomic import write_text
from fairseq_ecg.evaluation import Evaluation, Identification, evaluate


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser("evaluate", help="score a fine-tuned checkpoint on a split")
    parser.add_argument("checkpoint", help="checkpoint of a classifier or of arcface (.pt)")
    parser.add_argument(
        "data", help="folder of a label set: labels.txt, test.tsv, ...; or of test_probe.tsv, ..."
    )
    add_options(parser, split="test")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--threshold", type=float, help="probability that decides (default: that of the training)"
    )
    group.add_argument(
        "--thresholds", type=Path, help="file of `fairseq-ecg thresholds`: one for each class"
    )
    parser.add_argument("--out", type=Path, help="folder for metrics.json and predictions.csv")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print and write."""
    chosen = None if args.thresholds is None else read_thresholds(args.thresholds)
    result = evaluate(
        args.checkpoint,
        args.data,
        args.split,
        threshold=args.threshold if chosen is None else chosen.thresholds,
        **options_of(args),
    )
    for name, value in result.metrics.items():
        print(f"{name:>14}  {value:.4f}")
    print(f"{len(result.names)} {result.unit}s of {args.split}, {result.num_segments} segments")
    if isinstance(result, Evaluation):
        told_apart = int((result.truth.min(0) != result.truth.max(0)).sum())
        print(
            f"{told_apart} of {len(result.labels)} classes have recordings with and without them; "
            "the macro AUROC is over these"
        )
    if result.overlap:
        print(
            f"warning: the checkpoint was trained on {result.overlap} of these recordings; "
            "these numbers say little about new ones",
            file=sys.stderr,
        )
    if result.pretraining_overlap:
        print(
            f"warning: the checkpoint's encoder was pretrained on {result.pretraining_overlap} of "
            "these recordings, without their labels; new ones may score lower",
            file=sys.stderr,
        )
    if chosen is not None:
        _warn_of_thresholds(chosen, args)
    if args.out is not None:
        write_evaluation(result, args.out)
    return 0


def _warn_of_thresholds(chosen: ChosenThresholds, args: argparse.Namespace) -> None:
    if chosen.split == args.split:
        print(
            f"warning: the thresholds were chosen on {args.split} too; its decisions look better "
            "than those on new recordings",
            file=sys.stderr,
        )
    if Path(chosen.checkpoint).resolve() != Path(args.checkpoint).resolve():
        print(f"warning: the thresholds were chosen for {chosen.checkpoint}", file=sys.stderr)


def write_evaluation(result: Evaluation | Identification, folder: Path) -> None:
    """Write ``metrics.json`` and ``predictions.csv`` (one row per record or probe).

    A number that has no meaning (NaN) is written as null.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {k: (None if v != v else v) for k, v in result.metrics.items()}
    summary = {
        "metrics": metrics,
        "rows": len(result.names),
        "segments": result.num_segments,
        "trained_on": result.overlap,
        "pretrained_on": result.pretraining_overlap,
    }
    write_text(folder / "metrics.json", json.dumps(summary, indent=2) + "\n")
    table = result.table().to_csv(index=False, float_format="%.6f")
    write_text(folder / "predictions.csv", table)
