"""``fairseq-ecg compare``: runs beside each other, a random encoder and simple features."""

import argparse
import json
from pathlib import Path

from fairseq_ecg.cli._building import add_progress, progress_of
from fairseq_ecg.cli.probe import named
from fairseq_ecg.comparison import BASELINES, Comparison, compare
from fairseq_ecg.data.atomic import replacing_files, write_text
from fairseq_ecg.evaluation_files import FILES as EVALUATION_FILES
from fairseq_ecg.evaluation_files import write_evaluation

FILES = ("comparison.md", "comparison.csv", "comparison.tex", "comparison.json")
BASELINES_FOLDER = "baselines"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "compare",
        help="compare runs with each other, with a random encoder and with simple features",
        epilog="RUN is a folder that `fairseq-ecg evaluate ... --out` wrote, the checkpoint of a "
        "classifier, or another checkpoint with an encoder, which gets a linear head.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="two or more; [NAME=]RUN names one in the table"
    )
    parser.add_argument("--data", help="label set (default: the one of the evaluations)")
    parser.add_argument("--split", help="which manifest (default: the one of the evaluations)")
    parser.add_argument(
        "--train", default="train", help="split that linear heads are fitted on (default: train)"
    )
    parser.add_argument(
        "--valid", default="valid", help="split that they are chosen on (default: valid)"
    )
    parser.add_argument(
        "--reference", metavar="NAME", help="run that the others are compared with (the first)"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=(),
        help="default: macro_auroc macro_auprc f_max; of classes that exclude each other accuracy "
        "f1 auroc",
    )
    parser.add_argument(
        "--encoder", help="checkpoint whose architecture the random encoder has (those of the runs)"
    )
    parser.add_argument(
        "--random-seeds", nargs="+", type=int, default=[0], help="of random encoders (default: 0)"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="draws of patients (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--batch-size", type=int, default=64, help="windows per forward pass")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--cache", type=Path, help="folder in which embeddings are kept for the next comparison"
    )
    parser.add_argument(
        "--out", type=Path, help=f"folder for {', '.join(FILES)} and {BASELINES_FOLDER}/"
    )
    add_progress(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print and write."""
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; give the name of a folder")
    runs: dict[str, str] = {}
    for name, path in names_of(args.runs):
        if name in runs:
            raise ValueError(f"there are two runs called {name}; name them, as in a={path}")
        runs[name] = path
    found = compare(
        runs,
        args.data,
        args.split,
        train=args.train,
        valid=args.valid,
        reference=args.reference,
        metrics=args.metrics,
        encoder=args.encoder,
        random_seeds=args.random_seeds,
        bootstrap=args.bootstrap,
        seed=args.seed,
        batch_size=args.batch_size,
        device=args.device,
        cache=args.cache,
        progress=progress_of(args),
    )
    print(found.markdown())
    if args.out is not None:
        write_comparison(found, args.out)
    return 0


def names_of(words: list[str]) -> list[tuple[str, str]]:
    """Return name and path of each run; paths whose names are equal are named in full.

    Args:
        words: ``[NAME=]RUN`` each.
    """
    pairs = [named(word) for word in words]
    short = [name for name, _ in pairs]
    return [(path if short.count(name) > 1 else name, path) for name, path in pairs]


def write_comparison(found: Comparison, folder: Path) -> None:
    """Write the table as Markdown, CSV, LaTeX and JSON, and the predictions of the baselines.

    Args:
        found: What ``compare`` returned.
        folder: Where to; made if absent.
    """
    baselines = {
        f"{BASELINES_FOLDER}/{row.name.replace('/', '_').replace(' ', '_').replace(',', '')}": row
        for row in found.rows
        if row.kind in BASELINES
    }
    earlier = [f"{name}/{file}" for name in baselines for file in EVALUATION_FILES]
    with replacing_files(folder, [*FILES, *earlier]) as temporary:
        write_text(temporary / "comparison.md", found.markdown())
        write_text(temporary / "comparison.tex", found.latex())
        write_text(temporary / "comparison.json", json.dumps(found.content(), indent=2) + "\n")
        table = found.table.to_csv(index=False, float_format="%.9g")
        write_text(temporary / "comparison.csv", table)
        for name, row in baselines.items():
            write_evaluation(row.result, temporary / name)
