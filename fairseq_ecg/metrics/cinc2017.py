"""The score of the PhysioNet/CinC Challenge 2017 (Clifford et al. 2017, CinC 44).

The mean of the F1 of normal, atrial fibrillation and other rhythms. Noise is a class too, of truth
and of answers, but its F1 does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fairseq_ecg.metrics.multilabel import macro

CLASSES = ("A", "N", "O", "~")
SCORED = ("N", "A", "O")
METRIC = "f1_cinc"
"""Name under which it is logged, beside ``f1``, the mean over all four."""


def has_challenge_classes(labels: Sequence[str]) -> bool:
    """Return whether these are the classes of the challenge, in any order."""
    return sorted(labels) == sorted(CLASSES)


def challenge_f1(labels: Sequence[str], f1: ArrayLike) -> float:
    """Return the score.

    Args:
        labels: Names of the classes, [K].
        f1: F1 of each, [K]; NaN for a class that occurs neither as truth nor as answer, which is
            left out, as in other macro averages.
    """
    return macro(np.asarray(f1)[[list(labels).index(name) for name in SCORED]])
