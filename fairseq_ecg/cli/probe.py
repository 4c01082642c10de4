"""``fairseq-ecg probe``: linear probe and nearest neighbours on frozen features."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairseq_ecg.data.atomic import replacing_files, write_text
from fairseq_ecg.embedding_files import read_embeddings
from fairseq_ecg.evaluation_files import FILES as EVALUATION_FILES
from fairseq_ecg.evaluation_files import markdown_table, write_evaluation
from fairseq_ecg.plots.label_efficiency import plot_label_efficiency
from fairseq_ecg.probing import (
    HEADS,
    SHARES,
    Probing,
    features_of,
    metric_title,
    probe,
    read_label_set,
    shallow_features_of,
)

TABLE_FILE, SUMMARY_FILE, JSON_FILE = "probe.csv", "summary.csv", "probe.json"
PAGE_FILE, PICTURE_FILE = "probe.md", "label_efficiency.png"
FILES = (TABLE_FILE, SUMMARY_FILE, PAGE_FILE, JSON_FILE, PICTURE_FILE)

_HEAD_NAMES = {"linear": "linear probe", "knn": "k nearest neighbours"}
_SHOWN = {True: ("accuracy", "f1", "auroc"), False: ("macro_auroc", "macro_auprc", "f_max")}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "probe",
        help="linear probe and nearest neighbours on embeddings",
        epilog="EMBEDDINGS is what `fairseq-ecg extract` wrote, of DATA or of its store. Simple "
        "features of the recordings are always probed beside them; give the embeddings of a "
        "random encoder (`fairseq-ecg extract --random-init 0`) too.",
    )
    parser.add_argument("data", help="folder of a label set: labels.txt, train.tsv, ...")
    parser.add_argument(
        "embeddings", nargs="+", help="folders of embeddings; [NAME=]FOLDER names one in tables"
    )
    parser.add_argument("--train", default="train", help="split to train on (default: train)")
    parser.add_argument("--valid", default="valid", help="split to choose on (default: valid)")
    parser.add_argument("--test", default="test", help="split to score (default: test)")
    parser.add_argument(
        "--heads", nargs="+", default=HEADS, choices=HEADS, help="default: linear knn"
    )
    parser.add_argument(
        "--shares",
        nargs="+",
        type=float,
        default=[100 * share for share in SHARES],
        metavar="PERCENT",
        help="of the training recordings (default: 1 10 100)",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the shares (default: 0 1 2)"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--single-label",
        action="store_true",
        default=None,
        dest="single_label",
        help="the classes exclude each other (default: if each recording has exactly one)",
    )
    group.add_argument(
        "--multi-label", action="store_false", dest="single_label", help="they do not"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"folder for {', '.join(FILES)}, and the predictions of each probe",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Probe, print and write."""
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; give the name of a folder")
    label_set = read_label_set(args.data, args.train, args.valid, args.test, args.single_label)
    features = [
        features_of(read_embeddings(folder), label_set, name)
        for name, folder in map(named, args.embeddings)
    ]
    features.append(shallow_features_of(label_set))
    found = probe(
        label_set,
        features,
        heads=args.heads,
        shares=[percent / 100 for percent in args.shares],
        seeds=args.seeds,
    )
    print(markdown(found))
    if args.out is not None:
        write_probing(found, args.out)
    return 0


def named(text: str) -> tuple[str, str]:
    """Split ``NAME=FOLDER``; the name of a folder without one is its own.

    Args:
        text: As it was given.
    """
    name, mark, folder = text.partition("=")
    if mark and name and "/" not in name:
        return name, folder
    path = Path(text)
    return (path.name or str(path)), text


def markdown(found: Probing) -> str:
    """Return a table: mean and deviation over the seeds of each features, head and share.

    Args:
        found: What ``probe`` returned.
    """
    shown = _shown(found)
    summary = found.summary().set_index(["features", "head", "share", "metric"])
    first = found.table.groupby(["features", "head", "share"], sort=False).first()
    head = ["features", "head", "% of labels", "recordings", *map(metric_title, shown)]
    lines = []
    for key, row in first.iterrows():
        cells = [str(key[0]), _HEAD_NAMES[key[1]], f"{100 * key[2]:g}", str(int(row["records"]))]
        for metric in shown:
            of = summary.loc[(*key, metric)]
            spread = "" if np.isnan(of["sd"]) else f" ± {of['sd']:.3f}"
            cells.append("-" if np.isnan(of["mean"]) else f"{of['mean']:.3f}{spread}")
        lines.append(cells)
    seeds = found.table["seed"].nunique()
    text = markdown_table(head, lines) + (
        f"\n\nMean ± standard deviation over {seeds} draws of the training patients; all of them "
        "are one run."
    )
    remarks = "\n".join(f"- {remark}" for remark in found.remarks)
    return text + (f"\n\n{remarks}" if remarks else "") + "\n"


def write_probing(found: Probing, folder: Path) -> None:
    """Write tables, picture and, in a folder each, the predictions of the probes of all labels.

    A number that has no meaning (NaN) is empty in tables and null in JSON.

    Args:
        found: What ``probe`` returned.
        folder: Where to; made if absent.
    """
    evaluations = {
        f"{_plain(name)}-{head}": result for (name, head), result in found.evaluations.items()
    }
    earlier = [f"{name}/{file}" for name in evaluations for file in EVALUATION_FILES]
    with replacing_files(folder, [*FILES, *earlier]) as temporary:
        _write_table(found.table, temporary / TABLE_FILE)
        _write_table(found.summary(), temporary / SUMMARY_FILE)
        write_text(temporary / PAGE_FILE, markdown(found))
        write_text(temporary / JSON_FILE, json.dumps(_content(found), indent=2) + "\n")
        metric = _shown(found)[-1 if _is_single_label(found) else 0]
        panels = _panels(found, metric)
        if np.isfinite(found.table[metric]).any():
            plot_label_efficiency(panels, temporary / PICTURE_FILE, y=metric_title(metric))
        for name, result in evaluations.items():
            write_evaluation(result, temporary / name)


def _content(found: Probing) -> dict[str, Any]:
    table = found.table.to_json(orient="records", double_precision=15)
    summary = found.summary().to_json(orient="records", double_precision=15)
    return {
        "runs": json.loads(table),
        "summary": json.loads(summary),
        "metrics": found.metrics,
        "remarks": found.remarks,
    }


def _panels(found: Probing, metric: str) -> dict[str, dict[str, dict[float, np.ndarray]]]:
    panels: dict[str, dict[str, dict[float, np.ndarray]]] = {}
    for (head, name, share), rows in found.table.groupby(["head", "features", "share"], sort=False):
        of_head = panels.setdefault(_HEAD_NAMES[head], {})
        of_head.setdefault(name, {})[share] = rows[metric].to_numpy(dtype=np.float64)
    return panels


def _is_single_label(found: Probing) -> bool:
    return "macro_auroc" not in found.metrics


def _shown(found: Probing) -> list[str]:
    return [name for name in _SHOWN[_is_single_label(found)] if name in found.metrics]


def _write_table(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False, float_format="%.9g"))


def _plain(name: str) -> str:
    return "".join(mark if mark.isalnum() or mark in "._-" else "_" for mark in name)
