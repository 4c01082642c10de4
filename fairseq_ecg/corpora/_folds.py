"""Ten folds in which every label is as frequent as in the whole, for data without patients."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fairseq_ecg.corpora._base import rank

N_FOLDS = 10
VALID_FOLD, TEST_FOLD = 9, 10


def stratified_folds(
    labels: Mapping[str, Collection[str]], seed: int, n_folds: int = N_FOLDS
) -> dict[str, int]:
    """Divide records among folds of equal size, so that each has its share of every label.

    Iterative stratification (Sechidis et al. 2011, "On the Stratification of Multi-Label Data",
    ECML PKDD): the label of which fewest records are left is dealt out first; each of its records
    goes to the fold that lacks most of it, then to the one that lacks most records. Of equal folds
    the last ones are taken, so that few records fill those first that are held out.

    Args:
        labels: Labels of each record, by name.
        seed: Another seed, another division.
        n_folds: Number of folds.

    Returns:
        The fold of each record, 1 to ``n_folds``; the same whatever the order of the records.
    """
    left = sorted(labels, key=lambda record: rank(seed, record))
    members = {
        label: [record for record in left if label in labels[record]]
        for label in sorted({label for found in labels.values() for label in found})
    }
    room = [len(left) / n_folds] * n_folds
    lacking = {label: [len(found) / n_folds] * n_folds for label, found in members.items()}
    folds: dict[str, int] = {}

    def place(record: str, wanted: list[float]) -> None:
        fold = max(range(n_folds), key=lambda k: (wanted[k], room[k], k))
        folds[record] = fold + 1
        room[fold] -= 1
        for label in set(labels[record]):
            lacking[label][fold] -= 1

    while members:
        rarest = min(members, key=lambda label: len(members[label]))
        for record in members.pop(rarest):
            place(record, lacking[rarest])
        members = {
            label: [record for record in found if record not in folds]
            for label, found in members.items()
        }
    for record in left:
        if record not in folds:
            place(record, room)
    return folds


def split_of(fold: int) -> str:
    """Return the split of one of ten folds: 1 to 8 train, 9 valid, 10 test."""
    return {VALID_FOLD: "valid", TEST_FOLD: "test"}.get(fold, "train")
