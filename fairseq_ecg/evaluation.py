"""Scores of a checkpoint on one split of a manifest."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fairseq import tasks
from fairseq.criterions import CRITERION_REGISTRY, FairseqCriterion
from fairseq.models import MODEL_REGISTRY, BaseFairseqModel
from fairseq.tasks import TASK_REGISTRY
from fairseq.utils import apply_to_sample
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_ecg.checkpoint import Checkpoint, build_model, read_checkpoint
from fairseq_ecg.contract import (
    INPUT_KEYS,
    ContractError,
    InputContract,
    lead_remark,
    seen_in_training,
)
from fairseq_ecg.corpora.physionet2021 import database_of
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.data.sources import Source, open_source
from fairseq_ecg.evaluation_results import (
    Evaluation,
    Identification,
    ReconstructionErrors,
    full_summary,
)
from fairseq_ecg.metrics.bootstrap import Interval, bootstrap_intervals
from fairseq_ecg.metrics.identification import (
    RANKS,
    are_found,
    nearest,
    rank_accuracies,
    verification,
)
from fairseq_ecg.metrics.multiclass import SingleLabelSummary
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks.ecg_classification import average_per_record
from fairseq_ecg.tasks.ecg_identification import average_embeddings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Options:
    score_per: str
    batch_size: int
    threshold: float | Mapping[str, float] | None
    device: str
    leads: object
    label_file: str | None
    remark_on_leads: bool
    bootstrap: int
    seed: int


def evaluate(
    path: str | Sequence[str],
    data: str,
    split: str = "test",
    *,
    score_per: str = "record",
    batch_size: int = 64,
    threshold: float | Mapping[str, float] | None = None,
    device: str = "cpu",
    leads: object = None,
    label_file: str | None = None,
    remark_on_leads: bool = True,
    bootstrap: int = 0,
    seed: int = 0,
) -> Evaluation | Identification | ReconstructionErrors:
    """Score every recording of a split, as the checkpoint's model asks for (``evaluated_by``).

    Args:
        path: Checkpoint of a classifier, of a model that identifies patients, or of one that
            rebuilds what is hidden. Several of classifiers: their mean probability is scored; each
            gets the recordings prepared as it expects them.
        data: Folder of a label set, with ``labels.txt`` and ``<split>.tsv``; or one with
            ``<split>_probe.tsv`` and ``<split>_gallery.tsv``; or one of manifests without labels,
            for a model that rebuilds.
        split: Which manifest.
        score_per: "record" averages the probabilities, embeddings or errors of a recording's
            segments; "segment" keeps them apart, and identifies by the middle one of each
            recording. Frames with labels of their own are always kept apart.
        batch_size: Segments per forward pass.
        threshold: A class is decided where its probability is above this; one for all, or one of
            each label, in the order of the labels. None: that of the checkpoint's criterion. Where
            classes exclude each other the most probable one is decided, and there is none.
        device: Where to compute.
        leads: Silence all leads but these (see ``data/leads.choose_leads``); None leaves them as
            the checkpoint's task has them.
        label_file: Label array of a folder of ``.mat`` segments, as ``task.label_file``.
        remark_on_leads: Warn where other rows carry signal than in training.
        bootstrap: How many draws of patients the 95 % intervals are made of; 0: no intervals.
        seed: Of these draws.

    Raises:
        ValueError: If the checkpoint decides nothing, a network puts out NaN, a threshold is given
            to one that decides for the most probable class, or several checkpoints are not all of
            classifiers that decide in one way.
        ContractError: If the data are not what it expects: rate, leads, unit, preparation, classes;
            or if several checkpoints decide other classes.
    """
    if score_per not in ("record", "segment"):
        raise ValueError(f"score_per must be record or segment, got {score_per!r}")
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not paths:
        raise ValueError("there is no checkpoint to evaluate; give one or more")
    checkpoints = [read_checkpoint(one) for one in paths]
    options = _Options(
        score_per, batch_size, threshold, device, leads, label_file, remark_on_leads, bootstrap,
        seed,
    )  # fmt: skip
    if len(checkpoints) > 1:
        return _average(checkpoints, data, split, options)
    return _evaluate_one(checkpoints[0], data, split, options)


def _evaluate_one(
    checkpoint: Checkpoint, data: str, split: str, options: _Options
) -> Evaluation | Identification | ReconstructionErrors:
    evaluation = (_EVALUATIONS | _EVALUATIONS_OF_TASKS)[_task_name(checkpoint)]
    return evaluation(checkpoint, data, split, options)


def _average(
    checkpoints: Sequence[Checkpoint], data: str, split: str, options: _Options
) -> Evaluation:
    """Score the mean probability of several classifiers."""
    _check_alike(checkpoints, options.threshold)
    results = []
    for number, checkpoint in enumerate(checkpoints):
        # Whose recordings they are is read once.
        each = dataclasses.replace(options, bootstrap=0 if number else options.bootstrap)
        result = _evaluate_one(checkpoint, data, split, each)
        if not isinstance(result, Evaluation):
            raise ValueError(
                f"{checkpoint.path} decides no classes; only probabilities can be averaged, so "
                "give the checkpoints of classifiers, or one checkpoint"
            )
        results.append(result)
    first = results[0]
    for checkpoint, result in zip(checkpoints, results, strict=True):
        if result.names != first.names:
            raise ValueError(
                f"{checkpoint.path} and {checkpoints[0].path} cut the recordings into other "
                f"segments ({len(result.names)} and {len(first.names)}); average them by recording "
                "(--score-per record)"
            )
    records = _seen_by_any([result.records for result in results])
    of_recordings = records.drop_duplicates("record")
    return _finished(
        dataclasses.replace(
            first,
            probability=np.mean([result.probability for result in results], axis=0),
            overlap=int(of_recordings["trained_on"].sum()),
            pretraining_overlap=int(of_recordings["pretrained_on"].sum()),
            records=records,
            checkpoints=tuple(checkpoint.path for checkpoint in checkpoints),
        ),
        options,
    )


def _check_alike(
    checkpoints: Sequence[Checkpoint], threshold: float | Mapping[str, float] | None
) -> None:
    """Refuse to average networks that decide other classes, or in another way."""
    first, *others = checkpoints
    contract = InputContract.from_dict(first.contract)
    cut = (first.criterion_cfg.get("threshold"), first.criterion_cfg.get("auc_average"))
    for other in others:
        theirs = InputContract.from_dict(other.contract)
        if None not in (contract.labels, theirs.labels) and contract.labels != theirs.labels:
            raise ContractError(
                f"{other.path} decides other classes ({', '.join(theirs.labels[:4])}, ...) than "
                f"{first.path} ({', '.join(contract.labels[:4])}, ...); probabilities of the same "
                "classes in the same order can be averaged"
            )
        if is_single_label(first) != is_single_label(other):
            raise ValueError(
                f"of {first.path} and {other.path} one decides for the most probable class and "
                "the other for each class by itself; their probabilities cannot be averaged"
            )
        found = (other.criterion_cfg.get("threshold"), other.criterion_cfg.get("auc_average"))
        if threshold is None and found != cut:
            raise ValueError(
                f"{first.path} and {other.path} were trained with other thresholds or averages "
                f"({cut} and {found}); say which threshold decides (--threshold 0.5)"
            )


def _seen_by_any(records: Sequence[pd.DataFrame]) -> pd.DataFrame:
    seen = {
        stage: np.logical_or.reduce([table[stage] for table in records])
        for stage in ("trained_on", "pretrained_on")
    }
    return records[0].assign(**seen)


def _finished(result: Evaluation, options: _Options) -> Evaluation:
    """Fill in what follows from the rows: metrics and intervals."""
    _check_finite(result)
    result.metrics = result.summary(result.probability, result.truth)
    result.add_intervals(options.bootstrap, options.seed)
    return result


def _check_finite(result: Evaluation) -> None:
    wrong = ~np.isfinite(result.probability)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{' and '.join(result.checkpoints)}: the network puts out "
            f"{result.probability[row, column]} for class {result.labels[column]} of "
            f"{result.names[row]} ({int(wrong.any(axis=1).sum())} of {len(result.names)} "
            f"{result.unit}s are affected), so that there are no numbers; its training broke down, "
            "or these recordings hold samples that are no numbers"
        )


def recorded_leads(path: str, data: str, split: str) -> list[str]:
    """Return the leads that some recording of a split has.

    Args:
        path: The checkpoint that the split is for, which decides what its manifests are called.
        data: Folder of manifests.
        split: Which manifest.
    """
    task_class = TASK_REGISTRY[_task_name(read_checkpoint(path))]
    names = task_class.manifests_of(split, training=False)
    sources = [open_source(read_manifest(Path(data) / f"{name}.tsv")) for name in names]
    recorded = np.logical_or.reduce([source.recorded_leads() for source in sources])
    return [lead for lead, found in zip(STANDARD_LEADS, recorded, strict=True) if found]


def _task_name(checkpoint: Checkpoint) -> str:
    own = checkpoint.task_cfg.get("_name")
    if own in _EVALUATIONS_OF_TASKS:
        return own
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    return getattr(model_class, "evaluated_by", "ecg_classification")


def evaluate_splits(
    path: str | Sequence[str],
    data: str,
    splits: Sequence[str],
    *,
    bootstrap: int = 0,
    seed: int = 0,
    **options: Any,
) -> Evaluation:
    """Score the recordings of several splits as if they were one.

    Args:
        path: Checkpoint of a classifier, or several.
        data: Folder of a label set.
        splits: Which manifests.
        bootstrap: As for ``evaluate``.
        seed: As for ``evaluate``.
        **options: Further keywords of ``evaluate``.

    Raises:
        ValueError: As ``evaluate``, or if the checkpoint decides no classes.
    """
    parts = [evaluate(path, data, split, **options) for split in splits]
    first = parts[0]
    if not isinstance(first, Evaluation):
        raise ValueError(f"{path} decides no classes; give the checkpoint of a classifier")
    probability = np.concatenate([part.probability for part in parts])
    truth = np.concatenate([part.truth for part in parts])
    result = dataclasses.replace(
        first,
        names=[name for part in parts for name in part.names],
        probability=probability,
        truth=truth,
        start=None if first.start is None else np.concatenate([part.start for part in parts]),
        metrics=first.summary(probability, truth),
        num_segments=sum(part.num_segments for part in parts),
        overlap=sum(part.overlap for part in parts),
        pretraining_overlap=sum(part.pretraining_overlap for part in parts),
        records=pd.concat([part.records for part in parts], ignore_index=True),
        split="+".join(splits),
    )
    result.add_intervals(bootstrap, seed)
    return result


def _classify(checkpoint: Checkpoint, data: str, split: str, options: _Options) -> Evaluation:
    # The checkpoint's own label file is of the training data, perhaps on another machine.
    name = "ecg_classification"
    keys = {"leads": options.leads, "label_file": options.label_file}
    task = open_task(checkpoint, name, data, split, **keys)
    if task.num_labels is None:
        raise ValueError(
            f"{data} has no labels.txt; give the folder of a label set, or, for .mat segments, a "
            "label file (--label-file y.npy), or the folder that `fairseq-ecg pack` makes of them"
        )
    labels = list(task.label_names or checkpoint.contract.get("labels") or [])
    labels = labels or [f"class_{k}" for k in range(task.num_labels)]
    task.single_label = is_single_label(checkpoint)
    task.load_dataset(split, training=False)
    return _decide(checkpoint, task, task.dataset(split).dataset.source, split, options, labels)


def _classify_frames(
    checkpoint: Checkpoint, data: str, split: str, options: _Options
) -> Evaluation:
    keys = {"leads": options.leads, "segment_s": None}  # the contract's is the length of a frame
    task = open_task(checkpoint, "ecg_frame_classification", data, split, **keys)
    task.load_dataset(split, training=False)
    options = dataclasses.replace(options, score_per="frame")
    source = task.dataset(split).source
    return _decide(checkpoint, task, source, split, options, task.label_names, ("start",))


def _predict_the_future(
    checkpoint: Checkpoint, data: str, split: str, options: _Options
) -> Evaluation:
    raise ValueError(
        f"{checkpoint.path} was trained to find the frame that follows (ecg_future_prediction), so "
        "it decides no classes; how often it finds it is in its training log. Fine-tune a "
        "classifier from it (model.model_path=...) and evaluate that one"
    )


def _decide(
    checkpoint: Checkpoint,
    task: EcgTask,
    source: Source,
    split: str,
    options: _Options,
    labels: list[str],
    places: tuple[str, ...] = (),
) -> Evaluation:
    """Return what a classifier says about the items of a split that is open.

    ``places`` are the keys of a batch that say where in its recording an item is.
    """
    summary = decision_rule(checkpoint, options.threshold, labels)
    single_label = is_single_label(checkpoint)
    _remark_on_leads(checkpoint, task, options, source)
    scores = _forward(
        checkpoint, task, split, options, partial(probabilities, checkpoint), ("label", *places)
    )
    num_segments = len(scores["id"])
    if options.score_per == "record":
        scores = average_per_record(scores)
    recordings = _describe(checkpoint, source, options.bootstrap > 0)
    result = Evaluation(
        names=[source.names[row] for row in scores["record"]],
        labels=labels,
        probability=scores["probability"],
        truth=scores["label"],
        start=scores.get("start"),
        num_segments=num_segments,
        overlap=int(recordings["trained_on"].sum()),
        pretraining_overlap=int(recordings["pretrained_on"].sum()),
        unit=options.score_per,
        single_label=single_label,
        summary=summary,
        records=recordings.iloc[scores["record"]].reset_index(drop=True),
        checkpoints=(checkpoint.path,),
        data=str(task.cfg.data),
        split=split,
    )
    return _finished(result, options)


def _describe(checkpoint: Checkpoint, source: Source, read_patients: bool) -> pd.DataFrame:
    """Return what is known of each recording, ``RECORD_COLUMNS``.

    Args:
        checkpoint: Which may have been trained on them.
        source: The recordings.
        read_patients: As for ``describe_recordings``.
    """
    own, pretraining = _seen(checkpoint, source)
    known = describe_recordings(source, read_patients)
    return known.assign(trained_on=own, pretrained_on=pretraining)


def describe_recordings(source: Source, read_patients: bool = True) -> pd.DataFrame:
    """Return the record, patient, age, sex and corpus of each recording.

    Args:
        source: The recordings.
        read_patients: Read files that alone know whose they are.

    Returns:
        The first of ``RECORD_COLUMNS``; empty or NaN where nothing is known.
    """
    people = source.people()
    if not people and read_patients:
        numbers = [str(source.patient(row)) for row in range(len(source.names))]
        people = numbers if len(set(numbers)) < len(numbers) else []  # else of recordings
    age, sex = source.demographics()
    corpora = [source.corpus] * len(source.names)
    if source.corpus == "physionet2021":  # several under one roof
        corpora = [database_of(name) or source.corpus for name in source.names]
    return pd.DataFrame(
        {
            "record": source.names,
            "patient": people or [""] * len(source.names),
            "age": age,
            "sex": sex,
            "corpus": corpora,
        }
    )


def _identify(checkpoint: Checkpoint, data: str, split: str, options: _Options) -> Identification:
    name = "ecg_identification"
    keys = {"leads": options.leads, "score_per": options.score_per}
    task = open_task(checkpoint, name, data, split, **keys)
    task.load_dataset(split, training=False)
    manifests = task.manifests_of(split, training=False)
    sources = [task.dataset(manifest).dataset.source for manifest in manifests]
    _remark_on_leads(checkpoint, task, options, *sources)
    overlap, pretraining_overlap = _overlap(checkpoint, *sources)
    scores = _forward(checkpoint, task, split, options, _embedding, ("label", "gallery"))
    num_segments = len(scores["id"])
    scores = average_embeddings(scores)
    probe, gallery = (
        (scores["embedding"][side], scores["label"][side])
        for side in (scores["gallery"] == 0, scores["gallery"] == 1)
    )
    row, similarity = nearest(probe[0], gallery[0])
    return Identification(
        names=list(sources[0].names),
        patient=probe[1],
        nearest=[sources[1].names[r] for r in row],
        nearest_patient=gallery[1][row],
        similarity=similarity,
        metrics=rank_accuracies(*probe, *gallery) | verification(*probe, *gallery),
        num_segments=num_segments,
        overlap=overlap,
        pretraining_overlap=pretraining_overlap,
        intervals=_intervals_of_ranks(probe, gallery, options),
        draws=options.bootstrap,
    )


def _intervals_of_ranks(
    probe: tuple[np.ndarray, np.ndarray], gallery: tuple[np.ndarray, np.ndarray], options: _Options
) -> dict[str, Interval]:
    """Return the intervals of the accuracies; the patients of the probes are drawn."""
    if not options.bootstrap:
        return {}
    found = {name: are_found(*probe, *gallery, k=k) for name, k in RANKS.items()}

    def accuracies(rows: np.ndarray) -> dict[str, float]:
        return {name: float(hits[rows].mean()) for name, hits in found.items()}

    return bootstrap_intervals(accuracies, probe[1], options.bootstrap, options.seed)


def _reconstruct(
    checkpoint: Checkpoint, data: str, split: str, options: _Options
) -> ReconstructionErrors:
    if options.threshold is not None:
        raise ValueError(f"{checkpoint.path} decides no classes, so it takes no threshold")
    task = open_task(checkpoint, "ecg_pretraining", data, split, leads=options.leads)
    task.load_dataset(split, training=False)
    source = task.dataset(split).dataset.source
    _remark_on_leads(checkpoint, task, options, source)
    overlap, pretraining_overlap = _overlap(checkpoint, source)
    criterion = task.build_criterion(OmegaConf.create(checkpoint.criterion_cfg), True)
    rows: list[dict[str, float]] = []
    for sample, output in _outputs(checkpoint, task, split, options):
        rows += _sums_of_items(criterion, sample, output)
    sums = pd.DataFrame(rows)
    by_row = sums.groupby("record" if options.score_per == "record" else sums.index)
    each = by_row.sum().assign(record=by_row["record"].first())
    errors = pd.DataFrame([criterion.ratios(row) for row in each.to_dict("records")])
    return ReconstructionErrors(
        names=[source.names[int(record)] for record in each["record"]],
        errors={name: errors[name].to_numpy() for name in errors},
        metrics=criterion.ratios(sums.sum().to_dict()),
        num_segments=len(sums),
        overlap=overlap,
        pretraining_overlap=pretraining_overlap,
        unit=options.score_per,
        intervals=_intervals_of_ratios(criterion, sums, source, options),
        draws=options.bootstrap,
    )


def _intervals_of_ratios(
    criterion: FairseqCriterion, sums: pd.DataFrame, source: Source, options: _Options
) -> dict[str, Interval]:
    """Return the intervals of the ratios of sums [R rows]; patients are drawn."""
    if not options.bootstrap:
        return {}
    of_row = sums["record"].to_numpy(dtype=np.int64)
    parts = sums.drop(columns="record")
    table = parts.to_numpy(dtype=np.float64)
    people = source.people() or [str(source.patient(row)) for row in range(len(source.names))]

    def ratios(rows: np.ndarray) -> dict[str, float]:
        return criterion.ratios(dict(zip(parts, table[rows].sum(axis=0).tolist(), strict=True)))

    return bootstrap_intervals(
        ratios, np.array(people, dtype=object)[of_row], options.bootstrap, options.seed
    )


def _sums_of_items(
    criterion: FairseqCriterion, sample: dict[str, Any], output: dict[str, Tensor]
) -> list[dict[str, float]]:
    """Return the criterion's sums of each item of a batch, and its ``record``."""
    rows = []
    for item, record in enumerate(sample["record"].tolist()):
        one = slice(item, item + 1)
        net_input = {key: value[one] for key, value in sample["net_input"].items()}
        made = {k: output[k][one] for k in ("prediction", "lead_prediction") if k in output}
        sums = criterion.sums(net_input, made, sample["scale_mv"][one])
        rows.append({"record": record, **{name: float(value) for name, value in sums.items()}})
    return rows


