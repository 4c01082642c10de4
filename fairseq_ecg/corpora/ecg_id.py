"""ECG-ID (Lugovaya 2005, master's thesis, LETI; PhysioNet): who is who from lead I alone.

The tree is ``Person_<n>/rec_<m>.{hea,dat,atr}``. A record has two channels, lead I as recorded and
the same filtered. Records are named so that their order is that of ``m``, and carry their date as
a code, because recordings of one session are more alike than those of two days.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ecg.corpora._base import (
    DATE,
    Corpus,
    CorpusError,
    option,
    register_corpus,
    split_patients,
)
from fairseq_ecg.corpora._wfdb_tree import find_headers, read_comments
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.record_file import RecordError, read_small_file

_PATH = re.compile(r"(?:.*/)?[Pp]erson_(\d+)/rec_(\d+)")
_DATE = re.compile(r"^#\s*ECG date\s*:\s*(\d{2})\.(\d{2})\.(\d{4})\s*$", re.MULTILINE)
_CHANNELS = {"filtered": "ECG I filtered", "raw": "ECG I"}
_MAX_HEADER_BYTES = 1 << 16


@register_corpus("ecg-id")
@dataclass(frozen=True)
class EcgId(Corpus):
    """ECG-ID: 310 recordings of 20 s of 90 people, lead I."""

    channel: str = option("filtered", "which of the two channels is lead I", tuple(_CHANNELS))
    valid_fraction: float = option(0.1, "share of the people in valid")
    test_fraction: float = option(0.1, "share of the people in test")
    seed: int = option(0, "of the division into splits")

    def build_defaults(self) -> dict[str, Any]:
        """Return a store of lead I, taken from the channel that was chosen."""
        return {"leads": ("I",), "lead_map": ((_CHANNELS[self.channel], "I"),)}

    def entries(self, root: Path) -> list[RecordEntry]:
        """List the recordings of all people; see ``Corpus.entries``."""
        found = {path: _PATH.fullmatch(path) for path in find_headers(root)}
        matches = {path: match for path, match in found.items() if match}
        if not matches:
            raise CorpusError(
                f"{root} is not the folder of ECG-ID: it holds no Person_<n>/rec_<m>.hea; for your "
                "own recordings use the corpus wfdb"
            )
        people = {path: f"ecgid-{int(match[1]):02d}" for path, match in matches.items()}
        splits = split_patients(people.values(), self.valid_fraction, self.test_fraction, self.seed)
        return [
            _make_entry(root, path, int(match[2]), people[path], splits[people[path]])
            for path, match in matches.items()
        ]


def _make_entry(root: Path, path: str, number: int, person: str, split: str) -> RecordEntry:
    comments = read_comments(root / path)
    date = _read_date(root / path)
    return RecordEntry(
        record=f"{person}-{number:02d}",
        path=path,
        patient=person,
        split=split,
        codes=None if date is None else (f"{DATE}{date}",),
        age=comments.age,
        sex=comments.sex,
    )


def _read_date(path: Path) -> str | None:
    """Return the day of a recording as YYYY-MM-DD, or None if the header does not say it."""
    try:
        text = read_small_file(f"{path}.hea", _MAX_HEADER_BYTES).decode("utf-8", "replace")
    except RecordError:
        return None
    match = _DATE.search(text)
    return f"{match[3]}-{match[2]}-{match[1]}" if match else None
