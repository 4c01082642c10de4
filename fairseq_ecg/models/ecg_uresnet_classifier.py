"""Fine-tuning of U-ResNet's encoder to labels per recording.

Source: Gedon et al., 2021, "First Steps Towards Self-Supervised Pretraining of the 12-Lead ECG",
Computing in Cardiology 48; the head is that of Ribeiro et al., 2020.
Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from torch import Tensor, nn

from fairseq_ecg.checkpoint import CheckpointError, load_weights, read_checkpoint
from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._finetuning import FinetunedModel, FinetuningConfig
from fairseq_ecg.models.ecg_uresnet import (
    EcgUresnet,
    TwoLaneBlock,
    UresnetEncoderConfig,
    down_block,
    init_he,
)
from fairseq_ecg.modules.pooling import mean_of_valid

_BOTTLENECK = "bottleneck."


@dataclass
class EcgUresnetClassifierConfig(FinetuningConfig, UresnetEncoderConfig):
    """Sizes count only without a checkpoint."""

    dropout: float = field(default=0.5, metadata={"help": "dropout inside and after each block"})
    pool: ChoiceEnum(["flatten", "mean"]) = field(  # type: ignore[valid-type]
        default="flatten",
        metadata={
            "help": "what the last layer gets: all frames one after the other, or their mean "
            "without padding"
        },
    )
    n_samples: int = field(
        default=4096, metadata={"help": "samples of each recording, for pool=flatten"}
    )
    keep_bottleneck: bool = field(
        default=False,
        metadata={"help": "put the bottleneck of the pretraining behind the encoder"},
    )


@register_model("ecg_uresnet_classifier", dataclass=EcgUresnetClassifierConfig)
class EcgUresnetClassifier(FinetunedModel):
    """An encoder, its bottleneck if asked for, all frames or their mean, and one linear layer.

    The encoder of a checkpoint may be of any family.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        cfg: Gives ``pool``, ``n_samples``, ``keep_bottleneck`` and ``freeze_finetune_updates``.

    Raises:
        ValueError: If the encoder cannot take that many samples, or has no bottleneck.
    """

    encoder_class = EcgUresnet

    def __init__(
        self, encoder: EcgEncoder, num_labels: int, cfg: EcgUresnetClassifierConfig
    ) -> None:
        super().__init__(encoder, num_labels, cfg)
        self.n_samples = cfg.n_samples if cfg.pool == "flatten" else None
        self.bottleneck = _fresh_bottleneck(encoder, cfg) if cfg.keep_bottleneck else None
        width = encoder.width
        if self.n_samples is not None:
            width *= _number_of_frames(encoder, self.n_samples)
        self.proj = nn.Linear(width, num_labels)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    @classmethod
    def build_model(
        cls, cfg: EcgUresnetClassifierConfig, task: Any = None
    ) -> "EcgUresnetClassifier":
        """Build the model around an encoder, with the bottleneck of its checkpoint if asked for.

        Raises:
            CheckpointError: If the checkpoint has no such bottleneck; else see the base class.
        """
        model = super().build_model(cfg, task)
        if cfg.keep_bottleneck and model.pretrained_contract is not None:
            _load_bottleneck(model.bottleneck, cfg.model_path)
        return model

    @classmethod
    def check(cls, cfg: EcgUresnetClassifierConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        super().check(cfg)
        if cfg.n_samples < 1:
            raise ValueError(f"model.n_samples is {cfg.n_samples}; give the length of a recording")

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings, through the bottleneck if it is kept; see the base class."""
        encoded = super().encode(source, padding_mask)
        if self.bottleneck is None:
            return encoded
        self.bottleneck.train(self.encoder.training)
        lanes = (encoded[key].transpose(1, 2) for key in ("features", "sums"))
        with torch.no_grad() if self.frozen else nullcontext():
            x, y = self.bottleneck(*lanes)
        return {**encoded, "features": x.transpose(1, 2), "sums": y.transpose(1, 2)}

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Classify recordings.

        Args:
            source: Recordings in millivolts, float32, [B, C, T]; with ``pool=flatten`` T is
                ``n_samples``.
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``out`` logits, float, [B, K]; ``encoder_out`` float [B, L, D]; ``padding_mask`` bool
            [B, L] or None.

        Raises:
            ValueError: If the recordings have another length than the head was made for.
        """
        if self.n_samples is not None and source.shape[-1] != self.n_samples:
            raise ValueError(
                f"the recordings have {source.shape[-1]} samples, but the head was made for "
                f"model.n_samples={self.n_samples}: give task.segment_s and task.pad_segments for "
                "that length, or another model.n_samples, or model.pool=mean"
            )
        encoded = self.encode(source, padding_mask)
        features, mask = encoded["features"], encoded["padding_mask"]
        if self.n_samples is None:
            x = mean_of_valid(features, mask)
        else:
            x = features.transpose(1, 2).flatten(1)
        return {"out": self.proj(x), "encoder_out": features.detach(), "padding_mask": mask}


def _number_of_frames(encoder: EcgEncoder, n_samples: int) -> int:
    """Return how many frames an encoder makes of a recording, by trying it."""
    training = encoder.training
    silence = next(encoder.parameters()).new_zeros(1, encoder.in_d, n_samples)
    with torch.no_grad():
        try:
            return encoder.eval().encode(silence)["features"].shape[1]
        except ValueError as error:
            raise ValueError(f"model.n_samples={n_samples} does not fit: {error}") from None
        finally:
            encoder.train(training)


def _fresh_bottleneck(encoder: EcgEncoder, cfg: EcgUresnetClassifierConfig) -> TwoLaneBlock:
    if not isinstance(encoder, EcgUresnet):
        raise ValueError(
            f"model.keep_bottleneck needs the encoder of an ecg_uresnet, not of "
            f"{type(encoder).__name__}; give model.keep_bottleneck=false"
        )
    block = down_block(encoder.width, encoder.width, encoder.kernel_size, 1, cfg.dropout)
    init_he(block)
    return block


def _load_bottleneck(block: TwoLaneBlock, path: str) -> None:
    state: Mapping[str, Tensor] = read_checkpoint(path).state
    own = {k[len(_BOTTLENECK) :]: v for k, v in state.items() if k.startswith(_BOTTLENECK)}
    if not own:
        raise CheckpointError(
            f"model.keep_bottleneck is true, but {path} has no bottleneck: it was pretrained with "
            "model.bottleneck=false, or fine-tuned without; give model.keep_bottleneck=false"
        )
    load_weights(block, own, path)
