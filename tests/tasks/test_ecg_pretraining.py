"""Views, and the two ways to pairs of segments: cut here, or cut by fairseq-signals."""

import logging

import numpy as np
import pytest

from fairseq_ecg.data.manifest import write_manifest
from tests.recordings import batch, load, make_task, millivolts, write_folder, write_mat


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("pretraining") / "data", [250, 60, 100, 420])


def pretraining(data, **keys):
    return make_task("ecg_pretraining", data, **keys)


@pytest.mark.parametrize(
    ("views", "criterion", "pairs"),
    [
        ("auto", "ecg_wav2vec2", False),
        ("auto", "wav2vec2_with_cmsc", True),
        ("auto", "cmsc", True),
        ("single", "wav2vec2_with_cmsc", False),
        ("cmsc", "ecg_wav2vec2", True),
    ],
)
def test_views_follow_the_criterion_unless_they_are_said(data, views, criterion, pairs):
    task = pretraining(data, views=views, criterion_name=criterion, segment_s=1.0)
    sample = batch(load(task, "valid"))
    assert ("segment" in sample) == pairs
    assert len(sample["id"]) == (6 if pairs else 2 + 1 + 1 + 4)


def test_pairs_are_the_adjacent_segments_of_one_recording(data):
    sample = batch(load(pretraining(data, views="cmsc", segment_s=1.0), "valid"))
    assert sample["record"].tolist() == [0, 0, 3, 3, 3, 3]
    assert sample["segment"].tolist() == [0, 1, 0, 1, 0, 1]
    assert sample["patient_id"].tolist() == [0, 0, 3, 3, 3, 3]
    source = sample["net_input"]["source"].numpy()
    for row, (record, start) in zip(
        source, [(0, 0), (0, 100), (3, 0), (3, 100), (3, 200), (3, 300)], strict=True
    ):
        np.testing.assert_allclose(row, millivolts(record, start, start + 100), atol=1e-6)


def test_a_batch_counts_pairs_and_their_samples(data):
    dataset = load(pretraining(data, views="cmsc", segment_s=1.0), "valid")
    assert len(dataset) == 2
    assert dataset.sizes.tolist() == [200, 400]


def test_the_segments_of_a_pair_are_perturbed_each_on_its_own(data):
    task = pretraining(
        data, views="cmsc", segment_s=1.0, perturbation_mode=["random_leads_masking"]
    )
    silent = ~batch(load(task))["net_input"]["source"].numpy().any(axis=2)
    assert len({tuple(row) for row in silent}) == 6


def test_recordings_too_short_for_a_pair_are_left_out_and_counted(data, caplog):
    with caplog.at_level(logging.WARNING):
        load(pretraining(data, views="cmsc", segment_s=1.0))
    assert "2 recordings have fewer than two segments" in caplog.text


@pytest.mark.parametrize("segment_s", [None, 3.0])
def test_pairs_where_no_recording_has_two_segments_are_refused(data, segment_s):
    task = pretraining(data, views="cmsc", segment_s=segment_s)
    with pytest.raises(ValueError, match=rf"at most half the length.*\(it is {segment_s}\).*views"):
        task.load_dataset("train")


# --- folders of fairseq-signals -----------------------------------------------------------------


@pytest.fixture
def segments(tmp_path):
    """Three recordings of 2, 3 and 2 segments; one has idx, one patient_id, one both."""
    fields = [{"idx": 70}, {"patient_id": 5}, {"idx": 72, "patient_id": 5}]
    for record, (count, extra) in enumerate(zip([2, 3, 2], fields, strict=True)):
        for i in range(count):
            write_mat(
                tmp_path / f"mat/db/a{record}_{i}.mat", record, 100 * i, 100 * i + 100, **extra
            )
    rows = [("db/a0", 100, 0, "0,1"), ("db/a1", 100, 0, "0,1,2"), ("db/a2", 100, 0, "0,1")]
    for split in ("train", "valid"):
        write_manifest(tmp_path / f"{split}.tsv", "mat", rows, extension="mat")
    return tmp_path


def test_a_cmsc_folder_of_mat_segments_is_read_as_it_is(segments):
    sample = batch(load(pretraining(segments, criterion_name="wav2vec2_with_cmsc"), "valid"))
    assert sample["segment"].tolist() == [0, 1] * 3
    source = sample["net_input"]["source"].numpy()
    pieces = [(record, start) for record in range(3) for start in (0, 100)]  # a1_2 is the odd one
    for row, (record, start) in zip(source, pieces, strict=True):
        np.testing.assert_allclose(row, millivolts(record, start, start + 100), atol=1e-6)


