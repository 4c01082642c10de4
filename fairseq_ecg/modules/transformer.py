"""Transformer encoder over frames (Vaswani et al., 2017; BERT initialisation as in wav2vec 2.0).

Shapes: B batch, L frames, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes and dropouts of a transformer encoder.

    Args:
        layers: Number of layers.
        width: Width D of a frame.
        ffn_width: Inner width of the feed-forward blocks.
        heads: Number of attention heads H, a divisor of ``width``.
        pre_norm: Layer norm before each block instead of after it.
        dropout: Dropout of the input and of each block's output.
        attention_dropout: Dropout of the attention weights.
        activation_dropout: Dropout after the activation of the feed-forward blocks.
        layerdrop: Probability to leave out a layer in training.
        drop_path: Probability to leave out a block of a layer in training, row by row.
        norm_eps: Epsilon of the layer norms inside the layers.
        activation: Of the feed-forward blocks.
        scale_by_width: Divide attention scores by sqrt(D) instead of sqrt(D / H).

    Raises:
        ValueError: If ``width`` is no multiple of ``heads``.
    """

    layers: int = 12
    width: int = 768
    ffn_width: int = 3072
    heads: int = 12
    pre_norm: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layerdrop: float = 0.0
    drop_path: float = 0.0
    norm_eps: float = 1e-5
    activation: Callable[[Tensor], Tensor] = F.gelu
    scale_by_width: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"encoder_embed_dim ({self.width}) must be a multiple of "
                f"encoder_attention_heads ({self.heads})"
            )


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate projections."""

    def __init__(
        self, width: int, heads: int, dropout: float, scale_by_width: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.scale = (width if scale_by_width else width // heads) ** -0.5
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attended: Tensor | None = None) -> Tensor:
        """Mix frames.

        Args:
            x: float, [B, L, D].
            attended: bool, [B, 1, 1, L], True = may be attended to; None = all frames.

        Returns:
            float, [B, L, D].
        """
        query, key, value = (self._heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attended,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
        )  # [B, H, L, D/H]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, attended: Tensor | None = None) -> Tensor:
        """Return the attention weights averaged over heads, float, [B, L, L]; rows sum to 1."""
        query, key = self._heads(self.q_proj(x)), self._heads(self.k_proj(x))
        scores = query @ key.transpose(-1, -2) * self.scale  # [B, H, L, L]
        if attended is not None:
            scores = scores.masked_fill(~attended, float("-inf"))
        return scores.softmax(-1).mean(1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class DropPath(nn.Module):
    """Leave out rows of a batch at random in training (stochastic depth, Huang et al., 2016).

    Args:
        rate: Probability that a row becomes zero; the others are scaled so that the mean stays.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, L, D], or what is left of it."""
        if self.rate == 0 or not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward block, each with residual and layer norm."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.pre_norm = sizes.pre_norm
        self.dropout = nn.Sequential(nn.Dropout(sizes.dropout), DropPath(sizes.drop_path))
        self.activation_dropout = nn.Dropout(sizes.activation_dropout)
        self.self_attn = SelfAttention(
            sizes.width, sizes.heads, sizes.attention_dropout, sizes.scale_by_width
        )
        self.self_attn_layer_norm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.fc1 = nn.Linear(sizes.width, sizes.ffn_width)
        self.fc2 = nn.Linear(sizes.ffn_width, sizes.width)
        self.activation = sizes.activation
        self.final_layer_norm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)

    def forward(self, x: Tensor, attended: Tensor | None = None) -> Tensor:
        """Return the layer's output, float, [B, L, D] as the input."""
        if self.pre_norm:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), attended))
            return x + self.dropout(self._feed_forward(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, attended)))
        return self.final_layer_norm(x + self.dropout(self._feed_forward(x)))

    def attention_weights(self, x: Tensor, attended: Tensor | None = None) -> Tensor:
        """Return the head-averaged attention weights for the layer's input ``x``, [B, L, L]."""
        return self.self_attn.weights(
            self.self_attn_layer_norm(x) if self.pre_norm else x, attended
        )

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation_dropout(self.activation(self.fc1(x))))


class TransformerEncoder(nn.Module):
    """Stack of layers; padded frames are zero at its entrance and never attended to."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.pre_norm = sizes.pre_norm
        self.layerdrop = sizes.layerdrop
        self.dropout = nn.Dropout(sizes.dropout)
        self.layers = nn.ModuleList(TransformerLayer(sizes) for _ in range(sizes.layers))
        self.layer_norm = nn.LayerNorm(sizes.width)
        self.apply(_init_linear)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Encode frames that already carry their positions.

        Args:
            x: float, [B, L, D].
            padding_mask: bool, [B, L], True = padded; None = nothing is padded.

        Returns:
            float, [B, L, D]; padded frames hold arbitrary finite values.
        """
        x, attended = self._enter(x, padding_mask)
        for layer in self.layers:
            if not self._dropped():
                x = layer(x, attended)
        return self.layer_norm(x) if self.pre_norm else x

    def attention_weights(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the head-averaged attention weights of every layer, float, [B, layers, L, L]."""
        x, attended = self._enter(x, padding_mask)
        weights = []
        for layer in self.layers:
            weights.append(layer.attention_weights(x, attended))
            x = layer(x, attended)
        return torch.stack(weights, dim=1)

    def _enter(self, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        attended = None
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[..., None], 0.0)
            attended = ~padding_mask[:, None, None, :]
        return self.dropout(x if self.pre_norm else self.layer_norm(x)), attended

    def _dropped(self) -> bool:
        return self.training and self.layerdrop > 0 and torch.rand(()).item() < self.layerdrop


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, mean=0.0, std=0.02)
        nn.init.zeros_(module.bias)
