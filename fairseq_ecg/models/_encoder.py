"""The interface of every encoder: what models around one, and checkpoints of one, rely on.

A new family is a subclass that names its ``config``; its checkpoints then serve every classifier.
Shapes: B batch, C leads, T samples, L frames, D width.
"""

from typing import Any, ClassVar, Dict, Mapping, Optional, Tuple, Type

from fairseq.dataclass import FairseqDataclass
from fairseq.models import MODEL_REGISTRY, BaseFairseqModel
from torch import Tensor

from fairseq_ecg.contract import InputContract
from fairseq_ecg.modules.pooling import mean_of_nonzero


class EcgEncoder(BaseFairseqModel):
    """Base of the encoders.

    Subclasses set ``in_d`` (C) and ``width`` (D) and give ``encode``, ``check`` and ``sizes_of``.
    """

    config: ClassVar[Type[FairseqDataclass]]  # of the plain encoder of the family
    encoder_class: ClassVar[Type["EcgEncoder"]]  # the plain encoder: the class with the ``config``
    marker: ClassVar[str]  # a tensor that every state dict of the family has
    pretraining_only: ClassVar[Tuple[str, ...]] = ()  # beginnings of keys that encoding needs not
    # What a fine-tuning decides for itself; all else about the encoder comes from its checkpoint.
    keys_of_the_run: ClassVar[Tuple[str, ...]] = ()
    in_finetuning: ClassVar[Dict[str, Any]] = {}  # values that hold in every fine-tuning

    in_d: int
    width: int
    depth: int  # number of blocks, where ``layer_of`` knows them
    pretrained_contract: Optional[InputContract] = None  # of the checkpoint it comes from

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make a class with a ``config`` of its own the plain encoder of a family."""
        super().__init_subclass__(**kwargs)
        if "config" in vars(cls):
            cls.encoder_class = cls

    @classmethod
    def build_model(cls, cfg: FairseqDataclass, task: Any = None) -> "EcgEncoder":
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
    def check(cls, cfg: FairseqDataclass) -> None:
        """Refuse a configuration that cannot work, before anything is built.

        Raises:
            ValueError: Naming the key, its value and the way out.
        """
        raise NotImplementedError

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read the sizes of an encoder from its tensors, as far as they show.

        Args:
            state: State dict of the plain encoder.

        Raises:
            CheckpointError: If it is the state dict of something else.
        """
        raise NotImplementedError

    @classmethod
    def fresh_values(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        """Return the configuration of an encoder that starts from random weights.

        Args:
            values: What the model around it says.
        """
        return values

    @classmethod
    def inflated(cls, state: Mapping[str, Tensor], in_d: int) -> Dict[str, Tensor]:
        """Turn the tensors of an encoder of one lead into those of an encoder of several.

        Args:
            state: State dict of the plain encoder.
            in_d: Number of leads C.

        Raises:
            ValueError: If the encoder takes several leads already, or the family cannot.
        """
        raise ValueError(
            f"model.inflate_in_channels is not known for the encoder {cls.__name__}; give "
            "model.inflate_in_channels=false"
        )

    @classmethod
    def part_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Keep the encoder's part of its own state dict, or of that of a model around it."""
        if f"encoder.{cls.marker}" in state:
            prefix = "encoder."
            state = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        return {k: v for k, v in state.items() if not k.startswith(cls.pretraining_only)}

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Complete a checkpoint's configuration by the sizes that its tensors have.

        Args:
            model_cfg: The model's configuration in the checkpoint.
            state: Its state dict.
        """
        return {**model_cfg, **cls.sizes_of(state)}

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings, hiding nothing.

        Args:
            source: Recordings in millivolts, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``features`` float [B, L, D], ``padding_mask`` bool [B, L] or None, and perhaps more.

        Raises:
            ValueError: If the leads do not fit or a recording is too short.
        """
        raise NotImplementedError

    def layer_of(self, name: str) -> int:
        """Return the place of a parameter in the order of layers, for layer-wise learning rates.

        0 stands for all that comes before the blocks, 1 to ``depth`` for the blocks, ``depth`` + 1
        for what comes after them. Encoders of blocks set ``depth`` and override this.

        Args:
            name: As in ``named_parameters()``.

        Raises:
            ValueError: If the encoder has no order of blocks.
        """
        raise ValueError(
            f"model.layer_decay needs an encoder of blocks, which {type(self).__name__} is not; "
            "give model.layer_decay=1"
        )

    def check_source(self, source: Tensor) -> None:
        """Refuse recordings with other leads than the network was built for.

        Raises:
            ValueError: Naming both shapes and the keys.
        """
        if source.dim() != 3 or source.shape[1] != self.in_d:
            raise ValueError(
                f"source is expected as [batch, {self.in_d} leads, samples], but has the shape "
                f"{list(source.shape)}; give the leads the network was built for (model.in_d, "
                "task.leads_to_load)"
            )

    def extract_features(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode recordings; args as ``encode``, result float [B, L, D]."""
        return self.encode(source, padding_mask)["features"]

    @property
    def token_rows(self) -> int:
        """How many rows of frames ``features`` holds one after the other: 1, or one per lead."""
        return 1

    @property
    def embedding_width(self) -> int:
        """Width of what ``pooled`` and ``embed`` return; D unless a family pools otherwise."""
        return self.width

    def pooled(self, encoded: Mapping[str, Optional[Tensor]]) -> Tensor:
        """Return one vector per recording, the mean over its valid frames; float [B, D].

        Args:
            encoded: What ``encode`` gave.
        """
        return mean_of_nonzero(encoded["features"], encoded["padding_mask"])

    def embed(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Encode each recording as one vector; args as ``encode``, result as ``pooled``."""
        return self.pooled(self.encode(source, padding_mask))


def encoder_class_of(model_name: str, model_cfg: Mapping[str, Any]) -> Type[EcgEncoder]:
    """Return the family of the encoder in a model.

    Args:
        model_name: Registered name of the model: an encoder, or one around an encoder.
        model_cfg: Its configuration; ``encoder_config`` names the encoder if it is another family
            than the model's usual one.
    """
    named = MODEL_REGISTRY.get((model_cfg.get("encoder_config") or {}).get("_name"))
    model = named if hasattr(named, "encoder_class") else MODEL_REGISTRY[model_name]
    return model.encoder_class


def registered_name(encoder_class: Type[EcgEncoder]) -> str:
    """Return the name under which a plain encoder is registered."""
    return next(name for name, model in MODEL_REGISTRY.items() if model is encoder_class)


def number_of_leads(asked: Optional[int], task: Any) -> int:
    """Return ``model.in_d``, or the task's ``num_leads``; as ``agreed_number``."""
    padded_set = (
        ", or keep twelve rows with a padded set such as task.leads_to_load=P-3, or with "
        "task.enable_padding_leads=true"
    )
    return agreed_number("model.in_d", asked, task, "leads", padded_set)


def agreed_number(
    key: str, asked: Optional[int], task: Any, what: str, other_way_out: str = ""
) -> int:
    """Return the number that was asked for, or the task's.

    Args:
        key: The model's key.
        asked: Its value; None leaves it to the task.
        task: Its number, if it has any, must agree.
        what: What is counted: the task's number is its ``num_<what>``.
        other_way_out: What else than leaving it to the task may mend a disagreement.

    Raises:
        ValueError: If the number is unknown or differs from the task's.
    """
    of_task = getattr(task, f"num_{what}", None)
    if asked is None and of_task is None:
        raise ValueError(f"{key} is not set and the task does not know it; give a number")
    if asked is not None and of_task is not None and asked != of_task:
        raise ValueError(
            f"{key} is {asked}, but the task gives {of_task} {what}; give {key}=null to take the "
            f"task's number{other_way_out}"
        )
    return of_task if asked is None else asked
