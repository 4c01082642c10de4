"""One page about a training run: what was trained on what, how it went, and what it can do.

It is made of the run's folder (hydra's configuration, the log, the checkpoints), of the data that
the configuration names, as far as they are still there, and of the folders that ``fairseq-ecg
evaluate --out`` wrote. What is missing is said, and the rest is shown.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import platform
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fairseq_ecg.checkpoint import Checkpoint, read_checkpoint
from fairseq_ecg.contract import CONTRACT_KEYS
from fairseq_ecg.data.atomic import write_text
from fairseq_ecg.data.builder import LEDGER_FILE, SUMMARY_FILE
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.ledger import REASONS, count_reasons, read_ledger
from fairseq_ecg.data.manifest import Manifest, read_manifest
from fairseq_ecg.data.recordings import Fault, find_recordings
from fairseq_ecg.data.signal import MILLIVOLTS, EcgSignal
from fairseq_ecg.data.sources import Source, open_source
from fairseq_ecg.evaluation_files import (
    CALIBRATION_PICTURE,
    CONFUSION_PICTURE,
    COOCCURRENCE_PICTURE,
    CURVES_PICTURE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    SUBGROUPS_PICTURE,
    TRUTH_FILE,
    read_evaluation,
    with_interval,
)
from fairseq_ecg.evaluation_results import Evaluation
from fairseq_ecg.html_page import Markup, bar, joined, page, picture, table, tag
from fairseq_ecg.plots.curves import draw_curves
from fairseq_ecg.plots.ecg_paper import Label, draw_ecg
from fairseq_ecg.prediction import Predictor
from fairseq_ecg.training_log import LOG_NAME, read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = {
    CURVES_PICTURE: "receiver operating characteristic and precision-recall curves",
    CALIBRATION_PICTURE: "calibration: how often a class is there, over its probability",
    CONFUSION_PICTURE: "confusion: what was answered where each class is true",
    COOCCURRENCE_PICTURE: "which classes are true, and decided, together",
    SUBGROUPS_PICTURE: "how well groups of age, sex and corpus are served",
}
_CONFIG_SECTIONS = (
    *("task", "model", "criterion", "optimizer", "lr_scheduler", "optimization"),
    *("dataset", "checkpoint", "common", "distributed_training"),
)
# Logged values that say nothing about learning.
_DULL = re.compile(
    r"num_updates|update|epoch|nsignals|w(ps|pb|all)|ups|bsz|best_.*|train_wall|clip|ppl|nsentences|ntokens|"
    r"loss|lr|gnorm|.*sample_size|n_.*"
)
_MOST_CURVES = 4
_MOST_CLASSES = 100
_MOST_POINTS = 800
_MOST_BYTES = 1_900_000  # of pictures, before they are written as text, a third longer
_SHOWN_S = 10.0
_FOOT = "Made by `fairseq-ecg report`, for research: no number or picture here is a diagnosis."
_PACKAGES = (
    *("fairseq-ecg", "fairseq-fixed", "torch", "numpy", "scipy", "pandas", "pyarrow"),
    *("hydra-core", "omegaconf", "wfdb", "matplotlib"),
)


@dataclass
class Run:
    """What the folder of a run holds.

    Attributes:
        folder: The folder.
        config: Hydra's configuration, plain values; empty if it is not there.
        hydra: Hydra's own section, plain values; may be empty.
        overrides: Words of the command line.
        checkpoint: The best one, or the last; None if there is none that can be read.
        notes: What is missing.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    hydra: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    notes: list[str] = field(default_factory=list)

    def of(self, key: str) -> Any:
        """Return a value of the configuration by its key, such as ``task.data``; None if absent."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def data(self) -> Path | None:
        """Folder of the manifests."""
        folder = self.of("task.data")
        if folder is None and self.checkpoint is not None:
            folder = self.checkpoint.task_cfg.get("data")
        if folder is None:
            return None
        cwd = (self.hydra.get("runtime") or {}).get("cwd") or "."
        return Path(cwd) / str(folder)

    @property
    def preset(self) -> str:
        """Name of the preset; empty if it is not known."""
        return str((self.hydra.get("job") or {}).get("config_name") or "")

    @property
    def validated_on(self) -> list[str]:
        """Splits that the run was validated on."""
        return str(self.of("dataset.valid_subset") or "valid").split(",")


def write_report(
    run: str | Path,
    out: str | Path,
    evaluations: Sequence[str | Path] = (),
    *,
    title: str | None = None,
    examples: int = 3,
) -> Path:
    """Write the page of a run.

    Args:
        run: Folder of the run, ``hydra.run.dir``.
        out: The page.
        evaluations: Folders that ``fairseq-ecg evaluate --out`` wrote; those inside the run's
            folder are found.
        title: Of the page; None: the name of the folder.
        examples: How many recordings to draw.

    Returns:
        The page.

    Raises:
        ValueError: If the folder is that of no run, or one given is that of no evaluation.
    """
    text = report(run, evaluations, title=title, examples=examples)
    write_text(out, text)
    return Path(out)


def report(
    run: str | Path,
    evaluations: Sequence[str | Path] = (),
    *,
    title: str | None = None,
    examples: int = 3,
) -> str:
    """Return the page of a run as HTML; args and errors as ``write_report``."""
    facts = read_run(run)
    for folder in evaluations:
        if not (Path(folder) / METRICS_FILE).is_file():
            raise ValueError(
                f"{folder} has no {METRICS_FILE}; `fairseq-ecg evaluate CHECKPOINT DATA --out "
                f"{folder}` writes it"
            )
    folders = [Path(folder) for folder in evaluations]
    folders += [found for found in _evaluations_in(facts.folder) if found not in folders]
    scored = [_read_scores(folder, facts) for folder in folders]
    pictures = _Pictures(_MOST_BYTES)
    sections = [
        ("Results", _results(scored, facts, pictures)),
        ("Training", _training(facts, pictures)),
        ("Data", _data(facts)),
        ("Examples", _examples(facts, scored, examples, pictures)),
        ("Configuration", _configuration(facts)),
        ("Repeating it", _repeating(facts)),
    ]
    notes = [tag("p", note, class_="note") for note in (*facts.notes, *pictures.notes)]
    name = title or f"Training run {facts.folder.resolve().name}"
    return page(name, sections, _overview(facts, scored), *notes, foot=_FOOT)


def read_run(folder: str | Path) -> Run:
    """Read what the folder of a run holds.

    Args:
        folder: ``hydra.run.dir`` of the run.

    Raises:
        ValueError: If it is none: no log, no configuration and no checkpoint.
    """
    run = Run(Path(folder))
    log, hydra = run.folder / LOG_NAME, run.folder / ".hydra"
    checkpoints = _checkpoint_files(run.folder)
    if not log.is_file() and not hydra.is_dir() and not checkpoints:
        raise ValueError(
            f"{folder} is no folder of a run: it has no {LOG_NAME}, no .hydra and no "
            "checkpoints; give the hydra.run.dir of a training"
        )
    if not log.is_file():
        run.notes.append(f"The run has no {LOG_NAME}, so there are no curves.")
    run.config = _yaml(hydra / "config.yaml", run)
    run.hydra = _yaml(hydra / "hydra.yaml", run).get("hydra") or {}
    words = (run.hydra.get("overrides") or {}).get("task") or []
    run.overrides = [str(word) for word in words if "common.user_dir" not in str(word)]
    for path in checkpoints:
        try:
            run.checkpoint = read_checkpoint(path)
            break
        except (ValueError, OSError) as error:
            run.notes.append(f"{path.name} cannot be read: {error}")
    if not checkpoints:
        run.notes.append("The run has no checkpoints.")
    return run


# --- pictures -----------------------------------------------------------------------------------


@dataclass
class _Pictures:
    """The pictures of a page, as long as there is room for them."""

    left: int
    notes: list[str] = field(default_factory=list)

    def add(self, content: bytes, kind: str, text: str) -> Markup | None:
        """Return a picture with its text below it; None, and a note, if there is no room."""
        if len(content) > self.left:
            self.notes.append(f"Left out, to keep the page small: {text}.")
            return None
        self.left -= len(content)
        return tag("figure", picture(content, kind, text), tag("figcaption", text))

    def draw(self, figure: Figure, kind: str, text: str) -> Markup | None:
        """Return a figure as a picture; as ``add``."""
        file = io.BytesIO()
        figure.savefig(file, format=kind)
        return self.add(file.getvalue(), kind, text)


# --- sections -----------------------------------------------------------------------------------


@dataclass
class _Scores:
    """An evaluation: its folder, content of ``metrics.json``, and rows if it is of a classifier."""

    folder: Path
    content: dict[str, Any]
    rows: Evaluation | None


def _overview(run: Run, scored: Sequence[_Scores]) -> Markup:
    facts: list[tuple[str, Any]] = [("preset", run.preset)]
    of_checkpoint = run.checkpoint.model_name if run.checkpoint is not None else None
    facts.append(("task", run.of("task._name")))
    facts.append(("model", run.of("model._name") or of_checkpoint))
    facts.append(("criterion", run.of("criterion._name")))
    if run.checkpoint is not None:
        facts.append(("checkpoint", f"{Path(run.checkpoint.path).name}, {_updates(run)} updates"))
    facts.append(("started, ended", _times(run.folder / LOG_NAME)))
    metric = run.of("checkpoint.best_checkpoint_metric")
    best = _best(run, str(metric))
    if best is not None:
        facts.append((f"best {metric} in validation", f"{best:.4g}"))
    for one in scored[:4]:
        for name in ("auroc", "accuracy", "f1", "cinc_score", "nmse"):
            if (one.content.get("metrics") or {}).get(name) is not None:
                facts.append((f"{name}, {_title_of(one)}", _value(one.content, name)))
                break
    return table((), [(name, value) for name, value in facts if value])


def _results(scored: Sequence[_Scores], run: Run, pictures: _Pictures) -> Markup:
    if not scored:
        best = run.folder / "checkpoints" / "checkpoint_best.pt"
        checkpoint = best if run.checkpoint is None else run.checkpoint.path
        words = ["evaluate", checkpoint, run.data or "DATA", "--out", run.folder / "test"]
        text = "This run was not evaluated, or nobody said where. To have numbers here:"
        command = f"fairseq-ecg {shlex.join(map(str, words))}"
        return joined([tag("p", text), tag("pre", command)])
    return joined(part for one in scored for part in _scores(one, pictures))


def _scores(one: _Scores, pictures: _Pictures) -> Iterator[Markup | None]:
    content = one.content
    yield tag("h3", _title_of(one))
    parts = [
        f"{content[key]} {name}"
        for key, name in (("rows", f"{content.get('unit', 'row')}s"), ("patients", "patients"))
        if content.get(key) is not None
    ]
    text = ", ".join(parts)
    draws = (content.get("bootstrap") or {}).get("draws")
    if draws:
        text += f"; 95 % intervals from {draws} draws of patients"
    seen = {"trained_on": "was trained on", "pretrained_on": "was pretrained on"}
    text += "".join(
        f"; the network {word} {content[key]} of them"
        for key, word in seen.items()
        if content.get(key)
    )
    yield tag("p", f"{text}.") if text else None
    names = [name for name, value in (content.get("metrics") or {}).items() if value is not None]
    calibration = content.get("calibration") or {}
    rows = [(name, _value(content, name)) for name in names]
    rows += [(name, with_interval(_float(value))) for name, value in calibration.items()]
    yield table(("metric", "value (95 % interval)"), rows, numbers=(1,))
    yield _class_table(content.get("classes") or [])
    for remark in content.get("remarks") or []:
        yield tag("p", remark, class_="note")
    for name, text in PICTURES.items():
        path = one.folder / name
        if path.is_file():
            yield pictures.add(path.read_bytes(), "png", f"{_title_of(one)}: {text}")


def _class_table(classes: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not classes:
        return None

    def cell(row: Mapping[str, Any], name: str) -> str:
        values = (_float(row.get(key)) for key in (name, f"{name}_low", f"{name}_high"))
        return with_interval(*values)

    metrics = [name for name in ("auroc", "auprc", "f1") if name in classes[0]]
    rows = [
        (
            row.get("class", ""),
            row.get("positives", ""),
            row.get("patients", ""),
            with_interval(_float(row.get("threshold"))),
            *(cell(row, name) for name in metrics),
        )
        for row in classes[:_MOST_CLASSES]
    ]
    head = ("class", "positives", "patients", "threshold", *metrics)
    caption = _first_of(len(rows), len(classes), "classes")
    return table(head, rows, numbers=range(1, len(head)), caption=caption)


def _training(run: Run, pictures: _Pictures) -> Markup:
    if not (run.folder / LOG_NAME).is_file():
        return tag("p", "There is no log.")
    curves, panels = _curves(run)
    if not panels:
        return tag("p", "The log has no values (common.log_format=json writes them).")
    figure = draw_curves({"": curves}, y=panels, x="num_updates")
    names = ", ".join(key for keys in panels for key in keys)
    return joined([pictures.draw(figure, "svg", f"over the updates: {names}"), _last_values(run)])


def _curves(run: Run) -> tuple[list[dict[str, float]], list[tuple[str, ...]]]:
    """Return what was logged, of training and validation together, and what to draw of it."""
    inner = read_log(run.folder, "train_inner") or [
        _without(row, "train_") for row in read_log(run.folder, "train")
    ]
    rows = [
        {"num_updates": row["num_updates"], **{f"train_{k}": v for k, v in row.items()}}
        for row in _thinned(inner)
        if "num_updates" in row
    ]
    validations = {tag_: read_log(run.folder, tag_) for tag_ in run.validated_on}
    for name, logged in validations.items():
        for row in _thinned(logged):
            if f"{name}_num_updates" in row:
                rows.append({"num_updates": row[f"{name}_num_updates"], **row})
    known = {key for row in rows for key, value in row.items() if math.isfinite(value)}
    panels = [tuple(k for k in ("train_loss", *(f"{v}_loss" for v in validations)) if k in known)]
    names = _interesting(run, validations, inner)
    for name in names[:_MOST_CURVES]:
        keys = [f"{v}_{name}" for v in validations if f"{v}_{name}" in known]
        panels.append(tuple(keys or [k for k in (f"train_{name}",) if k in known]))
    panels += [(key,) for key in ("train_lr", "train_gnorm") if key in known]
    return rows, [panel for panel in panels if panel]


def _interesting(
    run: Run,
    validations: Mapping[str, list[dict[str, float]]],
    inner: Sequence[Mapping[str, float]],
) -> list[str]:
    """Return names of logged values, the metric that chose the best checkpoint first."""
    names: dict[str, None] = {}
    metric = str(run.of("checkpoint.best_checkpoint_metric"))
    if metric != "loss":
        names[metric] = None
    for name, rows in validations.items():
        names |= dict.fromkeys(key for row in rows for key in _without(row, f"{name}_"))
    if not any(validations.values()):
        names |= dict.fromkeys(key for row in inner for key in row)
    return [name for name in names if name == metric or not _DULL.fullmatch(name)]


def _last_values(run: Run) -> Markup | None:
    rows = []
    for name in run.validated_on:
        logged = read_log(run.folder, name)
        if logged:
            last = _without(logged[-1], f"{name}_")
            rows += [
                (name, key, "-" if math.isnan(value) else f"{value:.6g}")
                for key, value in last.items()
                if not _is_dull(key)
            ]
    if not rows:
        return None
    return table(("split", "value", "last validation"), rows, numbers=(2,))


def _is_dull(key: str) -> bool:
    return key != "loss" and _DULL.fullmatch(key) is not None


def _data(run: Run) -> Markup:
    folder = run.data
    if folder is None or not folder.is_dir():
        return tag("p", f"The data ({folder or 'not known'}) are not here.")
    parts: list[Markup | None] = [tag("p", "Folder: ", tag("code", str(folder)))]
    manifests: dict[str, Manifest] = {}
    for path in sorted(folder.glob("*.tsv")):
        try:
            manifests[path.stem] = read_manifest(path)
        except ValueError as error:
            run.notes.append(f"{path} cannot be read: {error}")
    order = sorted(manifests, key=lambda name: (name not in _splits_of(run), name))
    manifests = {name: manifests[name] for name in order}
    parts.append(_split_table(run, manifests))
    parts.append(_label_table(manifests))
    parts.append(_quality(folder, manifests))
    return joined(parts)


def _splits_of(run: Run) -> list[str]:
    return [*str(run.of("dataset.train_subset") or "train").split(","), *run.validated_on]


def _split_table(run: Run, manifests: Mapping[str, Manifest]) -> Markup:
    rows = []
    trained = str(run.of("dataset.train_subset") or "train").split(",")
    for name, manifest in manifests.items():
        names, lengths = manifest.recordings()
        patients, hours = "", ""
        source = _opened(manifest)
        if source is not None:
            people = set(source.people())
            patients = str(len(people)) if people else ""
            hours = f"{lengths.sum() / source.rate_hz / 3600:.3g}"
        use = "trained on" if name in trained else ""
        use = "validated on" if name in run.validated_on else use
        rows.append((name, use, len(names), patients, hours))
    head = ("split", "used", "recordings", "patients", "hours")
    return table(head, rows, numbers=(2, 3, 4))


def _label_table(manifests: Mapping[str, Manifest]) -> Markup | None:
    counts = {
        name: Counter(label for row in range(len(manifest)) for label in manifest.label_names(row))
        for name, manifest in manifests.items()
        if manifest.classes is not None
    }
    if not counts:
        return None
    splits = list(counts)
    classes = next(m.classes for m in manifests.values() if m.classes is not None)
    sizes = {name: max(len(manifests[name]), 1) for name in splits}
    rows = [
        (
            label,
            bar(counts[splits[0]][label] / sizes[splits[0]]),
            *(counts[s][label] for s in splits),
        )
        for label in classes[:_MOST_CLASSES]
    ]
    head = ("class", f"share of {splits[0]}", *splits)
    caption = "How many recordings have each class. " + _first_of(
        len(rows), len(classes), "classes"
    )
    return joined(
        [tag("h3", "Labels"), table(head, rows, range(2, len(head)), caption=caption.strip())]
    )


def _quality(folder: Path, manifests: Mapping[str, Manifest]) -> Markup | None:
    """Return what was built of which corpus, and what is wrong with recordings."""
    places = [folder, *(manifest.root.parent for manifest in manifests.values()), folder.parent]
    place = next((p for p in places if (p / LEDGER_FILE).is_file()), None)
    if place is None:
        return None
    parts: list[Markup | None] = [tag("h3", "Quality of the recordings")]
    summary = _json(place / SUMMARY_FILE)
    plain = {k: v for k, v in summary.items() if isinstance(v, str | int | float)}
    if plain:
        parts.append(table((), [(k, f"{v:g}" if _is_number(v) else v) for k, v in plain.items()]))
    ledger = read_ledger(place / LEDGER_FILE)
    rows = [
        (action.replace("_", " "), reason, REASONS.get(reason, "see the ledger"), count)
        for action, reasons in count_reasons(ledger).items()
        for reason, count in reasons.items()
    ]
    if rows:
        caption = f"Remarks in {LEDGER_FILE}, beside the store."
        parts.append(table(("recordings", "reason", "", "count"), rows, (3,), caption))
    else:
        parts.append(tag("p", "The ledger has no remark."))
    return joined(parts)


# --- examples -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Example:
    signal: EcgSignal
    name: str
    text: str
    labels: list[Label]
    decided: tuple[str, ...]


def _examples(run: Run, scored: Sequence[_Scores], count: int, pictures: _Pictures) -> Markup:
    examples: list[_Example] = []
    for way in (_from_evaluation, _from_predictor, _from_data):
        try:
            examples = way(run, scored, count) if count > 0 else []
        except (ValueError, OSError) as error:
            run.notes.append(f"Examples: {error}")
        if examples:
            break
    if not examples:
        return tag("p", "There are none: the recordings are not here, or none were asked for.")
    parts = []
    for one in examples:
        figure = draw_ecg(one.signal, one.name, one.labels or None, dpi=75, decided=one.decided)
        parts.append(pictures.draw(figure, "png", f"{one.name}: {one.text}"))
    text = "The first 10 s at most. Bold: decided; red: decided wrongly."
    has_labels = any(one.labels for one in examples)
    return joined([tag("p", text if has_labels else "The first 10 s at most."), *parts])


def _from_evaluation(run: Run, scored: Sequence[_Scores], count: int) -> list[_Example]:
    """Return recordings that were evaluated: decided best, worst, and between."""
    del run
    rows = next((one.rows for one in scored if one.rows is not None and one.rows.data), None)
    if rows is None or rows.unit not in ("record", "segment"):
        return []
    source = _opened(read_manifest(Path(rows.data) / f"{rows.split.split('+')[0]}.tsv"))
    if source is None or source.unit != MILLIVOLTS:
        return []
    order = [row for row in _by_error(rows) if rows.names[row] in source.names]
    places = dict.fromkeys(
        np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    )
    decided = rows.decisions()
    found = []
    for place in places:
        row = order[place]
        best = [rows.labels[k] for k in np.flatnonzero(decided[row])]
        text = f"place {place + 1} of {len(order)}, from the smallest error to the largest"
        truth = dict(zip(rows.labels, rows.truth[row] == 1, strict=True))
        chance = dict(zip(rows.labels, rows.probability[row].tolist(), strict=True))
        labels = _shown(chance, truth, best)
        found.append(
            _Example(_signal(source, rows.names[row]), rows.names[row], text, labels, tuple(best))
        )
    return found


def _by_error(rows: Evaluation) -> list[int]:
    """Return the rows by their mean error, those of several classes first where it is equal."""
    chance = np.clip(rows.probability, 1e-6, 1 - 1e-6)
    right = np.where(rows.truth == 1, chance, 1 - chance)
    return np.argsort(-np.log(right).mean(axis=1), kind="stable").tolist()


def _from_predictor(run: Run, scored: Sequence[_Scores], count: int) -> list[_Example]:
    """Return recordings of a split that was not trained on, with what the checkpoint says."""
    del scored
    manifest = _other_split(run)
    if run.checkpoint is None or manifest is None or manifest.classes is None:
        return []
    predictor = Predictor(run.checkpoint.path, missing_leads="silence")
    rows = _spread(len(manifest), count)
    places = [manifest.root / manifest.paths[row] for row in rows]
    found = []
    for row, one in zip(
        rows, predictor.predict(find_recordings(places), with_signal=True), strict=False
    ):
        if isinstance(one, Fault) or one.signal is None:
            continue
        names = manifest.label_names(row)
        truth = {label: label in names for label in one.labels}
        chance = dict(zip(one.labels, one.probability.tolist(), strict=True))
        signal = _beginning(one.signal)
        labels = _shown(chance, truth, one.decided)
        found.append(_Example(signal, one.name, "not trained on", labels, one.decided))
    return found


def _from_data(run: Run, scored: Sequence[_Scores], count: int) -> list[_Example]:
    """Return recordings as they are, of a network that decides nothing."""
    del scored
    manifest = _other_split(run)
    source = None if manifest is None else _opened(manifest)
    if source is None or source.unit != MILLIVOLTS:
        return []
    names = [source.names[row] for row in _spread(len(source.names), count)]
    return [_Example(_signal(source, name), name, "as it is in the data", [], ()) for name in names]


def _other_split(run: Run) -> Manifest | None:
    """Return the manifest of test, or of another split that was not trained on."""
    if run.data is None:
        return None
    for name in ("test", *run.validated_on, "train"):
        path = run.data / f"{name}.tsv"
        if path.is_file() and len(manifest := read_manifest(path)):
            return manifest
    return None


def _shown(
    chance: Mapping[str, float], truth: Mapping[str, bool], decided: Sequence[str]
) -> list[Label]:
    """Return the most probable classes, and all that are true or decided."""
    order = sorted(chance, key=lambda label: -chance[label])
    kept = [x for place, x in enumerate(order) if place < 8 or truth[x] or x in decided]
    return [(label, chance[label], truth[label]) for label in kept]


def _signal(source: Source, name: str) -> EcgSignal:
    """Return the beginning of a recording, the leads that were recorded."""
    row = source.names.index(name)
    stop = min(int(source.n_samples[row]), round(_SHOWN_S * source.rate_hz))
    values = source.read(row, 0, stop)
    there = values.any(axis=1)
    there = there if there.any() else np.ones_like(there)
    leads = tuple(lead for lead, kept in zip(STANDARD_LEADS, there, strict=True) if kept)
    return EcgSignal(np.ascontiguousarray(values[there]), source.rate_hz, leads)


def _beginning(signal: EcgSignal) -> EcgSignal:
    stop = round(_SHOWN_S * signal.rate_hz)
    return EcgSignal(signal.values_mv[:, :stop], signal.rate_hz, signal.leads)


def _spread(n_rows: int, count: int) -> list[int]:
    places = np.linspace(0, n_rows - 1, min(count, n_rows)).round().astype(int)
    return list(dict.fromkeys(places.tolist()))


# --- configuration ------------------------------------------------------------------------------


def _configuration(run: Run) -> Markup:
    parts: list[Markup | None] = []
    if run.overrides:
        rows = [tuple(word.lstrip("+").partition("=")[::2]) for word in run.overrides]
        text = f"Said on the command line, over the preset {run.preset}." if run.preset else ""
        parts.append(table(("key", "value"), rows, caption=text))
    if not run.config:
        parts.append(tag("p", "The run has no .hydra/config.yaml."))
    for name in _CONFIG_SECTIONS:
        section = run.config.get(name)
        if isinstance(section, dict):
            known = {key: value for key, value in section.items() if value is not None}
            text = OmegaConf.to_yaml(OmegaConf.create(known))
            parts.append(tag("details", tag("summary", name), tag("pre", text)))
    if run.checkpoint is not None:
        parts += [tag("h3", "What the network expects of its input"), _contract(run.checkpoint)]
    return joined(parts)


def _contract(checkpoint: Checkpoint) -> Markup:
    contract = checkpoint.contract
    rows = [
        (key, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        for key in CONTRACT_KEYS
        if (value := contract.get(key)) is not None
    ]
    corpus = (contract.get("trained_on") or {}).get("corpus")
    if corpus:
        rows.append(("trained on", str(corpus)))
    return table((), rows)


def _repeating(run: Run) -> Markup:
    parts: list[Markup | None] = []
    if run.preset:
        options = [*_config_dir(run), "--config-name", run.preset]
        lines = [f"fairseq-ecg train {shlex.join(options)}"]
        lines += [shlex.quote(word.lstrip("+")) for word in run.overrides]
        cwd = (run.hydra.get("runtime") or {}).get("cwd")
        where = f", in the folder {cwd}" if cwd else ""
        parts += [tag("p", f"The command of this run{where}:"), tag("pre", " \\\n    ".join(lines))]
    else:
        parts.append(
            tag("p", "The preset and command are not known: there is no .hydra/hydra.yaml.")
        )
    files = [
        (path.name, f"{path.stat().st_size / 1e6:.1f}") for path in _checkpoint_files(run.folder)
    ]
    if files:
        parts.append(table(("checkpoint", "MB"), files, numbers=(1,)))
    parts.append(table((), _environment(), caption="Versions where this page was made."))
    return joined(parts)


def _config_dir(run: Run) -> list[str]:
    sources = (run.hydra.get("runtime") or {}).get("config_sources") or []
    own = [s.get("path") for s in sources if s.get("provider") == "command-line"]
    return [word for path in own for word in ("--config-dir", str(path))]


def _environment() -> list[tuple[str, str]]:
    rows = [("Python", platform.python_version()), ("system", platform.platform())]
    for name in _PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return rows


# --- reading ------------------------------------------------------------------------------------


def _yaml(path: Path, run: Run) -> dict[str, Any]:
    """Return a file of hydra as plain values, without what was to be filled in later."""
    if not path.is_file():
        run.notes.append(f"The run has no {path.parent.name}/{path.name}.")
        return {}
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        run.notes.append(f"{path} cannot be read: {error}")
        return {}
    return content if isinstance(content, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the one to look at first in front."""
    first = {"checkpoint_best.pt": 0, "checkpoint_last.pt": 1}
    found = [*folder.glob("checkpoints/*.pt"), *folder.glob("checkpoint*.pt")]
    return sorted(found, key=lambda path: (first.get(path.name, 2), path.name))


