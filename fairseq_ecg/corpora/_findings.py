"""What a made-up record can show, which of it goes together, and how often it occurs."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

# Findings in the order in which a header lists them, with their SNOMED CT codes.
CODES = {
    "NSR": "426783006",
    "AF": "164889003",
    "SB": "426177001",
    "STach": "427084000",
    "RBBB": "59118001",
    "LBBB": "164909002",
    "IAVB": "270492004",
    "PVC": "427172004",
    "PAC": "284470004",
    "LAD": "39732003",
    "TInv": "59931005",
}
RHYTHMS = ("NSR", "AF", "SB", "STach")
_EXCLUSIVE = [
    set(RHYTHMS),
    {"RBBB", "LBBB"},
    # No P wave, hence nothing atrial.
    {"AF", "IAVB"},
    {"AF", "PAC"},
    # P would fall into the T wave before, and a premature beat could not be told.
    {"STach", "IAVB"},
    {"STach", "PAC"},
    {"STach", "PVC"},
    # The T wave of a bundle branch block is inverted anyway, and that is not called TInv.
    {"TInv", "RBBB"},
    {"TInv", "LBBB"},
]


def draw_habits(rng: np.random.Generator, age: int) -> set[str]:
    """Draw which findings a patient tends to have."""
    elderly = age >= 60
    shares = np.array([0.56, 0.22 if elderly else 0.12, 0.14, 0.14])
    habits = {str(rng.choice(RHYTHMS, p=shares / shares.sum()))}
    conduction = str(rng.choice(["", "RBBB", "LBBB", "IAVB"], p=[0.60, 0.14, 0.12, 0.14]))
    chances = {"PVC": 0.20, "PAC": 0.22, "LAD": 0.17, "TInv": 0.22}
    tendencies = [name for name, chance in chances.items() if rng.random() < chance]
    return _compatible(habits, [conduction, *tendencies])


def draw_findings(rng: np.random.Generator, habits: set[str]) -> set[str]:
    """Draw what one record shows: rhythms and premature beats come and go, the rest stays."""
    calm, no_premature = rng.random() < 0.12, rng.random() < 0.10
    findings = set(habits)
    if calm:
        findings = findings - set(RHYTHMS) | {"NSR"}
    return findings - {"PVC", "PAC"} if no_premature else findings


def checked_findings(findings: Collection[str]) -> set[str]:
    """Return the findings as a set.

    Raises:
        ValueError: one is unknown, two exclude each other, or there is no rhythm.
    """
    unknown = sorted(set(findings) - CODES.keys())
    if unknown:
        raise ValueError(f"findings must be among {', '.join(CODES)}, but have {unknown}")
    for group in _EXCLUSIVE:
        both = sorted(group & set(findings))
        if len(both) > 1:
            raise ValueError(f"findings must not hold both {both[0]} and {both[1]}")
    if not set(findings) & set(RHYTHMS):
        raise ValueError(
            f"findings must name one rhythm of {', '.join(RHYTHMS)}, but are {sorted(findings)}"
        )
    return set(findings)


def _compatible(findings: set[str], more: list[str]) -> set[str]:
    for name in more:
        if name and not any(name in group and findings & group for group in _EXCLUSIVE):
            findings = findings | {name}
    return findings
