"""The network of signal-transformation recognition, with shortcuts, attention and a projector.

Source: Sarkar and Etemad, 2022, "Self-Supervised ECG Representation Learning for Emotion
Recognition", IEEE Transactions on Affective Computing 13(3), Section 3; sizes and layers are those
of their published code. The shortcuts are those of a course study, see docs/methods/transform.md.
Shapes: B batch, C leads, T samples, L frames, D width, N blocks.
"""

from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._residual import missing_tensor
from fairseq_ecg.modules.padding import FramePadding, frame_padding
from fairseq_ecg.modules.pooling import GatedAttentionPool, max_of_valid, mean_of_valid
from fairseq_ecg.modules.residual import mean_over_time, silence

N_FORMS = 7  # a window as it is, and six transformations of it
ATTENTION_WIDTH = 64


@dataclass
class TransformCnnEncoderConfig(FairseqDataclass):
    """Keys of the encoder."""

    in_d: Optional[int] = field(
        default=1, metadata={"help": "number of leads; null: as many as the task gives"}
    )
    widths: List[int] = field(
        default_factory=lambda: [32, 64, 128], metadata={"help": "channels of each block"}
    )
    kernels: List[int] = field(
        default_factory=lambda: [32, 16, 8], metadata={"help": "kernel of each block, samples"}
    )
    pool_size: int = field(
        default=8, metadata={"help": "samples that each maximum between two blocks is taken of"}
    )
    pool_stride: int = field(
        default=2, metadata={"help": "samples from one of these maxima to the next"}
    )
    same_padding: ChoiceEnum(["tf", "torch"]) = field(  # type: ignore[valid-type]
        default="tf",
        metadata={
            "help": "where a kernel of even size has its one zero more: tf: behind the recording, "
            "torch: in front of it"
        },
    )
    leaky_slope: float = field(
        default=0.2, metadata={"help": "slope of the leaky ReLU below zero; 0: ReLU"}
    )
    conv_dropout: float = field(default=0.0, metadata={"help": "dropout after each convolution"})
    units_per_block: int = field(
        default=1,
        metadata={"help": "pairs of convolutions in a block, each with a shortcut of its own"},
    )
    residual_blocks: List[int] = field(
        default_factory=list, metadata={"help": "blocks with shortcuts, from 1 on; []: none"}
    )
    shortcut: ChoiceEnum(["auto", "projection", "identity_pad"]) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "projection: a convolution of kernel 1; auto: that where the channels differ, "
            "else what came in; identity_pad: what came in, missing channels filled with zeros"
        },
    )
    residual_act: ChoiceEnum(["pre_add", "post_add"]) = field(  # type: ignore[valid-type]
        default="pre_add",
        metadata={"help": "second activation of a pair with a shortcut: before or after the sum"},
    )
    residual_init_zero: bool = field(
        default=False,
        metadata={"help": "second convolutions beside a shortcut are zero at the beginning"},
    )
    se_reduction: Optional[int] = field(
        default=None,
        metadata={
            "help": "weight the channels of each pair by squeeze and excitation, whose inner "
            "width is that of the pair over this number; null: do not"
        },
    )
    pool: ChoiceEnum(["max", "avg", "attn", "max_avg"]) = field(  # type: ignore[valid-type]
        default="max",
        metadata={
            "help": "from frames to one vector: maximum, mean, gated attention, or maximum and "
            "mean beside each other"
        },
    )


@dataclass
class EcgTransformCnnConfig(TransformCnnEncoderConfig):
    """Keys of ``ecg_transform_cnn``."""

    heads: ChoiceEnum(["multi_binary", "softmax7", "none"]) = field(  # type: ignore[valid-type]
        default="multi_binary",
        metadata={
            "help": "what recognises the seven forms: a network for each, one for all (for "
            "criterion.loss=softmax7), or nothing"
        },
    )
    head_hidden: List[int] = field(
        default_factory=lambda: [128, 128], metadata={"help": "hidden layers of a head"}
    )
    head_dropout: float = field(
        default=0.6, metadata={"help": "dropout after each hidden layer of a head"}
    )
    projection_dim: int = field(
        default=0,
        metadata={"help": "width of what a contrastive loss compares; 0: no projector"},
    )