# By the task that a model says it is evaluated by.
_EVALUATIONS = {
    "ecg_classification": _classify,
    "ecg_identification": _identify,
    "ecg_pretraining": _reconstruct,
}
# By the task that it was trained with, whatever its model is.
_EVALUATIONS_OF_TASKS = {
    "ecg_frame_classification": _classify_frames,
    "ecg_future_prediction": _predict_the_future,
}


def open_task(
    checkpoint: Checkpoint,
    name: str,
    data: str,
    split: str,
    *,
    leads: object = None,
    **keys: object,
) -> EcgTask:
    """Return the task a checkpoint was trained with, pointed at other data, which must fit.

    Args:
        checkpoint: Whose task.
        name: Which task.
        data: Folder of manifests.
        split: Which manifest.
        leads: As for ``evaluate``.
        **keys: Keys of the task that shall have other values.

    Raises:
        ContractError: As soon as recordings are opened that the network does not expect.
    """
    contract = InputContract.from_dict(checkpoint.contract)
    known = {key: value for key, value in checkpoint.task_cfg.items() if value is not None}
    cfg = {**known, "_name": name, "data": data, "standardize": "none", **keys}
    if leads is not None:
        cfg.update(leads_to_load=leads, enable_padding_leads=True)
    cfg.setdefault("seed", 1)
    cfg.setdefault("segment_s", contract.segment_s)
    for key in ("highpass_hz", "lowpass_hz"):
        cfg.setdefault(key, getattr(contract, key) or None)  # 0: no such filter
    task = tasks.setup_task(OmegaConf.create(cfg), from_checkpoint=True)
    if contract.standardize not in (None, "none") and _are_millivolts(task, split):
        cfg["standardize"] = contract.standardize
        task = tasks.setup_task(OmegaConf.create(cfg), from_checkpoint=True)
    task.expect(contract, checkpoint.path, (*INPUT_KEYS, "labels"))
    return task


