"""A folder of fairseq-signals -> our store and manifests, without losing a bit.

Each ``.mat`` segment becomes one record of a float32 store under the name that the manifests give
it, so batches of the packed form are those of the folder: the same items in the same order, the
same pairs, labels and contrastive identities. Manifests of every kind stay what they are. A folder
of the newer preprocessing that has no manifests yet is read through its tables
(``segmented_split.csv``, or ``segmented.csv`` with ``meta_split.csv``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairseq_ecg.data.atomic import remove_temporary_files, write_json
from fairseq_ecg.data.builder import STORE_FOLDER, SUMMARY_FILE, DatasetReport, build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.label_arrays import LABEL_ARRAY_FILE, read_label_array
from fairseq_ecg.data.ledger import LedgerRow, count_reasons
from fairseq_ecg.data.manifest import (
    LABELS_FILE,
    Manifest,
    join_labels,
    read_manifest,
    write_classes,
    write_manifest,
)
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.segment_file import (
    SEGMENT_NAME,
    Segment,
    SegmentReader,
    read_segment,
    recording_name,
)
from fairseq_ecg.data.store import Store
from fairseq_ecg.interop._tables import (
    META_FILE,
    META_SPLIT_FILE,
    SEGMENTED_FILE,
    SEGMENTED_SPLIT_FILE,
    read_table,
)

LABEL_SET_FOLDER = "labels"
PAIRS_FOLDER = "cmsc"
CORPUS = "fairseq-signals"

_PATIENT_COLUMNS = ("patient_id", "subject_id")
_SPLIT_ORDER = ("train", "valid", "test")


class PackError(ValueError):
    """A folder that cannot be packed; the message names the file, and the column or line."""


@dataclass(frozen=True)
class _Labels:
    """Where the classes of a segment come from.

    Attributes:
        names: In column order.
        array: Row ``idx`` has the labels of a segment, float32 [N, K]; None if each file has its
            own.
    """

    names: tuple[str, ...]
    array: np.ndarray | None


def pack(
    folder: str | Path,
    dest: str | Path,
    *,
    labels: str | Path | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> DatasetReport:
    """Pack a folder of fairseq-signals; a run that was stopped goes on.

    Written to ``dest``: ``store/``, ``ledger.csv``, ``summary.json``, each manifest under its own
    name, ``cmsc/`` with the pairs of adjacent segments of plain manifests, and ``labels/`` with
    plain manifests that name classes, where labels are known.

    Args:
        folder: Holds ``train.tsv``, ``valid.tsv``, ..., or the tables of the newer preprocessing.
        dest: Folder to write to.
        labels: Label array, row ``idx`` for a segment. None takes ``labels/y.npy`` or ``y.npy`` of
            the folder if there is one, and otherwise the ``label`` inside each file.
        workers: Processes.
        executor: An executor to use in place of our own processes.
        overwrite: Discard an earlier build in ``dest``.
        progress: Show a progress bar.

    Returns:
        Store, ledger and summary. Segments that cannot be read are in the ledger and in no
        manifest.

    Raises:
        ValueError: ``PackError``, ``ManifestError``, ``LabelArrayError`` or ``BuildError``: the
            folder is not what it should be, or ``dest`` cannot be used.
    """
    folder, dest = Path(folder).expanduser().absolute(), Path(dest).expanduser().absolute()
    manifests = _read_manifests(folder)
    root = Path(os.path.commonpath([manifest.root for manifest in manifests.values()]))
    lengths = _segment_lengths(manifests, root)
    first = _first_segment(root, lengths)
    known = _find_labels(folder, labels, first)
    options = BuildOptions(
        rate_hz=first.rate_hz,
        dtype="float32",
        min_seconds=0.0,
        max_seconds=1e6,
        flat_leads="keep_all",
        duplicates="keep",
        unit=first.unit,
    )
    if overwrite:
        _remove_outputs(dest)
    report = build_store(
        _entries(folder, manifests, root, lengths, first, known),
        root,
        dest,
        options,
        corpus=CORPUS,
        workers=workers,
        executor=executor,
        overwrite=overwrite,
        progress=progress,
    )
    summary = _write_outputs(dest, report.store, report.ledger, manifests, root, known)
    return DatasetReport(dest, report.store, report.ledger, summary, report.was_finished)


# --- what the folder holds ------------------------------------------------------------------------


def _read_manifests(folder: Path) -> dict[str, Manifest]:
    """Return the manifests of a folder by name: those that lie there, or those its tables make."""
    if not folder.is_dir():
        raise PackError(f"the folder {folder} does not exist")
    # The older tools leave files without a root line, or any other, where a split is empty.
    paths = [path for path in sorted(folder.glob("*.tsv")) if path.stat().st_size]
    found = {path.stem: read_manifest(path) for path in paths}
    if not found:
        found = _manifests_of_tables(folder)
    found = {name: manifest for name, manifest in found.items() if len(manifest)}
    if not found:
        raise PackError(f"{folder}: its manifests list no segment")
    order = {name: place for place, name in enumerate(_SPLIT_ORDER)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def _manifests_of_tables(folder: Path) -> dict[str, Manifest]:
    if (folder / SEGMENTED_SPLIT_FILE).is_file():
        table = _read_full_columns(folder / SEGMENTED_SPLIT_FILE, ("split", "path", "sample_size"))
    elif (folder / SEGMENTED_FILE).is_file() and (folder / META_SPLIT_FILE).is_file():
        segments = _read_full_columns(folder / SEGMENTED_FILE, ("path", "save_file", "sample_size"))
        splits = _read_full_columns(folder / META_SPLIT_FILE, ("save_file", "split"))
        _require_once(folder / META_SPLIT_FILE, splits["save_file"])
        table = splits[["save_file", "split"]].merge(segments, on="save_file", how="inner")
    else:
        raise PackError(
            f"{folder} holds neither manifests (train.tsv, ...) nor the tables of the newer "
            f"preprocessing: {SEGMENTED_SPLIT_FILE}, or {SEGMENTED_FILE} with {META_SPLIT_FILE}"
        )
    return {
        str(split): Manifest(
            folder / "segmented",
            rows["path"].tolist(),
            _lengths(folder, rows["sample_size"]),
            "plain",
        )
        for split, rows in table.groupby("split", sort=False)
    }


def _read_full_columns(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    table = read_table(path, columns, PackError)
    for column in columns:
        empty = np.flatnonzero(table[column] == "")
        if empty.size:
            raise PackError(f"{path}, line {empty[0] + 2}: the column {column} is empty")
    return table


def _require_once(path: Path, column: pd.Series) -> None:
    repeated = column[column.duplicated()]
    if len(repeated):
        raise PackError(f"{path}: {column.name} {repeated.iloc[0]!r} occurs more than once")


def _lengths(folder: Path, column: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~(numbers >= 1) | (numbers != np.floor(numbers)))
    if wrong.size:
        raise PackError(
            f"{folder}: sample_size of a segment must be a whole number, but is "
            f"{column.iloc[wrong[0]]!r}"
        )
    return numbers.astype(np.int64)


def _below(manifest: Manifest, root: Path) -> str:
    """Return the prefix that leads from the common root to a manifest's own root."""
    relative = manifest.root.relative_to(root).as_posix()
    return "" if relative == "." else f"{relative}/"


