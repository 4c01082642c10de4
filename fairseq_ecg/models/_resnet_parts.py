"""What the residual networks of transfer learning share: blocks, the encoder, the classifier.

Source: Weimann and Conrad, 2021, "Transfer learning for ECG classification", Scientific Reports 11,
5251 (doi:10.1038/s41598-021-84374-8), Methods; sizes are those of their published code.
Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional, Tuple

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.models._encoder import EcgEncoder, registered_name
from fairseq_ecg.models._finetuning import FinetuningConfig
from fairseq_ecg.models._residual import ResidualClassifier, missing_tensor
from fairseq_ecg.modules.padding import of_time, padded_frames
from fairseq_ecg.modules.pooling import mean_of_valid
from fairseq_ecg.modules.same_padding import SameConv1d, SameConv2d, same_max_pool

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
EXPANSION = 4  # channels that leave a block of a resnet50, over its width
STEM_KERNEL = 7
CONVS = {1: SameConv1d, 2: SameConv2d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
# The deviation of a normal distribution that is cut at two of them, over theirs.
SHRINKAGE = 0.87962566103423978


@dataclass
class ResnetEncoderConfig(FairseqDataclass):
    """Keys of the networks; the kernels of each differ."""

    in_d: Optional[int] = field(
        default=1, metadata={"help": "number of leads; null: as many as the task gives"}
    )
    arch: ChoiceEnum(["resnet18", "resnet34", "resnet50"]) = field(  # type: ignore[valid-type]
        default="resnet18",
        metadata={"help": "blocks of each stage: 2 2 2 2, 3 4 6 3, or 3 4 6 3 of three layers"},
    )
    block: ChoiceEnum(["postact", "preact"]) = field(  # type: ignore[valid-type]
        default="postact",
        metadata={"help": "norm and ReLU behind each convolution, or in front of it"},
    )
    kernel_sizes: List[int] = field(
        default_factory=lambda: [7, 5, 5, 3], metadata={"help": "kernel of each stage, odd"}
    )
    widths: List[int] = field(
        default_factory=lambda: [64, 128, 256, 512], metadata={"help": "channels of each stage"}
    )
    stages: int = field(default=4, metadata={"help": "how many stages there are, from the first"})
    same_padding: ChoiceEnum(["symmetric", "tf"]) = field(  # type: ignore[valid-type]
        default="symmetric",
        metadata={
            "help": "where zeros stand at stride 2 and even length: as many on both sides, or as "
            "TensorFlow puts them, one fewer in front"
        },
    )
    masked_gap: bool = field(
        default=False,
        metadata={"help": "leave padding out of the mean over frames; the run's own"},
    )


class ResnetEncoder(EcgEncoder):
    """Base of the encoders: a strided convolution, a maximum, stages of residual blocks.

    Subclasses name their ``config`` and ``dims``.

    Raises:
        ValueError: If the configuration cannot work.
    """

    dims: ClassVar[int]  # axes that the convolutions go along
    marker = "stem.weight"
    keys_of_the_run = ("masked_gap",)

    def __init__(self, cfg: ResnetEncoderConfig) -> None:
        super().__init__()
        self.check(cfg)
        self.in_d, self.masked_gap = cfg.in_d, cfg.masked_gap
        self.tf = cfg.same_padding == "tf"
        self.frame_samples = 2 ** (cfg.stages + 1)
        self.stem = CONVS[self.dims](cfg.in_d, cfg.widths[0], STEM_KERNEL, 2, self.tf)
        self.stem_norm = NORMS[self.dims](cfg.widths[0])
        self.stages = self._stages(cfg)
        self.width = self.stages[-1][-1].width
        self.depth = sum(map(len, self.stages))
        self.norm = NORMS[self.dims](self.width) if cfg.block == "preact" else None
        _draw_convolutions(self)

    def _stages(self, cfg: ResnetEncoderConfig) -> nn.ModuleList:
        block_class = PreactBlock if cfg.block == "preact" else PostactBlock
        stages, channels = nn.ModuleList(), cfg.widths[0]
        for i, (width, kernel) in enumerate(_sizes(cfg)):
            stage = nn.ModuleList()
            for j in range(BLOCKS[str(cfg.arch)][i]):
                stride = 2 if i and not j else 1
                layers = _layers(channels, width, kernel, stride, cfg.arch == "resnet50")
                stage.append(block_class(self.dims, layers, self.tf))
                channels = stage[-1].width
            stages.append(stage)
        return stages

    @classmethod
    def check(cls, cfg: ResnetEncoderConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        if not 1 <= cfg.stages <= 4:
            raise ValueError(f"model.stages is {cfg.stages}; give 1 to 4")
        for key in ("widths", "kernel_sizes"):
            values = list(getattr(cfg, key))
            if len(values) < cfg.stages or min(values) < 1:
                raise ValueError(
                    f"model.{key} is {values}; give a positive number for each of the "
                    f"{cfg.stages} stages (model.stages)"
                )
        even = [kernel for kernel in cfg.kernel_sizes if kernel % 2 == 0]
        if even:
            raise ValueError(
                f"model.kernel_sizes is {list(cfg.kernel_sizes)}; {even[0]} is not odd"
            )

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read what shows in the tensors; where zeros stand does not."""
        n_stages = len({key.split(".")[1] for key in state if key.startswith("stages.")})
        in_first = [key.split(".")[2:] for key in state if key.startswith("stages.0.")]
        n_blocks = len({place[0] for place in in_first})
        try:
            stem = state["stem.weight"]
            inner = [state[f"stages.{i}.0.convs.1.weight"] for i in range(max(1, n_stages))]
        except KeyError as error:
            raise missing_tensor(registered_name(cls.encoder_class), error) from None
        shallow = "resnet18" if n_blocks == 2 else "resnet34"
        return {
            "in_d": stem.shape[1],
            "arch": "resnet50" if ["0", "convs", "2", "weight"] in in_first else shallow,
            "block": "preact" if "norm.weight" in state else "postact",
            "kernel_sizes": [conv.shape[2] for conv in inner],
            "widths": [conv.shape[0] for conv in inner],
            "stages": n_stages,
        }

    @classmethod
    def inflated(cls, state: Mapping[str, Tensor], in_d: int) -> Dict[str, Tensor]:
        """Repeat the first kernel over the leads and divide it by their number; see the base."""
        kernel = state["stem.weight"]
        if kernel.shape[1] != 1:
            raise ValueError(
                f"model.inflate_in_channels takes an encoder of one lead, but this one has "
                f"{kernel.shape[1]}; give model.inflate_in_channels=false"
            )
        return {**state, "stem.weight": kernel.repeat_interleave(in_d, dim=1) / in_d}

    def layer_of(self, name: str) -> int:
        """Return the place of a parameter in the order of blocks; see the base class."""
        place = name.split(".")
        if place[0] != "stages":
            return 0 if place[0].startswith("stem") else self.depth + 1
        before = sum(len(self.stages[i]) for i in range(int(place[1])))
        return 1 + before + int(place[2])

    def planes(self, source: Tensor) -> Tensor:
        """Return what the convolutions get, [B, C, T] or [B, C, rows, columns], of recordings."""
        return source

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings.

        Args:
            source: Recordings, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.
                Padding may stand anywhere; the network sees it as zeros.

        Returns:
            ``features`` float [B, L, D]; ``padding_mask`` bool [B, L], True where a frame has
            padded samples only, or None.

        Raises:
            ValueError: If the leads do not fit, or a recording is too short.
        """
        self.check_source(source)
        if padding_mask is not None:
            source = source.masked_fill(of_time(padding_mask)[:, None], 0.0)
        x = self.convolve(self.planes(source))
        x = x if x.dim() == 3 else x.mean(2)
        mask = None
        if padding_mask is not None:
            mask = padded_frames(padding_mask, x.shape[2], self.frame_samples)
        return {"features": x.transpose(1, 2), "padding_mask": mask}

    def convolve(self, x: Tensor) -> Tensor:
        """Apply all layers; float, [B, C, ...] to [B, D, ...]."""
        x = functional.relu(self.stem_norm(self.stem(x)), inplace=True)
        x = same_max_pool(x, self.tf)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x if self.norm is None else functional.relu(self.norm(x), inplace=True)

    def pooled(self, encoded: Mapping[str, Optional[Tensor]]) -> Tensor:
        """Return the mean over all frames, or over the valid ones; see the base class."""
        return mean_of_valid(
            encoded["features"], encoded["padding_mask"] if self.masked_gap else None
        )

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Do what ``encode`` does."""
        return self.encode(source, padding_mask)