def _are_millivolts(task: EcgTask, split: str) -> bool:
    first = task.manifests_of(split, training=False)[0]
    return task.open_source(read_manifest(Path(task.cfg.data) / f"{first}.tsv")).unit == MILLIVOLTS


def decision_rule(
    checkpoint: Checkpoint, asked: float | Mapping[str, float] | None, labels: list[str]
) -> Summary | SingleLabelSummary:
    """Return how a classifier decides, and all numbers of what it decides.

    Args:
        checkpoint: Threshold, average and challenge table are those of its training.
        asked: Another threshold, as for ``evaluate``.
        labels: Names of the classes.

    Raises:
        ValueError: If a threshold is asked for where the most probable class is decided, or the
            thresholds are those of other classes.
    """
    criterion = checkpoint.criterion_cfg
    if is_single_label(checkpoint):
        if asked is not None:
            raise ValueError(
                f"{checkpoint.path} decides for the most probable class (criterion "
                f"{criterion['_name']}), so it takes no threshold; leave it out"
            )
        return SingleLabelSummary(tuple(labels))
    threshold = criterion.get("threshold") if asked is None else asked
    if isinstance(threshold, Mapping):
        threshold = _per_class(threshold, labels)
    average = criterion.get("auc_average") or "macro"
    return full_summary(
        labels,
        0.5 if threshold is None else threshold,
        str(getattr(average, "value", average)),
        criterion.get("weights_file"),
    )


