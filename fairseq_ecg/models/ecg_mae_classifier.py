"""Fine-tuning of a masked autoencoder's encoder, or a linear probe of it.

Source: the recipe of Yang et al. (docs/methods/ecg_mae.md), after He et al., 2022, "Masked
Autoencoders Are Scalable Vision Learners", CVPR, Appendix A.1; layer-wise learning rates after
Clark et al., 2020, ELECTRA, Section 3.1.
Shapes: B batch, C leads, T samples, L tokens, D width, K classes.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.models import register_model
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._finetuning import FinetunedModel, FinetuningConfig
from fairseq_ecg.models.ecg_mae import EcgMae, EcgMaeConfig, check_choices, take_rate
from fairseq_ecg.modules.pooling import mean_of_valid

CHOICES = {
    "pool": ("mean", "cls"),
    "pool_norm": ("pretrained", "fresh"),
    "head_norm": ("none", "batch"),
}
LAYERWISE_OPTIMIZERS = ("ecg_adamw", "composite")


@dataclass
class EcgMaeClassifierConfig(FinetuningConfig, EcgMaeConfig):
    """Keys of ``ecg_mae_classifier``; sizes count only without a checkpoint."""

    drop_path: float = field(
        default=0.1,
        metadata={"help": "probability to leave out the last block's parts, linear over depth"},
    )
    pool: str = field(
        default="mean",
        metadata={"help": "'mean' of the patches' tokens, or 'cls', the class token"},
    )
    pool_norm: str = field(
        default="pretrained",
        metadata={
            "help": "what normalises the mean: 'pretrained', the encoder's final norm, or 'fresh', "
            "a new one instead of it"
        },
    )
    head_norm: str = field(
        default="none",
        metadata={"help": "'batch': batch norm without weights before the last layer, for probes"},
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "factor of the learning rate from a block to the one before; below 1 it needs "
            "the optimizer ecg_adamw"
        },
    )


@register_model("ecg_mae_classifier", dataclass=EcgMaeClassifierConfig)
class EcgMaeClassifier(FinetunedModel):
    """An encoder, the mean over valid tokens, its norm, and one linear layer.

    The encoder of a checkpoint may be of any family; one that says nothing about its pooling gives
    the mean of its features.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        cfg: The model's configuration.
    """

    encoder_class = EcgMae

    def __init__(self, encoder: EcgEncoder, num_labels: int, cfg: EcgMaeClassifierConfig) -> None:
        super().__init__(encoder, num_labels, cfg)
        _check_head(cfg)
        self.pool = cfg.pool
        if cfg.pool == "cls" and not _has_class_token(encoder):
            raise ValueError(
                "model.pool=cls needs an encoder with blocks and a class token, which this "
                f"{type(encoder).__name__} has not; give model.pool=mean"
            )
        self.pool_norm = None
        if cfg.pool == "mean" and cfg.pool_norm == "fresh":
            self.pool_norm = nn.LayerNorm(encoder.width, eps=1e-6)
        self.head_norm = None
        if cfg.head_norm == "batch":
            self.head_norm = nn.BatchNorm1d(encoder.width, eps=1e-6, affine=False)
        self.proj = nn.Linear(encoder.width, num_labels)
        nn.init.normal_(self.proj.weight, std=0.02 * 0.001)
        nn.init.zeros_(self.proj.bias)
        if cfg.layer_decay != 1:
            scale_learning_rates(encoder, cfg.layer_decay)

    @classmethod
    def build_model(cls, cfg: EcgMaeClassifierConfig, task: Any = None) -> "EcgMaeClassifier":
        """Build the model; see the base class.

        Raises:
            ValueError: Also if the optimizer of the run knows one learning rate only.
        """
        _check_optimizer(cfg)
        take_rate(cfg, task)
        return super().build_model(cfg, task)

    @classmethod
    def check(cls, cfg: EcgMaeClassifierConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        _check_head(cfg)
        super().check(cfg)

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Classify recordings.

        Args:
            source: Recordings in millivolts, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``out`` logits, float, [B, K]; ``encoder_out`` float [B, L, D]; ``padding_mask`` bool
            [B, L] or None.
        """
        encoded = self.encode(source, padding_mask)
        x = self._pooled(encoded)
        if self.head_norm is not None:
            x = self.head_norm(x)
        return {
            "out": self.proj(x),
            "encoder_out": encoded["features"].detach(),
            "padding_mask": encoded["padding_mask"],
        }

    def _pooled(self, encoded: Dict[str, Optional[Tensor]]) -> Tensor:
        """Return one vector per recording, [B, D]."""
        if self.pool == "cls":
            return encoded["class_token"]
        key = "pooled" if self.pool_norm is None else "mean"
        x = encoded.get(key)
        if x is None:
            x = mean_of_valid(encoded["features"], encoded["padding_mask"])
        return x if self.pool_norm is None else self.pool_norm(x)


def scale_learning_rates(encoder: EcgEncoder, decay: float) -> None:
    """Tell the optimizer the factor of each parameter: 1 at the end, times ``decay`` per layer.

    The mark is fairseq's own (``optim_overrides``), which its composite optimizer reads too.

    Raises:
        ValueError: If the encoder has no order of blocks.
    """
    for name, parameter in encoder.named_parameters():
        layer = encoder.layer_of(name)
        scale = decay ** (encoder.depth + 1 - layer)
        parameter.optim_overrides = {"optimizer": {"lr_scale": scale}}


def _has_class_token(encoder: EcgEncoder) -> bool:
    return getattr(encoder, "class_token", None) is not None and encoder.depth > 0


def _check_head(cfg: EcgMaeClassifierConfig) -> None:
    check_choices(cfg, CHOICES)
    if not 0 < cfg.layer_decay <= 1:
        raise ValueError(
            f"model.layer_decay is {cfg.layer_decay}; give a factor above 0, at most 1"
        )


def _check_optimizer(cfg: Any) -> None:
    """Refuse layer-wise learning rates where the run's optimizer would ignore them."""
    root = cfg._get_root() if isinstance(cfg, DictConfig) else None
    name = None if root is None else OmegaConf.select(root, "optimizer._name", default=None)
    if cfg.layer_decay != 1 and name is not None and name not in LAYERWISE_OPTIMIZERS:
        raise ValueError(
            f"model.layer_decay is {cfg.layer_decay}, but the optimizer {name} has one learning "
            "rate for all layers; give optimizer._name=ecg_adamw, or model.layer_decay=1"
        )
