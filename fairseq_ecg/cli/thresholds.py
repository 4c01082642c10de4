"""``fairseq-ecg thresholds``: choose on validation data which probability decides each class."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fairseq_ecg.cli._evaluating import add_options, options_of
from fairseq_ecg.data.atomic import write_text
from fairseq_ecg.evaluation import Evaluation, evaluate
from fairseq_ecg.metrics import thresholds as search
from fairseq_ecg.metrics.cinc2021 import find_class, load_weights
from fairseq_ecg.metrics.multilabel import accuracy_exact
from fairseq_ecg.resources import challenge_labels, challenge_weights_file

FORMAT = "fairseq_ecg thresholds 1"


@dataclass(frozen=True)
class ChosenThresholds:
    """One threshold per class, and where it comes from.

    Args:
        checkpoint: Whose probabilities they cut; several are joined by `` + ``.
        data: Folder of the label set they were chosen on.
        split: The manifest they were chosen on.
        score_per: Whether rows were recordings or segments.
        score: What was maximised; one of ``SCORES``.
        value: The score with these thresholds; None if it has no meaning.
        value_at_default: The score with 0.5 for each class; None if it has no meaning.
        rows: How many recordings or segments there were.
        kept: Classes that keep 0.5, because the data say nothing about them.
        thresholds: By label, in the order of the labels, in [0, 1].
    """

    checkpoint: str
    data: str
    split: str
    score_per: str
    score: str
    value: float | None
    value_at_default: float | None
    rows: int
    kept: list[str]
    thresholds: dict[str, float]


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser("thresholds", help="choose decision thresholds on a split")
    parser.add_argument(
        "checkpoint",
        nargs="+",
        help="checkpoint of a classifier (.pt); several: their mean probability is cut",
    )
    parser.add_argument("data", help="folder of a label set: labels.txt, valid.tsv, ...")
    add_options(parser, split="valid")
    parser.add_argument(
        "--score",
        default="f1",
        choices=tuple(SCORES),
        help="what to maximise: macro F1 (default) or F2, the F_beta or G_beta of CPSC 2018, the "
        "CinC 2021 score, or the share of records with every class right",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random starts (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="file to write, JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search, print and write."""
    chosen = choose_thresholds(
        args.checkpoint,
        args.data,
        args.split,
        args.score,
        seed=args.seed,
        **options_of(args),
    )
    if "test" in args.split:
        print(
            f"warning: thresholds chosen on {args.split} make its numbers worthless; choose them "
            "on validation data",
            file=sys.stderr,
        )
    for label, value in chosen.thresholds.items():
        print(f"{label:>14}  {value:.4f}{'  (kept)' if label in chosen.kept else ''}")
    before, after = (
        "-" if value is None else f"{value:.4f}"
        for value in (chosen.value_at_default, chosen.value)
    )
    print(f"{chosen.score} on {chosen.rows} {args.score_per}s of {args.split}: {before} -> {after}")
    write_thresholds(chosen, args.out)
    return 0


