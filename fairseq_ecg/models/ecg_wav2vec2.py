"""wav2vec 2.0 on electrocardiograms (Oh et al., 2022, PMLR 174; Baevski et al., 2020).

Shapes: B batch, C leads, T samples, L frames, M masked frames per row, N negatives,
E channels of the convolutions, D width.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

import torch
from fairseq.models import register_model
from torch import Tensor, nn

from fairseq_ecg.models.ecg_transformer import EcgTransformer, EcgTransformerConfig
from fairseq_ecg.modules.masking import masked_positions
from fairseq_ecg.modules.negatives import local_negatives, sample_negatives
from fairseq_ecg.modules.quantizer import GumbelQuantizer, Quantized
from fairseq_ecg.modules.similarity import contrastive_logits


@dataclass
class EcgWav2Vec2Config(EcgTransformerConfig):
    """Defaults: the reference's; a preset sets apply_mask, mask_prob, final_dim and more."""

    logit_temp: float = field(default=0.1, metadata={"help": "divisor of the cosine similarities"})
    quantize_targets: bool = field(default=False, metadata={"help": "quantise the targets"})
    quantize_input: bool = field(
        default=False, metadata={"help": "quantise the encoder's input; not supported"}
    )
    same_quantizer: bool = field(
        default=False, metadata={"help": "one quantizer for input and targets; not supported"}
    )
    target_glu: bool = field(default=False, metadata={"help": "gated linear unit on the targets"})
    latent_vars: int = field(default=320, metadata={"help": "codes per group of the quantizer"})
    latent_groups: int = field(default=2, metadata={"help": "groups of the quantizer"})
    latent_dim: int = field(
        default=0, metadata={"help": "width of quantised targets; 0 = final_dim"}
    )
    final_dim: int = field(
        default=0, metadata={"help": "width in which predictions and targets are compared"}
    )
    num_negatives: int = field(default=100, metadata={"help": "distractors per masked frame"})
    negatives_from_everywhere: bool = field(
        default=False, metadata={"help": "distractors from unmasked frames too; not supported"}
    )
    cross_sample_negatives: int = field(
        default=0, metadata={"help": "distractors from other recordings; not supported"}
    )
    codebook_negatives: int = field(
        default=0, metadata={"help": "distractors from the codebook; not supported"}
    )
    latent_temp: Tuple[float, float, float] = field(
        default=(2.0, 0.5, 0.999995),
        metadata={"help": "Gumbel softmax temperature: start, floor, decay factor per update"},
    )


