"""CODE-15% -> the ``.mat`` files and tables that fairseq-signals' preprocessing makes of it.

For going on with a project of ECG-FM. The arithmetic is that of ``data/preprocess.py``; it agrees
with published output to the last bit. Numbers are those of the tracing files, not millivolts.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
from tqdm import tqdm

from fairseq_ecg.corpora._base import split_patients
from fairseq_ecg.data.atomic import remove_temporary_files, replacing
from fairseq_ecg.data.hdf5_reader import CODE_RATE_HZ, TracingReader, find_tracings
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.ledger import EXCLUDED, LedgerRow, write_ledger
from fairseq_ecg.data.pool import exclusive, map_shards
from fairseq_ecg.data.preprocess import like_ecg_fm
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.interop._label_files import write_labels
from fairseq_ecg.interop._splits import SPLITS, write_splits
from fairseq_ecg.interop._tables import META_FILE, SEGMENTED_FILE, read_table, write_table

EXAMS_FILE = "exams.csv"
LEDGER_FILE = "ledger.csv"
PATIENT_COLUMN = "patient_id"
LABEL_COLUMNS = ("is_male", "1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg")

_SOURCE = "code_15"
_CHUNK = 64


class PreprocessError(ValueError):
    """A folder that cannot be preprocessed; the message names the file and the column."""


@dataclass(frozen=True)
class PreprocessReport:
    """What ``preprocess_code_15`` made.

    Attributes:
        dest: The folder written to.
        meta: One row per exam, as in ``meta.csv``.
        segmented: One row per segment, as in ``segmented.csv``.
        ledger: Exams that could not be read.
        splits: Number of exams in each split; empty if they were not asked for.
    """

    dest: Path
    meta: pd.DataFrame
    segmented: pd.DataFrame
    ledger: list[LedgerRow]
    splits: dict[str, int]


@dataclass(frozen=True)
class _Exam:
    idx: int
    exam_id: int
    file: str
    row: int


@dataclass(frozen=True)
class _Chunk:
    exams: tuple[_Exam, ...]
    root: Path
    dest: Path
    rate_hz: float
    segment_s: float


@dataclass(frozen=True)
class _Written:
    """What became of one chunk: facts by ``idx``, segments, and exams that could not be read."""

    facts: dict[int, dict[str, Any]]
    segments: list[dict[str, Any]]
    ledger: list[LedgerRow]
    count: int


def preprocess_code_15(
    root: str | Path,
    dest: str | Path,
    *,
    rate_hz: float = 500.0,
    segment_s: float = 5.0,
    splits: bool = False,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool = False,
) -> PreprocessReport:
    """Write ``org/``, ``segmented/``, ``meta.csv``, ``segmented.csv`` and ``labels/``.

    Exams are numbered (``idx``) in the order of ``exams.csv``. Each file is whole or absent;
    running the same command again writes the same files.

    With ``splits`` also ``meta_split.csv``, ``segmented_split.csv`` and ``manifests/``. Patients
    are divided as for a store: the same fractions and seed give the same division.

    Args:
        root: Folder of ``exams.csv`` and the HDF5 files.
        dest: Folder to write to.
        rate_hz: Rate of the segments.
        segment_s: Length of a segment; an incomplete last one is dropped.
        splits: Divide the patients among train, valid and test.
        valid_fraction: Share of the patients in valid.
        test_fraction: Share of the patients in test.
        seed: Of the division.
        workers: Processes.
        executor: An executor to use in place of our own processes.
        progress: Show a progress bar.

    Raises:
        PreprocessError: If ``exams.csv`` is missing or lacks a column, or no exam can be read.
        CorpusError: If a fraction is negative or both make more than 1.
    """
    root, dest = Path(root).expanduser().absolute(), Path(dest).expanduser().absolute()
    table = _read_exams(root / EXAMS_FILE, (PATIENT_COLUMN,) if splits else ())
    split_of = _split_patients(table, valid_fraction, test_fraction, seed) if splits else {}
    if not (0 < rate_hz < np.inf) or round(segment_s * rate_hz) < 1:
        raise PreprocessError(
            f"segments of {segment_s:g} s at {rate_hz:g} Hz must have a sample at least"
        )
    exams = _find_exams(root, table)
    chunks = [
        _Chunk(tuple(exams[i : i + _CHUNK]), root, dest, rate_hz, segment_s)
        for i in range(0, len(exams), _CHUNK)
    ]
    facts: dict[int, dict[str, Any]] = {}
    segments: list[dict[str, Any]] = []
    ledger: list[LedgerRow] = []
    dest.mkdir(parents=True, exist_ok=True)
    with exclusive(dest), tqdm(total=len(exams), unit=" exams", disable=not progress) as bar:
        for folder in (dest, dest / "org", dest / "segmented", dest / "labels"):
            remove_temporary_files(folder)
        for written in map_shards(_write_chunk, chunks, workers, executor):
            facts |= written.facts
            segments += written.segments
            ledger += written.ledger
            bar.update(written.count)
    write_ledger(dest / LEDGER_FILE, ledger)
    if not facts:
        raise PreprocessError(
            f"not one exam of {root} could be read; {dest / LEDGER_FILE} says why"
        )
    meta = _meta_table(table, facts)
    segmented = pd.DataFrame(segments, columns=["path", "save_file", "sample_size"])
    segmented = segmented.sort_values("path", ignore_index=True)
    write_table(dest / META_FILE, meta, index=True)
    write_table(dest / SEGMENTED_FILE, segmented, index=True)
    members: dict[str, list[int]] = {}
    if splits:
        divided = write_splits(dest, meta, segmented, split_of, PATIENT_COLUMN)
        members = {s: divided.loc[divided["split"] == s, "idx"].tolist() for s in SPLITS}
    labels = table.loc[sorted(facts), list(LABEL_COLUMNS)] == "True"
    write_labels(dest / "labels", labels, members)
    counts = {split: len(found) for split, found in members.items()}
    return PreprocessReport(dest, meta, segmented, sorted(ledger), counts)


def _split_patients(
    table: pd.DataFrame, valid_fraction: float, test_fraction: float, seed: int
) -> dict[str, str]:
    """Return the split of each patient, under the names that they have in ``exams.csv``."""
    names = {text: f"code15-{int(text)}" for text in table[PATIENT_COLUMN]}
    splits = split_patients(names.values(), valid_fraction, test_fraction, seed)
    return {text: splits[name] for text, name in names.items()}


def _read_exams(path: Path, numbers: Iterable[str]) -> pd.DataFrame:
    """Read the table; ``numbers`` are columns of whole numbers that it must have besides."""
    if not path.is_file():
        raise PreprocessError(f"{path.parent} is not the folder of CODE-15%: it has no {path.name}")
    numbers = ("exam_id", *numbers)
    table = read_table(path, (*numbers, "trace_file", *LABEL_COLUMNS), PreprocessError)
    flags = ((column, "True|False") for column in LABEL_COLUMNS)
    for column, allowed in (*((column, r"\d+") for column in numbers), *flags):
        wrong = np.flatnonzero(~table[column].str.fullmatch(allowed))
        if wrong.size:
            raise PreprocessError(
                f"{path}, line {wrong[0] + 2}: {column} must match {allowed}, but is "
                f"{table[column].iloc[wrong[0]]!r}"
            )
    return table


def _find_exams(root: Path, table: pd.DataFrame) -> list[_Exam]:
    places = find_tracings(root, table["trace_file"])
    return [
        _Exam(idx, int(exam_id), file, places.get((file, int(exam_id)), -1))
        for idx, (exam_id, file) in enumerate(
            zip(table["exam_id"], table["trace_file"], strict=True)
        )
    ]


def _write_chunk(chunk: _Chunk) -> _Written:
    facts: dict[int, dict[str, Any]] = {}
    segments: list[dict[str, Any]] = []
    ledger: list[LedgerRow] = []
    for exam in chunk.exams:
        try:
            reader = TracingReader(exam.exam_id, exam.row)
            values = reader.read(chunk.root / exam.file).signal.values_mv
        except RecordError as error:
            detail = " ".join(str(error.args[-1]).replace(f"{chunk.root}/", "").split())
            name = str(exam.exam_id)
            ledger.append(LedgerRow(name, exam.file, error.reason, detail, EXCLUDED))
            continue
        facts[exam.idx] = _facts(exam, values)
        segments += _write_exam(exam, values, chunk)
    return _Written(facts, segments, ledger, len(chunk.exams))


def _write_exam(exam: _Exam, values: np.ndarray, chunk: _Chunk) -> list[dict[str, Any]]:
    stem = f"{_SOURCE}_{exam.exam_id}"
    n_samples = values.shape[1]
    content = {
        "org_sample_rate": int(CODE_RATE_HZ),
        "curr_sample_rate": int(CODE_RATE_HZ),
        "org_sample_size": n_samples,
        "curr_sample_size": n_samples,
        "feats": values,
        "idx": exam.idx,
    }
    _write_mat(chunk.dest / "org" / f"{stem}.mat", content)
    done = like_ecg_fm(values, CODE_RATE_HZ, chunk.rate_hz)
    length = round(chunk.segment_s * chunk.rate_hz)
    rows = []
    for number in range(done.values.shape[1] // length):
        path = f"{stem}_{number}.mat"
        content |= {
            "curr_sample_rate": _plain(chunk.rate_hz),
            "curr_sample_size": length,
            "feats": done.values[:, number * length : (number + 1) * length],
            "mean": done.mean,
            "std": done.std,
            "segment_i": number,
        }
        _write_mat(chunk.dest / "segmented" / path, content)
        rows.append({"path": path, "save_file": f"{stem}.mat", "sample_size": length})
    return rows


def _plain(rate_hz: float) -> int | float:
    return int(rate_hz) if rate_hz == int(rate_hz) else rate_hz


def _write_mat(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as file:
        scipy.io.savemat(file, content)


def _facts(exam: _Exam, values: np.ndarray) -> dict[str, Any]:
    """Return the columns of ``meta.csv`` that describe the tracing."""
    nan = np.isnan(values)
    constant = values.max(axis=1) == values.min(axis=1)
    # Added up in single precision and in the order of time, as the reference does.
    by_time = np.ascontiguousarray(values.T)
    mean, std = by_time.mean(axis=0), by_time.std(axis=0)
    return {
        "path": str(exam.exam_id),
        "save_file": f"{_SOURCE}_{exam.exam_id}.mat",
        "source": _SOURCE,
        "dataset": _SOURCE,
        "hdf_ind": exam.row,
        "lead_order": str(list(STANDARD_LEADS)),
        "sample_rate": int(CODE_RATE_HZ),
        "sample_size": values.shape[1],
        "avail_leads": str(list(STANDARD_LEADS)),
        "nan_any": bool(nan.any()),
        "nan_leads_any": bool(nan.all(axis=1).any()),
        "nan_leads": str(_names(nan.all(axis=1))),
        "constant_leads_any": bool(constant.any()),
        "constant_leads": str(_names(constant)),
        **{f"mean_{k}": mean[k] for k in range(len(mean))},
        **{f"std_{k}": std[k] for k in range(len(std))},
    }


def _names(chosen: np.ndarray) -> list[str]:
    return [STANDARD_LEADS[k] for k in np.flatnonzero(chosen)]


def _meta_table(table: pd.DataFrame, facts: dict[int, dict[str, Any]]) -> pd.DataFrame:
    order = sorted(facts)
    exams = table.iloc[order].reset_index(drop=True)
    described = pd.DataFrame([facts[idx] for idx in order])
    return pd.concat([pd.Series(order, name="idx"), exams, described], axis=1)
