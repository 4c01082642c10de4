"""PhysioNet/CinC 2021 (and 2020) challenge data, or any folder tree with headers of that form.

The distributed tree is ``training/<database>/g<N>/<record>.{hea,mat}``. Neither patients nor splits
are published, so a recording counts as one patient, except where more is known:

- ``HRxxxxx`` is PTB-XL's ``ecg_id`` xxxxx. With PTB-XL's ``ptbxl_database.csv`` these recordings
  take their patient and official split from it.
- ``ptb`` and ``st_petersburg_incart`` hold several recordings of most of their people, and who is
  who is not published: they stay in ``train``, so that nobody is on both sides.
- A table with the columns record and patient (``records.csv`` in the folder, or the option
  ``patients``) says who is who.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fairseq_ecg.corpora._base import (
    Corpus,
    CorpusError,
    LabelSet,
    option,
    register_corpus,
    split_patients,
)
from fairseq_ecg.corpora._wfdb_tree import Comments, find_headers, read_comments
from fairseq_ecg.corpora.ptb_xl import fold_split, patient_name, read_database
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.resources import challenge_classes, cpsc_classes

DATABASES = (
    "chapman_shaoxing",
    "cpsc_2018",
    "cpsc_2018_extra",
    "georgia",
    "ningbo",
    "ptb",
    "ptb-xl",
    "st_petersburg_incart",
)
PATIENTS_FILE = "records.csv"

_PREFIXES = {
    "A": "cpsc_2018",
    "E": "georgia",
    "HR": "ptb-xl",
    "I": "st_petersburg_incart",
    "Q": "cpsc_2018_extra",
    "S": "ptb",
}
_LAST_OF_CHAPMAN = 10646
_SHARED_PEOPLE = ("ptb", "st_petersburg_incart")


@register_corpus("physionet2021")
@dataclass(frozen=True)
class PhysioNet2021(Corpus):
    """PhysioNet/CinC 2021: 88,253 public recordings of eight databases, SNOMED CT codes."""

    databases: str = option("", "databases to take, separated by commas; all if empty")
    ptbxl_database: str = option("", "ptbxl_database.csv of PTB-XL, for its patients and folds")
    patients: str = option("", f"table of record and patient; {PATIENTS_FILE} if that is there")
    valid_fraction: float = option(0.1, "share of the other patients in valid")
    test_fraction: float = option(0.1, "share of the other patients in test")
    seed: int = option(0, "of the division into splits")

    def entries(self, root: Path) -> list[RecordEntry]:
        """List all headers below the folder; see ``Corpus.entries``."""
        paths = find_headers(root)
        if not paths:
            raise CorpusError(
                f"{root} holds no WFDB header; expected training/<database>/g1/<record>.hea as in "
                "PhysioNet/CinC 2021, or any folders of such files"
            )
        paths = self._choose(root, paths)
        comments = {path: read_comments(root / path) for path in paths}
        if all(found.codes is None for found in comments.values()):
            raise CorpusError(
                f"none of the {len(paths)} headers below {root} has a line '# Dx: ...'; this is "
                "not challenge data. For your own recordings use the corpus wfdb"
            )
        names = _name_records(paths)
        official = self._find_ptbxl(paths)
        people = self._people(root, names) | {path: name for path, (name, _) in official.items()}
        fixed = {people[path]: "train" for path in paths if database_of(path) in _SHARED_PEOPLE}
        fixed |= dict(official.values())
        splits = split_patients(
            people.values(), self.valid_fraction, self.test_fraction, self.seed, fixed
        )
        return [
            _make_entry(path, names[path], people[path], splits[people[path]], comments[path])
            for path in paths
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return ``cinc2021``: the 26 scored classes, recordings without one kept.

        Of the database ``cpsc_2018`` alone also ``cpsc2018``, its own nine classes: the others
        write other codes for some of them.
        """
        del root
        sets = {"cinc2021": label_set_of(challenge_classes(), keep_unlabelled=True)}
        if self._wanted() == ["cpsc_2018"]:
            sets["cpsc2018"] = label_set_of(cpsc_classes(), keep_unlabelled=False)
        return sets

    def _wanted(self) -> list[str]:
        return [name.strip() for name in self.databases.split(",") if name.strip()]

    def _choose(self, root: Path, paths: list[str]) -> list[str]:
        wanted = self._wanted()
        if not wanted:
            return paths
        found = Counter(database_of(path) for path in paths)
        for name in wanted:
            if not found[name]:
                there = ", ".join(f"{db or 'unknown'} ({n})" for db, n in sorted(found.items()))
                raise CorpusError(f"{root} holds no recording of {name!r}; it holds: {there}")
        return [path for path in paths if database_of(path) in wanted]

    def _people(self, root: Path, names: dict[str, str]) -> dict[str, str]:
        """Return the patient of each path: itself, unless a table says more."""
        if self.patients:
            known = _read_patients(Path(self.patients))
        else:
            try:
                known = _read_patients(root / PATIENTS_FILE)
            except CorpusError:  # not there, or some other table of that name
                known = {}
        return {path: known.get(_stem(path)) or name for path, name in names.items()}

    def _find_ptbxl(self, paths: list[str]) -> dict[str, tuple[str, str]]:
        """Return patient and official split of the paths that are in PTB-XL's database."""
        if not self.ptbxl_database:
            return {}
        database = Path(self.ptbxl_database)
        rows = {
            row["ecg_id"].strip().removesuffix(".0"): (
                patient_name(row, database, line),
                fold_split(row, database, line),
            )
            for line, row in read_database(database)
        }
        numbers = {path: re.fullmatch(r"HR0*(\d+)", _stem(path)) for path in paths}
        return {
            path: rows[match[1]] for path, match in numbers.items() if match and match[1] in rows
        }


