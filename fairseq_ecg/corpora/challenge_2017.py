"""PhysioNet/CinC Challenge 2017 (Clifford et al. 2017, Computing in Cardiology 44).

8,528 recordings of 9 to 61 s, 300 Hz, one lead of a hand-held device; each is normal (N), atrial
fibrillation (A), another rhythm (O) or too noisy to tell (~). Neither patients nor the official
test recordings are published. One fifth is held out for testing by a seed of its own; the rest is
divided into train and valid once for each of several seeds, for as many trials with one test set.
Sizes and classes are those of Weimann & Conrad 2021, Scientific Reports 11:5251.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ecg.corpora._base import Corpus, CorpusError, LabelSet, option, register_corpus
from fairseq_ecg.corpora._stratified import (
    nested_subsets,
    share_of,
    stratified_order,
)
from fairseq_ecg.corpora._tables import whole_numbers
from fairseq_ecg.corpora._wfdb_tree import find_headers
from fairseq_ecg.data.ingest import RecordEntry

CLASSES = ("A", "N", "O", "~")
REFERENCE_FILES = ("REFERENCE-v3.csv", "REFERENCE.csv")
RECORD_FOLDERS = ("training2017", "training")
LABEL_SET = "af"

_LAYOUT = (
    f"{REFERENCE_FILES[0]}, or {REFERENCE_FILES[1]}, and {RECORD_FOLDERS[0]} with A00001.hea, "
    "A00001.mat, ..."
)


@register_corpus("challenge-2017")
@dataclass(frozen=True)
class Challenge2017(Corpus):
    """CinC 2017: 8,528 recordings of 9 to 61 s and one lead, four classes, ten divisions."""

    seed: int = option(42, "of the choice of the test recordings")
    split_seeds: str = option(
        "10,20,30,40,50,60,70,80,90,100",
        "of the divisions of the other recordings into train and valid: a label set each",
    )
    test_fraction: float = option(0.2, "share of the recordings in test")
    valid_fraction: float = option(0.0625, "share of the other recordings in valid")
    subsets: str = option("10,25,50,75", "sizes of smaller training sets, in percent; nested")

    def build_defaults(self) -> dict[str, Any]:
        """Return the only lead, taken for lead I, and the rate that networks are pretrained at."""
        return {"rate_hz": 250.0, "leads": ("I",), "lead_map": (("ECG", "I"),)}

    def entries(self, root: Path) -> list[RecordEntry]:
        """List the recordings; see ``Corpus.entries``."""
        file = find_references(root)[0]
        reference = read_reference(file)
        splits = self._divisions(reference)[LABEL_SET].splits
        paths = _find_records(root)
        if not paths.keys() & reference.keys():
            raise CorpusError(
                f"{root} holds none of the {len(reference)} recordings that {file.name} lists; "
                f"give the folder that holds {_LAYOUT}"
            )
        # What the table lists and the folder lacks is an entry too: the build notes it as missing.
        return [
            RecordEntry(
                record,
                paths.get(record, record),
                record,
                splits.get(record, "train"),
                (reference[record],) if record in reference else (),
            )
            for record in sorted(paths.keys() | reference.keys())
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return ``af`` and, for each seed, ``af_s010``, ...; ``af`` is that of the first one."""
        return self._divisions(read_reference(find_references(root)[0]))

    def source_facts(self, root: Path) -> dict[str, Any]:
        """Return which file the labels are of, its hash, and how others differ."""
        file, *others = find_references(root)
        reference = read_reference(file)
        counts = Counter(reference.values())
        return {
            "reference": file.relative_to(root).as_posix(),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "records": len(reference),
            "counts": {name: counts[name] for name in CLASSES},
            "records_labelled_differently": {
                other.relative_to(root).as_posix(): _count_differences(reference, other)
                for other in others
            },
        }

    def remarks(self, summary: Mapping[str, Any]) -> list[str]:
        """Return which labels were taken, and which other ones there are."""
        facts = summary["source"]
        counts = ", ".join(f"{name} {count}" for name, count in facts["counts"].items())
        lines = [f"labels: {facts['reference']} ({counts}), SHA-256 {facts['sha256'][:12]}..."]
        if Path(facts["reference"]).name != REFERENCE_FILES[0]:
            lines.append(
                f"there is no {REFERENCE_FILES[0]}: other versions of the labels differ from it, "
                "and so do the divisions made of them"
            )
        for name, count in facts["records_labelled_differently"].items():
            if count is None:
                lines.append(f"{name} cannot be read and is not used")
            elif count:
                lines.append(f"{name} is not used; recordings with another label there: {count}")
        return lines

    def _divisions(self, reference: Mapping[str, str]) -> dict[str, LabelSet]:
        for name in ("test_fraction", "valid_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise CorpusError(f"{name} must lie in [0, 1), but is {getattr(self, name)}")
        seeds = whole_numbers("split_seeds", self.split_seeds, 0)
        if not seeds:
            raise CorpusError("split_seeds must name one seed at least, such as 10")
        percents = whole_numbers("subsets", self.subsets, 1, 99)
        order = stratified_order(reference, f"test:{self.seed}")
        test = set(share_of(self.test_fraction, order))
        rest = {record: label for record, label in reference.items() if record not in test}
        sets = {
            f"{LABEL_SET}_s{seed:03d}": self._label_set(test, rest, seed, percents)
            for seed in seeds
        }
        return {LABEL_SET: next(iter(sets.values())), **sets}

    def _label_set(
        self, test: set[str], rest: Mapping[str, str], seed: int, percents: tuple[int, ...]
    ) -> LabelSet:
        valid = set(share_of(self.valid_fraction, stratified_order(rest, f"valid:{seed}")))
        train = {record: label for record, label in rest.items() if record not in valid}
        splits = dict.fromkeys(test, "test") | dict.fromkeys(valid, "valid")
        return LabelSet(
            CLASSES,
            lambda codes: codes,
            splits=splits | dict.fromkeys(train, "train"),
            subsets=nested_subsets(train, percents, f"subset:{seed}"),
        )


def find_references(root: Path) -> list[Path]:
    """List the tables of labels, the one to use first.

    Args:
        root: Folder of the dataset, or of its recordings.

    Raises:
        CorpusError: If there is none.
    """
    folders = (root, *(root / name for name in RECORD_FOLDERS))
    found = [folder / name for name in REFERENCE_FILES for folder in folders]
    files = [file for file in found if file.is_file()]
    if not files:
        raise CorpusError(
            f"{root} is not the folder of CinC 2017: it has no {' or '.join(REFERENCE_FILES)}; "
            f"give the folder that holds {_LAYOUT}"
        )
    return files


def read_reference(path: Path) -> dict[str, str]:
    """Read a table of labels: lines ``A00001,N`` without a line of column names.

    Args:
        path: The file.

    Returns:
        The class of each recording, one of ``CLASSES``.

    Raises:
        CorpusError: If a line is something else, or two lines of one recording differ.
    """
    found: dict[str, str] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} is no table of labels: {error}") from None
    for line, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != 2 or not cells[0] or cells[1] not in CLASSES:
            raise CorpusError(
                f"{path}, line {line}: must be a recording and one of {', '.join(CLASSES)}, such "
                f"as A00001,N, but is {','.join(row)[:100]!r}"
            )
        record, label = cells
        if found.setdefault(record, label) != label:
            raise CorpusError(
                f"{path}, line {line}: {record} is {label}, but {found[record]} in another line; "
                "keep one of them"
            )
    if not found:
        raise CorpusError(f"{path} lists no recordings; give the table as distributed")
    return found


def _find_records(root: Path) -> dict[str, str]:
    """Return the path of each recording, relative to ``root`` and without a suffix."""
    folders = [name for name in RECORD_FOLDERS if (root / name).is_dir()]
    folder = folders[0] if folders else ""
    paths: dict[str, str] = {}
    for relative in find_headers(root / folder):
        path = f"{folder}/{relative}" if folder else relative
        record = Path(path).name
        if paths.setdefault(record, path) != path:
            raise CorpusError(
                f"{root} has {record} twice: {paths[record]} and {path}; give the folder of the "
                "training recordings alone"
            )
    return paths


def _count_differences(reference: Mapping[str, str], path: Path) -> int | None:
    """Return how many recordings another table labels differently; None if it is none."""
    try:
        other = read_reference(path)
    except CorpusError:
        return None
    records = reference.keys() | other.keys()
    return sum(reference.get(record) != other.get(record) for record in records)