def _evaluations_in(folder: Path) -> list[Path]:
    patterns = (METRICS_FILE, f"*/{METRICS_FILE}", f"*/*/{METRICS_FILE}")
    return sorted(path.parent for pattern in patterns for path in folder.glob(pattern))


def _read_scores(folder: Path, run: Run) -> _Scores:
    content = _json(folder / METRICS_FILE)
    if not content:
        run.notes.append(f"{folder / METRICS_FILE} is no JSON of an evaluation.")
    rows = None
    if (folder / PREDICTIONS_FILE).is_file() and (folder / TRUTH_FILE).is_file():
        try:
            rows = read_evaluation(folder)
        except ValueError as error:
            run.notes.append(f"{folder}: {error}")
    return _Scores(folder, content, rows)


def _opened(manifest: Manifest) -> Source | None:
    try:
        return open_source(manifest)
    except (ValueError, OSError):
        return None


# --- words --------------------------------------------------------------------------------------


def _title_of(one: _Scores) -> str:
    split, name = str(one.content.get("split") or ""), one.folder.resolve().name
    title = f"{split} ({name})" if split not in ("", name) else name
    together = len(one.content.get("checkpoints") or ())
    return f"{title}, {together} networks together" if together > 1 else title


def _value(content: Mapping[str, Any], name: str) -> str:
    found = (content.get("intervals") or {}).get(name) or {}
    value = _float(content["metrics"][name])
    return with_interval(value, _float(found.get("low")), _float(found.get("high")))


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first_of(shown: int, count: int, what: str) -> str:
    return f"The first {shown} of {count} {what}." if shown < count else ""


def _updates(run: Run) -> int:
    return 0 if run.checkpoint is None else run.checkpoint.num_updates


def _times(log: Path) -> str:
    """Return when a run was started first and logged last."""
    if not log.is_file():
        return ""
    text = log.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", text, flags=re.MULTILINE)
    return f"{found[0]}, {found[-1]}" if found else ""


def _best(run: Run, metric: str) -> float | None:
    pick: Callable[[list[float]], float] = min
    if run.of("checkpoint.maximize_best_checkpoint_metric"):
        pick = max
    if not (run.folder / LOG_NAME).is_file():
        return None
    name = run.validated_on[0]
    values = [row.get(f"{name}_{metric}", math.nan) for row in read_log(run.folder, name)]
    values = [value for value in values if math.isfinite(value)]
    return pick(values) if values else None


def _without(row: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in row.items()}


def _thinned(rows: Sequence[dict[str, float]]) -> Sequence[dict[str, float]]:
    """Return evenly spread rows, so that a long run makes no long page."""
    step = -(-len(rows) // _MOST_POINTS) or 1
    return rows[::step]
