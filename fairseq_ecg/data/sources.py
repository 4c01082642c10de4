"""Where the samples of a manifest come from: our store, or a folder of files.

A source hides the difference: recording ``i`` of the manifest, samples ``start`` to ``stop``, in
millivolts, in the standard lead order.

Before: data/manifest.py. After: transforms/pipeline.py.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fairseq_ecg.data.leads import STANDARD_LEADS, to_standard
from fairseq_ecg.data.manifest import Manifest, ManifestError
from fairseq_ecg.data.mat_reader import read_mat
from fairseq_ecg.data.store import Store
from fairseq_ecg.data.wfdb_reader import RecordError, read_signal


class Source(Protocol):
    """Recordings by number.

    Attributes:
        names: Path or record name of each recording, for messages and results.
        n_samples: Length of each recording, int64 [N].
        rate_hz: Sampling rate, the same for all.
        corpus: Name of what the recordings were built from.
    """

    names: list[str]
    n_samples: np.ndarray
    rate_hz: float
    corpus: str

    def read(self, row: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return samples ``start`` to ``stop`` of recording ``row``, float32 [12, T], mV."""

    def identity(self, row: int) -> int:
        """Return a number shared by recordings that contrastive learning takes for one."""

    def patient(self, row: int) -> int:
        """Return a number shared by the recordings of one patient, where patients are known."""

    def fingerprints(self) -> np.ndarray:
        """Return one number per recording that depends on its content, uint64 [N]; may be empty."""


def open_source(manifest: Manifest, rate_hz: float | None = None) -> Source:
    """Open the recordings of a manifest.

    Args:
        manifest: Its root may be a store or a folder of files; the files decide.
        rate_hz: Rate that the recordings must have; None, or 0 or less as in fairseq-signals, to
            take what is there.

    Raises:
        ValueError: If the root is missing, no recording is listed, or the rate is another one.
    """
    if not manifest.root.is_dir():
        raise ManifestError(
            f"the manifest's root {manifest.root} does not exist; "
            "edit its first line if the recordings were moved"
        )
    if not len(manifest):
        raise ManifestError(f"the manifest lists no recording of {manifest.root}")
    if (manifest.root / "store.json").is_file():
        source: Source = StoreSource(manifest)
    else:
        source = FolderSource(manifest)
    if rate_hz is not None and rate_hz > 0 and source.rate_hz != rate_hz:
        raise ValueError(
            f"task.sample_rate={rate_hz:g}, but the recordings in {manifest.root} have "
            f"{source.rate_hz:g} Hz; leave it null, or rebuild with "
            f"`fairseq-ecg manifest ... --rate {rate_hz:g}`"
        )
    return source


class StoreSource:
    """The recordings of a manifest whose root is a store; see ``Source`` for the methods.

    Args:
        manifest: A manifest of kind ``plain`` or ``identification``.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._store = Store(manifest.root)
        self.names = manifest.paths
        self._rows = np.array([self._store.row_of(name) for name in self.names], dtype=np.int64)
        self.n_samples = self._store.n_samples[self._rows]
        _check_lengths(manifest, self.n_samples)
        self.rate_hz = float(self._store.rate_hz)
        self.corpus = _corpus_name(manifest.root)
        patients = [self._store.patients[row] for row in self._rows]
        self._patients = np.unique(patients, return_inverse=True)[1]
        self._leads = [STANDARD_LEADS.index(lead) for lead in self._store.leads]

    def read(self, row: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See ``Source.read``; written straight from the memory map into ``out``.

        Leads that the store does not have are silent rows.
        """
        if self._store.leads == STANDARD_LEADS:
            return self._store.read(int(self._rows[row]), start, stop, out=out)
        if out is None:
            out = np.empty((len(STANDARD_LEADS), stop - start), dtype=np.float32)
        out.fill(0)
        out[self._leads] = self._store.read(int(self._rows[row]), start, stop)
        return out

    def identity(self, row: int) -> int:
        """Return the recording's own number: segments are positives if one record holds both."""
        return int(self._rows[row])

    def patient(self, row: int) -> int:
        """See ``Source.patient``."""
        return int(self._patients[row])

    def fingerprints(self) -> np.ndarray:
        """See ``Source.fingerprints``: first eight bytes of the SHA-256 of each signal."""
        return self._store.hashes[self._rows]


