"""Where labels come from, and what becomes of the scores."""

import numpy as np
import pytest
import scipy.io
from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.tasks.ecg_classification import average_per_record
from tests.recordings import batch, load, make_task, write_folder, write_mat

LABELS = ["b;c", "", "a"]


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", [250, 60, 100], labels=LABELS)


def classification(data, **keys):
    return make_task("ecg_classification", data, **keys)


# --- labels of a manifest -----------------------------------------------------------------------


def test_names_in_the_manifest_become_columns_in_the_order_of_the_vocabulary(data):
    task = classification(data)
    assert batch(load(task, "valid"))["label"].tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    (data / "labels.txt").write_text("c\nb\nunused\na\n")
    task = classification(data)
    assert task.label_names == ["c", "b", "unused", "a"]
    assert task.num_labels == 4
    assert batch(load(task, "valid"))["label"].tolist()[0] == [1, 1, 0, 0]
    assert task.state.input_contract["labels"] == ["c", "b", "unused", "a"]


def test_every_window_has_the_label_of_its_recording(data):
    dataset = load(classification(data, segment_s=1.0))
    sample = batch(dataset)
    expected = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]])
    assert sample["record"].tolist() == [0, 0, 1, 2]
    np.testing.assert_array_equal(sample["label"].numpy(), expected[sample["record"].numpy()])


def test_a_label_that_the_vocabulary_lacks_is_refused(data):
    (data / "labels.txt").write_text("a\nb\n")
    task = classification(data)
    with pytest.raises(ValueError, match=r"line 2: class 'c' is not in .*labels.txt"):
        task.load_dataset("train")


def test_recordings_without_labels_are_refused_with_the_way_out(tmp_path):
    folder = write_folder(tmp_path, [100, 100])
    task = classification(folder)
    assert task.num_labels is None
    with pytest.raises(ValueError, match="r0.*holds no label; give task.label_file"):
        task.load_dataset("train")


def test_a_store_without_labels_names_the_folder_to_give(tmp_path):
    from tests.recordings import write_tone_store

    write_tone_store(tmp_path)
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    (tmp_path / "train.tsv").write_text("\n".join(x.rpartition("\t")[0] or x for x in lines))
    with pytest.raises(ValueError, match=r"has no labels; give task.data the folder.*labels.txt"):
        load(classification(tmp_path))


@pytest.mark.parametrize("key", ["path_dataset", "load_specific_lead"])
def test_question_answering_data_are_refused(data, key):
    classification(data, **{key: False})
    with pytest.raises(ValueError, match=f"task.{key}=true is not supported: it belongs to quest"):
        classification(data, **{key: True})


# --- labels of fairseq-signals ------------------------------------------------------------------


@pytest.fixture
def segments(tmp_path):
    """Four .mat segments, two of them of the recording with idx 5."""
    for i, idx in enumerate([2, 5, 5, 0]):
        label = np.eye(3)[idx % 3]
        write_mat(tmp_path / f"mat/s{i}.mat", i, 0, 100, idx=idx, label=label)
    for split in ("train", "valid"):
        write_manifest(tmp_path / f"{split}.tsv", "mat", [(f"s{i}.mat", 100) for i in range(4)])
    np.save(tmp_path / "y.npy", (np.arange(6)[:, None] >> np.arange(4)) & 1)
    return tmp_path


def test_a_label_file_is_looked_up_by_the_idx_of_each_segment(segments):
    task = classification(segments, label_file=str(segments / "y.npy"))
    assert task.num_labels == 4
    sample = batch(load(task, "valid"))
    assert sample["label"].tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert sample["label"].dtype == sample["net_input"]["source"].dtype


def test_without_a_label_file_the_label_inside_each_segment_counts(segments):
    task = classification(segments)
    assert task.num_labels is None
    assert batch(load(task, "valid"))["label"].tolist() == np.eye(3)[[2, 2, 2, 0]].tolist()


