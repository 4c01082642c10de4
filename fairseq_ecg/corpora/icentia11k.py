"""Icentia11k (Tan et al. 2019, arXiv:1910.09570; PhysioNet, doi:10.13026/kk0v-r952), in place.

11,000 patients with a single-lead monitor, up to 50 segments of 70 minutes each at 250 Hz:
``p00/p00000/p00000_s00.{hea,dat,atr}`` to ``p10/p10999/...``. The set is over 1 TiB large and is
read where it lies. Who is in validation, and in which part of the training set, follows from the
number of the patient alone, so that it is the same for every copy, however incomplete.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fairseq_ecg.corpora._base import CorpusError, option, rank, register_corpus
from fairseq_ecg.corpora._in_place import InPlaceCorpus
from fairseq_ecg.corpora._tables import whole_numbers
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.record_file import RecordError, read_small_file

N_PATIENTS = 11_000
RECORDS_FILE = "RECORDS"

_MAX_LIST_BYTES = 64 << 20
_GROUP = re.compile(r"p(?:0\d|10)")
_PATIENT = re.compile(r"p((?:0\d|10)\d{3})")
_SEGMENT = re.compile(r"p\d{5}_s\d{2}")
# A line of RECORDS: a segment, or the folder of a patient.
_LISTED = re.compile(r"(?:.*/)?(?P<folder>p(?:0\d|10)\d{3})(?P<segment>_s\d{2})?/?")


@register_corpus("icentia11k")
@dataclass(frozen=True)
class Icentia11k(InPlaceCorpus):
    """Icentia11k: 11,000 patients, one lead for up to two weeks, beats and rhythms; in place."""

    patients: float = option(1.0, "share of the training patients, nested, in steps of 0.001")
    valid_patients: float = option(550.0, "patients in valid; below 1 a share of the 11,000")
    subsets: str = option("", "percents, such as 1,10,20,50: nested train_001.tsv, train_010.tsv")
    seed: int = option(42, "of the division of patients")

    rate_hz: ClassVar[float] = 250.0
    splits: ClassVar[tuple[str, ...]] = ("train", "valid")

    def entries(self, root: Path) -> list[RecordEntry]:
        """List the segments of the chosen patients; see ``InPlaceCorpus.entries``.

        Raises:
            CorpusError: If the folder is another one, an option makes no sense, or none of its
                patients is chosen.
        """
        folders = find_patients(root)
        splits = self._splits(folders)
        listed = _read_listed(root)
        entries = [
            RecordEntry(path.rpartition("/")[2], path, str(patient), splits[patient])
            for patient in sorted((folders.keys() | listed.keys()) & splits.keys())
            for path in _paths(root, patient, listed.get(patient, set()))
        ]
        if not entries:
            raise CorpusError(
                f"of the patients in {root} ({len(folders)}) none is in valid or among the first "
                f"{self.patients:g} of the training patients; use a larger --patients"
            )
        return entries

    def parts_of_train(self) -> dict[str, Collection[str]]:
        """Return ``train_001`` and the like; see ``InPlaceCorpus.parts_of_train``."""
        _, order = self.division()
        return {
            f"train_{percent:03d}": {str(id) for id in order[: _count(percent * 10, len(order))]}
            for percent in self._percents()
        }

    def source_facts(self, root: Path) -> dict[str, Any]:
        """Say who of the 11,000 is not here; see ``Corpus.source_facts``."""
        folders = find_patients(root)
        valid, _ = self.division()
        return {
            "patients_in_folder": len(folders),
            "patients_absent": N_PATIENTS - len(folders),
            "moved_to_valid": [id for id in self._moved(folders) if id not in valid],
        }

    def remarks(self, summary: Mapping[str, Any]) -> list[str]:
        """See ``InPlaceCorpus.remarks``; also what follows from an incomplete copy."""
        facts = summary["source"]
        lines = super().remarks(summary)
        if facts["patients_absent"]:
            lines.append(
                f"patients in the folder: {facts['patients_in_folder']:,} of {N_PATIENTS:,}"
            )
        if facts["moved_to_valid"]:
            lines.append(
                f"none of the {self._n_valid()} validation patients of seed {self.seed} is in the "
                f"folder; in their place: {', '.join(map(str, facts['moved_to_valid'][:10]))}"
            )
        return lines

    def division(self) -> tuple[set[int], list[int]]:
        """Divide all 11,000 patients, whether they are there or not.

        Returns:
            Those in valid, and all others in the order in which training sets are filled.

        Raises:
            CorpusError: If ``valid_patients`` makes no sense.
        """
        valid = set(self._validation_order()[: self._n_valid()])
        others = (id for id in range(N_PATIENTS) if id not in valid)
        return valid, sorted(others, key=lambda id: rank(f"subset:{self.seed}", f"{id:05d}"))

    def _validation_order(self) -> list[int]:
        return sorted(range(N_PATIENTS), key=lambda id: rank(f"valid:{self.seed}", f"{id:05d}"))

    def _n_valid(self) -> int:
        wanted = self.valid_patients
        count = round(wanted * N_PATIENTS) if wanted < 1 else wanted
        if not (0 <= wanted < N_PATIENTS and count == int(count)):
            raise CorpusError(
                f"--valid-patients must be a whole number below {N_PATIENTS} or a share below 1, "
                f"but is {wanted:g}"
            )
        return int(count)

    def _percents(self) -> list[int]:
        percents = whole_numbers("subsets", self.subsets, 1, 100)
        for percent in percents:
            if percent * 10 > self._per_mille():
                raise CorpusError(
                    f"--subsets has {percent} percent, but --patients {self.patients:g} takes fewer"
                )
        return sorted(percents)

    def _per_mille(self) -> int:
        share = self.patients * 1000
        if not (0 < share <= 1000 and abs(share - round(share)) < 1e-6):
            raise CorpusError(
                f"--patients must be above 0, at most 1 and in steps of 0.001, but is "
                f"{self.patients:g}"
            )
        return round(share)

    def _splits(self, folders: Collection[int]) -> dict[int, str]:
        """Return the split of every patient who is chosen, there or not; one alone is in train."""
        self._percents()
        valid, order = self.division()
        valid = valid | set(self._moved(folders))
        chosen = order[: _count(self._per_mille(), len(order))]
        splits = dict.fromkeys(chosen, "train") | dict.fromkeys(valid, "valid")
        if len(folders) == 1 and valid.issuperset(folders):
            splits |= dict.fromkeys(folders, "train")
        return splits

    def _moved(self, folders: Collection[int]) -> list[int]:
        """Return who of a small copy is in valid; empty where the division itself serves.

        Where no validation patient is there, the first of those that are take their place, in
        proportion, unless there is but one patient.
        """
        n_valid = self._n_valid()
        order = self._validation_order()
        if len(folders) < 2 or not n_valid or not set(order[:n_valid]).isdisjoint(folders):
            return []
        wanted = max(1, round(len(folders) * n_valid / N_PATIENTS))
        return [id for id in order if id in folders][:wanted]


def find_patients(root: Path) -> dict[int, Path]:
    """Find the folders of patients.

    Args:
        root: Folder of the release, with ``p00`` to ``p10``.

    Returns:
        Folder of each patient by number, in their order.

    Raises:
        CorpusError: If there is none.
    """
    groups = [path for path in root.iterdir() if _GROUP.fullmatch(path.name) and path.is_dir()]
    found = {}
    for folder in (path for group in groups for path in group.iterdir()):
        match = _PATIENT.fullmatch(folder.name)
        if match and folder.is_dir() and folder.parent.name == folder.name[:3]:
            found[int(match[1])] = folder
    if not found:
        raise CorpusError(
            f"{root} is not the folder of Icentia11k: it holds no p00/p00000 or the like; give the "
            "folder that holds p00 to p10"
        )
    return dict(sorted(found.items()))


def _read_listed(root: Path) -> dict[int, set[str]]:
    """Return patients in ``RECORDS`` and the names of their segments, as far as they are given."""
    path = root / RECORDS_FILE
    if not path.is_file():
        return {}
    try:
        text = read_small_file(str(path), _MAX_LIST_BYTES).decode("utf-8", "replace")
    except RecordError as error:
        raise CorpusError(str(error)) from error
    listed: dict[int, set[str]] = {}
    for line in text.splitlines():
        match = _LISTED.fullmatch(line.strip())
        if match:
            names = listed.setdefault(int(match["folder"][1:]), set())
            names.update([match["folder"] + match["segment"]] if match["segment"] else [])
    return listed


def _paths(root: Path, patient: int, listed: set[str]) -> Iterator[str]:
    """Yield the segments of a patient below the root; the folder's name where there is none."""
    name = f"p{patient:05d}"
    folder = root / name[:3] / name
    names = set()
    if folder.is_dir():
        headers = (path.stem for path in folder.iterdir() if path.suffix == ".hea")
        names = listed | {stem for stem in headers if _SEGMENT.fullmatch(stem)}
    for stem in sorted(names) or [name]:
        yield f"{name[:3]}/{name}/{stem}"


def _count(per_mille: int, total: int) -> int:
    return -(-per_mille * total // 1000)