def is_single_label(checkpoint: Checkpoint) -> bool:
    """Return whether a network decides for the most probable class.

    Args:
        checkpoint: Whose network.
    """
    criterion = CRITERION_REGISTRY.get(str(checkpoint.criterion_cfg.get("_name")))
    return getattr(criterion, "single_label", False)


def _per_class(asked: Mapping[str, float], labels: list[str]) -> np.ndarray:
    if list(asked) != labels:
        raise ValueError(
            f"the thresholds are of {len(asked)} classes ({', '.join(list(asked)[:4])}, ...), the "
            f"data have {len(labels)} ({', '.join(labels[:4])}, ...); they must be equal: search "
            "them again with `fairseq-ecg thresholds`"
        )
    return np.array(list(asked.values()), dtype=np.float64)


def _remark_on_leads(
    checkpoint: Checkpoint, task: EcgTask, options: _Options, *sources: Source
) -> None:
    contract = InputContract.from_dict(checkpoint.contract)
    remarks = [
        lead_remark(contract, task.present_leads(source), checkpoint.path)
        for source in sources
        if options.remark_on_leads
    ]
    for remark in dict.fromkeys(filter(None, remarks)):  # the same of probes and gallery once
        logger.warning("%s", remark)


def _overlap(checkpoint: Checkpoint, *sources: Source) -> tuple[int, int]:
    """Return how many recordings were trained on, and how many the encoder was pretrained on."""
    seen = [_seen(checkpoint, source) for source in sources]
    return sum(int(own.sum()) for own, _ in seen), sum(int(earlier.sum()) for _, earlier in seen)