def _segment_lengths(manifests: dict[str, Manifest], root: Path) -> dict[str, int]:
    """Return the length of each segment by its name below the root."""
    lengths: dict[str, int] = {}
    for name, manifest in manifests.items():
        names, counts = manifest.recordings()
        prefix = _below(manifest, root)
        for path, count in zip(names, counts.tolist(), strict=True):
            if lengths.setdefault(prefix + path, count) != count:
                raise PackError(
                    f"{name}.tsv says that {path} has {count} samples, another manifest "
                    f"{lengths[prefix + path]}"
                )
    return lengths


def _first_segment(root: Path, lengths: dict[str, int]) -> Segment:
    """Return the first segment that can be read: its rate and unit are those of the folder."""
    problem: RecordError | None = None
    for path in lengths:
        try:
            return read_segment(root / path)
        except RecordError as error:
            problem = problem or error
    raise PackError(f"no segment of {root} can be read; the first: {problem}")


def _find_labels(folder: Path, labels: str | Path | None, first: Segment) -> _Labels | None:
    places = [folder / LABEL_SET_FOLDER / LABEL_ARRAY_FILE, folder / LABEL_ARRAY_FILE]
    path = Path(labels) if labels is not None else next(filter(Path.is_file, places), None)
    if path is None:
        if first.label is None:
            return None
        return _Labels(_numbered(len(first.label)), None)
    array, names = read_label_array(path)
    if first.idx is None:
        raise PackError(f"{path} needs segments with idx, but those of {folder} have none")
    wrong = np.argwhere((array != 0) & (array != 1))
    if wrong.size:
        row, column = wrong[0]
        raise PackError(
            f"{path}: labels must be 0 or 1, but row {row}, column {column} is "
            f"{array[row, column]:g}; use the folder as it lies, with task.label_file"
        )
    chosen = tuple(names or _numbered(array.shape[1]))
    join_labels(chosen)  # what no manifest can hold is refused before the work
    return _Labels(chosen, array)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class_{k}" for k in range(count))


