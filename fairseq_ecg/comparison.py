"""Runs beside each other on the same recordings, and beside what needs no training of a network.

Every run is compared with the first one, or another that is named: the difference of each metric,
its interval and p value by drawing patients, each draw being given to both (``bootstrap.py``); p
values of one metric are corrected for their number after Holm 1979 (Scand J Statist 6:65).

Beside the runs stand two baselines under one protocol. A linear head (``probing.py``: standardised
features, logistic regression, its penalty chosen by the cross-entropy on the validation split) is
fitted on the training split of the label set, and scored on the same recordings as the runs, on

- a random encoder: that of a run, with random weights, frozen, its input prepared as for the run;
- shallow features (``shallow_features.py``) of the recordings as they are stored.

A run that is the checkpoint of an encoder without classes gets the same head.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fairseq.models import MODEL_REGISTRY

from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.checkpoint import Checkpoint, CheckpointError, model_config, read_checkpoint
from fairseq_ecg.contract import INPUT_KEYS
from fairseq_ecg.embedding_files import Embeddings, read_embeddings
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.evaluation_files import (
    PREDICTIONS_FILE,
    evaluation_folder,
    markdown_table,
    read_evaluation,
    with_interval,
)
from fairseq_ecg.evaluation_results import Evaluation, check_same_rows
from fairseq_ecg.exported import is_exported
from fairseq_ecg.extraction import checkpoint_sha256, embeddings, extract
from fairseq_ecg.metrics.bootstrap import bootstrap_intervals, paired_difference
from fairseq_ecg.metrics.resampled import split_name
from fairseq_ecg.models._finetuning import FinetunedModel, encoder_of
from fairseq_ecg.probing import (
    SHALLOW,
    Features,
    LabelSet,
    features_of,
    metric_title,
    probe,
    read_label_set,
    shallow_features_of,
)

MULTI_LABEL_METRICS = ("macro_auroc", "macro_auprc", "f_max")
SINGLE_LABEL_METRICS = ("accuracy", "f1", "auroc")
TRAINED, FROZEN, RANDOM = "trained", "frozen, linear head", "random, frozen, linear head"
SHALLOW_KIND = "linear head"
BASELINES = (RANDOM, SHALLOW_KIND)

# Keys of a task that decide which windows of a recording its encoder sees.
_WINDOWS = ("segment_s", "windowing", "eval_windows", "pad_segments", "max_sample_size")


class ComparisonError(ValueError):
    """Runs cannot be compared as asked; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Row:
    """A run or a baseline.

    Args:
        name: What it is called.
        kind: How it came about: ``TRAINED``, ``FROZEN``, ``RANDOM`` or ``SHALLOW_KIND``.
        result: Its predictions.
    """

    name: str
    kind: str
    result: Evaluation


