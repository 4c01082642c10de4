import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.store import Store, StoreError, file_sha256
from tests.builds import make_adu, write_folder, write_record


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    entries = write_folder(folder / "records")
    options = BuildOptions(shard_records=2, min_seconds=0.1)
    build_store(entries, folder / "records", folder / "dest", options)
    return folder / "dest" / "store"


@pytest.fixture
def copied(built, tmp_path):
    shutil.copytree(built, tmp_path / "store")
    return tmp_path / "store"


def test_a_store_lists_its_records(built):
    store = Store(built)
    assert len(store) == 6
    assert store.records == [f"R{i:02d}" for i in range(6)]
    assert store.patients == ["P0", "P0", "P1", "P1", "P2", "P2"]
    assert store.n_samples.tolist() == [600, 610, 1240, 630, 640, 1300]
    assert store.n_samples.dtype == np.int64
    assert store.rate_hz == 500.0
    assert store.leads == STANDARD_LEADS
    assert store.row_of("R03") == 3
    assert isinstance(store.index, pd.DataFrame)
    assert store.index["source_rate_hz"].tolist() == [500, 500, 250, 500, 500, 250]


def test_samples_at_the_stores_rate_are_the_recorded_ones(built):
    store = Store(built)
    values = store.read(3)
    assert values.dtype == np.float32
    expected = make_adu(3, n_samples=630) / 1000
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=0)


def test_a_piece_goes_straight_into_the_given_array(built):
    store = Store(built)
    batch = np.full((3, 12, 200), np.nan, dtype=np.float32)
    result = store.read(4, 50, 250, out=batch[1])
    assert result.base is batch
    np.testing.assert_array_equal(batch[1], store.read(4)[:, 50:250])
    assert np.isnan(batch[[0, 2]]).all()


def test_gain_and_baseline_of_each_lead_are_honoured(tmp_path):
    adu = make_adu(n_samples=500)
    path = write_record(tmp_path / "r", "a", adu)
    text = path.with_suffix(".hea").read_text()
    for i in range(12):
        text = text.replace("1000/mV", f"{100 * (i + 1)}({50 * i - 300})/mV", 1)
    path.with_suffix(".hea").write_text(text)
    report = build_store([RecordEntry("a", "a", "p", "train")], tmp_path / "r", tmp_path / "d")
    lead = np.arange(12)[:, None]
    expected = (adu - (50 * lead - 300)) / (100.0 * (lead + 1))
    np.testing.assert_allclose(report.store.read(0), expected, atol=1e-5)


def test_hashes_are_the_first_bytes_of_the_sha256_of_the_stored_signal(built):
    import hashlib

    content = make_adu(0, n_samples=600).astype("<i2").tobytes()
    expected = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    store = Store(built)
    assert store.hashes.dtype == np.uint64
    assert int(store.hashes[0]) == expected
    assert len(set(store.hashes.tolist())) == 6


def test_missing_leads_are_zero_and_marked(tmp_path):
    adu = make_adu(n_leads=2, n_samples=500)
    write_record(tmp_path / "r", "a", adu, leads=("v1", "ECG II"))
    report = build_store([RecordEntry("a", "a", "p", "train")], tmp_path / "r", tmp_path / "d")
    mask = report.store.lead_mask(0)
    assert [lead for lead, there in zip(STANDARD_LEADS, mask, strict=True) if there] == ["II", "V1"]
    values = report.store.read(0)
    assert (values[~mask] == 0).all()
    np.testing.assert_allclose(values[mask], adu[::-1] / 1000, rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "start", "stop", "match"),
    [
        (6, 0, None, "row 6 is outside 0 .. 5"),
        (0, 0, 601, "samples 0 to 601 of record 'R00', which has 600"),
        (0, -1, 5, "samples -1 to 5"),
        (0, 7, 5, "samples 7 to 5"),
    ],
)
def test_what_is_outside_is_refused(built, row, start, stop, match):
    with pytest.raises(StoreError, match=match):
        Store(built).read(row, start, stop)


def test_an_array_of_another_shape_or_type_is_refused(built):
    store = Store(built)
    for out in (np.empty((12, 99), np.float32), np.empty((12, 100), np.float64)):
        with pytest.raises(StoreError, match=r"out must be float32 \[12, 100\]"):
            store.read(0, 0, 100, out=out)


