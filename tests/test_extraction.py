"""Embeddings against the network itself; folders that were interrupted, mixed up or damaged."""

import errno
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg import embedding_files, extraction
from fairseq_ecg.checkpoint import CheckpointError, load_pretrained, read_checkpoint
from fairseq_ecg.cli.main import main
from fairseq_ecg.contract import ContractError
from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.data.pool import BuildError, exclusive
from fairseq_ecg.data.store import Store
from fairseq_ecg.data.wfdb_reader import read_signal
from fairseq_ecg.embedding_files import EmbeddingError, read_about, read_embeddings
from fairseq_ecg.export import export_checkpoint
from fairseq_ecg.extraction import checkpoint_sha256, embeddings, extract
from fairseq_ecg.models._finetuning import FinetunedModel
from tests.devices import DEVICE, pretending
from tests.exports import MODELS, write_model
from tests.models.test_encoder import ENCODERS
from tests.recordings import write_folder, write_tone_store
from tests.tiny import TINY_TRANSFORMER, save_checkpoint

CONTRACT = {"segment_s": 0.96, "trained_on": {}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A label set of 18, 13 and 7 recordings of 2 s in one store."""
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "x.pt", "ecg_resnet1d", **CONTRACT)


@pytest.fixture(scope="module")
def call():
    with pretending() as call:
        yield call


def gathered(*args, **options):
    parts = list(embeddings(*args, **options))
    table = pd.concat([part.table for part in parts], ignore_index=True)
    return table, np.concatenate([part.values for part in parts])


def windows_of(data, record):
    store = Store(data / "store")
    values = store.read(store.row_of(record))
    return torch.from_numpy(np.stack([values[:, :96], values[:, 96:192]]))


# --- what the vectors are -------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_what_its_encoder_makes_of_the_windows(name, data, tmp_path):
    path = write_model(tmp_path / "x.pt", name, **CONTRACT)
    model, _ = load_pretrained(path)
    model = model.encoder if isinstance(model, FinetunedModel) else model
    table, values = gathered(path, data, ["test"], batch_size=5)
    assert table["record"].tolist() == [f"r{i:03d}" for i in range(15, 22)]
    assert table["patient"].tolist() == [f"pr{i:03d}" for i in range(15, 22)]
    assert set(table["windows"]) == {2}
    frames, features = gathered(path, data, ["test"], per="frame", batch_size=5)
    for row, record in enumerate(table["record"]):
        source = windows_of(data, record)
        with torch.inference_mode():
            expected = model.embed(source).mean(dim=0)
            each = model.extract_features(source)
        np.testing.assert_allclose(values[row], expected, rtol=1e-4, atol=1e-5)
        own = frames["record"] == record
        np.testing.assert_allclose(
            features[own], each.reshape(-1, each.shape[2]), rtol=1e-4, atol=1e-5
        )
        assert frames["window"][own].tolist() == [0] * each.shape[1] + [1] * each.shape[1]
        assert frames["frame"][own].tolist() == [*range(each.shape[1])] * 2
        times = frames["time_s"][own].to_numpy()
        assert times[0] == 0
        assert times[each.shape[1]] == 0.96
        assert (np.diff(times) > 0).all()


def test_recordings_of_other_lengths_do_not_change_each_other(tmp_path):
    data = write_folder(tmp_path / "data", [150, 330, 80, 100], splits=("test",))
    path = write_model(tmp_path / "x.pt", "ecg_transformer", **{**CONTRACT, "segment_s": None})
    together, values = gathered(path, data)
    one_by_one = gathered(path, data, batch_size=1)[1]
    np.testing.assert_allclose(values, one_by_one, atol=1e-6)
    model, _ = load_pretrained(path)
    for row, length in enumerate((150, 330, 80, 100)):
        source = torch.from_numpy(read_signal(data / "wfdb" / f"r{row}").values_mv)[None]
        assert source.shape[-1] == length
        with torch.inference_mode():
            expected = model.embed(source)[0]
        np.testing.assert_allclose(values[row], expected, rtol=1e-4, atol=1e-5)
    assert together["split"].unique().tolist() == ["test"]


def test_frames_of_padding_are_left_out(data, tmp_path):
    cfg = {"_name": "ecg_transformer", "in_d": 12, **TINY_TRANSFORMER}
    model = build_model(OmegaConf.create(cfg), None).eval()
    save_checkpoint(tmp_path / "x.pt", cfg, model, rate_hz=100.0, trained_on={})
    raw = torch.load(tmp_path / "x.pt", weights_only=True)
    raw["cfg"]["task"] = {"segment_s": 4.0, "pad_segments": "end"}
    torch.save(raw, tmp_path / "x.pt")
    table, values = gathered(tmp_path / "x.pt", data, ["test"], per="frame")
    per_record = table.groupby("record").size()
    assert per_record.nunique() == 1
    assert 11 <= per_record.iloc[0] <= 13  # half of those of 4 s
    assert 0 <= table["time_s"].min() < 0.1
    assert table["time_s"].max() < 2.0
    assert np.isfinite(values).all()


def test_a_network_of_one_lead_sees_each_recorded_lead_by_itself(tmp_path):
    names = ["r0", "r1"]
    write_folder(tmp_path / "raw", [200, 200])
    options = BuildOptions(rate_hz=100, leads=("I", "V2"))
    entries = [RecordEntry(name, name, name, "test") for name in names]
    build_store(entries, tmp_path / "raw" / "wfdb", tmp_path / "data", options)
    cfg = {"_name": "ecg_resnet1d", "in_d": 1, "widths": [4, 4, 6, 8], "kernel_sizes": [3] * 4}
    torch.manual_seed(0)
    model = build_model(OmegaConf.create(cfg), None).eval()
    path = save_checkpoint(tmp_path / "x.pt", cfg, model, rate_hz=100.0, segment_s=1.0)
    _, values = gathered(path, tmp_path / "data" / "store")
    store = Store(tmp_path / "data" / "store")
    for row in range(2):
        leads = torch.from_numpy(store.read(row))
        windows = torch.stack([leads[:, :100], leads[:, 100:]])
        with torch.inference_mode():
            expected = model.embed(windows.reshape(4, 1, 100)).mean(dim=0)
        np.testing.assert_allclose(values[row], expected, rtol=1e-4, atol=1e-5)


def test_random_weights_are_those_of_their_seed_and_nobody_elses(checkpoint, data):
    trained = gathered(checkpoint, data, ["test"])[1]
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, again, other = (
        gathered(checkpoint, data, ["test"], random_init=seed)[1] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, trained)


def test_recordings_that_the_network_has_seen_are_marked(data, tmp_path):
    hashes = torch.from_numpy(np.sort(Store(data / "store").hashes[15:18]).view(np.int64))
    trained_on = {"corpus": "x", "records": hashes[:1], "pretraining": {"records": hashes[1:]}}
    path = write_model(tmp_path / "x.pt", "se_wrn", **{**CONTRACT, "trained_on": trained_on})
    assert gathered(path, data, ["test"])[0]["seen"].tolist() == [True] * 3 + [False] * 4
    assert not gathered(path, data, ["test"], random_init=0)[0]["seen"].any()


def test_memory_is_bounded_by_the_windows_of_a_part(checkpoint, data, monkeypatch):
    monkeypatch.setitem(extraction._WINDOWS_OF_A_PART, "record", 5)
    sizes = [len(part.table) for part in embeddings(checkpoint, data)]
    assert max(sizes) == 2  # of two windows each
    assert sum(sizes) == 38
    whole = gathered(checkpoint, data)
    monkeypatch.setitem(extraction._WINDOWS_OF_A_PART, "record", 1)
    single = gathered(checkpoint, data)
    pd.testing.assert_frame_equal(whole[0], single[0])
    np.testing.assert_allclose(whole[1], single[1], atol=1e-6)


def embedded_there(path, data, per):
    return gathered(path, data, ["test"], per=per, device=DEVICE)


# The pretended device lacks an operation that these need in inference mode.
BEYOND_PRETENCE = ("ecg_mae", "ecg_resnet2d")


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in BEYOND_PRETENCE])
def test_embeddings_on_another_device_are_those_of_the_cpu(name, data, tmp_path, call):
    path = write_model(tmp_path / "x.pt", name, **CONTRACT)
    for per in extraction.PER:
        table, values = call(embedded_there, path, data, per)
        here = gathered(path, data, ["test"], per=per)
        pd.testing.assert_frame_equal(table, here[0])
        np.testing.assert_allclose(values, here[1], rtol=1e-4, atol=1e-5)


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", extraction.FORMATS)
@pytest.mark.parametrize("per", extraction.PER)
def test_what_was_written_is_read_again(form, per, checkpoint, data, tmp_path):
    about = extract(checkpoint, data, tmp_path / "out", per=per, form=form)
    assert about["complete"]
    assert about["checkpoint_sha256"] == checkpoint_sha256(checkpoint)
    assert about["contract"]["rate_hz"] == 100
    table, values = gathered(checkpoint, data, per=per)
    found = read_embeddings(tmp_path / "out")
    assert np.array_equal(found.values, values)
    assert about["rows"] == len(values)
    for column in table:
        assert found.table[column].tolist() == table[column].tolist(), column
    part = read_embeddings(tmp_path / "out", ["valid"])
    assert np.array_equal(part.values, values[table["split"] == "valid"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    if form == "npy":
        assert names == {"extraction.json", "embeddings.npy", "index.parquet"}
    else:
        assert names == {"extraction.json", "parts"}
        assert len(pd.read_parquet(tmp_path / "out" / "parts")) == len(values)


def test_a_whole_store_needs_no_manifest_and_an_exported_folder_is_a_checkpoint_too(
    checkpoint, data, tmp_path
):
    export_checkpoint(checkpoint, tmp_path / "exported", ["safetensors"])
    extract(tmp_path / "exported", data / "store", tmp_path / "out")
    found = read_embeddings(tmp_path / "out")
    assert found.table["record"].tolist() == [f"r{i:03d}" for i in range(22)]
    assert found.table["split"].unique().tolist() == ["all"]
    np.testing.assert_allclose(
        found.values[15:], gathered(checkpoint, data, ["test"])[1], atol=1e-5
    )


def killed(checkpoint, data, folder, form, replaces):
    """Extract one split in small parts, and be killed at one renaming of a file."""
    extraction._WINDOWS_OF_A_PART["record"] = 6
    count = 0
    real = os.replace

    def replace(source, target):
        nonlocal count
        count += 1
        if count == replaces:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = replace
    extract(checkpoint, data, folder, ["test"], form=form)


def start(*args):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_extraction"])
    process = context.Process(target=killed, args=args)
    process.start()
    return process


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("form", "renamings"), [("parquet", 5), ("npy", 7)])
def test_a_run_killed_at_any_renaming_goes_on_without_lost_or_doubled_records(
    form, renamings, checkpoint, data, tmp_path, monkeypatch
):
    """Three parts; the state after each renaming is that before the next one."""
    monkeypatch.setitem(extraction._WINDOWS_OF_A_PART, "record", 6)
    extract(checkpoint, data, tmp_path / "whole", ["test"], form=form)
    expected = contents(tmp_path / "whole")
    table, values = gathered(checkpoint, data, ["test"])
    for number in range(1, renamings + 1):
        folder = tmp_path / str(number)
        process = start(checkpoint, data, folder, form, number)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        extract(checkpoint, data, folder, ["test"], form=form)
        assert contents(folder) == expected
        found = read_embeddings(folder)
        assert found.table["record"].tolist() == table["record"].tolist()
        assert np.array_equal(found.values, values)
    process = start(checkpoint, data, tmp_path / "last", form, renamings + 1)
    process.join(120)
    assert process.exitcode == 0


def test_a_run_killed_at_random_moments_goes_on(checkpoint, data, tmp_path, monkeypatch):
    monkeypatch.setitem(extraction._WINDOWS_OF_A_PART, "record", 6)
    folder = tmp_path / "out"
    for delay_s in (0.05, 0.12, 0.2, 0.3, 0.4):
        process = start(checkpoint, data, folder, "parquet", 10**9)
        time.sleep(delay_s)
        process.kill()
        process.join()
    extract(checkpoint, data, folder, ["test"])
    found, (table, values) = read_embeddings(folder), gathered(checkpoint, data, ["test"])
    assert found.table["record"].tolist() == table["record"].tolist()
    np.testing.assert_allclose(found.values, values, atol=1e-6)


def test_a_finished_folder_is_not_computed_again(checkpoint, data, tmp_path, monkeypatch):
    first = extract(checkpoint, data, tmp_path / "out")
    monkeypatch.setattr(extraction._Work, "embed", None)
    assert extract(checkpoint, data, tmp_path / "out", batch_size=3) == first


def test_a_folder_of_something_else_is_refused_and_left_as_it_was(
    checkpoint, data, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    extract(checkpoint, data, out, ["test"])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = write_model(tmp_path / "y.pt", "ecg_resnet1d", **{**CONTRACT, "segment_s": 2.0})
    moved = write_tone_store(tmp_path / "moved")
    lines = (moved / "test.tsv").read_text().splitlines()
    (moved / "test.tsv").write_text("\n".join(lines[:-1]) + "\n")
    cases = {
        "another checkpoint, of an encoder that expects other input": {"path": other},
        "other recordings": {"data": moved},
        r"another unit \(record\)": {"per": "frame"},
        r"another format \(parquet\)": {"form": "npy"},
        r"other random weights \(None\)": {"random_init": 3},
        r"other leads \(None\)": {"leads": "3-lead"},
    }
    for message, changed in cases.items():
        options = {"path": checkpoint, "data": data, "folder": out, "splits": ["test"], **changed}
        with pytest.raises(EmbeddingError, match=f"of .*{message}.*--overwrite"):
            extract(**options)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert extract(checkpoint, data, out, ["valid"], overwrite=True)["data"].keys() == {"valid"}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(EmbeddingError, match="holds other files"):
        extract(checkpoint, data, tmp_path / "full", overwrite=True)
    with pytest.raises(EmbeddingError, match="is a file"):
        extract(checkpoint, data, tmp_path / "full" / "thesis.tex")


def test_other_samples_under_the_same_names_are_other_recordings(checkpoint, data, tmp_path):
    extract(checkpoint, data, tmp_path / "out", ["test"])
    other = tmp_path / "other"
    write_folder(other, [200] * 22)
    for path in sorted((other / "wfdb").iterdir()):
        name = f"r{int(path.stem[1:]):03d}"
        text = path.read_bytes()
        if path.suffix == ".hea":
            text = text.replace(path.stem.encode() + b".", name.encode() + b".")
            text = text.replace(path.stem.encode() + b" ", name.encode() + b" ")
        path.with_name(name + path.suffix).write_bytes(text)
    entries = [RecordEntry(f"r{i:03d}", f"r{i:03d}", f"p{i}", "test") for i in range(22)]
    build_store(entries, other / "wfdb", other, BuildOptions(rate_hz=100))
    rows = [(f"r{i:03d}", 200) for i in range(15, 22)]
    write_manifest(other / "test.tsv", "store", rows)
    with pytest.raises(EmbeddingError, match="of other recordings"):
        extract(checkpoint, other, tmp_path / "out", ["test"])


def test_a_moved_label_set_is_the_same_data(checkpoint, data, tmp_path):
    extract(checkpoint, data, tmp_path / "out", ["test"])
    moved = write_tone_store(tmp_path / "elsewhere")
    assert extract(checkpoint, moved, tmp_path / "out", ["test"])["complete"]


def test_a_full_disk_leaves_whole_parts_and_the_next_run_goes_on(
    checkpoint, data, tmp_path, monkeypatch
):
    monkeypatch.setitem(extraction._WINDOWS_OF_A_PART, "record", 8)
    real, count = pq.write_table, 0

    def write_table(*args, **options):
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **options)

    with monkeypatch.context() as context:
        context.setattr(embedding_files.pq, "write_table", write_table)
        with pytest.raises(OSError, match="No space left"):
            extract(checkpoint, data, tmp_path / "out")
    parts = sorted(path.name for path in (tmp_path / "out" / "parts").iterdir())
    assert parts == ["part-00000.parquet", "part-00001.parquet"]
    with pytest.raises(EmbeddingError, match="not complete"):
        read_embeddings(tmp_path / "out")
    assert extract(checkpoint, data, tmp_path / "out")["complete"]


def test_two_processes_never_write_to_one_folder(checkpoint, data, tmp_path):
    (tmp_path / "out").mkdir()
    with exclusive(tmp_path / "out"), pytest.raises(BuildError, match="another process"):
        extract(checkpoint, data, tmp_path / "out")
    assert extract(checkpoint, data, tmp_path / "out")["complete"]


def test_parts_without_a_word_about_them_are_never_taken_over(checkpoint, data, tmp_path):
    extract(checkpoint, data, tmp_path / "out", random_init=1)
    (tmp_path / "out" / "extraction.json").unlink()  # as a kill during --overwrite leaves it
    extract(checkpoint, data, tmp_path / "out")
    assert np.array_equal(read_embeddings(tmp_path / "out").values, gathered(checkpoint, data)[1])


def test_a_damaged_folder_is_refused(checkpoint, data, tmp_path):
    extract(checkpoint, data, tmp_path / "out", ["test"])
    part = tmp_path / "out" / "parts" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(EmbeddingError, match="cannot be read"):
        read_embeddings(tmp_path / "out")
    part.unlink()
    with pytest.raises(EmbeddingError, match="cannot be read"):
        read_embeddings(tmp_path / "out")
    with pytest.raises(
        EmbeddingError, match="no embeddings of the split 'tset'; did you mean test"
    ):
        read_embeddings(tmp_path / "out", ["tset"])
    with pytest.raises(EmbeddingError, match="holds no embeddings"):
        read_about(data)
    about = tmp_path / "out" / "extraction.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "version": 99}))
    with pytest.raises(EmbeddingError, match="version 99"):
        read_about(tmp_path / "out")


# --- what is refused ------------------------------------------------------------------------------


def test_recordings_that_the_encoder_does_not_expect_are_refused(data, tmp_path):
    for change, message in (
        ({"rate_hz": 500.0}, "500 Hz, but the recordings have 100 Hz"),
        ({"unit": "standard deviations", "standardize": None}, "standard deviations"),
        ({"leads": ["I", "II"]}, "2 leads"),
    ):
        path = write_model(tmp_path / "x.pt", "ecg_resnet1d", **{**CONTRACT, **change})
        with pytest.raises(ContractError, match=message):
            extract(path, data, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_options_splits_and_folders_that_are_not_there_are_refused(checkpoint, data, tmp_path):
    with pytest.raises(EmbeddingError, match="no split 'tests'; did you mean test"):
        extract(checkpoint, data, tmp_path / "out", ["tests"])
    with pytest.raises(EmbeddingError, match="no manifest"):
        extract(checkpoint, tmp_path, tmp_path / "out")
    with pytest.raises(EmbeddingError, match="per must be record or frame, got 'beat'"):
        extract(checkpoint, data, tmp_path / "out", per="beat")
    with pytest.raises(EmbeddingError, match="form must be"):
        extract(checkpoint, data, tmp_path / "out", form="csv")
    with pytest.raises(EmbeddingError, match="batch_size must be at least 1"):
        extract(checkpoint, data, tmp_path / "out", batch_size=0)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        extract(tmp_path / "no.pt", data, tmp_path / "out")


def test_a_broken_network_is_refused_by_the_recording_it_fails_on(checkpoint, data, tmp_path):
    raw = torch.load(checkpoint, weights_only=True)
    for value in raw["model"].values():
        if value.is_floating_point():
            value.fill_(float("nan"))
    torch.save(raw, tmp_path / "x.pt")
    with pytest.raises(EmbeddingError, match="NaN or infinity for r015"):
        extract(tmp_path / "x.pt", data, tmp_path / "out", ["test"])
    assert read_checkpoint(tmp_path / "x.pt").model_name == "ecg_resnet1d"


# --- command --------------------------------------------------------------------------------------


def test_the_command_writes_embeddings_and_a_picture(checkpoint, data, tmp_path, capsys):
    out, picture = str(tmp_path / "out"), str(tmp_path / "p.png")
    words = ["extract", str(checkpoint), str(data), "--out", out, "--no-progress"]
    assert main([*words, "--picture", picture, "--projection", "pca"]) == 0
    assert "38 vectors of width 8, recordings: 7 of test, 18 of train" in capsys.readouterr().out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--random-init", "1"]) == 2
    assert "other random weights" in capsys.readouterr().err
    assert main([*words[:4], str(tmp_path / "bar"), "--progress"]) == 0
    assert "38/38" in capsys.readouterr().err
    nothing = ["--picture", picture, "--labels", str(tmp_path)]
    assert main([*words, *nothing]) == 2
    assert "is no label set" in capsys.readouterr().err


def test_real_recordings_are_embedded_and_differ(shared, tmp_path):
    """PTB-XL through a store, every record once, none like another."""
    root = shared / "data" / "ptb-xl"
    words = ["manifest", "ptb-xl", str(root), "--dest", str(tmp_path / "data")]
    assert main([*words, "--rate", "100", "--no-progress"]) == 0
    path = write_model(tmp_path / "x.pt", "ecg_resnet1d", **CONTRACT)
    extract(path, tmp_path / "data" / "store", tmp_path / "out")
    found = read_embeddings(tmp_path / "out")
    assert found.table["record"].is_unique
    different = found.table["fingerprint"].nunique()  # PTB-XL has recordings twice
    assert len(np.unique(found.values, axis=0)) == different > 100
