"""The folder that an evaluation is written to: tables, numbers, words and pictures.

Everything appears together once all of it is on disk; a full disk leaves the folder as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairseq_ecg.data.atomic import replacing_files, write_text
from fairseq_ecg.evaluation_results import (
    START_COLUMN,
    Evaluation,
    Result,
    full_summary,
    remarks,
    subgroup_reliability,
    subgroups,
)
from fairseq_ecg.metrics.multiclass import SingleLabelSummary
from fairseq_ecg.metrics.resampled import PER_CLASS, of_class, split_name
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.plots.calibration import plot_calibration
from fairseq_ecg.plots.confusion import plot_confusion, plot_cooccurrence
from fairseq_ecg.plots.scores import plot_scores
from fairseq_ecg.plots.subgroups import plot_subgroups

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
TRUTH_FILE = "truth.csv"
CONFUSION_FILE = "confusion.csv"
RECORDS_FILE = "records.csv"
CURVES_PICTURE = "curves.png"
CALIBRATION_PICTURE = "calibration.png"
CONFUSION_PICTURE = "confusion.png"
COOCCURRENCE_PICTURE = "cooccurrence.png"
SUBGROUPS_PICTURE = "subgroups.png"

FILES = (
    *(METRICS_FILE, "metrics.csv", "metrics.md", PREDICTIONS_FILE, TRUTH_FILE, CONFUSION_FILE),
    *(RECORDS_FILE, "subgroups.csv", CURVES_PICTURE, CALIBRATION_PICTURE, CONFUSION_PICTURE),
    *(COOCCURRENCE_PICTURE, SUBGROUPS_PICTURE),
)
"""All that an evaluation may write; what of an earlier one is not written anew is removed."""


def write_evaluation(
    result: Result,
    folder: str | Path,
    pictures: bool = False,
    also: Mapping[str, str] | None = None,
) -> None:
    """Write a result.

    ``metrics.json``, ``metrics.csv`` (long form) and ``metrics.md`` hold the numbers and
    ``predictions.csv`` one row per record or probe. Of a classifier there are also ``truth.csv``,
    in the same rows and columns, ``records.csv``, what is known of each row, ``subgroups.csv`` if
    there are any groups, and ``confusion.csv`` (row: true, column: answered) where classes exclude
    each other. A number that has no meaning (NaN) is null in JSON and empty in tables.

    Args:
        result: What to write.
        folder: Where to; made if absent.
        pictures: Draw those of a classifier too.
        also: Further files of text, by name, that appear together with these.
    """
    with replacing_files(folder, FILES) as temporary:
        for name, text in (also or {}).items():
            write_text(temporary / name, text)
        groups = None
        if isinstance(result, Evaluation):
            groups = subgroups(result, result.draws)
            _write_rows(result, groups, temporary)
            if pictures:
                _draw(result, groups, temporary)
        table = result.table().to_csv(index=False, float_format="%.9g")
        write_text(temporary / PREDICTIONS_FILE, table)
        content = metrics_content(result, groups)
        write_text(temporary / METRICS_FILE, json.dumps(content, indent=2) + "\n")
        long_form = long_table(result).to_csv(index=False, float_format="%.9g")
        write_text(temporary / "metrics.csv", long_form)
        write_text(temporary / "metrics.md", markdown(result, groups))


def metrics_content(result: Result, groups: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return what ``metrics.json`` holds: plain values, None for NaN.

    Args:
        result: Whose numbers.
        groups: Table of ``subgroups``; None to leave it out.
    """
    content: dict[str, Any] = {
        "metrics": result.metrics,
        "rows": len(result.names),
        "segments": result.num_segments,
        "trained_on": result.overlap,
        "pretrained_on": result.pretraining_overlap,
        "unit": result.unit,
        "bootstrap": {"draws": result.draws, "level": 0.95, "by": "patient"},
        "intervals": {
            name: {"value": i.value, "low": i.low, "high": i.high, "valid": i.valid}
            for name, i in result.intervals.items()
            if not split_name(name)[1]
        },
        "remarks": remarks(result),
    }
    if isinstance(result, Evaluation):
        limits = result.thresholds
        content |= {
            "checkpoints": list(result.checkpoints),
            "data": result.data,
            "split": result.split,
            "patients": len(set(result.patients())),
            "single_label": result.single_label,
            "thresholds": (
                None if limits is None else dict(zip(result.labels, limits.tolist(), strict=True))
            ),
            "average": result.summary.average if isinstance(result.summary, Summary) else "macro",
            "calibration": result.calibration(),
            "classes": _records(result.per_class().reset_index()),
            "subgroups": [] if groups is None else _records(groups),
        }
    return _plain(content)


