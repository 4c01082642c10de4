"""The two ends of a masked autoencoder: recordings to tokens, and tokens to recordings.

Shapes: B batch, C leads, T samples, R rows of tokens, N tokens of a row, K kept tokens, P samples
per patch, S channels of the stem, V values of a token's target, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.modules.kept_tokens import KeptTokens
from fairseq_ecg.modules.multi_scale import MultiScaleStem
from fairseq_ecg.modules.positions import LearnedPositions, SineCosinePositions
from fairseq_ecg.modules.transformer import TransformerLayer, TransformerSizes

NORM_EPS = 1e-6


@dataclass(frozen=True)
class Grid:
    """How tokens lie in a recording.

    Args:
        leads: Number of leads C.
        patch: Samples P of a token.
        by_lead: A row of tokens for each lead, instead of one row of patches of all leads.
        joint: Whether the decoder sees all rows together, as one row of R * N tokens.
    """

    leads: int
    patch: int
    by_lead: bool
    joint: bool

    @property
    def rows(self) -> int:
        """Number of rows R."""
        return self.leads if self.by_lead else 1

    @property
    def values(self) -> int:
        """Number of values V of a token's target."""
        return self.patch if self.by_lead else self.leads * self.patch

    def to_rows(self, source: Tensor) -> Tensor:
        """Give each row its leads, [B, C, T] to [B * R, C / R, T]."""
        return source.flatten(0, 1)[:, None] if self.by_lead else source

    def cut(self, x: Tensor, batch: int) -> Tensor:
        """Cut channels into patches, [B * R, S, N * P] to [B, R * N, S * P]."""
        patches = x.unflatten(2, (-1, self.patch)).transpose(1, 2).flatten(2)
        return patches.reshape(batch, -1, patches.shape[-1])

    def of_samples(self, said: Tensor) -> Tensor:
        """Return of which tokens all samples are meant, given which samples are, [B, C, N * P].

        Returns:
            bool, [B, R * N].
        """
        return self.cut(self.to_rows(said), said.shape[0]).all(2)

    def join(self, values: Tensor) -> Tensor:
        """Put the values of all tokens [B, R * N, V] in their places, [B, C, N * P]."""
        if self.by_lead:
            return values.reshape(len(values), self.leads, -1)
        return values.unflatten(2, (self.leads, self.patch)).transpose(1, 2).flatten(2)


class PatchEmbedding(nn.Module):
    """A convolution as wide as its stride, here one product with patches that are cut already.

    Args:
        channels: Channels S of a patch.
        patch: Samples P of a patch.
        width: Width D.
        normed: Layer norm before and after it.
    """

    def __init__(self, channels: int, patch: int, width: int, normed: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels, patch))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.weight.view(width, -1))
        self.norm_before = nn.LayerNorm(channels * patch, eps=NORM_EPS) if normed else None
        self.norm_after = nn.LayerNorm(width, eps=NORM_EPS) if normed else None

    def forward(self, patches: Tensor) -> Tensor:
        """Embed patches, float, [..., S * P] to [..., D]."""
        if self.norm_before is not None:
            patches = self.norm_before(patches)
        x = functional.linear(patches, self.weight.flatten(1), self.bias)
        return x if self.norm_after is None else self.norm_after(x)


