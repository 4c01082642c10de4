"""One's own recordings: a folder of WFDB records, with or without a table of labels.

The table is a CSV file with a column ``record`` (path below the folder without suffix, or the file
name alone where that is unique), optionally ``patient`` and ``split`` (train, valid, test), and
one column of 0 and 1 per class.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairseq_ecg.corpora._base import (
    SPLITS,
    Corpus,
    CorpusError,
    LabelSet,
    option,
    register_corpus,
    split_patients,
)
from fairseq_ecg.corpora._wfdb_tree import Comments, find_headers, read_comments
from fairseq_ecg.data.ingest import RecordEntry

LABEL_SET = "labels"

_RESERVED = ("record", "patient", "split")
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "")


@dataclass(frozen=True)
class _Row:
    line: int
    record: str
    patient: str
    split: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    path: Path
    classes: tuple[str, ...]
    rows: tuple[_Row, ...]


@register_corpus("wfdb")
@dataclass(frozen=True)
class WfdbFolder(Corpus):
    """Your own folder of WFDB records, optionally with a table of labels, patients and splits."""

    labels: str = option("", "CSV table: record, optional patient and split, then 0/1 per class")
    valid_fraction: float = option(0.1, "share of the patients without a given split in valid")
    test_fraction: float = option(0.1, "share of the patients without a given split in test")
    seed: int = option(0, "of the division into splits")

    def entries(self, root: Path) -> list[RecordEntry]:
        """List all headers below the folder and all rows of the table; see ``Corpus.entries``."""
        paths = find_headers(root)
        if not paths:
            raise CorpusError(f"{root} holds no WFDB header (.hea), nor does any folder below it")
        table = self._table()
        rows = _match(table, paths) if table else {}
        patients = {path: path for path in paths}
        patients |= {path: row.patient for path, row in rows.items() if row.patient}
        # A row without a file is an entry too: the build notes it as missing.
        patients |= {path: path for path in rows if path not in patients}
        fixed = _fixed_splits(table, rows, patients) if table else {}
        splits = split_patients(
            patients.values(), self.valid_fraction, self.test_fraction, self.seed, fixed
        )
        comments = {path: read_comments(root / path) for path in paths}
        return [
            _make_entry(path, patient, splits[patient], rows.get(path), comments.get(path))
            for path, patient in sorted(patients.items())
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return ``labels``, the columns of the table; nothing without a table."""
        del root
        table = self._table()
        if table is None:
            return {}
        return {LABEL_SET: LabelSet(table.classes, _as_they_are, keep_unlabelled=True)}

    def _table(self) -> _Table | None:
        return _read_table(Path(self.labels)) if self.labels else None


def _as_they_are(codes: Sequence[str]) -> Sequence[str]:
    return codes


def _read_table(path: Path) -> _Table:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            lines = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"the table of labels {path} cannot be read: {error}") from error
    classes = tuple(name for name in header if name not in _RESERVED)
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if "record" not in header or not classes or repeated or "" in header:
        raise CorpusError(
            f"{path}, line 1: must name the columns record, optionally patient and split, and at "
            f"least one class, each once, but names {', '.join(header) or 'nothing'}"
        )
    rows = [_parse_row(path, line, header, cells) for line, cells in lines]
    return _Table(path, classes, tuple(rows))


def _parse_row(path: Path, line: int, header: list[str], cells: list[str]) -> _Row:
    if len(cells) != len(header):
        raise CorpusError(
            f"{path}, line {line}: {len(cells)} cells, but line 1 names {len(header)} columns"
        )
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    split = values.get("split", "")
    if split and split not in SPLITS:
        raise CorpusError(
            f"{path}, line {line}: split must be {', '.join(SPLITS)} or empty, but is {split!r}"
        )
    if not values["record"]:
        raise CorpusError(f"{path}, line {line}: the record is empty")
    classes = []
    for name, value in values.items():
        if name in _RESERVED:
            continue
        if value.casefold() not in _TRUE + _FALSE:
            raise CorpusError(f"{path}, line {line}: {name} must be 0 or 1, but is {value!r}")
        if value.casefold() in _TRUE:
            classes.append(name)
    record = values["record"].removesuffix(".hea")
    return _Row(line, record, values.get("patient", ""), split, tuple(classes))


def _match(table: _Table, paths: list[str]) -> dict[str, _Row]:
    """Return the row of each path; rows without a file stand under the name they give."""
    stems = Counter(path.rsplit("/", 1)[-1] for path in paths)
    by_name = {path.rsplit("/", 1)[-1]: path for path in paths}
    by_name = {stem: path for stem, path in by_name.items() if stems[stem] == 1}
    by_name |= {path: path for path in paths}
    rows: dict[str, _Row] = {}
    for row in table.rows:
        if stems[row.record] > 1 and row.record not in by_name:
            raise CorpusError(
                f"{table.path}, line {row.line}: {stems[row.record]} files are called "
                f"{row.record!r}; give the path below the folder"
            )
        path = by_name.get(row.record, row.record)
        if path in rows:
            raise CorpusError(
                f"{table.path}, line {row.line}: record {row.record!r} occurs in line "
                f"{rows[path].line} already"
            )
        rows[path] = row
    return rows


def _fixed_splits(table: _Table, rows: dict[str, _Row], patients: dict[str, str]) -> dict[str, str]:
    fixed: dict[str, str] = {}
    for path, row in rows.items():
        if row.split and fixed.setdefault(patients[path], row.split) != row.split:
            raise CorpusError(
                f"{table.path}, line {row.line}: patient {patients[path]!r} is in "
                f"{fixed[patients[path]]} and in {row.split}; a patient belongs to one split"
            )
    return fixed


def _make_entry(
    path: str, patient: str, split: str, row: _Row | None, comments: Comments | None
) -> RecordEntry:
    return RecordEntry(
        record=path,
        path=path,
        patient=patient,
        split=split,
        codes=None if row is None else row.classes,
        age=comments.age if comments else None,
        sex=comments.sex if comments else "",
    )
