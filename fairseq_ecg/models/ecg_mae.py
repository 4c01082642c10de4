"""Masked autoencoder with multi-scale convolutions and a transformer (ECG-MAE).

Source: Yang, Lian, Zeng, 2022, "Masked Autoencoder for ECG Representation Learning", ICIST,
doi:10.1109/ICIST55546.2022.9926900; the design with visible tokens only is that of He et al., 2022,
"Masked Autoencoders Are Scalable Vision Learners", CVPR, Section 3, and the tokens of single leads
are those of Na et al., 2024, "Guiding Masked Representation Learning to Capture Spatio-Temporal
Relationship of Electrocardiogram", ICLR. What is decided here is in docs/methods/ecg_mae.md.
Shapes: B batch, C leads, T samples, N blocks, L tokens, K kept tokens, D width.
"""

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._mae_parts import (
    NORM_EPS,
    Decoder,
    Grid,
    TokenEmbedding,
    make_positions,
    run,
)
from fairseq_ecg.models._residual import missing_tensor
from fairseq_ecg.modules.blocks import samples_of_blocks
from fairseq_ecg.modules.kept_tokens import KeptTokens
from fairseq_ecg.modules.multi_scale import ACTIVATIONS, GROUPS, NORMS, MultiScaleStem, odd_kernels
from fairseq_ecg.modules.pooling import mean_of_valid
from fairseq_ecg.modules.transformer import TransformerLayer, TransformerSizes

CHOICES = {
    "tokens": ("time", "lead", "lead_time", "time_and_lead"),
    "stem_norm": NORMS,
    "stem_activation": tuple(ACTIVATIONS),
    "stem_scope": ("whole", "patch"),
    "position": ("sincos", "learned"),
    "output": ("linear", "transposed_conv"),
}


@dataclass
class EcgMaeConfig(FairseqDataclass):
    """Defaults: the preset ``mae_tiny`` (6,639,404 parameters)."""

    in_d: Optional[int] = field(
        default=12, metadata={"help": "number of leads; null: as many as the task gives"}
    )
    tokens: str = field(
        default="time",
        metadata={
            "help": "'time': a patch of all leads; 'lead_time': a patch of one lead; 'lead': a "
            "whole lead; 'time_and_lead': both, with a decoder each (task.mask_mode=time_and_lead)"
        },
    )
    patch: int = field(default=25, metadata={"help": "samples per patch, as task.mask_block"})
    window: Optional[int] = field(
        default=None,
        metadata={
            "help": "samples of a window; needed for tokens of whole leads and position=learned"
        },
    )
    multi_scale: bool = field(
        default=True, metadata={"help": "convolve before the patches; false: embed the samples"}
    )
    transformer: bool = field(
        default=True, metadata={"help": "encoder blocks; false: tokens are not mixed"}
    )

    stem_blocks: int = field(default=3, metadata={"help": "blocks of the multi-scale part"})
    stem_channels: int = field(default=128, metadata={"help": "channels of the multi-scale part"})
    stem_kernels: List[int] = field(
        default_factory=lambda: [9, 19, 39],
        metadata={"help": "widths of its convolutions, odd numbers of samples"},
    )
    stem_kernels_ms: Optional[List[float]] = field(
        default=None,
        metadata={"help": "the same in milliseconds, instead of stem_kernels; needs the rate"},
    )
    sample_rate: Optional[float] = field(
        default=None,
        metadata={"help": "rate in Hz for stem_kernels_ms; null: task.sample_rate"},
    )
    stem_norm: str = field(
        default="group", metadata={"help": "'group': norm of each recording by itself; 'batch'"}
    )
    stem_activation: str = field(default="gelu", metadata={"help": "'gelu' or 'relu'"})
    stem_scope: str = field(
        default="whole",
        metadata={"help": "'whole': convolve the recording; 'patch': each visible patch by itself"},
    )
    stem_renorm: bool = field(
        default=False,
        metadata={"help": "divide each convolution by the visible share of its taps"},
    )

    patch_norm: bool = field(
        default=False, metadata={"help": "layer norm before and after the embedding of a patch"}
    )
    position: str = field(
        default="sincos", metadata={"help": "'sincos': fixed positions of tokens; 'learned'"}
    )
    class_token: bool = field(default=True, metadata={"help": "a learned token beside the patches"})
    separators: bool = field(
        default=True,
        metadata={"help": "tokens=lead_time: a learned token at both ends of each lead"},
    )
    embed_dim: int = field(default=192, metadata={"help": "width of a token"})
    depth: int = field(default=12, metadata={"help": "number of encoder blocks"})
    heads: int = field(default=3, metadata={"help": "attention heads of the encoder"})
    mlp_ratio: float = field(
        default=4.0,
        metadata={"help": "inner width of the feed-forward blocks over that of a token"},
    )
    final_norm: bool = field(default=True, metadata={"help": "layer norm after the encoder"})
    drop_path: float = field(
        default=0.0,
        metadata={"help": "probability to leave out the last block's parts, linear over depth"},
    )

    encode_visible_only: bool = field(
        default=True,
        metadata={"help": "false: hidden patches, silenced, go through the encoder too"},
    )
    decoder: bool = field(
        default=True, metadata={"help": "false: the encoder alone, as classifiers have it"}
    )
    decoder_embed_dim: int = field(default=128, metadata={"help": "width of the decoder"})
    decoder_depth: int = field(default=2, metadata={"help": "number of decoder blocks"})
    decoder_heads: int = field(default=4, metadata={"help": "attention heads of the decoder"})
    output: str = field(
        default="linear",
        metadata={"help": "'linear': token to samples; 'transposed_conv': with a bias per lead"},
    )
    output_tanh: bool = field(
        default=False, metadata={"help": "tanh at the end, for inputs within [-1, 1]"}
    )


