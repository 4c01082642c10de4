"""The closest known names, for errors about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near_misses(name: object, known: Iterable[object]) -> list[str]:
    """Return up to three known names that resemble a name, the closest first.

    Args:
        name: What was given; of a number or None its text counts.
        known: What would have been right.
    """
    return difflib.get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.5)


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return "; did you mean a or b?" for near misses, or an empty string.

    Args:
        name: As for ``near_misses``.
        known: As for ``near_misses``.
    """
    near = near_misses(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""
