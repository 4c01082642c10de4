"""MIT-BIH Arrhythmia Database (Moody & Mark 2001, IEEE Eng Med Biol 20(3):45; PhysioNet), in place.

48 recordings of half an hour, two leads at 360 Hz, with every beat and rhythm annotated. Two of
them, 201 and 202, are of one person.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fairseq_ecg.corpora._base import CorpusError, option, register_corpus, split_patients
from fairseq_ecg.corpora._in_place import InPlaceCorpus
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.record_file import RecordError, read_small_file

RECORDS_FILE = "RECORDS"

_MAX_LIST_BYTES = 1 << 20
_RECORD = re.compile(r"[12]\d\d")
_SAME_PERSON = {"202": "201"}


@register_corpus("mit-bih")
@dataclass(frozen=True)
class MitBih(InPlaceCorpus):
    """MIT-BIH Arrhythmia: 48 recordings of 30 min and two leads, beats and rhythms; in place."""

    valid_fraction: float = option(0.1, "share of the people in valid")
    test_fraction: float = option(0.1, "share of the people in test")
    seed: int = option(0, "of the division into splits")

    rate_hz: ClassVar[float] = 360.0

    def entries(self, root: Path) -> list[RecordEntry]:
        """List the recordings, and those in ``RECORDS``; see ``InPlaceCorpus.entries``."""
        found = {path.stem for path in root.glob("*.hea") if _RECORD.fullmatch(path.stem)}
        if not found:
            raise CorpusError(
                f"{root} is not the folder of the MIT-BIH Arrhythmia Database: it holds no 100.hea "
                "or the like"
            )
        records = sorted(found | _read_listed(root / RECORDS_FILE))
        people = {record: _SAME_PERSON.get(record, record) for record in records}
        splits = split_patients(people.values(), self.valid_fraction, self.test_fraction, self.seed)
        return [
            RecordEntry(record, record, person, splits[person]) for record, person in people.items()
        ]


def _read_listed(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    try:
        lines = read_small_file(str(path), _MAX_LIST_BYTES).decode("utf-8", "replace").split()
    except RecordError as error:
        raise CorpusError(str(error)) from error
    return {line for line in lines if _RECORD.fullmatch(line)}
