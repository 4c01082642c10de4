"""``fairseq-ecg diversity``: how differently models decide, from their predictions."""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairseq_ecg.cli.thresholds import SCORES
from fairseq_ecg.data.atomic import write_text
from fairseq_ecg.evaluation_files import evaluation_folder, read_evaluation
from fairseq_ecg.evaluation_results import Evaluation, check_same_rows
from fairseq_ecg.metrics.diversity import (
    MEASURES,
    Arm,
    Model,
    describe_arm,
    exchange_test,
    measure_table,
    sign_test,
)
from fairseq_ecg.metrics.multilabel import decide
from fairseq_ecg.metrics.thresholds import DEFAULT
from fairseq_ecg.plots.diversity import plot_diversity


@dataclass(frozen=True, eq=False)
class Comparison:
    """What came out of a comparison.

    Args:
        arms: By name.
        folders: The predictions of each arm's models, as they were given.
        rows: How many recordings or segments.
        classes: How many classes.
        tests: One row per measure and ``macro_auc``, with the means of the ``first`` and the
            ``second`` arm, their ``difference`` (second minus first), ``p_pairs`` and ``p_models``;
            None unless there are two arms of equally many models.
    """

    arms: dict[str, Arm]
    folders: dict[str, list[str]]
    rows: int
    classes: int
    tests: pd.DataFrame | None

    def models(self) -> pd.DataFrame:
        """Return one row per model."""
        return pd.DataFrame(
            [
                {
                    "arm": name,
                    "model": folder,
                    "macro_auc": arm.macro_auc[m],
                    "error": arm.error[m],
                    "error_exact": arm.error_exact[m],
                }
                for name, arm in self.arms.items()
                for m, folder in enumerate(self.folders[name])
            ]
        )

    def pairs(self) -> pd.DataFrame:
        """Return one row per pair of models of one arm."""
        return pd.DataFrame(
            [
                {
                    "arm": name,
                    "first": self.folders[name][i],
                    "second": self.folders[name][j],
                    "macro_auc": arm.pair_auc[p],
                    **{measure: getattr(arm.diversity[p], measure) for measure in MEASURES},
                }
                for name, arm in self.arms.items()
                for p, (i, j) in enumerate(arm.pairs)
            ]
        )

    def ensembles(self) -> pd.DataFrame:
        """Return one row per arm and number of models that are averaged."""
        return pd.DataFrame(
            [
                {"arm": name, "members": m + 1, "macro_auc": auc, "gain": arm.gain[m]}
                for name, arm in self.arms.items()
                for m, auc in enumerate(arm.ensemble_auc)
            ]
        )

    def summary(self) -> pd.DataFrame:
        """Return one row per arm and measure: mean, standard deviation, least, largest, median."""
        rows = []
        for name, arm in self.arms.items():
            values = {"macro_auc": arm.macro_auc, "error": arm.error}
            values |= {measure: arm.measure(measure) for measure in MEASURES}
            rows += [{"arm": name, "of": of, **_spread(found)} for of, found in values.items()]
        return pd.DataFrame(rows)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "diversity",
        help="compare how differently several models decide",
        epilog="FOLDER is what `fairseq-ecg evaluate ... --out FOLDER` wrote. All must be of the "
        "same recordings. Of two arms of equally many models those at the same place belong "
        "together, such as those of one seed.",
    )
    parser.add_argument(
        "--arm",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "FOLDER"),
        help="models that were trained in the same way, two or more; can be repeated",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--threshold",
        type=float,
        default=DEFAULT,
        help="probability that decides (default: %(default)s)",
    )
    group.add_argument(
        "--valid",
        metavar="FOLDER",
        help="predictions of each model on validation data, relative to its FOLDER, such as "
        "../valid; thresholds are chosen on these, for each model by itself",
    )
    parser.add_argument(
        "--score",
        default="f1",
        choices=tuple(SCORES),
        help="what the thresholds of --valid maximise (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random draws (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for models.csv, pairs.csv, ensembles.csv, summary.json and diversity.png",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print and write."""
    arms: dict[str, list[str]] = {}
    for name, *folders in args.arm:
        if name in arms:
            raise ValueError(f"there are two arms called {name}; give each a name of its own")
        arms[name] = folders
    comparison = compare_models(
        arms, threshold=args.threshold, valid=args.valid, score=args.score, seed=args.seed
    )
    print(format_comparison(comparison))
    if args.out is not None:
        write_comparison(comparison, args.out)
    return 0


def compare_models(
    arms: Mapping[str, Sequence[str]],
    *,
    threshold: float = DEFAULT,
    valid: str | None = None,
    score: str = "f1",
    seed: int = 0,
) -> Comparison:
    """Compare the models of one or more arms (see ``metrics/diversity.py``).

    Args:
        arms: For each arm the folders that ``evaluate`` wrote, one per model.
        threshold: A class is decided where its probability is above this.
        valid: Where each model's predictions on validation data are, relative to its folder; its
            thresholds are then chosen on them.
        score: What these thresholds maximise; one of ``SCORES`` of ``cli/thresholds.py``.
        seed: Of random draws.

    Raises:
        ValueError: If an arm has fewer than two models, a file is missing or broken, or the
            predictions are not of the same recordings and classes.
    """
    if score not in SCORES:
        raise ValueError(f"no score is called {score!r}; scores: {', '.join(SCORES)}")
    first: Evaluation | None = None
    models: dict[str, list[Model]] = {}
    for name, folders in arms.items():
        if len(folders) < 2:
            raise ValueError(
                f"the arm {name} has {'one model' if folders else 'no model'}; diversity is "
                "between models, so give the predictions of two or more, trained with other seeds"
            )
        models[name] = []
        for folder in folders:
            found = read_evaluation(folder)
            first = found if first is None else first
            check_same_rows(first, found, next(iter(arms.values()))[0], folder)
            limits: np.ndarray | float = threshold
            if valid is not None:
                limits = _thresholds(evaluation_folder(folder) / valid, found, SCORES[score], seed)
            models[name].append(Model(found.probability, _decide(found, limits)))
    if first is None:
        raise ValueError("there is no arm to look at; give one or more")
    described = {name: describe_arm(first.truth, found, seed) for name, found in models.items()}
    return Comparison(
        arms=described,
        folders={name: [str(folder) for folder in folders] for name, folders in arms.items()},
        rows=len(first.names),
        classes=len(first.labels),
        tests=_compare_arms(first.truth, models, described, seed),
    )


def format_comparison(comparison: Comparison) -> str:
    """Return the tables of a comparison as text."""
    summary = comparison.summary()
    parts = [f"{comparison.rows} rows, {comparison.classes} classes"]
    for name, arm in comparison.arms.items():
        table = summary[summary["arm"] == name].drop(columns="arm").set_index("of")
        pairs = "1 pair" if len(arm.pairs) == 1 else f"{len(arm.pairs)} pairs"
        parts.append(f"{name}: {len(arm.macro_auc)} models, {pairs}")
        parts.append(_text(table))
        undefined = [of for of in table.index if table.loc[of, "n"] < len(arm.pairs)]
        undefined = [of for of in undefined if of in MEASURES]
        if undefined:
            parts.append(f"without a value for some pairs: {', '.join(undefined)}")
    gains = comparison.ensembles().pivot(index="members", columns="arm", values="gain")
    parts += ["ensemble gain (macro AUROC)", _text(gains[list(comparison.arms)])]
    if comparison.tests is not None:
        one, other = comparison.arms
        parts += [f"{other} (second) minus {one} (first)", _text(comparison.tests.set_index("of"))]
    elif len(comparison.arms) > 1:
        parts.append("no tests: these need two arms of equally many models")
    return "\n\n".join(parts)


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write the tables as CSV, a summary as JSON, and the picture, if any pair has a value.

    A number that has no meaning (NaN) is empty in the tables and null in the summary.
    """
    tables = {
        "models": comparison.models(),
        "pairs": comparison.pairs(),
        "ensembles": comparison.ensembles(),
    }
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.9g"))
    tests = [] if comparison.tests is None else _records(comparison.tests)
    content = {
        "rows": comparison.rows,
        "classes": comparison.classes,
        "arms": comparison.folders,
        "summary": _records(comparison.summary()),
        "tests": tests,
    }
    write_text(folder / "summary.json", json.dumps(content, indent=2) + "\n")
    points = {
        name: list(zip(arm.pair_auc, arm.measure("div_norm"), strict=True))
        for name, arm in comparison.arms.items()
    }
    if np.isfinite([value for pairs in points.values() for value in pairs]).all(axis=1).any():
        plot_diversity(points, folder / "diversity.png")


def _compare_arms(
    truth: np.ndarray, models: dict[str, list[Model]], arms: dict[str, Arm], seed: int
) -> pd.DataFrame | None:
    """Return the tests of two arms of equally many models."""
    if len(arms) != 2 or len({len(found) for found in models.values()}) != 1:
        return None
    first, second = arms.values()
    everyone = [model for found in models.values() for model in found]
    rows = []
    for measure in MEASURES:
        a, b = first.measure(measure), second.measure(measure)
        p_models = exchange_test(measure_table(truth, everyone, measure), seed)
        rows.append((measure, a, b, sign_test(b - a, seed), p_models))
    auc = sign_test(second.macro_auc - first.macro_auc, seed)
    rows.append(("macro_auc", first.macro_auc, second.macro_auc, math.nan, auc))
    return pd.DataFrame(
        [
            {
                "of": of,
                "first": _mean(a),
                "second": _mean(b),
                "difference": _mean(b) - _mean(a),
                "p_pairs": p_pairs,
                "p_models": p_models,
            }
            for of, a, b, p_pairs, p_models in rows
        ]
    )


def _decide(found: Evaluation, limits: np.ndarray | float) -> np.ndarray:
    """Return the decisions; of classes that exclude each other the most probable one."""
    if not found.single_label:
        return decide(found.probability, limits)
    return np.eye(len(found.labels), dtype=bool)[found.probability.argmax(axis=1)]


def _thresholds(
    folder: Path, found: Evaluation, search: Callable[[Evaluation, int], Any], seed: int
) -> np.ndarray:
    """Return the thresholds that are best on a model's predictions on validation data."""
    if found.single_label:
        raise ValueError(
            "the classes exclude each other, so that the most probable one is decided and "
            "thresholds play no part; leave out --valid"
        )
    chosen_on = read_evaluation(folder)
    if chosen_on.labels != found.labels:
        raise ValueError(f"{folder} has other classes than the predictions it is to decide")
    if chosen_on.names == found.names:
        raise ValueError(
            f"{folder} has the recordings that are to be decided; give predictions on others"
        )
    return search(chosen_on, seed).values


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _spread(values: np.ndarray) -> dict[str, Any]:
    found = values[np.isfinite(values)]
    if not found.size:
        return {"n": 0, **dict.fromkeys(("mean", "sd", "min", "max", "median"), math.nan)}
    return {
        "n": len(found),
        "mean": float(found.mean()),
        "sd": float(found.std(ddof=1)) if len(found) > 1 else math.nan,
        "min": float(found.min()),
        "max": float(found.max()),
        "median": float(np.median(found)),
    }


def _text(table: pd.DataFrame) -> str:
    return table.rename_axis(index=None, columns=None).to_string(
        float_format=lambda value: f"{value:.4f}", na_rep="-"
    )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()}
        for row in table.to_dict("records")
    ]