def test_segments_are_told_apart_by_idx_before_patient_id(segments):
    sample = batch(load(pretraining(segments, views="cmsc"), "valid"))
    assert sample["patient_id"].tolist() == [70, 70, 5, 5, 72, 72]


def test_a_segment_number_is_a_file_not_a_position(segments):
    write_manifest(segments / "train.tsv", "mat", [("db/a1", 100, 0, "0,2")], extension="mat")
    source = batch(load(pretraining(segments, views="cmsc")))["net_input"]["source"].numpy()
    np.testing.assert_allclose(source[1], millivolts(1, 200, 300), atol=1e-6)


def test_the_segments_of_a_cmsc_folder_can_be_used_one_by_one(segments):
    dataset = load(pretraining(segments, views="single"), "valid")
    assert dataset.source.names == [
        *("db/a0_0.mat", "db/a0_1.mat", "db/a1_0.mat", "db/a1_1.mat", "db/a1_2.mat"),
        *("db/a2_0.mat", "db/a2_1.mat"),
    ]
    assert "segment" not in batch(dataset)


def test_segments_that_are_cut_already_are_not_cut_again(segments):
    task = pretraining(segments, views="cmsc", segment_s=0.5)
    with pytest.raises(ValueError, match=r"segment_s=0.5 cuts them again; give task.segment_s=nul"):
        task.load_dataset("train")
    assert len(load(pretraining(segments, views="cmsc", segment_s=1.0))) == 3


def test_short_segments_leave_with_their_group_and_no_other(segments):
    for i in (0, 1):
        write_mat(segments / f"mat/db/b_{i}.mat", 3, 40 * i, 40 * i + 40)
    rows = [("db/b", 40, 0, "0,1"), ("db/a0", 100, 0, "0,1"), ("db/a2", 100, 0, "0,1")]
    write_manifest(segments / "train.tsv", "mat", rows, extension="mat")
    sample = batch(load(pretraining(segments, views="cmsc", min_sample_size=100)))
    assert sample["patient_id"].tolist() == [70, 70, 72, 72]
    assert sample["segment"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(
        sample["net_input"]["source"][2].numpy(), millivolts(2, 0, 100), atol=1e-6
    )


def test_a_plain_manifest_written_by_pandas_is_read_with_its_leading_tab(segments):
    root = segments / "mat" / "db"
    (segments / "train.tsv").write_text(f"\t{root}\na0_0.mat\t100\na1_2.mat\t100\n")
    sample = batch(load(pretraining(segments)))
    assert sample["patient_id"].tolist() == [70, 5]
    source = sample["net_input"]["source"].numpy()
    np.testing.assert_allclose(source[1], millivolts(1, 200, 300), atol=1e-6)


def test_a_whole_mat_recording_is_cut_into_pairs_as_any_other(segments):
    write_mat(segments / "mat/long.mat", 3, 0, 230, idx=9)
    write_manifest(segments / "train.tsv", "mat", [("long.mat", 230)])
    sample = batch(load(pretraining(segments, views="cmsc", segment_s=1.0)))
    assert sample["patient_id"].tolist() == [9, 9]
    np.testing.assert_allclose(
        sample["net_input"]["source"][1].numpy(), millivolts(3, 100, 200), atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("a.mat", {"feats": np.zeros((12, 50))}, "a.mat has 50 samples, not 100"),
        ("a.mat", {"feats": np.zeros((3, 100))}, r"a.mat: feats must be \[12, T\], got \(3, 100\)"),
        ("a.mat", {"feats": np.full((12, 100), np.nan)}, "a.mat: feats has 1200 non-finite"),
        ("a.mat", {"curr_sample_rate": 250}, "a.mat has 250 Hz, not 100"),
        ("b.mat", {}, "b.mat does not exist"),
    ],
)
def test_a_segment_that_cannot_be_used_is_named_with_the_reason(segments, name, fields, message):
    write_mat(segments / "mat/a.mat", 0, 0, 100)
    write_mat(segments / "mat/a.mat", 0, 0, 100, **{"curr_sample_rate": 100, **fields})
    write_manifest(segments / "train.tsv", "mat", [("db/a0_0.mat", 100), (name, 100)])
    with pytest.raises(ValueError, match=message):
        batch(load(pretraining(segments)))


def test_a_mat_file_that_is_no_segment_says_what_it_lacks(segments):
    import scipy.io

    scipy.io.savemat(segments / "mat/x.mat", {"val": np.zeros((12, 100))})
    write_manifest(segments / "train.tsv", "mat", [("x.mat", 100)])
    with pytest.raises(ValueError, match=r"expected the variables feats.*found \['val'\]"):
        batch(load(pretraining(segments)))
