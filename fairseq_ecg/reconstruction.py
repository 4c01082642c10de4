"""One recording with parts hidden, and what a network puts there: for pictures and a close look."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.models import MODEL_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.checkpoint import Checkpoint, read_checkpoint
from fairseq_ecg.data.builder import LEDGER_FILE, build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.data.pool import BuildError
from fairseq_ecg.data.signal import MILLIVOLTS, STANDARD_DEVIATIONS, EcgSignal
from fairseq_ecg.data.wrappers import MaskedSegments
from fairseq_ecg.evaluation import open_model, open_task
from fairseq_ecg.modules.blocks import samples_of_blocks

_SPLIT = "record"


@dataclass
class Reconstruction:
    """A window of a recording and its reconstruction.

    Args:
        record: Name of the recording.
        model: Registered name of the network.
        original: The window without padding, in ``unit``.
        made: The network's prediction in the same unit, float32 [C, T].
        hidden: What it did not see, bool [C, T].
        unit: Millivolts, unless the recordings were scaled when they were prepared. A scaling of
            the task is undone; what it subtracted is not added again.
        metrics: As ``evaluation.ReconstructionErrors`` has them, of this window.
        share: Share of the whole blocks of all leads that was hidden.
        block_s: Length of a block, seconds.
        norm_target: Which statistics of the original scale the target of the training, as
            ``criterion.norm_target``; they, too, are undone with those of the original.
        start_s: Where in the recording the window starts, seconds.
    """

    record: str
    model: str
    original: EcgSignal
    made: np.ndarray
    hidden: np.ndarray
    unit: str
    metrics: dict[str, float]
    share: float
    block_s: float
    norm_target: str
    start_s: float


def reconstruct(
    path: str | Path,
    record: str | Path,
    data: str | Path | None = None,
    split: str = "test",
    *,
    window: int = 0,
    seed: int | None = None,
    mask_ratio: float | None = None,
    mask_mode: str | None = None,
) -> Reconstruction:
    """Hide parts of a recording from a network and let it rebuild them.

    Args:
        path: Checkpoint of a network that rebuilds, such as ``ecg_uresnet`` or ``ecg_mae``.
        record: Name of a recording in the manifest; without ``data`` a WFDB record, which is
            brought to the network's rate first.
        data: Folder of manifests.
        split: Which manifest.
        window: Which window of the recording, from 0 on.
        seed: Draws what is hidden; None hides what a validation hides.
        mask_ratio: Share that is hidden, as ``task.mask_ratio``; None: as in the training.
        mask_mode: What is hidden, as ``task.mask_mode``; None: as in the training.

    Raises:
        ValueError: If the network rebuilds nothing, or the recording or window is not there.
        ContractError: If the recording is not what it expects.
    """
    checkpoint = read_checkpoint(path)
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    if getattr(model_class, "evaluated_by", None) != "ecg_pretraining":
        raise ValueError(
            f"{path} is a network ({checkpoint.model_name}) that rebuilds nothing; give the "
            "checkpoint of a pretraining with criterion ecg_masked_mse"
        )
    asked = {"mask_ratio": mask_ratio, "mask_mode": mask_mode}
    keys = {key: value for key, value in asked.items() if value is not None}
    if data is not None:
        return _reconstruct(checkpoint, str(record), str(data), split, window, seed, keys)
    with _as_data(Path(record), checkpoint.contract["rate_hz"]) as folder:
        name = Path(record).stem
        return _reconstruct(checkpoint, name, str(folder), _SPLIT, window, seed, keys)


@contextmanager
def _as_data(record: Path, rate_hz: float | None) -> Iterator[Path]:
    """Yield a folder with a store of one WFDB record and its manifest, as training has them."""
    record = record.with_suffix("") if record.suffix == ".hea" else record
    if not record.with_name(f"{record.name}.hea").is_file():
        raise ValueError(
            f"{record}: there is no WFDB record of this name; to take one from a manifest, give "
            "its folder (--data) and split"
        )
    options = BuildOptions() if rate_hz is None else BuildOptions(rate_hz=rate_hz)
    with tempfile.TemporaryDirectory() as folder:
        entry = RecordEntry(record.name, record.name, record.name, "test")
        try:
            store = build_store([entry], record.parent, folder, options).store
        except BuildError:
            why = read_ledger(Path(folder) / LEDGER_FILE)[0]
            raise ValueError(f"{record}: {why.reason} ({why.detail})") from None
        rows = [(record.name, int(store.n_samples[0]))]
        write_manifest(Path(folder) / f"{_SPLIT}.tsv", "store", rows)
        yield Path(folder)


def _reconstruct(
    checkpoint: Checkpoint,
    record: str,
    data: str,
    split: str,
    window: int,
    seed: int | None,
    keys: dict[str, Any],
) -> Reconstruction:
    task = open_task(checkpoint, "ecg_pretraining", data, split, **keys)
    task.load_dataset(split, training=False)
    dataset = task.dataset(split)
    item = _item(dataset, record, window, Path(data) / f"{split}.tsv")
    sample = _sample(dataset, item, seed)
    net_input = sample["net_input"]
    model = open_model(checkpoint, task)
    with torch.inference_mode():
        output = model(**net_input)
    criterion = task.build_criterion(OmegaConf.create(checkpoint.criterion_cfg), True)
    made = criterion.reconstruction(net_input, output)[0]
    block = task.cfg.mask_block
    hidden = samples_of_blocks(net_input["mask"], made.shape[-1], block)[0]
    kept = _kept(net_input)
    scale, unit = _scale(sample["scale_mv"][0])
    rate_hz = dataset.dataset.source.rate_hz
    values = net_input["source"][0] * scale
    sums = criterion.sums(net_input, output, sample["scale_mv"])
    return Reconstruction(
        record=record,
        model=checkpoint.model_name,
        original=EcgSignal(values[:, kept].numpy(), rate_hz, tuple(task.leads.leads)),
        made=(made * scale)[:, kept].numpy(),
        hidden=hidden[:, kept].numpy(),
        unit=unit,
        metrics=criterion.ratios({name: float(value) for name, value in sums.items()}),
        share=float(hidden[:, kept].float().mean()),
        block_s=block / rate_hz,
        norm_target=criterion.norm_target,
        start_s=int(dataset.dataset.windows.start[item]) / rate_hz,
    )


def _item(dataset: MaskedSegments, record: str, window: int, manifest: Path) -> int:
    """Return the number of a window of a recording."""
    segments = dataset.dataset
    if record not in segments.source.names:
        raise ValueError(
            f"{manifest} has no recording {record!r}{did_you_mean(record, segments.source.names)}"
        )
    items = np.flatnonzero(segments.windows.row == segments.source.names.index(record))
    if not 0 <= window < len(items):
        raise ValueError(
            f"{record} has no window {window} of task.segment_s; "
            f"its windows are 0 to {len(items) - 1}"
        )
    return int(items[window])


def _sample(dataset: MaskedSegments, item: int, seed: int | None) -> dict[str, Any]:
    """Return a batch of one window."""
    segments = dataset.dataset
    rng = segments.mask_generator(item) if seed is None else np.random.default_rng(seed)
    return dataset.collater([dataset.hide(segments[item], rng)])


def _kept(net_input: dict[str, Tensor]) -> slice:
    """Return the samples that are no padding."""
    padding_mask = net_input.get("padding_mask")
    if padding_mask is None:
        return slice(None)
    (present,) = torch.nonzero(~padding_mask[0], as_tuple=True)
    return slice(int(present[0]), int(present[-1]) + 1)


def _scale(scale_mv: Tensor) -> tuple[Tensor, str]:
    """Return what brings each lead to its unit, [C, 1], and the unit."""
    if all(math.isfinite(value) for value in scale_mv.tolist()):
        return scale_mv[:, None], MILLIVOLTS
    return torch.ones_like(scale_mv)[:, None], STANDARD_DEVIATIONS
