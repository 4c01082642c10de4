"""The residual network that won the PhysioNet/CinC Challenge 2021, without its ensemble.

Source: Nejedly et al., 2021, "Classification of ECG Using Ensemble of Residual CNNs with Attention
Mechanism", Computing in Cardiology 48; Section 2. Sizes and layers are those of fairseq-signals.
Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

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
from fairseq_ecg.modules.pooling import mean_of_nonzero
from fairseq_ecg.modules.residual import ResidualBlock, centred_conv, silence, thin_out

ATTENTION_HEADS = 8


@dataclass
class Nejedly2021ResnetConfig(ResidualEncoderConfig):
    """Names and defaults of fairseq-signals."""

    num_blocks: int = field(default=5, metadata={"help": "number of residual blocks"})
    num_filters: int = field(default=256, metadata={"help": "channels of every convolution"})
    kernel_size: str = field(
        default="[15, 9]",
        metadata={"help": "kernels of the first convolution and of all others, odd"},
    )
    stride: int = field(
        default=2, metadata={"help": "stride of the first convolution and of each block"}
    )
    conv_bias: bool = field(default=False, metadata={"help": "bias in the convolutions"})


@register_model("nejedly2021resnet", dataclass=Nejedly2021ResnetConfig)
class Nejedly2021Resnet(ResidualEncoder):
    """A strided convolution and strided residual blocks, all of one width.

    Raises:
        ValueError: If the configuration asks for something that is not supported.
    """

    config = Nejedly2021ResnetConfig

    def __init__(self, cfg: Nejedly2021ResnetConfig) -> None:
        super().__init__()
        self.check(cfg)
        kernels = parse_sizes("kernel_size", cfg.kernel_size)
        width, stride, bias = cfg.num_filters, cfg.stride, cfg.conv_bias
        self.in_d, self.width, self.stride = cfg.in_d, width, stride
        self.conv = centred_conv(cfg.in_d, width, kernels[0], stride, bias)
        self.bn = nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList(
            Nejedly2021Block(width, kernels[1], stride, bias) for _ in range(cfg.num_blocks)
        )

    @classmethod
    def check(cls, cfg: Nejedly2021ResnetConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        kernels = parse_sizes("kernel_size", cfg.kernel_size)
        if len(kernels) != 2:
            raise ValueError(f"model.kernel_size is {cfg.kernel_size}; two kernels are expected")
        check_supported(cfg, kernels)

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read all sizes but the stride, which leaves no trace in the tensors."""
        try:
            first, inner = state["conv.weight"], state["blocks.0.conv1.weight"]
        except KeyError as error:
            raise missing_tensor("nejedly2021resnet", error) from None
        return {
            "num_filters": first.shape[0],
            "in_d": first.shape[1],
            "kernel_size": str([first.shape[2], inner.shape[2]]),
            "num_blocks": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
            "conv_bias": "conv.bias" in state,
        }

    def convolve(self, source: Tensor, valid: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """Turn samples [B, C, T] into frames [B, D, L]; see the base class."""
        valid = thin_out(valid, self.stride)
        x = silence(functional.leaky_relu(self.bn(self.conv(source))), valid)
        for block in self.blocks:
            x = block(x, valid)
            valid = thin_out(valid, self.stride)
            x = silence(x, valid)
        return x, valid


class Nejedly2021Block(ResidualBlock):
    """Two convolutions, each with batch norm and leaky ReLU, beside a pooled shortcut.

    Args:
        width: Channels D, in and out.
        kernel: Size of both kernels, odd.
        stride: Stride of the first convolution.
        bias: Whether the convolutions have a bias.
    """

    def __init__(self, width: int, kernel: int, stride: int, bias: bool) -> None:
        super().__init__(width, width, stride, bias, pooled=True)
        self.conv1 = centred_conv(width, width, kernel, stride, bias)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = centred_conv(width, width, kernel, bias=bias)
        self.bn2 = nn.BatchNorm1d(width)

    def residual(self, x: Tensor, valid: Optional[Tensor]) -> Tensor:
        """Return what the block adds to its shortcut; see the base class."""
        x = functional.leaky_relu(self.bn1(self.conv1(x)))
        x = silence(x, thin_out(valid, self.stride))
        return functional.leaky_relu(self.bn2(self.conv2(x)))


@dataclass
class Nejedly2021ResnetClassifierConfig(FinetuningConfig, Nejedly2021ResnetConfig):
    """Names and defaults of fairseq-signals; sizes count only without a checkpoint."""

    final_dropout: float = field(
        default=0.5, metadata={"help": "dropout of the encoder's output before attention"}
    )
    indicate_leads: bool = field(
        default=False,
        metadata={"help": "tell the last layer which leads are present, one bit each"},
    )
    use_mha: bool = field(
        default=False, metadata={"help": "8-head attention between the frames before pooling"}
    )


@register_model("nejedly2021resnet_classifier", dataclass=Nejedly2021ResnetClassifierConfig)
class Nejedly2021ResnetClassifier(ResidualClassifier):
    """The encoder, attention if asked for, the mean over valid frames, and one linear layer.

    Args:
        encoder: The encoder.
        num_labels: Number of classes K.
        cfg: Gives ``final_dropout``, ``indicate_leads``, ``use_mha``, ``freeze_finetune_updates``.

    Raises:
        ValueError: If attention is asked for and its heads do not divide the width.
    """

    encoder_class = Nejedly2021Resnet

    def __init__(
        self,
        encoder: EcgEncoder,
        num_labels: int,
        cfg: Nejedly2021ResnetClassifierConfig,
    ) -> None:
        bits = encoder.in_d if cfg.indicate_leads else 0
        super().__init__(encoder, num_labels, cfg, encoder.width + bits)
        self.indicate_leads = cfg.indicate_leads
        self.final_dropout = nn.Dropout(cfg.final_dropout)
        self.mha = None
        if cfg.use_mha:
            _check_heads(encoder.width)
            self.mha = nn.MultiheadAttention(encoder.width, ATTENTION_HEADS, batch_first=True)

    @classmethod
    def check(cls, cfg: Nejedly2021ResnetClassifierConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        super().check(cfg)
        if cfg.use_mha:
            _check_heads(cfg.num_filters)

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Make the configuration independent of other files; see the base class."""
        config = super().config_from_checkpoint(model_cfg, state)
        encoder = config["encoder_config"]
        if "proj.weight" in state and encoder["_name"] == "nejedly2021resnet":
            config["indicate_leads"] = state["proj.weight"].shape[1] != encoder["num_filters"]
        return {**config, "use_mha": "mha.in_proj_weight" in state}

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Classify recordings.

        Args:
            source: Recordings in millivolts, float32, [B, C, T]; a lead of zeros is absent.
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``out`` logits, float, [B, K]; ``encoder_out`` float [B, L, D]; ``padding_mask`` bool
            [B, L] or None.
        """
        encoded = self.encode(source, padding_mask)
        features, mask = encoded["features"], encoded["padding_mask"]
        x = self.final_dropout(features)
        if self.mha is not None:
            x, _ = self.mha(x, x, x, key_padding_mask=mask, need_weights=False)
        x = mean_of_nonzero(x, mask)
        if self.indicate_leads:
            x = torch.cat([x, leads_present(source).to(x.dtype)], dim=1)
        return {"out": self.proj(x), "encoder_out": features.detach(), "padding_mask": mask}


def _check_heads(width: int) -> None:
    if width % ATTENTION_HEADS:
        raise ValueError(
            f"model.use_mha needs a multiple of {ATTENTION_HEADS} channels, but "
            f"model.num_filters is {width}; give {ATTENTION_HEADS}, 16, ..., 256"
        )


def leads_present(source: Tensor) -> Tensor:
    """Tell which leads of a recording hold any signal.

    A recorded lead crosses zero now and then, so one sample that is not zero is enough.

    Args:
        source: [B, C, T].

    Returns:
        bool, [B, C].
    """
    return (source != 0).any(dim=-1)
