"""``fairseq-ecg manifest``: a folder of recordings -> a store and manifests."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from fairseq_ecg.cli._building import add_options, add_overwrite, options_of
from fairseq_ecg.corpora._base import SPLITS, available_corpora
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora._in_place import InPlaceCorpus
from fairseq_ecg.data.builder import LEDGER_FILE, SUMMARY_FILE, DatasetReport
from fairseq_ecg.data.ingest import DUPLICATE_POLICIES, FLAT_LEAD_POLICIES, BuildOptions
from fairseq_ecg.data.leads import STANDARD_LEADS, parse_leads
from fairseq_ecg.data.ledger import EXCLUDED, IN_NO_SPLIT, KEPT, REASONS, SIGNAL_ONLY
from fairseq_ecg.data.preprocess import PREPROCESSING_DEFAULTS
from fairseq_ecg.data.store import DTYPES

__all__ = ["add_parser", "build_manifest", "run"]

_EPILOG = (
    "A stopped build goes on when the same command is given again. Records that are left out, or "
    f"kept with a remark, are in DEST/{LEDGER_FILE}."
)
_EPILOG_IN_PLACE = (
    "The recordings are checked and stay where they are. Those that are left out, or kept with a "
    f"remark, are in DEST/{LEDGER_FILE}."
)


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb to the command, with one sub-command per corpus and its own options.

    Args:
        subparsers: Where to add it.
    """
    parser = subparsers.add_parser(
        "manifest", help="build a store and manifests from a folder of recordings", epilog=_EPILOG
    )
    parser.set_defaults(run=run)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    for name, corpus in available_corpora().items():
        text = (corpus.__doc__ or name).strip().splitlines()[0]
        aliases = [name.replace("-", "_")] if "-" in name else []
        child = corpora.add_parser(
            name,
            aliases=aliases,
            help=text.replace("%", "%%"),
            description=text,
            epilog=_EPILOG_IN_PLACE if issubclass(corpus, InPlaceCorpus) else _EPILOG,
        )
        _add_common(child)
        if not issubclass(corpus, InPlaceCorpus):
            _add_store_options(child)
        group = child.add_argument_group(f"options of {name}")
        for field in dataclasses.fields(corpus):
            group.add_argument(
                _flag(field.name),
                type=type(field.default),
                default=field.default,
                choices=field.metadata["choices"],
                help=f"{field.metadata['description']} (default: {_show(field.default)})",
            )


def run(args: argparse.Namespace) -> int:
    """Build and print a summary.

    Args:
        args: What the parser of ``add_parser`` returns.

    Returns:
        0; errors are raised as ``ValueError``.
    """
    corpus = available_corpora()[args.corpus.replace("_", "-")]
    report = build_manifest(
        args.corpus,
        args.folder,
        args.dest,
        corpus_options={
            field.name: getattr(args, field.name) for field in dataclasses.fields(corpus)
        },
        **_given(lead_map=tuple(args.lead_map) or None),
        **({} if issubclass(corpus, InPlaceCorpus) else _store_options(args)),
        **options_of(args),
    )
    print(format_report(report))
    return 0


def _store_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        **_given(
            rate_hz=args.rate,
            dtype=args.dtype,
            duplicates=args.duplicates,
            leads=_parse_leads(args.leads),
        ),
        "preprocessing": args.preprocessing,
        "min_seconds": args.min_seconds,
        "max_seconds": args.max_seconds,
        "flat_leads": args.flat_leads,
    }


def format_report(report: DatasetReport) -> str:
    """Return the summary of a build as text.

    Args:
        report: Its result.
    """
    summary = report.summary
    patients = summary["patients"]
    lines = [
        f"{summary['corpus']}: {summary['records_kept']} of {summary['records_listed']} records of "
        f"{patients} patient{'s' if patients != 1 else ''}, {summary['hours']:.1f} h at "
        f"{summary['rate_hz']:g} Hz" + (" (was finished already)" if report.was_finished else ""),
        "",
    ]
    lines += _align(_manifest_rows(summary) if "manifests" in summary else _split_rows(summary))
    lines += _warnings(summary)
    lines += ["", *summary["remarks"]] if summary.get("remarks") else []
    titles = {
        EXCLUDED: "left out",
        IN_NO_SPLIT: "in the store, but in no split",
        SIGNAL_ONLY: "without labels, only in the manifests *_all.tsv",
        KEPT: "kept, with a remark",
    }
    for action, title in titles.items():
        counts = summary["ledger"].get(action, {})
        if counts:
            lines += ["", f"{title}:"]
            lines += _align([[reason, n, REASONS.get(reason, "")] for reason, n in counts.items()])
    lines += ["", f"details: {report.dest / LEDGER_FILE}, {report.dest / SUMMARY_FILE}"]
    return "\n".join(lines)


