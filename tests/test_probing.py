"""Heads against scikit-learn and loops; shares of patients; label sets and their embeddings."""

import errno
import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from fairseq_ecg import probing
from fairseq_ecg.cli.main import main
from fairseq_ecg.data.manifest import ManifestError
from fairseq_ecg.embedding_files import Embeddings, read_embeddings
from fairseq_ecg.evaluation_files import read_evaluation
from fairseq_ecg.extraction import extract
from fairseq_ecg.probing import (
    NEIGHBOURS,
    PENALTIES,
    Features,
    LabelledSplit,
    LabelSet,
    ProbingError,
    Scaling,
    cross_entropy,
    draw_patients,
    features_of,
    fit_linear,
    fit_neighbours,
    metric_title,
    probe,
    read_label_set,
    shallow_features_of,
)
from tests.exports import write_model
from tests.recordings import write_folder, write_tone_store


def draw(rng, n, single=False, d=6, k=3):
    """Draw features that say something about the labels of k classes."""
    truth = rng.random((n, k)) < 0.4
    if single:
        truth = np.eye(k, dtype=bool)[rng.integers(k, size=n)]
    features = rng.normal(size=(n, d)) * 5 + 3
    features[:, :k] += 8 * truth
    return features, truth.astype(np.float32)


def label_set(rng, single=False, n=(120, 60, 50), per_patient=2):
    parts, features = [], []
    for name, count in zip(("train", "valid", "test"), n, strict=True):
        values, truth = draw(rng, count, single)
        patients = [f"{name}{i // per_patient}" for i in range(count)]
        known = {"record": [f"{name}-{i}" for i in range(count)], "patient": patients}
        records = pd.DataFrame({**known, "age": np.nan, "sex": "", "corpus": "x"})
        parts.append(LabelledSplit(records, truth, None))
        features.append(values)
    found = LabelSet("x", ["a", "b", "c"], ("train", "valid", "test"), *parts, single_label=single)
    return found, Features("drawn", *features)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