def choose_thresholds(
    checkpoint: str | Sequence[str],
    data: str,
    split: str = "valid",
    score: str = "f1",
    *,
    score_per: str = "record",
    seed: int = 0,
    **options: Any,
) -> ChosenThresholds:
    """Search the thresholds with the best score of a split (see ``metrics/thresholds.py``).

    Args:
        checkpoint: Checkpoint of a classifier, or several, whose mean probability is cut.
        data: Folder of a label set, with ``labels.txt`` and ``<split>.tsv``.
        split: Which manifest; not the one that will be reported.
        score: What to maximise; one of ``SCORES``.
        score_per: "record" averages the probabilities of a recording's segments; "segment" keeps
            them apart.
        seed: Of the random starts of the searches that have any.
        **options: Further keywords of ``evaluate``.

    Raises:
        ValueError: If ``evaluate`` refuses, the checkpoint is no classifier, the score is unknown,
            or it is "cinc" and the classes are not the challenge's.
    """
    if score not in SCORES:
        raise ValueError(f"no score is called {score!r}; scores: {', '.join(SCORES)}")
    result = evaluate(checkpoint, data, split, score_per=score_per, **options)
    if not isinstance(result, Evaluation):
        raise ValueError(
            f"{joined(checkpoint)} decides no classes; give the checkpoint of a classifier"
        )
    if result.single_label:
        raise ValueError(
            f"{joined(checkpoint)} decides for the most probable class, so there are no "
            "thresholds to choose; `fairseq-ecg evaluate` needs none"
        )
    found = SCORES[score](result, seed)
    return ChosenThresholds(
        checkpoint=joined(checkpoint),
        data=str(data),
        split=split,
        score_per=score_per,
        score=score,
        value=_number(found.score),
        value_at_default=_number(found.score_at_default),
        rows=len(result.names),
        kept=[result.labels[k] for k in found.kept],
        thresholds=dict(zip(result.labels, found.values.tolist(), strict=True)),
    )


def write_thresholds(chosen: ChosenThresholds, path: str | Path) -> None:
    """Write thresholds as JSON, whole or not at all; the order of the labels is kept."""
    write_text(path, thresholds_text(chosen))


def thresholds_text(chosen: ChosenThresholds) -> str:
    """Return what ``write_thresholds`` writes."""
    return json.dumps({"format": FORMAT, **asdict(chosen)}, indent=2) + "\n"


def joined(checkpoint: str | Path | Sequence[str]) -> str:
    """Return how the file of thresholds names one checkpoint or several."""
    return str(checkpoint) if isinstance(checkpoint, str | os.PathLike) else " + ".join(checkpoint)


def read_thresholds(path: str | Path) -> ChosenThresholds:
    """Read what ``write_thresholds`` wrote.

    Args:
        path: The file.

    Raises:
        ValueError: If there is no such file, or it is of another kind.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file; `fairseq-ecg thresholds` writes one")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        chosen = ChosenThresholds(**content)
        values = {label: float(value) for label, value in chosen.thresholds.items()}
        if not all(0 <= value <= 1 for value in values.values()):
            raise ValueError("a threshold outside [0, 1]")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of thresholds ({error}); `fairseq-ecg thresholds` writes one"
        ) from None
    return replace(chosen, thresholds=values)


def _f_measure(beta: float) -> Callable[[Evaluation, int], search.Thresholds]:
    def find(result: Evaluation, seed: int) -> search.Thresholds:
        return search.search_f_measure(result.probability, result.truth, beta=beta)

    return find


def _beta(measure: Literal["f_beta", "g_beta"]) -> Callable[[Evaluation, int], search.Thresholds]:
    def find(result: Evaluation, seed: int) -> search.Thresholds:
        return search.search_beta(result.probability, result.truth, measure)

    return find


def _challenge(result: Evaluation, seed: int) -> search.Thresholds:
    if result.labels != challenge_labels():
        raise ValueError(
            f"the score cinc needs the {len(challenge_labels())} classes of CinC 2021, but the "
            f"data have {', '.join(result.labels[:4])}, ...; give --score f1, or the folder "
            "cinc2021 of the manifests"
        )
    classes, weights = load_weights(challenge_weights_file())
    sinus = find_class(classes)
    return search.search_challenge(result.probability, result.truth, weights, sinus, seed=seed)


def _exact(result: Evaluation, seed: int) -> search.Thresholds:
    return search.search_thresholds(result.probability, result.truth, accuracy_exact, seed=seed)


SCORES: dict[str, Callable[[Evaluation, int], search.Thresholds]] = {
    "f1": _f_measure(1.0),
    "f2": _f_measure(2.0),
    "f_beta": _beta("f_beta"),
    "g_beta": _beta("g_beta"),
    "cinc": _challenge,
    "exact": _exact,
}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