class FolderSource:
    """The recordings of a manifest whose root is a folder: ``.mat`` of fairseq-signals, or WFDB.

    The file read last is kept, so that the windows of one recording cost one read.

    Args:
        manifest: Any kind; for ``cmsc`` every segment file is a recording of its own.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._root = manifest.root
        if manifest.kind == "cmsc":
            pairs = list(zip(manifest.paths, manifest.segments, strict=True))
            self.names = [f"{p}_{s}.{manifest.extension}" for p, numbers in pairs for s in numbers]
            counts = [len(numbers) for _, numbers in pairs]
            self.n_samples = np.repeat(manifest.n_samples, counts)
        else:
            self.names = manifest.paths
            self.n_samples = manifest.n_samples
        self.corpus = self._root.name
        self._last: tuple[int, dict[str, Any]] | None = None
        self.rate_hz = float(self._load(0)["rate_hz"])

    def read(self, row: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See ``Source.read``.

        Raises:
            RecordError: If the file is broken, has another rate than the first one, or is
                shorter than the manifest says; the message names the file.
        """
        loaded = self._load(row)
        if loaded["rate_hz"] != self.rate_hz:
            raise RecordError(
                "wrong_rate",
                f"{self.names[row]} has {loaded['rate_hz']:g} Hz, not {self.rate_hz:g}",
            )
        values = loaded["values_mv"]
        if values.shape[1] < stop:
            raise RecordError(
                "truncated", f"{self.names[row]} has {values.shape[1]} samples, not {stop}"
            )
        if out is None:
            return values[:, start:stop].copy()
        np.copyto(out, values[:, start:stop])
        return out

    def identity(self, row: int) -> int:
        """Return the file's ``idx``, else its ``patient_id``, else the row (fairseq-signals)."""
        fields = self._load(row)["fields"]
        return int(fields.get("idx", fields.get("patient_id", row)))

    def patient(self, row: int) -> int:
        """Return the file's ``patient_id``, or the row where it has none."""
        return int(self._load(row)["fields"].get("patient_id", row))

    def label_row(self, row: int) -> int | None:
        """Return the file's ``idx``, its row in a label array; None where it has none."""
        index = self._load(row)["fields"].get("idx")
        return None if index is None else int(index)

    def label(self, row: int) -> np.ndarray | None:
        """Return the file's own multi-hot ``label``, float32 [K]; None where it has none."""
        return self._load(row)["label"]

    def fingerprints(self) -> np.ndarray:
        """Return nothing: the files would have to be read once more for it."""
        return np.empty(0, dtype=np.uint64)

    def _load(self, row: int) -> dict[str, Any]:
        if self._last is None or self._last[0] != row:
            path = self._root / self.names[row]
            self._last = (row, _load_mat(path) if path.suffix == ".mat" else _load_wfdb(path))
        return self._last[1]


def _load_mat(path: Path) -> dict[str, Any]:
    content = read_mat(path)
    if "feats" not in content or "curr_sample_rate" not in content:
        raise RecordError(
            "not_a_segment",
            f"{path}: expected the variables feats and curr_sample_rate of fairseq-signals, "
            f"found {sorted(content)}",
        )
    values = np.atleast_2d(content["feats"]).astype(np.float32, copy=False)
    if values.shape[0] != len(STANDARD_LEADS):
        raise RecordError("wrong_leads", f"{path}: feats must be [12, T], got {values.shape}")
    if not np.isfinite(values).all():
        raise RecordError(
            "nan", f"{path}: feats has {int((~np.isfinite(values)).sum())} non-finite"
        )
    numbers = {
        k: content[k].item() for k in ("idx", "patient_id") if np.size(content.get(k, ())) == 1
    }
    label = content.get("label")
    return {
        "values_mv": values,
        "rate_hz": float(np.squeeze(content["curr_sample_rate"])),
        "fields": numbers,
        "label": None if label is None else np.ravel(label).astype(np.float32),
    }


def _load_wfdb(path: Path) -> dict[str, Any]:
    signal, _ = to_standard(read_signal(path.with_suffix("") if path.suffix == ".hea" else path))
    if not np.isfinite(signal.values_mv).all():
        raise RecordError("nan", f"{path}: the signal has missing samples; build a store instead")
    return {"values_mv": signal.values_mv, "rate_hz": signal.rate_hz, "fields": {}, "label": None}


def _check_lengths(manifest: Manifest, actual: np.ndarray) -> None:
    wrong = np.flatnonzero(manifest.n_samples != actual)
    if wrong.size:
        row = int(wrong[0])
        raise ManifestError(
            f"{manifest.paths[row]}: the manifest says {manifest.n_samples[row]} samples, the "
            f"store in {manifest.root} has {actual[row]}; run `fairseq-ecg manifest` again"
        )


def _corpus_name(store: Path) -> str:
    return str(json.loads((store / "store.json").read_text()).get("corpus", store.parent.name))
