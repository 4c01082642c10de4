"""Manifests of patient identification: whom to train on, whom to find again (Oh et al., CHIL 2022).

Written to ``<dest>/identification``: ``train.tsv`` with the recordings of the training patients,
numbered 0 to P - 1, and for ``valid`` and ``test`` ``<split>_gallery.tsv`` and
``<split>_probe.tsv`` with one recording each of every patient evaluated. A patient is on one side
only.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fairseq_ecg.corpora._base import DATE, SPLITS, CorpusError, split_patients
from fairseq_ecg.data.atomic import write_json
from fairseq_ecg.data.builder import NO_SPLIT, STORE_FOLDER, SUMMARY_FILE
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.data.sources import FolderSource
from fairseq_ecg.data.store import STORE_FILE, Store

FOLDER = "identification"


_EVALUATED = ("valid", "test")


@dataclass(frozen=True)
class _Recording:
    """One recording, or segment file, of a source.

    ``identity`` is what ``records_as_patients`` takes for a patient: segments of one recording
    share it.
    """

    path: str
    n_samples: int
    patient: str
    identity: str
    split: str
    date: str = ""


@dataclass(frozen=True)
class IdentificationReport:
    """What ``write_identification`` wrote, and what it left out.

    Attributes:
        dest: Folder of the manifests.
        train_patients: Number of classes P.
        train_records: Their recordings.
        valid_patients: Pairs of gallery and probe in ``valid``.
        test_patients: The same in ``test``.
        days_apart: Pairs whose two recordings are of different days, as far as the source says.
        unused_records: Recordings of evaluated patients beyond their two.
        single_patients: Patients of the splits evaluated who have only one recording.
        known_records: Recordings of the training folder left out because their patient is
            evaluated; of one folder for both sides always 0.
    """

    dest: Path
    train_patients: int
    train_records: int
    valid_patients: int
    test_patients: int
    days_apart: int
    unused_records: int
    single_patients: int
    known_records: int


def write_identification(
    evaluate: str | Path,
    train: str | Path | None = None,
    dest: str | Path | None = None,
    *,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    keep_splits: bool = False,
    records_as_patients: bool = False,
) -> IdentificationReport:
    """Choose patients and recordings, and write the manifests, each whole or not at all.

    Evaluated are patients with two recordings or more. Their gallery recording is the first in the
    order of the source; their probe the first of another day, or, where days are not known or all
    are one, the second. Further ones are not used.

    Args:
        evaluate: A folder that ``fairseq-ecg manifest`` wrote, or one of fairseq-signals' manifests
            and ``.mat`` segments.
        train: Another such folder to train on, all of it but recordings of evaluated patients, who
            are told by name if both are stores (numbers in ``.mat`` files mean other people in
            another folder). None: the patients of ``evaluate`` who are not evaluated.
        dest: Folder in which ``identification/`` is made; None: ``evaluate``.
        valid_fraction: Share of the patients with two recordings in ``valid``. With ``train``,
            where all of them are evaluated, only its ratio to ``test_fraction`` counts.
        test_fraction: The same in ``test``.
        seed: Another seed, another division; the order of files plays no part.
        keep_splits: Take the splits of the folders' own manifests instead.
        records_as_patients: Each recording of the training side is a class of its own, as in the
            paper.

    Raises:
        ValueError: ``CorpusError``, ``ManifestError`` or ``StoreError``: a folder is none of the
            two kinds, a patient is in two splits, or there is nobody to train on or to evaluate.
    """
    root, recordings = _read_folder(Path(evaluate).expanduser())
    train_root, candidates = root, recordings
    if train is not None:
        train_root, candidates = _read_folder(Path(train).expanduser())
    whose = _group(recordings)
    several = [patient for patient, records in whose.items() if len(records) > 1]
    if keep_splits:
        split_of = _own_splits(whose)
    else:
        fractions = _fractions(valid_fraction, test_fraction, all_of_them=train is not None)
        split_of = split_patients(several, *fractions, seed)
    pairs = {
        split: [_choose_pair(whose[p]) for p in several if split_of[p] == split]
        for split in _EVALUATED
    }
    evaluated = {one.patient for chosen in pairs.values() for one, _ in chosen}
    known = evaluated if _share_names(root, train_root) else set()
    if keep_splits:
        candidates = [r for r in candidates if r.split == "train"]
    labelled = _number([r for r in candidates if r.patient not in known], records_as_patients)
    if not evaluated or not labelled:
        raise CorpusError(
            f"there are {len(evaluated)} patients to evaluate and {len(labelled)} recordings to "
            f"train on, and both are needed; {len(several)} of {len(whose)} patients in {evaluate} "
            "have two recordings or more. Choose other fractions or another folder"
        )
    folder = Path(dest or evaluate).expanduser() / FOLDER
    _write_all(folder, root, pairs, train_root, labelled)
    report = IdentificationReport(
        dest=folder,
        train_patients=1 + max(number for _, number in labelled),
        train_records=len(labelled),
        valid_patients=len(pairs["valid"]),
        test_patients=len(pairs["test"]),
        days_apart=sum(a.date != b.date for chosen in pairs.values() for a, b in chosen),
        unused_records=sum(len(whose[patient]) - 2 for patient in evaluated),
        single_patients=sum(s in _EVALUATED for s in split_of.values()) - len(evaluated),
        known_records=sum(r.patient in known for r in candidates) if train else 0,
    )
    facts = {name: value for name, value in asdict(report).items() if name != "dest"}
    write_json(folder / SUMMARY_FILE, facts)
    return report


def _share_names(one: Path, other: Path) -> bool:
    stores = all((root / STORE_FILE).is_file() for root in (one, other))
    return stores or one.absolute() == other.absolute()


def _fractions(valid: float, test: float, all_of_them: bool) -> tuple[float, float]:
    total = valid + test
    return (valid / total, test / total) if all_of_them and total > 0 else (valid, test)


def _group(recordings: Sequence[_Recording]) -> dict[str, list[_Recording]]:
    whose: dict[str, list[_Recording]] = defaultdict(list)
    for recording in recordings:
        whose[recording.patient].append(recording)
    return dict(whose)


def _own_splits(whose: Mapping[str, Sequence[_Recording]]) -> dict[str, str]:
    for patient, records in whose.items():
        splits = sorted({record.split for record in records})
        if len(splits) > 1:
            raise CorpusError(
                f"patient {patient!r} is in {splits[0]} and in {splits[1]}; a patient belongs to "
                "one split. Leave --keep-splits out to divide the patients anew"
            )
    return {patient: records[0].split for patient, records in whose.items()}


def _choose_pair(records: Sequence[_Recording]) -> tuple[_Recording, _Recording]:
    first, *rest = records
    return first, next((r for r in rest if r.date != first.date), rest[0])


def _number(
    recordings: Sequence[_Recording], records_as_patients: bool
) -> list[tuple[_Recording, int]]:
    """Number the classes from 0 in the order in which they first occur."""
    numbers: dict[str, int] = {}
    names = [r.identity if records_as_patients else r.patient for r in recordings]
    return [
        (recording, numbers.setdefault(name, len(numbers)))
        for recording, name in zip(recordings, names, strict=True)
    ]


def _write_all(
    folder: Path,
    root: Path,
    pairs: Mapping[str, Sequence[tuple[_Recording, _Recording]]],
    train_root: Path,
    labelled: Sequence[tuple[_Recording, int]],
) -> None:
    _write(folder / "train.tsv", train_root, labelled)
    for split, chosen in pairs.items():
        for side, name in enumerate(("gallery", "probe")):
            path = folder / f"{split}_{name}.tsv"
            if chosen:
                _write(path, root, [(pair[side], number) for number, pair in enumerate(chosen)])
            else:
                path.unlink(missing_ok=True)  # of an earlier call


def _write(path: Path, root: Path, rows: Sequence[tuple[_Recording, int]]) -> None:
    """Write a manifest; its root is relative to it, if both are moved together."""
    root, folder = root.absolute(), path.parent.absolute()
    inside = root.is_relative_to(folder.parent)
    first = os.path.relpath(root, folder) if inside else str(root)
    write_manifest(path, first, [(r.path, r.n_samples, number) for r, number in rows])


def _read_folder(folder: Path) -> tuple[Path, list[_Recording]]:
    """Return the root of a folder's recordings, and them in the order of the source."""
    if (folder / STORE_FOLDER / STORE_FILE).is_file():
        return folder / STORE_FOLDER, _read_store(folder / STORE_FOLDER)
    paths = [folder / f"{split}.tsv" for split in SPLITS if (folder / f"{split}.tsv").is_file()]
    if not paths:
        raise CorpusError(
            f"{folder} holds neither a store nor manifests; give a folder that `fairseq-ecg "
            "manifest` wrote, or one with train.tsv of .mat segments"
        )
    return _read_segments(folder, paths)


