"""The reference's network, inputs and outputs in ../shared/golden, ready for comparison."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import Tensor

import fairseq_ecg.models.wav2vec2_cmsc  # noqa: F401

UNPADDED, PADDED = FOLDERS = ("w2v_cmsc", "w2v_cmsc_padded")
RELATIVE = 1e-4


@dataclass
class Golden:
    """One folder: configuration and losses, arrays, and where its checkpoint lies."""

    expected: dict
    arrays: dict[str, Tensor]
    checkpoint: Path

    @property
    def padding_mask(self) -> Tensor | None:
        """Padded samples, bool, [6, 2500], or None."""
        if "padding_samples" not in self.arrays:
            return None
        return torch.arange(2500) >= 2500 - self.arrays["padding_samples"][:, None]

    @property
    def valid_frames(self) -> Tensor:
        """Frames that are no padding, bool, [6, 156]."""
        if "frame_padding_mask" not in self.arrays:
            return torch.ones(6, 156, dtype=torch.bool)
        return ~self.arrays["frame_padding_mask"]

    def model(self):
        """Return our network with the reference's weights, in evaluation mode."""
        model = build_model(OmegaConf.create(self.expected["model"]), None)
        state = torch.load(self.checkpoint, weights_only=True)["model"]
        model.load_state_dict(state, strict=True)
        return model.eval()

    def sample(self) -> dict:
        """Return a batch with the reference's draws."""
        arrays = self.arrays
        net_input = {
            "source": arrays["source"],
            "padding_mask": self.padding_mask,
            "mask_indices": arrays["mask_indices"],
            "negative_indices": arrays["negative_indices"],
        }
        pairs = {key: arrays[key] for key in ("patient_id", "segment")}
        return {"id": torch.arange(6), "net_input": net_input, **pairs}


def load(folder: Path) -> Golden:
    """Read one folder."""
    with np.load(folder / "io.npz") as file:
        arrays = {key: torch.from_numpy(np.asarray(file[key])) for key in file}
    expected = json.loads((folder / "expected.json").read_text())
    return Golden(expected, arrays, folder / "checkpoint.pt")


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference relative to the largest expected value."""
    theirs = theirs.double()
    return float((ours.detach().double() - theirs).abs().max() / theirs.abs().max())