# --- the store ------------------------------------------------------------------------------------


def _entries(
    folder: Path,
    manifests: dict[str, Manifest],
    root: Path,
    lengths: dict[str, int],
    first: Segment,
    known: _Labels | None,
) -> list[RecordEntry]:
    splits: dict[str, str] = {}
    for name, manifest in manifests.items():
        prefix = _below(manifest, root)
        for path in manifest.recordings()[0]:
            splits.setdefault(prefix + path, name)
    n_classes = len(known.names) if known is not None and known.array is None else 0
    readers = {
        n: SegmentReader(n, first.rate_hz, first.unit, first.idx is not None, n_classes)
        for n in set(lengths.values())
    }
    people = _read_people(folder / META_FILE)
    nobody: tuple[str, float | None, str] = ("", None, "")
    entries = []
    for path, length in lengths.items():
        patient, age, sex = people.get(f"{recording_name(path)}.mat", nobody)
        entries.append(
            RecordEntry(path, path, patient, splits[path], age=age, sex=sex, reader=readers[length])
        )
    return entries


def _read_people(path: Path) -> dict[str, tuple[str, float | None, str]]:
    """Return patient, age and sex by ``save_file``; nothing without a table."""
    if not path.is_file():
        return {}
    table = _read_full_columns(path, ("save_file",))
    patient = next((name for name in _PATIENT_COLUMNS if name in table.columns), None)
    people = {}
    for row in table.to_dict("records"):
        people[row["save_file"]] = (
            "" if patient is None else row[patient],
            _age(row.get("age", "")),
            _sex(row.get("is_male", ""), row.get("sex", "")),
        )
    return people


def _age(text: str) -> float | None:
    try:
        age = float(text)
    except ValueError:
        return None
    return age if np.isfinite(age) and age >= 0 else None


def _sex(is_male: str, sex: str) -> str:
    if is_male:
        return {"True": "male", "False": "female"}.get(is_male, "")
    numbers = {"0": "male", "0.0": "male", "1": "female", "1.0": "female"}
    return {"MALE": "male", "M": "male", "FEMALE": "female", "F": "female", **numbers}.get(
        sex.upper(), ""
    )


# --- the manifests --------------------------------------------------------------------------------