class _Encoded(NamedTuple):
    """What the encoder makes of its tokens, before the final norm."""

    tokens: Tensor  # [B, K, D]
    kept: Optional[KeptTokens]  # their places; None = all
    class_token: Optional[Tensor]  # [B, 1, D]
    ends: Optional[Tensor]  # separators, [B, 2 R, D]
    absent: Optional[Tensor]  # bool, [B, L], padded tokens


@register_model("ecg_mae", dataclass=EcgMaeConfig)
class EcgMae(EcgEncoder):
    """Hide, convolve, cut into patches, encode what is visible, and reconstruct the rest.

    Samples at the end of a window that make no whole patch are cut off.

    Raises:
        ValueError: If the configuration asks for something that is not supported.
    """

    evaluated_by = "ecg_pretraining"
    config = EcgMaeConfig
    marker = "embedding.proj.weight"
    pretraining_only = ("decoder.", "lead_embedding.", "lead_decoder.")
    keys_of_the_run = ("drop_path",)
    in_finetuning = MappingProxyType({"decoder": False})

    def __init__(self, cfg: EcgMaeConfig) -> None:
        super().__init__()
        self.check(cfg)
        self.in_d, self.width, self.patch = cfg.in_d, cfg.embed_dim, cfg.patch
        self.tokens, self.window = cfg.tokens, cfg.window
        self.visible_only = cfg.encode_visible_only
        self.embedding = _embedding(cfg, "time" if cfg.tokens == "time_and_lead" else cfg.tokens)
        self.class_token = None
        if cfg.class_token:
            self.class_token = nn.Parameter(torch.empty(cfg.embed_dim))
        sizes = _sizes(cfg.embed_dim, cfg.depth if cfg.transformer else 0, cfg.heads, cfg.mlp_ratio)
        self.depth = sizes.layers
        self.blocks = nn.ModuleList(
            TransformerLayer(replace(sizes, drop_path=cfg.drop_path * i / max(1, self.depth - 1)))
            for i in range(self.depth)
        )
        self.norm = nn.LayerNorm(cfg.embed_dim, eps=NORM_EPS) if cfg.final_norm else nn.Identity()
        self.decoder = self.lead_embedding = self.lead_decoder = None
        if cfg.decoder:
            self.decoder = _decoder(cfg, self.embedding.grid)
            if cfg.tokens == "time_and_lead":
                self.lead_embedding = _embedding(cfg, "lead")
                self.lead_decoder = _decoder(cfg, self.lead_embedding.grid)
        self.apply(_init_linear)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=0.02)

    @classmethod
    def build_model(cls, cfg: EcgMaeConfig, task: Any = None) -> "EcgMae":
        """Build the model; see the base class.

        Raises:
            ValueError: Also if the patch is not the block that the task hides.
        """
        block = getattr(getattr(task, "cfg", None), "mask_block", None)
        if cfg.decoder and block is not None and block != cfg.patch:
            raise ValueError(_other_block(f"task.mask_block is {block}", cfg.patch))
        take_rate(cfg, task)
        return super().build_model(cfg, task)

    @classmethod
    def check(cls, cfg: EcgMaeConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        check_choices(cfg, CHOICES)
        for key in ("patch", "embed_dim", "depth", "heads"):
            _check_positive(cfg, key)
        if not 0 <= cfg.drop_path < 1:
            raise ValueError(f"model.drop_path is {cfg.drop_path}; give a probability below 1")
        if cfg.multi_scale:
            _check_stem(cfg)
        _check_widths(cfg, "embed_dim", "heads")
        if cfg.decoder:
            for key in ("decoder_embed_dim", "decoder_depth", "decoder_heads"):
                _check_positive(cfg, key)
            _check_widths(cfg, "decoder_embed_dim", "decoder_heads")
        _check_window(cfg)

    @classmethod
    def sizes_of(cls, state: Mapping[str, Tensor]) -> Dict[str, Any]:
        """Read leads, widths and parts; the rest stands in the configuration only."""
        try:
            proj = state[cls.marker]
        except KeyError as error:
            raise missing_tensor("ecg_mae", error) from None
        blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
        leads = state.get("embedding.lead_vectors")
        sizes = {
            "in_d": proj.shape[1] if leads is None else len(leads),
            "embed_dim": len(proj),
            "class_token": "class_token" in state,
            "final_norm": "norm.weight" in state,
            "multi_scale": "embedding.stem.shortcut.weight" in state,
            "transformer": bool(blocks),
            "decoder": "decoder.norm.weight" in state,
        }
        if blocks:
            sizes["depth"] = len(blocks)
        if sizes["multi_scale"]:
            sizes.update(_stem_sizes(state))
            if leads is None:
                sizes["in_d"] = state["embedding.stem.shortcut.weight"].shape[1]
        return sizes

    @classmethod
    def fresh_values(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        """Return the configuration of a fresh encoder, which needs no decoder."""
        return {**values, "decoder": False}

    def layer_of(self, name: str) -> int:
        """Return 0 before the blocks, 1 to ``depth`` in them, one more after; as the base class."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.depth + 1 if name.startswith("norm.") else 0

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        lead_mask: Optional[Tensor] = None,
    ) -> Dict[str, Optional[Tensor]]:
        """Reconstruct recordings from what is not hidden.

        A token is hidden if all its samples are; a token that is hidden in part is encoded, its
        hidden samples being 0.

        Args:
            source: Recordings in millivolts, float32, [B, C, T]; hidden samples are set to zero
                here, before anything else sees them.
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.
            mask: bool, [B, C, N], True = the block is hidden; None = nothing is hidden.
            lead_mask: The same for the tokens of whole leads of ``tokens=time_and_lead``.

        Returns:
            ``prediction`` float [B, C, T]; with ``lead_mask`` also ``lead_prediction``;
            ``features`` float [B, K, D] and ``padding_mask`` bool [B, K] or None of the kept
            tokens; ``class_token`` float [B, D] or None.

        Raises:
            ValueError: If shapes do not fit, or there is no decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "this ecg_mae is an encoder alone, which predicts nothing; give model.decoder=true "
                "to pretrain, or use extract_features"
            )
        if (lead_mask is not None) != (self.lead_decoder is not None and mask is not None):
            raise ValueError(
                f"model.tokens={self.tokens} and the masks do not fit: model.tokens=time_and_lead "
                "goes with task.mask_mode=time_and_lead, and with nothing else"
            )
        encoded = self._normed(self._encode(self.embedding, source, padding_mask, mask))
        output = {
            "prediction": _decode(self.decoder, encoded, source.shape[-1]),
            "features": encoded.tokens,
            "padding_mask": _unused(encoded),
            "class_token": _first(encoded.class_token),
        }
        if lead_mask is not None:
            by_lead = self._encode(self.lead_embedding, source, padding_mask, lead_mask)
            by_lead = self._normed(by_lead)
            output["lead_prediction"] = _decode(self.lead_decoder, by_lead, source.shape[-1])
        return output

    def encode(
        self, source: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Optional[Tensor]]:
        """Encode recordings, hiding nothing.

        Args:
            source: Recordings in millivolts, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.
                Padding may be on both sides.

        Returns:
            ``features`` float [B, L, D], the tokens after the final norm, lead by lead where there
            are several rows; ``padding_mask`` bool [B, L], True where all samples of a token are
            padded, or None; ``class_token`` float [B, D] or None; ``mean`` float [B, D], the mean
            of the valid tokens before the final norm; ``pooled`` float [B, D], the norm of that.

        Raises:
            ValueError: If the leads do not fit or a recording is too short.
        """
        raw = self._encode(self.embedding, source, padding_mask, None)
        mean = mean_of_valid(raw.tokens, _unused(raw))
        encoded = self._normed(raw)
        features = encoded.tokens
        if encoded.kept is not None:
            features = encoded.kept.put_back(features, features.new_zeros(self.width))
        return {
            "features": features,
            "padding_mask": encoded.absent,
            "class_token": _first(encoded.class_token),
            "mean": mean,
            "pooled": self.norm(mean),
        }

    @property
    def token_rows(self) -> int:
        """Return how many rows of tokens there are; see the base class."""
        return self.embedding.grid.rows

    def pooled(self, encoded: Mapping[str, Optional[Tensor]]) -> Tensor:
        """Return the mean over the valid tokens, zeros included; see the base class."""
        return mean_of_valid(encoded["features"], encoded["padding_mask"])

    def _encode(
        self,
        embedding: TokenEmbedding,
        source: Tensor,
        padding_mask: Optional[Tensor],
        mask: Optional[Tensor],
    ) -> _Encoded:
        """Hide, embed and encode; the tokens that are hidden or padded go no further than here."""
        source, present, visible = self._prepared(embedding.grid, source, padding_mask, mask)
        absent = None if present is None else embedding.grid.of_samples(~present)
        kept = None if absent is None else ~absent
        if visible is not None and self.visible_only:
            gone = ~visible if present is None else ~(visible & present)
            kept = ~embedding.grid.of_samples(gone)
        chosen = None if kept is None else KeptTokens.of(kept)
        tokens = embedding(source, chosen, present, visible)
        n_tokens = source.shape[-1] // embedding.grid.patch
        parts = [tokens]
        ends = embedding.ends(tokens.shape[0], n_tokens)
        if ends is not None:
            parts.insert(0, ends)
        if self.class_token is not None:
            parts.insert(0, self.class_token.expand(tokens.shape[0], 1, -1))
        sizes = [part.shape[1] for part in parts]
        attended = None
        if chosen is not None and chosen.valid is not None:
            attended = functional.pad(chosen.valid, (sum(sizes[:-1]), 0), value=True)
        *others, tokens = run(self.blocks, torch.cat(parts, 1), attended).split(sizes, 1)
        if ends is not None:
            ends = others.pop()
        return _Encoded(tokens, chosen, others[0] if others else None, ends, absent)

    def _prepared(
        self, grid: Grid, source: Tensor, padding_mask: Optional[Tensor], mask: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """Cut to whole patches and silence what is hidden or padded.

        Returns:
            Recordings [B, C, T']; which of their samples are not padded, and which are not hidden,
            bool [B, C, T'] or None each.
        """
        self.check_source(source)
        n_samples = source.shape[-1]
        if n_samples < self.patch:
            raise ValueError(
                f"a recording has {n_samples} samples, fewer than one patch (model.patch "
                f"{self.patch}); give longer windows (task.segment_s) or leave such recordings "
                "out (task.min_sample_size)"
            )
        if mask is not None and mask.shape != (*source.shape[:2], n_samples // self.patch):
            raise ValueError(
                _other_block(
                    f"the mask {list(mask.shape)} of recordings {list(source.shape)} has other "
                    "blocks",
                    self.patch,
                )
            )
        whole = n_samples // self.patch * self.patch
        source = source[..., :whole]
        present = visible = None
        if padding_mask is not None:
            if padding_mask.dim() == 2:
                padding_mask = padding_mask[:, None]
            present = ~padding_mask[..., :whole].expand_as(source)
            source = source.masked_fill(~present, 0.0)
        if mask is not None:
            visible = ~samples_of_blocks(mask, whole)
            source = source.masked_fill(~visible, 0.0)
        if grid.patch == self.patch:
            return source, present, visible
        return self._lengthened(grid.patch, source, present, visible)

    def _lengthened(
        self, n_samples: int, source: Tensor, present: Optional[Tensor], visible: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """Pad recordings to the length of a token that is a whole lead."""
        missing = n_samples - source.shape[-1]
        if missing < 0:
            raise ValueError(
                f"a recording has {source.shape[-1]} samples in whole patches, but a token of a "
                f"whole lead has {n_samples} (model.window); give shorter windows with "
                "task.segment_s"
            )
        if missing == 0:
            return source, present, visible
        if present is None:
            present = torch.ones_like(source, dtype=torch.bool)
        if visible is not None:
            visible = functional.pad(visible, (0, missing), value=True)
        source = functional.pad(source, (0, missing))
        return source, functional.pad(present, (0, missing), value=False), visible

    def _normed(self, encoded: _Encoded) -> _Encoded:
        """Apply the final norm to all that was encoded."""
        parts = {name: getattr(encoded, name) for name in ("tokens", "class_token", "ends")}
        return encoded._replace(
            **{name: self.norm(part) for name, part in parts.items() if part is not None}
        )


def check_choices(cfg: FairseqDataclass, choices: Mapping[str, Tuple[str, ...]]) -> None:
    """Refuse words that a key does not know.

    Raises:
        ValueError: Naming the key, its value and what it knows.
    """
    for key, known in choices.items():
        if getattr(cfg, key) not in known:
            raise ValueError(f"model.{key} is {getattr(cfg, key)!r}; give {' or '.join(known)}")


def take_rate(cfg: EcgMaeConfig, task: Any) -> None:
    """Let the task say the rate of the recordings where the model needs it and is not told.

    Raises:
        ValueError: If both say it and differ.
    """
    rate_hz = getattr(getattr(task, "cfg", None), "sample_rate", None)
    if cfg.stem_kernels_ms is None or rate_hz is None:
        return
    if cfg.sample_rate is not None and cfg.sample_rate != rate_hz:
        raise ValueError(
            f"model.sample_rate is {cfg.sample_rate:g}, but task.sample_rate is {rate_hz:g}; give "
            "model.sample_rate=null to take the task's"
        )
    cfg.sample_rate = rate_hz


def _embedding(cfg: EcgMaeConfig, tokens: str) -> TokenEmbedding:
    grid = Grid(
        leads=cfg.in_d,
        patch=cfg.window if tokens == "lead" else cfg.patch,
        by_lead=tokens != "time",
        joint=tokens != "lead_time",
    )
    stem = None
    if cfg.multi_scale and tokens != "lead":
        stem = MultiScaleStem(
            grid.leads // grid.rows,
            cfg.stem_channels,
            _kernels(cfg),
            cfg.stem_blocks,
            cfg.stem_norm,
            cfg.stem_activation,
        )
    return TokenEmbedding(
        grid,
        cfg.embed_dim,
        _positions(cfg, cfg.embed_dim, 1 if tokens == "lead" else None),
        stem,
        cfg.stem_scope == "patch",
        cfg.stem_renorm,
        cfg.patch_norm,
        cfg.separators and tokens == "lead_time",
    )


def _decoder(cfg: EcgMaeConfig, grid: Grid) -> Decoder:
    width = cfg.decoder_embed_dim
    return Decoder(
        grid,
        cfg.embed_dim,
        _sizes(width, cfg.decoder_depth, cfg.decoder_heads, cfg.mlp_ratio),
        _positions(cfg, width, cfg.in_d if grid.patch != cfg.patch else None),
        mask_token=cfg.encode_visible_only,
        transposed=cfg.output == "transposed_conv",
        bounded=cfg.output_tanh,
    )


def _positions(cfg: EcgMaeConfig, width: int, count: Optional[int]) -> nn.Module:
    """Return the positions of ``count`` tokens; None: of the patches of a window."""
    if count is None and cfg.window is not None:
        count = cfg.window // cfg.patch
    return make_positions(cfg.position, width, count)


def _sizes(width: int, depth: int, heads: int, mlp_ratio: float) -> TransformerSizes:
    return TransformerSizes(
        layers=depth,
        width=width,
        ffn_width=round(width * mlp_ratio),
        heads=heads,
        pre_norm=True,
        dropout=0.0,
        attention_dropout=0.0,
        norm_eps=NORM_EPS,
    )


def _decode(decoder: Decoder, encoded: _Encoded, n_samples: int) -> Tensor:
    """Reconstruct [B, C, T]; samples that belong to no patch are 0."""
    prediction = decoder(*encoded)
    return functional.pad(prediction, (0, n_samples - prediction.shape[-1]))


def _first(tokens: Optional[Tensor]) -> Optional[Tensor]:
    """Return the only token of [B, 1, D], or None."""
    return None if tokens is None else tokens[:, 0]


def _unused(encoded: _Encoded) -> Optional[Tensor]:
    """Return which of the encoded tokens only fill up their row, bool [B, K], or None."""
    if encoded.kept is None or encoded.kept.valid is None:
        return None
    return ~encoded.kept.valid


def _kernels(cfg: EcgMaeConfig) -> List[int]:
    if cfg.stem_kernels_ms is None:
        return list(cfg.stem_kernels)
    if cfg.sample_rate is None:
        raise ValueError(
            "model.stem_kernels_ms needs the rate of the recordings; give model.sample_rate, or "
            "task.sample_rate in pretraining"
        )
    return odd_kernels(cfg.stem_kernels_ms, cfg.sample_rate)


def _stem_sizes(state: Mapping[str, Tensor]) -> Dict[str, Any]:
    stem = "embedding.stem.blocks."
    convs = [key for key in state if key.startswith(f"{stem}0.convs.")]
    return {
        "stem_blocks": len({key[len(stem) :].split(".")[0] for key in state if stem in key}),
        "stem_channels": len(state["embedding.stem.shortcut.weight"]),
        "stem_kernels": [
            state[f"{stem}0.convs.{number}.weight"].shape[2] for number in range(len(convs))
        ],
        "stem_kernels_ms": None,
    }


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


# --- refusals -------------------------------------------------------------------------------------


def _other_block(what: str, patch: int) -> str:
    return (
        f"{what}, but model.patch is {patch}: a hidden block must be a patch; give "
        f"task.mask_block={patch}, or model.patch as long as the block"
    )


def _check_positive(cfg: EcgMaeConfig, key: str) -> None:
    if getattr(cfg, key) < 1:
        raise ValueError(f"model.{key} is {getattr(cfg, key)}; give 1 or more")


def _check_widths(cfg: EcgMaeConfig, width: str, heads: str) -> None:
    if getattr(cfg, width) % getattr(cfg, heads):
        raise ValueError(
            f"model.{width} ({getattr(cfg, width)}) must be a multiple of model.{heads} "
            f"({getattr(cfg, heads)})"
        )
    if cfg.position == "sincos" and getattr(cfg, width) % 2:
        raise ValueError(
            f"model.{width} is {getattr(cfg, width)}; position=sincos needs an even one"
        )


def _check_stem(cfg: EcgMaeConfig) -> None:
    key = "stem_kernels" if cfg.stem_kernels_ms is None else "stem_kernels_ms"
    given = list(getattr(cfg, key))
    if not given or min(given) <= 0:
        raise ValueError(f"model.{key} is {given}; give one width above 0 or more")
    even = [k for k in given if k % 2 == 0] if key == "stem_kernels" else []
    if even:
        raise ValueError(f"model.stem_kernels is {given}; {even[0]} is not odd")
    _check_positive(cfg, "stem_blocks")
    branches = len(given) + 1
    groups = GROUPS if cfg.stem_norm == "group" else 1
    if cfg.stem_channels < 1 or cfg.stem_channels % branches or cfg.stem_channels % groups:
        raise ValueError(
            f"model.stem_channels is {cfg.stem_channels}; give a multiple of the {branches} "
            f"branches (model.{key} and one more)"
            + (f" and of the {GROUPS} groups of stem_norm=group" if groups > 1 else "")
        )
    if cfg.tokens == "lead":
        raise ValueError(
            "model.multi_scale is true, but with model.tokens=lead a token is a whole lead, which "
            "is embedded as it is; give model.multi_scale=false"
        )


def _check_window(cfg: EcgMaeConfig) -> None:
    needed = (
        cfg.position == "learned"
        or cfg.tokens == "lead"
        or (cfg.tokens == "time_and_lead" and cfg.decoder)
    )
    if cfg.window is None and needed:
        raise ValueError(
            "model.window is not set; tokens of whole leads and model.position=learned need the "
            "number of samples of a window, task.segment_s times the rate"
        )
    if cfg.window is not None and cfg.window < cfg.patch:
        raise ValueError(
            f"model.patch is {cfg.patch} samples, longer than the window of {cfg.window} "
            "(model.window)"
        )
