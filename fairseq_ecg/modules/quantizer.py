"""Product quantisation with straight-through Gumbel softmax (Baevski et al., 2020, Section 2).

Shapes: N rows (all leading dimensions), G groups, V codes per group, E input width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What the quantizer returns."""

    x: Tensor  # float32, [..., out_dim]: the chosen entries of all groups, side by side
    codes: Tensor  # int64, [..., G]: which entry was chosen
    prob_perplexity: Tensor  # float32, []: sum over groups of exp(entropy of the mean softmax)
    code_perplexity: Tensor  # float32, []: the same of the mean hard assignment


class GumbelQuantizer(nn.Module):
    """Chooses one learned entry per group for each row; always computed in float32.

    Args:
        in_dim: Width E of the rows.
        out_dim: Width of the quantised rows.
        groups: Number of groups G.
        codes: Number of entries V per group.
        temperature: Start, floor and decay factor per update of the Gumbel softmax.

    Raises:
        ValueError: If ``out_dim`` is no multiple of ``groups`` or the temperatures make no sense.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        groups: int,
        codes: int,
        temperature: tuple[float, float, float],
    ) -> None:
        super().__init__()
        if out_dim % groups:
            raise ValueError(
                f"the quantised width (latent_dim, else final_dim: {out_dim}) must be a multiple "
                f"of latent_groups ({groups})"
            )
        if len(temperature) != 3 or min(temperature) <= 0 or temperature[1] > temperature[0]:
            raise ValueError(
                f"latent_temp is {tuple(temperature)}; give (start, floor, decay), all positive "
                "and floor <= start, e.g. [2.0, 0.5, 0.999995]"
            )
        self.groups = groups
        self.num_vars = groups * codes
        self.start, self.floor, self.decay = (float(value) for value in temperature)
        self.temp = self.start
        self.vars = nn.Parameter(torch.empty(1, groups * codes, out_dim // groups).uniform_())
        self.weight_proj = nn.Linear(in_dim, groups * codes)
        nn.init.normal_(self.weight_proj.weight, mean=0.0, std=1.0)
        nn.init.zeros_(self.weight_proj.bias)

    def set_num_updates(self, num_updates: int) -> None:
        """Set the temperature that holds after ``num_updates`` updates."""
        self.temp = max(self.start * self.decay**num_updates, self.floor)

    def forward(self, x: Tensor) -> Quantized:
        """Quantise rows.

        In training the choice is drawn with Gumbel noise and the gradient is that of the soft
        sample; in evaluation it is the largest logit, and no gradient reaches the logits by it.

        Args:
            x: float, [..., E].
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(
                x.float(), self.weight_proj.weight.float(), self.weight_proj.bias.float()
            )
            logits = logits.unflatten(-1, (self.groups, -1))  # [..., G, V]
            best = logits.argmax(-1)  # [..., G]
            if self.training:
                soft = F.gumbel_softmax(logits, tau=self.temp, hard=False)
                codes = soft.argmax(-1)
                entries = self._straight_through(soft, codes)
            else:
                codes = best
                entries = self._entries(codes)
            return Quantized(
                entries.flatten(-2),
                codes,
                _perplexity(logits.flatten(0, -3).softmax(-1).mean(0)),
                _perplexity(_one_hot_mean(best.flatten(0, -2), logits.shape[-1])),
            )

    def _codebook(self) -> Tensor:
        return self.vars[0].float().unflatten(0, (self.groups, -1))  # [G, V, out_dim / G]

    def _entries(self, codes: Tensor) -> Tensor:
        groups = torch.arange(self.groups, device=codes.device)
        return self._codebook()[groups, codes]  # [..., G, out_dim / G]

    def _straight_through(self, soft: Tensor, codes: Tensor) -> Tensor:
        hard = torch.zeros_like(soft).scatter_(-1, codes[..., None], 1.0)
        # In this order the added part is exactly zero, so equal codes give equal entries.
        choice = hard + (soft - soft.detach())
        return torch.einsum("...gv,gvd->...gd", choice, self._codebook())


def _one_hot_mean(best: Tensor, codes: int) -> Tensor:
    share = torch.zeros(best.shape[1], codes, device=best.device)  # [G, V]
    return share.scatter_add_(1, best.T, torch.ones_like(best.T, dtype=share.dtype)) / len(best)


def _perplexity(share: Tensor) -> Tensor:
    """Sum over groups the exponential of the entropy of ``share``, float32, [G, V]."""
    return torch.exp(-torch.sum(share * torch.log(share + 1e-7), dim=-1)).sum()
