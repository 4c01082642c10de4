"""What all models around a pretrained encoder share (Oh et al., 2022, Section 4).

Their keys, where the encoder comes from, and the updates during which it stays frozen.
Shapes: B batch, C leads, T samples, L frames, D width.
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import torch
from fairseq.models import BaseFairseqModel
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from fairseq_ecg.checkpoint import Checkpoint, CheckpointError, load_weights, read_checkpoint
from fairseq_ecg.contract import InputContract
from fairseq_ecg.models.ecg_transformer import (
    EcgTransformer,
    EcgTransformerConfig,
    number_of_leads,
)

logger = logging.getLogger(__name__)

# What fine-tuning decides for itself; all else about the encoder comes from its checkpoint.
_OWN_KEYS = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "encoder_layerdrop",
    "dropout_input",
    "feature_grad_mult",
    "saliency",
)
_PRETRAINING_ONLY = ("mask_emb", "quantizer.", "project_q.", "target_glu.", "final_proj.")


@dataclass
class EcgFinetuningConfig(EcgTransformerConfig):
    """The reference's keys and defaults; sizes count only without a checkpoint."""

    dropout: float = field(default=0.0, metadata={"help": "dropout inside the transformer"})
    attention_dropout: float = field(
        default=0.0, metadata={"help": "dropout of the attention weights"}
    )
    feature_grad_mult: float = field(
        default=0.0, metadata={"help": "factor on gradients into the convolutions; 0 freezes them"}
    )

    model_path: Optional[str] = field(
        default=None, metadata={"help": "checkpoint of the pretrained or fine-tuned encoder"}
    )
    no_pretrained_weights: bool = field(
        default=False, metadata={"help": "start from random weights, whatever model_path says"}
    )
    freeze_finetune_updates: int = field(
        default=0, metadata={"help": "updates during which only the head is trained"}
    )
    final_dropout: float = field(
        default=0.0, metadata={"help": "dropout of the encoder's output before pooling"}
    )
    num_labels: Optional[int] = field(
        default=None, metadata={"help": "number of classes; none = as many as the task has"}
    )
    encoder_config: Any = field(
        default=None,
        metadata={"help": "written by the program into checkpoints: the encoder's configuration"},
    )


