"""Recordings of patients: known sample by sample without files, or written; loaders, small runs."""

import numpy as np
import torch
from omegaconf import OmegaConf

from fairseq_ecg.data.manifest import write_manifest
from tests.holter import write_patients
from tests.runs import EXAMPLES


class CountingPatients:
    """Patient p has segments of which every sample says where it is from.

    Lead k of recording r is 5000 r + t + k / 16 at sample t, which float32 holds exactly up to
    recording 200.

    Args:
        segments: Of each patient.
        n_samples: Length of each recording; one for all, or one each.
        numbers: Of the patients.
    """

    unit = "mV"
    corpus = "counting"

    def __init__(self, segments, n_samples=1000, rate_hz=250.0, numbers=None):
        count = sum(segments)
        self.n_samples = np.broadcast_to(np.asarray(n_samples, dtype=np.int64), count)
        self.rate_hz = rate_hz
        self.names = [f"r{row}" for row in range(count)]
        first = np.cumsum([0, *segments])
        self.patients = [np.arange(a, b) for a, b in zip(first[:-1], first[1:], strict=True)]
        numbers = range(len(segments)) if numbers is None else numbers
        self._number = np.repeat(np.array(numbers, dtype=np.int64), segments)
        self.reads = []

    def read(self, row, start, stop, rows):
        assert 0 <= start < stop <= self.n_samples[row]
        self.reads.append((row, start, stop))
        time = 5000.0 * row + np.arange(start, stop)
        return (time + np.array(rows)[:, None] / 16).astype(np.float32)

    def patient(self, row):
        return int(self._number[row])

    def marks(self, row):
        return row


def loaded(dataset, workers, batch_size, start=0):
    """Return all batches of an epoch from a loader, those before ``start`` left out."""
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=batch_size)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=batches[start:],
        collate_fn=dataset.collater,
        num_workers=workers,
    )
    return list(loader)


def equal(first, second):
    """Tell whether two batches, or lists of them, are the same, bit for bit."""
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    return torch.equal(first, second)


def write_release(folder, patients=6, valid=2, **options):
    """Write made-up patients with annotations and the manifests of two splits; return the folder.

    Args:
        folder: Made if absent.
        patients: Number of patients.
        valid: How many of them, the last ones, are in ``valid.tsv``.
        **options: Of ``holter.write_patients``.
    """
    segments = write_patients(folder / "release", patients, **{"seconds": 30.0, **options})
    rows = [[s.path, len(s.adu), s.patient] for s in segments]
    for split, wanted in (
        ("train", lambda number: number < patients - valid),
        ("valid", lambda number: number >= patients - valid),
    ):
        write_manifest(folder / f"{split}.tsv", "release", [row for row in rows if wanted(row[2])])
    return folder


def run_words(folder, data, task, **sections):
    """Write the preset of a small run on frames into ``folder`` and return the words that start it.

    Args:
        folder: Made if absent.
        data: What ``write_release`` wrote.
        task: Its keys, ``_name`` among them.
        **sections: Keys of other sections that differ from ``af_resnet18_scratch_small``.
    """
    cfg = OmegaConf.load(EXAMPLES / "transfer/config/finetuning/af_resnet18_scratch_small.yaml")
    cfg.task = {
        "data": str(data),
        "leads_to_load": ["I"],
        "frame_size": 256,
        "samples_per_patient": 8,
        "normalize": True,
        "mean_mv": 0.0018,
        "std_mv": 1.3711,
        **task,
    }
    chosen = {
        "common": {"log_interval": 1},
        "dataset": {"batch_size": 8, "num_workers": 0},
        "optimization": {"max_epoch": 2},
        "model": {"widths": [4, 4, 8, 8]},
        "checkpoint": {"best_checkpoint_metric": "accuracy"},
    }
    for section, keys in [*chosen.items(), *sections.items()]:
        replaces = {"_name"} <= keys.keys() and keys["_name"] != cfg[section].get("_name")
        cfg[section] = keys if replaces else OmegaConf.merge(cfg[section], keys)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "frames.yaml")
    return [f"--config-dir={folder}", "--config-name=frames"]