@register_model("ecg_wav2vec2", dataclass=EcgWav2Vec2Config)
class EcgWav2Vec2(EcgTransformer):
    """Predicts the quantised features of masked frames among distractors of the same recording.

    Raises:
        ValueError: If the configuration asks for something that is not supported.
    """

    def __init__(self, cfg: EcgWav2Vec2Config) -> None:
        super().__init__(cfg)
        conv_width = self.layer_norm.normalized_shape[0]
        self.logit_temp = cfg.logit_temp
        self.num_negatives = cfg.num_negatives
        self.dropout_features = nn.Dropout(cfg.dropout_features)
        target_width = conv_width
        self.quantizer = None
        if cfg.quantize_targets:
            target_width = cfg.latent_dim or cfg.final_dim
            self.quantizer = GumbelQuantizer(
                conv_width, target_width, cfg.latent_groups, cfg.latent_vars, cfg.latent_temp
            )
        self.project_q = nn.Linear(target_width, cfg.final_dim)
        self.target_glu = None
        if cfg.target_glu:
            self.target_glu = nn.Sequential(nn.Linear(cfg.final_dim, 2 * cfg.final_dim), nn.GLU())
        self.final_proj = nn.Linear(cfg.encoder_embed_dim, cfg.final_dim)

    @classmethod
    def check(cls, cfg: EcgWav2Vec2Config) -> None:
        """Refuse a configuration that cannot work; see ``EcgTransformer.check``."""
        super().check(cfg)
        check_pretraining_supported(cfg)

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask_indices: Optional[Tensor] = None,
        negative_indices: Optional[Tensor] = None,
    ) -> Dict[str, Any]:
        """Score the masked frames of a batch.

        Args:
            source: Recordings in millivolts, float32, [B, C, T].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded.
            mask_indices: bool, [B, L], True = masked, equally many per row; None = drawn.
            negative_indices: int64, [B, M * N], into the flattened targets [B * M]; None = drawn.

        Returns:
            ``logits`` float32 [1 + N, B, M], the positive first; ``features`` float [B, L, D], the
            encoder's output for the masked input; ``padding_mask`` bool [B, L] or None;
            ``features_pen`` float32 []; ``prob_perplexity`` and ``code_perplexity`` float32 [],
            ``num_vars`` and ``temp``, these four None without a quantizer.

        Raises:
            ValueError: If shapes or given indices do not fit.
        """
        features = self.convolve(source)  # [B, E, L]
        penalty = features.float().pow(2).mean()
        frames, padding = self.local_features(features, padding_mask)  # [B, L, E]
        x = self.project(frames)  # [B, L, D]
        mask = self.draw_mask(x, padding) if mask_indices is None else mask_indices
        positions = masked_positions(mask).to(x.device)  # [B, M]
        x = self.hide_channels(self.hide(x, mask.to(x.device)))
        encoded = self.contextualise(x, padding)  # [B, L, D]

        targets, quantized = self.quantize(self.dropout_features(_take(frames, positions)))
        logits = contrastive_logits(
            self.final_proj(_take(encoded, positions)),
            targets,
            self._negatives(positions, negative_indices),
            self.logit_temp,
            None if quantized is None else quantized.codes,
        )
        return {
            "logits": logits,
            "features": encoded,
            "padding_mask": None if padding is None else padding.mask,
            "features_pen": penalty,
            **self._diversity(quantized),
        }

    def quantize(self, frames: Tensor) -> Tuple[Tensor, Optional[Quantized]]:
        """Turn the features of masked frames, float, [B, M, E], into contrastive targets.

        Returns:
            The targets, float, [B, M, final_dim], and the quantizer's finding, if there is one.
        """
        quantized = None if self.quantizer is None else self.quantizer(frames)
        targets = self.project_q(frames if quantized is None else quantized.x)
        return (targets if self.target_glu is None else self.target_glu(targets)), quantized

    def _diversity(self, quantized: Optional[Quantized]) -> Dict[str, Any]:
        found = dict.fromkeys(("prob_perplexity", "code_perplexity", "num_vars", "temp"))
        if quantized is not None:
            found["prob_perplexity"] = quantized.prob_perplexity
            found["code_perplexity"] = quantized.code_perplexity
            found["num_vars"] = self.quantizer.num_vars
            found["temp"] = self.quantizer.temp
        return found

    def _negatives(self, positions: Tensor, given: Optional[Tensor]) -> Tensor:
        batch, n_masked = positions.shape
        if given is not None:
            return local_negatives(given, batch, n_masked)
        return sample_negatives(batch, n_masked, self.num_negatives, positions.device)


def check_pretraining_supported(cfg: EcgWav2Vec2Config) -> None:
    """Refuse what the reference crashes on, and negatives from outside the recording.

    Raises:
        ValueError: Naming the first such option, its value and the way out.
    """
    refused = (
        ("quantize_input", False),
        ("same_quantizer", False),
        ("negatives_from_everywhere", False),
        ("cross_sample_negatives", 0),
        ("codebook_negatives", 0),
    )
    for name, only in refused:
        if getattr(cfg, name) != only:
            raise ValueError(
                f"model.{name} is {getattr(cfg, name)}; only {only} is supported: negatives are "
                "masked frames of the same recording, and only targets are quantised"
            )
    if not cfg.apply_mask:
        raise ValueError("model.apply_mask must be true: the masked frames are what is predicted")
    if cfg.final_dim < 1:
        raise ValueError(
            f"model.final_dim is {cfg.final_dim}; give the width of predictions and targets, "
            "e.g. 256 (0 has no default here)"
        )
    if cfg.num_negatives < 1:
        raise ValueError(f"model.num_negatives is {cfg.num_negatives}; give at least 1")


def _take(frames: Tensor, positions: Tensor) -> Tensor:
    """Gather frames [B, L, D] at positions [B, M]; [B, M, D]."""
    return torch.take_along_dim(frames, positions[..., None], dim=1)
