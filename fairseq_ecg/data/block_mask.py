"""Which blocks of a signal are hidden for a network to rebuild.

Blocks of fixed length on a grid from the first sample on (Gedon et al., Computing in Cardiology
2021), over time, over leads, or both (Zhang et al., MaeFE, IEEE TIM 72, 2023; Na et al., ST-MEM,
ICLR 2024). Shapes: C leads, N blocks of P samples.

Before: data/dataset.py (an item). After: data/wrappers.py (``MaskedSegments``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MODES = ("time", "time_block", "lead", "lead_time", "random_leads", "time_and_lead")
SAMPLINGS = ("without_replacement", "bernoulli", "replacement")
# Blocks of one span of the mode time_block.
_SHORTEST_SPAN, _LONGEST_SPAN = 2, 6


@dataclass(frozen=True)
class BlockMask:
    """Draws which blocks are hidden.

    Modes:

    - ``time``: the same blocks in all leads.
    - ``time_block``: the same, in spans of two to six blocks, which may touch.
    - ``lead``: some leads from end to end.
    - ``lead_time``: blocks of each lead on its own.
    - ``random_leads``: the same blocks in some leads, one to all of them with equal chance; the
      others stay visible.
    - ``time_and_lead``: two masks, one as ``time`` and one as ``lead``.

    Of N candidates (blocks, or leads in the mode ``lead``) ``max(1, round(ratio * N))`` are hidden,
    or as many as ``sampling`` gives, but never all of two or more.

    Args:
        block: Samples per block, P.
        ratio: Share of the candidates that is hidden, above 0 and below 1.
        mode: See above.
        sampling: ``without_replacement`` hides that many exactly; ``bernoulli`` hides each with the
            chance ``ratio``; ``replacement`` draws that many times and may draw one twice.

    Raises:
        ValueError: If a value cannot work; the message begins with its key, ``mask_...``.
    """

    block: int = 64
    ratio: float = 0.25
    mode: str = "time"
    sampling: str = "without_replacement"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"mask_block must be at least 1 sample, got {self.block}")
        if not 0 < self.ratio < 1:
            raise ValueError(
                "mask_ratio must be above 0 (nothing would be hidden) and below 1 (nothing would "
                f"be visible), got {self.ratio:g}"
            )
        for key, known in (("mode", MODES), ("sampling", SAMPLINGS)):
            if getattr(self, key) not in known:
                raise ValueError(
                    f"mask_{key} must be one of {', '.join(known)}, got {getattr(self, key)!r}"
                )

    def candidates(self, start: int, stop: int, n_samples: int) -> np.ndarray:
        """Return which blocks of a padded signal can be hidden: those that touch its own samples.

        Args:
            start: First sample that is no padding.
            stop: First sample of the padding behind.
            n_samples: Samples T with padding; a last block that is not whole does not count.

        Returns:
            bool [N], N = T // P.
        """
        first = np.arange(n_samples // self.block) * self.block
        return (first < stop) & (first + self.block > start)

    def draw(
        self, rng: np.random.Generator, n_leads: int, candidates: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Draw the mask of one signal; of the mode ``time_and_lead`` both.

        Args:
            rng: Generator of this signal.
            n_leads: Number of leads C.
            candidates: Which blocks can be hidden, bool [N], one or more of them, in a row.

        Returns:
            bool [C, N], True = hidden.
        """
        if self.mode == "time_and_lead":
            return (
                self._place(self._blocks(rng, 1, candidates), n_leads, candidates),
                self._place(self._leads(rng, n_leads), n_leads, candidates),
            )
        if self.mode == "lead":
            hidden = self._leads(rng, n_leads)
        elif self.mode == "lead_time":
            hidden = self._blocks(rng, n_leads, candidates)
        elif self.mode == "time_block":
            hidden = self._spans(rng, candidates)
        else:
            hidden = self._blocks(rng, 1, candidates)
        if self.mode == "random_leads":
            touched = rng.permutation(n_leads) < rng.integers(1, n_leads + 1)
            hidden = hidden & touched[:, None]
        return (self._place(hidden, n_leads, candidates),)

    def _blocks(self, rng: np.random.Generator, n_rows: int, candidates: np.ndarray) -> np.ndarray:
        """Return which candidates are hidden, in each row on its own, bool [n_rows, candidates]."""
        n = int(np.count_nonzero(candidates))
        rank = rng.random((n_rows, n)).argsort(axis=1).argsort(axis=1)
        return rank < self._counts(rng, n_rows, n)[:, None]

    def _leads(self, rng: np.random.Generator, n_leads: int) -> np.ndarray:
        """Return which leads are hidden, bool [C, 1]."""
        return self._blocks(rng, 1, np.ones(n_leads, dtype=bool)).T

    def _spans(self, rng: np.random.Generator, candidates: np.ndarray) -> np.ndarray:
        """Return which candidates are hidden in spans, bool [1, candidates]."""
        n = int(np.count_nonzero(candidates))
        count = int(self._counts(rng, 1, n)[0])
        lengths = _span_lengths(rng, count)
        # Spans and visible blocks in one row, the spans at random places.
        parts = np.zeros(n - count + len(lengths), dtype=np.int64)
        parts[rng.permutation(len(parts))[: len(lengths)]] = lengths
        return np.repeat(parts > 0, np.maximum(parts, 1))[None]

    def _counts(self, rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
        """Return how many of n candidates are hidden in each row, int64 [n_rows].

        Which ones these are is uniform for every sampling, so that their number is all it decides.
        """
        wanted = max(1, round(self.ratio * n))
        if self.sampling == "bernoulli":
            counts = rng.binomial(n, self.ratio, n_rows)
        elif self.sampling == "replacement":
            draws = rng.integers(n, size=(n_rows, wanted))
            counts = np.array([len(np.unique(row)) for row in draws])
        else:
            counts = np.full(n_rows, wanted)
        return np.clip(counts, 1, max(n - 1, 1))

    @staticmethod
    def _place(hidden: np.ndarray, n_leads: int, candidates: np.ndarray) -> np.ndarray:
        """Put hidden candidates, which broadcast to [C, candidates], into [C, N]."""
        mask = np.zeros((n_leads, len(candidates)), dtype=bool)
        mask[:, candidates] = hidden
        return mask


def _span_lengths(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return lengths of spans that add up to ``count``; one of a single block only if it is all."""
    lengths = []
    while count:
        possible = [
            length
            for length in range(_SHORTEST_SPAN, min(_LONGEST_SPAN, count) + 1)
            if count - length != 1
        ]
        lengths.append(int(rng.choice(possible)) if possible else count)
        count -= lengths[-1]
    return rng.permutation(lengths)