class TokenEmbedding(nn.Module):
    """Recordings to tokens: stem, patches, positions, and who is who among the leads.

    Args:
        grid: How tokens lie.
        width: Width D.
        positions: Of the tokens of a row.
        stem: Convolutions before the patches; None embeds the samples themselves.
        stem_inside: Convolve each patch by itself, instead of the whole recording.
        stem_renorm: Divide convolutions by the visible share of their taps.
        normed: Layer norm before and after the embedding of a patch.
        separators: A learned token at both ends of each row.
    """

    def __init__(
        self,
        grid: Grid,
        width: int,
        positions: nn.Module,
        stem: MultiScaleStem | None = None,
        stem_inside: bool = False,
        stem_renorm: bool = False,
        normed: bool = False,
        separators: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.stem = stem
        self.stem_inside, self.stem_renorm = stem_inside, stem_renorm
        channels = grid.leads // grid.rows if stem is None else stem.shortcut.out_channels
        self.proj = PatchEmbedding(channels, grid.patch, width, normed)
        self.positions = positions
        self.lead_vectors = self.separator = None
        if grid.by_lead:
            self.lead_vectors = nn.Parameter(torch.empty(grid.leads, width).normal_(std=0.02))
            self.lead_vectors.param_group = "no_decay"
        if separators:
            self.separator = nn.Parameter(torch.empty(width).normal_(std=0.02))

    def forward(
        self,
        source: Tensor,
        kept: KeptTokens | None,
        present: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Embed the kept tokens; no other token is embedded.

        Args:
            source: Recordings, hidden and padded samples 0, float, [B, C, N * P].
            kept: Which tokens; None = all.
            present: bool, [B, C, N * P], False = padded; None = nothing is padded.
            visible: bool, [B, C, N * P], False = hidden; None = nothing is hidden.

        Returns:
            float, [B, K, D].
        """
        tokens = self.proj(self._patches(source, kept, present, visible))
        places = self._places(source.shape[-1] // self.grid.patch)[:, 1:-1].flatten(0, 1)
        return tokens + (places if kept is None else places[kept.index])

    def ends(self, batch: int, n_tokens: int) -> Tensor | None:
        """Return the separators, first of each row, then last, [B, 2 R, D]; None without them."""
        if self.separator is None:
            return None
        places = self._places(n_tokens)
        ends = self.separator + torch.cat([places[:, 0], places[:, -1]])
        return ends.expand(batch, -1, -1)

    def _places(self, n_tokens: int) -> Tensor:
        """Return what says where a token stands, [R, N + 2, D]."""
        places = self.positions(n_tokens)[None]
        return places if self.lead_vectors is None else places + self.lead_vectors[:, None]

    def _patches(
        self,
        source: Tensor,
        kept: KeptTokens | None,
        present: Tensor | None,
        visible: Tensor | None,
    ) -> Tensor:
        """Return what is embedded of each kept token, [B, K, S * P]."""
        batch, to_rows = source.shape[0], self.grid.to_rows
        rows = to_rows(source)
        shared = self.stem_renorm and visible is not None
        valid = None if present is None else to_rows(present)[:, :1]
        share = to_rows(visible).to(source.dtype).mean(1, keepdim=True) if shared else None
        if self.stem is not None and not self.stem_inside:
            rows = self.stem(rows, valid, share)
        patches = self._take(rows, batch, kept)
        if self.stem is None or not self.stem_inside:
            return patches

        def pieces(x: Tensor) -> Tensor:
            return x.unflatten(2, (-1, self.grid.patch)).flatten(0, 1)

        valid = None if valid is None else pieces(self._take(valid, batch, kept))
        share = None if share is None else pieces(self._take(share, batch, kept))
        return self.stem(pieces(patches), valid, share).flatten(1).unflatten(0, (batch, -1))

    def _take(self, x: Tensor, batch: int, kept: KeptTokens | None) -> Tensor:
        patches = self.grid.cut(x, batch)
        return patches if kept is None else kept.take(patches)


class Decoder(nn.Module):
    """Tokens to samples: mask tokens at the empty places, a few blocks, one linear layer.

    Args:
        grid: How tokens lie.
        encoder_width: Width of the tokens that come in; if it differs from ``sizes.width``, a
            linear layer joins them.
        sizes: Of the blocks, D among them.
        positions: Of the tokens of a row.
        mask_token: Whether there are empty places to fill.
        transposed: Samples by a transposed convolution, whose bias is per lead, not per sample.
        bounded: tanh at the end.
    """

    def __init__(
        self,
        grid: Grid,
        encoder_width: int,
        sizes: TransformerSizes,
        positions: nn.Module,
        mask_token: bool,
        transposed: bool,
        bounded: bool,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.positions = positions
        self.bounded = bounded
        self.embed = None
        if encoder_width != sizes.width:
            self.embed = nn.Linear(encoder_width, sizes.width)
        self.mask_token = None
        if mask_token:
            self.mask_token = nn.Parameter(torch.empty(sizes.width).normal_(std=0.02))
        self.blocks = nn.ModuleList(TransformerLayer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width, eps=NORM_EPS)
        self.output: nn.Module
        if transposed:
            leads = grid.leads // grid.rows
            self.output = nn.ConvTranspose1d(sizes.width, leads, grid.patch, stride=grid.patch)
        else:
            self.output = nn.Linear(sizes.width, grid.values)

    def forward(
        self,
        tokens: Tensor,
        kept: KeptTokens | None,
        class_token: Tensor | None,
        ends: Tensor | None,
        absent: Tensor | None,
    ) -> Tensor:
        """Reconstruct.

        Args:
            tokens: Encoded tokens, float, [B, K, D'].
            kept: Their places; None = all are there.
            class_token: Encoded, [B, 1, D'], or None.
            ends: Encoded separators, [B, 2 R, D'], or None.
            absent: bool, [B, R * N], True = padded, never looked at; None = nothing is padded.

        Returns:
            float, [B, C, N * P].
        """
        rows = 1 if self.grid.joint else self.grid.rows
        batch = len(tokens)
        x = self._embedded(tokens)
        if kept is not None:
            empty = x.new_zeros(x.shape[-1]) if self.mask_token is None else self.mask_token
            x = kept.put_back(x, empty)
        x = x.reshape(batch * rows, -1, x.shape[-1])
        n_tokens = x.shape[1]
        places = self.positions(n_tokens)
        before: list[Tensor] = []
        after: list[Tensor] = []
        if class_token is not None:
            before.append(self._embedded(class_token).repeat_interleave(rows, 0))
        if ends is not None:
            first, last = self._embedded(ends).chunk(2, 1)
            before.append(first.flatten(0, 1)[:, None] + places[0])
            after.append(last.flatten(0, 1)[:, None] + places[-1])
        attended = None
        if absent is not None:
            absent = absent.reshape(batch * rows, -1)
            attended = functional.pad(~absent, (len(before), len(after)), value=True)
        x = torch.cat([*before, x + places[1:-1], *after], 1)
        x = self.norm(run(self.blocks, x, attended))[:, len(before) : len(before) + n_tokens]
        return self._samples(x, batch)

    def _embedded(self, x: Tensor) -> Tensor:
        return x if self.embed is None else self.embed(x)

    def _samples(self, x: Tensor, batch: int) -> Tensor:
        """Turn tokens [B * rows, N, D] into samples [B, C, N * P]."""
        if isinstance(self.output, nn.ConvTranspose1d):
            samples = self.output(x.transpose(1, 2))
            samples = samples.reshape(batch, self.grid.leads, -1)
        else:
            samples = self.grid.join(self.output(x).reshape(batch, -1, self.grid.values))
        return samples.tanh() if self.bounded else samples


def run(blocks: Sequence[nn.Module], x: Tensor, attended: Tensor | None) -> Tensor:
    """Apply transformer blocks to [B, L, D]; ``attended`` is bool [B, L], None = all."""
    if attended is not None:
        attended = attended[:, None, None]
    for block in blocks:
        x = block(x, attended)
    return x


def make_positions(kind: str, width: int, count: int | None) -> nn.Module:
    """Return the positions of a row: ``"sincos"``, or ``"learned"`` for up to ``count`` tokens."""
    if kind == "learned":
        return LearnedPositions(width, count or 0)
    return SineCosinePositions(width, count or 0)
