"""CODE-15% (Ribeiro et al. 2021, Zenodo 4916206): 345,779 exams of 233,770 patients.

``exams.csv`` lists the exams, ``exams_part0.hdf5`` to ``exams_part17.hdf5`` hold the tracings at
400 Hz, in another order. The files hold twice the millivolts (``units_per_mv``): halved, the
complexes are as high as those of PTB-XL. There are no official splits: patients are divided by a
hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ecg.corpora._base import (
    Corpus,
    CorpusError,
    LabelSet,
    option,
    register_corpus,
    split_patients,
)
from fairseq_ecg.corpora._tables import read_table, whole_number
from fairseq_ecg.corpora._wfdb_tree import parse_age
from fairseq_ecg.data.hdf5_reader import CODE_RATE_HZ, TracingReader, find_tracings
from fairseq_ecg.data.ingest import RecordEntry

EXAMS_FILE = "exams.csv"
DIAGNOSES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
NORMAL = "normal_ecg"
MALE = "is_male"

_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0", "")


@register_corpus("code-15")
@dataclass(frozen=True)
class Code15(Corpus):
    """CODE-15%: 345,779 exams of 7 to 10 s and 12 leads, six abnormalities and "normal"."""

    units_per_mv: float = option(2.0, "divide the numbers by this; 1 takes them as they are")
    valid_fraction: float = option(0.1, "share of the patients in valid")
    test_fraction: float = option(0.1, "share of the patients in test")
    seed: int = option(0, "of the division into splits")

    def build_defaults(self) -> dict[str, Any]:
        """Return the rate of the files."""
        return {"rate_hz": CODE_RATE_HZ}

    def entries(self, root: Path) -> list[RecordEntry]:
        """List the rows of ``exams.csv``; see ``Corpus.entries``.

        Exams without a tracing are entries too: the build notes them as missing.
        """
        if not self.units_per_mv > 0:
            raise CorpusError(f"units_per_mv must be positive, but is {self.units_per_mv}")
        path = root / EXAMS_FILE
        rows = read_exams(path)
        files = sorted({row["trace_file"] for _, row in rows})
        places = find_tracings(root, files)
        if not places:
            raise CorpusError(
                f"{root} holds no tracing: {EXAMS_FILE} names {', '.join(files[:3])}, ...; unpack "
                "the archives exams_part0.zip, ... there"
            )
        patients = [f"code15-{whole_number(row, 'patient_id', path, line)}" for line, row in rows]
        splits = split_patients(patients, self.valid_fraction, self.test_fraction, self.seed)
        return [
            self._entry(path, line, row, patient, splits[patient], places)
            for (line, row), patient in zip(rows, patients, strict=True)
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return the six abnormalities, the same with "normal", and the columns of ECG-FM."""
        del root
        return {
            "diagnoses": LabelSet(DIAGNOSES, _as_they_are, keep_unlabelled=True),
            "diagnoses_normal": LabelSet((*DIAGNOSES, NORMAL), _as_they_are, keep_unlabelled=True),
            "ecg_fm": LabelSet((MALE, *DIAGNOSES, NORMAL), _as_they_are, keep_unlabelled=True),
        }

    def _entry(
        self,
        path: Path,
        line: int,
        row: dict[str, str],
        patient: str,
        split: str,
        places: dict[tuple[str, int], int],
    ) -> RecordEntry:
        exam_id = whole_number(row, "exam_id", path, line)
        is_male = _flag(path, line, row, MALE)
        return RecordEntry(
            record=str(exam_id),
            path=row["trace_file"],
            patient=patient,
            split=split,
            codes=tuple(
                name for name in (MALE, *DIAGNOSES, NORMAL) if _flag(path, line, row, name)
            ),
            age=parse_age(row["age"]),
            sex="male" if is_male else "female",
            reader=TracingReader(
                exam_id, places.get((row["trace_file"], exam_id), -1), self.units_per_mv
            ),
        )


def read_exams(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read ``exams.csv``.

    Args:
        path: The file.

    Returns:
        Line number and cells of each exam.

    Raises:
        CorpusError: If the file, a column or a cell is missing; names the file and the column.
    """
    required = ("exam_id", "age", MALE, *DIAGNOSES, "patient_id", NORMAL, "trace_file")
    wanted = f"{EXAMS_FILE} and the unpacked exams_part0.hdf5, ..."
    return read_table(path, required, "CODE-15%", wanted)


def _as_they_are(codes: Sequence[str]) -> Sequence[str]:
    return codes


def _flag(path: Path, line: int, row: dict[str, str], column: str) -> bool:
    text = row[column].strip().casefold()
    if text not in _TRUE + _FALSE:
        raise CorpusError(
            f"{path}, line {line}: {column} must be True or False, but is {row[column]!r}"
        )
    return text in _TRUE
