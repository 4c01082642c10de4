"""``fairseq-ecg identification``: manifests to train on patients and to find others again."""

import argparse
from pathlib import Path

from fairseq_ecg.corpora._identification import IdentificationReport, write_identification


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "identification", help="choose patients to train on and pairs of recordings to identify"
    )
    parser.add_argument(
        "folder",
        type=Path,
        help="folder that `fairseq-ecg manifest` wrote, or of .mat segments and their manifests; "
        "its patients are evaluated and, without --train, trained on",
    )
    parser.add_argument(
        "--train", type=Path, help="another such folder to train on; FOLDER is then evaluated only"
    )
    parser.add_argument(
        "--dest", type=Path, help="where to make the folder identification (default: in FOLDER)"
    )
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.1,
        help="share of the patients with two recordings in valid (0.1); with --train, where all of "
        "them are evaluated, the ratio of both fractions counts",
    )
    parser.add_argument(
        "--test-fraction", type=float, default=0.1, help="the same share in test (0.1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the division of patients (0)")
    parser.add_argument(
        "--keep-splits", action="store_true", help="take the splits of the folders' own manifests"
    )
    parser.add_argument(
        "--records-as-patients",
        action="store_true",
        help="train on each recording as a patient of its own, as Oh et al. do",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the manifests and print what is in them."""
    report = write_identification(
        args.folder,
        args.train,
        args.dest,
        valid_fraction=args.valid_fraction,
        test_fraction=args.test_fraction,
        seed=args.seed,
        keep_splits=args.keep_splits,
        records_as_patients=args.records_as_patients,
    )
    print(format_report(report))
    return 0


def format_report(report: IdentificationReport) -> str:
    """Return what was written and left out as text.

    Args:
        report: Its result.
    """
    lines = [
        f"train: {report.train_records} recordings of {report.train_patients} patients",
        f"valid: {report.valid_patients} patients, test: {report.test_patients} patients, with a "
        f"gallery and a probe recording each ({report.days_apart} pairs of different days)",
    ]
    for count, text in (
        (report.unused_records, "further recordings of evaluated patients are not used"),
        (report.single_patients, "patients of valid and test have one recording and are not used"),
        (report.known_records, "recordings are not trained on: their patients are evaluated"),
    ):
        if count:
            lines.append(f"{count} {text}")
    return "\n".join([*lines, f"manifests: {report.dest}"])
