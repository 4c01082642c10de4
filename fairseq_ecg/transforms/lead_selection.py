"""Choosing leads: a subset of rows, or all twelve rows with the others silent ("P-N-lead").

Oh et al., CHIL 2022, PMLR 174:338-353, section 4.3 evaluates both forms.
"""

from dataclasses import dataclass

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal


@dataclass(frozen=True)
class SelectLeads:
    """Keep some of the twelve standard leads.

    Args:
        rows: Rows to keep, in 0..11, in the order wanted.
        pad: Keep twelve rows and set the others to 0 mV, instead of dropping them.
    """

    rows: tuple[int, ...]
    pad: bool = False

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Return [len(rows), T] mV, or [12, T] mV with silent rows if ``pad``.

        A signal of which only these leads were read is returned as it is.

        Raises:
            ValueError: If the signal has neither these nor the twelve standard leads in order.
        """
        chosen = tuple(STANDARD_LEADS[row] for row in self.rows)
        if signal.leads == chosen and not self.pad:
            return signal
        if signal.leads != STANDARD_LEADS:
            raise ValueError(
                f"leads are chosen from the standard twelve, but here are {signal.leads}"
            )
        if self.pad:
            silent = [row for row in range(len(STANDARD_LEADS)) if row not in self.rows]
            signal.values_mv[silent] = 0.0
            return signal
        rows = list(self.rows)
        return EcgSignal(
            signal.values_mv[rows],
            signal.rate_hz,
            chosen,
            None if signal.scale_mv is None else signal.scale_mv[rows],
        )