def test_names_beside_the_manifest_come_before_a_label_file(segments, caplog):
    rows = [(f"s{i}.mat", 100, "x") for i in range(4)]
    write_manifest(segments / "train.tsv", "mat", rows)
    (segments / "labels.txt").write_text("x\n")
    task = classification(segments, label_file=str(segments / "y.npy"))
    assert batch(load(task))["label"].tolist() == [[1]] * 4
    assert "y.npy is not read: the manifests of" in caplog.text


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (2, "2"), (-1, "-1")])
def test_labels_that_are_no_shares_are_refused_by_name(segments, value, shown):
    labels = np.load(segments / "y.npy", allow_pickle=False).astype(float)
    labels[5, 3] = value
    np.save(segments / "y.npy", labels)
    task = classification(segments, label_file=str(segments / "y.npy"))
    with pytest.raises(ValueError, match=rf"s1.mat: label 3 is {shown}, but .*\(2 are not\)"):
        task.load_dataset("train")


@pytest.mark.parametrize(
    ("idx", "message"),
    [
        ({"idx": 6}, "s1.mat: idx is 6, but task.label_file=.*y.npy has the rows 0 to 5"),
        ({"idx": -1}, "s1.mat: idx is -1, but task.label_file=.*y.npy has the rows 0 to 5"),
        ({}, "s1.mat has no idx, the row of its labels in task.label_file=.*y.npy; give"),
    ],
)
def test_an_idx_outside_the_label_file_is_refused_by_name(segments, idx, message):
    write_mat(segments / "mat/s1.mat", 0, 0, 100, **idx)
    task = classification(segments, label_file=str(segments / "y.npy"))
    with pytest.raises(ValueError, match=message):
        task.load_dataset("train")


def test_a_label_file_with_objects_is_never_unpickled(segments):
    np.save(segments / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        classification(segments, label_file=str(segments / "bad.npy"))


def test_a_label_file_that_is_no_table_is_refused(segments):
    np.save(segments / "flat.npy", np.zeros(6))
    with pytest.raises(ValueError, match=r"flat.npy must be an array \[N, K\], but has .*\(6,\)"):
        classification(segments, label_file=str(segments / "flat.npy"))


def test_segments_with_labels_of_different_width_are_refused_by_name(segments):
    write_mat(segments / "mat/s2.mat", 0, 0, 100, label=np.zeros(5))
    with pytest.raises(ValueError, match=r"s2.mat has 5 labels, but .*s0.mat has 3"):
        load(classification(segments))


def test_a_segment_without_a_label_says_what_to_give(segments):
    write_mat(segments / "mat/s3.mat", 0, 0, 100, idx=0)
    with pytest.raises(ValueError, match="s3.mat holds no label; give task.label_file"):
        load(classification(segments))


def test_a_boolean_label_of_the_old_preprocessing_is_read(segments):
    content = {
        "feats": np.zeros((12, 100)),
        "curr_sample_rate": 100,
        "label": [[True, False, True]],
    }
    scipy.io.savemat(segments / "mat/s0.mat", content)
    assert batch(load(classification(segments)), [0])["label"].tolist() == [[1, 0, 1]]


# --- scores -------------------------------------------------------------------------------------


def test_scores_of_a_recording_are_the_mean_over_its_segments():
    scores = {
        "record": np.array([3, 1, 3, 3]),
        "probability": np.array([[0.1, 0.9], [0.5, 0.5], [0.4, 0.0], [0.7, 0.3]], np.float32),
        "label": np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32),
    }
    mean = average_per_record(scores)
    assert mean["record"].tolist() == [1, 3]
    np.testing.assert_allclose(mean["probability"], [[0.5, 0.5], [0.4, 0.4]], atol=1e-7)
    assert mean["label"].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("score_per", "rows"), [("segment", 4), ("record", 3)])
