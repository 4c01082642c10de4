"""Labels per recording from an encoder, lead by lead or from all leads together.

Source: Sarkar and Etemad, 2022, "Self-Supervised ECG Representation Learning for Emotion
Recognition", IEEE Transactions on Affective Computing 13(3), Section 3; hidden layers are those of
their published code, which keeps the encoder frozen.
Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Dict, List, Mapping, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from torch import Tensor, nn

from fairseq_ecg.models._encoder import EcgEncoder, agreed_number
from fairseq_ecg.models._finetuning import (
    FinetunedModel,
    FinetuningConfig,
    build_encoder,
    note_in_run,
)
from fairseq_ecg.models.ecg_transform_cnn import (
    EcgTransformCnn,
    TransformCnnEncoderConfig,
    dense,
)
from fairseq_ecg.models.nejedly2021resnet import leads_present


@dataclass
class EcgCnnClassifierConfig(FinetuningConfig, TransformCnnEncoderConfig):
    """Sizes of the encoder count only without a checkpoint."""

    hidden: List[int] = field(
        default_factory=lambda: [512, 512],
        metadata={"help": "hidden layers behind the encoder; []: a linear layer alone"},
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout after each hidden layer"})
    lead_mode: ChoiceEnum(["joint", "mean", "concat"]) = field(  # type: ignore[valid-type]
        default="joint",
        metadata={
            "help": "joint: the encoder takes all leads; mean: it takes them one by one, and what "
            "it gives of those with signal is averaged; concat: put beside each other"
        },
    )
    num_leads: Optional[int] = field(
        default=None,
        metadata={"help": "concat: leads of a recording; null: as many as the task gives"},
    )


@register_model("ecg_cnn_classifier", dataclass=EcgCnnClassifierConfig)
class EcgCnnClassifier(FinetunedModel):
    """An encoder, its vector per recording, hidden layers with ReLU, and one linear layer.

    The encoder of a checkpoint may be of any family.

    Args:
        encoder: The encoder; of one lead unless ``lead_mode`` is joint.
        num_labels: Number of classes K.
        cfg: Gives ``hidden``, ``dropout``, ``lead_mode``, ``num_leads`` and
            ``freeze_finetune_updates``.

    Raises:
        ValueError: If the leads are to be taken one by one and the encoder takes several, or their
            number is needed and not known.
    """

    encoder_class = EcgTransformCnn

    def __init__(self, encoder: EcgEncoder, num_labels: int, cfg: EcgCnnClassifierConfig) -> None:
        super().__init__(encoder, num_labels, cfg)
        self.lead_mode, self.num_leads = str(cfg.lead_mode), cfg.num_leads
        if self.lead_mode != "joint" and encoder.in_d != 1:
            raise ValueError(
                f"model.lead_mode={self.lead_mode} takes leads one by one, but the encoder takes "
                f"{encoder.in_d}; give model.lead_mode=joint, or an encoder that was pretrained on "
                "single leads"
            )
        width = encoder.embedding_width
        if self.lead_mode == "concat":
            width *= agreed_number("model.num_leads", cfg.num_leads, None, "leads")
        self.head = dense([width, *cfg.hidden, num_labels], nn.ReLU(), cfg.dropout)

    @classmethod
    def build_model(cls, cfg: EcgCnnClassifierConfig, task: Any = None) -> "EcgCnnClassifier":
        """Build the model around an encoder, which may see one lead at a time; see the base class.

        Raises:
            ValueError: If the number of labels or leads is unknown or differs from the task's.
            CheckpointError: If the checkpoint cannot be read, or has no encoder.
        """
        if cfg.lead_mode == "joint":
            return super().build_model(cfg, task)
        if cfg.lead_mode == "concat":
            cfg.num_leads = agreed_number("model.num_leads", cfg.num_leads, task, "leads")
            note_in_run(cfg, "num_leads", cfg.num_leads)
        num_labels = agreed_number("model.num_labels", cfg.num_labels, task, "labels")
        model = cls(
            build_encoder(cls.encoder_class, cfg, SimpleNamespace(num_leads=1)), num_labels, cfg
        )
        if model.encoder.pretrained_contract is not None:
            any_leads = replace(model.encoder.pretrained_contract, leads=None, present_leads=None)
            model.encoder.pretrained_contract = any_leads
        return model

    @classmethod
    def check(cls, cfg: EcgCnnClassifierConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        super().check(cfg)
        if min(cfg.hidden, default=1) < 1:
            raise ValueError(f"model.hidden is {list(cfg.hidden)}; give positive numbers, or []")

    @classmethod
    def num_labels_of(cls, state: Mapping[str, Tensor]) -> Optional[int]:
        """Return the number of classes that a state dict of this model decides."""
        biases = [value for key, value in state.items() if _is_bias_of_head(key)]
        return len(biases[-1]) if biases else None

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Make the configuration independent of other files; see the base class."""
        config = super().config_from_checkpoint(model_cfg, state)
        layers = [len(value) for key, value in state.items() if _is_bias_of_head(key)]
        return {**config, "hidden": layers[:-1]} if layers else config

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings, or all their leads as recordings of their own, [B C, ...]."""
        if self.lead_mode == "joint":
            return super().encode(source, padding_mask)
        self._check_leads(source)
        if padding_mask is not None:
            of_time = padding_mask if padding_mask.dim() == 2 else padding_mask[:, 0]
            padding_mask = of_time.repeat_interleave(source.shape[1], dim=0)
        return super().encode(source.flatten(0, 1)[:, None], padding_mask)

    def extract_features(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode recordings, float [B, L, D]; [B, L, C D] with ``lead_mode=concat``."""
        return self._joined(self.encode(source, padding_mask)["features"], source)

    def embed(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode each recording as the vector that the head gets, float [B, D] or [B, C D]."""
        return self._joined(self.encoder.pooled(self.encode(source, padding_mask)), source)

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Classify recordings.

        Args:
            source: Recordings, float32, [B, C, T]; a lead of zeros is absent.
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``out`` logits, float, [B, K]; ``encoder_out`` float [B, L, D] (or [B, L, C D]);
            ``padding_mask`` bool [B, L] or None.

        Raises:
            ValueError: If the leads do not fit, or a recording is too short.
        """
        encoded = self.encode(source, padding_mask)
        mask = encoded["padding_mask"]
        if mask is not None and self.lead_mode != "joint":
            mask = mask[:: source.shape[1]]
        return {
            "out": self.head(self._joined(self.encoder.pooled(encoded), source)),
            "encoder_out": self._joined(encoded["features"], source).detach(),
            "padding_mask": mask,
        }

    def _joined(self, of_leads: Tensor, source: Tensor) -> Tensor:
        """Turn what the encoder gave of each lead, [B C, ..., D], into one row per recording."""
        if self.lead_mode == "joint":
            return of_leads
        of_leads = of_leads.unflatten(0, source.shape[:2])
        if self.lead_mode == "concat":
            return of_leads.movedim(1, -2).flatten(-2)
        present = leads_present(source).to(of_leads.dtype)
        share = present / present.sum(1, keepdim=True).clamp_min(1)
        return torch.einsum("bc,bc...->b...", share, of_leads)

    def _check_leads(self, source: Tensor) -> None:
        if self.lead_mode == "concat" and source.shape[1] != self.num_leads:
            raise ValueError(
                f"the recordings have {source.shape[1]} leads, but the head was made for "
                f"{self.num_leads} beside each other; give these with task.leads_to_load, or "
                "train with model.lead_mode=mean"
            )


def _is_bias_of_head(key: str) -> bool:
    return key.startswith("head.") and key.endswith(".bias")