def _read_store(folder: Path) -> list[_Recording]:
    """Read the index of a store, without what is in none of its splits (duplicates)."""
    index = Store(folder).index
    columns = ("record", "n_samples", "patient", "split", "codes")
    return [
        _Recording(record, int(n_samples), patient, record, split, _date(codes))
        for record, n_samples, patient, split, codes in index[list(columns)].itertuples(index=False)
        if split != NO_SPLIT
    ]


def _date(codes: Sequence[str] | None) -> str:
    found = [code for code in (() if codes is None else codes) if code.startswith(DATE)]
    return found[0].removeprefix(DATE) if found else ""


def _read_segments(folder: Path, paths: Sequence[Path]) -> tuple[Path, list[_Recording]]:
    """Read the manifests of a folder of files, each file for its patient; sorted by name."""
    manifests = {path.stem: read_manifest(path) for path in paths}
    roots = sorted({manifest.root for manifest in manifests.values()})
    if len(roots) > 1:
        raise CorpusError(
            f"the manifests of {folder} have different roots, {roots[0]} and {roots[1]}; one is "
            "needed"
        )
    found = []
    for split, manifest in manifests.items():
        if not len(manifest):
            continue
        source = FolderSource(manifest)
        for row, name in enumerate(source.names):
            patient, identity = str(source.patient(row)), str(source.identity(row))
            length = int(source.n_samples[row])
            found.append(_Recording(name, length, patient, identity, split))
    return roots[0], sorted(found, key=lambda recording: recording.path)
