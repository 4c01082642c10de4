"""Embeddings of recordings: what a frozen encoder makes of them, streamed to a folder.

See ``embedding_files.py`` for the folder. Shapes: B batch, C leads, T samples, L frames, D width,
N rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.checkpoint import (
    Checkpoint,
    CheckpointError,
    build_model,
    build_random,
    read_checkpoint,
)
from fairseq_ecg.contract import CONTRACT_KEYS, seen_in_training
from fairseq_ecg.data.atomic import remove_temporary_files, write_json
from fairseq_ecg.data.dataset import EcgDataset
from fairseq_ecg.data.manifest import LABELS_FILE, read_manifest, write_manifest
from fairseq_ecg.data.pool import exclusive
from fairseq_ecg.data.sources import Source
from fairseq_ecg.data.store import STORE_FILE, Store, file_sha256
from fairseq_ecg.embedding_files import (
    ABOUT_FILE,
    PARTS_FOLDER,
    VERSION,
    EmbeddingError,
    Embeddings,
    count_rows,
    discard,
    join,
    part_path,
    take_up,
    write_part,
)
from fairseq_ecg.evaluation import open_task
from fairseq_ecg.exported import CONFIG_FILE, CONTRACT_FILE, WEIGHTS_FILE
from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._finetuning import encoder_of

PER = ("record", "frame")
FORMATS = ("parquet", "npy")
ALL = "all"
"""What the split of a store without manifests is called."""

# Recordings are embedded until they have this many windows, then written; frames are many more.
_WINDOWS_OF_A_PART = {"record": 2048, "frame": 256}


def embeddings(
    path: str | Path,
    data: str | Path,
    splits: Sequence[str] = (),
    *,
    per: str = "record",
    batch_size: int = 64,
    device: str = "cpu",
    leads: object = None,
    random_init: int | None = None,
) -> Iterator[Embeddings]:
    """Yield the embeddings of recordings, those of some recordings at a time.

    The encoder sees the windows that a validation of its task would see, prepared as its input
    contract says. An encoder of one lead sees each recorded lead by itself; its vectors are the
    mean over the leads.

    Args:
        path: Any checkpoint with an encoder, or an exported folder.
        data: Folder of manifests, with labels or without, or a store.
        splits: Which manifests; none: all of them.
        per: "record": the mean over the windows of a recording; "frame": every frame of the
            encoder that is not padding.
        batch_size: Windows per forward pass.
        device: Where to compute.
        leads: Silence all leads but these, as for ``evaluate``; None leaves them as in training.
        random_init: Take random weights of this seed in place of the checkpoint's.

    Raises:
        EmbeddingError: If an option or a split is unknown, or the encoder puts out NaN.
        CheckpointError: If the checkpoint has no encoder, or cannot be read.
        ContractError: If the recordings are not what the encoder expects.
    """
    _check_choice("per", per, PER)
    _check_batch_size(batch_size)
    with _opened(path, data, splits, per, leads, random_init) as work:
        work.encoder.to(device)
        for part in work.parts():
            yield work.embed(part, batch_size, device)


def extract(
    path: str | Path,
    data: str | Path,
    folder: str | Path,
    splits: Sequence[str] = (),
    *,
    per: str = "record",
    form: str = "parquet",
    batch_size: int = 64,
    device: str = "cpu",
    leads: object = None,
    random_init: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write embeddings to a folder, part by part; what is there already is kept.

    Args:
        path: As for ``embeddings``; so are ``data``, ``splits``, ``per``, ``batch_size``,
            ``device``, ``leads`` and ``random_init``.
        data: See ``path``.
        folder: Where to; made if absent.
        splits: See ``path``.
        per: See ``path``.
        form: "parquet": parts as they are; "npy": joined to one array and its index.
        batch_size: See ``path``.
        device: See ``path``.
        leads: See ``path``.
        random_init: See ``path``.
        overwrite: Discard what an earlier run left in the folder.
        progress: Show a progress bar.

    Returns:
        Content of ``extraction.json``.

    Raises:
        EmbeddingError: As ``embeddings``, or if the folder holds something else.
        BuildError: If another process is writing to the folder.
        OSError: If the disk is full; the parts written so far are kept for the next run.
    """
    _check_choice("form", form, FORMATS)
    _check_choice("per", per, PER)
    _check_batch_size(batch_size)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise EmbeddingError(f"{folder} is a file; give the name of a folder")
    with _opened(path, data, splits, per, leads, random_init) as work:
        asked = {**work.about, "format": form}
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder):
            if overwrite:
                discard(folder)
            found = take_up(folder, asked)
            if found.get("complete"):
                return found
            return _write_parts(work, folder, asked, batch_size, device, progress)


