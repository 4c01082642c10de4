"""``fairseq-ecg evaluate``: one checkpoint or the mean of several on one split, with intervals."""

import argparse
import math
import sys
from pathlib import Path

from fairseq_ecg.cli._evaluating import add_options, options_of
from fairseq_ecg.cli.thresholds import (
    SCORES,
    ChosenThresholds,
    choose_thresholds,
    joined,
    read_thresholds,
    thresholds_text,
)
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.evaluation_files import FILES, write_evaluation
from fairseq_ecg.evaluation_results import Evaluation, Identification, Result, remarks

THRESHOLDS_FILE = "thresholds.json"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser("evaluate", help="score a checkpoint on a split")
    parser.add_argument(
        "checkpoint",
        nargs="+",
        help="checkpoint of a classifier, of arcface, or of masked pretraining (.pt); several of "
        "classifiers: their mean probability",
    )
    parser.add_argument(
        "data",
        help="folder of a label set: labels.txt, test.tsv, ...; or of test_probe.tsv, ...; masked "
        "pretraining needs no labels",
    )
    add_options(parser, split="test")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--threshold", type=float, help="probability that decides (default: that of the training)"
    )
    group.add_argument(
        "--thresholds", type=Path, help="file of `fairseq-ecg thresholds`: one for each class"
    )
    group.add_argument(
        "--search-thresholds",
        metavar="SPLIT",
        help="choose one for each class on this other split, such as valid, and keep them in "
        f"{THRESHOLDS_FILE}",
    )
    parser.add_argument(
        "--score",
        default="f1",
        choices=tuple(SCORES),
        help="what --search-thresholds maximises (default: %(default)s)",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="draws of patients for the 95 %% intervals (default: %(default)s); 0: no intervals",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random draws (default: 0)")
    parser.add_argument("--no-pictures", action="store_true", help="write tables and numbers only")
    parser.add_argument("--out", type=Path, help=f"folder for {', '.join(FILES)}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, write and print."""
    if args.bootstrap < 0:
        raise ValueError(f"--bootstrap must be 0 or more, but is {args.bootstrap}")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; give the name of a folder")
    chosen = _thresholds(args)
    result = evaluate(
        args.checkpoint,
        args.data,
        args.split,
        threshold=args.threshold if chosen is None else chosen.thresholds,
        bootstrap=args.bootstrap,
        seed=args.seed,
        **options_of(args),
    )
    if args.out is not None:
        also = {} if chosen is None else {THRESHOLDS_FILE: thresholds_text(chosen)}
        write_evaluation(result, args.out, pictures=not args.no_pictures, also=also)
    _print_numbers(result, args.split)
    if isinstance(result, Evaluation):
        _print_classes(result)
    for remark in remarks(result):
        print(f"note: {remark}")
    _warn_of_overlap(result)
    if chosen is not None:
        _warn_of_thresholds(chosen, args)
    return 0


def _thresholds(args: argparse.Namespace) -> ChosenThresholds | None:
    """Return the thresholds that a file holds, or that are best on another split."""
    if args.thresholds is not None:
        return read_thresholds(args.thresholds)
    if args.search_thresholds is None:
        return None
    if args.search_thresholds == args.split:
        raise ValueError(
            f"--search-thresholds {args.split} would choose thresholds on the recordings that are "
            "scored; choose them on others, such as valid"
        )
    return choose_thresholds(
        args.checkpoint,
        args.data,
        args.search_thresholds,
        args.score,
        seed=args.seed,
        **options_of(args),
    )


def _print_numbers(result: Result, split: str) -> None:
    for name, value in result.metrics.items():
        found = result.intervals.get(name)
        known = found is not None and not math.isnan(found.low)
        print(f"{name:>14}  {value:.4f}" + (f"  {found.low:.4f}-{found.high:.4f}" if known else ""))
    if isinstance(result, Evaluation):
        for name, value in result.calibration().items():
            print(f"{name:>14}  {value:.4f}")
    if any(not math.isnan(found.low) for found in result.intervals.values()):
        print(f"95 % intervals: {result.draws} draws of patients")
    if isinstance(result, Identification) and result.intervals:
        print("auroc and eer are of pairs, which share patients, and have no interval")
    print(f"{len(result.names)} {result.unit}s of {split}, {result.num_segments} segments")


def _print_classes(result: Evaluation) -> None:
    table = result.per_class()
    shown = ["positives", "patients", "auroc", "auroc_low", "auroc_high", "auprc", "f1", "ece"]
    table = table[[name for name in shown if name in table]].rename_axis(None)
    print(table.to_string(float_format=lambda value: f"{value:.4f}", na_rep="-"))
    if result.single_label:
        confusion = result.confusion()
        occurring = int((confusion.sum(axis=0) + confusion.sum(axis=1) > 0).sum())
        print(
            f"{occurring} of {len(result.labels)} classes occur, as truth or as answer; f1, "
            "precision and recall are means over these"
        )
        print("confusion (row: true, column: answered)")
        print(confusion.to_string())
        return
    told_apart = int((result.truth.min(0) != result.truth.max(0)).sum())
    print(
        f"{told_apart} of {len(result.labels)} classes have recordings with and without them; "
        "the macro AUROC is over these"
    )


def _warn_of_overlap(result: Result) -> None:
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


def _warn_of_thresholds(chosen: ChosenThresholds, args: argparse.Namespace) -> None:
    if chosen.split == args.split:
        print(
            f"warning: the thresholds were chosen on {args.split} too; its decisions look better "
            "than those on new recordings",
            file=sys.stderr,
        )
    if "test" in chosen.split and chosen.split != args.split:
        print(f"warning: the thresholds were chosen on {chosen.split}", file=sys.stderr)
    if not _are_same(chosen.checkpoint, joined(args.checkpoint)):
        print(f"warning: the thresholds were chosen for {chosen.checkpoint}", file=sys.stderr)


def _are_same(first: str, second: str) -> bool:
    """Tell whether two lists of checkpoints, each joined, are of the same files."""
    one, other = ([Path(name).resolve() for name in text.split(" + ")] for text in (first, second))
    return one == other
