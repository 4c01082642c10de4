"""The PhysioNet/CinC 2021 Challenge score, its weights table and its files.

Source: Reyna et al. 2021, "Will Two Do? Varying Dimensions in Electrocardiography: the
PhysioNet/Computing in Cardiology Challenge 2021"; semantics of the official evaluation code. The
2020 score is the same function with the 2020 table; its F_beta and G_beta are
`fairseq_ecg.metrics.multilabel.f_beta_g_beta`.

A class is a set of SNOMED CT codes that count as one diagnosis. All functions take the classes in
the order of the weights table.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairseq_ecg.metrics._checks import decision_tables

SINUS_RHYTHM = "426783006"
FloatArray = NDArray[np.float64]
Classes = Sequence[frozenset[str]]

_DIAGNOSES = re.compile(r"^#?\s*Dx\s*:(.*)$")
_POSITIVE = frozenset({"1", "True", "true", "T", "t"})


def load_weights(path: str | Path) -> tuple[list[frozenset[str]], FloatArray]:
    """Read the official table of weights.

    Args:
        path: a comma-separated table whose first row and first column name the classes; `|` joins
            the codes of one class.

    Returns:
        The classes, each a set of codes, and the weights, float64 [K, K], of deciding the column's
        class where the row's class is true.

    Raises:
        ValueError: the table is not square, its axes name different classes, a class is named
            twice, or an entry is not a finite number.
    """
    with open(path, encoding="utf-8", newline="") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    if len(rows) < 2:
        raise ValueError(f"{path} must hold a square table of weights, but has {len(rows)} rows")
    columns = rows[0][1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns) + 1:
            raise ValueError(
                f"row {number} of {path} must have {len(columns) + 1} cells, as row 1 has, "
                f"but has {len(row)}"
            )
    names = [row[0] for row in rows[1:]]
    if names != columns:
        raise ValueError(
            f"rows and columns of {path} must name the same classes in the same order, but the "
            f"rows are {names} and the columns {columns}"
        )
    classes = [frozenset(code.strip() for code in name.split("|")) for name in names]
    if sum(map(len, classes)) != len(frozenset().union(*classes)):
        raise ValueError(f"{path} must name each code once, but some belong to two classes")
    return classes, np.array([_weights_row(path, row) for row in rows[1:]], dtype=np.float64)


def find_class(classes: Classes, code: str = SINUS_RHYTHM) -> int:
    """Return the index of the class that holds `code`, by default sinus rhythm.

    Raises:
        ValueError: no class holds it.
    """
    for index, codes in enumerate(classes):
        if code in codes:
            return index
    raise ValueError(
        f"one of the {len(classes)} classes must hold the code {code}, but none does; the "
        "challenge score is relative to always answering sinus rhythm (426783006) and needs it"
    )


def modified_confusion(labels: ArrayLike, decisions: ArrayLike) -> FloatArray:
    """Return the confusion table of the challenge score; those of parts of a set can be added.

    Args:
        labels: 0 or 1, [N, K].
        decisions: 0 or 1, [N, K].

    Returns:
        float64 [K, K]: entry (j, k) sums, over the records with true class j and decided class k,
        1 / max(number of classes true or decided, 1).

    Raises:
        ValueError: the shapes differ, or an entry is neither 0 nor 1.
    """
    truth, decided = decision_tables(labels, decisions)
    return (truth * _shares(truth | decided)).T @ decided.astype(np.float64)


@dataclass(frozen=True)
class ChallengeSums:
    """The three sums of the challenge score; those of parts of a set can be added.

    Attributes:
        observed: weighted sum of the confusion of the decisions made.
        correct: the same for decisions that equal the labels.
        inactive: the same for sinus rhythm alone as the answer to every record.
    """

    observed: float
    correct: float
    inactive: float

    def __add__(self, other: ChallengeSums) -> ChallengeSums:
        """Return the sums of both sets of records together."""
        return ChallengeSums(
            self.observed + other.observed,
            self.correct + other.correct,
            self.inactive + other.inactive,
        )

    @property
    def score(self) -> float:
        """1 for correct answers, 0 for always sinus rhythm; 0 where these two are equal."""
        span = self.correct - self.inactive
        return (self.observed - self.inactive) / span if span else 0.0


def challenge_sums(
    labels: ArrayLike, decisions: ArrayLike, weights: ArrayLike, sinus_index: int
) -> ChallengeSums:
    """Return the summable parts of the challenge score.

    Args:
        labels: 0 or 1, [N, K].
        decisions: 0 or 1, [N, K].
        weights: the table of `load_weights`, [K, K].
        sinus_index: which class is sinus rhythm, see `find_class`.

    Raises:
        ValueError: the shapes differ, an entry is neither 0 nor 1, or there is no class of that
            index.
    """
    truth, decided = decision_tables(labels, decisions)
    n_classes = truth.shape[1]
    table = np.asarray(weights, dtype=np.float64)
    if table.shape != (n_classes, n_classes):
        raise ValueError(
            f"weights must have the shape [{n_classes}, {n_classes}], as there are {n_classes} "
            f"classes, but it is {list(table.shape)}"
        )
    if not 0 <= sinus_index < n_classes:
        raise ValueError(
            f"sinus_index must name one of the {n_classes} classes, but is {sinus_index}; "
            "find_class gives it"
        )
    sinus_only = np.zeros_like(truth)
    sinus_only[:, sinus_index] = True
    observed, correct, inactive = (
        float((table * modified_confusion(truth, answer)).sum())
        for answer in (decided, truth, sinus_only)
    )
    return ChallengeSums(observed, correct, inactive)


def challenge_score(
    labels: ArrayLike, decisions: ArrayLike, weights: ArrayLike, sinus_index: int
) -> float:
    """Return the Challenge metric of CinC 2020 and 2021.

    Args:
        labels: 0 or 1, [N, K].
        decisions: 0 or 1, [N, K].
        weights: the table of `load_weights`, [K, K].
        sinus_index: which class is sinus rhythm, see `find_class`.

    Returns:
        1 if all decisions are right, 0 for always sinus rhythm, negative if worse than that; 0 if
        always sinus rhythm is as good as the truth.

    Raises:
        ValueError: the shapes differ, an entry is neither 0 nor 1, or there is no class of that
            index.
    """
    return challenge_sums(labels, decisions, weights, sinus_index).score


def codes_from_header(header: str | Sequence[str]) -> list[str]:
    """Return the diagnosis codes of a WFDB header, in their order, without repetition.

    Both `#Dx: 1,2` and `# Dx: 1,2` are read (the official reader sees only the first and scores
    the others as healthy), the line may be repeated, and empty items are left out.

    Args:
        header: the text of a header file, or its comment lines with or without `#`.

    Raises:
        ValueError: there is no such line: the record is unlabelled, not free of findings.
    """
    if isinstance(header, str):
        lines = [line.strip() for line in header.splitlines() if line.lstrip().startswith("#")]
    else:
        lines = [line.strip() for line in header]
    found = [match.group(1) for line in lines if (match := _DIAGNOSES.match(line))]
    if not found:
        raise ValueError(
            "the header must have a line such as '# Dx: 426783006', but its comments are "
            f"{lines}; leave unlabelled records out of the scoring"
        )
    items = [item.strip() for line in found for item in line.split(",")]
    return list(dict.fromkeys(item for item in items if item))


def labels_from_header(header: str | Sequence[str], classes: Classes) -> NDArray[np.bool_]:
    """Return which classes a WFDB header names.

    Args:
        header: the text of a header file, or its comment lines with or without `#`.
        classes: the K sets of codes; a code that belongs to none is left out.

    Returns:
        bool [K].

    Raises:
        ValueError: the header has no diagnosis line.
    """
    codes = set(codes_from_header(header))
    return np.array([bool(codes & members) for members in classes], dtype=np.bool_)


@dataclass(frozen=True)
class RecordOutput:
    """What a challenge entry answered for one record.

    Attributes:
        record: the name in the first line, empty if there is none.
        decisions: bool [K].
        scores: float64 [K], finite.
    """

    record: str
    decisions: NDArray[np.bool_]
    scores: FloatArray


def read_output_csv(path: str | Path, classes: Classes) -> RecordOutput:
    """Read the output file of a challenge entry: `#record`, codes, decisions, scores.

    Columns may come in any order. Where several name one class it is decided if any is, and its
    score is their mean; a class without a column is not decided and has score 0. A score that is
    not a finite number counts as 0, as in the official reader.

    Args:
        path: the file.
        classes: the K sets of codes; a column whose code belongs to none is left out.

    Raises:
        ValueError: fewer than three lines, or lines of different length. (The official reader
            takes such a file as no finding at all.)
    """
    lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    names = [line.lstrip("# ") for line in lines if line.startswith("#")]
    rows = [[c.strip() for c in line.split(",")] for line in lines if not line.startswith("#")]
    lengths = [len(row) for row in rows]
    if len(rows) < 3 or len(set(lengths)) != 1:
        raise ValueError(
            f"{path} must have a line of codes, one of decisions and one of scores, equally long, "
            f"but has {len(rows)} lines with {lengths} items"
        )
    codes, answers, values = rows[:3]
    belongs = np.array(
        [[bool(members & set(code.split("|"))) for code in codes] for members in classes]
    )
    decided = np.array([answer in _POSITIVE for answer in answers])
    scores = np.array([_finite_or_zero(value) for value in values])
    columns = belongs.sum(axis=1)
    return RecordOutput(
        record=names[0] if names else "",
        decisions=(belongs & decided).any(axis=1),
        scores=(belongs @ scores) / np.maximum(columns, 1),
    )


def _shares(named: NDArray[np.bool_]) -> FloatArray:
    """Return 1 / max(number of classes named, 1) for each record, [N, 1]."""
    shares: FloatArray = 1.0 / np.maximum(named.sum(axis=1, keepdims=True), 1)
    return shares


def _weights_row(path: str | Path, row: list[str]) -> list[float]:
    try:
        values = [float(cell) for cell in row[1:]]
    except ValueError as error:
        raise ValueError(f"weights in {path}, row {row[0]}, must be numbers: {error}") from error
    if not np.isfinite(values).all():
        raise ValueError(f"weights in {path}, row {row[0]}, must be finite, but are {values}")
    return values


def _finite_or_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0
