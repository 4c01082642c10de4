"""``fairseq-ecg predict``: recordings of any format to probabilities, and pictures of why."""

import argparse
import logging
import re
import sys
from pathlib import Path

import numpy as np

from fairseq_ecg.cli.thresholds import read_thresholds
from fairseq_ecg.data.array_reader import UNITS_PER_MV
from fairseq_ecg.data.atomic import replacing_files
from fairseq_ecg.data.recordings import ArrayFacts, Fault
from fairseq_ecg.plots.ecg_paper import Underlay, plot_ecg
from fairseq_ecg.prediction import (
    FILES,
    MISSING_LEADS,
    PER,
    Prediction,
    Predictions,
    predict,
    write_predictions,
)
from fairseq_ecg.saliency import METHODS, smoothed

_SHOWN = 5  # classes of a recording that are printed


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "predict", help="probabilities of recordings of any format, and what they rest on"
    )
    parser.add_argument("checkpoint", help="checkpoint of a classifier (.pt), or an export")
    parser.add_argument(
        "recordings",
        nargs="+",
        metavar="recording",
        help="a WFDB record, a .mat segment, .npy, .csv or .h5; STORE/RECORD or FILE.h5/NAME; a "
        "store; or a folder of these",
    )
    arrays = parser.add_argument_group("what .npy, .csv and .h5 do not say")
    arrays.add_argument("--rate", type=float, metavar="HZ", help="their rate")
    arrays.add_argument(
        "--leads",
        default="",
        metavar="I,II,...",
        help="names of all their leads, in order (a .csv may name them in its first line)",
    )
    arrays.add_argument(
        "--unit", default="mV", choices=tuple(UNITS_PER_MV), help="of their numbers (%(default)s)"
    )
    parser.add_argument(
        "--missing-leads",
        default="refuse",
        choices=MISSING_LEADS,
        help="recordings without leads that the network was trained on (default: %(default)s)",
    )
    parser.add_argument(
        "--per",
        choices=PER,
        help="rows of predictions.csv (default: record; window for a network of short frames)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--threshold", type=float, help="probability that decides (default: that of the training)"
    )
    group.add_argument(
        "--thresholds", type=Path, help="file of `fairseq-ecg thresholds`: one for each class"
    )
    parser.add_argument(
        "--pictures", action="store_true", help="draw each recording, with its probabilities"
    )
    parser.add_argument(
        "--saliency",
        choices=METHODS,
        help="colour in the pictures what speaks for a class and against it; attention: of "
        "transformers only, where they look",
    )
    parser.add_argument(
        "--class",
        dest="label",
        metavar="NAME",
        help="class of --saliency (default: the most probable one of each recording)",
    )
    parser.add_argument("--dpi", type=int, default=110, help="pixels per inch (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="windows per forward pass")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--out", type=Path, help=f"folder for {', '.join(FILES)} and pictures, NAME.png"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict, print and write; 1 if some recordings could not be used, 2 if none could."""
    drawn = args.pictures or args.saliency is not None
    if drawn and args.out is None:
        raise ValueError("pictures need a place: give --out FOLDER")
    if args.label is not None and args.saliency is None:
        raise ValueError(f"--class {args.label} says what --saliency explains; give that too")
    logging.getLogger("fairseq_ecg").setLevel(logging.WARNING)
    leads = tuple(name.strip() for name in args.leads.split(",") if name.strip())
    arrays = ArrayFacts(args.rate, leads, args.unit)
    thresholds = None if args.thresholds is None else read_thresholds(args.thresholds).thresholds
    if args.out is None:
        result = _predict(args, arrays, thresholds, None)
    else:
        with replacing_files(args.out, FILES) as folder:
            result = _predict(args, arrays, thresholds, folder if drawn else None)
            write_predictions(result, folder)
    for remark in result.remarks:
        print(f"note: {remark}")
    if not result.found:
        return 2
    return 1 if result.faults else 0


def _predict(
    args: argparse.Namespace,
    arrays: ArrayFacts,
    thresholds: dict[str, float] | None,
    pictures: Path | None,
) -> Predictions:
    def show(one: Prediction | Fault) -> None:
        if isinstance(one, Fault):
            where = "" if one.detail.startswith(one.place) else f"{one.place}: "
            print(f"{where}{one.detail} [{one.reason}]", file=sys.stderr)
            return
        _print(one)
        if pictures is not None and one.signal is not None:
            draw(one, _free_path(pictures, one.name), args.dpi)
        elif pictures is not None:
            print(f"{one.name}: no picture, its samples are not in mV", file=sys.stderr)

    return predict(
        args.checkpoint,
        args.recordings,
        arrays=arrays,
        per=args.per,
        saliency=args.saliency,
        label=args.label,
        with_signal=pictures is not None,
        on_each=show,
        threshold=args.threshold if thresholds is None else thresholds,
        missing_leads=args.missing_leads,
        batch_size=args.batch_size,
        device=args.device,
    )


def _print(one: Prediction) -> None:
    order = one.probability.argsort()[::-1]
    shown = [k for place, k in enumerate(order) if place < _SHOWN or one.labels[k] in one.decided]
    parts = [
        f"{one.labels[k]}{'*' if one.labels[k] in one.decided else ''} {one.probability[k]:.3f}"
        for k in shown
    ]
    print(f"{one.name}  {'  '.join(parts)}")
    for remark in one.remarks:
        print(f"    {remark}")


def draw(one: Prediction, path: Path, dpi: int = 110) -> Path:
    """Draw a recording on ECG paper with its probabilities and, if there is one, its explanation.

    Args:
        one: A prediction with its ``signal``.
        path: The picture, .png, .pdf or .svg.
        dpi: Pixels per inch of a .png.

    Returns:
        The path.
    """
    order = one.probability.argsort()[::-1]
    labels = [(one.labels[k], float(one.probability[k]), None) for k in order]
    underlay = None
    if one.explanation is not None:
        found = one.explanation
        values = found.values
        if found.method == "attention":  # what is looked at least is left white
            least = values.min(initial=1.0, where=values > 0)
            values = np.where(values > 0, values - least, 0.0)
        values = smoothed(values, found.rate_hz)
        underlay = Underlay(values, found.rate_hz, found.leads, _caption(one))
    return plot_ecg(
        one.signal, path, one.name, labels, dpi=dpi, decided=one.decided, underlay=underlay
    )


def _caption(one: Prediction) -> str:
    label, method = one.explanation.label, one.explanation.method
    if method == "attention":
        return "orange: where the transformer looks most (attention rollout)"
    name = {"gradient": "gradient x input", "integrated": "integrated gradients"}[method]
    return f"orange: speaks for {label}, blue: against it ({name})"


def _free_path(folder: Path, name: str) -> Path:
    """Return a path for a picture that no other one has, whatever is in the name."""
    stem = re.sub(r"[^\w.+-]+", "_", name).strip("._") or "recording"
    path, number = folder / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.png"
    return path
