"""Scores of a fine-tuned checkpoint on one split of a manifest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fairseq import tasks
from fairseq.models import MODEL_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_ecg.checkpoint import Checkpoint, build_model, read_checkpoint
from fairseq_ecg.contract import INPUT_KEYS, InputContract, seen_in_training
from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.data.sources import Source
from fairseq_ecg.metrics.cinc2021 import find_class, load_weights
from fairseq_ecg.metrics.identification import nearest, rank_accuracies, verification
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.resources import challenge_labels, challenge_weights_file
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks.ecg_classification import average_per_record
from fairseq_ecg.tasks.ecg_identification import average_embeddings


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

    def table(self) -> pd.DataFrame:
        """Return one row per record: its name, then one probability per class."""
        table = pd.DataFrame(self.probability, columns=self.labels)
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


@dataclass(frozen=True)
class _Options:
    score_per: str
    batch_size: int
    threshold: float | Mapping[str, float] | None
    device: str
    leads: object
    label_file: str | None


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
) -> Evaluation | Identification:
    """Score every recording of a split, as the checkpoint's model asks for (``evaluated_by``).

    Args:
        path: Checkpoint of a classifier, or of a model that identifies patients.
        data: Folder of a label set, with ``labels.txt`` and ``<split>.tsv``; or one with
            ``<split>_probe.tsv`` and ``<split>_gallery.tsv``.
        split: Which manifest.
        score_per: "record" averages the probabilities, or embeddings, of a recording's segments;
            "segment" keeps them apart, and identifies by the middle one of each recording.
        batch_size: Segments per forward pass.
        threshold: A class is decided where its probability is above this; one for all, or one of
            each label, in the order of the labels. None: that of the checkpoint's criterion.
        device: Where to compute.
        leads: Silence all leads but these (see ``data/leads.choose_leads``); None leaves them as
            the checkpoint's task has them.
        label_file: Label array of a folder of ``.mat`` segments, as ``task.label_file``.

    Raises:
        ValueError: If the checkpoint decides nothing.
        ContractError: If the data are not what it expects: rate, leads, unit, preparation, classes.
    """
    if score_per not in ("record", "segment"):
        raise ValueError(f"score_per must be record or segment, got {score_per!r}")
    checkpoint = read_checkpoint(path)
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    evaluation = _EVALUATIONS[getattr(model_class, "evaluated_by", "ecg_classification")]
    options = _Options(score_per, batch_size, threshold, device, leads, label_file)
    return evaluation(checkpoint, data, split, options)


def _classify(checkpoint: Checkpoint, data: str, split: str, options: _Options) -> Evaluation:
    # The checkpoint's own label file is of the training data, perhaps on another machine.
    name = "ecg_classification"
    task = _task(checkpoint, name, data, split, options, label_file=options.label_file)
    if task.num_labels is None:
        raise ValueError(
            f"{data} has no labels.txt; give the folder of a label set, or, for .mat segments, a "
            "label file (--label-file y.npy), or the folder that `fairseq-ecg pack` makes of them"
        )
    labels = list(task.label_names or checkpoint.contract.get("labels") or [])
    labels = labels or [f"class_{k}" for k in range(task.num_labels)]
    task.load_dataset(split, training=False)
    source = task.dataset(split).dataset.source
    overlap, pretraining_overlap = _overlap(checkpoint, source)
    scores = _forward(checkpoint, task, split, options, _probability, ("label",))
    num_segments = len(scores["id"])
    if options.score_per == "record":
        scores = average_per_record(scores)
    summary = _summary(checkpoint, options.threshold, labels)
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
    )


def _identify(checkpoint: Checkpoint, data: str, split: str, options: _Options) -> Identification:
    name = "ecg_identification"
    task = _task(checkpoint, name, data, split, options, score_per=options.score_per)
    task.load_dataset(split, training=False)
    manifests = task.manifests_of(split, training=False)
    sources = [task.dataset(manifest).dataset.source for manifest in manifests]
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


# By the task that a model says it is evaluated by.
_EVALUATIONS = {"ecg_classification": _classify, "ecg_identification": _identify}


def _task(
    checkpoint: Checkpoint, name: str, data: str, split: str, options: _Options, **keys: object
) -> EcgTask:
    """Return the task the checkpoint was trained with, pointed at other data, which must fit."""
    contract = InputContract.from_dict(checkpoint.contract)
    cfg = {**checkpoint.task_cfg, "_name": name, "data": data, "standardize": "none", **keys}
    if options.leads is not None:
        cfg.update(leads_to_load=options.leads, enable_padding_leads=True)
    cfg.setdefault("seed", 1)
    cfg.setdefault("segment_s", contract.segment_s)
    task = tasks.setup_task(OmegaConf.create(cfg), from_checkpoint=True)
    if contract.standardize == "record" and _are_millivolts(task, split):
        cfg["standardize"] = "record"
        task = tasks.setup_task(OmegaConf.create(cfg), from_checkpoint=True)
    task.expect(contract, checkpoint.path, (*INPUT_KEYS, "labels"))
    return task


def _are_millivolts(task: EcgTask, split: str) -> bool:
    first = task.manifests_of(split, training=False)[0]
    return task.open_source(read_manifest(Path(task.cfg.data) / f"{first}.tsv")).unit == MILLIVOLTS


def _summary(
    checkpoint: Checkpoint, asked: float | Mapping[str, float] | None, labels: list[str]
) -> Summary:
    """Return the numbers that training logged: same threshold, average and challenge table."""
    criterion = checkpoint.criterion_cfg
    threshold = criterion.get("threshold") if asked is None else asked
    if isinstance(threshold, Mapping):
        threshold = _per_class(threshold, labels)
    average = criterion.get("auc_average") or "macro"
    return Summary(
        threshold=0.5 if threshold is None else threshold,
        average=str(getattr(average, "value", average)),
        **_challenge(labels, criterion.get("weights_file")),
    )


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


def _overlap(checkpoint: Checkpoint, *sources: Source) -> tuple[int, int]:
    """Return how many recordings were trained on, and how many the encoder was pretrained on."""
    fingerprints = np.concatenate([source.fingerprints() for source in sources])
    own, pretraining = seen_in_training(checkpoint.contract.get("trained_on") or {}, fingerprints)
    return int(own.sum()), int(pretraining.sum())


def _probability(output: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"probability": torch.sigmoid(output["out"].float())}


def _embedding(output: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"embedding": output["embedding"].float()}


@torch.inference_mode()
def _forward(
    checkpoint: Checkpoint,
    task: EcgTask,
    split: str,
    options: _Options,
    score: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    keys: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """Return what ``score`` makes of the network's output, and the samples' ``keys``."""
    model = build_model(checkpoint).to(options.device).eval()
    dataset = task.dataset(split)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=options.batch_size)
    parts: list[dict[str, Tensor]] = []
    for batch in batches:
        sample = dataset.collater(dataset.__getitems__(batch))
        net_input = {key: value.to(options.device) for key, value in sample["net_input"].items()}
        output = model(**net_input)
        if "out" not in output:
            raise ValueError(
                f"the checkpoint's network ({type(model).__name__}) decides no classes; "
                "fine-tune a classifier from it (model.model_path=...) and evaluate that one"
            )
        kept = {key: sample[key] for key in ("id", "record", *keys)}
        parts.append({**kept, **{key: value.cpu() for key, value in score(output).items()}})
    return {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}
