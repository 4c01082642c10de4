"""The tokens that an encoder gets, taken out of a row, and put back among the others.

Shapes: B batch, N tokens of a row, K kept tokens (of the row that keeps most), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeptTokens:
    """Which tokens are kept, in ascending order; rows that keep fewer are filled up.

    Args:
        index: Places of the kept tokens, int64, [B, K].
        valid: bool, [B, K], False = only fills the row up; None = every row keeps K.
        count: Number of tokens N.
    """

    index: Tensor
    valid: Tensor | None
    count: int

    @classmethod
    def of(cls, kept: Tensor) -> KeptTokens | None:
        """Return the places of the kept tokens, or None if all are kept.

        A row that keeps nothing keeps its first token, so that an encoder has something to look at;
        what stands there must be silent. This waits for the device once.

        Args:
            kept: bool, [B, N].
        """
        empty = ~kept.any(1, keepdim=True)
        kept = torch.cat([kept[:, :1] | empty, kept[:, 1:]], 1)
        counts = kept.sum(1)
        fewest, most = torch.stack(counts.aminmax()).tolist()
        if fewest == kept.shape[1]:
            return None
        index = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        return cls(index, None if fewest == most else kept.gather(1, index), kept.shape[1])

    def take(self, x: Tensor) -> Tensor:
        """Return the kept rows of x, [B, N, D] to [B, K, D]."""
        return x.gather(1, self.index[..., None].expand(-1, -1, x.shape[-1]))

    def put_back(self, x: Tensor, filling: Tensor) -> Tensor:
        """Return all N tokens, [B, N, D]: x [B, K, D] where kept, ``filling`` [D] elsewhere."""
        filling = filling.to(x.dtype)
        if self.valid is not None:
            x = torch.where(self.valid[..., None], x, filling)
        whole = filling.expand(len(x), self.count, -1)
        return whole.scatter(1, self.index[..., None].expand_as(x), x)