def test_a_validation_scores_segments_or_recordings(data, score_per, rows):
    task = classification(data, score_per=score_per)
    task.build_criterion(_criterion())
    shapes = []
    task.criterion.epoch_metrics = lambda p, y: shapes.append((p.shape, y.shape)) or {}
    n = 4
    scores = {
        "id": np.arange(n),
        "record": np.array([0, 0, 1, 2]),
        "probability": np.full((n, 3), 0.5),
        "label": np.zeros((n, 3)),
    }
    task.epoch_metrics(scores)
    assert shapes == [((rows, 3), (rows, 3))]


def _criterion():
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY

    name = "binary_cross_entropy_with_logits"
    cfg = OmegaConf.structured(CRITERION_DATACLASS_REGISTRY[name])
    return OmegaConf.merge(cfg, {"_name": name})


def test_the_best_score_is_the_larger_one_if_the_metric_is_to_be_maximized(data, monkeypatch):
    root = OmegaConf.create({"checkpoint": {"maximize_best_checkpoint_metric": True}, "t": {}})
    task = classification(data)
    root.t = task.cfg
    task.cfg = root.t
    task._scores.append({"id": np.array([0])})
    task.epoch_metrics = lambda scores: {"auroc": 0.6}
    monkeypatch.setattr(checkpoint_utils.save_checkpoint, "best", 0.7, raising=False)
    stats = {"best_auroc": float("nan")}
    task.post_validate(None, stats, None)
    assert stats == {"auroc": 0.6, "best_auroc": 0.7}


def test_a_best_metric_without_a_value_is_said(data, caplog):
    """The engine writes no ``checkpoint_best.pt`` for NaN, without a word."""
    root = OmegaConf.create({"checkpoint": {"best_checkpoint_metric": "auroc"}, "t": {}})
    task = classification(data)
    root.t = task.cfg
    task.cfg = root.t
    for value, warnings in ((0.5, 0), (float("nan"), 1)):
        task._scores.append({"id": np.array([0])})
        task.epoch_metrics = lambda scores, value=value: {"f1": float("nan"), "auroc": value}
        task.post_validate(None, {}, None)
        assert caplog.text.count("best_checkpoint_metric=auroc has no value") == warnings


def write_array(folder, names=None):
    """Write two numbered segments, a label array and, if given, the names of its columns."""
    for row in range(2):
        write_mat(folder / f"r{row}.mat", row, 0, 100, idx=1 - row)
    (folder / "train.tsv").write_text(f"\t{folder}\nr0.mat\t100\nr1.mat\t100\n")
    np.save(folder / "y.npy", np.array([[1.0, 0.0], [0.0, 1.0]]))
    if names is not None:
        (folder / "label_def.csv").write_text("name,pos_count_all\n" + names)
    return classification(folder, label_file=str(folder / "y.npy"))


def test_a_label_array_is_read_by_idx_and_named_by_the_table_beside_it(tmp_path):
    task = write_array(tmp_path, names="AF,3\nSB,4\n")
    assert (task.num_labels, task.label_names) == (2, ["AF", "SB"])
    assert task.state.input_contract["labels"] == ["AF", "SB"]
    assert batch(load(task))["label"].tolist() == [[0, 1], [1, 0]]


def test_a_label_array_without_names_has_none(tmp_path):
    task = write_array(tmp_path)
    assert (task.num_labels, task.label_names) == (2, None)


def test_names_that_do_not_fit_the_array_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"label_def\.csv names 1 classes"):
        write_array(tmp_path, names="AF,3\n")


def test_labels_inside_the_files_survive_standardising(tmp_path):
    for row in range(2):
        write_mat(tmp_path / f"r{row}.mat", row, 0, 100, label=[row, 1])
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\nr0.mat\t100\nr1.mat\t100\n")
    task = classification(tmp_path, standardize="record")
    assert batch(load(task))["label"].tolist() == [[0, 1], [1, 1]]
