"""PTB-XL (Wagner et al. 2020, Scientific Data 7:154), as distributed by PhysioNet.

Official folds: 1 to 8 train, 9 valid, 10 test; no patient is in two of them. Label sets are those
of Strodthoff et al. 2020 ("Deep Learning for ECG Analysis: Benchmarks and Insights from PTB-XL"):
likelihoods are ignored, so that a statement listed with 0 counts, and recordings without a label
of the set are left out of it. ``cinc2021`` has the 26 classes of the PhysioNet/CinC 2021 challenge
instead (see ``manifests/ptb_xl/README.md``).
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ecg.corpora._base import Corpus, CorpusError, LabelSet, option, register_corpus
from fairseq_ecg.corpora._folds import split_of
from fairseq_ecg.corpora._tables import read_table, whole_number
from fairseq_ecg.corpora._wfdb_tree import parse_age
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.resources import challenge_labels, manifests_dir

DATABASE_FILE = "ptbxl_database.csv"
STATEMENTS_FILE = "scp_statements.csv"
AXIS = "axis:"
"""Prefix of the codes that come from the column heart_axis."""

_FOLDER = ("PTB-XL", f"{DATABASE_FILE}, {STATEMENTS_FILE} and records500")
_KINDS = ("diagnostic", "form", "rhythm")


@register_corpus("ptb-xl")
@dataclass(frozen=True)
class PtbXl(Corpus):
    """PTB-XL: 21,799 recordings of 10 s and 12 leads, SCP-ECG statements, official folds."""

    sampling: int = option(500, "which of the two sets of files to read, in Hz", (100, 500))
    cinc_map: str = option("", "another table than the package's for the label set cinc2021")

    def build_defaults(self) -> dict[str, Any]:
        """Return the rate of the files; the official folds stay whole, duplicates included."""
        return {"rate_hz": float(self.sampling), "duplicates": "keep"}

    def entries(self, root: Path) -> list[RecordEntry]:
        """List the recordings of ``ptbxl_database.csv``; see ``Corpus.entries``."""
        column = "filename_hr" if self.sampling == 500 else "filename_lr"
        rows = read_database(root / DATABASE_FILE, (column, "age", "sex", "heart_axis"))
        return [_make_entry(root / DATABASE_FILE, n, row, column) for n, row in rows]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return the six sets of the benchmark and ``cinc2021``; see ``Corpus.label_sets``."""
        statements = _read_statements(root / STATEMENTS_FILE)
        sets = {"all": _as_they_are(statements)}
        for kind in _KINDS:
            sets[kind] = _as_they_are(
                code for code, row in statements.items() if _is_set(row, kind)
            )
        for name, column in (
            ("subdiagnostic", "diagnostic_subclass"),
            ("superdiagnostic", "diagnostic_class"),
        ):
            classes = {
                code: row[column].strip()
                for code, row in statements.items()
                if _is_set(row, "diagnostic") and row[column].strip()
            }
            sets[name] = _translated({code: (name,) for code, name in classes.items()})
        sets["cinc2021"] = _challenge_set(Path(self.cinc_map) if self.cinc_map else None)
        return sets


def read_database(path: Path, columns: Iterable[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Read ``ptbxl_database.csv``.

    Args:
        path: The file.
        columns: Columns that must be there besides those of patient, fold and statements.

    Returns:
        Line number and cells of each recording.

    Raises:
        CorpusError: If the file or a column is missing.
    """
    required = ("ecg_id", "patient_id", "scp_codes", "strat_fold", *columns)
    return read_table(path, required, *_FOLDER)


def patient_name(row: dict[str, str], path: Path, line: int) -> str:
    """Return the name of a recording's patient, the same wherever PTB-XL is used.

    Args:
        row: A row of the database.
        path: The database, for the error.
        line: Its line number, for the error.

    Raises:
        CorpusError: If the cell is not a number.
    """
    return f"ptbxl-{whole_number(row, 'patient_id', path, line)}"


def fold_split(row: dict[str, str], path: Path, line: int) -> str:
    """Return the split of a recording's official fold.

    Args:
        row: A row of the database.
        path: The database, for the error.
        line: Its line number, for the error.

    Raises:
        CorpusError: If the fold is not 1 to 10.
    """
    fold = whole_number(row, "strat_fold", path, line)
    if not 1 <= fold <= 10:
        raise CorpusError(f"{path}, line {line}: strat_fold must be 1 to 10, but is {fold}")
    return split_of(fold)


def _make_entry(path: Path, line: int, row: dict[str, str], column: str) -> RecordEntry:
    codes = _parse_statements(path, line, row["scp_codes"])
    if row["heart_axis"].strip():
        codes.append(AXIS + row["heart_axis"].strip())
    return RecordEntry(
        record=row[column].rsplit("/", 1)[-1],
        path=row[column],
        patient=patient_name(row, path, line),
        split=fold_split(row, path, line),
        codes=tuple(codes),
        age=parse_age(row["age"]),
        sex={"0": "male", "1": "female"}.get(row["sex"].strip().removesuffix(".0"), ""),
    )


def _parse_statements(path: Path, line: int, text: str) -> list[str]:
    try:
        codes = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        codes = None
    if not isinstance(codes, dict) or not all(isinstance(code, str) for code in codes):
        raise CorpusError(
            f"{path}, line {line}: scp_codes must be a dictionary such as {{'NORM': 100.0}}, but "
            f"is {text[:80]!r}"
        )
    return list(codes)


def _read_statements(path: Path) -> dict[str, dict[str, str]]:
    required = (*_KINDS, "diagnostic_class", "diagnostic_subclass")
    rows = read_table(path, required, *_FOLDER)
    # The column of the codes has no name in the original.
    code_column = next(iter(rows[0][1]))
    return {row[code_column].strip(): row for _, row in rows}


def _is_set(row: dict[str, str], kind: str) -> bool:
    return row[kind].strip() in ("1", "1.0")


def _as_they_are(codes: Iterable[str]) -> LabelSet:
    return _translated({code: (code,) for code in codes})


def _translated(classes: dict[str, tuple[str, ...]]) -> LabelSet:
    names = sorted({name for found in classes.values() for name in found})
    return LabelSet(tuple(names), lambda codes: (n for c in codes for n in classes.get(c, ())))


def _challenge_set(path: Path | None) -> LabelSet:
    path = path or manifests_dir() / "ptb_xl" / "cinc2021.csv"
    names = challenge_labels()
    classes: dict[str, tuple[str, ...]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if row["class"] not in names:
                    raise CorpusError(f"{path}: {row['class']!r} is none of {', '.join(names)}")
                classes[row["statement"]] = (*classes.get(row["statement"], ()), row["class"])
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} must be a table with statement and class: {error!r}") from error
    rule = _translated(classes).rule
    return LabelSet(tuple(names), rule, keep_unlabelled=True)
