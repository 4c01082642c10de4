"""What every metric asks of its input arrays."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

NonFinite = Literal["raise", "zero"]


def as_truth_table(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    """Return `values` as a boolean [N, K] table.

    Args:
        name: what the table is, for the error message.
        values: booleans, or numbers that are all 0 or 1, [N, K].

    Raises:
        ValueError: it is not two-dimensional, or holds anything but 0 and 1.
    """
    table = np.asarray(values)
    if table.ndim != 2:
        raise ValueError(
            f"{name} must have the shape [records, classes], but it is {list(table.shape)}; "
            "add the missing axis, for one class with values[:, None]"
        )
    if table.dtype == np.bool_:
        return table
    positive: NDArray[np.bool_] = table == 1
    other = ~positive & (table != 0)
    if other.any():
        row, column = np.argwhere(other)[0]
        raise ValueError(
            f"{name} must hold only 0 and 1, but {name}[{row}, {column}] is "
            f"{table[row, column]!r}; compare scores with a threshold first"
        )
    return positive


def as_scores(values: ArrayLike, nonfinite: NonFinite = "raise") -> NDArray[Any]:
    """Return `values` as a floating point [N, K] table in which every entry is finite.

    Args:
        values: real numbers [N, K], larger means more likely. float32 and float64 stay what they
            are, so that no two different scores become equal.
        nonfinite: "raise", or "zero" to count NaN and infinities as 0.

    Raises:
        ValueError: it is not two-dimensional, not real, or not finite where that was asked for.
    """
    if nonfinite not in ("raise", "zero"):
        raise ValueError(f'nonfinite must be "raise" or "zero", but is {nonfinite!r}')
    scores = np.asarray(values)
    if scores.ndim != 2:
        raise ValueError(
            f"scores must have the shape [records, classes], but it is {list(scores.shape)}"
        )
    if scores.dtype.kind in "biu":
        return scores.astype(np.float64)
    if scores.dtype.kind != "f":
        raise ValueError(f"scores must be real numbers, but their dtype is {scores.dtype}")
    finite = np.isfinite(scores)
    if finite.all():
        return scores
    if nonfinite == "raise":
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"scores must be finite, but {int((~finite).sum())} of {scores.size} are not, first "
            f"scores[{row}, {column}] = {scores[row, column]}; mend the model, or pass "
            'nonfinite="zero" to count them as 0, as the CinC 2021 scorer does'
        )
    return np.where(finite, scores, scores.dtype.type(0))


def check_same_shape(**tables: NDArray[Any]) -> None:
    """Check that all named tables have one shape.

    Raises:
        ValueError: two of them differ; both are named.
    """
    (first, reference), *rest = tables.items()
    for name, table in rest:
        if table.shape != reference.shape:
            raise ValueError(
                f"{first} and {name} must have one shape, but they are "
                f"{list(reference.shape)} and {list(table.shape)}"
            )


def score_tables(
    scores: ArrayLike, labels: ArrayLike, nonfinite: NonFinite
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return scores and labels as checked [N, K] tables of one shape.

    Raises:
        ValueError: they do not fit, see `as_scores` and `as_truth_table`.
    """
    values, truth = as_scores(scores, nonfinite), as_truth_table("labels", labels)
    check_same_shape(scores=values, labels=truth)
    return values, truth


def decision_tables(
    labels: ArrayLike, decisions: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return labels and decisions as checked boolean [N, K] tables of one shape.

    Raises:
        ValueError: they do not fit, see `as_truth_table`.
    """
    truth, decided = as_truth_table("labels", labels), as_truth_table("decisions", decisions)
    check_same_shape(labels=truth, decisions=decided)
    return truth, decided
