import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import wfdb

from fairseq_ecg.data import shards
from fairseq_ecg.data.builder import BuildError, build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.store import Store, StoreError
from tests.builds import contents, make_adu, run_and_die, write_folder, write_record

OPTIONS = BuildOptions(shard_records=2, min_seconds=0.1)


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    """A killed process loses nothing that it wrote; only a power cut needs the flushing."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def pool_for_few(monkeypatch):
    monkeypatch.setattr("fairseq_ecg.data.builder._BYTES_WORTH_A_POOL", 0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    entries = write_folder(root)
    (root / "R04.dat").write_bytes(b"short")
    return root, entries


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The bytes of a build that nothing disturbed."""
    dest = tmp_path_factory.mktemp("whole")
    build_store(source[1], source[0], dest, OPTIONS)
    return contents(dest)


def test_a_finished_build_leaves_nothing_but_the_store(whole):
    expected = {"ledger.csv", "store/index.parquet", "store/store.json"}
    expected |= {f"store/shard-0000{i}.bin" for i in range(3)}
    assert set(whole) == expected


def test_a_build_killed_at_any_moment_goes_on_to_the_same_bytes(source, whole, tmp_path):
    root, entries = source
    # plan, three files for each of three shards, ledger, index, marker
    n_replaces = 1 + 3 * 3 + 3
    assert run_and_die(entries, root, tmp_path / "no", OPTIONS, n_replaces + 1, True) == 0
    for replaces, before in itertools.product(range(1, n_replaces + 1), (True, False)):
        dest = tmp_path / f"{replaces}{before}"
        code = run_and_die(entries, root, dest, OPTIONS, replaces, before)
        assert code == -signal.SIGKILL
        if not (dest / "store" / "store.json").exists():
            with pytest.raises(StoreError, match="not finished|not a store"):
                Store(dest / "store")
        build_store(entries, root, dest, OPTIONS)
        assert contents(dest) == whole, f"killed at renaming {replaces}, before: {before}"


def test_a_build_in_processes_that_is_killed_goes_on_and_leaves_no_process(tmp_path):
    root = tmp_path / "records"
    entries = write_folder(root, 40)
    build_store(entries, root, tmp_path / "whole", OPTIONS)
    script = (
        "from fairseq_ecg.data import builder\n"
        "from fairseq_ecg.data.ingest import BuildOptions, RecordEntry\n"
        "if __name__ == '__main__':\n"
        "    builder._BYTES_WORTH_A_POOL = 0\n"
        f"    builder.build_store({entries!r}, {str(root)!r}, {str(tmp_path / 'dest')!r}, "
        "BuildOptions(shard_records=2, min_seconds=0.1), workers=2)\n"
    )
    (tmp_path / "build.py").write_text(script)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, tmp_path / "build.py"], env=os.environ | {"PYTHONPATH": path}
    )
    store = tmp_path / "dest" / "store"
    deadline = time.monotonic() + 60
    while not list(store.glob("shard-*.json")) and time.monotonic() < deadline:
        time.sleep(0.001)
    # The process itself, the server that forks, and its workers.
    assert len(processes_that_mention(tmp_path)) >= 4
    process.kill()
    process.wait()
    assert not (store / "store.json").exists(), "the build was over before it could be killed"
    report = build_store(entries, root, tmp_path / "dest", OPTIONS)
    assert not report.was_finished
    assert contents(tmp_path / "dest") == contents(tmp_path / "whole")
    deadline = time.monotonic() + 20
    while found := processes_that_mention(tmp_path):
        assert time.monotonic() < deadline, f"still running: {found}"
        time.sleep(0.05)


def processes_that_mention(path):
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(path) in command.read_bytes().decode(errors="replace"):
                found.append(command)
    return found


