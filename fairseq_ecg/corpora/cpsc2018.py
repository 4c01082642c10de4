"""CPSC 2018 (Liu et al. 2018, Journal of Medical Imaging and Health Informatics 8(7):1368).

As first distributed: ``TrainingSet1`` to ``TrainingSet3`` with ``A0001.mat``, ... and a
``REFERENCE.csv`` with up to three of nine codes for each. The same recordings are the database
``cpsc_2018`` of PhysioNet/CinC 2020 and 2021, as WFDB files with SNOMED CT codes; either form is
read and gives the same classes. Neither patients nor an official division are published: there are
ten stratified folds, 1 to 8 train, 9 valid, 10 test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fairseq_ecg.corpora._base import Corpus, CorpusError, LabelSet, option, register_corpus
from fairseq_ecg.corpora._folds import split_of, stratified_folds
from fairseq_ecg.corpora._tables import read_table
from fairseq_ecg.corpora.physionet2021 import PhysioNet2021, label_set_of
from fairseq_ecg.data.cpsc_reader import CpscReader
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.resources import cpsc_classes

REFERENCE_FILE = "REFERENCE.csv"
DATABASE = "cpsc_2018"

_NAME = "Recording"
_LABELS = ("First_label", "Second_label", "Third_label")
_LAYOUT = (
    f"TrainingSet1 to TrainingSet3 with A0001.mat, ... and {REFERENCE_FILE}, or the database "
    f"{DATABASE} of PhysioNet/CinC 2021"
)


@register_corpus("cpsc2018")
@dataclass(frozen=True)
class Cpsc2018(Corpus):
    """CPSC 2018: 6,877 recordings of 6 to 60 s and 12 leads, nine classes, ten folds."""

    seed: int = option(0, "of the division into folds")

    def entries(self, root: Path) -> list[RecordEntry]:
        """List the recordings of either form; see ``Corpus.entries``."""
        tables = sorted(root.rglob(REFERENCE_FILE))
        entries = _entries_of_mat(root, tables) if tables else _entries_of_wfdb(root)
        label_set = label_set_of(cpsc_classes(), keep_unlabelled=True)
        labels = {entry.record: label_set.apply(entry.codes) or () for entry in entries}
        folds = stratified_folds(labels, self.seed)
        return [
            dataclasses.replace(entry, split=split_of(folds[entry.record])) for entry in entries
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return ``cpsc2018``, the nine classes; see ``Corpus.label_sets``."""
        del root
        return {"cpsc2018": label_set_of(cpsc_classes(), keep_unlabelled=False)}


def read_reference(paths: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """Read the tables of labels.

    Args:
        paths: One table or several.

    Returns:
        The codes of each recording, 1 to 9, in their order.

    Raises:
        CorpusError: If a column is missing, a code is none of the nine, or two rows of one
            recording differ.
    """
    known = {codes[0] for codes in cpsc_classes().values()}
    found: dict[str, tuple[str, ...]] = {}
    for path in paths:
        for line, row in read_table(path, (_NAME, *_LABELS), "CPSC 2018", _LAYOUT):
            cells = (row[column].strip().removesuffix(".0") for column in _LABELS)
            codes = tuple(dict.fromkeys(cell for cell in cells if cell))
            for code in codes:
                if code not in known:
                    raise CorpusError(f"{path}, line {line}: a label must be 1 to 9, not {code!r}")
            record = row[_NAME].strip()
            if found.setdefault(record, codes) != codes:
                raise CorpusError(
                    f"{path}, line {line}: {record} has the labels {', '.join(codes)}, but "
                    f"{', '.join(found[record])} in another row; keep one of them"
                )
    return found


def _entries_of_mat(root: Path, tables: list[Path]) -> list[RecordEntry]:
    reference = read_reference(tables)
    paths = {path.stem: path.relative_to(root).as_posix() for path in sorted(root.rglob("*.mat"))}
    if not paths.keys() & reference.keys():
        raise CorpusError(
            f"{root} holds none of the {len(reference)} recordings that {tables[0].name} lists; "
            f"give the folder that holds {_LAYOUT}"
        )
    # What a table lists and the folder lacks is an entry too: the build notes it as missing.
    return [
        RecordEntry(
            record,
            paths.get(record, f"{record}.mat"),
            record,
            "train",
            reference.get(record),
            reader=CpscReader(),
        )
        for record in sorted(paths.keys() | reference.keys())
    ]


def _entries_of_wfdb(root: Path) -> list[RecordEntry]:
    try:
        entries = PhysioNet2021(databases=DATABASE).entries(root)
    except CorpusError as error:
        raise CorpusError(
            f"{root} is not the folder of CPSC 2018: it must hold {_LAYOUT} ({error})"
        ) from None
    return [dataclasses.replace(entry, patient=entry.record) for entry in entries]
