"""Both residual classifiers: trained, cut at thresholds of their own, evaluated with these."""

import json

import numpy as np
import pytest
import torch

import fairseq_ecg
from fairseq_ecg.cli.main import main
from fairseq_ecg.cli.thresholds import choose_thresholds, read_thresholds, write_thresholds
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.metrics.multilabel import decide, f_beta_g_beta
from fairseq_ecg.metrics.thresholds import search_f_measure
from tests.recordings import write_tone_store
from tests.runs import logged, train

PRESETS = {
    "nejedly2021_small": ["model.num_filters=8", "model.num_blocks=3", "model.final_dropout=0.1"],
    "se_wrn_small": ["model.num_filters='[8, 8, 16]'", "model.dropout=0.1"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A short run of each preset on tones that can be learnt."""
    done = {}
    for preset, sizes in PRESETS.items():
        words = ["--config-name", preset, f"task.data={data}", "common.log_interval=1"]
        words += ["dataset.num_workers=0", "dataset.batch_size=6", "task.segment_s=1.0"]
        words += ["optimization.max_epoch=12", "optimization.lr=[0.01]", *sizes]
        done[preset] = train(tmp_path_factory.mktemp(preset), words)
    return done


@pytest.fixture(scope="module")
def checkpoint(runs):
    return str(runs["nejedly2021_small"].checkpoints / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def chosen(checkpoint, data):
    return choose_thresholds(checkpoint, str(data))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_classifier_learns_is_evaluated_and_opens_again(runs, data, preset):
    losses = [log["loss"] for log in logged(runs[preset].cwd)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    path = str(runs[preset].checkpoints / "checkpoint_last.pt")
    assert evaluate(path, str(data), "valid").metrics["auroc"] > 0.7
    model, contract = fairseq_ecg.load_pretrained(path)
    assert contract["labels"] == ["a", "b", "c"]
    assert len(contract["leads"]) == 12
    assert model.embed(torch.randn(2, 12, 100)).shape == (2, model.encoder.width)


def test_leads_that_are_silent_are_not_present_to_the_network(checkpoint, data):
    model, _ = fairseq_ecg.load_pretrained(checkpoint)
    assert model.proj.in_features == model.encoder.width + 12
    silent = evaluate(checkpoint, str(data), leads=["I"])
    assert not np.array_equal(silent.probability, evaluate(checkpoint, str(data)).probability)


def test_thresholds_are_those_of_the_search_on_the_split(checkpoint, data, chosen):
    result = evaluate(checkpoint, str(data), "valid")
    found = search_f_measure(result.probability, result.truth)
    assert list(chosen.thresholds) == ["a", "b", "c"]
    assert list(chosen.thresholds.values()) == found.values.tolist()
    assert (chosen.split, chosen.rows, chosen.score) == ("valid", 13, "f1")
    assert chosen.value == found.score >= chosen.value_at_default


def test_the_file_holds_everything_and_evaluation_decides_by_it(
    checkpoint, data, chosen, tmp_path, capsys
):
    path = tmp_path / "new" / "thresholds.json"
    assert main(["thresholds", checkpoint, str(data), "--out", str(path)]) == 0
    printed = capsys.readouterr()
    assert f"-> {chosen.value:.4f}" in printed.out
    assert "13 records of valid" in printed.out
    assert printed.err == ""
    assert read_thresholds(path) == chosen
    assert [p.name for p in path.parent.iterdir()] == ["thresholds.json"]
    content = json.loads(path.read_text())
    assert content["checkpoint"] == checkpoint
    assert content["data"] == str(data)

    words = ["evaluate", checkpoint, str(data), "--thresholds", str(path)]
    assert main([*words, "--split", "valid", "--out", str(tmp_path)]) == 0
    assert "chosen on valid too" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert metrics["f1"] == pytest.approx(chosen.value)
    assert main([*words, "--split", "test"]) == 0
    assert "chosen" not in capsys.readouterr().err


def test_each_class_is_decided_by_its_own_threshold(checkpoint, data):
    plain = evaluate(checkpoint, str(data), "valid", threshold=0.3)
    same = evaluate(checkpoint, str(data), "valid", threshold=dict.fromkeys("abc", 0.3))
    assert plain.metrics == same.metrics
    never = evaluate(checkpoint, str(data), "valid", threshold={"a": 1.0, "b": 0.0, "c": 1.0})
    share = never.truth[:, 1].mean()
    assert never.metrics["f1"] == pytest.approx(2 * share / (1 + share) / 3)


def test_thresholds_of_other_classes_are_refused(checkpoint, data, chosen, tmp_path, capsys):
    for names in ("ab", "acb", "abcd"):
        with pytest.raises(ValueError, match="the thresholds are of .* classes.*search them again"):
            evaluate(checkpoint, str(data), threshold=dict.fromkeys(names, 0.5))
    path = tmp_path / "thresholds.json"
    write_thresholds(chosen, path)
    path.write_text(path.read_text().replace('"b":', '"x":'))
    assert main(["evaluate", checkpoint, str(data), "--thresholds", str(path)]) == 2
    assert "a, x, c" in capsys.readouterr().err


def test_thresholds_of_another_checkpoint_are_taken_with_a_warning(
    runs, data, chosen, tmp_path, capsys
):
    write_thresholds(chosen, tmp_path / "t.json")
    other = str(runs["se_wrn_small"].checkpoints / "checkpoint_last.pt")
    words = ["evaluate", other, str(data), "--thresholds", str(tmp_path / "t.json")]
    assert main(words) == 0
    assert f"chosen for {chosen.checkpoint}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "fairseq_ecg thresholds 1"}', '{"format": "other"}']
)
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match=r"t\.json is no file of thresholds"):
        read_thresholds(tmp_path / "t.json")
    with pytest.raises(ValueError, match="there is no such file"):
        read_thresholds(tmp_path / "gone.json")


def test_the_other_scores_and_their_refusals(checkpoint, data, tmp_path, capsys):
    exact = choose_thresholds(checkpoint, str(data), score="exact", score_per="segment")
    assert exact.rows == 26
    assert exact.value >= exact.value_at_default
    for score, position in (("f_beta", 0), ("g_beta", 1)):
        found = choose_thresholds(checkpoint, str(data), score=score)
        result = evaluate(checkpoint, str(data), "valid", threshold=found.thresholds)
        assert found.value == result.metrics[score] >= found.value_at_default
        decisions = decide(result.probability, list(found.thresholds.values()), fallback=True)
        assert found.value == f_beta_g_beta(result.truth, decisions)[position]
    with pytest.raises(ValueError, match="needs the 26 classes of CinC 2021.*--score f1"):
        choose_thresholds(checkpoint, str(data), score="cinc")
    with pytest.raises(
        ValueError, match="no score is called 'f3'; scores: f1, f2, f_beta, g_beta, .*"
    ):
        choose_thresholds(checkpoint, str(data), score="f3")
    words = ["thresholds", checkpoint, str(data), "--split", "test", "--out", str(tmp_path / "t")]
    assert main(words) == 0
    assert "choose them on validation data" in capsys.readouterr().err