@pytest.mark.usefixtures("pool_for_few")
def test_the_number_of_workers_does_not_matter(source, whole, tmp_path):
    root, entries = source
    build_store(reversed(entries), root, tmp_path / "two", OPTIONS, workers=2)
    assert contents(tmp_path / "two") == whole
    with ThreadPoolExecutor(3) as executor:
        build_store(entries, root, tmp_path / "given", OPTIONS, executor=executor)
    assert contents(tmp_path / "given") == whole


def test_a_finished_build_is_not_done_again(source, tmp_path, monkeypatch):
    root, entries = source
    assert not build_store(entries, root, tmp_path, OPTIONS).was_finished
    monkeypatch.setattr("fairseq_ecg.data.builder.build_shard", None)
    report = build_store(entries, root, tmp_path, OPTIONS)
    assert report.was_finished
    assert len(report.store) == 5
    assert [row.record for row in report.ledger] == ["R04"]


def test_other_options_or_records_are_refused_until_overwrite(source, tmp_path):
    root, entries = source
    build_store(entries, root, tmp_path, OPTIONS)
    other = dataclasses.replace(OPTIONS, rate_hz=250.0)
    with pytest.raises(BuildError, match=r"rate_hz was 500.0, now 250.0.*--overwrite"):
        build_store(entries, root, tmp_path, other)
    with pytest.raises(BuildError, match=r"6 records before, 5 now"):
        build_store(entries[1:], root, tmp_path, OPTIONS)
    relabelled = [dataclasses.replace(entry, codes=("b",)) for entry in entries]
    with pytest.raises(BuildError, match="labels or their splits changed"):
        build_store(relabelled, root, tmp_path, OPTIONS)
    assert build_store(entries, root, tmp_path, other, overwrite=True).store.rate_hz == 250.0


def test_an_unfinished_build_is_not_mixed_with_other_options(source, tmp_path):
    root, entries = source
    assert run_and_die(entries, root, tmp_path, OPTIONS, 5, False) == -signal.SIGKILL
    other = dataclasses.replace(OPTIONS, flat_leads="exclude")
    with pytest.raises(BuildError, match="flat_leads was 'keep', now 'exclude'"):
        build_store(entries, root, tmp_path, other)


def test_overwriting_mends_a_damaged_store(source, whole, tmp_path):
    root, entries = source
    build_store(entries, root, tmp_path, OPTIONS)
    (tmp_path / "store" / "shard-00001.bin").unlink()
    with pytest.raises(StoreError, match="--overwrite"):
        build_store(entries, root, tmp_path, OPTIONS)
    build_store(entries, root, tmp_path, OPTIONS, overwrite=True)
    assert contents(tmp_path) == whole


def test_two_builds_do_not_write_to_one_folder(source, tmp_path):
    from fairseq_ecg.data.pool import exclusive

    root, entries = source
    (tmp_path / "store").mkdir()
    with (
        exclusive(tmp_path / "store"),
        pytest.raises(BuildError, match="another process is building"),
    ):
        build_store(entries, root, tmp_path, OPTIONS)


def test_a_folder_of_other_files_is_not_touched(source, tmp_path):
    root, entries = source
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="no store, but is not empty"):
        build_store(entries, root, tmp_path, OPTIONS)
    build_store(entries, root, tmp_path / "b", OPTIONS)
    (tmp_path / "b" / "store" / "thesis.txt").write_text("years of work")
    build_store(entries, root, tmp_path / "b", OPTIONS, overwrite=True)
    assert (tmp_path / "b" / "store" / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot be written to"):
        build_store(source[1], source[0], tmp_path / "file" / "dest", OPTIONS)


def test_a_disk_too_small_is_noticed_before_the_work(source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shards.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10_000})()
    )
    with pytest.raises(BuildError, match=r"needs about .* GB more, but .* are free"):
        build_store(source[1], source[0], tmp_path, OPTIONS)
    assert not list((tmp_path / "store").glob("shard-*"))


def test_a_worker_that_dies_gives_a_clear_error():
    from fairseq_ecg.data.pool import map_shards

    with pytest.raises(BuildError, match=r"worker process died.*run the same command again"):
        list(map_shards(os._exit, [3, 3, 3], workers=2))


