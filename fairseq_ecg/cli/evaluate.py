"""``fairseq-ecg evaluate``: a checkpoint on one split, as a table and as files."""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from fairseq_ecg.data.atomic import write_text
from fairseq_ecg.evaluation import Evaluation, evaluate


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser("evaluate", help="score a fine-tuned checkpoint on a split")
    parser.add_argument("checkpoint", help="checkpoint of a classifier (.pt)")
    parser.add_argument("data", help="folder of a label set: labels.txt, test.tsv, ...")
    parser.add_argument("--split", default="test", help="which manifest (default: test)")
    parser.add_argument(
        "--score-per",
        default="record",
        choices=("record", "segment"),
        help="average the segments of a recording (default), or keep them apart",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="segments per forward pass")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability that decides")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--out", type=Path, help="folder for metrics.json and predictions.csv")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print and write."""
    result = evaluate(
        args.checkpoint,
        args.data,
        args.split,
        score_per=args.score_per,
        batch_size=args.batch_size,
        threshold=args.threshold,
        device=args.device,
    )
    for name, value in result.metrics.items():
        print(f"{name:>14}  {value:.4f}")
    print(f"{len(result.names)} {args.score_per}s of {args.split}, {result.num_segments} segments")
    if result.overlap:
        print(
            f"warning: the checkpoint was trained on {result.overlap} of these recordings; "
            "these numbers say little about new ones",
            file=sys.stderr,
        )
    if args.out is not None:
        write_evaluation(result, args.out)
    return 0


def write_evaluation(result: Evaluation, folder: Path) -> None:
    """Write ``metrics.json`` and ``predictions.csv`` (record, then one probability per class).

    A number that has no meaning (NaN) is written as null.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {k: (None if v != v else v) for k, v in result.metrics.items()}
    summary = {
        "metrics": metrics,
        "rows": len(result.names),
        "segments": result.num_segments,
        "trained_on": result.overlap,
    }
    write_text(folder / "metrics.json", json.dumps(summary, indent=2) + "\n")
    table = pd.DataFrame(result.probability, columns=result.labels)
    table.insert(0, "record", result.names)
    write_text(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6f"))