def checkpoint_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a checkpoint; of an exported folder that of its files of weights.

    Args:
        path: The file or folder.
    """
    if Path(path).is_file():
        return file_sha256(path)
    names = (CONFIG_FILE, CONTRACT_FILE, WEIGHTS_FILE)
    return _sha256("".join(f"{name} {file_sha256(Path(path) / name)}\n" for name in names))


def classes_of_records(data: str | Path) -> dict[str, tuple[str, ...]]:
    """Return the classes of each recording of a label set, whichever split it is in.

    Args:
        data: Folder with ``labels.txt`` and manifests.

    Returns:
        By the record's name; empty if the folder has no names of classes.
    """
    found: dict[str, tuple[str, ...]] = {}
    if not (Path(data) / LABELS_FILE).is_file():
        return found
    for path in sorted(Path(data).glob("*.tsv")):
        manifest = read_manifest(path)
        for row, record in enumerate(manifest.paths):
            found[record] = tuple(manifest.label_names(row))
    return found


# --- what is to be done ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Some recordings of a split that follow one another, ``first`` to ``last`` excluded."""

    split: str
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class _Split:
    """The recordings of a manifest, cut into windows.

    Args:
        dataset: The windows.
        rows: Rows of a batch that a network of one lead sees, one by one; None: it sees all.
        seen: Whether the network was trained or pretrained on each recording, bool [N].
        people: Patient of each recording, [N]; empty: its file has to be read.
        fingerprints: uint64 [N]; 0 where the content is not known.
        edges: First window of each recording, and the number of windows, int64 [N + 1].
    """

    dataset: EcgDataset
    rows: list[int] | None
    seen: np.ndarray
    people: list[str]
    fingerprints: np.ndarray
    edges: np.ndarray

    @property
    def source(self) -> Source:
        return self.dataset.source


@dataclass(frozen=True, eq=False)
class _Work:
    """An encoder and what it is to embed."""

    encoder: EcgEncoder
    splits: dict[str, _Split]
    per: str
    about: dict[str, Any]

    def parts(self) -> list[_Part]:
        """Return what is embedded at a time; the same for the same recordings."""
        found = []
        for name, split in self.splits.items():
            first = 0
            for row in range(1, len(split.source.names) + 1):
                windows = split.edges[min(row + 1, len(split.edges) - 1)] - split.edges[first]
                if row == len(split.source.names) or windows > _WINDOWS_OF_A_PART[self.per]:
                    found.append(_Part(name, first, row))
                    first = row
        return found

    def embed(self, part: _Part, batch_size: int, device: str) -> Embeddings:
        """Return the embeddings of a part."""
        split = self.splits[part.split]
        embed = _embed_records if self.per == "record" else _embed_frames
        with torch.inference_mode():
            table, values = embed(self.encoder, split, part, batch_size, device)
        records = table.pop("record_row")
        table.insert(0, "record", [split.source.names[row] for row in records])
        table.insert(1, "patient", _patients(split, records))
        table.insert(2, "split", part.split)
        table.insert(3, "fingerprint", split.fingerprints[records])
        table.insert(4, "seen", split.seen[records])
        _check_finite(values, table, str(self.about["checkpoint"]))
        return Embeddings(table, values, {})


@contextmanager
def _opened(
    path: str | Path,
    data: str | Path,
    splits: Sequence[str],
    per: str,
    leads: object,
    random_init: int | None,
) -> Iterator[_Work]:
    """Open encoder and recordings, which are compared with its input contract."""
    checkpoint, encoder = _encoder(path, random_init)
    with _manifests(Path(data)) as folder:
        opened = {
            name: _open_split(checkpoint, encoder, folder, name, leads, random_init is not None)
            for name in _chosen(folder, Path(data), splits)
        }
        about = {
            "version": VERSION,
            "checkpoint": str(path),
            "checkpoint_sha256": checkpoint_sha256(path),
            "model": checkpoint.model_name,
            "random_init": random_init,
            "contract": {key: checkpoint.contract.get(key) for key in CONTRACT_KEYS},
            "data": {name: _describe(split, str(data)) for name, split in opened.items()},
            "leads": leads if leads is None or isinstance(leads, str) else list(leads),
            "per": per,
            "windows_of_a_part": _WINDOWS_OF_A_PART[per],
            "width": encoder.embedding_width if per == "record" else encoder.width,
        }
        yield _Work(encoder, opened, per, json.loads(json.dumps(about)))


