"""What the emotion data sets share: folds, targets made of ratings, and the balance of the classes.

After Sarkar & Etemad, "Self-Supervised ECG Representation Learning for Emotion Recognition", IEEE
Transactions on Affective Computing 13(3), 2022: windows of 10 s at 256 Hz, ten folds. Their folds
divide windows, so that each person is in training and in test; here folds of persons are the
default.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ecg.corpora._base import (
    SPLITS,
    Corpus,
    CorpusError,
    LabelSet,
    option,
    rank,
)
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.trial_windows import RATE_HZ

N_FOLDS = 10
SUBJECT, WINDOW10 = "subject", "window10"
LOW, HIGH = "low", "high"
_SEPARATOR = ":"


@dataclass(frozen=True)
class EmotionCorpus(Corpus):
    """A data set of trials, cut into windows, with folds of persons or of windows."""

    protocol: str = option(
        SUBJECT,
        "what the ten folds divide: persons, or windows (optimistic; for comparison only)",
        (SUBJECT, WINDOW10),
    )
    fold: int = option(0, "which fold is test, 0 to 9; the next one is valid, the rest train")
    seed: int = option(0, "of the division into folds")

    def build_defaults(self) -> dict[str, Any]:
        """Return the rate of the windows."""
        return {"rate_hz": RATE_HZ}

    @abc.abstractmethod
    def windows(self, root: Path) -> list[RecordEntry]:
        """List the windows of all trials, each without a split.

        Args:
            root: Folder of the dataset as distributed.

        Raises:
            CorpusError: If the folder does not hold this dataset, or a label is impossible.
        """

    def entries(self, root: Path) -> list[RecordEntry]:
        """List the windows with their splits; see ``Corpus.entries``."""
        found = self.windows(root)
        if self.protocol == WINDOW10:
            names = [entry.record for entry in found]
        else:
            names = [entry.patient for entry in found]
        splits = fold_splits(names, self.fold, self.seed, self.protocol)
        return [
            dataclasses.replace(entry, split=splits[name])
            for entry, name in zip(found, names, strict=True)
        ]

    def remarks(self, summary: Mapping[str, Any]) -> list[str]:
        """Return the balance of the classes, and what is wrong with folds of windows."""
        lines = [f"protocol {self.protocol}: fold {self.fold} is test, the next one valid"]
        if self.protocol == WINDOW10:
            lines.append(
                "warning: windows of one person are in train and in test, so results are "
                "optimistic; they serve for comparison only. --protocol subject keeps persons apart"
            )
        return [*lines, "", *balance(summary["label_sets"])]


def fold_splits(names: Sequence[str], fold: int, seed: int, protocol: str) -> dict[str, str]:
    """Return the split of each name.

    Args:
        names: Persons or records.
        fold: Which of ten folds is test; the next one is valid, after the last comes the first.
        seed: Of the division.
        protocol: For the message.

    Raises:
        CorpusError: If there is no such fold, or there are fewer than three names to divide. With
            fewer than ten names there are as many folds as names.
    """
    n_folds = min(N_FOLDS, len(set(names)))
    if n_folds < len(SPLITS):
        raise CorpusError(
            f"protocol {protocol} needs at least {len(SPLITS)} of what it divides, but there are "
            f"{n_folds}"
        )
    if not 0 <= fold < n_folds:
        raise CorpusError(
            f"fold must be 0 to {n_folds - 1}, but is {fold} (protocol {protocol} has {n_folds} "
            "folds here)"
        )
    role = {fold: "test", (fold + 1) % n_folds: "valid"}
    dealt = deal_folds(names, n_folds, seed)
    return {name: role.get(number, "train") for name, number in dealt.items()}


def deal_folds(names: Iterable[str], n_folds: int, seed: int) -> dict[str, int]:
    """Deal names out to folds, the same way whatever their order.

    Args:
        names: Persons or records, repeated or not.
        n_folds: Number of folds; their sizes differ by one at most.
        seed: Another seed, another division.

    Returns:
        The fold of every name, from 0.
    """
    ranked = sorted(set(names), key=lambda name: rank(seed, name))
    return {name: place % n_folds for place, name in enumerate(ranked)}


def check_amount(name: str, value: float, positive: bool = False) -> None:
    """Refuse an option that is negative or not finite.

    Args:
        name: The option.
        value: Its value.
        positive: Whether 0 is refused, too.

    Raises:
        CorpusError: Naming option and value.
    """
    if not 0 <= value < math.inf or (positive and not value):
        wanted = "above 0" if positive else "at least 0"
        raise CorpusError(f"{name} must be {wanted} and finite, but is {value}")


# --- targets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """A scale of ratings.

    Attributes:
        low: Least rating.
        high: Largest rating.
    """

    low: float
    high: float

    def check_threshold(self, threshold: float) -> None:
        """Refuse a threshold that would make all ratings equal.

        Raises:
            CorpusError: Naming the scale.
        """
        if not self.low <= threshold < self.high:
            raise CorpusError(
                f"threshold must lie on the scale, from {self.low:g} to below {self.high:g}, but "
                f"is {threshold:g}: every rating would be on one side of it"
            )

    def check(self, rating: float, where: str) -> None:
        """Refuse a rating that is not on the scale.

        Args:
            rating: The rating; NaN stands for a missing one.
            where: File and column, for the message.

        Raises:
            CorpusError: Naming file, column and value.
        """
        if not math.isnan(rating) and not self.low <= rating <= self.high:
            raise CorpusError(
                f"{where} must be a rating from {self.low:g} to {self.high:g}, but is {rating:g}; "
                "is it the right column?"
            )


def rating_codes(ratings: Mapping[str, float]) -> tuple[str, ...]:
    """Return the codes of a trial: one for each rating that is not missing.

    Args:
        ratings: By target; NaN where missing.
    """
    return tuple(
        f"{target}{_SEPARATOR}{rating:.12g}"
        for target, rating in ratings.items()
        if not math.isnan(rating)
    )


def rating_sets(targets: Iterable[str], scale: Scale, threshold: float) -> dict[str, LabelSet]:
    """Return two label sets for each target: below or above a threshold, and the rating itself.

    Args:
        targets: Such as arousal.
        scale: Of the ratings.
        threshold: A rating above it is high.

    Returns:
        ``<target>`` with the classes low and high, and ``<target>_rating`` with one class for each
        whole number of the scale, to which ratings are rounded, halves up.
    """
    scale.check_threshold(threshold)
    numbers = [str(number) for number in range(round(scale.low), round(scale.high) + 1)]
    sets = {}
    for target in targets:
        sets[target] = LabelSet((LOW, HIGH), _by_threshold(target, threshold))
        sets[f"{target}_rating"] = LabelSet(tuple(numbers), _by_rounding(target))
    return sets


def class_set(target: str, names: Sequence[str], meaning: Mapping[str, str]) -> LabelSet:
    """Return a label set of a target that is no rating.

    Args:
        target: Of the codes, ``<target>:<value>``.
        names: Its classes, in column order.
        meaning: Class of each value; values without one are left out.
    """

    def rule(codes: Sequence[str]) -> list[str]:
        return [meaning[value] for value in _values(codes, target) if value in meaning]

    return LabelSet(tuple(names), rule)


def code(target: str, value: str) -> str:
    """Return a code of a target that is no rating."""
    return f"{target}{_SEPARATOR}{value}"


def _by_threshold(target: str, threshold: float) -> Callable[[Sequence[str]], list[str]]:
    def rule(codes: Sequence[str]) -> list[str]:
        return [HIGH if float(v) > threshold else LOW for v in _values(codes, target)]

    return rule


def _by_rounding(target: str) -> Callable[[Sequence[str]], list[str]]:
    def rule(codes: Sequence[str]) -> list[str]:
        return [str(math.floor(float(value) + 0.5)) for value in _values(codes, target)]

    return rule


def _values(codes: Sequence[str], target: str) -> list[str]:
    start = f"{target}{_SEPARATOR}"
    return [text.removeprefix(start) for text in codes if text.startswith(start)]


# --- balance ------------------------------------------------------------------------------------


def balance(label_sets: Mapping[str, Any]) -> list[str]:
    """Return how the classes of each label set are distributed, as lines of text.

    Args:
        label_sets: Of ``summary.json``.
    """
    rows = []
    for name, facts in label_sets.items():
        for split in SPLITS:
            counts = facts["split_counts"][split]
            total = sum(counts.values())
            shares = (
                f"{label}: {count} ({100 * count / total:.0f} %)"
                for label, count in counts.items()
                if count
            )
            rows.append(f"  {name}, {split} - {', '.join(shares) or 'nothing'}")
        trivial = [
            split for split in SPLITS if sum(map(bool, facts["split_counts"][split].values())) < 2
        ]
        if trivial:
            rows.append(
                f"  warning: {name} has no two classes in {', '.join(trivial)}: nothing can be "
                "learnt, or compared, there"
            )
    return ["balance of the classes:", *rows]