def long_table(result: Result) -> pd.DataFrame:
    """Return one row per number: metric, class, value, low, high, n, draws.

    ``class`` is empty for numbers of the whole set, ``n`` is how many rows the number is of, and
    ``draws`` how many draws have a value; they are empty where there is no interval.

    Args:
        result: Whose numbers.
    """
    values = dict(result.metrics)
    if isinstance(result, Evaluation):
        values |= result.calibration()
        table = result.per_class()
        for metric in (*PER_CLASS, "ece"):
            values |= {of_class(metric, label): row[metric] for label, row in table.iterrows()}
    values |= {n: i.value for n, i in result.intervals.items() if n not in values}
    rows = []
    for name, value in values.items():
        metric, label = split_name(name)
        found = result.intervals.get(name)
        ends = (math.nan,) * 3 if found is None else (found.low, found.high, found.valid)
        rows.append((metric, label, value, *ends[:2], len(result.names), ends[2]))
    columns = ["metric", "class", "value", "low", "high", "n", "draws"]
    return pd.DataFrame(rows, columns=columns).astype({"draws": "Int64"})


def markdown(result: Result, groups: pd.DataFrame | None = None) -> str:
    """Return the numbers as a page.

    Args:
        result: Whose numbers.
        groups: Table of ``subgroups``; None to leave it out.
    """
    long = long_table(result)
    whole = long[long["class"] == ""]
    parts = [_title(result), markdown_table(("metric", "value"), _overall_rows(whole))]
    if isinstance(result, Evaluation):
        parts += ["## Classes", _class_table(result)]
    if groups is not None and len(groups):
        parts += ["## Groups", _group_table(groups)]
    words = remarks(result)
    if words:
        parts += ["## Remarks", "\n".join(f"- {word}" for word in words)]
    return "\n\n".join(parts) + "\n"


def read_evaluation(path: str | Path) -> Evaluation:
    """Read what ``write_evaluation`` wrote of a classifier, without its metrics and intervals.

    Args:
        path: The folder, or ``predictions.csv`` in it.

    Raises:
        ValueError: If a file is missing, is none of a classifier, or both differ in rows or
            columns.
    """
    folder = evaluation_folder(path)
    names, labels, probability, start = _read_by_record(folder / PREDICTIONS_FILE)
    true_names, true_labels, truth, _ = _read_by_record(folder / TRUTH_FILE)
    if names != true_names or labels != true_labels:
        raise ValueError(
            f"{folder}: {PREDICTIONS_FILE} and {TRUTH_FILE} have other rows or columns; "
            "evaluate again"
        )
    single_label = (folder / CONFUSION_FILE).is_file()
    content = _read_content(folder / METRICS_FILE)
    summary: Summary | SingleLabelSummary | None = None
    if single_label:
        summary = SingleLabelSummary(tuple(labels))
    elif content.get("thresholds"):
        limits = np.array([content["thresholds"][label] for label in labels], dtype=np.float64)
        summary = full_summary(labels, limits, content["average"])
    return Evaluation(
        names,
        labels,
        probability,
        truth,
        unit=content.get("unit", "record"),
        single_label=single_label,
        summary=summary,
        records=_read_records(folder / RECORDS_FILE, names),
        start=start,
        checkpoints=tuple(content.get("checkpoints", ())),
        data=content.get("data", ""),
        split=content.get("split", ""),
    )


def evaluation_folder(path: str | Path) -> Path:
    """Return the folder of an evaluation, given it or ``predictions.csv`` in it."""
    return Path(path).parent if Path(path).name == PREDICTIONS_FILE else Path(path)


def _read_by_record(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray | None]:
    """Return records, classes, the table of numbers, float64, and first samples of frames."""
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; `fairseq-ecg evaluate CHECKPOINT DATA --out "
            f"{path.parent}` writes it"
        )
    try:
        table = pd.read_csv(path, dtype={"record": str}, keep_default_na=False)
        start = table.pop(START_COLUMN).to_numpy(np.int64) if START_COLUMN in table else None
        numbers = table.drop(columns="record").to_numpy(dtype=np.float64)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no table of a classifier's recordings: {error}") from None
    return table["record"].tolist(), [str(c) for c in table.columns[1:]], numbers, start


