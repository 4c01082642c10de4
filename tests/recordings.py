"""Recordings whose every sample is known: WFDB files, a store, .mat segments; tasks on them."""

from pathlib import Path

import numpy as np
import scipy.io
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from omegaconf import OmegaConf

import fairseq_ecg  # noqa: F401
from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.manifest import write_manifest
from tests.builds import write_record
from tests.runs import write_segments

RATE_HZ = 100


def adu(record: int, n_samples: int) -> np.ndarray:
    """Microvolts of one recording, int64 [12, T]; fits int16 up to record 31."""
    return 1000 * record + 80 * np.arange(12)[:, None] + np.arange(n_samples) % 80


def millivolts(record: int, start: int, stop: int, leads=range(12)) -> np.ndarray:
    """The same in mV, float32 [C, stop - start]."""
    return (adu(record, stop)[list(leads), start:] / 1000).astype(np.float32)


def write_folder(folder: Path, lengths, splits=("train", "valid"), labels=None) -> Path:
    """Write WFDB files r0, r1, ... and the same manifest for each split; labels also labels.txt."""
    for i, n in enumerate(lengths):
        write_record(folder / "wfdb", f"r{i}", adu(i, n), RATE_HZ)
    rows = [[f"r{i}", n] for i, n in enumerate(lengths)]
    if labels is not None:
        rows = [[*row, label] for row, label in zip(rows, labels, strict=True)]
        names = sorted({name for label in labels for name in label.split(";") if name})
        (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    for split in splits:
        write_manifest(folder / f"{split}.tsv", "wfdb", rows)
    return folder


def write_mat(path: Path, record: int, start: int, stop: int, rate_hz: float = RATE_HZ, **fields):
    """Write a segment as fairseq-signals does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"feats": millivolts(record, start, stop), "curr_sample_rate": rate_hz, **fields}
    scipy.io.savemat(path, content)


def write_tone_store(folder: Path) -> Path:
    """Put the learnable recordings of ``tests.runs`` into a store; 3 of train are in test too."""
    write_segments(folder, count=22)
    records = [f"r{i:03d}" for i in range(22)]
    entries = [RecordEntry(name, name, f"p{name}", "train") for name in records]
    build_store(entries, folder / "wfdb", folder, BuildOptions(rate_hz=100), corpus="tones")
    rows = [line.split("\t") for line in (folder / "train.tsv").read_text().splitlines()[1:]]
    for split, part in (("train", rows[:18]), ("valid", rows[3:16]), ("test", rows[15:])):
        write_manifest(folder / f"{split}.tsv", "store", part)
    return folder


def make_task(name: str, data: Path, **keys):
    """Set up a task as fairseq does, without the rest of a configuration around it."""
    cfg = OmegaConf.structured(TASK_DATACLASS_REGISTRY[name])
    rest = {"seed": 1, "data": str(data), **keys}
    if name == "ecg_pretraining":
        rest = {"criterion_name": "ecg_wav2vec2", **rest}
    return TASK_REGISTRY[name].setup_task(OmegaConf.merge(cfg, rest))


def load(task, split: str = "train"):
    """Open a split and return its dataset."""
    task.load_dataset(split)
    return task.dataset(split)


def batch(dataset, indices=None) -> dict:
    """Collate items, by default all of them in their own order."""
    return dataset.collater(
        dataset.__getitems__(range(len(dataset)) if indices is None else indices)
    )