def _encoder(path: str | Path, random_init: int | None) -> tuple[Checkpoint, EcgEncoder]:
    checkpoint = read_checkpoint(path)
    try:
        alone = encoder_of(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{path} holds the model {checkpoint.model_name}: {error}") from None
    model = build_model(alone) if random_init is None else build_random(alone, random_init)
    return alone, model.eval()


@contextmanager
def _manifests(data: Path) -> Iterator[Path]:
    """Yield a folder of manifests: ``data``, or one made for the store that it is."""
    if not (data / STORE_FILE).is_file():
        yield data
        return
    store = Store(data)
    with tempfile.TemporaryDirectory() as folder:
        rows = zip(store.records, store.n_samples.tolist(), strict=True)
        write_manifest(Path(folder) / f"{ALL}.tsv", data.absolute(), list(rows))
        yield Path(folder)


def _chosen(folder: Path, data: Path, splits: Sequence[str]) -> list[str]:
    there = sorted(path.stem for path in folder.glob("*.tsv"))
    if not there:
        raise EmbeddingError(
            f"{data} has no manifest (.tsv) and is no store; give the folder of a label set, of "
            "manifests, or a store that `fairseq-ecg manifest` built"
        )
    for split in splits:
        if split not in there:
            raise EmbeddingError(
                f"{data} has no split {split!r}{did_you_mean(split, there)}; "
                f"there are: {', '.join(there)}"
            )
    return list(dict.fromkeys(splits)) or there


def _open_split(
    checkpoint: Checkpoint,
    encoder: EcgEncoder,
    folder: Path,
    name: str,
    leads: object,
    is_random: bool,
) -> _Split:
    # Windows as in a validation, nothing drawn, and every lead of a window in one row of the batch.
    keys = {"views": "single", "lead_items": False, "perturbation_mode": None}
    task = open_task(checkpoint, "ecg_pretraining", str(folder), name, leads=leads, **keys)
    task.load_dataset(name, training=False)
    dataset = task.dataset(name)
    source = dataset.source
    rows = None
    if encoder.in_d == 1 and len(task.leads.leads) > 1:
        present = task.present_leads(source)
        rows = [row for row, lead in enumerate(task.leads.leads) if lead in present]
    fingerprints = source.fingerprints()
    trained_on = {} if is_random else checkpoint.contract.get("trained_on") or {}
    own, earlier = seen_in_training(trained_on, fingerprints, source.names)
    counts = np.bincount(dataset.windows.row, minlength=len(source.names))
    return _Split(
        dataset,
        rows,
        own | earlier,
        source.people(),
        fingerprints if len(fingerprints) else np.zeros(len(source.names), dtype=np.uint64),
        np.concatenate([[0], np.cumsum(counts)]),
    )


def _describe(split: _Split, data: str) -> dict[str, Any]:
    """Return what tells the recordings of a split from others, by name, length and content."""
    source = split.source
    lengths = zip(source.names, source.n_samples.tolist(), strict=True)
    text = "".join(f"{name}\t{length}\n" for name, length in lengths)
    digest = _sha256(text, split.fingerprints.astype("<u8").tobytes())
    return {
        "folder": data,
        "corpus": source.corpus,
        "records": len(source.names),
        "windows": int(split.edges[-1]),
        "rate_hz": source.rate_hz,
        "sha256": digest,
    }


# --- embedding ------------------------------------------------------------------------------------


def _embed_records(
    encoder: EcgEncoder, split: _Split, part: _Part, batch_size: int, device: str
) -> tuple[pd.DataFrame, np.ndarray]:
    sums = np.zeros((part.last - part.first, encoder.embedding_width))
    for sample in _batches(split, part, batch_size, device):
        encoded, n_leads = _encode(encoder, split, sample)
        pooled = _mean_of_leads(encoder.pooled(encoded).double(), n_leads)
        np.add.at(sums, sample["record"].numpy() - part.first, pooled.cpu().numpy())
    windows = np.diff(split.edges[part.first : part.last + 1])
    values = (sums / np.maximum(windows, 1)[:, None]).astype(np.float32)
    rows = np.arange(part.first, part.last)
    return pd.DataFrame({"record_row": rows, "windows": windows}), values


def _embed_frames(
    encoder: EcgEncoder, split: _Split, part: _Part, batch_size: int, device: str
) -> tuple[pd.DataFrame, np.ndarray]:
    tables, values = [], []
    for sample in _batches(split, part, batch_size, device):
        encoded, n_leads = _encode(encoder, split, sample)
        features = _mean_of_leads(encoded["features"], n_leads)
        kept = torch.ones(features.shape[:2], dtype=torch.bool)
        if encoded["padding_mask"] is not None:
            kept = ~encoded["padding_mask"][::n_leads].cpu()
        item, frame = torch.nonzero(kept, as_tuple=True)
        tables.append(_frame_table(split, sample, item.numpy(), frame.numpy(), kept.shape[1]))
        values.append(features.float().cpu()[kept].numpy())
    table, joined = pd.concat(tables), np.concatenate(values)
    order = np.lexsort((table["frame"], table["window"], table["record_row"]))
    return table.iloc[order].reset_index(drop=True), joined[order]


def _frame_table(
    split: _Split, sample: Mapping[str, Any], item: np.ndarray, frame: np.ndarray, n_frames: int
) -> pd.DataFrame:
    """Return what each frame is; the frames of a window are taken to lie evenly in it."""
    windows, ids = split.dataset.windows, sample["id"].numpy()[item]
    n_samples = sample["net_input"]["source"].shape[-1]
    start = windows.start[ids] + frame * (n_samples / n_frames) - _padded_before(sample)[item]
    row = windows.row[ids]
    return pd.DataFrame(
        {
            "record_row": row,
            "window": ids - split.edges[row],
            "frame": frame,
            "time_s": start / split.source.rate_hz,
        }
    )


def _padded_before(sample: Mapping[str, Any]) -> np.ndarray:
    """Return by how many samples each window was padded at its start, int64 [B]."""
    padding_mask = sample["net_input"].get("padding_mask")
    if padding_mask is None:
        return np.zeros(len(sample["id"]), dtype=np.int64)
    return (~padding_mask).cpu().numpy().argmax(axis=1)


def _batches(split: _Split, part: _Part, batch_size: int, device: str) -> Iterator[dict[str, Any]]:
    """Yield the windows of a part; those of a batch have one length, so that none is padded."""
    dataset = split.dataset
    items = np.arange(split.edges[part.first], split.edges[part.last])
    lengths = dataset.windows.length[items]
    for length in np.unique(lengths):
        alike = items[lengths == length]
        for start in range(0, len(alike), batch_size):
            sample = dataset.collater(dataset.__getitems__(alike[start : start + batch_size]))
            net_input = {key: value.to(device) for key, value in sample["net_input"].items()}
            yield {**sample, "net_input": net_input}


def _encode(
    encoder: EcgEncoder, split: _Split, sample: Mapping[str, Any]
) -> tuple[dict[str, Tensor | None], int]:
    """Return what the encoder makes of a batch, and how many leads of a window follow another."""
    source = sample["net_input"]["source"]
    padding_mask = sample["net_input"].get("padding_mask")
    if split.rows is None:
        return encoder.encode(source, padding_mask), 1
    n_leads = len(split.rows)
    single = source[:, split.rows].reshape(-1, 1, source.shape[-1])
    if padding_mask is not None:
        padding_mask = padding_mask.repeat_interleave(n_leads, dim=0)
    return encoder.encode(single, padding_mask), n_leads


def _mean_of_leads(values: Tensor, n_leads: int) -> Tensor:
    return values.reshape(-1, n_leads, *values.shape[1:]).mean(dim=1) if n_leads > 1 else values


def _patients(split: _Split, records: Sequence[int]) -> list[str]:
    if split.people:
        return [split.people[row] for row in records]
    known = {row: str(split.source.patient(row)) for row in dict.fromkeys(records)}
    return [known[row] for row in records]


def _check_finite(values: np.ndarray, table: pd.DataFrame, path: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if wrong.size:
        raise EmbeddingError(
            f"{path}: the encoder puts out NaN or infinity for {table['record'].iloc[wrong[0]]}; "
            "its training broke down, or the recording holds samples that are no numbers"
        )


def _write_parts(
    work: _Work,
    folder: Path,
    asked: dict[str, Any],
    batch_size: int,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    parts = work.parts()
    about = {**asked, "parts": len(parts), "complete": False}
    (folder / PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
    remove_temporary_files(folder)
    remove_temporary_files(folder / PARTS_FOLDER)
    write_json(folder / ABOUT_FILE, about)
    work.encoder.to(device)
    total = sum(part.last - part.first for part in parts)
    with tqdm(total=total, unit=" records", desc="embed", disable=not progress) as bar:
        for number, part in enumerate(parts):
            path = part_path(folder, number)
            if not path.is_file():
                write_part(path, work.embed(part, batch_size, device), work.per)
            bar.update(part.last - part.first)
    if asked["format"] == "npy":
        join(folder, about)
    rows = count_rows(folder, about)
    about |= {"complete": True, "rows": rows}
    write_json(folder / ABOUT_FILE, about)
    if asked["format"] == "npy":
        shutil.rmtree(folder / PARTS_FOLDER, ignore_errors=True)
    return about


def _sha256(text: str, more: bytes = b"") -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape") + more).hexdigest()


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise EmbeddingError(f"{name} must be {' or '.join(known)}, got {value!r}")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise EmbeddingError(f"batch_size must be at least 1, got {batch_size}")