@register_model("ecg_transform_cnn", dataclass=EcgTransformCnnConfig)
class EcgTransformCnn(EcgEncoder):
    """Blocks of two convolutions, a maximum between them, one vector per recording, small heads.

    For equal seeds the convolutions and heads start from the same numbers whatever stands beside
    them.

    Raises:
        ValueError: If the configuration asks for something that is not supported.
    """

    config = EcgTransformCnnConfig
    marker = "blocks.0.0.conv1.weight"
    pretraining_only = ("heads.", "projector.")
    keys_of_the_run = ("conv_dropout",)
    in_finetuning = {"heads": "none", "projection_dim": 0}

    def __init__(self, cfg: EcgTransformCnnConfig) -> None:
        super().__init__()
        self.check(cfg)
        self.in_d, self.width = cfg.in_d, cfg.widths[-1]
        self.pool_name = str(cfg.pool)
        self.pool_size, self.pool_stride = cfg.pool_size, cfg.pool_stride
        self.depth = len(cfg.widths) * cfg.units_per_block
        self.units_per_block = cfg.units_per_block
        self.blocks = nn.ModuleList(
            nn.ModuleList(ConvPair(cfg, *pair) for pair in pairs) for pairs in _sizes(cfg)
        )
        self.heads = self._heads(cfg)
        self._add_variants(cfg)

    def _heads(self, cfg: EcgTransformCnnConfig) -> nn.ModuleList:
        outputs = {"multi_binary": [1] * N_FORMS, "softmax7": [N_FORMS], "none": []}
        sizes = [self.embedding_width, *cfg.head_hidden]
        activation = nn.LeakyReLU(cfg.leaky_slope)
        return nn.ModuleList(
            dense([*sizes, width], activation, cfg.head_dropout)
            for width in outputs[str(cfg.heads)]
        )

    def _add_variants(self, cfg: EcgTransformCnnConfig) -> None:
        """Add what the plain network has not, behind it, so that it draws the same weights."""
        for number, block in enumerate(self.blocks, 1):
            for pair in block:
                if number in cfg.residual_blocks:
                    pair.add_shortcut(cfg)
                if cfg.se_reduction is not None:
                    pair.excitation = SqueezeExcitation(pair.channels, cfg.se_reduction)
        self.attention = None
        if self.pool_name == "attn":
            self.attention = GatedAttentionPool(self.width, ATTENTION_WIDTH)
        self.projector = None
        if cfg.projection_dim:
            sizes = [self.embedding_width, self.embedding_width, cfg.projection_dim]
            self.projector = dense(sizes, nn.ReLU(), 0.0)

    @property
    def embedding_width(self) -> int:
        """Width of the vector per recording; see the base class."""
        return 2 * self.width if self.pool_name == "max_avg" else self.width

    @classmethod
    def check(cls, cfg: TransformCnnEncoderConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        for key in ("widths", "kernels"):
            values = list(getattr(cfg, key))
            if not values or min(values) < 1:
                raise ValueError(f"model.{key} is {values}; give a positive number for each block")
        if len(cfg.widths) != len(cfg.kernels):
            raise ValueError(
                f"model.widths has {len(cfg.widths)} blocks, model.kernels {len(cfg.kernels)}; "
                "give as many of both"
            )
        for key in ("pool_size", "pool_stride", "units_per_block", "se_reduction"):
            value = getattr(cfg, key)
            if value is not None and value < 1:
                raise ValueError(f"model.{key} is {value}; give a positive number")
        if cfg.se_reduction is not None and cfg.se_reduction > min(cfg.widths):
            raise ValueError(
                f"model.se_reduction is {cfg.se_reduction}, but the narrowest block has "
                f"{min(cfg.widths)} channels; give a number up to that"
            )
        _check_shortcuts(cfg)

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read what shows in the tensors; strides, slopes and shortcuts without weights do not."""
        n_blocks = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
        in_first = {key.split(".")[2] for key in state if key.startswith("blocks.0.")}
        try:
            convs = [state[f"blocks.{i}.0.conv1.weight"] for i in range(max(1, n_blocks))]
        except KeyError as error:
            raise missing_tensor("ecg_transform_cnn", error) from None
        sizes = {
            "in_d": convs[0].shape[1],
            "widths": [conv.shape[0] for conv in convs],
            "kernels": [conv.shape[2] for conv in convs],
            "units_per_block": len(in_first),
            "projection_dim": 0,
            "se_reduction": None,
        }
        squeeze = state.get("blocks.0.0.excitation.fc1.weight")
        if squeeze is not None:
            sizes["se_reduction"] = squeeze.shape[1] // squeeze.shape[0]
        layers = [state[key] for key in state if key.startswith("projector.") and "bias" in key]
        if layers:
            sizes["projection_dim"] = len(layers[-1])
        return {**sizes, **_head_sizes(state)}

    @classmethod
    def fresh_values(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        """Return the configuration of a fresh encoder, which needs no heads."""
        return {**values, **cls.in_finetuning}

    def layer_of(self, name: str) -> int:
        """Return the place of a parameter in the order of pairs; see the base class."""
        place = name.split(".")
        if place[0] != "blocks":
            return self.depth + 1
        return 1 + int(place[1]) * self.units_per_block + int(place[2])

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode forms of recordings and tell which ones they are.

        Args:
            source: Recordings, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            What ``encode`` gives; with heads ``logits`` float [B, 7]; with a projector
            ``projection`` float [B, projection_dim], rows of length 1.

        Raises:
            ValueError: As ``encode``.
        """
        encoded = self.encode(source, padding_mask)
        embedding = encoded["embedding"]
        if len(self.heads):
            encoded["logits"] = torch.cat([head(embedding) for head in self.heads], dim=1)
        if self.projector is not None:
            encoded["projection"] = functional.normalize(self.projector(embedding).float(), dim=1)
        return encoded

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings.

        Args:
            source: Recordings, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.
                Padding stands behind a recording and leaves no trace in what comes out.

        Returns:
            ``features`` float [B, L, D], zero where padded; ``padding_mask`` bool [B, L] or None;
            ``embedding`` float [B, D], all frames pooled (2D with ``pool=max_avg``); with squeeze
            and excitation ``channel_weights`` float [B, sum of D over all pairs].

        Raises:
            ValueError: If the leads do not fit, or a recording is too short for one frame.
        """
        self.check_source(source)
        self._check_length(source.shape[2])
        padding = self._padding(source.shape[2], padding_mask)
        valid = None if padding is None else (~padding.mask)[:, None].to(source.dtype)
        x, weights = source, []
        for number, block in enumerate(self.blocks):
            if number:
                x, valid = self._thin_out(x, valid)
            for pair in block:
                x, weight = pair(x, valid)
                weights += [] if weight is None else [weight]
        mask = None if valid is None else valid[:, 0] == 0
        encoded = {"features": silence(x, valid).transpose(1, 2), "padding_mask": mask}
        encoded["embedding"] = self._pool(encoded["features"], mask)
        if weights:
            encoded["channel_weights"] = torch.cat(weights, dim=1)
        return encoded

    def pooled(self, encoded: Mapping[str, Optional[Tensor]]) -> Tensor:
        """Return ``embedding`` of what ``encode`` gave; see the base class."""
        return encoded["embedding"]

    def n_frames(self, n_samples: int) -> int:
        """Return how many frames come out of a recording of so many samples; 0: it is too short."""
        for _ in range(len(self.blocks) - 1):
            n_samples = max(0, (n_samples - self.pool_size) // self.pool_stride + 1)
        return n_samples

    def _check_length(self, n_samples: int) -> None:
        if self.n_frames(n_samples) < 1:
            raise ValueError(
                f"a recording has {n_samples} samples, too few for one frame; give a longer "
                "task.segment_s, or leave such recordings out"
            )

    def _padding(self, n_samples: int, padding_mask: Optional[Tensor]) -> Optional[FramePadding]:
        """Return the padded samples; a row without one whole frame is refused."""
        return frame_padding(padding_mask, n_samples, lambda n: n if self.n_frames(n) else 0)

    def _thin_out(self, x: Tensor, valid: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """Take maxima of neighbours; one is valid if all of its neighbours are."""
        x = functional.max_pool1d(x, self.pool_size, self.pool_stride)
        return x, None if valid is None else valid[..., self.pool_size - 1 :: self.pool_stride]

    def _pool(self, features: Tensor, mask: Optional[Tensor]) -> Tensor:
        if self.attention is not None:
            return self.attention(features, mask)
        parts = []
        if "max" in self.pool_name:
            parts.append(max_of_valid(features, mask))
        if "avg" in self.pool_name:
            parts.append(mean_of_valid(features, mask))
        return torch.cat(parts, dim=1)


class ConvPair(nn.Module):
    """Two convolutions, each with leaky ReLU and dropout; what is added to it, ``add_*`` says.

    Args:
        cfg: The encoder's configuration.
        in_channels: Channels that come in.
        channels: Channels that go out.
        kernel: Size of both kernels.
    """

    def __init__(
        self, cfg: TransformCnnEncoderConfig, in_channels: int, channels: int, kernel: int
    ) -> None:
        super().__init__()
        self.in_channels, self.channels = in_channels, channels
        self.slope = cfg.leaky_slope
        shorter, longer = (kernel - 1) // 2, kernel // 2
        in_front = cfg.same_padding == "torch"
        self.zeros = (longer, shorter) if in_front else (shorter, longer)
        self.conv1 = _drawn(nn.Conv1d(in_channels, channels, kernel))
        self.conv2 = _drawn(nn.Conv1d(channels, channels, kernel))
        self.dropout = nn.Dropout(cfg.conv_dropout)
        self.residual = self.act_after_sum = False
        self.projection: Optional[nn.Conv1d] = None
        self.excitation: Optional[SqueezeExcitation] = None

    def add_shortcut(self, cfg: TransformCnnEncoderConfig) -> None:
        """Add what came in to what goes out, as the configuration says."""
        kind = str(cfg.shortcut)
        self.residual = True
        self.act_after_sum = cfg.residual_act == "post_add"
        if kind == "projection" or (kind == "auto" and self.in_channels != self.channels):
            self.projection = _drawn(nn.Conv1d(self.in_channels, self.channels, 1))
        if cfg.residual_init_zero:
            nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, valid: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        """Apply the pair.

        Args:
            x: float, [B, D, T].
            valid: 1 = valid, 0 = padded, float [B, 1, T]; None = nothing is padded.

        Returns:
            float [B, D', T], and the weights of its channels [B, D'] if they are weighted.
        """
        x = silence(x, valid)
        y = silence(self._act(self.conv1(functional.pad(x, self.zeros))), valid)
        y = self.conv2(functional.pad(y, self.zeros))
        y = y if self.act_after_sum else self._act(y)
        weights = None
        if self.excitation is not None:
            weights = self.excitation(y, valid)
            y = y * weights[..., None]
        if self.residual:
            y = y + self._shortcut(x)
        return self._act(y) if self.act_after_sum else y, weights

    def _act(self, x: Tensor) -> Tensor:
        return self.dropout(functional.leaky_relu(x, self.slope))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            return self.projection(x)
        return functional.pad(x, (0, 0, 0, self.channels - self.in_channels))


class SqueezeExcitation(nn.Module):
    """Weights of channels, from their means over time (Hu et al., 2018, CVPR, Section 3).

    Args:
        channels: D.
        reduction: D over the inner width.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = _drawn(nn.Linear(channels, channels // reduction))
        self.fc2 = _drawn(nn.Linear(channels // reduction, channels))

    def forward(self, x: Tensor, valid: Optional[Tensor] = None) -> Tensor:
        """Return weights in (0, 1), [B, D], of x [B, D, T]; ``valid`` as in ``ConvPair``."""
        squeezed = functional.relu(self.fc1(mean_over_time(x, valid)))
        return torch.sigmoid(self.fc2(squeezed))


def dense(sizes: List[int], activation: nn.Module, dropout: float) -> nn.Sequential:
    """Return linear layers, an activation and dropout after each but the last.

    Args:
        sizes: Width of the input and of each layer.
        activation: Without parameters; used several times.
        dropout: Probability.
    """
    pairs = list(pairwise(sizes))
    hidden = [[_drawn(nn.Linear(*p)), activation, nn.Dropout(dropout)] for p in pairs[:-1]]
    return nn.Sequential(*chain(*hidden), _drawn(nn.Linear(*pairs[-1])))


def _drawn(layer: nn.Module) -> nn.Module:
    """Draw weights as Glorot and Bengio (2010) do, the default of the published code; no bias."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _sizes(cfg: TransformCnnEncoderConfig) -> List[List[Tuple[int, int, int]]]:
    """Return channels in, channels out and kernel of each pair of each block."""
    incoming = [cfg.in_d, *cfg.widths[:-1]]
    return [
        [(first if not i else width, width, kernel) for i in range(cfg.units_per_block)]
        for first, width, kernel in zip(incoming, cfg.widths, cfg.kernels, strict=True)
    ]


def _check_shortcuts(cfg: TransformCnnEncoderConfig) -> None:
    unknown = set(cfg.residual_blocks) - set(range(1, len(cfg.widths) + 1))
    if unknown:
        raise ValueError(
            f"model.residual_blocks is {list(cfg.residual_blocks)}; give numbers of blocks, from 1 "
            f"to {len(cfg.widths)}"
        )
    if cfg.shortcut != "identity_pad":
        return
    incoming = [cfg.in_d or 1, *cfg.widths]
    narrower = [b for b in cfg.residual_blocks if incoming[b] < incoming[b - 1]]
    if narrower:
        raise ValueError(
            f"model.shortcut=identity_pad fills up channels, but block {narrower[0]} has fewer "
            f"than what comes in ({incoming[narrower[0]]} of {incoming[narrower[0] - 1]}); give "
            "model.shortcut=projection"
        )


def _head_sizes(state: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Read kind and hidden layers of the heads."""
    found = {key.split(".")[1] for key in state if key.startswith("heads.")}
    if not found:
        return {"heads": "none"}
    layers = [len(state[k]) for k in state if k.startswith("heads.0.") and k.endswith("bias")]
    kind = "multi_binary" if layers[-1] == 1 else "softmax7"
    return {"heads": kind, "head_hidden": layers[:-1]}
