"""What the supervised residual networks share: the encoder's face, and the classifier around it.

Sizes are read from tensors wherever they show, so that a checkpoint opens by itself.
Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

import json
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from fairseq.dataclass import FairseqDataclass
from torch import Tensor, nn

from fairseq_ecg.checkpoint import CheckpointError
from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._finetuning import FinetunedModel, FinetuningConfig
from fairseq_ecg.modules.padding import frame_padding
from fairseq_ecg.modules.residual import silence


@dataclass
class ResidualEncoderConfig(FairseqDataclass):
    """Keys of both encoders; names and defaults of fairseq-signals."""

    in_d: Optional[int] = field(
        default=12, metadata={"help": "number of leads; null: as many as the task gives"}
    )
    leadwise: bool = field(
        default=False, metadata={"help": "convolve each lead by itself; not supported"}
    )


class ResidualEncoder(EcgEncoder):
    """Base of the encoders: convolutions only, so every length and padding is possible.

    Subclasses give ``convolve``, and what every encoder gives.
    """

    marker = "conv.weight"

    def convolve(self, source: Tensor, valid: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """Turn samples into frames.

        Args:
            source: Recordings, float, [B, C, T].
            valid: 1 = valid, 0 = padded, float [B, 1, T]; None = nothing is padded.

        Returns:
            Frames [B, D, L], and which of them are valid [B, 1, L].
        """
        raise NotImplementedError

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings.

        Args:
            source: Recordings in millivolts, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``features`` float [B, L, D], zero where padded, and ``padding_mask`` bool [B, L] or
            None.

        Raises:
            ValueError: If the leads do not fit, or a row is padding only.
        """
        self.check_source(source)
        padding = frame_padding(padding_mask, source.shape[2], lambda n_samples: n_samples)
        valid = None if padding is None else (~padding.mask)[:, None].to(source.dtype)
        frames, valid = self.convolve(silence(source, valid), valid)
        return {
            "features": silence(frames, valid).transpose(1, 2),
            "padding_mask": None if valid is None else valid[:, 0] == 0,
        }

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Do what ``forward`` does; see the base class."""
        return self(source, padding_mask)


class ResidualClassifier(FinetunedModel):
    """Base of the classifiers: an encoder and, at the end, a linear layer ``proj``.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        cfg: The model's configuration.
        pooled_width: Width of what ``proj`` gets.
    """

    def __init__(
        self, encoder: EcgEncoder, num_labels: int, cfg: FinetuningConfig, pooled_width: int
    ) -> None:
        super().__init__(encoder, num_labels, cfg)
        self.proj = nn.Linear(pooled_width, num_labels)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)


def check_supported(cfg: ResidualEncoderConfig, kernels: List[int]) -> None:
    """Refuse what cannot be built.

    Args:
        cfg: The encoder's configuration.
        kernels: Its kernel sizes.

    Raises:
        ValueError: Naming the key, its value and the way out.
    """
    if cfg.leadwise:
        raise ValueError(
            "model.leadwise is not supported; leave it out, or give one lead with "
            "task.leads_to_load and model.in_d=1"
        )
    even = [kernel for kernel in kernels if kernel % 2 == 0]
    if even:
        raise ValueError(f"model.kernel_size is {cfg.kernel_size}; {even[0]} is not odd")


def parse_sizes(key: str, text: str) -> List[int]:
    """Read a list of positive integers written as text, such as ``"[15, 9]"``, without running it.

    Args:
        key: Which key of the model it is, for the message.
        text: The list.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not value or any(type(v) is not int or v < 1 for v in value):
        raise ValueError(
            f"model.{key} is {str(text)[:80]!r}; a list of positive integers is expected, for "
            'example "[15, 9]"'
        )
    return value


def missing_tensor(what: str, error: KeyError) -> CheckpointError:
    """Return the error for a state dict without a tensor that its kind has."""
    return CheckpointError(f"this is no {what}: it has no {error}")
