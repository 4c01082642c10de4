"""What the supervised residual networks share: the encoder's face, and the classifier around it.

Sizes are read from tensors wherever they show, so that a checkpoint opens by itself.
Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

import json
import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_ecg.checkpoint import CheckpointError, load_weights, read_checkpoint
from fairseq_ecg.contract import InputContract
from fairseq_ecg.models._finetuning import (
    FinetunedModel,
    note_encoder,
    number_of_labels,
)
from fairseq_ecg.models.ecg_transformer import number_of_leads
from fairseq_ecg.modules.padding import frame_padding
from fairseq_ecg.modules.pooling import mean_of_nonzero
from fairseq_ecg.modules.residual import silence

logger = logging.getLogger(__name__)


@dataclass
class ResidualEncoderConfig(FairseqDataclass):
    """Keys of both encoders; names and defaults of fairseq-signals."""

    in_d: Optional[int] = field(
        default=12, metadata={"help": "number of leads; null: as many as the task gives"}
    )
    leadwise: bool = field(
        default=False, metadata={"help": "convolve each lead by itself; not supported"}
    )


@dataclass
class ResidualClassifierConfig(FairseqDataclass):
    """Keys of both classifiers; names and defaults of fairseq-signals."""

    model_path: Optional[str] = field(
        default=None, metadata={"help": "checkpoint whose encoder is taken over"}
    )
    no_pretrained_weights: bool = field(
        default=False, metadata={"help": "start from random weights, whatever model_path says"}
    )
    freeze_finetune_updates: int = field(
        default=0, metadata={"help": "updates during which only the head is trained"}
    )
    num_labels: Optional[int] = field(
        default=None, metadata={"help": "number of classes; none = as many as the task has"}
    )
    encoder_config: Any = field(
        default=None,
        metadata={"help": "written by the program into checkpoints: the encoder's configuration"},
    )


class ResidualEncoder(BaseFairseqModel):
    """Base of the encoders: convolutions only, so every length and padding is possible.

    Subclasses set ``in_d`` and ``width`` (D) and give ``convolve`` and ``sizes_of``.
    """

    config: Type[ResidualEncoderConfig]
    # What a fine-tuning decides for itself; all else about the encoder comes from its checkpoint.
    keys_of_the_run: Tuple[str, ...] = ()

    @classmethod
    def build_model(cls, cfg: ResidualEncoderConfig, task: Any = None) -> "ResidualEncoder":
        """Build the model from its configuration.

        Args:
            cfg: The model's configuration.
            task: Gives ``num_leads`` where ``cfg.in_d`` is None.

        Raises:
            ValueError: If the configuration cannot work.
        """
        cfg.in_d = number_of_leads(cfg.in_d, task)
        return cls(cfg)

    @classmethod
    def check(cls, cfg: ResidualEncoderConfig) -> None:
        """Refuse a configuration that cannot work, before anything is built.

        Raises:
            ValueError: Naming the key, its value and the way out.
        """
        raise NotImplementedError

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Return the configuration with the sizes that the tensors have."""
        return {**model_cfg, **cls.sizes_of(state)}

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read the sizes of an encoder from its tensors, as far as they show.

        Args:
            state: Its state dict.

        Raises:
            CheckpointError: If it is the state dict of something else.
        """
        raise NotImplementedError

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
        if source.dim() != 3 or source.shape[1] != self.in_d:
            raise ValueError(
                f"source is expected as [batch, {self.in_d} leads, samples], but has the shape "
                f"{list(source.shape)}; give the leads the network was built for (model.in_d, "
                "task.leads_to_load)"
            )
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
        """Do what ``forward`` does; the name that models around an encoder call."""
        return self(source, padding_mask)

    def extract_features(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode recordings; args as ``forward``, result float [B, L, D]."""
        return self(source, padding_mask)["features"]

    def embed(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode each recording as one vector, the mean over its valid frames; float [B, D]."""
        encoded = self(source, padding_mask)
        return mean_of_nonzero(encoded["features"], encoded["padding_mask"])


class ResidualClassifier(FinetunedModel):
    """Base of the classifiers: an encoder of one family, and a linear layer ``proj`` at the end.

    Args:
        encoder: The encoder.
        pooled_width: Width of what ``proj`` gets.
        num_labels: Number of classes K.
        freeze_updates: Updates during which the encoder gets no gradient.
    """

    encoder_class: Type[ResidualEncoder]

    def __init__(
        self, encoder: ResidualEncoder, pooled_width: int, num_labels: int, freeze_updates: int = 0
    ) -> None:
        super().__init__(encoder, freeze_updates)
        self.proj = nn.Linear(pooled_width, num_labels)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    @property
    def width(self) -> int:
        """Width D of the encoder's output."""
        return self.encoder.width

    @classmethod
    def build_model(cls, cfg: ResidualClassifierConfig, task: Any = None) -> "ResidualClassifier":
        """Build the classifier around the encoder of ``model_path``, or around a fresh one.

        Args:
            cfg: The model's configuration.
            task: Gives ``num_labels``, and ``num_leads`` where ``cfg.in_d`` is None.

        Raises:
            ValueError: If the number of labels is unknown or differs from the task's.
            CheckpointError: If the checkpoint cannot be read or is of another kind.
        """
        num_labels = number_of_labels(cfg.num_labels, task)
        return cls.around(_build_encoder(cls.encoder_class, cfg, task), num_labels, cfg)

    @classmethod
    def check(cls, cfg: ResidualClassifierConfig) -> None:
        """Refuse a configuration that cannot work, before anything is built.

        Raises:
            ValueError: Naming the key, its value and the way out.
        """
        cls.encoder_class.check(cfg)

    @classmethod
    def around(
        cls, encoder: ResidualEncoder, num_labels: int, cfg: ResidualClassifierConfig
    ) -> "ResidualClassifier":
        """Return the classifier around an encoder, with the head that the configuration says."""
        raise NotImplementedError

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Make the configuration of a checkpoint independent of other files.

        Args:
            model_cfg: The model's configuration in the checkpoint.
            state: Its state dict.
        """
        source = {**model_cfg, **(model_cfg.get("encoder_config") or {})}
        sizes = cls.encoder_class.sizes_of(_encoder_part(state))
        return {
            **source,
            **sizes,
            "model_path": None,
            "no_pretrained_weights": True,
            "num_labels": cls.num_labels_of(state),
            "encoder_config": None,
        }

    @classmethod
    def num_labels_of(cls, state: Mapping[str, Tensor]) -> Optional[int]:
        """Return the number of classes that a state dict of this model decides."""
        return len(state["proj.bias"]) if "proj.bias" in state else None


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


def _encoder_part(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return an encoder's state dict, out of its own or out of that of a classifier around it."""
    inner = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    return inner or dict(state)


def _build_encoder(
    encoder_class: Type[ResidualEncoder], cfg: ResidualClassifierConfig, task: Any
) -> ResidualEncoder:
    wanted = cfg.model_path is not None and not cfg.no_pretrained_weights
    if wanted and cfg.encoder_config is not None and not Path(cfg.model_path).is_file():
        logger.warning(
            "%s is not here; the encoder is built from model.encoder_config, and its weights must "
            "come from the checkpoint being loaded",
            cfg.model_path,
        )
        wanted = False
    if wanted:
        return _pretrained_encoder(encoder_class, cfg)
    if cfg.encoder_config is not None:
        return encoder_class(_encoder_config(encoder_class, cfg.encoder_config))
    own = {f.name: getattr(cfg, f.name) for f in fields(encoder_class.config)}
    own["in_d"] = number_of_leads(cfg.in_d, task)
    return encoder_class(_encoder_config(encoder_class, own))


def _pretrained_encoder(
    encoder_class: Type[ResidualEncoder], cfg: ResidualClassifierConfig
) -> ResidualEncoder:
    checkpoint = read_checkpoint(cfg.model_path)
    state = _encoder_part(checkpoint.state)
    found = {**checkpoint.model_cfg, **(checkpoint.model_cfg.get("encoder_config") or {})}
    try:
        found.update(encoder_class.sizes_of(state))
    except CheckpointError as error:
        raise CheckpointError(
            f"model.model_path {checkpoint.path} holds a {checkpoint.model_name}: {error}; give "
            "the checkpoint of such an encoder, or use that model's own classifier"
        ) from None
    found.update((key, getattr(cfg, key)) for key in encoder_class.keys_of_the_run)
    encoder = encoder_class(_encoder_config(encoder_class, found))
    load_weights(encoder, state, checkpoint.path)
    encoder.pretrained_contract = InputContract.from_dict(checkpoint.contract)
    encoder.pretrained_contract = InputContract.from_dict(checkpoint.contract)
    logger.info("encoder of %s (%s) loaded", checkpoint.path, checkpoint.model_name)
    note_encoder(cfg, found, encoder_class.config)
    return encoder


def _encoder_config(
    encoder_class: Type[ResidualEncoder], found: Mapping[str, Any]
) -> ResidualEncoderConfig:
    names = {f.name for f in fields(encoder_class.config)} - {"_name"}
    values = {key: value for key, value in found.items() if key in names}
    return OmegaConf.merge(OmegaConf.structured(encoder_class.config), values)