class FinetunedModel(BaseFairseqModel):
    """Base of the models around a pretrained encoder.

    Args:
        encoder: The encoder.
        freeze_updates: Updates during which the encoder gets no gradient.
    """

    def __init__(self, encoder: EcgTransformer, freeze_updates: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.freeze_updates = freeze_updates
        self.num_updates = 0

    @property
    def width(self) -> int:
        """Width D of the encoder's output."""
        return self.encoder.encoder.layer_norm.normalized_shape[0]

    @property
    def pretrained_contract(self) -> Optional[InputContract]:
        """What the encoder was pretrained on and with; None if it was built fresh."""
        return getattr(self.encoder, "pretrained_contract", None)

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Make the configuration of a fine-tuned checkpoint independent of other files.

        Args:
            model_cfg: The model's configuration in the checkpoint.
            state: Its state dict.
        """
        backbone = {k.removeprefix("encoder."): v for k, v in state.items()}
        source = {**model_cfg, **(model_cfg.get("encoder_config") or {})}
        return {
            **model_cfg,
            "model_path": None,
            "no_pretrained_weights": True,
            "num_labels": cls.num_labels_of(state),
            "encoder_config": {**source, **sizes_of(backbone)},
        }

    @classmethod
    def num_labels_of(cls, state: Mapping[str, Tensor]) -> Optional[int]:
        """Return the number of classes that a state dict of this model decides."""
        raise NotImplementedError

    def set_num_updates(self, num_updates: int) -> None:
        """Take note of the number of updates, on which the freezing of the encoder depends."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings, without gradient while the encoder is frozen.

        Args and result are those of ``EcgTransformer.encode``.
        """
        frozen = self.num_updates < self.freeze_updates
        with torch.no_grad() if frozen else nullcontext():
            return self.encoder.encode(source, padding_mask)

    def extract_features(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode recordings, as ``EcgTransformer.extract_features``."""
        return self.encoder.extract_features(source, padding_mask)

    def embed(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode each recording as one vector, as ``EcgTransformer.embed``."""
        return self.encoder.embed(source, padding_mask)


def number_of_labels(asked: Optional[int], task: Any) -> int:
    """Return the number of classes that was asked for, or the task's.

    Args:
        asked: ``model.num_labels``.
        task: Its ``num_labels``, if it has any, must agree.

    Raises:
        ValueError: If the number is unknown or differs from the task's.
    """
    of_task = getattr(task, "num_labels", None)
    if asked is None and of_task is None:
        raise ValueError("model.num_labels is not set and the task does not know it; give a number")
    if asked is not None and of_task is not None and asked != of_task:
        raise ValueError(
            f"model.num_labels is {asked}, but the task has {of_task} labels; leave "
            "model.num_labels out to take the task's number"
        )
    return of_task if asked is None else asked


def build_encoder(cfg: EcgFinetuningConfig, task: Any = None) -> EcgTransformer:
    """Build the encoder of ``model_path``, or a fresh one.

    An encoder from a checkpoint keeps its ``pretrained_contract``, which the task compares with the
    recordings it opens.

    Args:
        cfg: The model's configuration.
        task: Gives ``num_leads`` of a fresh encoder where ``cfg.in_d`` is None.

    Raises:
        ValueError: If a fresh encoder's number of leads is unknown or differs from the task's.
        CheckpointError: If the checkpoint cannot be read or is of another kind.
    """
    wanted = cfg.model_path is not None and not cfg.no_pretrained_weights
    known = cfg.encoder_config is not None
    if wanted and known and not Path(cfg.model_path).is_file():
        logger.warning(
            "%s is not here; the encoder is built from model.encoder_config, and its weights must "
            "come from the checkpoint being loaded",
            cfg.model_path,
        )
        wanted = False
    if wanted:
        return _pretrained_encoder(cfg)
    if known:
        return EcgTransformer(_encoder_config(cfg, OmegaConf.create(cfg.encoder_config)))
    return EcgTransformer(_fresh_config(cfg, task))


def sizes_of(state: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Read the sizes of an encoder from its tensors, as far as they show.

    Heads and strides leave no trace in the tensors; they must come from the configuration.

    Args:
        state: State dict of an ``EcgTransformer``.

    Raises:
        CheckpointError: If it is the state dict of something else.
    """
    try:
        first_conv = state["feature_extractor.conv_layers.0.0.weight"]
        fc1 = state["encoder.layers.0.fc1.weight"]
        positions = state["conv_pos.pos_conv.0.parametrizations.weight.original1"]
    except KeyError as error:
        raise CheckpointError(f"this is no transformer encoder: it has no {error}") from None
    layers = {key.split(".")[2] for key in state if key.startswith("encoder.layers.")}
    return {
        "in_d": first_conv.shape[1],
        "encoder_layers": len(layers),
        "encoder_ffn_embed_dim": fc1.shape[0],
        "encoder_embed_dim": fc1.shape[1],
        "conv_pos": positions.shape[2],
        "conv_pos_groups": positions.shape[0] // positions.shape[1],
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in state,
        "extractor_mode": "layer_norm"
        if "feature_extractor.conv_layers.0.2.1.weight" in state
        else "default",
    }


def encoder_of(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint of the encoder alone, as an ``ecg_transformer`` that masks nothing.

    Args:
        checkpoint: Of a pretraining model, or of a model fine-tuned from one.

    Raises:
        CheckpointError: If there is no transformer encoder in it.
    """
    state = _backbone(checkpoint.state)
    found = {**checkpoint.model_cfg, **(checkpoint.model_cfg.get("encoder_config") or {})}
    names = {f.name for f in fields(EcgTransformerConfig)}
    model_cfg = {key: value for key, value in found.items() if key in names}
    model_cfg.update(sizes_of(state), apply_mask=False, _name="ecg_transformer")
    return replace(
        checkpoint,
        model_name="ecg_transformer",
        model_cfg=model_cfg,
        state=state,
        contract={**checkpoint.contract, "labels": None},
        unbuildable=None,
    )


def _pretrained_encoder(cfg: EcgFinetuningConfig) -> EcgTransformer:
    checkpoint = read_checkpoint(cfg.model_path)
    try:
        encoder_checkpoint = encoder_of(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(
            f"model.model_path {checkpoint.path} holds a {checkpoint.model_name}: {error}; give "
            "the checkpoint of a wav2vec-style model, or use that model's own classifier"
        ) from None
    found = encoder_checkpoint.model_cfg
    encoder = EcgTransformer(_encoder_config(cfg, found))
    load_weights(encoder, encoder_checkpoint.state, checkpoint.path)
    encoder.pretrained_contract = InputContract.from_dict(checkpoint.contract)
    logger.info("encoder of %s (%s) loaded", checkpoint.path, checkpoint.model_name)
    note_encoder(cfg, found, EcgTransformerConfig)
    return encoder


def _backbone(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Keep the encoder's part of a pretraining model, or of a model fine-tuned from one."""
    if any(key.startswith("encoder.feature_extractor.") for key in state):
        prefix = "encoder."
        state = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return {k: v for k, v in state.items() if not k.startswith(_PRETRAINING_ONLY)}


def _encoder_config(cfg: EcgFinetuningConfig, found: Mapping[str, Any]) -> EcgTransformerConfig:
    """Join the checkpoint's sizes and the fine-tuning's own values; masking is off."""
    names = {f.name for f in fields(EcgTransformerConfig)}
    values = {key: value for key, value in found.items() if key in names}
    values.update((key, getattr(cfg, key)) for key in _OWN_KEYS)
    values.update(apply_mask=False, all_gather=False, _name="ecg_transformer")
    return OmegaConf.merge(OmegaConf.structured(EcgTransformerConfig), values)


def _fresh_config(cfg: EcgFinetuningConfig, task: Any) -> EcgTransformerConfig:
    names = [f.name for f in fields(EcgTransformerConfig)]
    config = _encoder_config(cfg, {name: getattr(cfg, name) for name in names})
    config.in_d = number_of_leads(cfg.in_d, task)
    if config.feature_grad_mult == 0:
        logger.warning(
            "model.feature_grad_mult is 0, but no checkpoint is loaded: random convolutions would "
            "stay as they are. They are trained with factor 1; set model.feature_grad_mult, or "
            "model.model_path"
        )
        config.feature_grad_mult = 1.0
    return config


def note_encoder(cfg: Any, found: Mapping[str, Any], config_class: type) -> None:
    """Write the encoder's configuration into the run's own, which fairseq puts into checkpoints.

    So a fine-tuned checkpoint can be opened where ``model_path`` does not exist.

    Args:
        cfg: The model's section of the run's configuration.
        found: What the encoder was built with.
        config_class: The encoder's dataclass; other keys are left out.
    """
    if not isinstance(cfg, DictConfig):
        return
    section = OmegaConf.select(cfg._get_root(), "model", default=None)
    if isinstance(section, DictConfig):
        names = {f.name for f in fields(config_class)} - {"_name"}
        with open_dict(section):
            section.encoder_config = {k: v for k, v in found.items() if k in names}
