"""Finding WFDB records below a folder, and reading the comments of a header, broken or not."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from fairseq_ecg.data.record_file import RecordError, read_small_file

_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Comments:
    """What the comments of a challenge header say about a person.

    Attributes:
        age: Years, or None.
        sex: ``male``, ``female`` or empty.
        codes: Codes of the Dx line without repetitions, in their order; None without a Dx line.
    """

    age: float | None
    sex: str
    codes: tuple[str, ...] | None


def find_headers(root: Path) -> list[str]:
    """List all WFDB headers below a folder, sorted, without following links to folders.

    Args:
        root: The folder.

    Returns:
        Paths relative to ``root`` without the suffix ``.hea``, with ``/`` between folders.
    """
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(folder).relative_to(root)
        found += [
            (relative / name[:-4]).as_posix()
            for name in files
            if name.endswith(".hea") and not name.startswith(".") and name != ".hea"
        ]
    return sorted(found)


def read_comments(path: Path) -> Comments:
    """Read Age, Sex and Dx of a header, written ``#Dx: ...`` or ``# Dx: ...``.

    Whatever is wrong with the rest of the header is for the reader of signals to say.

    Args:
        path: The record without suffix.
    """
    fields: dict[str, str] = {}
    try:
        text = read_small_file(f"{path}.hea", _MAX_HEADER_BYTES).decode("utf-8", "replace")
    except RecordError:
        text = ""
    for line in text.splitlines():
        name, colon, value = line.strip().removeprefix("#").partition(":")
        if line.lstrip().startswith("#") and colon:
            fields.setdefault(name.strip().casefold(), value.strip())
    codes = None
    if "dx" in fields:
        items = (item.strip() for item in fields["dx"].split(","))
        codes = tuple(dict.fromkeys(item for item in items if item))
    return Comments(parse_age(fields.get("age", "")), parse_sex(fields.get("sex", "")), codes)


def parse_age(text: str) -> float | None:
    """Return an age in years, or None for what is none.

    Args:
        text: As a source writes it.
    """
    try:
        age = float(text)
    except ValueError:
        return None
    return age if math.isfinite(age) and age >= 0 else None


def parse_sex(text: str) -> str:
    """Return ``male``, ``female`` or an empty text.

    Args:
        text: As a source writes it, in any case, or its first letter.
    """
    return {"m": "male", "male": "male", "f": "female", "female": "female"}.get(text.casefold(), "")