def _write_outputs(
    dest: Path,
    store: Store,
    ledger: list[LedgerRow],
    manifests: dict[str, Manifest],
    root: Path,
    known: _Labels | None,
) -> dict[str, Any]:
    kept = set(store.records)
    classes = _classes_of(store, known) if known is not None else {}
    for folder in (dest / PAIRS_FOLDER, dest / LABEL_SET_FOLDER):
        remove_temporary_files(folder)
    files: list[str] = []
    described: dict[str, Any] = {}

    def write(name: str, store_path: str, rows: list[list[Any]], extension: str | None) -> None:
        write_manifest(dest / name, store_path, rows, extension)
        files.append(name)

    for name, manifest in manifests.items():
        prefix = _below(manifest, root)
        rows = _rows(manifest, prefix, kept)
        write(f"{name}.tsv", STORE_FOLDER, rows, manifest.extension)
        described[name] = {
            "kind": manifest.kind,
            "lines": len(rows),
            "lines_left_out": len(manifest) - len(rows),
        }
        if manifest.classes is not None:
            write_classes(dest / LABELS_FILE, manifest.classes)
            files.append(LABELS_FILE)
        elif manifest.kind == "plain":
            pairs = _pairs(rows)
            if pairs:
                write(f"{PAIRS_FOLDER}/{name}.tsv", f"../{STORE_FOLDER}", pairs, "mat")
                described[name]["recordings_with_pairs"] = len(pairs)
            if known is not None:
                named = [[*row, classes[row[0]]] for row in rows if row[0] in classes]
                write(f"{LABEL_SET_FOLDER}/{name}.tsv", f"../{STORE_FOLDER}", named, None)
                described[name]["labelled"] = len(named)
    if known is not None and any("labelled" in facts for facts in described.values()):
        write_classes(dest / LABEL_SET_FOLDER / LABELS_FILE, known.names)
        files.append(f"{LABEL_SET_FOLDER}/{LABELS_FILE}")
    summary = {
        "source": str(root),
        "rate_hz": store.rate_hz,
        "unit": store.unit,
        "segments_kept": len(store),
        "segments_left_out": len({row.record for row in ledger if row.action == "excluded"}),
        "hours": round(float(store.n_samples.sum()) / store.rate_hz / 3600, 4),
        "manifests": described,
        "classes": list(known.names) if known is not None else [],
        "ledger": count_reasons(ledger),
        "files": sorted(set(files)),
    }
    write_json(dest / SUMMARY_FILE, summary)
    return summary


def _rows(manifest: Manifest, prefix: str, kept: set[str]) -> list[list[Any]]:
    """Return the lines of a manifest whose segments are in the store."""
    rows: list[list[Any]] = []
    for i, (path, n_samples) in enumerate(
        zip(manifest.paths, manifest.n_samples.tolist(), strict=True)
    ):
        name = prefix + path
        if manifest.segments is not None:
            numbers = manifest.segments[i]
            there = [n for n in numbers if f"{name}_{n}.{manifest.extension}" in kept]
            # Without one segment, the others would be paired with other neighbours.
            if there == numbers:
                rows.append([name, n_samples, 0, ",".join(map(str, numbers))])
        elif name in kept:
            label = [] if manifest.labels is None else [manifest.labels[i]]
            rows.append([name, n_samples, *label])
    return rows


def _pairs(rows: list[list[Any]]) -> list[list[Any]]:
    """Group the segments of each recording as fairseq-signals' converter does: sorted, by two."""
    numbers: dict[tuple[str, int], list[int]] = {}
    for path, n_samples, *_ in rows:
        match = SEGMENT_NAME.fullmatch(path)
        if match:
            numbers.setdefault((match[1], n_samples), []).append(int(match[2]))
    lines = []
    for (prefix, n_samples), found in numbers.items():
        chosen = sorted(found)[: len(found) - len(found) % 2]
        if chosen:
            lines.append([prefix, n_samples, 0, ",".join(map(str, chosen))])
    return lines


def _classes_of(store: Store, known: _Labels) -> dict[str, str]:
    """Return the third column of each record that has labels."""
    index = store.index
    result = {}
    for record, codes, group in zip(store.records, index["codes"], index["group"], strict=True):
        if known.array is None:
            columns = [int(code) for code in codes]
        elif 0 <= group < len(known.array):
            columns = np.flatnonzero(known.array[int(group)]).tolist()
        else:
            continue
        result[record] = join_labels(known.names[k] for k in columns)
    return result


def _remove_outputs(dest: Path) -> None:
    """Remove the manifests of an earlier run, which may have had other names."""
    try:
        names = json.loads((dest / SUMMARY_FILE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        path = Path(os.path.normpath(dest / str(name)))
        if path.is_relative_to(dest) and path.suffix in (".tsv", ".txt"):
            path.unlink(missing_ok=True)
    (dest / SUMMARY_FILE).unlink(missing_ok=True)
