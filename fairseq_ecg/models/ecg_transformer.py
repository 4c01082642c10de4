"""Transformer over convolutional features of all leads (Oh et al., 2022, PMLR 174, Section 3.1).

The encoder of every wav2vec-style method here, and by itself the model of CMSC, SimCLR and 3KG.
Shapes: B batch, C leads, T samples, L frames, E channels of the convolutions, D width.
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Dict, Mapping, Optional

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model
from fairseq.modules import GradMultiply
from torch import Tensor, nn

from fairseq_ecg.checkpoint import CheckpointError
from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.modules.conv_features import ConvFeatures
from fairseq_ecg.modules.layer_spec import parse_layers
from fairseq_ecg.modules.masking import sample_fixed_mask, sample_span_mask
from fairseq_ecg.modules.padding import FramePadding, frame_padding
from fairseq_ecg.modules.positional_conv import PositionalConv
from fairseq_ecg.modules.transformer import TransformerEncoder, TransformerSizes

logger = logging.getLogger(__name__)

_MASKS = {"poorest": sample_span_mask, "fixed": sample_fixed_mask}


@dataclass
class EcgTransformerConfig(FairseqDataclass):
    """Defaults: the base size of Oh et al., 2022 (90,373,248 parameters)."""

    all_gather: bool = field(
        default=False,
        metadata={"help": "accepted for old presets; the criterion's key of this name decides"},
    )
    normalize: Optional[bool] = field(
        default=None, metadata={"help": "accepted for old presets; task.normalize decides"}
    )
    filter: Optional[bool] = field(
        default=None, metadata={"help": "accepted for old presets; task.filter decides"}
    )
    data: Optional[str] = field(
        default=None, metadata={"help": "accepted for old presets; task.data decides"}
    )
    args: Any = field(default=None, metadata={"help": "accepted for old presets; unused"})
    angle: Optional[float] = field(
        default=None, metadata={"help": "accepted for old presets of 3KG; task.angle decides"}
    )
    scale: Optional[float] = field(
        default=None, metadata={"help": "accepted for old presets of 3KG; task.scale decides"}
    )
    mask_ratio: Optional[float] = field(
        default=None, metadata={"help": "accepted for old presets of 3KG; task.mask_ratio decides"}
    )

    encoder_layers: int = field(default=12, metadata={"help": "number of transformer layers"})
    encoder_embed_dim: int = field(default=768, metadata={"help": "width of a frame"})
    encoder_ffn_embed_dim: int = field(
        default=3072, metadata={"help": "inner width of the feed-forward blocks"}
    )
    encoder_attention_heads: int = field(default=12, metadata={"help": "attention heads"})
    layer_norm_first: bool = field(
        default=False, metadata={"help": "layer norm before each block instead of after it"}
    )
    layer_norm_eps: float = field(
        default=1e-05,
        metadata={"help": "epsilon of the norms in the layers; 1e-06 in fairseq-signals of 2022"},
    )
    saliency: bool = field(
        default=False, metadata={"help": "also return the attention weights of every layer"}
    )

    dropout: float = field(default=0.1, metadata={"help": "dropout inside the transformer"})
    attention_dropout: float = field(
        default=0.1, metadata={"help": "dropout of the attention weights"}
    )
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout after the activation of the feed-forward blocks"}
    )
    encoder_layerdrop: float = field(
        default=0.0, metadata={"help": "probability to leave out a layer in training"}
    )
    dropout_input: float = field(
        default=0.0, metadata={"help": "dropout of the frames before masking"}
    )
    dropout_features: float = field(
        default=0.0, metadata={"help": "dropout of the frames that become contrastive targets"}
    )

    apply_mask: bool = field(default=False, metadata={"help": "mask spans of frames"})
    mask_length: int = field(default=10, metadata={"help": "frames per masked span"})
    mask_prob: float = field(
        default=0.0, metadata={"help": "share of frames masked if no spans overlapped"}
    )
    mask_count: str = field(
        default="poorest",
        metadata={
            "help": "'poorest': spans may overlap, each row is cut to the poorest row of the "
            "batch; 'fixed': mask_prob of the frames, in whole spans, in any batch"
        },
    )
    mask_selection: str = field(
        default="static", metadata={"help": "how span lengths are drawn; only 'static' is known"}
    )
    mask_other: float = field(
        default=0.0, metadata={"help": "second parameter of other selections; unused"}
    )
    no_mask_overlap: bool = field(
        default=False, metadata={"help": "forbid overlapping spans; not supported"}
    )
    mask_min_space: int = field(
        default=1, metadata={"help": "frames between spans without overlap; unused"}
    )
    mask_channel_length: int = field(default=10, metadata={"help": "channels per masked span"})
    mask_channel_prob: float = field(
        default=0.0, metadata={"help": "share of channels set to zero in all frames"}
    )
    mask_channel_selection: str = field(
        default="static", metadata={"help": "as mask_selection, for channels"}
    )
    mask_channel_other: float = field(
        default=0.0, metadata={"help": "as mask_other, for channels; unused"}
    )
    no_mask_channel_overlap: bool = field(
        default=False, metadata={"help": "forbid overlapping channel spans; not supported"}
    )
    mask_channel_min_space: int = field(
        default=1, metadata={"help": "as mask_min_space, for channels; unused"}
    )

    extractor_mode: str = field(
        default="default",
        metadata={"help": "'default': group norm in the first block; 'layer_norm': in every block"},
    )
    conv_feature_layers: str = field(
        default="[(256, 2, 2)] * 4",
        metadata={"help": "convolution blocks, as lists of (channels, kernel, stride)"},
    )
    in_d: Optional[int] = field(
        default=12, metadata={"help": "number of leads; null: as many as the task gives"}
    )
    conv_bias: bool = field(default=False, metadata={"help": "bias in the convolutions"})
    feature_grad_mult: float = field(
        default=1.0, metadata={"help": "factor on gradients into the convolutions; 0 freezes them"}
    )
    conv_pos: int = field(default=128, metadata={"help": "kernel of the positional convolution"})
    conv_pos_groups: int = field(
        default=16, metadata={"help": "groups of the positional convolution"}
    )


@register_model("ecg_transformer", dataclass=EcgTransformerConfig)
class EcgTransformer(EcgEncoder):
    """Convolutional features, positional convolution and transformer encoder.

    Raises:
        ValueError: If the configuration asks for something that is not supported.
    """

    config = EcgTransformerConfig
    marker = "feature_extractor.conv_layers.0.0.weight"
    pretraining_only = ("mask_emb", "quantizer.", "project_q.", "target_glu.", "final_proj.")
    keys_of_the_run = (
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "encoder_layerdrop",
        "dropout_input",
        "feature_grad_mult",
        "saliency",
    )
    in_finetuning = MappingProxyType({"apply_mask": False, "all_gather": False})

    def __init__(self, cfg: EcgTransformerConfig) -> None:
        super().__init__()
        self.check(cfg)
        layers = parse_layers(cfg.conv_feature_layers)
        conv_width, width = layers[-1][0], cfg.encoder_embed_dim
        self.in_d, self.width = cfg.in_d, width
        self.depth, self.pre_norm = cfg.encoder_layers, cfg.layer_norm_first
        self.saliency = cfg.saliency
        self.feature_grad_mult = float(cfg.feature_grad_mult)
        self.mask_prob = float(cfg.mask_prob) if cfg.apply_mask else 0.0
        self.mask_length = cfg.mask_length
        self.sample_mask = _MASKS[cfg.mask_count]
        self.mask_channel_prob = float(cfg.mask_channel_prob) if cfg.apply_mask else 0.0
        self.mask_channel_length = cfg.mask_channel_length

        self.feature_extractor = ConvFeatures(layers, cfg.in_d, cfg.extractor_mode, cfg.conv_bias)
        self.layer_norm = nn.LayerNorm(conv_width)
        self.post_extract_proj = nn.Linear(conv_width, width) if conv_width != width else None
        self.dropout_input = nn.Dropout(cfg.dropout_input)
        self.mask_emb = nn.Parameter(torch.empty(width).uniform_()) if cfg.apply_mask else None
        self.conv_pos = PositionalConv(width, cfg.conv_pos, cfg.conv_pos_groups)
        self.encoder = TransformerEncoder(_transformer_sizes(cfg))
        if self.feature_grad_mult == 0:
            self.feature_extractor.requires_grad_(False)

    @classmethod
    def check(cls, cfg: EcgTransformerConfig) -> None:
        """Refuse a configuration that cannot work, before anything is built.

        Raises:
            ValueError: Naming the key, its value and the way out.
        """
        check_supported(cfg)
        parse_layers(cfg.conv_feature_layers)

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read the sizes; heads and strides leave no trace in the tensors. See the base class."""
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

    @classmethod
    def fresh_values(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        """Return the configuration of a fresh encoder, whose convolutions are never frozen."""
        if values["feature_grad_mult"] == 0:
            logger.warning(
                "model.feature_grad_mult is 0, but no checkpoint is loaded: random convolutions "
                "would stay as they are. They are trained with factor 1; set "
                "model.feature_grad_mult, or model.model_path"
            )
            values = {**values, "feature_grad_mult": 1.0}
        return values

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Complete a checkpoint's configuration by the number of leads; see the base class."""
        first_conv = state.get(cls.marker)
        return {**model_cfg, **({} if first_conv is None else {"in_d": first_conv.shape[1]})}

    def layer_of(self, name: str) -> int:
        """Return 0 before the transformer, 1 to ``depth`` for its layers; see the base class."""
        if name.startswith("encoder.layers."):
            return int(name.split(".")[2]) + 1
        after = self.pre_norm and name.startswith("encoder.layer_norm.")
        return self.depth + 1 if after else 0

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings, with masked spans if ``apply_mask`` is set.

        Args:
            source: Recordings in millivolts, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.

        Returns:
            ``features`` float [B, L, D], ``padding_mask`` bool [B, L] or None, and with
            ``model.saliency`` also ``saliency`` float [B, layers, L, L].

        Raises:
            ValueError: If the leads do not fit or a recording is shorter than one frame.
        """
        frames, padding = self.local_features(self.convolve(source), padding_mask)
        x = self.project(frames)
        if self.mask_prob > 0:
            x = self.hide(x, self.draw_mask(x, padding).to(x.device))
        return self._encoded(self.hide_channels(x), padding)

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Do what ``forward`` does, never masking; see the base class."""
        frames, padding = self.local_features(self.convolve(source), padding_mask)
        return self._encoded(self.project(frames), padding)

    def convolve(self, source: Tensor) -> Tensor:
        """Turn samples [B, C, T] into features [B, E, L]; gradients are scaled on the way back."""
        frozen = self.feature_grad_mult == 0
        with torch.no_grad() if frozen else nullcontext():
            features = self.feature_extractor(source)
        if features.requires_grad and self.feature_grad_mult != 1:
            features = GradMultiply.apply(features, self.feature_grad_mult)
        return features

    def local_features(
        self, features: Tensor, padding_mask: Optional[Tensor]
    ) -> tuple[Tensor, Optional[FramePadding]]:
        """Normalise features [B, E, L] to frames [B, L, E] and find the padded ones."""
        frames = self.layer_norm(features.transpose(1, 2))
        output_length = self.feature_extractor.output_length
        return frames, frame_padding(padding_mask, frames.shape[1], output_length)

    def project(self, frames: Tensor) -> Tensor:
        """Bring frames [B, L, E] to the encoder's width [B, L, D]."""
        if self.post_extract_proj is not None:
            frames = self.post_extract_proj(frames)
        return self.dropout_input(frames)

    def draw_mask(self, x: Tensor, padding: Optional[FramePadding]) -> Tensor:
        """Draw which frames to mask; bool, [B, L], on the CPU, equally many True per row."""
        lengths = None if padding is None else padding.lengths
        return self.sample_mask(x.shape[0], x.shape[1], self.mask_prob, self.mask_length, lengths)

    def hide(self, x: Tensor, mask: Tensor) -> Tensor:
        """Replace the masked frames of x [B, L, D] by one learned vector; mask is bool [B, L]."""
        return torch.where(mask[..., None], self.mask_emb.to(x.dtype), x)

    def hide_channels(self, x: Tensor) -> Tensor:
        """Set spans of channels of x [B, L, D] to zero in all frames, if asked for."""
        if self.mask_channel_prob == 0:
            return x
        channels = sample_span_mask(
            x.shape[0], x.shape[2], self.mask_channel_prob, self.mask_channel_length, min_spans=0
        )
        return x.masked_fill(channels[:, None].to(x.device), 0.0)

    def contextualise(self, x: Tensor, padding: Optional[FramePadding]) -> Tensor:
        """Add positions and run the encoder; float, [B, L, D] to [B, L, D].

        The positional convolution sees padded frames as they are; they become zero after it. This
        is the reference's order, unlike that of fairseq's wav2vec 2.0.
        """
        return self.encoder(x + self.conv_pos(x), None if padding is None else padding.mask)

    def _encoded(self, x: Tensor, padding: Optional[FramePadding]) -> Dict[str, Optional[Tensor]]:
        mask = None if padding is None else padding.mask
        encoded = {"features": self.contextualise(x, padding), "padding_mask": mask}
        if self.saliency:
            with torch.no_grad():
                encoded["saliency"] = self.encoder.attention_weights(x + self.conv_pos(x), mask)
        return encoded


def check_supported(cfg: EcgTransformerConfig) -> None:
    """Refuse options that the reference names but that do not work there or here.

    Raises:
        ValueError: Naming the first such option, its value and the way out.
    """
    for name in ("mask_selection", "mask_channel_selection"):
        if getattr(cfg, name) != "static":
            raise ValueError(f"model.{name} is {getattr(cfg, name)!r}; only 'static' is supported")
    if cfg.mask_count not in _MASKS:
        raise ValueError(f"model.mask_count is {cfg.mask_count!r}; give {' or '.join(_MASKS)}")
    for name in ("no_mask_overlap", "no_mask_channel_overlap"):
        if getattr(cfg, name):
            raise ValueError(f"model.{name} is not supported (it fails in the reference); leave it")
    if cfg.feature_grad_mult < 0:
        raise ValueError(f"model.feature_grad_mult is {cfg.feature_grad_mult}; give 0 or more")
    if cfg.apply_mask and not 0 < cfg.mask_prob <= 1:
        raise ValueError(
            f"model.apply_mask is set, but model.mask_prob is {cfg.mask_prob}; give a share in "
            "(0, 1], e.g. 0.65"
        )


def _transformer_sizes(cfg: EcgTransformerConfig) -> TransformerSizes:
    return TransformerSizes(
        layers=cfg.encoder_layers,
        width=cfg.encoder_embed_dim,
        ffn_width=cfg.encoder_ffn_embed_dim,
        heads=cfg.encoder_attention_heads,
        pre_norm=cfg.layer_norm_first,
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
        layerdrop=cfg.encoder_layerdrop,
        norm_eps=cfg.layer_norm_eps,
    )
