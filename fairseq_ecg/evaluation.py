"""Scores of a fine-tuned checkpoint on one split of a manifest."""

from dataclasses import dataclass, field

import numpy as np
import torch
from fairseq import tasks
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_ecg.checkpoint import Checkpoint, build_model, read_checkpoint
from fairseq_ecg.metrics.cinc2021 import find_class, load_weights
from fairseq_ecg.metrics.summary import Summary
from fairseq_ecg.resources import challenge_labels, challenge_weights_file
from fairseq_ecg.tasks._base import EcgTask
from fairseq_ecg.tasks.ecg_classification import average_per_record


@dataclass
class Evaluation:
    """What a checkpoint says about a split.

    Args:
        names: Record of each row.
        labels: Class names, [K].
        probability: float64 [R, K].
        truth: 0 or 1, float32 [R, K].
        metrics: By name; see ``metrics/summary.py``.
        num_segments: How many segments the rows were averaged from.
        overlap: How many of the recordings the checkpoint was trained on, as far as it knows.
    """

    names: list[str]
    labels: list[str]
    probability: np.ndarray
    truth: np.ndarray
    metrics: dict[str, float] = field(default_factory=dict)
    num_segments: int = 0
    overlap: int = 0


def evaluate(
    path: str,
    data: str,
    split: str = "test",
    *,
    score_per: str = "record",
    batch_size: int = 64,
    threshold: float = 0.5,
    device: str = "cpu",
    leads: object = None,
) -> Evaluation:
    """Score every recording of a split.

    Args:
        path: Checkpoint of a classifier.
        data: Folder of a label set, with ``labels.txt`` and ``<split>.tsv``.
        split: Which manifest.
        score_per: "record" averages the probabilities of a recording's segments; "segment" keeps
            them apart.
        batch_size: Segments per forward pass.
        threshold: A class is decided where its probability is above this.
        device: Where to compute.
        leads: Silence all leads but these (see ``data/leads.choose_leads``); None leaves them as
            the checkpoint's task has them.

    Raises:
        ValueError: If the checkpoint is no classifier, or does not fit the data (rate, classes).
    """
    if score_per not in ("record", "segment"):
        raise ValueError(f"score_per must be record or segment, got {score_per!r}")
    checkpoint = read_checkpoint(path)
    task = _task(checkpoint, data, leads)
    labels = _check_labels(path, checkpoint, task)
    task.load_dataset(split, training=False)
    source = task.dataset(split).dataset.source
    _check_rate(path, checkpoint, source.rate_hz)
    model = build_model(checkpoint).to(device).eval()
    scores = _forward(model, task, split, batch_size, device)
    num_segments = len(scores["id"])
    if score_per == "record":
        scores = average_per_record(scores)
    summary = Summary(threshold=threshold, **_challenge(labels))
    return Evaluation(
        names=[source.names[row] for row in scores["record"]],
        labels=labels,
        probability=scores["probability"],
        truth=scores["label"],
        metrics=summary(scores["probability"], scores["label"]),
        num_segments=num_segments,
        overlap=_overlap(checkpoint, source.fingerprints()),
    )


def _task(checkpoint: Checkpoint, data: str, leads: object = None) -> EcgTask:
    """Return the task the checkpoint was trained with, pointed at other data."""
    cfg = {
        **checkpoint.task_cfg,
        "_name": "ecg_classification",
        "data": data,
        "label_file": None,  # of the training data, perhaps on another machine
    }
    if leads is not None:
        cfg.update(leads_to_load=leads, enable_padding_leads=True)
    cfg.setdefault("seed", 1)
    return tasks.setup_task(OmegaConf.create(cfg), from_checkpoint=True)


def _check_labels(path: str, checkpoint: Checkpoint, task: EcgTask) -> list[str]:
    known = checkpoint.contract.get("labels")
    if task.label_names is None:
        raise ValueError(f"{task.cfg.data} has no labels.txt; give the folder of a label set")
    if known is not None and list(known) != list(task.label_names):
        raise ValueError(
            f"{path} decides {len(known)} classes ({', '.join(known[:4])}, ...), the data have "
            f"{len(task.label_names)} ({', '.join(task.label_names[:4])}, ...); they must be equal"
        )
    return list(task.label_names)


def _check_rate(path: str, checkpoint: Checkpoint, rate_hz: float) -> None:
    expected = checkpoint.contract.get("rate_hz")
    if expected is not None and float(expected) != rate_hz:
        raise ValueError(
            f"{path} was trained at {expected:g} Hz, the recordings have {rate_hz:g} Hz; "
            f"build the manifest with --rate {expected:g}"
        )


def _challenge(labels: list[str]) -> dict:
    if labels != challenge_labels():
        return {}
    classes, weights = load_weights(challenge_weights_file())
    return {"cinc_weights": weights, "sinus_index": find_class(classes)}


def _overlap(checkpoint: Checkpoint, fingerprints: np.ndarray) -> int:
    known = checkpoint.contract.get("trained_on", {}).get("records")
    if known is None or not len(fingerprints):
        return 0
    return int(np.isin(fingerprints.view(np.int64), np.asarray(known)).sum())


@torch.inference_mode()
def _forward(
    model: torch.nn.Module, task: EcgTask, split: str, batch_size: int, device: str
) -> dict[str, np.ndarray]:
    dataset = task.dataset(split)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=batch_size)
    kept: dict[str, list[Tensor]] = {"id": [], "record": [], "probability": [], "label": []}
    for batch in batches:
        sample = dataset.collater(dataset.__getitems__(batch))
        net_input = {key: value.to(device) for key, value in sample["net_input"].items()}
        output = model(**net_input)
        if "out" not in output:
            raise ValueError(
                f"the checkpoint's network ({type(model).__name__}) decides no classes; "
                "fine-tune a classifier from it (model.model_path=...) and evaluate that one"
            )
        sample["probability"] = torch.sigmoid(output["out"].float())
        for key, parts in kept.items():
            parts.append(sample[key].cpu())
    return {key: torch.cat(parts).numpy() for key, parts in kept.items()}
