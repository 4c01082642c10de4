"""Which split each preprocessed recording is in, as tables and manifests of fairseq-signals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.interop._tables import META_SPLIT_FILE, SEGMENTED_SPLIT_FILE, write_table

SPLITS = ("train", "valid", "test")
MANIFEST_FOLDER = "manifests"
# As for ECG-FM: a recording of which one of these is true is in no split.
_FILTERS = ("nan_any", "constant_leads_any")


def write_splits(
    dest: Path,
    meta: pd.DataFrame,
    segmented: pd.DataFrame,
    split_of: Mapping[str, str],
    group: str,
) -> pd.DataFrame:
    """Write ``meta_split.csv``, ``segmented_split.csv`` and ``manifests/``.

    All segments of a recording are in its split. Recordings with missing samples or a constant lead
    are in none. The manifests name the folder ``segmented`` by its absolute path, as
    fairseq-signals needs it; a split without a segment has no manifest.

    Args:
        dest: Folder of the preprocessed recordings.
        meta: One row per recording, as in ``meta.csv``.
        segmented: One row per segment, as in ``segmented.csv``.
        split_of: Split of each group, such as a patient.
        group: Column of ``meta`` that names the group.

    Returns:
        What was written as ``meta_split.csv``: ``idx``, ``save_file``, ``split`` and the group.
    """
    kept = meta[~meta[list(_FILTERS)].any(axis=1)]
    table = kept[["idx", "save_file"]].assign(split=kept[group].map(split_of))
    table[group] = kept[group]
    write_table(dest / META_SPLIT_FILE, table, index=False)
    segments = table.merge(segmented, on="save_file", how="inner")
    write_table(dest / SEGMENTED_SPLIT_FILE, segments, index=False)
    for split in SPLITS:
        path = dest / MANIFEST_FOLDER / f"{split}.tsv"
        rows = segments.loc[segments["split"] == split, ["path", "sample_size"]]
        if len(rows):
            write_manifest(path, dest / "segmented", rows.itertuples(index=False, name=None))
        else:
            path.unlink(missing_ok=True)
    return table