def _seen(checkpoint: Checkpoint, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return which recordings were trained on, and which the encoder was pretrained on, bool [N].

    A warning says where only their names tell it.
    """
    trained_on = checkpoint.contract.get("trained_on") or {}
    contents = source.fingerprints()
    own, pretraining = seen_in_training(trained_on, contents, source.names)
    read = len(contents) and len(trained_on.get("records", ()))
    if (own.any() or pretraining.any()) and not read:
        logger.warning(
            "recordings in folders of files are compared with those trained on by their names, not "
            "by their samples; another data set may have the same names"
        )
    return own, pretraining


def probabilities(checkpoint: Checkpoint, output: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the ``probability`` of each class, float32 [B, K].

    Args:
        checkpoint: Whose network.
        output: What it gave.

    Raises:
        ValueError: If it decides no classes.
    """
    if "out" not in output:
        raise ValueError(
            f"the checkpoint's network ({MODEL_REGISTRY[checkpoint.model_name].__name__}) decides "
            "no classes; fine-tune a classifier from it (model.model_path=...) and take that one"
        )
    logits = output["out"].float()
    if is_single_label(checkpoint):
        return {"probability": torch.softmax(logits, dim=1)}
    return {"probability": torch.sigmoid(logits)}


def _embedding(output: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"embedding": output["embedding"].float()}


def _forward(
    checkpoint: Checkpoint,
    task: EcgTask,
    split: str,
    options: _Options,
    score: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    keys: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """Return what ``score`` makes of the network's output, and the samples' ``keys``."""
    parts: list[dict[str, Tensor]] = []
    for sample, output in _outputs(checkpoint, task, split, options):
        kept = {key: sample[key] for key in ("id", "record", *keys)}
        parts.append({**kept, **{key: value.cpu() for key, value in score(output).items()}})
    return {key: torch.cat([part[key] for part in parts]).cpu().numpy() for key in parts[0]}


def _outputs(
    checkpoint: Checkpoint, task: EcgTask, split: str, options: _Options
) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Yield every batch of a split, on the device, and what the network makes of it."""
    model = open_model(checkpoint, task).to(options.device)
    dataset = task.dataset(split)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=options.batch_size)
    for batch in batches:
        sample = dataset.collater(dataset.__getitems__(batch))
        sample = apply_to_sample(lambda values: values.to(options.device), sample)
        with torch.inference_mode():
            output = model(**sample["net_input"])
        yield sample, output


def open_model(checkpoint: Checkpoint, task: EcgTask) -> BaseFairseqModel:
    """Return the network of a checkpoint in evaluation mode.

    Args:
        checkpoint: What ``read_checkpoint`` returned.
        task: A network that hides blocks learns from it how long they are.
    """
    model = build_model(checkpoint).eval()
    if hasattr(model, "mask_block"):
        model.mask_block = getattr(task.cfg, "mask_block", None)
    return model
