"""Scores of a checkpoint on one split of a manifest."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from fairseq_ecg.contract import INPUT_KEYS, InputContract, lead_remark, seen_in_training
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.data.sources import Source, open_source
from fairseq_ecg.metrics.cinc2021 import find_class, load_weights
from fairseq_ecg.metrics.identification import nearest, rank_accuracies, verification
from fairseq_ecg.metrics.multiclass import SingleLabelSummary
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.resources import challenge_labels, challenge_weights_file
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks.ecg_classification import average_per_record
from fairseq_ecg.tasks.ecg_identification import average_embeddings

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """What a classifier says about a split.

    Args:
        names: Record of each row.
        labels: Class names, [K].
        probability: float64 [R, K].
        truth: 0 or 1, float32 [R, K].
        metrics: By name; see ``metrics/summary.py``.
        num_segments: How many segments the rows were averaged from.
        overlap: How many of the recordings the checkpoint was trained on, as far as it knows.
        pretraining_overlap: How many of them its encoder was pretrained on.
        unit: What a row is.
        single_label: Whether exactly one class is true, and the most probable one is decided.
    """

    names: list[str]
    labels: list[str]
    probability: np.ndarray
    truth: np.ndarray
    metrics: dict[str, float] = field(default_factory=dict)
    num_segments: int = 0
    overlap: int = 0
    pretraining_overlap: int = 0
    unit: str = "record"
    single_label: bool = False

    def confusion(self) -> pd.DataFrame:
        """Return how often each class was decided (columns) where each is true (rows).

        Raises:
            ValueError: If classes do not exclude each other.
        """
        if not self.single_label:
            raise ValueError("several classes may be true at once, so there is no confusion matrix")
        counts = SingleLabelSummary().confusion(self.probability, self.truth)
        return pd.DataFrame(counts, index=self.labels, columns=self.labels)

    def table(self) -> pd.DataFrame:
        """Return one row per record: its name, then one probability per class."""
        return self._by_record(self.probability)

    def truth_table(self) -> pd.DataFrame:
        """Return one row per record: its name, then 0 or 1 per class."""
        return self._by_record(self.truth.astype(np.int64))

    def _by_record(self, values: np.ndarray) -> pd.DataFrame:
        table = pd.DataFrame(values, columns=self.labels)
        table.insert(0, "record", self.names)
        return table


@dataclass
class Identification:
    """For whom a network takes the probes of a split.

    Args:
        names: Recording of each probe.
        patient: Its patient, int64 [N].
        nearest: Gallery recording that is most similar to it.
        nearest_patient: Whose that is, int64 [N].
        similarity: Cosine of the two, float64 [N].
        metrics: By name: rank-1 ``accuracy``, ``rank5_accuracy``; ``auroc`` and ``eer`` of telling
            pairs of one patient from pairs of two.
        num_segments: How many segments of probes and gallery were embedded.
        overlap: As in ``Evaluation``, of probes and gallery; so is ``pretraining_overlap``.
        pretraining_overlap: See ``overlap``.
        unit: What a row is.
    """

    names: list[str]
    patient: np.ndarray
    nearest: list[str]
    nearest_patient: np.ndarray
    similarity: np.ndarray
    metrics: dict[str, float]
    num_segments: int
    overlap: int
    pretraining_overlap: int = 0
    unit: str = "probe"

    def table(self) -> pd.DataFrame:
        """Return one row per probe."""
        return pd.DataFrame(
            {
                "record": self.names,
                "patient": self.patient,
                "nearest": self.nearest,
                "nearest_patient": self.nearest_patient,
                "similarity": self.similarity,
            }
        )


@dataclass
class ReconstructionErrors:
    """How well a network rebuilds what is hidden from it.

    Args:
        names: Recording of each row.
        errors: By name as in ``metrics``, float64 [R] each, NaN where there is no value.
        metrics: By name, over all that was hidden: ``mse`` per sample and ``nmse``, its share of
            the mean square, in the space of the target; ``mse_masked_uv2`` and, over all samples,
            ``mse_all_uv2`` where targets are the samples themselves (see
            ``criterions/ecg_masked_mse.py``).
        num_segments: How many segments the rows were computed from.
        overlap: As in ``Evaluation``.
        pretraining_overlap: As in ``Evaluation``.
        unit: What a row is.
    """

    names: list[str]
    errors: dict[str, np.ndarray]
    metrics: dict[str, float]
    num_segments: int
    overlap: int
    pretraining_overlap: int = 0
    unit: str = "record"

    def table(self) -> pd.DataFrame:
        """Return one row per record: its name, then its errors."""
        return pd.DataFrame({"record": self.names, **self.errors})


@dataclass(frozen=True)
class _Options:
    score_per: str
    batch_size: int
    threshold: float | Mapping[str, float] | None
    device: str
    leads: object
    label_file: str | None
    remark_on_leads: bool


def evaluate(
    path: str,
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
) -> Evaluation | Identification | ReconstructionErrors:
    """Score every recording of a split, as the checkpoint's model asks for (``evaluated_by``).

    Args:
        path: Checkpoint of a classifier, of a model that identifies patients, or of one that
            rebuilds what is hidden.
        data: Folder of a label set, with ``labels.txt`` and ``<split>.tsv``; or one with
            ``<split>_probe.tsv`` and ``<split>_gallery.tsv``; or one of manifests without labels,
            for a model that rebuilds.
        split: Which manifest.
        score_per: "record" averages the probabilities, embeddings or errors of a recording's
            segments; "segment" keeps them apart, and identifies by the middle one of each
            recording.
        batch_size: Segments per forward pass.
        threshold: A class is decided where its probability is above this; one for all, or one of
            each label, in the order of the labels. None: that of the checkpoint's criterion. Where
            classes exclude each other the most probable one is decided, and there is none.
        device: Where to compute.
        leads: Silence all leads but these (see ``data/leads.choose_leads``); None leaves them as
            the checkpoint's task has them.
        label_file: Label array of a folder of ``.mat`` segments, as ``task.label_file``.
        remark_on_leads: Warn where other rows carry signal than in training.

    Raises:
        ValueError: If the checkpoint decides nothing, or a threshold is given to one that decides
            for the most probable class.
        ContractError: If the data are not what it expects: rate, leads, unit, preparation, classes.
    """
    if score_per not in ("record", "segment"):
        raise ValueError(f"score_per must be record or segment, got {score_per!r}")
    checkpoint = read_checkpoint(path)
    evaluation = _EVALUATIONS[_task_name(checkpoint)]
    options = _Options(score_per, batch_size, threshold, device, leads, label_file, remark_on_leads)
    return evaluation(checkpoint, data, split, options)


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
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    return getattr(model_class, "evaluated_by", "ecg_classification")


def evaluate_splits(path: str, data: str, splits: Sequence[str], **options: Any) -> Evaluation:
    """Score the recordings of several splits as if they were one.

    Args:
        path: Checkpoint of a classifier.
        data: Folder of a label set.
        splits: Which manifests.
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
    summary = _summary(read_checkpoint(path), options.get("threshold"), first.labels)
    return Evaluation(
        names=[name for part in parts for name in part.names],
        labels=first.labels,
        probability=probability,
        truth=truth,
        metrics=summary(probability, truth),
        num_segments=sum(part.num_segments for part in parts),
        overlap=sum(part.overlap for part in parts),
        pretraining_overlap=sum(part.pretraining_overlap for part in parts),
        unit=first.unit,
        single_label=first.single_label,
    )


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
    summary = _summary(checkpoint, options.threshold, labels)
    single_label = _is_single_label(checkpoint)
    task.single_label = single_label
    task.load_dataset(split, training=False)
    source = task.dataset(split).dataset.source
    _remark_on_leads(checkpoint, task, options, source)
    overlap, pretraining_overlap = _overlap(checkpoint, source)
    probability = _share_of_classes if single_label else _probability
    scores = _forward(checkpoint, task, split, options, probability, ("label",))
    num_segments = len(scores["id"])
    if options.score_per == "record":
        scores = average_per_record(scores)
    return Evaluation(
        names=[source.names[row] for row in scores["record"]],
        labels=labels,
        probability=scores["probability"],
        truth=scores["label"],
        metrics=summary(scores["probability"], scores["label"]),
        num_segments=num_segments,
        overlap=overlap,
        pretraining_overlap=pretraining_overlap,
        unit=options.score_per,
        single_label=single_label,
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
    )


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


