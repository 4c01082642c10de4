"""A folder of recordings -> a store, a ledger, a summary and manifests, in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pandas as pd

from fairseq_ecg.corpora._base import SPLITS, Corpus, CorpusError, LabelSet, get_corpus
from fairseq_ecg.corpora._in_place import InPlaceCorpus, index_in_place
from fairseq_ecg.data.atomic import remove_temporary_files, write_json
from fairseq_ecg.data.builder import (
    NO_SPLIT,
    STORE_FOLDER,
    SUMMARY_FILE,
    BuildReport,
    DatasetReport,
    build_store,
)
from fairseq_ecg.data.ingest import BuildOptions
from fairseq_ecg.data.ledger import count_reasons
from fairseq_ecg.data.manifest import LABELS_FILE, join_labels, write_classes, write_manifest
from fairseq_ecg.data.preprocess import PREPROCESSING_DEFAULTS


def build_manifest(
    corpus: str | Corpus,
    root: str | Path,
    dest: str | Path,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: bool = False,
    corpus_options: dict[str, Any] | None = None,
    **options: Any,
) -> DatasetReport:
    """Build the store and the manifests of a corpus; a build that was stopped goes on.

    Written to ``dest``: ``store/``, ``ledger.csv``, ``summary.json``, ``train.tsv``, ``valid.tsv``
    and ``test.tsv`` with all records kept, and for each label set a folder with three such
    manifests, those of its subsets, and ``labels.txt``. Of corpora that are read where they lie no
    store is built; see ``index_in_place``.

    Args:
        corpus: Name of a corpus (``available_corpora``), or a corpus.
        root: Folder of the recordings.
        dest: Folder to write to.
        workers: Processes.
        executor: An executor to use in place of our own processes.
        overwrite: Discard an earlier build in ``dest``.
        progress: Show a progress bar.
        corpus_options: Options of the corpus, if it is given by name.
        **options: Fields of ``BuildOptions``: ``rate_hz``, ``leads``, ``flat_leads``, ...; what is
            not given is as ``Corpus.build_defaults`` says. Only ``lead_map`` where no store is
            built.

    Returns:
        Store, ledger and summary.

    Raises:
        ValueError: ``CorpusError``, ``BuildError`` or ``StoreError``: a folder is missing or is not
            this corpus, ``dest`` cannot be used, or an option is wrong.
    """
    if isinstance(corpus, str):
        corpus = get_corpus(corpus, **(corpus_options or {}))
    root, dest = Path(root).expanduser(), Path(dest).expanduser()
    if not root.is_dir():
        raise CorpusError(f"the folder of recordings {root} does not exist")
    if isinstance(corpus, InPlaceCorpus):
        lead_map = options.pop("lead_map", ())
        if options:
            raise CorpusError(
                f"{corpus.name} is read where it lies and no store is built, so {sorted(options)} "
                "cannot be given; tasks choose rate and leads"
            )
        return index_in_place(
            corpus,
            root,
            dest,
            lead_map,
            workers=workers,
            executor=executor,
            overwrite=overwrite,
            progress=progress,
        )
    preprocessing = PREPROCESSING_DEFAULTS.get(str(options.get("preprocessing", "none")), {})
    build_options = BuildOptions(**(corpus.build_defaults() | preprocessing | options))
    label_sets = corpus.label_sets(root)
    for label_set in label_sets.values():
        join_labels(label_set.names)  # what no manifest can hold is refused before the work
    entries = corpus.entries(root)
    if overwrite:
        _remove_outputs(dest)
    report = build_store(
        entries,
        root,
        dest,
        build_options,
        corpus=corpus.name,
        workers=workers,
        executor=executor,
        overwrite=overwrite,
        progress=progress,
    )
    facts = corpus.source_facts(root)
    summary = _write_outputs(report, corpus, label_sets, build_options.duplicates, facts, dest)
    return DatasetReport(dest, report.store, report.ledger, summary, report.was_finished)


def _remove_outputs(dest: Path) -> None:
    """Remove the manifests of an earlier build, which may have had other label sets."""
    try:
        label_sets = json.loads((dest / SUMMARY_FILE).read_text(encoding="utf-8"))["label_sets"]
        subsets = {name: list(facts.get("subsets", ())) for name, facts in label_sets.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        subsets = {}
    files = [f"{split}.tsv" for split in SPLITS]
    for name, further in subsets.items():
        folder = dest / Path(name).name
        for file in (*files, *(f"{Path(subset).name}.tsv" for subset in further), LABELS_FILE):
            (folder / file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
    for file in (*files, SUMMARY_FILE):
        (dest / file).unlink(missing_ok=True)


def _write_outputs(
    report: BuildReport,
    corpus: Corpus,
    label_sets: dict[str, LabelSet],
    duplicates: str,
    facts: dict[str, Any],
    dest: Path,
) -> dict[str, Any]:
    index = report.store.index
    records = index["record"].tolist()
    lengths = index["n_samples"].tolist()
    splits = index["split"].tolist()
    for split in SPLITS:
        chosen = zip(records, lengths, splits, strict=True)
        rows = [(record, n) for record, n, found in chosen if found == split]
        write_manifest(dest / f"{split}.tsv", STORE_FOLDER, rows)
    described = {
        name: _write_label_set(dest / name, label_set, index, duplicates)
        for name, label_set in label_sets.items()
    }
    summary = {
        "corpus": corpus.name,
        "corpus_options": dataclasses.asdict(corpus),
        "rate_hz": report.store.rate_hz,
        "unit": report.store.unit,
        "records_listed": report.n_entries,
        "records_kept": len(report.store),
        "patients": int(index["patient"].nunique()),
        "records_without_patient": int((index["patient"] == index["record"]).sum()),
        "hours": round(sum(lengths) / report.store.rate_hz / 3600, 4),
        "splits": {
            split: {
                "records": splits.count(split),
                "patients": int(index["patient"][index["split"] == split].nunique()),
            }
            for split in SPLITS
        },
        "label_sets": described,
        "ledger": count_reasons(report.ledger),
        **({"source": facts} if facts else {}),
    }
    summary["remarks"] = corpus.remarks(summary)
    write_json(dest / SUMMARY_FILE, summary)
    return summary


def _write_label_set(
    folder: Path, label_set: LabelSet, index: pd.DataFrame, duplicates: str
) -> dict[str, Any]:
    names = [label_set.apply(None if found is None else list(found)) for found in index["codes"]]
    splits = _division(label_set, index, duplicates)
    rows = [
        (record, length, where, found)
        for record, length, where, found in zip(
            index["record"].tolist(), index["n_samples"].tolist(), splits, names, strict=True
        )
        if found is not None
    ]
    parts = {split: [row for row in rows if row[2] == split] for split in SPLITS}
    subsets = {
        name: [row for row in parts["train"] if row[0] in chosen]
        for name, chosen in label_set.subsets.items()
    }
    remove_temporary_files(folder)
    write_classes(folder / LABELS_FILE, label_set.names)
    for name, part in (parts | subsets).items():
        lines = [(record, length, join_labels(found)) for record, length, _, found in part]
        write_manifest(folder / f"{name}.tsv", f"../{STORE_FOLDER}", lines)
    result: dict[str, Any] = {"classes": len(label_set.names)}
    for key, manifests in (("split", parts), ("subset", subsets)):
        if manifests:
            result[f"{key}s"] = {name: len(part) for name, part in manifests.items()}
            result[f"{key}_counts"] = {
                name: _count((row[3] for row in part), label_set)
                for name, part in manifests.items()
            }
    result["records_without_label"] = sum(found is None for found in names)
    result["counts"] = _count(names, label_set)
    return result


def _division(label_set: LabelSet, index: pd.DataFrame, duplicates: str) -> list[str]:
    """Return the split of each record in a label set.

    In a division of its own too, a record with the samples of an earlier one in another split is in
    none, if that is what is done with duplicates.
    """
    if label_set.splits is None:
        return index["split"].tolist()
    splits = [label_set.splits.get(record, NO_SPLIT) for record in index["record"]]
    first_split: dict[str, str] = {}
    for row, sha256 in enumerate(index["sha256"]):
        if splits[row] == NO_SPLIT or duplicates != "one_split":
            continue
        if first_split.setdefault(sha256, splits[row]) != splits[row]:
            splits[row] = NO_SPLIT
    return splits


def _count(names: Iterable[list[str] | None], label_set: LabelSet) -> dict[str, int]:
    counts = Counter(name for found in names for name in found or ())
    return {name: counts[name] for name in label_set.names}
