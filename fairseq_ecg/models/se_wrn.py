"""Wide residual network with squeeze and excitation (SE-WRN).

Source: Han et al., 2023, "Improving generalization performance of electrocardiogram classification
models", Physiological Measurement 44, 054003 (doi:10.1088/1361-6579/acb30f); sizes and layers are
those of fairseq-signals.
Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from fairseq.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._finetuning import FinetuningConfig
from fairseq_ecg.models._residual import (
    ResidualClassifier,
    ResidualEncoder,
    ResidualEncoderConfig,
    check_supported,
    missing_tensor,
    parse_sizes,
)
from fairseq_ecg.modules.residual import (
    ResidualBlock,
    centred_conv,
    mean_over_time,
    silence,
    thin_out,
)


@dataclass
class SeWrnConfig(ResidualEncoderConfig):
    """Names and defaults of fairseq-signals."""

    num_blocks: int = field(default=3, metadata={"help": "residual blocks of each group"})
    num_filters: str = field(
        default="[16, 16, 32, 64, 128]",
        metadata={"help": "channels of the first convolution and of each group"},
    )
    widening_factor: int = field(
        default=1, metadata={"help": "multiplies the channels of the groups"}
    )
    kernel_size: int = field(default=11, metadata={"help": "kernel of every convolution, odd"})
    conv_bias: bool = field(default=False, metadata={"help": "bias in the first convolution"})
    ratio: int = field(
        default=8, metadata={"help": "channels for each channel in the middle of the excitation"}
    )
    dropout: float = field(
        default=0.3, metadata={"help": "dropout between the convolutions of a block"}
    )


@register_model("se_wrn", dataclass=SeWrnConfig)
class SeWrn(ResidualEncoder):
    """A convolution and groups of residual blocks; each group halves the rate.

    Raises:
        ValueError: If the configuration asks for something that is not supported.
    """

    config = SeWrnConfig
    keys_of_the_run = ("dropout",)

    def __init__(self, cfg: SeWrnConfig) -> None:
        super().__init__()
        self.check(cfg)
        widths = _widths(cfg)
        self.in_d, self.width = cfg.in_d, widths[-1]
        self.conv = centred_conv(cfg.in_d, widths[0], cfg.kernel_size, bias=cfg.conv_bias)
        self.bn = nn.BatchNorm1d(widths[0])
        self.groups = nn.ModuleList(
            SeWrnGroup(*pair, cfg, normed=i == 0) for i, pair in enumerate(pairwise(widths))
        )

    @classmethod
    def check(cls, cfg: SeWrnConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        check_supported(cfg, [cfg.kernel_size])
        _, *groups = _widths(cfg)
        if not groups:
            raise ValueError(f"model.num_filters is {cfg.num_filters}; it names no group")
        for width in groups:
            if width % cfg.ratio:
                raise ValueError(
                    f"model.ratio {cfg.ratio} does not divide the {width} channels of a group; "
                    "change model.ratio, model.num_filters or model.widening_factor"
                )

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read all sizes; those of a widened network come back as larger filters."""
        groups = {key.split(".")[1] for key in state if key.startswith("groups.")}
        try:
            first = state["conv.weight"]
            widths = [len(state[f"groups.{i}.layers.0.conv2.weight"]) for i in range(len(groups))]
            squeeze = state["groups.0.layers.0.fc1.weight"]
        except KeyError as error:
            raise missing_tensor("se_wrn", error) from None
        blocks = {key.split(".")[3] for key in state if key.startswith("groups.0.layers.")}
        return {
            "in_d": first.shape[1],
            "kernel_size": first.shape[2],
            "num_filters": str([first.shape[0], *widths]),
            "widening_factor": 1,
            "num_blocks": len(blocks),
            "ratio": squeeze.shape[1] // squeeze.shape[0],
            "conv_bias": "conv.bias" in state,
        }

    def convolve(self, source: Tensor, valid: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """Turn samples [B, C, T] into frames [B, D, L]; see the base class."""
        x = silence(functional.relu(self.bn(self.conv(source))), valid)
        for group in self.groups:
            x, valid = group(x, valid)
        return x, valid


class SeWrnGroup(nn.Module):
    """Residual blocks of one width, the first with stride 2.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels of every block.
        cfg: The encoder's configuration.
        normed: Whether what comes in has passed batch norm and ReLU already.
    """

    def __init__(self, in_channels: int, out_channels: int, cfg: SeWrnConfig, normed: bool) -> None:
        super().__init__()
        first = SeWrnBlock(in_channels, out_channels, 2, cfg, normed)
        others = (
            SeWrnBlock(out_channels, out_channels, 1, cfg, False) for _ in range(cfg.num_blocks - 1)
        )
        self.layers = nn.ModuleList([first, *others])

    def forward(self, x: Tensor, valid: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """Apply the blocks to [B, D, T]; return [B, D', T'] and which of them are valid."""
        for block in self.layers:
            x = block(x, valid)
            valid = thin_out(valid, block.stride)
            x = silence(x, valid)
        return x, valid


class SeWrnBlock(ResidualBlock):
    """Norm, ReLU and convolution, twice, then squeeze and excitation.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Stride of the first convolution; above 1 the shortcut is pooled.
        cfg: The encoder's configuration.
        normed: Whether what comes in has passed batch norm and ReLU already.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, cfg: SeWrnConfig, normed: bool
    ) -> None:
        super().__init__(in_channels, out_channels, stride, bias=False, pooled=stride > 1)
        self.bn1 = None if normed else nn.BatchNorm1d(in_channels)
        self.conv1 = centred_conv(in_channels, out_channels, cfg.kernel_size, stride)
        self.bn2 = nn.BatchNorm1d(out_channels)
        self.dropout = nn.Dropout(cfg.dropout)
        self.conv2 = centred_conv(out_channels, out_channels, cfg.kernel_size)
        self.fc1 = nn.Linear(out_channels, out_channels // cfg.ratio)
        self.fc2 = nn.Linear(out_channels // cfg.ratio, out_channels)

    def residual(self, x: Tensor, valid: Optional[Tensor]) -> Tensor:
        """Return what the block adds to its shortcut; see the base class."""
        if self.bn1 is not None:
            x = silence(functional.relu(self.bn1(x)), valid)
        valid = thin_out(valid, self.stride)
        x = self.dropout(functional.relu(self.bn2(self.conv1(x))))
        return self.excite(self.conv2(silence(x, valid)), valid)

    def excite(self, x: Tensor, valid: Optional[Tensor]) -> Tensor:
        """Scale each channel of x [B, D, T] by what the means of all channels say of it."""
        squeezed = functional.relu(self.fc1(mean_over_time(x, valid)))
        return x * torch.sigmoid(self.fc2(squeezed))[..., None]


@dataclass
class SeWrnClassifierConfig(FinetuningConfig, SeWrnConfig):
    """Names and defaults of fairseq-signals; sizes count only without a checkpoint."""

    final_dropout: float = field(
        default=0.3, metadata={"help": "dropout of the encoder's output before pooling"}
    )


@register_model("se_wrn_classifier", dataclass=SeWrnClassifierConfig)
class SeWrnClassifier(ResidualClassifier):
    """The encoder, batch norm, ReLU, the largest value over valid frames, and one linear layer.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        cfg: Gives ``final_dropout`` and ``freeze_finetune_updates``.
    """

    encoder_class = SeWrn

    def __init__(self, encoder: EcgEncoder, num_labels: int, cfg: SeWrnClassifierConfig) -> None:
        super().__init__(encoder, num_labels, cfg, encoder.width)
        self.bn = nn.BatchNorm1d(encoder.width)
        self.dropout = nn.Dropout(cfg.final_dropout)

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
        features, mask = encoded["features"], encoded["padding_mask"]
        x = self.dropout(functional.relu(self.bn(features.transpose(1, 2))))
        if mask is not None:
            x = x.masked_fill(mask[:, None], 0.0)  # the least that ReLU gives
        return {
            "out": self.proj(x.amax(-1)),
            "encoder_out": features.detach(),
            "padding_mask": mask,
        }


def _widths(cfg: SeWrnConfig) -> List[int]:
    """Return the channels of the first convolution and of each group."""
    stem, *groups = parse_sizes("num_filters", cfg.num_filters)
    return [stem, *(cfg.widening_factor * width for width in groups)]