def test_equal_record_names_and_no_records_are_refused(tmp_path):
    twice = [RecordEntry("a", f"{i}/a", "p", "train") for i in range(2)]
    with pytest.raises(BuildError, match=r"'a' occurs twice: '0/a' and '1/a'"):
        build_store(twice, tmp_path, tmp_path / "d")
    with pytest.raises(BuildError, match="no records"):
        build_store([], tmp_path, tmp_path / "d")


def test_a_build_that_keeps_nothing_says_so_and_leaves_the_ledger(tmp_path):
    entries = [RecordEntry("a", "a", "p", "train")]
    with pytest.raises(BuildError, match="not one of 1 records could be kept"):
        build_store(entries, tmp_path, tmp_path / "d")
    assert [row.reason for row in read_ledger(tmp_path / "d" / "ledger.csv")] == ["missing_file"]


def test_duplicates_are_found_over_all_shards(tmp_path):
    adu = make_adu()
    splits = {"a": "train", "b": "test", "c": "test", "d": "train"}
    for name in "abcd":
        write_record(tmp_path / "r", name, make_adu(9) if name == "b" else adu)
    entries = [RecordEntry(n, n, n, s, ("x",)) for n, s in splits.items()]

    def build(policy):
        options = BuildOptions(shard_records=1, duplicates=policy)
        report = build_store(entries, tmp_path / "r", tmp_path / policy, options)
        kept = dict(zip(report.store.records, report.store.index["split"], strict=True))
        return kept, {row.record: (row.reason, row.action) for row in report.ledger}

    assert build("keep") == (splits, dict.fromkeys("cd", ("duplicate", "kept")))
    assert build("one_split")[0] == splits | {"c": ""}
    kept, ledger = build("exclude")
    assert kept == {"a": "train", "b": "test"}
    assert ledger == dict.fromkeys("cd", ("duplicate", "excluded"))


def write_hostile_folder(root):
    """Write one record of each way to be broken; return record -> expected reason and action."""
    adu = make_adu()
    write_record(root, "good", adu)
    write_record(root, "truncated", adu)
    (root / "truncated.dat").write_bytes((root / "truncated.dat").read_bytes()[:777])
    write_record(root, "no_signal", adu)
    (root / "no_signal.dat").unlink()
    write_record(root, "claims_10_to_12", adu, n_samples=10**12)
    write_record(root, "claims_much", adu, rate=10**9, n_samples=10**12)
    traversal = write_record(root, "traversal", adu).with_suffix(".hea")
    traversal.write_text(traversal.read_text().replace("traversal.dat", "../../x.dat"))
    broken = adu.copy()
    broken[3, 5] = -32768
    write_record(root, "nan", broken)
    flat = make_adu(1)
    flat[6:] = 0
    write_record(root, "flat_some", flat)
    write_record(root, "flat_all", adu * 0)
    write_record(root, "three_leads", adu[:3])
    write_record(root, "foreign_leads", adu[:2], leads=("ABP", "CVP"))
    write_record(root, "twice_lead", adu[:2], leads=("II", "ii"))
    write_record(root, "zero_length", adu, n_samples=0)
    write_record(root, "short", adu[:, :100])
    write_record(root, "pressure", adu, gain="100/mmHg")
    write_record(root, "twin", adu)
    (root / "garbage.hea").write_bytes(bytes(range(256)) * 4)
    (root / "empty.hea").write_bytes(b"")
    (root / "folder.hea").mkdir()
    excluded = {
        "truncated": "truncated",
        "no_signal": "missing_file",
        "claims_10_to_12": "too_long",
        "claims_much": "too_long",
        "traversal": "unsafe_path",
        "nan": "nan",
        "flat_all": "all_flat",
        "foreign_leads": "no_standard_leads",
        "twice_lead": "repeated_lead",
        "zero_length": "empty",
        "short": "too_short",
        "pressure": "unknown_unit",
        "garbage": "bad_header",
        "empty": "bad_header",
        "folder": "not_a_file",
        "absent": "missing_file",
    }
    kept = {"flat_some": "flat_lead", "three_leads": "missing_leads", "twin": "duplicate"}
    kept["unlabelled"] = "no_label"
    write_record(root, "unlabelled", make_adu(2))
    return excluded, kept