def _split_rows(summary: dict[str, Any]) -> list[list[Any]]:
    splits = summary["splits"]
    rows = [["", "classes", *SPLITS, "not in the set"]]
    rows.append(["records", "", *(splits[split]["records"] for split in SPLITS), ""])
    rows.append(["patients", "", *(splits[split]["patients"] for split in SPLITS), ""])
    for name, facts in summary["label_sets"].items():
        counts = [facts["splits"][split] for split in SPLITS]
        rows.append([name, facts["classes"], *counts, facts["records_without_label"]])
    return rows


def _manifest_rows(summary: dict[str, Any]) -> list[list[Any]]:
    rows = [["", "records", "patients"]]
    for name, facts in summary["manifests"].items():
        rows.append([f"{name}.tsv", facts["records"], facts["patients"]])
    return rows


def _warnings(summary: dict[str, Any]) -> list[str]:
    unknown = summary.get("records_without_patient", 0)
    lines = []
    if unknown:
        lines.append(
            f"patients unknown: {unknown} records name no patient and count as one each, so that a "
            "person may be in two splits"
        )
    splits = summary["splits"]
    empty = [split for split in SPLITS if split in splits and not splits[split]["records"]]
    if empty:
        lines.append(f"no record is in {' and '.join(empty)}")
    return ["", *lines] if lines else []


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, help="folder of the recordings, as distributed")
    add("--dest", type=Path, required=True, help="folder to write to")
    add_options(parser)
    add_overwrite(parser)
    add(
        "--lead-map",
        type=_parse_pair,
        action="append",
        default=[],
        metavar="NAME=LEAD",
        help="take a lead of another name for a standard one, such as MLII=II; can be repeated",
    )


def _add_store_options(parser: argparse.ArgumentParser) -> None:
    defaults = BuildOptions()
    add = parser.add_argument
    add(
        "--rate",
        type=float,
        help="rate of the store in Hz (default: 500; for ptb-xl its --sampling, for code-15 400, "
        "for the emotion data sets 256, for challenge-2017 250)",
    )
    add("--dtype", choices=tuple(DTYPES), help="of the store (int16; preprocessed float32)")
    add(
        "--preprocessing",
        choices=tuple(PREPROCESSING_DEFAULTS),
        default=defaults.preprocessing,
        help="ecg-fm: 500 Hz along straight lines, each lead standardised over the recording "
        "(%(default)s)",
    )
    add(
        "--leads",
        help="leads of the store, such as I,II (default: all twelve; for ecg-id and challenge-2017 "
        "I)",
    )
    add("--min-seconds", type=float, default=defaults.min_seconds, help="leave out shorter (1)")
    add(
        "--max-seconds",
        type=float,
        default=defaults.max_seconds,
        help="leave out longer; more in proportion where file and store have under 12 leads (3600)",
    )
    add(
        "--flat-leads",
        choices=FLAT_LEAD_POLICIES,
        default=defaults.flat_leads,
        help="records with constant leads (%(default)s)",
    )
    add(
        "--duplicates",
        choices=DUPLICATE_POLICIES,
        help="records with the samples of another: one_split takes them out of the manifests if "
        "the other is in another split (default, except for official splits), keep, exclude",
    )


def _parse_leads(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(STANDARD_LEADS[row] for row in parse_leads(text))


def _parse_pair(text: str) -> tuple[str, str]:
    name, equals, lead = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"must be NAME=LEAD, such as MLII=II, but is {text!r}")
    try:
        rows = parse_leads(lead)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if len(rows) != 1:
        raise argparse.ArgumentTypeError(f"must name one lead after '=', but is {text!r}")
    return name.strip(), STANDARD_LEADS[rows[0]]


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _show(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}"
    return "none" if default == "" else str(default)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _align(rows: list[list[Any]]) -> list[str]:
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if cell.isdecimal() or row is texts[0] else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in texts
    ]
