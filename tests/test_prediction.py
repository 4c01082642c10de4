"""Predictions of a network that was really trained: the numbers of an evaluation, whatever the file."""

import errno
import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from fairseq_ecg import prediction
from fairseq_ecg.checkpoint import load_pretrained
from fairseq_ecg.cli.main import main
from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.data.recordings import ArrayFacts, Fault, find_recordings
from fairseq_ecg.data.wfdb_reader import read_signal
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.prediction import Predictor, predict
from fairseq_ecg.saliency import TOLERANCE
from tests.builds import write_record
from tests.recordings import write_mat, write_tone_store
from tests.runs import CLASSIFICATION, PRETRAINING, single_label_words, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    words = [*CLASSIFICATION, f"task.data={data}", "optimization.max_update=8"]
    done = train(tmp_path_factory.mktemp("run"), words)
    return str(done.checkpoints / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def expected(data, checkpoint):
    return evaluate(checkpoint, str(data))


def numbers(result):
    return result.table()[list(result.labels)].to_numpy()


def wfdb(folder, name, rate=100, seconds=2.0, leads=STANDARD_LEADS, seed=5, **more):
    """Write a recording of noise and return its path."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 300, (len(leads), round(rate * seconds))).cumsum(axis=1) * 0.2
    return str(write_record(folder, name, values.astype(np.int64), rate, leads, **more))


# --- numbers ------------------------------------------------------------------------------------


def test_records_of_a_store_and_files_give_the_numbers_of_an_evaluation(data, checkpoint, expected):
    stored = predict(checkpoint, [data / "store" / name for name in expected.names])
    files = predict(checkpoint, [data / "wfdb" / name for name in expected.names])
    for result in (stored, files):
        assert result.faults == []
        assert result.table()["record"].tolist() == expected.names
        np.testing.assert_allclose(numbers(result), expected.probability, atol=1e-6)
        decided = [[label in row.decided for label in result.labels] for row in result.found]
        assert decided == expected.decisions().tolist()


def test_windows_are_those_of_an_evaluation_by_segment(data, checkpoint):
    by_segment = evaluate(checkpoint, str(data), score_per="segment")
    places = [data / "wfdb" / name for name in dict.fromkeys(by_segment.names)]
    result = predict(checkpoint, places, per="window", batch_size=3)
    table = result.table()
    assert table["record"].tolist() == by_segment.names
    assert table["start_s"].tolist()[:4] == [0, 1, 0, 1]
    np.testing.assert_allclose(numbers(result), by_segment.probability, atol=1e-6)


def test_plain_arrays_give_the_same_numbers(data, checkpoint, expected, tmp_path):
    for name in expected.names:
        values = read_signal(data / "wfdb" / name).values_mv
        np.save(tmp_path / f"{name}.npy", 1000 * values.T)
    arrays = ArrayFacts(100.0, STANDARD_LEADS, "uV")
    result = predict(checkpoint, tmp_path, arrays=arrays)
    assert [row.name for row in result.found] == expected.names
    np.testing.assert_allclose(numbers(result), expected.probability, atol=1e-5)


def test_another_rate_is_resampled_as_a_store_is_built_and_said(checkpoint, tmp_path):
    path = wfdb(tmp_path / "files", "fast", rate=250, seconds=3)
    entry = RecordEntry("fast", "fast", "p", "test")
    build_store([entry], tmp_path / "files", tmp_path / "built", BuildOptions(rate_hz=100))
    (tmp_path / "built/labels.txt").write_text("a\nb\nc\n")
    write_manifest(tmp_path / "built/test.tsv", "store", [("fast", 300, "a")])
    result = predict(checkpoint, path)
    by_store = evaluate(checkpoint, str(tmp_path / "built"))
    np.testing.assert_allclose(numbers(result), by_store.probability, atol=1e-6)
    assert "resampled from 250 to 100 Hz" in result.found[0].remarks
    through_store = predict(checkpoint, tmp_path / "built")
    np.testing.assert_allclose(numbers(through_store), by_store.probability, atol=1e-6)


def test_recordings_are_answered_in_the_order_they_are_named(data, checkpoint, tmp_path):
    other = wfdb(tmp_path, "other", rate=500)
    places = [data / "r003", tmp_path / "absent", other, data / "wfdb/r001", data / "r002"]
    found = [*Predictor(checkpoint).predict(find_recordings(places))]
    assert [getattr(one, "name", None) for one in found] == ["r003", None, "other", "r001", "r002"]
    assert isinstance(found[1], Fault)


def test_an_exported_network_gives_the_same_numbers(data, checkpoint, expected, tmp_path):
    words = ["export", checkpoint, "--dest", str(tmp_path / "out"), "--format", "safetensors"]
    assert main(words) == 0
    result = predict(tmp_path / "out", [data / "wfdb" / name for name in expected.names])
    np.testing.assert_allclose(numbers(result), expected.probability, atol=1e-6)


def test_many_recordings_are_prepared_in_parts(data, checkpoint, expected, monkeypatch):
    monkeypatch.setattr(prediction, "_AT_ONCE", 2)
    result = predict(checkpoint, [data / "wfdb" / name for name in expected.names])
    np.testing.assert_allclose(numbers(result), expected.probability, atol=1e-6)


def test_a_network_of_exclusive_classes_decides_for_one(data, tmp_path):
    write_manifest(
        data / "single" / "train.tsv",
        "../store",
        [(f"r{i:03d}", 200, "ab"[i % 2]) for i in range(8)],
    )
    (data / "single/labels.txt").write_text("a\nb\n")
    for split in ("valid", "test"):
        (data / f"single/{split}.tsv").write_text((data / "single/train.tsv").read_text())
    words = single_label_words(tmp_path)
    words += [f"task.data={data / 'single'}", "optimization.max_update=2"]
    path = str(train(tmp_path / "run", words).checkpoints / "checkpoint_last.pt")
    result = predict(path, data / "single/../store")
    scored = evaluate(path, str(data / "single"))
    assert result.thresholds is None
    np.testing.assert_allclose(numbers(result)[:8], scored.probability, atol=1e-6)
    assert all(len(row.decided) == 1 for row in result.found)
    assert np.allclose(numbers(result).sum(axis=1), 1)
    with pytest.raises(ValueError, match="takes no threshold"):
        predict(path, data, threshold=0.3)


# --- leads --------------------------------------------------------------------------------------


def test_missing_leads_are_refused_or_silenced(checkpoint, tmp_path):
    path = wfdb(tmp_path, "few", leads=STANDARD_LEADS[:6])
    (fault,) = predict(checkpoint, path).faults
    assert fault.reason == "missing_leads"
    assert "lacks V1, V2, V3, V4, V5, V6" in fault.detail
    (row,) = predict(checkpoint, path, missing_leads="silence").found
    assert any("silent: V1" in remark for remark in row.remarks)
    values = np.zeros((12, 200), dtype=np.float32)
    values[:6] = read_signal(path).values_mv
    np.save(tmp_path / "whole.npy", values)
    arrays = ArrayFacts(100.0, STANDARD_LEADS)
    whole = predict(checkpoint, tmp_path / "whole.npy", arrays=arrays)
    np.testing.assert_allclose(row.probability, numbers(whole)[0], atol=1e-5)


def test_a_recording_of_other_leads_is_never_silenced(checkpoint, tmp_path):
    path = wfdb(tmp_path, "other", leads=("MLII", "Vx"))
    (fault,) = predict(checkpoint, path, missing_leads="silence").faults
    assert fault.reason == "no_standard_leads"


def test_leads_that_the_network_was_not_given_are_left_out_and_named(data, tmp_path):
    words = [*CLASSIFICATION, f"task.data={data}", "optimization.max_update=2"]
    run = train(tmp_path / "run", [*words, "task.leads_to_load=[0,1]", "model.in_d=2"])
    path = str(run.checkpoints / "checkpoint_last.pt")
    few = wfdb(tmp_path, "few", leads=("II", "I"))
    result = predict(path, [data / "r003", few])
    assert result.faults == []
    assert any("not looked at: III" in remark for remark in result.found[0].remarks)
    assert result.found[1].remarks == ()
    by_store = evaluate(path, str(data), "train")
    row = by_store.names.index("r003")
    np.testing.assert_allclose(numbers(result)[0], by_store.probability[row], atol=1e-6)


# --- bad input ----------------------------------------------------------------------------------


def bad_places(folder):
    """Write recordings that cannot be used; return their places by the reason expected."""
    broken = wfdb(folder, "broken")
    (folder / "broken.dat").write_bytes(b"\0" * 40)
    invalid = np.full((12, 200), 100)
    invalid[3, 50] = -32768
    write_record(folder, "invalid", invalid + np.arange(200) % 5, 100)
    invalid_path = folder / "invalid"
    stored = np.fromfile(f"{invalid_path}.dat", dtype="<i2").reshape(200, 12)
    stored[50, 3] = -32768
    stored.tofile(f"{invalid_path}.dat")
    write_record(folder, "flat", np.full((12, 200), 7), 100)
    np.save(folder / "array.npy", np.zeros((12, 200)))
    return {
        "missing_file": str(folder / "absent"),
        "truncated": broken,
        "nan": str(invalid_path),
        "too_short": wfdb(folder, "short", seconds=0.5),
        "all_flat": str(folder / "flat"),
        "unknown_unit": wfdb(folder, "degrees", gain="100/degC"),
        "bad_header": str(folder / "array.npy"),
    }


def test_bad_recordings_are_named_and_the_others_go_on(data, checkpoint, expected, tmp_path):
    bad = bad_places(tmp_path)
    places = [data / "wfdb" / expected.names[0], *bad.values(), data / "wfdb" / expected.names[1]]
    result = predict(checkpoint, places)
    assert {fault.reason: fault.place for fault in result.faults} == bad
    assert all(fault.detail for fault in result.faults)
    np.testing.assert_allclose(numbers(result), expected.probability[:2], atol=1e-6)


def test_recordings_scaled_when_they_were_prepared_are_refused(checkpoint, tmp_path):
    write_mat(tmp_path / "s.mat", 0, 0, 200, idx=3, mean=np.zeros(12), std=np.ones(12))
    (fault,) = predict(checkpoint, tmp_path / "s.mat").faults
    assert fault.reason == "wrong_unit"


def test_what_the_network_refuses_is_a_fault_of_that_recording_alone(
    data, checkpoint, expected, monkeypatch
):
    whole = Predictor._forward

    def forward(self, dataset, items):
        found = whole(self, dataset, items)
        if 1 in found:
            raise ValueError("fewer samples than one patch")
        return found

    monkeypatch.setattr(Predictor, "_forward", forward)
    result = predict(checkpoint, [data / "wfdb" / name for name in expected.names])
    assert [fault.reason for fault in result.faults] == ["refused"]
    assert expected.names[1] in result.faults[0].place
    others = np.delete(expected.probability, 1, axis=0)
    np.testing.assert_allclose(numbers(result), others, atol=1e-6)


def test_shorter_recordings_than_the_windows_are_said(checkpoint, tmp_path):
    path = wfdb(tmp_path, "long", seconds=1)
    assert predict(checkpoint, path).found[0].remarks == ()
    words = Predictor(checkpoint)
    words.contract = words.contract.from_dict({**words.contract.to_dict(), "segment_s": 4.0})
    (row,) = words.predict(find_recordings([path]))
    assert "1 s, shorter than the 4 s windows" in row.remarks[0]


def test_a_network_that_decides_nothing_is_refused(data, tmp_path):
    words = [*PRETRAINING, f"task.data={data}", "optimization.max_update=1"]
    run = train(tmp_path / "run", words)
    with pytest.raises(ValueError, match="decides no classes"):
        predict(str(run.checkpoints / "checkpoint_last.pt"), data / "r003")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"per": "beat"}, "record or window"),
        ({"saliency": "magic"}, "gradient, integrated"),
        ({"saliency": "gradient", "label": "d"}, "a, b, c"),
        ({"missing_leads": "invent"}, "refuse or silence"),
        ({"threshold": {"a": 0.5}}, "thresholds are of 1 classes"),
    ],
)
def test_options_that_do_not_exist_are_refused(data, checkpoint, options, text):
    with pytest.raises(ValueError, match=text):
        predict(checkpoint, data / "r003", **options)


# --- saliency -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient", "integrated", "attention"])
def test_an_explanation_covers_the_recording_window_by_window(data, checkpoint, method):
    result = predict(checkpoint, data / "wfdb/r003", saliency=method, with_signal=True)
    (row,) = result.found
    found = row.explanation
    assert found.values.shape == (12, 200)
    assert found.label == row.labels[row.probability.argmax()]
    assert row.signal.values_mv.shape == (12, 200)
    halves = [np.abs(found.values[:, part]).max() for part in (slice(100), slice(100, None))]
    assert min(halves) > 0
    if method == "integrated":
        logits = np.log(row.of_windows / (1 - row.of_windows))[:, row.probability.argmax()]
        flat = np.zeros((12, 100), dtype=np.float32)
        np.testing.assert_allclose(
            found.values.reshape(12, 2, 100).sum(axis=(0, 2)) - logits,
            -_logit(checkpoint, flat, int(row.probability.argmax())),
            atol=2 * TOLERANCE * max(0.1, np.abs(logits).max()),
        )


def _logit(checkpoint, values, k):
    model, _ = load_pretrained(checkpoint)
    with torch.no_grad():
        return float(model(torch.from_numpy(values)[None])["out"][0, k])


def test_a_chosen_class_is_explained(data, checkpoint):
    one, other = (
        predict(checkpoint, data / "r003", saliency="gradient", label=label).found[0].explanation
        for label in "ab"
    )
    assert (one.label, other.label) == ("a", "b")
    assert not np.allclose(one.values, other.values)


# --- the command --------------------------------------------------------------------------------


def test_the_command_writes_tables_and_pictures(data, checkpoint, expected, tmp_path, capsys):
    out = tmp_path / "out"
    places = [str(data / "wfdb" / name) for name in expected.names[:2]]
    words = ["predict", checkpoint, *places, "--saliency", "gradient", "--out", str(out)]
    assert main(words) == 0
    table = pd.read_csv(out / "predictions.csv")
    assert table["record"].tolist() == expected.names[:2]
    np.testing.assert_allclose(table[["a", "b", "c"]], expected.probability[:2], atol=1e-6)
    content = json.loads((out / "predictions.json").read_text())
    assert content["thresholds"] == {"a": 0.5, "b": 0.5, "c": 0.5}
    assert [row["record"] for row in content["recordings"]] == expected.names[:2]
    assert content["recordings"][0]["windows"][1]["start_s"] == 1
    assert sorted(path.name for path in out.iterdir()) == [
        *("predictions.csv", "predictions.json"),
        *(f"{name}.png" for name in expected.names[:2]),
    ]
    assert imread(out / f"{expected.names[0]}.png").std() > 0.05
    assert capsys.readouterr().out.startswith(f"{expected.names[0]}  ")


def test_the_exit_status_tells_of_recordings_that_could_not_be_used(
    data, checkpoint, tmp_path, capsys
):
    good, bad = str(data / "wfdb/r001"), str(tmp_path / "absent")
    assert main(["predict", checkpoint, good]) == 0
    assert main(["predict", checkpoint, bad, good, "--out", str(tmp_path / "out")]) == 1
    faults = pd.read_csv(tmp_path / "out/faults.csv")
    assert faults[["place", "reason"]].to_numpy().tolist() == [[bad, "missing_file"]]
    assert main(["predict", checkpoint, bad]) == 2
    assert f"{bad}: " in capsys.readouterr().err
    assert main(["predict", checkpoint, good, "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out/faults.csv").exists()


@pytest.mark.parametrize(
    "words", [["--pictures"], ["--class", "a"], ["--saliency", "gradient"], ["--rate", "0"]]
)
def test_options_that_do_not_go_together_are_refused(data, checkpoint, words, capsys):
    assert main(["predict", checkpoint, str(data / "r001"), *words]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_written_folder(data, checkpoint, tmp_path, monkeypatch, capsys):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prediction, "write_text", full)
    words = ["predict", checkpoint, str(data / "r001"), "--pictures", "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_thresholds_of_a_file_decide(data, checkpoint, expected, tmp_path):
    chosen = tmp_path / "t.json"
    words = ["thresholds", checkpoint, str(data), "--split", "valid", "--out", str(chosen)]
    assert main(words) == 0
    place = str(data / "wfdb" / expected.names[0])
    words = [
        "predict",
        checkpoint,
        place,
        "--thresholds",
        str(chosen),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(words) == 0
    limits = json.loads(chosen.read_text())["thresholds"]
    content = json.loads((tmp_path / "o/predictions.json").read_text())
    assert content["thresholds"] == limits
    (row,) = content["recordings"]
    assert row["decided"] == [k for k, p in row["probability"].items() if p > limits[k]]


def test_names_that_are_no_file_names_get_pictures_too(data, checkpoint, tmp_path):
    paths = [wfdb(tmp_path / below, "r") for below in ("a b", "c")]
    out = tmp_path / "out"
    assert main(["predict", checkpoint, *paths, "--pictures", "--out", str(out)]) == 0
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert len(pictures) == 2
    assert all("/" not in name and " " not in name for name in pictures)