def label_set_of(classes: Mapping[str, Sequence[str]], keep_unlabelled: bool) -> LabelSet:
    """Return a label set in which each class has the codes that count as it.

    Args:
        classes: Codes by class, in column order.
        keep_unlabelled: See ``LabelSet``.
    """
    by_code = {code: name for name, codes in classes.items() for code in codes}

    def rule(codes: Sequence[str]) -> list[str]:
        return [by_code[code] for code in codes if code in by_code]

    return LabelSet(tuple(classes), rule, keep_unlabelled)


def database_of(path: str) -> str:
    """Return the challenge database of a record, by its folder or else by its name.

    Args:
        path: Path of the record below the corpus folder.

    Returns:
        One of ``DATABASES``; for other trees the first folder below ``training``, or empty.
    """
    parts = PurePosixPath(path).parts
    for part in reversed(parts[:-1]):
        if part in DATABASES:
            return part
    match = re.fullmatch(r"([A-Z]{1,2})(\d{4,5})", parts[-1])
    if match and match[1] == "JS":
        return "chapman_shaoxing" if int(match[2]) <= _LAST_OF_CHAPMAN else "ningbo"
    if match and match[1] in _PREFIXES:
        return _PREFIXES[match[1]]
    return parts[1] if len(parts) > 2 and parts[0] == "training" else ""


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _name_records(paths: list[str]) -> dict[str, str]:
    """Name records by their file, or by their whole path where two files have one name."""
    counts = Counter(_stem(path) for path in paths)
    return {path: _stem(path) if counts[_stem(path)] == 1 else path for path in paths}


def _read_patients(path: Path) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return {row["record"].strip(): row["patient"].strip() for row in csv.DictReader(file)}
    except (OSError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} must be a table with record and patient: {error!r}") from error


def _make_entry(
    path: str, record: str, patient: str, split: str, comments: Comments
) -> RecordEntry:
    return RecordEntry(
        record=record,
        path=path,
        patient=patient,
        split=split,
        codes=comments.codes or (),
        age=comments.age,
        sex=comments.sex,
    )
