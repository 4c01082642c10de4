"""How the six limb leads follow from two of them: Einthoven's and Goldberger's relations.

Three electrodes have two independent voltages, so III, aVR, aVL and aVF are sums of I and II.
"""

from functools import lru_cache

import numpy as np

from fairseq_ecg.data.leads import canonical_lead

# Coefficients of leads I and II.
LIMB_LEADS = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}


@lru_cache(maxsize=64)
def mixing(leads: tuple[str, ...], dependency: bool = True) -> np.ndarray:
    """Return how the rows of a recording follow from its independent leads.

    The independent leads are I and II, present or not, if any limb lead is there, then the
    others in row order.

    Args:
        leads: Names of the C rows.
        dependency: False takes all C rows as independent.

    Returns:
        float32 [C, S], read-only: rows = mixing @ independent leads.
    """
    names = [canonical_lead(lead) for lead in leads]
    limb = [row for row, name in enumerate(names) if dependency and name in LIMB_LEADS]
    others = [row for row in range(len(leads)) if row not in limb]
    first = 2 if limb else 0
    matrix = np.zeros((len(leads), first + len(others)), dtype=np.float32)
    for row in limb:
        matrix[row, :2] = LIMB_LEADS[names[row]]
    matrix[others, first + np.arange(len(others))] = 1.0
    matrix.flags.writeable = False
    return matrix
