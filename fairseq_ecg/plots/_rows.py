"""Logged values as points of a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg._near_misses import near_misses

Rows = Sequence[Mapping[str, Any]]


def check_keys(runs: Mapping[str, Rows], keys: Sequence[str]) -> None:
    """Refuse a key that no row has.

    Args:
        runs: name of each run, or of several together, to its rows.
        keys: what is to be drawn.

    Raises:
        ValueError: naming the key and those that are close to it.
    """
    known = {key for rows in runs.values() for row in rows for key in row}
    for key in keys:
        if key not in known:
            near = near_misses(key, sorted(known)) or sorted(known)[:8]
            raise ValueError(
                f"no row of the runs {', '.join(runs)} has the key {key!r}; near: {', '.join(near)}"
            )


def points(rows: Rows, x: str, y: str) -> NDArray[np.float64]:
    """Return the finite pairs of two keys, ordered by the first, [N, 2]."""
    pairs = [(_number(row.get(x)), _number(row.get(y))) for row in rows]
    found = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    found = found[np.isfinite(found).all(axis=1)]
    return found[np.argsort(found[:, 0], kind="stable")]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