@pytest.fixture(scope="module")
def embedded(tones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    path = write_model(folder / "x.pt", "ecg_resnet1d", segment_s=1.0, trained_on={})
    extract(path, tones, folder / "trained")
    extract(path, tones, folder / "random", random_init=0)
    return folder


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("single", [False, True])
def test_the_linear_probe_is_scikit_learns_with_the_penalty_that_is_best_on_validation(single):
    rng = np.random.default_rng(0)
    (train, truth), (valid, valid_truth), (test, _) = (draw(rng, n, single) for n in (90, 60, 40))
    scaler, scaling = StandardScaler().fit(train), Scaling.of(train)
    np.testing.assert_allclose(scaling.apply(test), scaler.transform(test), atol=1e-12)
    x, v, t = map(scaler.transform, (train, valid, test))
    losses, answers = [], []
    for penalty in PENALTIES:
        if single:
            model = LogisticRegression(C=penalty, max_iter=1000).fit(x, truth.argmax(1))
            chance, answer = model.predict_proba(v), model.predict_proba(t)
            loss = log_loss(valid_truth.argmax(1), chance)
        else:
            models = [LogisticRegression(C=penalty, max_iter=1000).fit(x, y) for y in truth.T]
            chance, answer = (
                np.stack([model.predict_proba(of)[:, 1] for model in models], axis=1)
                for of in (v, t)
            )
            loss = np.mean([log_loss(valid_truth[:, k], chance[:, k]) for k in range(3)])
        assert cross_entropy(chance, valid_truth, single) == pytest.approx(loss, rel=1e-9)
        losses.append(loss)
        answers.append(answer)
    best = int(np.argmin(losses))
    assert 0 < best < len(PENALTIES) - 1
    head = fit_linear(x, truth, v, valid_truth, single)
    assert head.chosen == PENALTIES[best]
    np.testing.assert_allclose(head.predict(t), answers[best], atol=1e-9)


@pytest.mark.parametrize("single", [False, True])
def test_neighbours_are_those_of_largest_cosine_one_by_one(single):
    rng = np.random.default_rng(1)
    (train, truth), (valid, valid_truth), (test, _) = (draw(rng, n, single) for n in (70, 40, 30))
    x, v, t = map(Scaling.of(train).apply, (train, valid, test))
    share = truth.mean(axis=0)

    def chance(of, count):
        finder = NearestNeighbors(n_neighbors=count, metric="cosine").fit(x)
        return np.stack(
            [(truth[near].sum(0) + share) / (count + 1) for near in finder.kneighbors(of)[1]]
        )

    counts = [count for count in NEIGHBOURS if count <= 70]
    losses = [cross_entropy(chance(v, count), valid_truth, single) for count in counts]
    head = fit_neighbours(x, truth, v, valid_truth, single)
    assert head.chosen == counts[int(np.argmin(losses))]
    np.testing.assert_allclose(head.predict(t), chance(t, head.chosen), atol=1e-9)
    if single:
        np.testing.assert_allclose(head.predict(t).sum(axis=1), 1)


def test_classes_that_are_not_there_to_be_learnt_get_a_constant():
    rng = np.random.default_rng(2)
    train, truth = draw(rng, 20)
    truth[:, 1], truth[:, 2] = 0, 1
    head = fit_linear(train, truth, train, truth, False)
    chance = head.predict(train)
    assert np.allclose(chance[:, 1], 1 / 22)
    assert np.allclose(chance[:, 2], 21 / 22)
    assert np.unique(chance[:, 0]).size > 10
    for classes in ((0, 2), (1,)):
        one = np.eye(3, dtype=np.float32)[np.resize(classes, 20)]
        alone = fit_linear(train, one, train, one, True)
        found = alone.predict(train)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        absent = [k for k in range(3) if k not in classes]
        assert (found[:, absent] == 0).all()
    model = LogisticRegression(C=alone.chosen)
    two = np.eye(3, dtype=np.float32)[np.resize((0, 2), 20)]
    fitted = fit_linear(train, two, train, two, True)
    model = LogisticRegression(C=fitted.chosen, max_iter=1000).fit(train, two.argmax(1))
    np.testing.assert_allclose(fitted.predict(train)[:, [0, 2]], model.predict_proba(train))


def test_constant_and_missing_features_are_harmless():
    rng = np.random.default_rng(3)
    train = rng.normal(size=(30, 4))
    train[:, 1] = 1e6 + 1 / 3
    train[:, 2] = np.nan
    train[:3, 3] = np.nan
    scaling = Scaling.of(train)
    found = scaling.apply(train)
    assert np.isfinite(found).all()
    assert np.allclose(found[:, 1:3], 0, atol=1e-8)
    median = (np.median(train[3:, 3]) - scaling.mean[3]) / scaling.deviation[3]
    assert np.allclose(found[:3, 3], median)


# --- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_nested_whole_patients_and_as_small_as_can_be(seed):
    rng = np.random.default_rng(seed)
    patients = rng.integers(60, size=200).astype(str)
    before = np.empty(0, dtype=np.int64)
    for share in (0.01, 0.1, 0.33, 0.5, 1.0):
        rows = draw_patients(patients, share, seed)
        assert set(before) <= set(rows)
        chosen = set(patients[rows])
        assert rows.tolist() == [i for i, name in enumerate(patients) if name in chosen]
        assert len(rows) >= share * 200
        largest = max(int((patients == name).sum()) for name in chosen)
        assert len(rows) < share * 200 + largest
        before = rows
    assert len(before) == 200
    other = draw_patients(patients, 0.1, seed + 100)
    assert not np.array_equal(other, draw_patients(patients, 0.1, seed))


@pytest.mark.parametrize("single", [False, True])
def test_curves_grow_and_the_metrics_are_those_of_the_predictions(single):
    labels, features = label_set(np.random.default_rng(4), single)
    found = probe(labels, [features], shares=(0.05, 0.3, 1.0), seeds=(0, 1, 2, 3))
    table = found.table
    assert len(table) == 2 * (4 + 4 + 1)
    assert set(table["records"]) == {6, 36, 120}
    assert set(table["patients"]) == {3, 18, 60}
    metric = "accuracy" if single else "macro_auroc"
    mean = found.summary().set_index(["head", "share", "metric"])["mean"]
    assert mean["linear", 0.05, metric] < mean["linear", 1.0, metric]
    for head in probing.HEADS:
        result = found.evaluations["drawn", head]
        expected = roc_auc_score(labels.test.truth, result.probability)
        name = "auroc" if single else "macro_auroc"
        assert mean[head, 1.0, name] == pytest.approx(expected)
        assert result.names == labels.test.records["record"].tolist()
        assert result.single_label == single
    summary = found.summary().set_index(["head", "share", "metric"]).loc[("knn", 0.3, metric)]
    values = table[(table["head"] == "knn") & (table["share"] == 0.3)][metric]
    assert summary["sd"] == pytest.approx(values.std())
    assert (summary["min"], summary["max"], summary["seeds"]) == (values.min(), values.max(), 4)


def test_nothing_is_chosen_on_the_recordings_that_are_scored():
    labels, features = label_set(np.random.default_rng(5))
    shuffled = np.random.default_rng(6).permutation(labels.test.truth)
    test = LabelledSplit(labels.test.records, shuffled, None)
    other = LabelSet(
        "x", labels.labels, labels.names, labels.train, labels.valid, test, single_label=False
    )
    one, two = (probe(of, [features], shares=(0.3, 1.0), seeds=(0,)) for of in (labels, other))
    assert one.table["chosen"].tolist() == two.table["chosen"].tolist()
    assert one.table["cross_entropy"].tolist() == two.table["cross_entropy"].tolist()
    assert one.table["macro_auroc"].tolist() != two.table["macro_auroc"].tolist()
    for key, result in one.evaluations.items():
        assert np.array_equal(result.probability, two.evaluations[key].probability)


def test_what_a_reader_must_know_is_said():
    labels, features = label_set(np.random.default_rng(7), n=(120, 60, 50))
    labels.test.records.loc[:3, "patient"] = ["train0", "train0", "valid0", "valid1"]
    seen = Features("drawn", features.train, features.valid, features.test, seen=3)
    labels.train.truth[:, 2] = 0
    remarks = probe(labels, [seen], shares=(1.0,), seeds=(0,)).remarks
    assert remarks == [
        "1 patients are in both train and test, so that numbers say less about new patients",
        "2 patients are in both valid and test, so that numbers say less about new patients",
        "the encoder of drawn was trained or pretrained on 3 of 50 recordings of test",
        "with 100 % of the training recordings up to 1 of 3 classes had no positive (or no "
        "negative) to learn from",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ["tree"]}, "no head is called 'tree'"),
        ({"heads": []}, "a head and a seed"),
        ({"seeds": []}, "a head and a seed"),
        ({"shares": [0.0, 1.0]}, "above 0 and up to 1"),
        ({"shares": [10]}, "above 0 and up to 1"),
        ({"shares": []}, "above 0 and up to 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    labels, features = label_set(np.random.default_rng(8))
    with pytest.raises(ProbingError, match=message):
        probe(labels, [features], **options)


def test_features_need_names_of_their_own():
    labels, features = label_set(np.random.default_rng(8))
    with pytest.raises(ProbingError, match="two features are called drawn"):
        probe(labels, [features, features])
    with pytest.raises(ProbingError, match="no features"):
        probe(labels, [])


def test_metrics_have_the_names_of_papers():
    names = ("macro_auroc", "auroc/NORM", "f_max", "em_accuracy", "f1_N", "micro_auprc")
    assert [metric_title(name) for name in names] == [
        "macro AUROC", "AUROC of NORM", "Fmax", "em accuracy", "f1 N", "micro AUPRC",
    ]  # fmt: skip


# --- label sets and embeddings --------------------------------------------------------------------


def test_labels_and_patients_are_those_of_the_manifests(tones):
    found = read_label_set(tones)
    assert found.labels == ["a", "b", "c"]
    assert not found.single_label
    assert [len(split.truth) for split in found.splits] == [18, 13, 7]
    assert found.test.truth.tolist() == [[(i >> k) & 1 for k in range(3)] for i in range(15, 22)]
    assert found.train.patients()[:2].tolist() == ["pr000", "pr001"]


def test_label_sets_that_cannot_be_probed_are_refused(tones, tmp_path):
    with pytest.raises(ProbingError, match="must be three"):
        read_label_set(tones, test="valid")
    with pytest.raises(ManifestError, match="no split 'tests'; did you mean test"):
        read_label_set(tones, test="tests")
    with pytest.raises(ProbingError, match="do not exclude each other"):
        read_label_set(tones, single_label=True)
    plain = write_folder(tmp_path, [200] * 4, splits=("train", "valid", "test"))
    with pytest.raises(ManifestError, match="no names of classes"):
        read_label_set(plain)


def test_classes_that_exclude_each_other_are_noticed(tmp_path):
    data = write_folder(
        tmp_path, [200] * 4, splits=("train", "valid", "test"), labels=["a", "b", "a", "b"]
    )
    assert read_label_set(data).single_label
    assert not read_label_set(data, single_label=False).single_label


def test_embeddings_of_a_store_serve_its_label_sets_row_by_row(tones, embedded, tmp_path):
    labels = read_label_set(tones)
    whole = read_embeddings(embedded / "trained")
    found = features_of(whole, labels, "x")
    extract(embedded / "x.pt", tones / "store", tmp_path / "store")
    again = features_of(read_embeddings(tmp_path / "store"), labels, "x")
    for split in ("train", "valid", "test"):
        np.testing.assert_allclose(getattr(found, split), getattr(again, split), atol=1e-6)
    by_record = dict(zip(whole.table["record"], whole.values, strict=True))
    for row, record in enumerate(labels.test.records["record"]):
        np.testing.assert_allclose(found.test[row], by_record[record], atol=1e-6)


def test_embeddings_of_other_recordings_are_refused(tones, embedded):
    labels, whole = read_label_set(tones), read_embeddings(embedded / "trained")
    table = whole.table[whole.table["record"] != "r018"]
    part = Embeddings(table.reset_index(drop=True), whole.values[table.index], {})
    with pytest.raises(ProbingError, match=r"no embedding of r018 \(1 of 7 recordings"):
        features_of(part, labels, "x")
    changed = whole.table.assign(fingerprint=whole.table["fingerprint"] + np.uint64(1))
    with pytest.raises(ProbingError, match="of r000, but of other samples"):
        features_of(Embeddings(changed, whole.values, {}), labels, "x")
    frames = Embeddings(whole.table.drop(columns="windows"), whole.values, {})
    with pytest.raises(ProbingError, match="--per record"):
        features_of(frames, labels, "x")


def test_simple_features_tell_tones_apart(tones):
    labels = read_label_set(tones)
    features = shallow_features_of(labels)
    assert features.train.shape == (18, 12 * 12 + 7)
    found = probe(labels, [features], shares=[1.0])
    assert (
        found.summary().set_index(["head", "metric"]).loc[("linear", "macro_auroc"), "mean"] > 0.9
    )


# --- command --------------------------------------------------------------------------------------


def test_the_command_writes_tables_a_picture_and_predictions(tones, embedded, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["probe", str(tones), str(embedded / "trained"), f"chance={embedded / 'random'}"]
    assert main([*words, "--shares", "20", "100", "--seeds", "0", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for name in ("trained", "chance", "shallow features"):
        assert re.search(rf"\| {name} \| linear probe \| 100 \| 18 \| [01]\.\d\d\d \|", printed)
    assert "patients are in both train and test" in printed
    table = pd.read_csv(out / "probe.csv")
    assert len(table) == 3 * 2 * 3
    assert (out / "label_efficiency.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "probe.json").read_text())["runs"][0]["features"] == "trained"
    assert (out / "probe.md").read_text() == printed[: printed.rindex("\n")]
    found = read_evaluation(out / "shallow_features-linear")
    assert found.names == [f"r{i:03d}" for i in range(15, 22)]
    assert found.patients()[0] == "pr015"
    assert main([*words, "--heads", "knn", "--test", "valid", "--valid", "valid"]) == 2
    assert "must be three" in capsys.readouterr().err
    assert main(["probe", str(tones), str(tones)]) == 2
    assert "holds no embeddings" in capsys.readouterr().err
    assert main([*words, "--out", str(out / "probe.csv")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_written_probe(tones, embedded, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ["probe", str(tones), str(embedded / "trained"), "--heads", "knn", "--shares", "100"]
    out = tmp_path / "out"
    monkeypatch.setattr("fairseq_ecg.cli.probe.write_evaluation", full)
    assert main([*words, "--seeds", "0", "--out", str(out)]) == 2
    assert "No space left on device; make room" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (out / "trained-knn").mkdir(parents=True)
    (out / "trained-knn" / "confusion.csv").write_text("of an earlier probe")
    (out / "trained-knn" / "notes.txt").write_text("mine")
    (out / "confusion.csv").write_text("of an evaluation")
    assert main([*words, "--seeds", "0", "--out", str(out)]) == 0
    assert read_evaluation(out / "trained-knn").names[0] == "r015"
    assert not (out / "trained-knn" / "confusion.csv").exists()
    assert (out / "confusion.csv").exists()
    assert (out / "trained-knn" / "notes.txt").read_text() == "mine"
