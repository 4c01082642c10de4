"""Tiny checkpoints of every family and classifier of the registry, as training writes them."""

import re
from pathlib import Path

import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.models._encoder import registered_name
from tests.models.test_encoder import ENCODERS, HEADS, SIZES, build
from tests.tiny import save_checkpoint, shaken

MODELS = [*ENCODERS, *HEADS]
N_SAMPLES = 256
CONTRACT = {
    "rate_hz": 100.0,
    "leads": list(STANDARD_LEADS),
    "unit": "mV",
    "segment_s": N_SAMPLES / 100,
    "labels": None,
    "trained_on": {
        "corpus": "toy",
        "records": torch.arange(3),
        "pretraining": {"corpus": "another", "names": torch.arange(5)},
    },
}


def sizes_of(name: str) -> dict:
    """Return the keys of a tiny model; a classifier's are those of its own family."""
    if name in ENCODERS:
        return SIZES[name]
    own = SIZES[registered_name(MODEL_REGISTRY[name].encoder_class)]
    length = {"n_samples": N_SAMPLES} if "n_samples" in fields_of(name) else {}
    return {**own, **length, "num_labels": 3}


def fields_of(name: str) -> set[str]:
    """Return the keys of a model."""
    return set(MODEL_DATACLASS_REGISTRY[name].__dataclass_fields__)


def write_model(path: Path, name: str, **contract: object) -> Path:
    """Write the checkpoint of a tiny model; return its path."""
    cfg = sizes_of(name)
    labels = ["a", "b", "c"] if name in HEADS else None
    model = shaken(build(name, **cfg))
    save_checkpoint(
        path, {"_name": name, **cfg}, model, **{**CONTRACT, "labels": labels, **contract}
    )
    return path


def programs(folder: Path) -> list[str]:
    """Return the Python in an export's README that runs without this package."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if "fairseq_ecg" not in block]