def test_an_unknown_record_is_refused_with_the_nearest_names(built):
    with pytest.raises(StoreError, match="no record 'R0' among 6; nearest: R0"):
        Store(built).row_of("R0")


def read_last(store, queue):
    queue.put(store.read(5).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_can_be_used_by_worker_processes(built, method):
    store = Store(built)
    expected = store.read(5).sum()
    if method == "spawn":
        copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - made in the line itself
        assert copy._maps == {}
        assert copy.read(5).sum() == expected
        return
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=read_last, args=(store, queue))
    process.start()
    assert queue.get(timeout=30) == expected
    process.join()


def test_verify_accepts_what_was_built_and_finds_one_changed_byte(copied):
    Store(copied).verify()
    path = copied / "shard-00001.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    store = Store(copied)
    with pytest.raises(StoreError, match=r"shard-00001\.bin was altered"):
        store.verify()


def test_a_missing_or_shortened_shard_is_found_on_opening(copied):
    path = copied / "shard-00002.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(StoreError, match=f"has {len(content) - 1} bytes of {len(content)}"):
        Store(copied)
    path.unlink()
    with pytest.raises(StoreError, match=r"shard-00002\.bin is missing"):
        Store(copied)


def test_other_folders_and_versions_are_refused(copied, tmp_path):
    with pytest.raises(StoreError, match="is not a store"):
        Store(tmp_path)
    meta = json.loads((copied / "store.json").read_text())
    (copied / "store.json").write_text(json.dumps(meta | {"format_version": 99}))
    with pytest.raises(StoreError, match="format version 99"):
        Store(copied)
    (copied / "store.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        Store(copied)
    (copied / "store.json").unlink()
    (copied / "build.json").write_text("{}")
    with pytest.raises(StoreError, match="not finished; run the same manifest command again"):
        Store(copied)


def test_a_damaged_index_is_refused(copied):
    path = copied / "index.parquet"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(StoreError, match="index.parquet cannot be read"):
        Store(copied)


def test_a_record_outside_its_shard_is_found_on_opening(copied):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = copied / "index.parquet"
    table = pq.read_table(path)
    offsets = pa.array([0, 10**12, 0, 0, 0, 0], pa.int64())
    column = table.schema.get_field_index("offset")
    pq.write_table(table.set_column(column, table.schema.field(column), offsets), path)
    meta = json.loads((copied / "store.json").read_text())
    meta["files"]["index.parquet"]["size"] = path.stat().st_size
    (copied / "store.json").write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="record 'R01' lies outside its shard"):
        Store(copied)


# --- what later versions added ----------------------------------------------------------------------


def as_written_before(folder):
    """Turn a store into one from before units, groups and preprocessing."""
    path = folder / "index.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["group"]), path)
    meta = json.loads((folder / "store.json").read_text())
    del meta["unit"]
    for option in ("preprocessing", "unit"):
        del meta["options"][option]
    meta["files"]["index.parquet"] = {
        "size": path.stat().st_size,
        "sha256": file_sha256(path),
    }
    (folder / "store.json").write_text(json.dumps(meta))


def test_stores_of_before_are_in_millivolts_and_build_on(tmp_path):
    entries = write_folder(tmp_path / "in", count=3)
    build_store(entries, tmp_path / "in", tmp_path / "out", corpus="c")
    as_written_before(tmp_path / "out" / "store")
    store = Store(tmp_path / "out" / "store")
    store.verify()
    assert store.unit == "mV"
    assert store.groups.tolist() == [0, 1, 2]
    again = build_store(entries, tmp_path / "in", tmp_path / "out", corpus="c")
    assert again.was_finished


def test_another_unit_or_preprocessing_is_another_store(tmp_path):
    entries = write_folder(tmp_path / "in", count=3)
    build_store(entries, tmp_path / "in", tmp_path / "out", BuildOptions(dtype="float32"))
    options = BuildOptions(dtype="float32", preprocessing="ecg-fm")
    with pytest.raises(ValueError, match="preprocessing was 'none', now 'ecg-fm'"):
        build_store(entries, tmp_path / "in", tmp_path / "out", options)
    build_store(entries, tmp_path / "in", tmp_path / "out", options, overwrite=True)
    store = Store(tmp_path / "out" / "store")
    assert store.unit == "standard deviations"
    for row in range(3):
        np.testing.assert_allclose(store.read(row).std(axis=1), 1, rtol=1e-5)
