"""Folds of persons and of windows, targets made of ratings, and the balance of the classes."""

from collections import Counter

import numpy as np
import pytest

from fairseq_ecg.checkpoint import read_checkpoint
from fairseq_ecg.cli.main import main
from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora._emotion import (
    Scale,
    balance,
    class_set,
    deal_folds,
    fold_splits,
    rating_codes,
    rating_sets,
)
from fairseq_ecg.evaluation import evaluate
from tests.runs import single_label_words, train
from tests.trials import write_dreamer

PEOPLE = [f"P{i:02d}" for i in range(23)]


@pytest.mark.parametrize("n_names", [3, 9, 10, 23, 100])
def test_folds_differ_by_one_at_most_and_not_with_the_order(n_names):
    names = [f"n{i}" for i in range(n_names)]
    folds = deal_folds(names, 10, seed=3)
    assert folds == deal_folds(names[::-1] * 2, 10, seed=3)
    sizes = Counter(folds.values())
    assert max(sizes.values()) - min(sizes.get(k, 0) for k in range(min(10, n_names))) <= 1
    assert folds != deal_folds(names, 10, seed=4)


def test_each_name_is_tested_once_and_validated_once():
    splits = [fold_splits(PEOPLE, fold, 0, "subject") for fold in range(10)]
    for name in PEOPLE:
        roles = [split[name] for split in splits]
        assert Counter(roles) == {"test": 1, "valid": 1, "train": 8}
        assert roles.index("test") == (roles.index("valid") + 1) % 10


def test_few_names_make_few_folds():
    splits = fold_splits(["a", "b", "c"], 2, 0, "subject")
    assert sorted(splits.values()) == ["test", "train", "valid"]
    with pytest.raises(CorpusError, match="fold must be 0 to 2, but is 3"):
        fold_splits(["a", "b", "c"], 3, 0, "subject")
    with pytest.raises(CorpusError, match="needs at least 3 .* but there are 2"):
        fold_splits(["a", "b"], 0, 0, "subject")


def test_ratings_become_classes_above_a_threshold_and_whole_numbers():
    sets = rating_sets(["arousal", "valence"], Scale(1, 5), 3)
    codes = rating_codes({"arousal": 3.0, "valence": 3.5, "dominance": 1})
    assert sets["arousal"].apply(codes) == ["low"]
    assert sets["valence"].apply(codes) == ["high"]
    assert sets["arousal_rating"].apply(codes) == ["3"]
    assert sets["valence_rating"].apply(codes) == ["4"]
    assert sets["valence_rating"].names == ("1", "2", "3", "4", "5")
    missing = rating_codes({"arousal": float("nan"), "valence": 1.0})
    assert sets["arousal"].apply(missing) is None


@pytest.mark.parametrize("threshold", [5, 0.5, 9])
def test_a_threshold_that_makes_all_ratings_equal_is_refused(threshold):
    with pytest.raises(CorpusError, match="from 1 to below 5.*every rating would be on one side"):
        rating_sets(["arousal"], Scale(1, 5), threshold)


def test_classes_that_are_no_ratings_are_taken_by_their_meaning():
    chosen = class_set("state", ("calm", "stress"), {"base": "calm", "tsst": "stress"})
    assert chosen.apply(["state:tsst", "arousal:3"]) == ["stress"]
    assert chosen.apply(["state:medi"]) is None


def test_a_target_with_one_class_is_named():
    counts = {"train": {"low": 3, "high": 1}, "valid": {"low": 0, "high": 0}, "test": {"low": 2}}
    facts = {"split_counts": counts, "counts": {"low": 5, "high": 1}}
    lines = balance({"arousal": facts})
    assert lines[1] == "  arousal, train - low: 3 (75 %), high: 1 (25 %)"
    assert lines[2] == "  arousal, valid - nothing"
    assert "warning: arousal has no two classes in valid, test: nothing" in lines[-1]
    facts["split_counts"] = dict.fromkeys(counts, {"low": 2, "high": 1})
    assert not any("warning" in line for line in balance({"arousal": facts}))


def test_folds_of_persons_keep_them_apart_and_folds_of_windows_do_not(tmp_path, capsys):
    root = write_dreamer(tmp_path / "in", films=((40, 50),) * 4)
    command = ["manifest", "dreamer", str(root), "--workers", "1", "--no-progress"]
    assert main([*command, "--dest", str(tmp_path / "subject"), "--fold", "1"]) == 0
    printed = capsys.readouterr().out
    assert "protocol subject: fold 1 is test" in printed
    assert "arousal, train - low: " in printed
    assert "optimistic" not in printed
    options = {"protocol": "window10", "fold": 1}
    report = build_manifest("dreamer", root, tmp_path / "windows", corpus_options=options)
    assert any("results are optimistic" in line for line in report.summary["remarks"])
    index = report.store.index
    assert (index.groupby("patient")["split"].nunique() > 1).any()
    by_person = build_manifest(
        "dreamer", root, tmp_path / "subject", corpus_options={"fold": 1}
    ).store.index
    assert (by_person.groupby("patient")["split"].nunique() == 1).all()
    assert sorted(by_person["split"].unique()) == ["test", "train", "valid"]
    np.testing.assert_array_equal(index["record"], by_person["record"])
    np.testing.assert_array_equal(index["sha256"], by_person["sha256"])


def test_a_run_on_ratings_scaled_by_person_is_evaluated_the_same_way(tmp_path):
    root = write_dreamer(tmp_path / "in", films=((40, 50, 30),) * 3)
    build_manifest("dreamer", root, tmp_path / "data")
    data = tmp_path / "data" / "arousal_rating"
    run = train(
        tmp_path / "run",
        [
            *single_label_words(tmp_path),
            f"task.data={data}",
            "task.segment_s=null",
            "task.leads_to_load=[II]",
            "+task.standardize=person",
            "model.in_d=1",
            "optimization.max_update=2",
        ],
    )
    path = str(run.checkpoints / "checkpoint_last.pt")
    assert read_checkpoint(path).contract["standardize"] == "person"
    result = evaluate(path, str(data))
    assert result.labels == ["1", "2", "3", "4", "5"]
    assert result.confusion().to_numpy().sum() == len(result.names) == 12