class ResnetBlock(nn.Module):
    """Convolutions, a norm for each, and a shortcut that has a convolution where sizes change.

    Args:
        dims: Axes that the convolutions go along.
        layers: Channels in, channels out, kernel and stride of each convolution.
        tf: Place zeros as TensorFlow does.
    """

    norm_first: ClassVar[bool]

    def __init__(self, dims: int, layers: List[Tuple[int, int, int, int]], tf: bool) -> None:
        super().__init__()
        first, width = layers[0][0], layers[-1][1]
        stride = max(layer[3] for layer in layers)
        normed = 0 if self.norm_first else 1
        self.width = width
        self.convs = nn.ModuleList(CONVS[dims](*layer, tf) for layer in layers)
        self.norms = nn.ModuleList(NORMS[dims](layer[normed]) for layer in layers)
        self.projection = self.projection_norm = None
        if stride > 1 or first != width:
            self.projection = CONVS[dims](first, width, 1, stride, tf)
            self.projection_norm = None if self.norm_first else NORMS[dims](width)


class PostactBlock(ResnetBlock):
    """Convolution and norm, ReLU between them and after the sum (He et al., 2016, CVPR)."""

    norm_first = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; float, [B, D, ...] to [B, D', ...]."""
        y = self.norms[0](self.convs[0](x))
        for conv, norm in _after_the_first(self.convs, self.norms):
            y = norm(conv(functional.relu(y, inplace=True)))
        if self.projection is not None:
            x = self.projection_norm(self.projection(x))
        return functional.relu(x + y, inplace=True)


class PreactBlock(ResnetBlock):
    """Norm, ReLU and convolution; the sum stays as it is (He et al., 2016, ECCV, Figure 4e).

    What changes channels or length beside it takes the first norm and ReLU too.
    """

    norm_first = True

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; float, [B, D, ...] to [B, D', ...]."""
        activated = functional.relu(self.norms[0](x), inplace=True)
        y = self.convs[0](activated)
        for conv, norm in _after_the_first(self.convs, self.norms):
            y = conv(functional.relu(norm(y), inplace=True))
        return y + (x if self.projection is None else self.projection(activated))


@dataclass
class ResnetClassifierConfig(FinetuningConfig):
    """Keys of both classifiers beside those of their encoder."""

    inflate_in_channels: bool = field(
        default=False,
        metadata={
            "help": "an encoder of one lead takes as many as the task gives: its first kernel is "
            "repeated over them and divided by their number"
        },
    )


class ResnetClassifier(ResidualClassifier):
    """Base of the classifiers: an encoder, its vector per recording, and one linear layer.

    The encoder of a checkpoint may be of any family.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        cfg: Gives ``freeze_finetune_updates``.
    """

    def __init__(self, encoder: EcgEncoder, num_labels: int, cfg: ResnetClassifierConfig) -> None:
        super().__init__(encoder, num_labels, cfg, encoder.embedding_width)

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Classify recordings.

        Args:
            source: Recordings, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``out`` logits, float, [B, K]; ``encoder_out`` float [B, L, D]; ``padding_mask`` bool
            [B, L] or None.

        Raises:
            ValueError: If the leads do not fit, or a recording is too short.
        """
        encoded = self.encode(source, padding_mask)
        return {
            "out": self.proj(self.encoder.pooled(encoded)),
            "encoder_out": encoded["features"].detach(),
            "padding_mask": encoded["padding_mask"],
        }


def _sizes(cfg: ResnetEncoderConfig) -> List[Tuple[int, int]]:
    """Return width and kernel of each stage."""
    return list(zip(cfg.widths, cfg.kernel_sizes, strict=False))[: cfg.stages]


def _layers(
    channels: int, width: int, kernel: int, stride: int, bottleneck: bool
) -> List[Tuple[int, int, int, int]]:
    """Return channels in, channels out, kernel and stride of the convolutions of a block."""
    if not bottleneck:
        return [(channels, width, kernel, stride), (width, width, kernel, 1)]
    outer = EXPANSION * width
    return [(channels, width, 1, 1), (width, width, kernel, stride), (width, outer, 1, 1)]


def _after_the_first(
    convs: nn.ModuleList, norms: nn.ModuleList
) -> Iterator[Tuple[nn.Module, nn.Module]]:
    for i in range(1, len(convs)):
        yield convs[i], norms[i]


def _draw_convolutions(module: nn.Module) -> None:
    """Draw weights as LeCun et al. (1998) do, from a normal distribution that is cut.

    The variance is 1 over the number of inputs of a place that goes out. It is what Keras calls
    variance scaling, the published networks' default there.
    """
    for layer in module.modules():
        if isinstance(layer, tuple(CONVS.values())):
            deviation = math.sqrt(1 / layer.weight[0].numel()) / SHRINKAGE
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