def _summary(
    checkpoint: Checkpoint, asked: float | Mapping[str, float] | None, labels: list[str]
) -> Summary | SingleLabelSummary:
    """Return all numbers: threshold, average and challenge table are those of the training."""
    criterion = checkpoint.criterion_cfg
    if _is_single_label(checkpoint):
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
    return Summary(
        threshold=0.5 if threshold is None else threshold,
        average=str(getattr(average, "value", average)),
        f_max=True,
        f_beta=True,
        **_challenge(labels, criterion.get("weights_file")),
    )


def _is_single_label(checkpoint: Checkpoint) -> bool:
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


def _challenge(labels: list[str], weights_file: str | None) -> dict:
    if labels != challenge_labels():
        return {}
    given = weights_file is not None and Path(weights_file).is_file()
    classes, weights = load_weights(Path(weights_file) if given else challenge_weights_file())
    return {"cinc_weights": weights, "sinus_index": find_class(classes)}


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
    fingerprints = np.concatenate([source.fingerprints() for source in sources])
    own, pretraining = seen_in_training(checkpoint.contract.get("trained_on") or {}, fingerprints)
    return int(own.sum()), int(pretraining.sum())


def _probability(output: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"probability": torch.sigmoid(output["out"].float())}


def _share_of_classes(output: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"probability": torch.softmax(output["out"].float(), dim=1)}


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
        if "out" not in output:
            raise ValueError(
                f"the checkpoint's network ({MODEL_REGISTRY[checkpoint.model_name].__name__}) "
                "decides no classes; fine-tune a classifier from it (model.model_path=...) and "
                "evaluate that one"
            )
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
