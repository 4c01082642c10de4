"""What all models around an encoder share (Oh et al., 2022, Section 4).

Their keys, where the encoder comes from, and the updates during which it stays frozen. The encoder
of a checkpoint may be of any family (``models/_encoder.py``).
Shapes: B batch, C leads, T samples, L frames, D width.
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Tuple, Type

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import MODEL_REGISTRY, BaseFairseqModel
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from fairseq_ecg.checkpoint import Checkpoint, CheckpointError, load_weights, read_checkpoint
from fairseq_ecg.contract import ContractError, InputContract
from fairseq_ecg.models._encoder import (
    EcgEncoder,
    agreed_number,
    encoder_class_of,
    number_of_leads,
    registered_name,
)

logger = logging.getLogger(__name__)


@dataclass
class FinetuningConfig(FairseqDataclass):
    """The reference's keys and defaults."""

    model_path: Optional[str] = field(
        default=None,
        metadata={"help": "checkpoint or exported folder of the pretrained or fine-tuned encoder"},
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


class FinetunedModel(BaseFairseqModel):
    """Base of the models around an encoder; subclasses add a head.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        cfg: The model's configuration.
    """

    encoder_class: ClassVar[Type[EcgEncoder]]  # of an encoder that starts from random weights

    def __init__(self, encoder: EcgEncoder, num_labels: int, cfg: FinetuningConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_labels = num_labels
        self.freeze_updates = cfg.freeze_finetune_updates
        self.num_updates = 0

    @classmethod
    def build_model(cls, cfg: FinetuningConfig, task: Any = None) -> "FinetunedModel":
        """Build the model around the encoder of ``model_path``, or around a fresh one.

        Args:
            cfg: The model's configuration.
            task: Gives ``num_labels``, and what ``build_encoder`` asks it.

        Raises:
            ValueError: If the number of labels is unknown or differs from the task's.
            CheckpointError: If the checkpoint cannot be read, or has no encoder.
        """
        num_labels = agreed_number("model.num_labels", cfg.num_labels, task, "labels")
        return cls(build_encoder(cls.encoder_class, cfg, task), num_labels, cfg)

    @property
    def pretrained_contract(self) -> Optional[InputContract]:
        """What the encoder was pretrained on and with; None if it was built fresh."""
        return self.encoder.pretrained_contract

    @classmethod
    def check(cls, cfg: FinetuningConfig) -> None:
        """Refuse a configuration that cannot work, before anything is built.

        Raises:
            ValueError: Naming the key, its value and the way out.
        """
        if cfg.model_path is None or cfg.no_pretrained_weights:
            cls.encoder_class.check(cfg)

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Make the configuration of a fine-tuned checkpoint independent of other files.

        Args:
            model_cfg: The model's configuration in the checkpoint.
            state: Its state dict.
        """
        source = {**model_cfg, **(model_cfg.get("encoder_config") or {})}
        encoder_class = _family(cls, model_cfg)
        sizes = encoder_class.sizes_of(encoder_class.part_of(state))
        name = registered_name(encoder_class)
        return {
            **model_cfg,
            "model_path": None,
            "no_pretrained_weights": True,
            "num_labels": cls.num_labels_of(state),
            "encoder_config": {**source, **sizes, "_name": name},
        }

    @classmethod
    def num_labels_of(cls, state: Mapping[str, Tensor]) -> Optional[int]:
        """Return the number of classes that a state dict of this model decides."""
        return len(state["proj.bias"]) if "proj.bias" in state else None

    @property
    def frozen(self) -> bool:
        """Whether only the head is trained at this update."""
        return self.num_updates < self.freeze_updates

    def set_num_updates(self, num_updates: int) -> None:
        """Take note of the number of updates, on which the freezing of the encoder depends."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings; while it is frozen, the encoder does what it does in evaluation.

        So it has no gradient, no dropout, and batch norms keep their statistics. Args and result
        are those of ``EcgEncoder.encode``.
        """
        if self.encoder.training != (self.training and not self.frozen):
            self.encoder.train(self.training and not self.frozen)
        with torch.no_grad() if self.frozen else nullcontext():
            return self.encoder.encode(source, padding_mask)

    def extract_features(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode recordings, as ``EcgEncoder.extract_features``."""
        return self.encoder.extract_features(source, padding_mask)

    def embed(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode each recording as one vector, as ``EcgEncoder.embed``."""
        return self.encoder.embed(source, padding_mask)


def build_encoder(
    fresh_class: Type[EcgEncoder], cfg: FinetuningConfig, task: Any = None
) -> EcgEncoder:
    """Build the encoder of ``model_path``, or a fresh one.

    An encoder from a checkpoint is of the family it was pretrained as, and keeps its
    ``pretrained_contract``, which the task compares with the recordings it opens.

    Args:
        fresh_class: Family of an encoder that starts from random weights.
        cfg: Configuration of the model around it, with the keys of that family.
        task: Gives ``num_leads`` of a fresh encoder where ``cfg.in_d`` is None.

    Raises:
        ValueError: If a fresh encoder's number of leads is unknown or differs from the task's.
        CheckpointError: If the checkpoint cannot be read, or has no encoder.
    """
    wanted = cfg.model_path is not None and not cfg.no_pretrained_weights
    known = cfg.encoder_config is not None
    if wanted and known and not Path(cfg.model_path).exists():
        logger.warning(
            "%s is not here; the encoder is built from model.encoder_config, and its weights must "
            "come from the checkpoint being loaded",
            cfg.model_path,
        )
        wanted = False
    if wanted:
        return _pretrained_encoder(cfg, task)
    if known:
        encoder_class = encoder_class_of(
            registered_name(fresh_class), {"encoder_config": cfg.encoder_config}
        )
        return encoder_class(_encoder_config(encoder_class, cfg, cfg.encoder_config))
    own = {f.name: getattr(cfg, f.name) for f in fields(fresh_class.config) if hasattr(cfg, f.name)}
    own["in_d"] = number_of_leads(cfg.in_d, task)
    config = _encoder_config(fresh_class, cfg, own)
    return fresh_class(_structured(fresh_class, fresh_class.fresh_values(config)))


def encoder_of(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint of the encoder alone, which masks nothing.

    Args:
        checkpoint: Of a pretraining model, or of a model fine-tuned from one.

    Raises:
        CheckpointError: If there is no encoder in it.
    """
    if not hasattr(MODEL_REGISTRY[checkpoint.model_name], "encoder_class"):
        raise CheckpointError("it has no encoder that other models know")
    encoder_class = encoder_class_of(checkpoint.model_name, checkpoint.model_cfg)
    state = encoder_class.part_of(checkpoint.state)
    found = {**checkpoint.model_cfg, **(checkpoint.model_cfg.get("encoder_config") or {})}
    names = {f.name for f in fields(encoder_class.config)}
    model_cfg = {key: value for key, value in found.items() if key in names}
    model_cfg.update(encoder_class.sizes_of(state), **encoder_class.in_finetuning)
    name = registered_name(encoder_class)
    return replace(
        checkpoint,
        model_name=name,
        model_cfg={**model_cfg, "_name": name},
        state=state,
        contract={**checkpoint.contract, "labels": None},
        criterion_cfg={},
        unbuildable=None,
    )


def _family(model_class: Type[FinetunedModel], model_cfg: Mapping[str, Any]) -> Type[EcgEncoder]:
    """Return the family of the encoder in a checkpoint of a model."""
    return encoder_class_of(registered_name(model_class.encoder_class), model_cfg)


def _pretrained_encoder(cfg: FinetuningConfig, task: Any) -> EcgEncoder:
    checkpoint = read_checkpoint(cfg.model_path)
    try:
        alone = encoder_of(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(
            f"model.model_path {checkpoint.path} holds the model {checkpoint.model_name}: {error}; "
            "give the checkpoint of an encoder, of its pretraining or of a model fine-tuned from it"
        ) from None
    encoder_class = encoder_class_of(alone.model_name, alone.model_cfg)
    contract = InputContract.from_dict(checkpoint.contract)
    if getattr(cfg, "inflate_in_channels", False):
        alone, contract = _inflated(encoder_class, alone, contract, cfg, task)
    encoder = encoder_class(_encoder_config(encoder_class, cfg, alone.model_cfg))
    _check_leads(encoder, task, checkpoint.path, hasattr(cfg, "inflate_in_channels"))
    load_weights(encoder, alone.state, checkpoint.path)
    encoder.pretrained_contract = contract
    logger.info(
        "encoder of %s (%s) loaded: %d tensors, none missing; left out of the checkpoint: %s",
        checkpoint.path,
        checkpoint.model_name,
        len(alone.state),
        ", ".join(_left_out(checkpoint, alone)) or "nothing",
    )
    # So a fine-tuned checkpoint can be opened where ``model_path`` does not exist.
    note_in_run(cfg, "encoder_config", dict(alone.model_cfg))
    return encoder


def _inflated(
    encoder_class: Type[EcgEncoder],
    alone: Checkpoint,
    contract: InputContract,
    cfg: FinetuningConfig,
    task: Any,
) -> Tuple[Checkpoint, InputContract]:
    """Make the encoder of one lead in a checkpoint one of all leads, which may be any."""
    leads = getattr(task, "num_leads", None) or cfg.in_d
    if alone.model_cfg["in_d"] == leads:
        return alone, contract
    state = encoder_class.inflated(alone.state, leads)
    model_cfg = {**alone.model_cfg, "in_d": leads}
    return (
        replace(alone, state=state, model_cfg=model_cfg),
        replace(contract, leads=None, present_leads=None),
    )


def _left_out(checkpoint: Checkpoint, alone: Checkpoint) -> List[str]:
    """Name the tensors of a checkpoint that are not the encoder's; by their first part if many."""
    taken = {*alone.state, *(f"encoder.{key}" for key in alone.state)}
    names = [key for key in checkpoint.state if key not in taken]
    return names if len(names) <= 4 else sorted({f"{key.split('.')[0]}.*" for key in names})


def _check_leads(encoder: EcgEncoder, task: Any, path: str, can_inflate: bool) -> None:
    given = getattr(task, "num_leads", None)
    if given is None or given == encoder.in_d:
        return
    if encoder.in_d == 1:
        way_out = "choose one with task.leads_to_load='[II]'"
        if can_inflate:
            way_out += ", or give model.inflate_in_channels=true"
    else:
        way_out = (
            "keep the others as silent rows with task.enable_padding_leads=true, or a set such as "
            "task.leads_to_load=P-3"
        )
    raise ContractError(
        f"the encoder in {path} takes {encoder.in_d} leads, but the task gives {given}: {way_out}"
    )


def _encoder_config(
    encoder_class: Type[EcgEncoder], cfg: FinetuningConfig, found: Mapping[str, Any]
) -> FairseqDataclass:
    """Join an encoder's sizes and what the fine-tuning decides for itself."""
    asked = {key: getattr(cfg, key, None) for key in encoder_class.keys_of_the_run}
    own = {key: value for key, value in asked.items() if value is not None}
    return _structured(encoder_class, {**found, **own, **encoder_class.in_finetuning})


def _structured(encoder_class: Type[EcgEncoder], values: Mapping[str, Any]) -> FairseqDataclass:
    names = {f.name for f in fields(encoder_class.config)} - {"_name"}
    known = {key: value for key, value in values.items() if key in names}
    return OmegaConf.merge(OmegaConf.structured(encoder_class.config), known)


def note_in_run(cfg: Any, key: str, value: Any) -> None:
    """Write a value of the model into the run's own configuration, as checkpoints have it.

    Args:
        cfg: The model's configuration, as ``build_model`` gets it.
        key: Of the model's section.
        value: What the model found out.
    """
    if not isinstance(cfg, DictConfig):
        return
    section = OmegaConf.select(cfg._get_root(), "model", default=None)
    if isinstance(section, DictConfig):
        with open_dict(section):
            section[key] = value
