"""``fairseq-ecg evaluate``: a checkpoint on one split, as a table and as files."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fairseq_ecg.cli._evaluating import add_options, options_of
from fairseq_ecg.cli.thresholds import ChosenThresholds, read_thresholds
from fairseq_ecg.data.atomic import write_text
from fairseq_ecg.evaluation import (
    Evaluation,
    Identification,
    ReconstructionErrors,
    evaluate,
)

PREDICTIONS_FILE = "predictions.csv"
TRUTH_FILE = "truth.csv"
CONFUSION_FILE = "confusion.csv"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser("evaluate", help="score a checkpoint on a split")
    parser.add_argument(
        "checkpoint", help="checkpoint of a classifier, of arcface, or of masked pretraining (.pt)"
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
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for metrics.json, predictions.csv, truth.csv and, if classes exclude each "
        "other, confusion.csv",
    )
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
    if isinstance(result, Evaluation) and result.single_label:
        _print_confusion(result)
    elif isinstance(result, Evaluation):
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


def _print_confusion(result: Evaluation) -> None:
    confusion = result.confusion()
    occurring = int((confusion.sum(axis=0) + confusion.sum(axis=1) > 0).sum())
    print(
        f"{occurring} of {len(result.labels)} classes occur, as truth or as answer; f1, precision "
        "and recall are means over these"
    )
    print("confusion (row: true, column: answered)")
    print(confusion.to_string())


def _warn_of_thresholds(chosen: ChosenThresholds, args: argparse.Namespace) -> None:
    if chosen.split == args.split:
        print(
            f"warning: the thresholds were chosen on {args.split} too; its decisions look better "
            "than those on new recordings",
            file=sys.stderr,
        )
    if Path(chosen.checkpoint).resolve() != Path(args.checkpoint).resolve():
        print(f"warning: the thresholds were chosen for {chosen.checkpoint}", file=sys.stderr)


def write_evaluation(
    result: Evaluation | Identification | ReconstructionErrors, folder: Path
) -> None:
    """Write ``metrics.json`` and ``predictions.csv`` (one row per record or probe).

    Of a classifier also ``truth.csv``, in the same rows and columns: 0 or 1; and where classes
    exclude each other ``confusion.csv`` (row: true, column: answered). A number that has no meaning
    (NaN) is written as null.
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
    table = result.table().to_csv(index=False, float_format="%.9g")
    write_text(folder / PREDICTIONS_FILE, table)
    if isinstance(result, Evaluation):
        write_text(folder / TRUTH_FILE, result.truth_table().to_csv(index=False))
    if isinstance(result, Evaluation) and result.single_label:
        write_text(folder / CONFUSION_FILE, result.confusion().to_csv(index_label="true"))


def read_evaluation(path: str | Path) -> Evaluation:
    """Read what ``write_evaluation`` wrote of a classifier, without its metrics.

    Args:
        path: The folder, or ``predictions.csv`` in it.

    Raises:
        ValueError: If a file is missing, is none of a classifier, or both differ in rows or
            columns.
    """
    folder = evaluation_folder(path)
    names, labels, probability = _read_by_record(folder / PREDICTIONS_FILE)
    true_names, true_labels, truth = _read_by_record(folder / TRUTH_FILE)
    if names != true_names or labels != true_labels:
        raise ValueError(
            f"{folder}: {PREDICTIONS_FILE} and {TRUTH_FILE} have other rows or columns; "
            "evaluate again"
        )
    single_label = (folder / CONFUSION_FILE).is_file()
    return Evaluation(names, labels, probability, truth, single_label=single_label)


def evaluation_folder(path: str | Path) -> Path:
    """Return the folder of an evaluation, given it or ``predictions.csv`` in it."""
    return Path(path).parent if Path(path).name == PREDICTIONS_FILE else Path(path)


def _read_by_record(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Return records, classes and the table of numbers, float64."""
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; `fairseq-ecg evaluate CHECKPOINT DATA --out "
            f"{path.parent}` writes it"
        )
    try:
        table = pd.read_csv(path, dtype={"record": str}, keep_default_na=False)
        numbers = table.drop(columns="record").to_numpy(dtype=np.float64)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no table of a classifier's recordings: {error}") from None
    return table["record"].tolist(), [str(c) for c in table.columns[1:]], numbers
