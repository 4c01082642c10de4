"""Runs beside each other and beside the baselines; tables for papers; what is not comparable."""

import dataclasses
import errno
import json

import numpy as np
import pandas as pd
import pytest
import torch
from fairseq.models import MODEL_REGISTRY
from sklearn.metrics import roc_auc_score

from fairseq_ecg.cli.compare import FILES
from fairseq_ecg.cli.main import main
from fairseq_ecg.comparison import FROZEN, RANDOM, TRAINED, ComparisonError, compare, holm
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.embedding_files import Embeddings
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.evaluation_files import read_evaluation, write_evaluation
from fairseq_ecg.extraction import embeddings
from fairseq_ecg.metrics.bootstrap import paired_difference
from fairseq_ecg.models._encoder import registered_name
from fairseq_ecg.probing import features_of, probe, read_label_set, shallow_features_of
from tests.exports import write_model
from tests.models.test_encoder import ENCODERS, SIZES, build
from tests.recordings import write_folder, write_tone_store

SPLITS = ("train", "valid", "test")
CONTRACT = {"segment_s": 0.96, "trained_on": {}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_tone_store(tmp_path_factory.mktemp("tones") / "data")
    rows = [line.split("\t") for line in (folder / "train.tsv").read_text().splitlines()[1:]]
    write_manifest(folder / "test.tsv", "store", rows[:14])
    write_manifest(folder / "train.tsv", "store", rows)
    return folder


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two classifiers of one family, an encoder of another one, and evaluations of the first."""
    folder = tmp_path_factory.mktemp("runs")
    for number in range(2):
        torch.manual_seed(number)
        path = write_model(folder / f"{number}.pt", "ecg_resnet1d_classifier", **CONTRACT)
        raw = torch.load(path, weights_only=True)
        for value in raw["model"].values():
            if value.is_floating_point():
                value += 0.1 * torch.randn_like(value).clamp(-1, 1) * value.abs()
        torch.save(raw, path)
        result = evaluate(str(path), str(data), bootstrap=10)
        write_evaluation(result, folder / f"evaluation_{number}")
    write_model(folder / "encoder.pt", "ecg_transformer", **CONTRACT)
    return folder


@pytest.fixture(scope="module")
def found(runs, data):
    asked = {
        "first": runs / "evaluation_0",
        "second": runs / "1.pt",
        "frozen": runs / "encoder.pt",
    }
    return compare(asked, data, bootstrap=60)


def test_the_rows_are_the_runs_then_both_baselines(found):
    assert [(row.name, row.kind) for row in found.rows] == [
        ("first", TRAINED),
        ("second", TRAINED),
        ("frozen", FROZEN),
        ("random ecg_resnet1d", RANDOM),
        ("random ecg_transformer", RANDOM),
        ("shallow features", "linear head"),
    ]
    assert len(found.table) == 6 * 3
    assert (found.records, found.patients, found.reference) == (14, 14, "first")


def test_differences_are_those_of_the_paired_bootstrap(found):
    base = found.rows[0].result
    table = found.table.set_index(["run", "metric"])
    for row in found.rows[1:]:
        expected = paired_difference(base.resampled(), row.result.resampled(), base.patients(), 60)
        for metric in found.metrics:
            of = table.loc[row.name, metric]
            want = expected[metric]
            assert (of["value"], of["difference"], of["p"]) == (want.second, want.value, want.p)
            assert (of["difference_low"], of["difference_high"]) == (want.low, want.high)
            assert of["low"] <= of["value"] + 0.3
        score = roc_auc_score(base.truth, row.result.probability)
        assert table.loc[(row.name, "macro_auroc"), "value"] == pytest.approx(score)
    assert table.loc["first"][["difference", "p", "p_holm"]].isna().all().all()
    for metric in found.metrics:
        of = found.table[found.table["metric"] == metric]
        np.testing.assert_allclose(of["p_holm"], holm(of["p"].tolist()))


def test_baselines_are_linear_heads_under_the_protocol_that_is_told(found, runs, data):
    labels = read_label_set(data)
    parts = list(embeddings(runs / "0.pt", data, SPLITS, random_init=0))
    table = pd.concat([part.table for part in parts], ignore_index=True)
    values = np.concatenate([part.values for part in parts])
    features = features_of(Embeddings(table, values, {}), labels, "x")
    for name, of in (
        ("random ecg_resnet1d", features),
        ("shallow features", shallow_features_of(labels)),
    ):
        expected = probe(labels, [of], heads=["linear"], shares=[1.0])
        result = next(row.result for row in found.rows if row.name == name)
        (wanted,) = expected.evaluations.values()
        np.testing.assert_allclose(result.probability, wanted.probability, atol=1e-6)


def test_evaluations_and_checkpoints_of_one_run_are_the_same(runs, data):
    asked = {"folder": runs / "evaluation_0", "file": runs / "0.pt"}
    table = compare(asked, bootstrap=20).table.set_index(["run", "metric"])
    of = table.loc["file"]
    assert np.allclose(of["difference"], 0, atol=1e-6)
    assert (of["p"] == 1).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_family_can_be_compared(name, runs, data, tmp_path):
    path = write_model(tmp_path / "x.pt", name, **CONTRACT)
    asked = {"run": runs / "evaluation_0", "other": path}
    found = compare(asked, bootstrap=5, encoder=path)
    assert [row.kind for row in found.rows] == [TRAINED, FROZEN, RANDOM, "linear head"]
    assert found.rows[2].name == f"random {registered_name(MODEL_REGISTRY[name].encoder_class)}"


def test_encoders_that_differ_in_training_alone_have_one_random_row(runs, tmp_path):
    paths = []
    for number, change in enumerate(({"dropout": 0.3}, {"mask_prob": 0.1}, {"conv_pos": 4})):
        path = write_model(tmp_path / f"{number}.pt", "ecg_transformer", **CONTRACT)
        raw = torch.load(path, weights_only=True)
        raw["cfg"]["model"].update(change)
        if "conv_pos" in change:
            cfg = {**SIZES["ecg_transformer"], **change}
            raw["model"] = build("ecg_transformer", **cfg).state_dict()
        torch.save(raw, path)
        paths.append(path)
    asked = {"run": runs / "evaluation_0", **{path.stem: path for path in paths}}
    found = compare(asked, bootstrap=5)
    assert [row.name for row in found.rows if row.kind == RANDOM] == [
        "random ecg_resnet1d",
        "random ecg_transformer",
        "random ecg_transformer 2",
    ]


def test_several_random_encoders_are_rows_of_their_own_and_a_cache_is_used(
    runs, data, tmp_path, monkeypatch
):
    asked = {"a": runs / "evaluation_0", "b": runs / "evaluation_1"}
    options = {"random_seeds": (0, 1), "bootstrap": 5, "cache": tmp_path / "cache"}
    first = compare(asked, **options)
    names = [row.name for row in first.rows[2:4]]
    assert names == ["random ecg_resnet1d, seed 0", "random ecg_resnet1d, seed 1"]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    monkeypatch.setattr("fairseq_ecg.extraction._Work.embed", None)
    pd.testing.assert_frame_equal(compare(asked, **options).table, first.table)


def test_classes_that_exclude_each_other_have_other_metrics(tmp_path, monkeypatch):
    data = write_folder(tmp_path / "data", [200] * 12, SPLITS, ["a", "b", "c"] * 4)
    path = write_model(tmp_path / "x.pt", "ecg_resnet1d_classifier", **CONTRACT)
    raw = torch.load(path, weights_only=True)
    raw["cfg"]["criterion"] = {"_name": "ecg_cross_entropy"}
    torch.save(raw, path)
    found = compare({"a": path, "b": path}, data, bootstrap=5)
    assert found.metrics == ["accuracy", "f1", "auroc"]
    assert all(row.result.single_label for row in found.rows)
    assert "accuracy" in found.markdown()


def test_holm_multiplies_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([float("nan"), 0.02])[1] == 0.02
    assert np.isnan(holm([float("nan")])[0])
    assert holm([]) == []


# --- tables ---------------------------------------------------------------------------------------


def test_the_table_for_latex_is_whole_and_its_text_escaped(found):
    named = dataclasses.replace(found.rows[1], name="100 % & more_x")
    found = dataclasses.replace(found, rows=[found.rows[0], named, *found.rows[2:]])
    found.table = found.table.replace("second", "100 % & more_x")
    text = found.latex()
    assert r"100 \% \& more\_x & trained & " in text
    assert r"random ecg\_resnet1d" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(found.rows)
    assert {line.replace(r"\&", "").count("&") for line in rows} == {1 + 3 * len(found.metrics)}
    assert text.count(r"\midrule") == 2
    for metric in found.metrics:
        best = found.table[found.table["metric"] == metric]["value"].max()
        assert rf"\textbf{{{best:.3f}}}" in text


def test_small_errors_are_the_best_ones(runs):
    asked = {"a": runs / "evaluation_0", "b": runs / "evaluation_1"}
    found = compare(asked, metrics=["brier/a"], bootstrap=5)
    assert rf"\textbf{{{found.table['value'].min():.3f}}}" in found.latex()
    assert "Brier score of a" in found.latex()


def test_remarks_say_what_the_runs_have_seen_and_which_thresholds_decide(runs, data, tmp_path):
    result = read_evaluation(runs / "evaluation_0")
    cut = dataclasses.replace(result.summary, threshold=np.array([0.1, 0.2, 0.3]))
    records = result.records.assign(trained_on=[True] * 3 + [False] * 11, patient="")
    other = dataclasses.replace(result, summary=cut, records=records)
    write_evaluation(other, tmp_path / "other")
    asked = {"a": tmp_path / "other", "b": runs / "evaluation_1"}
    found = compare(asked, metrics=["f1", "macro_auroc"], bootstrap=5)
    assert "a was trained on 3 of these recordings" in found.remarks
    assert any(remark.startswith("f1 are of decisions") for remark in found.remarks)
    assert not any("patients are not known" in remark for remark in found.remarks)
    assert not any("decisions" in r for r in compare(asked, bootstrap=5).remarks)


# --- what is refused ------------------------------------------------------------------------------


def test_runs_on_other_recordings_or_classes_are_refused(runs, data, tmp_path):
    first = read_evaluation(runs / "evaluation_0")
    asked = {"a": runs / "evaluation_0", "b": tmp_path / "other"}
    cases = {
        "other recordings": {"names": [*first.names[:-1], "r999"], "records": None},
        "other classes": {"labels": ["a", "b", "d"], "summary": None},
        "other true classes": {"truth": 1 - first.truth},
    }
    for message, change in cases.items():
        write_evaluation(dataclasses.replace(first, **change), tmp_path / "other")
        with pytest.raises(ValueError, match=f"b and a have {message}"):
            compare(asked)
    with pytest.raises(ValueError, match="other recordings"):
        compare({"a": runs / "evaluation_0", "b": runs / "1.pt"}, data, "valid")


def test_what_is_missing_is_named_with_the_way_out(runs, data, tmp_path):
    both = {"a": runs / "evaluation_0", "b": runs / "evaluation_1"}
    with pytest.raises(ComparisonError, match="there is one run"):
        compare({"a": runs / "evaluation_0"})
    with pytest.raises(ComparisonError, match="no run is called 'c'"):
        compare(both, reference="c")
    with pytest.raises(ComparisonError, match="no metric 'auc'"):
        compare(both, metrics=["auc"], bootstrap=5)
    with pytest.raises(ComparisonError, match="at least one draw"):
        compare(both, bootstrap=0)
    with pytest.raises(ComparisonError, match="--data"):
        compare({"a": runs / "0.pt", "b": runs / "1.pt"})
    with pytest.raises(ComparisonError, match="neither predictions.csv"):
        compare({"a": runs / "evaluation_0", "b": tmp_path})
    gone = dataclasses.replace(read_evaluation(runs / "evaluation_0"), checkpoints=("gone.pt",))
    write_evaluation(gone, tmp_path / "gone")
    alone = {"a": tmp_path / "gone", "b": tmp_path / "gone"}
    with pytest.raises(ComparisonError, match=r"not here \(gone.pt.*--encoder"):
        compare(alone)
    assert len(compare(alone, encoder=runs / "0.pt", bootstrap=5).rows) == 4


def test_runs_of_segments_need_scores_per_record_and_those_of_frames_have_no_baselines(
    runs, tmp_path
):
    first = read_evaluation(runs / "evaluation_0")
    asked = {"a": tmp_path / "other", "b": tmp_path / "other"}
    write_evaluation(dataclasses.replace(first, unit="segment"), tmp_path / "other")
    with pytest.raises(ComparisonError, match="--score-per record"):
        compare(asked)
    write_evaluation(dataclasses.replace(first, unit="frame"), tmp_path / "other")
    found = compare(asked, bootstrap=5)
    assert len(found.rows) == 2
    assert "no baselines" in found.remarks[-1]


# --- command --------------------------------------------------------------------------------------


def test_the_command_writes_all_tables_and_the_predictions_of_the_baselines(
    runs, data, tmp_path, capsys
):
    out = tmp_path / "out"
    words = ["compare", f"one={runs / 'evaluation_0'}", str(runs / "1.pt"), "--data", str(data)]
    assert main([*words, "--bootstrap", "20", "--out", str(out), "--no-progress"]) == 0
    printed = capsys.readouterr().out
    assert "| one | trained | " in printed
    assert "14 recordings of 14 patients" in printed
    assert {path.name for path in out.iterdir()} == {*FILES, "baselines"}
    assert (out / "comparison.md").read_text() in printed
    content = json.loads((out / "comparison.json").read_text())
    assert content["reference"] == "one"
    assert content["table"][0]["p"] is None
    assert len(pd.read_csv(out / "comparison.csv")) == 4 * 3
    again = read_evaluation(out / "baselines" / "random_ecg_resnet1d")
    assert again.names == [f"r{i:03d}" for i in range(14)]
    assert main(["compare", str(runs / "evaluation_0"), str(runs / "evaluation_0")]) == 2
    assert "two runs called" in capsys.readouterr().err
    assert main([*words[:3], "--out", str(out / "comparison.md")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_written_tables(runs, data, tmp_path, capsys, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ["compare", f"a={runs / 'evaluation_0'}", f"b={runs / 'evaluation_1'}"]
    out = tmp_path / "out"
    for writer in ("write_text", "write_evaluation"):
        monkeypatch.setattr(f"fairseq_ecg.cli.compare.{writer}", full)
        assert main([*words, "--bootstrap", "5", "--out", str(out)]) == 2
        assert "No space left on device; make room" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
        monkeypatch.undo()