@dataclass
class Comparison:
    """What came out of a comparison.

    Args:
        table: One row per run, baseline and metric: ``run``, ``kind``, ``metric``, ``value`` with
            ``low`` and ``high``; ``difference`` to the reference with ``difference_low``,
            ``difference_high``, ``p``, ``p_holm`` and ``draws``, those with a value; NaN of the
            reference itself.
        rows: The runs, then the baselines.
        reference: Name of the run that the others are compared with.
        metrics: Names of the metrics.
        records: How many recordings.
        patients: Of how many patients.
        draws: How many draws.
        remarks: In words what a reader must know.
    """

    table: pd.DataFrame
    rows: list[Row]
    reference: str
    metrics: list[str]
    records: int
    patients: int
    draws: int
    remarks: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table as Markdown, with what it is of and the remarks."""
        head = ["run", "kind"]
        for metric in self.metrics:
            head += [metric_title(metric), "difference", "p"]
        parts = [markdown_table(head, self._cells()), self.caption()]
        if self.remarks:
            parts.append("\n".join(f"- {remark}" for remark in self.remarks))
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """Return the table for LaTeX with the package booktabs; the best values are bold."""
        best = {
            metric: values.min() if split_name(metric)[0] in _LOWER_IS_BETTER else values.max()
            for metric, values in self.table.groupby("metric")["value"]
        }
        columns = "ll" + "lll" * len(self.metrics)
        titles = ["Run", "Kind"]
        for metric in self.metrics:
            titles += [_escaped(metric_title(metric)), "Difference", "$p$"]
        lines = [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(titles) + r" \\",
            r"\midrule",
        ]
        for row, cells in zip(self.rows, self._cells(), strict=True):
            if row.kind in BASELINES and r"\midrule" not in lines[5:]:
                lines.append(r"\midrule")
            shown = [_with_signs(_escaped(cell)) for cell in cells]
            for number, metric in enumerate(self.metrics):
                value = self._numbers(row.name, metric)["value"]
                if value == best[metric]:
                    place = 2 + 3 * number
                    bold, _, rest = shown[place].partition(" ")
                    shown[place] = rf"\textbf{{{bold}}} {rest}".strip()
            lines.append(" & ".join(shown) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", f"% {self.caption()}"]
        return "\n".join(lines) + "\n"

    def caption(self) -> str:
        """Return what the table is of, in words."""
        return (
            f"{self.records} recordings of {self.patients} patients. In brackets: 95 % intervals "
            f"of {self.draws} draws of patients; differences are to {self.reference}, each draw "
            "being given to both; p: two-sided, of these differences, after Holm."
        )

    def content(self) -> dict[str, Any]:
        """Return all numbers as plain values, None for NaN."""
        return {
            "reference": self.reference,
            "records": self.records,
            "patients": self.patients,
            "bootstrap": {"draws": self.draws, "level": 0.95, "by": "patient"},
            "runs": [
                {"name": row.name, "kind": row.kind, "checkpoints": list(row.result.checkpoints)}
                for row in self.rows
            ],
            "table": json.loads(self.table.to_json(orient="records", double_precision=15)),
            "remarks": self.remarks,
        }

    def _cells(self) -> list[list[str]]:
        cells = []
        for row in self.rows:
            found = [row.name, row.kind]
            for metric in self.metrics:
                of = self._numbers(row.name, metric)
                found.append(with_interval(of["value"], of["low"], of["high"]))
                found += (
                    ["reference", ""]
                    if row.name == self.reference
                    else [
                        _signed(of["difference"], of["difference_low"], of["difference_high"]),
                        "-" if math.isnan(of["p_holm"]) else f"{of['p_holm']:.3f}",
                    ]
                )
            cells.append(found)
        return cells

    def _numbers(self, run: str, metric: str) -> pd.Series:
        table = self.table
        return table[(table["run"] == run) & (table["metric"] == metric)].iloc[0]


def compare(
    runs: Mapping[str, str | Path],
    data: str | Path | None = None,
    split: str | None = None,
    *,
    train: str = "train",
    valid: str = "valid",
    reference: str | None = None,
    metrics: Sequence[str] = (),
    encoder: str | Path | None = None,
    random_seeds: Sequence[int] = (0,),
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "cpu",
    cache: str | Path | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare runs with each other and with the baselines.

    Args:
        runs: By name: what ``evaluate --out`` wrote, the checkpoint of a classifier, or any other
            checkpoint with an encoder, which gets a linear head.
        data: Folder of the label set; None: the one that the evaluations are of.
        split: The split that is scored; None: that of the evaluations, else "test".
        train: The split that linear heads are fitted on.
        valid: The split that they are chosen on.
        reference: Name of the run that the others are compared with; None: the first.
        metrics: Which numbers; none: ``MULTI_LABEL_METRICS`` or ``SINGLE_LABEL_METRICS``.
        encoder: Checkpoint whose architecture the random encoder has; None: those of the runs.
        random_seeds: Of the random encoders; each one is a row.
        bootstrap: How many draws of patients.
        seed: Of the draws.
        batch_size: Windows per forward pass.
        device: Where to compute.
        cache: Folder in which embeddings are kept for the next comparison; None: nowhere.
        progress: Show a progress bar while embeddings are made for the cache.

    Raises:
        ComparisonError: If there are fewer than two runs, one has no name of its own, or it is not
            known on which recordings or with which architecture to make the baselines.
        ValueError: If runs are of other recordings, classes or truths.
        ContractError: If the recordings are not what a network expects.
    """
    if len(runs) < 2:
        raise ComparisonError(
            f"there {'is one run' if runs else 'is no run'}; give two or more to compare"
        )
    chosen = next(iter(runs)) if reference is None else reference
    if chosen not in runs:
        raise ComparisonError(
            f"no run is called {chosen!r}{did_you_mean(chosen, runs)}; there are: {', '.join(runs)}"
        )
    if bootstrap < 1:
        raise ComparisonError(f"there must be at least one draw, but bootstrap is {bootstrap}")
    folders = {name: read_evaluation(path) for name, path in runs.items() if _is_evaluation(path)}
    data, split = _recordings(folders, runs, data, split)
    work = _Work(data, split, train, valid, batch_size, device, cache, progress)
    rows = _rows(runs, folders, work)
    _check_rows(rows)
    remarks = _remarks(rows)
    if rows[0].result.unit == "frame":
        remarks.append(
            "no baselines: the rows are frames with labels of their own, and the baselines are "
            "made of whole recordings"
        )
    else:
        rows += _baselines(rows, runs, encoder, random_seeds, work)
        _check_rows(rows)
    remarks += work.remarks
    return _compared(rows, chosen, list(metrics), bootstrap, seed, remarks)


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm 1979).

    Args:
        p: One for each comparison; NaN counts as no comparison.

    Returns:
        In the same order; NaN stays.
    """
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(values), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return corrected.tolist()


# --- runs and baselines ---------------------------------------------------------------------------


class _Work:
    """The recordings, and the frozen encoders with linear heads on them.

    Args:
        data: Folder of the label set; None if none was given and no run says it.
        split: The split that is scored.
        train: As for ``compare``; so are the others.
        valid: See ``train``.
        batch_size: See ``train``.
        device: See ``train``.
        cache: See ``train``.
        progress: See ``train``.
    """

    def __init__(
        self,
        data: str | None,
        split: str,
        train: str,
        valid: str,
        batch_size: int,
        device: str,
        cache: str | Path | None,
        progress: bool,
    ) -> None:
        self.data, self.split = data, split
        self.options = {"batch_size": batch_size, "device": device}
        self.remarks: list[str] = []
        self._splits = (train, valid, split)
        self._cache = None if cache is None else Path(cache)
        self._progress = progress
        self.single_label: bool | None = None
        self._label_set: LabelSet | None = None

    def label_set(self) -> LabelSet:
        """Return the label set; whether its classes exclude each other, the runs say if they can.

        Raises:
            ComparisonError: If it is not known.
        """
        if self.data is None:
            raise ComparisonError(
                "the runs do not say on which label set they were evaluated; give it (--data)"
            )
        if self._label_set is None:
            self._label_set = read_label_set(self.data, *self._splits, self.single_label)
        return self._label_set

    def frozen(self, name: str, path: str, random_init: int | None = None) -> Evaluation:
        """Return what a linear head on a frozen encoder says."""
        label_set = self.label_set()
        return self.linear(features_of(self._embedded(path, random_init), label_set, name))

    def linear(self, features: Features) -> Evaluation:
        """Return what a linear head on features says."""
        found = probe(self.label_set(), [features], heads=["linear"], shares=[1.0])
        self.remarks += [remark for remark in found.remarks if remark not in self.remarks]
        return found.evaluations[features.name, "linear"]

    def _embedded(self, path: str, random_init: int | None) -> Embeddings:
        keys: dict[str, Any] = {**self.options, "random_init": random_init}
        if self._cache is None:
            parts = list(embeddings(path, str(self.data), self._splits, **keys))
            table = pd.concat([part.table for part in parts], ignore_index=True)
            return Embeddings(table, np.concatenate([part.values for part in parts]), {})
        weights = "trained" if random_init is None else f"random-{random_init}"
        folder = self._cache / f"{checkpoint_sha256(path)[:16]}-{weights}"
        extract(path, str(self.data), folder, self._splits, progress=self._progress, **keys)
        return read_embeddings(folder)


def _is_evaluation(path: str | Path) -> bool:
    return (evaluation_folder(path) / PREDICTIONS_FILE).is_file()


def _recordings(
    folders: Mapping[str, Evaluation],
    runs: Mapping[str, str | Path],
    data: str | Path | None,
    split: str | None,
) -> tuple[str | None, str]:
    """Return label set and split, as they were given or as the evaluations say."""
    found_data = list(dict.fromkeys(found.data for found in folders.values() if found.data))
    found_split = list(dict.fromkeys(found.split for found in folders.values() if found.split))
    if data is None and len(folders) < len(runs) and not found_data:
        raise ComparisonError(
            "the label set on which checkpoints are compared is missing; give it (--data)"
        )
    if split is None and len(found_split) > 1:
        raise ComparisonError(
            f"the runs were evaluated on other splits ({', '.join(found_split)}); evaluate all on "
            "one"
        )
    # Folders of one label set may have moved; whether rows are the same is looked at later.
    return (
        str(data) if data is not None else (found_data[0] if found_data else None),
        split or (found_split[0] if found_split else "test"),
    )


def _rows(
    runs: Mapping[str, str | Path], folders: Mapping[str, Evaluation], work: _Work
) -> list[Row]:
    """Return the runs; those that decide first, for they say whether classes exclude each other."""
    found: dict[str, Row] = {name: Row(name, TRAINED, result) for name, result in folders.items()}
    frozen = []
    for name, path in runs.items():
        if name in found:
            continue
        if Path(path).is_dir() and not is_exported(path):
            raise ComparisonError(
                f"{path} holds neither {PREDICTIONS_FILE}, which `fairseq-ecg evaluate ... --out` "
                "writes, nor an exported network; give the folder of an evaluation, or a checkpoint"
            )
        if _decides_classes(read_checkpoint(path)):
            result = evaluate(str(path), str(work.data), work.split, bootstrap=1, **work.options)
            found[name] = Row(name, TRAINED, result)
        else:
            frozen.append(name)
    if found:
        work.single_label = next(iter(found.values())).result.single_label
    for name in frozen:
        found[name] = Row(name, FROZEN, work.frozen(name, str(runs[name])))
    return [found[name] for name in runs]


def _decides_classes(checkpoint: Checkpoint) -> bool:
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    return issubclass(model_class, FinetunedModel) and not hasattr(model_class, "evaluated_by")


def _baselines(
    rows: Sequence[Row],
    runs: Mapping[str, str | Path],
    encoder: str | Path | None,
    seeds: Sequence[int],
    work: _Work,
) -> list[Row]:
    first = rows[0].result
    if first.unit != "record":
        raise ComparisonError(
            f"the runs are scored per {first.unit}, and the baselines per record; evaluate them "
            "with --score-per record"
        )
    label_set = work.label_set()
    found: list[Row] = []
    for family, path in _encoders(rows, runs, encoder):
        results = {seed: work.frozen(f"random {family}", path, seed) for seed in seeds}
        # Encoders may differ in what training alone uses, such as a dropout.
        if any(_is_same(row.result, results[seeds[0]]) for row in found):
            continue
        number = len({row.name.split(",")[0] for row in found if f" {family}" in row.name}) + 1
        name = f"random {family}" + (f" {number}" if number > 1 else "")
        for seed, result in results.items():
            title = name if len(seeds) == 1 else f"{name}, seed {seed}"
            found.append(Row(title, RANDOM, dataclasses.replace(result, checkpoints=(title,))))
    shallow = work.linear(shallow_features_of(label_set))
    return [*found, Row(SHALLOW, SHALLOW_KIND, shallow)]


def _encoders(
    rows: Sequence[Row], runs: Mapping[str, str | Path], encoder: str | Path | None
) -> list[tuple[str, str]]:
    """Return family and checkpoint of each encoder of the runs that is unlike those before it."""
    paths = [str(encoder)] if encoder is not None else []
    for row in rows if encoder is None else ():
        given = str(runs[row.name])
        paths += row.result.checkpoints if _is_evaluation(given) else [given]
    found: dict[str, tuple[str, str]] = {}
    for path in paths:
        if not Path(path).exists():
            continue
        try:
            alone = encoder_of(read_checkpoint(path))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        prepared = {key: alone.contract.get(key) for key in INPUT_KEYS}
        prepared |= {key: alone.task_cfg.get(key) for key in _WINDOWS}
        of_the_run = MODEL_REGISTRY[alone.model_name].keys_of_the_run
        kept = {k: v for k, v in model_config(alone).items() if k not in of_the_run}
        same = json.dumps([alone.model_name, kept, prepared], default=str, sort_keys=True)
        found.setdefault(same, (alone.model_name, path))
    if not found:
        raise ComparisonError(
            "the checkpoints of the runs are not here"
            + (f" ({', '.join(paths)})" if paths else "")
            + ", so that the architecture of the random encoder is not known; give a checkpoint of "
            "it (--encoder)"
        )
    return list(found.values())


def _is_same(one: Evaluation, other: Evaluation) -> bool:
    return np.allclose(one.probability, other.probability, rtol=0, atol=1e-9)


# --- numbers --------------------------------------------------------------------------------------


def _check_rows(rows: Sequence[Row]) -> None:
    first = rows[0]
    for row in rows[1:]:
        check_same_rows(first.result, row.result, first.name, row.name)
        if row.result.single_label != first.result.single_label:
            raise ComparisonError(
                f"of {first.name} and {row.name} one decides for the most probable class and the "
                "other for each class by itself, so that their numbers do not compare"
            )


def _remarks(rows: Sequence[Row]) -> list[str]:
    remarks = []
    for row in rows:
        known = row.result.records
        for column, what in (("trained_on", "trained"), ("pretrained_on", "pretrained")):
            count = 0 if known is None or column not in known else int(known[column].sum())
            if count:
                remarks.append(f"{row.name} was {what} on {count} of these recordings")
    return remarks


def _patients(rows: Sequence[Row]) -> tuple[np.ndarray, bool]:
    """Return whose each recording is, as the first run that knows it says, and whether one does."""
    for row in rows:
        known = row.result.records
        if known is not None and (known["patient"] != "").any():
            return row.result.patients(), True
    return rows[0].result.patients(), False


def _compared(
    rows: list[Row], reference: str, metrics: list[str], draws: int, seed: int, remarks: list[str]
) -> Comparison:
    patients, known = _patients(rows)
    if not known:
        remarks.append(
            "patients are not known: every recording is taken for one of its own, so that "
            "intervals are too narrow if some have several"
        )
    base = next(row for row in rows if row.name == reference)
    single = base.result.single_label
    metrics = metrics or list(SINGLE_LABEL_METRICS if single else MULTI_LABEL_METRICS)
    found = []
    for row in rows:
        intervals = bootstrap_intervals(row.result.resampled(), patients, draws, seed)
        _check_metrics(metrics, intervals, row.name)
        differences = (
            {}
            if row.name == reference
            else paired_difference(
                base.result.resampled(), row.result.resampled(), patients, draws, seed
            )
        )
        for metric in metrics:
            of, other = intervals[metric], differences.get(metric)
            entry = {"run": row.name, "kind": row.kind, "metric": metric}
            entry |= {"value": of.value, "low": of.low, "high": of.high}
            entry |= {
                "difference": math.nan if other is None else other.value,
                "difference_low": math.nan if other is None else other.low,
                "difference_high": math.nan if other is None else other.high,
                "p": math.nan if other is None else other.p,
                "draws": of.valid if other is None else other.valid,
            }
            found.append(entry)
    table = pd.DataFrame(found)
    corrected = table.groupby("metric")["p"].transform(lambda p: holm(p.tolist()))
    table.insert(table.columns.get_loc("p") + 1, "p_holm", corrected)
    remarks += _remarks_on_decisions(rows, metrics)
    return Comparison(
        table, rows, reference, metrics, len(base.result.names), len(set(patients)), draws, remarks
    )


_LOWER_IS_BETTER = ("brier",)
_OF_RANKING = ("auroc", "auprc", "f_max", "brier", "macro", "micro")


def _remarks_on_decisions(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """Say so where decisions are compared that other thresholds made."""
    decided = [m for m in metrics if not split_name(m)[0].startswith(_OF_RANKING)]
    limits = {
        None if row.result.thresholds is None else tuple(row.result.thresholds.tolist())
        for row in rows
    }
    if not decided or len(limits) == 1:
        return []
    return [
        f"{', '.join(decided)} are of decisions, and the runs decide by other thresholds, those of "
        "each evaluation; linear heads decide at 0.5"
    ]


def _check_metrics(metrics: Sequence[str], there: Mapping[str, Any], run: str) -> None:
    for metric in metrics:
        if metric not in there:
            names = [name for name in there if not split_name(name)[1]]
            raise ComparisonError(
                f"{run} has no metric {metric!r}{did_you_mean(metric, list(there))}; there are: "
                f"{', '.join(names)}, and those of a class, such as auroc/<class>"
            )


def _signed(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.3f}" + ("" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f})")


def _with_signs(text: str) -> str:
    """Return text of LaTeX with a true minus before numbers, and a dash between two."""
    return re.sub(r"(?<=\d)-(?=\d)", "--", re.sub(r"(?<![\w.)])-(?=\d)", "$-$", text))


def _escaped(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    marks |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(marks.get(mark, mark) for mark in text)
