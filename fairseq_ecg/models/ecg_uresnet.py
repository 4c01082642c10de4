"""U-ResNet: a residual encoder-decoder that fills in hidden parts of a recording.

Source: Gedon et al., 2021, "First Steps Towards Self-Supervised Pretraining of the 12-Lead ECG",
Computing in Cardiology 48; the encoder is that of Ribeiro et al., 2020, Nature Communications
11:1760. What the paper does not say is decided here, see docs/methods/uresnet.md.
Shapes: B batch, C leads, T samples, N blocks, L frames, D width.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._residual import missing_tensor
from fairseq_ecg.modules.blocks import hide_blocks
from fairseq_ecg.modules.padding import of_time, padded_frames
from fairseq_ecg.modules.pooling import mean_of_valid

STRIDE = 4  # of every block that changes the length


@dataclass
class UresnetEncoderConfig(FairseqDataclass):
    """Keys of the encoder."""

    in_d: Optional[int] = field(
        default=12, metadata={"help": "number of leads; null: as many as the task gives"}
    )
    filters: List[int] = field(
        default_factory=lambda: [64, 128, 196, 256, 320],
        metadata={"help": "channels of the first convolution and of each block of the encoder"},
    )
    kernel_size: int = field(
        default=17, metadata={"help": "kernel of every convolution, odd and at least 3"}
    )
    dropout: float = field(default=0.2, metadata={"help": "dropout inside and after each block"})


@dataclass
class EcgUresnetConfig(UresnetEncoderConfig):
    """Keys of ``ecg_uresnet``."""

    decoder: bool = field(
        default=True, metadata={"help": "false: the encoder alone, as classifiers have it"}
    )
    bottleneck: bool = field(
        default=True, metadata={"help": "a residual block between encoder and decoder"}
    )
    up_skip: ChoiceEnum(["transposed", "nearest1x1"]) = field(  # type: ignore[valid-type]
        default="transposed",
        metadata={
            "help": "how the decoder lengthens the sum beside its convolutions: a transposed "
            "convolution of kernel 1, which writes every fourth sample, or repeated samples and a "
            "convolution of kernel 1"
        },
    )
    out_act: ChoiceEnum(["none", "relu"]) = field(  # type: ignore[valid-type]
        default="none", metadata={"help": "between the last two convolutions"}
    )


@register_model("ecg_uresnet", dataclass=EcgUresnetConfig)
class EcgUresnet(EcgEncoder):
    """Encoder, bottleneck and mirrored decoder, joined at each length on both lanes.

    Raises:
        ValueError: If the configuration asks for something that is not supported.
    """

    evaluated_by = "ecg_pretraining"
    config = EcgUresnetConfig
    marker = "stem.weight"
    pretraining_only = ("bottleneck.", "up.", "out1.", "out2.")
    keys_of_the_run = ("dropout",)

    mask_block: Optional[int] = None  # samples per block of a mask; None: as many as divide it

    def __init__(self, cfg: EcgUresnetConfig) -> None:
        super().__init__()
        self.check(cfg)
        filters = list(cfg.filters)
        self.in_d, self.width, self.kernel_size = cfg.in_d, filters[-1], cfg.kernel_size
        self.frame_samples = STRIDE ** (len(filters) - 1)
        self.stem = _conv(cfg.in_d, filters[0], cfg.kernel_size)
        self.stem_norm = nn.BatchNorm1d(filters[0])
        self.down = nn.ModuleList(
            down_block(*pair, cfg.kernel_size, STRIDE, cfg.dropout) for pair in pairwise(filters)
        )
        self.has_decoder = cfg.decoder
        self.bottleneck = None
        if cfg.decoder:
            self._add_decoder(cfg, filters)
        init_he(self)

    def _add_decoder(self, cfg: EcgUresnetConfig, filters: List[int]) -> None:
        if cfg.bottleneck:
            self.bottleneck = down_block(filters[-1], filters[-1], cfg.kernel_size, 1, cfg.dropout)
        widths = [(2 * wide, narrow) for narrow, wide in pairwise(filters)][::-1]
        if not cfg.bottleneck:
            widths[0] = (filters[-1], filters[-2])  # nothing to join the encoder's end with
        self.up = nn.ModuleList(
            up_block(*pair, cfg.kernel_size, cfg.dropout, cfg.up_skip) for pair in widths
        )
        self.out1 = _conv(2 * filters[0], filters[0], cfg.kernel_size)
        self.out2 = _conv(filters[0], cfg.in_d, cfg.kernel_size, bias=True)
        self.out_relu = cfg.out_act == "relu"

    @classmethod
    def build_model(cls, cfg: EcgUresnetConfig, task: Any = None) -> "EcgUresnet":
        """Build the model; a task that hides blocks says how long they are. See the base class."""
        model = super().build_model(cfg, task)
        model.mask_block = getattr(getattr(task, "cfg", None), "mask_block", None)
        return model

    @classmethod
    def check(cls, cfg: UresnetEncoderConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        if cfg.kernel_size < 3 or cfg.kernel_size % 2 == 0:
            raise ValueError(
                f"model.kernel_size is {cfg.kernel_size}; give an odd number, 3 or more"
            )
        filters = list(cfg.filters)
        if len(filters) < 2 or min(filters) < 1:
            raise ValueError(
                f"model.filters is {filters}; give two numbers or more, all positive: the channels "
                "of the first convolution and of each block"
            )

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read all sizes; ``up_skip`` and ``out_act`` leave no trace in the tensors."""
        blocks = {key.split(".")[1] for key in state if key.startswith("down.")}
        try:
            stem = state["stem.weight"]
            widths = [len(state[f"down.{i}.conv1.weight"]) for i in range(max(1, len(blocks)))]
        except KeyError as error:
            raise missing_tensor("ecg_uresnet", error) from None
        sizes = {
            "in_d": stem.shape[1],
            "filters": [stem.shape[0], *widths],
            "kernel_size": stem.shape[2],
            "decoder": "out2.weight" in state,
        }
        if sizes["decoder"]:
            sizes["bottleneck"] = "bottleneck.conv1.weight" in state
        return sizes

    @classmethod
    def fresh_values(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        """Return the configuration of a fresh encoder, which needs no decoder."""
        return {**values, "decoder": False}

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        lead_mask: Optional[Tensor] = None,
    ) -> Dict[str, Optional[Tensor]]:
        """Reconstruct recordings from what is not hidden.

        Args:
            source: Recordings in millivolts, float32, [B, C, T]; hidden samples are set to zero
                here, before anything else sees them.
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.
            mask: bool, [B, C, N], True = the block is hidden; None = nothing is hidden.
            lead_mask: A second mask; only None is supported.

        Returns:
            ``prediction`` float [B, C, T]; ``features`` float [B, L, D] and ``padding_mask`` bool
            [B, L] or None as ``encode`` gives them.

        Raises:
            ValueError: If shapes do not fit, or there is no decoder.
        """
        if not self.has_decoder:
            raise ValueError(
                "this ecg_uresnet is an encoder alone, which predicts nothing; give "
                "model.decoder=true to pretrain, or use extract_features"
            )
        if lead_mask is not None:
            raise ValueError(
                "ecg_uresnet reconstructs from one mask, but task.mask_mode=time_and_lead gives "
                "two; give task.mask_mode time, time_block, lead, lead_time or random_leads"
            )
        visible = source if mask is None else hide_blocks(source, mask, self.mask_block)
        lanes = self._down(visible, padding_mask)
        return {"prediction": self._up(lanes), **self._features(lanes[-1][0], padding_mask)}

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings, hiding nothing.

        Args:
            source: Recordings in millivolts, float32, [B, C, T], T a multiple of 256 with the
                default number of blocks.
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.
                Padding may be on both sides; the network sees it as zeros.

        Returns:
            ``features`` float [B, L, D], the activated lane of the last block; ``padding_mask``
            bool [B, L], True where a frame has padded samples only, or None; ``sums`` float
            [B, L, D], the other lane.

        Raises:
            ValueError: If the leads or the number of samples do not fit.
        """
        x, y = self._down(source, padding_mask)[-1]
        return {**self._features(x, padding_mask), "sums": y.transpose(1, 2)}

    def pooled(self, encoded: Mapping[str, Optional[Tensor]]) -> Tensor:
        """Return the mean over the valid frames, zeros included; see the base class."""
        return mean_of_valid(encoded["features"], encoded["padding_mask"])

    def _down(self, source: Tensor, padding_mask: Optional[Tensor]) -> List[Tuple[Tensor, Tensor]]:
        """Return both lanes behind the stem and behind each block."""
        self.check_source(source)
        if source.shape[2] == 0 or source.shape[2] % self.frame_samples:
            raise ValueError(
                f"a recording has {source.shape[2]} samples, but ecg_uresnet needs a multiple of "
                f"{self.frame_samples}: give task.segment_s accordingly (4096 samples are 10.24 s "
                "at 400 Hz), and task.pad_segments=centre for recordings that are shorter"
            )
        if padding_mask is not None:
            source = source.masked_fill(of_time(padding_mask)[:, None], 0.0)
        x = self.stem_norm(self.stem(source))
        lanes = [(x, x)]
        for block in self.down:
            lanes.append(block(*lanes[-1]))
        return lanes

    def _up(self, lanes: List[Tuple[Tensor, Tensor]]) -> Tensor:
        """Decode; [B, C, T]."""
        stem, *down = lanes
        x, y = down[-1]
        if self.bottleneck is not None:
            x, y = _join(self.bottleneck(x, y), down[-1])
        for block, beside in zip(self.up, [*down[-2::-1], stem], strict=True):
            x, y = _join(block(x, y), beside)
        x = self.out1(x)
        return self.out2(functional.relu(x) if self.out_relu else x)

    def _features(self, x: Tensor, padding_mask: Optional[Tensor]) -> Dict[str, Optional[Tensor]]:
        frames = None
        if padding_mask is not None:
            frames = padded_frames(padding_mask, x.shape[2], self.frame_samples)
        return {"features": x.transpose(1, 2), "padding_mask": frames}


class TwoLaneBlock(nn.Module):
    """Two convolutions beside a shortcut; activations and their sum travel on lanes of their own.

    With x the activated lane and y that of sums::

        y' = conv2(dropout(ReLU(BN(conv1(x))))) + skip(y)
        x' = dropout(ReLU(BN(y')))

    Args:
        conv1: From the channels that come in to those that go out, length kept.
        conv2: May change the length.
        skip: Does to y what both do to x.
        channels: Channels that go out.
        dropout: Inside and at the end.
    """

    def __init__(
        self, conv1: nn.Module, conv2: nn.Module, skip: nn.Module, channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.conv1 = conv1
        self.bn1 = nn.BatchNorm1d(channels)
        self.conv2 = conv2
        self.skip = skip
        self.bn2 = nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
        """Apply the block to both lanes, float, [B, D, T]; return both, [B, D', T']."""
        inner = self.dropout(functional.relu(self.bn1(self.conv1(x))))
        y = self.conv2(inner) + self.skip(y)
        return self.dropout(functional.relu(self.bn2(y))), y


def down_block(
    in_channels: int, out_channels: int, kernel: int, stride: int, dropout: float
) -> TwoLaneBlock:
    """Return a block of the encoder, which divides the length by the stride."""
    skip = nn.Sequential()
    if stride > 1:
        skip.append(nn.MaxPool1d(stride))
    if in_channels != out_channels:
        skip.append(nn.Conv1d(in_channels, out_channels, 1, bias=False))
    padding = (kernel - stride + 1) // 2
    return TwoLaneBlock(
        _conv(in_channels, out_channels, kernel),
        nn.Conv1d(out_channels, out_channels, kernel, stride, padding, bias=False),
        skip,
        out_channels,
        dropout,
    )


def up_block(
    in_channels: int, out_channels: int, kernel: int, dropout: float, up_skip: str
) -> TwoLaneBlock:
    """Return a block of the decoder, which multiplies the length by ``STRIDE``."""
    if up_skip == "transposed":
        skip = _transposed(in_channels, out_channels, 1)
    else:
        mix = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        skip = nn.Sequential(nn.Upsample(scale_factor=STRIDE), mix)
    return TwoLaneBlock(
        _conv(in_channels, out_channels, kernel),
        _transposed(out_channels, out_channels, kernel),
        skip,
        out_channels,
        dropout,
    )


def init_he(module: nn.Module) -> None:
    """Draw the weights of convolutions as He et al. (2015) do, and set their biases to zero.

    The variance is 2 over the number of inputs that reach an output; in a transposed convolution
    these are the taps over the stride, at least one, of each channel.
    """
    for layer in module.modules():
        if not isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
            continue
        taps = layer.kernel_size[0]
        if isinstance(layer, nn.ConvTranspose1d):
            taps = max(1, taps / layer.stride[0])
        nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * taps)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _conv(in_channels: int, out_channels: int, kernel: int, bias: bool = False) -> nn.Conv1d:
    return nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)


def _transposed(in_channels: int, out_channels: int, kernel: int) -> nn.ConvTranspose1d:
    """Return a transposed convolution of L places to ``STRIDE`` * L."""
    padding = max(0, kernel - STRIDE + 1) // 2
    rest = STRIDE - kernel + 2 * padding
    return nn.ConvTranspose1d(
        in_channels, out_channels, kernel, STRIDE, padding, output_padding=rest, bias=False
    )


def _join(lanes: Tuple[Tensor, Tensor], beside: Tuple[Tensor, Tensor]) -> Tuple[Tensor, Tensor]:
    """Put the channels of two pairs of lanes on top of each other, lane by lane."""
    return torch.cat([lanes[0], beside[0]], 1), torch.cat([lanes[1], beside[1]], 1)
