"""Orders of records of which every beginning has its share of each class; no patients are known.

What is held out and what is trained on less are beginnings of such an order: exact in size, nested
in each other, and as the whole in the shares of the classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from fairseq_ecg.corpora._base import rank


def stratified_order(labels: Mapping[str, str], seed: str) -> list[str]:
    """Put records into an order of which every beginning has its share of each class.

    The records of a class are ordered by a hash of seed and name, and the i-th of n stands at
    (i - 1/2) / n; the classes are then merged (Webster's method for the seats of a parliament). So
    a beginning differs from the whole by a record or two of each class, at any length.

    Args:
        labels: The class of each record, by name.
        seed: Purpose and number, such as ``test:42``; another one, another order.

    Returns:
        All names; the same whatever the order of ``labels``.
    """
    members: dict[str, list[tuple[bytes, str]]] = {}
    for place in sorted((rank(seed, record), record) for record in labels):
        members.setdefault(labels[place[1]], []).append(place)
    places = [
        ((2 * i + 1) / (2 * len(found)), *place)  # equal shares are equal floats
        for found in members.values()
        for i, place in enumerate(found)
    ]
    return [record for _, _, record in sorted(places)]


def share_of(fraction: float | Fraction, records: Sequence[str]) -> list[str]:
    """Return the beginning that makes this share of an order, rounded up to whole records.

    Args:
        fraction: In [0, 1]; a float is taken for the decimal number that it is written as.
        records: The order.
    """
    exact = fraction if isinstance(fraction, Fraction) else Fraction(str(fraction))
    return list(records[: math.ceil(exact * len(records))])


def nested_subsets(train: Mapping[str, str], percents: Sequence[int], seed: str) -> dict[str, set]:
    """Choose smaller training sets, each part of the next larger one.

    Args:
        train: The class of each training record.
        percents: Sizes in percent of it.
        seed: As for ``stratified_order``.

    Returns:
        Records by the name of the manifest: ``train_010`` for 10 percent.
    """
    order = stratified_order(train, seed)
    return {f"train_{p:03d}": set(share_of(Fraction(p, 100), order)) for p in percents}