def _read_content(path: Path) -> dict[str, Any]:
    """Return the content of ``metrics.json``; nothing of a folder that has none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); evaluate again") from None
    return content if isinstance(content, dict) else {}


def _read_records(path: Path, names: list[str]) -> pd.DataFrame | None:
    """Return what is known of the rows; None of a folder that does not say."""
    if not path.is_file():
        return None
    text = dict.fromkeys(("record", "patient", "sex", "corpus"), str)
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"age": [""]})
    if table["record"].tolist() != names:
        raise ValueError(f"{path} has other rows than {PREDICTIONS_FILE}; evaluate again")
    return table


def _write_rows(result: Evaluation, groups: pd.DataFrame, folder: Path) -> None:
    write_text(folder / TRUTH_FILE, result.truth_table().to_csv(index=False))
    if result.records is not None:
        write_text(folder / RECORDS_FILE, result.records.to_csv(index=False))
    if len(groups):
        write_text(folder / "subgroups.csv", groups.to_csv(index=False, float_format="%.9g"))
    if result.single_label:
        write_text(folder / CONFUSION_FILE, result.confusion().to_csv(index_label="true"))


def _draw(result: Evaluation, groups: pd.DataFrame, folder: Path) -> None:
    areas = {
        name: result.intervals[name]
        for name in result.intervals
        if split_name(name)[0] in ("auroc", "auprc")
    }
    chance, truth, labels = result.probability, result.truth == 1, result.labels
    plot_scores(chance, truth, labels, folder / CURVES_PICTURE, areas)
    plot_calibration(
        chance, truth, labels, folder / CALIBRATION_PICTURE, exclusive=result.single_label
    )
    if result.single_label:
        plot_confusion(result.confusion().to_numpy(), labels, folder / CONFUSION_PICTURE)
    else:
        plot_cooccurrence(truth, result.decisions(), labels, folder / COOCCURRENCE_PICTURE)
    found = subgroup_reliability(result)
    if found:
        plot_subgroups(groups, found, folder / SUBGROUPS_PICTURE)


def _title(result: Result) -> str:
    rows = f"{len(result.names)} {result.unit}s"
    if not isinstance(result, Evaluation):
        return f"# Evaluation\n\n{rows}, {result.num_segments} segments.{_seen(result)}"
    of = " + ".join(result.checkpoints)
    patients = f"{len(set(result.patients()))} patients"
    return (
        f"# Evaluation on {result.split or 'a split'}\n\n`{of}` on `{result.data}`: {rows} of "
        f"{patients}, {result.num_segments} segments.{_seen(result)}"
    )


def _seen(result: Result) -> str:
    drawn = f" 95 % intervals: {result.draws} draws of patients." if result.draws else ""
    if result.overlap:
        drawn += f" The checkpoint was trained on {result.overlap} of these recordings."
    if result.pretraining_overlap:
        drawn += f" Its encoder was pretrained on {result.pretraining_overlap} of them."
    return drawn


def _overall_rows(whole: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (row["metric"], with_interval(row["value"], row["low"], row["high"]))
        for _, row in whole.iterrows()
    ]


def _class_table(result: Evaluation) -> str:
    rows = []
    for label, row in result.per_class().iterrows():
        cells = [
            with_interval(row[m], row.get(f"{m}_low", math.nan), row.get(f"{m}_high", math.nan))
            for m in PER_CLASS
        ]
        limit = "-" if math.isnan(row["threshold"]) else f"{row['threshold']:.3f}"
        counts = (str(label), str(int(row["positives"])), str(int(row["patients"])), limit)
        rows.append((*counts, *cells, with_interval(row["ece"])))
    return markdown_table(("class", "positives", "patients", "threshold", *PER_CLASS, "ece"), rows)


def _group_table(groups: pd.DataFrame) -> str:
    rows = [
        (
            f"{row['attribute']}: {row['group']}",
            str(row["rows"]),
            str(row["patients"]),
            str(row["classes"]),
            with_interval(row["auroc"], row["auroc_low"], row["auroc_high"]),
            with_interval(row["brier"], row["brier_low"], row["brier_high"]),
            with_interval(row["ece"]),
        )
        for _, row in groups.iterrows()
    ]
    return markdown_table(("group", "rows", "patients", "classes", "auroc", "brier", "ece"), rows)


def with_interval(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """Return ``0.912 (0.890-0.933)``, without ends that are not known; ``-`` for no value."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" + ("" if math.isnan(low) else f" ({low:.3f}-{high:.3f})")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown.

    Args:
        head: Titles of the columns.
        rows: Cells, as many in each.
    """
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |" for r in lines)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")


def _plain(value: Any) -> Any:
    """Return a value that JSON has: None for NaN, Python's numbers for NumPy's."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