@pytest.mark.usefixtures("pool_for_few")
def test_every_broken_record_ends_in_the_ledger_and_the_rest_in_the_store(tmp_path):
    root = tmp_path / "records"
    excluded, kept = write_hostile_folder(root)
    entries = [RecordEntry(name, name, name, "train", ("x",)) for name in excluded | kept]
    entries = [dataclasses.replace(e, codes=()) if e.record == "unlabelled" else e for e in entries]
    entries.append(RecordEntry("good", "good", "good", "train", ("x",)))
    entries.append(RecordEntry("b\udcff\n", "b\udcff\n", "p", "train"))
    report = build_store(entries, root, tmp_path / "dest", BuildOptions(shard_records=5), workers=2)
    found = {row.record: (row.reason, row.action) for row in report.ledger}
    expected = {name: (reason, "excluded") for name, reason in excluded.items()}
    expected |= {name: (reason, "kept") for name, reason in kept.items()}
    expected["b\\udcff\\x0a"] = ("unsafe_name", "excluded")
    assert found == expected
    assert report.store.records == sorted(["good", *kept])
    assert all(row.detail and str(tmp_path) not in row.detail for row in report.ledger)
    assert len(report.ledger) == len(expected)


def test_the_ledger_does_not_depend_on_where_the_records_are(source, whole, tmp_path):
    root, entries = source
    shutil.copytree(root, tmp_path / "moved")
    build_store(entries, tmp_path / "moved", tmp_path / "dest", OPTIONS)
    assert contents(tmp_path / "dest") == whole


def test_many_records_make_larger_shards_not_more_of_them(tmp_path):
    entries = [RecordEntry(f"{i:05d}", "x", "p", "train") for i in range(1000)]
    cut = list(shards.cut_shards(entries, tmp_path, tmp_path, BuildOptions(shard_records=1)))
    assert len(cut) == 250
    assert [e.record for task in cut for e in task.entries] == [e.record for e in entries]


@pytest.mark.parametrize(
    "name",
    [
        "ptb-xl/records500/00000/00001_hr",
        "challenge-2021/training/cpsc_2018/g1/A0001",
        "challenge-2021/training/ptb/g1/S0001",
        "ludb/data/1",
        "challenge-2021/training/georgia/g1/E00001",
    ],
)
def test_stored_signals_are_wfdbs_physical_values(shared, tmp_path, name):
    root = shared / "data"
    if not (root / f"{name}.hea").exists():
        name = str(next((root / name).parent.rglob("*.hea")).relative_to(root).with_suffix(""))
    header = wfdb.rdheader(str(root / name))
    options = BuildOptions(rate_hz=float(header.fs))
    report = build_store([RecordEntry("a", name, "p", "train")], root, tmp_path, options)
    expected = wfdb.rdrecord(str(root / name)).p_signal.T
    steps = 1 / report.store.index["gain"][0]
    assert np.abs(report.store.read(0) - expected).max(axis=1) == pytest.approx(0, abs=1e-4)
    assert (np.abs(report.store.read(0) - expected).max(axis=1) <= steps / 2).all()


def test_the_marker_says_what_the_store_was_built_from(source, whole):
    meta = json.loads(whole["store/store.json"])
    assert meta["n_entries"] == 6
    assert meta["n_records"] == 5
    assert meta["options"]["shard_records"] == 2
    assert len(meta["files"]) == 4
    assert (meta["dtype"], meta["rate_hz"]) == ("int16", 500.0)
