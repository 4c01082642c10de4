"""The command on predictions as ``evaluate`` writes them: tables, files, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from fairseq_ecg.cli.diversity import compare_models
from fairseq_ecg.cli.main import main
from fairseq_ecg.evaluation import Evaluation
from fairseq_ecg.evaluation_files import read_evaluation, write_evaluation
from fairseq_ecg.metrics.diversity import Model, describe_arm, sign_test
from fairseq_ecg.metrics.thresholds import search_beta


def predictions(folder, split, seed, n_records=40, shift=1.0, single_label=False):
    """Write the predictions of a model; truths are the same for every seed."""
    truth = np.random.default_rng(len(split)).random((n_records, 3)) < 0.4
    if single_label:
        truth = np.eye(3)[np.arange(n_records) % 3]
    rng = np.random.default_rng([seed, len(split)])
    logits = rng.normal(size=truth.shape) + 2 * truth - shift
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if not single_label:
        chance = 1 / (1 + np.exp(-logits))
    names = [f"{split}{i}" for i in range(n_records)]
    result = Evaluation(
        names, ["a", "b", "c"], chance, truth.astype(np.float32), single_label=single_label
    )
    write_evaluation(result, folder / split)
    return result


@pytest.fixture
def arms(tmp_path):
    """Two arms of three models, the second one with every probability lower."""
    found = {}
    for number, name in enumerate(("scratch", "pretrained")):
        for seed in range(3):
            folder = tmp_path / f"{name}_{seed}"
            for split in ("test", "valid"):
                predictions(folder, split, 10 * number + seed, shift=1.0 + number)
            found.setdefault(name, []).append(str(folder / "test"))
    return found


def test_what_was_written_is_read_again(tmp_path):
    result = predictions(tmp_path, "test", 0)
    for path in (tmp_path / "test", tmp_path / "test" / "predictions.csv"):
        found = read_evaluation(path)
        assert (found.names, found.labels) == (result.names, result.labels)
        np.testing.assert_allclose(found.probability, result.probability, rtol=1e-8)
        assert np.array_equal(found.truth, result.truth)
        assert not found.single_label


def test_the_numbers_are_those_of_the_functions(arms):
    comparison = compare_models(arms, threshold=0.3)
    assert (comparison.rows, comparison.classes) == (40, 3)
    read = [read_evaluation(folder) for folder in arms["pretrained"]]
    models = [Model(r.probability, r.probability > 0.3) for r in read]
    expected = describe_arm(read[0].truth, models)
    arm = comparison.arms["pretrained"]
    assert arm.diversity == expected.diversity
    assert np.array_equal(arm.ensemble_auc, expected.ensemble_auc)
    table = comparison.pairs()
    assert len(table) == 6
    assert table.loc[4, "second"] == arms["pretrained"][2]
    assert table.loc[4, "div_norm"] == arm.diversity[1].div_norm
    tests = comparison.tests.set_index("of")
    other = comparison.arms["scratch"].measure("div_norm")
    difference = arm.measure("div_norm") - other
    assert tests.loc["div_norm", "difference"] == pytest.approx(difference.mean())
    assert tests.loc["div_norm", "p_pairs"] == sign_test(difference)
    assert tests.loc["div_norm", "p_models"] >= 2 / 2**3
    auc = arm.macro_auc - comparison.arms["scratch"].macro_auc
    assert tests.loc["macro_auc", "p_models"] == sign_test(auc)


def test_each_model_decides_by_thresholds_of_its_own_validation(arms):
    comparison = compare_models(arms, valid="../valid", score="g_beta")
    folder = arms["pretrained"][1]
    found, valid = read_evaluation(folder), read_evaluation(f"{folder}/../valid")
    limits = search_beta(valid.probability, valid.truth, "g_beta").values
    error = ((found.probability > limits) != found.truth).mean()
    assert comparison.arms["pretrained"].error[1] == pytest.approx(error)
    plain = compare_models(arms).arms["pretrained"]
    assert plain.error[1] != pytest.approx(error)
    assert np.array_equal(plain.macro_auc, comparison.arms["pretrained"].macro_auc)


def test_the_command_prints_and_writes_everything(arms, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["diversity", "--valid", "../valid", "--out", str(out)]
    for name, folders in arms.items():
        words += ["--arm", name, *folders]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "40 rows, 3 classes" in printed
    assert "scratch: 3 models, 3 pairs" in printed
    assert "pretrained (second) minus scratch (first)" in printed
    assert {path.name for path in out.iterdir()} == {
        *("models.csv", "pairs.csv", "ensembles.csv", "summary.json", "diversity.png"),
    }
    content = json.loads((out / "summary.json").read_text())
    assert content["arms"] == arms
    summary = {(row["arm"], row["of"]): row for row in content["summary"]}
    pairs = pd.read_csv(out / "pairs.csv")
    mean = pairs[pairs["arm"] == "scratch"]["div_norm"].mean()
    assert summary["scratch", "div_norm"]["mean"] == pytest.approx(mean)
    assert f"{mean:.4f}" in printed
    ensembles = pd.read_csv(out / "ensembles.csv")
    assert ensembles["members"].tolist() == [1, 2, 3] * 2
    assert len(pd.read_csv(out / "models.csv")) == 6


def test_one_arm_or_arms_of_other_sizes_are_compared_without_tests(arms, capsys):
    assert compare_models({"a": arms["scratch"]}).tests is None
    words = ["diversity", "--arm", "a", *arms["scratch"], "--arm", "b", *arms["pretrained"][:2]]
    assert main(words) == 0
    assert "no tests: these need two arms of equally many models" in capsys.readouterr().out


def test_models_without_errors_have_tables_but_no_picture(tmp_path, capsys):
    folders = []
    for seed in range(2):
        result = predictions(tmp_path / str(seed), "test", seed)
        result.probability = np.where(result.truth > 0, 0.9, 0.1)
        write_evaluation(result, tmp_path / str(seed) / "test")
        folders.append(str(tmp_path / str(seed) / "test"))
    out = tmp_path / "out"
    assert main(["diversity", "--arm", "a", *folders, "--out", str(out)]) == 0
    assert "without a value for some pairs: div_norm, div_norm_exact" in capsys.readouterr().out
    assert not (out / "diversity.png").exists()
    rows = json.loads((out / "summary.json").read_text())["summary"]
    assert {row["of"]: row["mean"] for row in rows}["div_norm"] is None


def test_of_classes_that_exclude_each_other_the_most_probable_one_is_decided(tmp_path):
    folders = []
    for seed in range(2):
        result = predictions(tmp_path / str(seed), "test", seed, single_label=True)
        folders.append(str(tmp_path / str(seed) / "test"))
    wrong = (result.probability.argmax(1) != result.truth.argmax(1)).mean()
    comparison = compare_models({"a": folders})
    assert comparison.arms["a"].error_exact[1] == pytest.approx(wrong)
    with pytest.raises(ValueError, match="classes exclude each other.*leave out --valid"):
        compare_models({"a": folders}, valid="../valid")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "truth.csv").unlink(), r"truth\.csv: there is no such file; .*--out"),
        (lambda f: (f / "predictions.csv").write_text("x,y\n1,2\n"), "is no table of a classifier"),
        (
            lambda f: (f / "truth.csv").write_text("record,a,b,c\ntest0,0,1,0\n"),
            "have other rows or columns",
        ),
    ],
)
def test_broken_predictions_are_refused_by_name(arms, tmp_path, change, message):
    change(tmp_path / "scratch_1" / "test")
    with pytest.raises(ValueError, match=message):
        compare_models(arms)


def test_models_of_other_recordings_are_refused(arms, tmp_path):
    predictions(tmp_path / "scratch_2", "test", 7, n_records=41)
    with pytest.raises(ValueError, match=r"other recordings \(41 and 40\); .*on one split"):
        compare_models(arms)
    with pytest.raises(ValueError, match="the arm a has one model; .*two or more"):
        compare_models({"a": arms["scratch"][:1]})
    with pytest.raises(ValueError, match="has the recordings that are to be decided"):
        compare_models({"a": arms["pretrained"]}, valid=".")
    words = ["diversity", "--arm", "a", *arms["scratch"][:2], "--arm", "a", *arms["scratch"][:2]]
    assert main(words) == 2
