"""Where the files that travel with the package are: in a checkout and in an installed wheel."""

from __future__ import annotations

import csv
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def manifests_dir() -> Path:
    """Return the folder of label vocabularies, official splits and scoring weights.

    Raises:
        FileNotFoundError: If the installation lacks it.
    """
    return _find("manifests")


def examples_dir() -> Path:
    """Return the folder of presets, one folder per method.

    Raises:
        FileNotFoundError: If the installation lacks it.
    """
    return _find("examples")


def challenge_weights_file() -> Path:
    """Return the table of weights of the PhysioNet/CinC 2021 challenge."""
    return manifests_dir() / "physionet2021" / "weights.csv"


def challenge_classes() -> dict[str, tuple[str, ...]]:
    """Return the 26 scored classes of the PhysioNet/CinC 2021 challenge.

    Returns:
        For each class, in the official order, the SNOMED CT codes that count as it.
    """
    path = manifests_dir() / "physionet2021" / "classes.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return {
            row["abbreviation"]: tuple(row["snomed_codes"].split("|"))
            for row in csv.DictReader(file)
        }


def challenge_labels() -> list[str]:
    """Return the names of the 26 scored classes in the official order."""
    return list(challenge_classes())


def cpsc_classes() -> dict[str, tuple[str, ...]]:
    """Return the nine classes of CPSC 2018.

    Returns:
        For each class, in the order of the challenge, its number there and the SNOMED CT code that
        CinC 2020 and 2021 write for it.
    """
    path = manifests_dir() / "cpsc2018" / "classes.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return {row["class"]: (row["code"], row["snomed_code"]) for row in csv.DictReader(file)}


def _find(name: str) -> Path:
    installed = _PACKAGE / name
    if installed.is_dir():
        return installed
    checkout = _PACKAGE.parent / name
    # A folder of that name may lie in site-packages too: only beside our sources is it ours.
    if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return checkout
    raise FileNotFoundError(
        f"the folder {name!r} of fairseq_ecg is neither at {installed} nor at {checkout}; "
        "install the package again, or work in a whole checkout"
    )
