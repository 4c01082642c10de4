"""Corpora that are read where they lie: records are checked and listed, nothing is copied.

A record is a long WFDB recording with beats and rhythms in its ``.atr``. Manifests hold the good
ones with the number of their patient, as ``AnnotatedSource`` reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from fairseq_ecg.corpora._base import SPLITS, Corpus
from fairseq_ecg.data.annotated import IN_PLACE_FILE, load_marks, standard_leads
from fairseq_ecg.data.atomic import remove_temporary_files, write_json
from fairseq_ecg.data.builder import LEDGER_FILE, STORE_FOLDER, SUMMARY_FILE, DatasetReport
from fairseq_ecg.data.frame_labels import BEATS, RHYTHMS, Marks
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.ledger import (
    EXCLUDED,
    KEPT,
    SIGNAL_ONLY,
    LedgerRow,
    count_reasons,
    write_ledger,
)
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.data.pool import BuildError, exclusive, map_shards
from fairseq_ecg.data.record_file import RecordError, open_regular
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.data.wfdb_header import WfdbHeader, checked_size, read_header

ALL_SUFFIX = "_all"
"""Of manifests that also hold recordings without labels."""

_ENTRIES_PER_TASK = 64
# Starting processes takes some seconds, as does checking this many recordings.
_ENTRIES_WORTH_A_POOL = 10_000


class InPlaceCorpus(Corpus):
    """A corpus whose recordings stay where they are.

    ``entries`` lists them with a patient, a number as text, and a split. Recordings that the set
    lists and the folder lacks are entries too; where all of a patient is missing, one for all.
    """

    rate_hz: ClassVar[float]
    """Rate of every recording of the set."""

    splits: ClassVar[tuple[str, ...]] = SPLITS
    """The splits that it is divided into."""

    def parts_of_train(self) -> dict[str, Collection[str]]:
        """Return further manifests by name, such as ``train_010``; none by default.

        Returns:
            For each the patients who are in it, if they are in ``train``.
        """
        return {}

    def remarks(self, summary: Mapping[str, Any]) -> list[str]:
        """Say how many beats and hours of each class there are; see ``Corpus.remarks``."""
        beats = ", ".join(f"{count} {name}" for name, count in summary["beats"].items() if count)
        hours = ", ".join(
            f"{hours:.3g} {name}" for name, hours in summary["rhythm_hours"].items() if hours
        )
        return [f"beats: {beats or 'none'}", f"hours of rhythm: {hours or 'none'}"]


@dataclass(frozen=True)
class CheckedRecord:
    """What was found out about one recording.

    Attributes:
        entry: The recording.
        n_samples: Its length; 0 if it cannot be read.
        labelled: Whether its annotations can be used.
        leads: Its standard leads.
        beats: Number of beats of each of ``BEATS``.
        rhythm_samples: Samples of each of ``RHYTHMS``.
        remarks: Rows for the ledger.
    """

    entry: RecordEntry
    n_samples: int = 0
    labelled: bool = False
    leads: tuple[str, ...] = ()
    beats: tuple[int, ...] = (0,) * len(BEATS)
    rhythm_samples: tuple[int, ...] = (0,) * len(RHYTHMS)
    remarks: tuple[LedgerRow, ...] = ()


def index_in_place(
    corpus: InPlaceCorpus,
    root: Path,
    dest: Path,
    lead_map: Sequence[tuple[str, str]] = (),
    *,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> DatasetReport:
    """Check the recordings of a corpus and write manifests that point to them.

    Written to ``dest``: ``train.tsv`` and the other splits, and those of the corpus' subsets, with
    the recordings that have labels; the same with ``_all`` in their names, where those without are
    added; ``in_place.json``, ``ledger.csv`` and ``summary.json``. Headers, the sizes of the signal
    files and the annotations are looked at, the samples are not read.

    Args:
        corpus: The corpus.
        root: Folder of the recordings.
        dest: Folder to write to.
        lead_map: Pairs of a lead's name in the files and the standard lead it stands for.
        workers: Processes.
        executor: An executor to use in place of our own processes.
        overwrite: Replace what a run with other options wrote to ``dest``.
        progress: Show a progress bar.

    Returns:
        Ledger and summary; there is no store.

    Raises:
        ValueError: ``CorpusError`` or ``BuildError``: the folder is not this corpus, ``dest`` holds
            something else, or no recording can be used.
    """
    root, dest = root.absolute(), dest.absolute()
    entries = corpus.entries(root)
    plan = {
        "corpus": corpus.name,
        "corpus_options": dataclasses.asdict(corpus),
        "root": str(root),
        "lead_map": dict(lead_map),
    }
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(
            f"{dest} cannot be written to ({error.strerror}); choose another --dest"
        ) from error
    with exclusive(dest):
        remove_temporary_files(dest)
        earlier = _read_earlier(dest, plan, overwrite)
        checked = _check_all(entries, root, corpus.rate_hz, plan, workers, executor, progress)
        ledger = sorted(row for record in checked for row in record.remarks)
        write_ledger(dest / LEDGER_FILE, ledger)
        if not any(record.n_samples for record in checked):
            raise BuildError(
                f"not one of {len(checked)} recordings can be used; the first one: "
                f"{ledger[0].detail}; {dest / LEDGER_FILE} has all"
            )
        summary = _write_outputs(corpus, checked, ledger, plan, dest)
        for name in sorted(earlier - summary["manifests"].keys()):
            (dest / f"{Path(name).name}.tsv").unlink(missing_ok=True)
    return DatasetReport(dest, None, ledger, summary, was_finished=False)


def _read_earlier(dest: Path, plan: dict[str, Any], overwrite: bool) -> set[str]:
    """Return the manifests that an earlier run wrote; raise if it had other options."""
    if (dest / STORE_FOLDER).exists():
        raise BuildError(f"{dest} holds a store; choose another --dest")
    path = dest / SUMMARY_FILE
    if not path.exists():
        return set()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        manifests = set(found["manifests"])
        before = {key: found.get(key) for key in plan}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if overwrite:
            return set()
        raise BuildError(f"{path} is damaged or of another kind; use --overwrite") from error
    now = json.loads(json.dumps(plan))
    changes = [
        f"{key} was {before[key]!r}, now {now[key]!r}" for key in now if now[key] != before[key]
    ]
    if changes and not overwrite:
        raise BuildError(
            f"{dest} was written with other options: {'; '.join(changes)}. Give the same ones, "
            "another --dest, or --overwrite to replace it"
        )
    return manifests


def _check_all(
    entries: Sequence[RecordEntry],
    root: Path,
    rate_hz: float,
    plan: Mapping[str, Any],
    workers: int,
    executor: Executor | None,
    progress: bool,
) -> list[CheckedRecord]:
    """Check all recordings and return them in the order of the entries."""
    tasks = [
        list(enumerate(entries))[first : first + _ENTRIES_PER_TASK]
        for first in range(0, len(entries), _ENTRIES_PER_TASK)
    ]
    check = functools.partial(_check_some, root=root, rate_hz=rate_hz, lead_map=plan["lead_map"])
    if len(entries) < _ENTRIES_WORTH_A_POOL:
        workers = 1
    found: dict[int, CheckedRecord] = {}
    with tqdm(total=len(entries), unit=" records", desc="check", disable=not progress) as bar:
        for part in map_shards(check, tasks, workers, executor):
            found.update(part)
            bar.update(len(part))
    return [found[number] for number in range(len(entries))]


def _check_some(
    numbered: Sequence[tuple[int, RecordEntry]],
    root: Path,
    rate_hz: float,
    lead_map: Mapping[str, str],
) -> dict[int, CheckedRecord]:
    return {number: check_record(entry, root, rate_hz, lead_map) for number, entry in numbered}


def check_record(
    entry: RecordEntry, root: Path, rate_hz: float, lead_map: Mapping[str, str]
) -> CheckedRecord:
    """Look at header, signal files and annotations of one recording.

    Args:
        entry: The recording.
        root: Folder that its path is relative to.
        rate_hz: Rate that it must have.
        lead_map: Names of leads in the files and the standard leads they stand for.

    Returns:
        What was found; never raises for what is wrong with the recording.
    """
    path = root / entry.path
    if not path.parent.is_dir():
        detail = f"{path.parent} does not exist, although it is listed"
        return CheckedRecord(entry, remarks=(_row(entry, "missing_patient", detail, EXCLUDED),))
    try:
        header = _check_signal(path, rate_hz)
        leads = tuple(name for _, name in standard_leads(header, lead_map))
    except RecordError as error:
        return CheckedRecord(entry, remarks=(_row(entry, error.reason, error.args[1], EXCLUDED),))
    record = CheckedRecord(entry, header.n_samples, leads=leads)
    try:
        marks, odd = load_marks(path, header)
    except RecordError as error:
        reason = "no_annotation" if error.reason == "missing_file" else error.reason
        remark = _row(entry, reason, error.args[1], SIGNAL_ONLY)
        return dataclasses.replace(record, remarks=(remark,))
    return dataclasses.replace(
        record,
        labelled=True,
        beats=tuple(np.bincount(marks.beat_id, minlength=len(BEATS)).tolist()),
        rhythm_samples=_rhythm_samples(marks),
        remarks=tuple(_row(entry, reason, detail, KEPT) for reason, detail in odd),
    )


def _check_signal(path: Path, rate_hz: float) -> WfdbHeader:
    """Read a header and compare it with its signal files, without reading those."""
    header = read_header(path)
    if header.rate_hz != rate_hz:
        raise RecordError(
            "wrong_rate", f"{path} must have {rate_hz:g} Hz, but has {header.rate_hz:g} Hz"
        )
    if any(gain != gain for gain in header.gains):
        raise RecordError("unknown_unit", f"{path} has leads that are no voltage")
    for file in dict.fromkeys(header.files) if not header.segments else ():
        with open_regular(str(path.parent / file)) as (_, size):
            checked_size(header, file, size)
    return header


def _rhythm_samples(marks: Marks) -> tuple[int, ...]:
    stretches = np.diff(marks.rhythm_sample, prepend=0)
    return tuple(
        np.bincount(marks.rhythm_id, stretches, minlength=len(RHYTHMS)).astype(int).tolist()
    )


def _row(entry: RecordEntry, reason: str, detail: str, action: str) -> LedgerRow:
    return LedgerRow(entry.record, entry.path, reason, detail, action)


def _write_outputs(
    corpus: InPlaceCorpus,
    checked: Sequence[CheckedRecord],
    ledger: Sequence[LedgerRow],
    plan: dict[str, Any],
    dest: Path,
) -> dict[str, Any]:
    usable = [record for record in checked if record.n_samples]
    manifests = dict(_manifests(corpus, usable))
    for name, records in manifests.items():
        rows = [(r.entry.path, r.n_samples, r.entry.patient) for r in records]
        write_manifest(dest / f"{name}.tsv", plan["root"], rows)
    leads = {lead for record in usable for lead in record.leads}
    write_json(
        dest / IN_PLACE_FILE,
        {
            "corpus": corpus.name,
            "rate_hz": corpus.rate_hz,
            "leads": [lead for lead in STANDARD_LEADS if lead in leads],
            "lead_map": plan["lead_map"],
        },
    )
    beats = np.sum([record.beats for record in usable], axis=0).tolist()
    samples = np.sum([record.rhythm_samples for record in usable], axis=0)
    hours = (samples / corpus.rate_hz / 3600).round(4).tolist()
    facts = {name: _count(records) for name, records in manifests.items()}
    summary = plan | {
        "rate_hz": corpus.rate_hz,
        "unit": MILLIVOLTS,
        "records_listed": len(checked),
        "records_kept": len(usable),
        "records_labelled": sum(record.labelled for record in usable),
        "patients": len({record.entry.patient for record in usable}),
        "hours": round(sum(r.n_samples for r in usable) / corpus.rate_hz / 3600, 4),
        "splits": {split: facts[split] for split in corpus.splits},
        "manifests": facts,
        "label_sets": {},
        "beats": dict(zip(BEATS, beats, strict=True)),
        "rhythm_hours": dict(zip(RHYTHMS, hours, strict=True)),
        "ledger": count_reasons(ledger),
        "source": corpus.source_facts(Path(plan["root"])),
    }
    summary["remarks"] = corpus.remarks(summary)
    write_json(dest / SUMMARY_FILE, summary)
    return summary


def _manifests(
    corpus: InPlaceCorpus, usable: Sequence[CheckedRecord]
) -> Iterator[tuple[str, list[CheckedRecord]]]:
    """Yield name and recordings of each manifest."""
    parts = {
        split: [record for record in usable if record.entry.split == split]
        for split in corpus.splits
    }
    for name, patients in corpus.parts_of_train().items():
        parts[name] = [record for record in parts["train"] if record.entry.patient in patients]
    for name, records in parts.items():
        yield name, [record for record in records if record.labelled]
        yield f"{name}{ALL_SUFFIX}", records


def _count(records: Sequence[CheckedRecord]) -> dict[str, int]:
    patients = Counter(record.entry.patient for record in records)
    return {"records": len(records), "patients": len(patients)}
