"""Views: pairs of segments, cut here or by fairseq-signals; leads; perturbed copies."""

import itertools
import logging

import numpy as np
import pytest
import torch
from fairseq.tasks import FairseqTask

from fairseq_ecg.data.manifest import write_manifest
from tests.recordings import RATE_HZ, batch, load, make_task, millivolts, write_folder, write_mat

MASKS = {"perturbation_mode": ["random_leads_masking"]}


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
    assert dataset.sizes.tolist() == [200, 200, 200]


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
        ("a.mat", {"feats": np.zeros((12, 50))}, "a.mat has 50 samples, but its manifest says 100"),
        ("a.mat", {"feats": np.zeros((3, 100))}, r"a.mat: feats must be \[12, T\], got \(3, 100\)"),
        ("a.mat", {"feats": np.full((12, 100), np.nan)}, "a.mat: feats has 1200 non-finite"),
        (
            "a.mat",
            {"curr_sample_rate": 250},
            "a.mat has 250 Hz, .*a manifest must hold recordings of one rate",
        ),
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


# --- leads and copies as rows of a batch -----------------------------------------------------------


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("views") / "data", [250, 100, 420])


def cut(data, **keys):
    return make_task("ecg_pretraining", data, segment_s=1.0, **keys)


def source_of(sample) -> np.ndarray:
    return sample["net_input"]["source"].numpy()


@pytest.mark.parametrize(
    ("criterion", "n_views"),
    [("simclr", 2), ("3kg", 2), ("cmsc", None), ("ecg_wav2vec2", None), ("ecg_masked_mse", None)],
)
def test_auto_follows_the_criterion(recordings, criterion, n_views):
    sample = batch(load(cut(recordings, criterion_name=criterion, **MASKS)))
    assert sample.get("n_views") == n_views
    assert ("view" in sample) == (n_views is not None)
    assert ("segment" in sample) == (criterion == "cmsc")


def test_views_that_are_said_go_before_the_criterion(recordings):
    task = cut(recordings, views="cmlc", criterion_name="cmsc")
    assert "segment" not in batch(load(task))


# --- leads ----------------------------------------------------------------------------------------


def test_cmlc_gives_every_lead_of_a_segment_as_a_row(recordings):
    sample = batch(load(cut(recordings, views="cmlc"), "valid"), [1, 3])
    assert sample["n_views"] == 12
    assert sample["view"].tolist() == [*range(12), *range(12)]
    assert sample["id"].tolist() == [1] * 12 + [3] * 12
    assert sample["patient_id"].tolist() == [0] * 12 + [2] * 12
    expected = np.concatenate([millivolts(0, 100, 200), millivolts(2, 0, 100)])[:, None]
    np.testing.assert_allclose(source_of(sample), expected, atol=1e-6)


def test_cmsmlc_goes_on_counting_in_the_second_segment(recordings):
    task = cut(recordings, views="cmsmlc", leads_to_load=["II", "V2"])
    sample = batch(load(task, "valid"))
    assert sample["n_views"] == 4
    assert sample["view"].tolist() == [0, 1, 2, 3] * 3  # one pair of record 0, two of record 2
    assert sample["segment"].tolist() == [0, 0, 1, 1] * 3
    assert sample["record"].tolist() == [0] * 4 + [2] * 8
    np.testing.assert_allclose(
        source_of(sample)[4:8, 0],
        np.concatenate([millivolts(2, 0, 100, [1, 7]), millivolts(2, 100, 200, [1, 7])]),
        atol=1e-6,
    )


def test_an_item_counts_the_samples_of_all_its_rows(recordings):
    assert load(cut(recordings, views="cmlc"), "valid").sizes.tolist() == [1200] * 7
    assert load(cut(recordings, views="cmsmlc"), "valid").sizes.tolist() == [2400] * 3
    two = cut(recordings, views="two", **MASKS)
    assert load(two, "valid").sizes.tolist() == [200] * 7


def test_leads_as_views_want_a_network_with_one_input(recordings, monkeypatch):
    monkeypatch.setattr(FairseqTask, "build_model", lambda self, cfg, from_checkpoint: cfg.in_d)
    task = cut(recordings, views="cmlc")
    with pytest.raises(ValueError, match=r"model\.in_d is 12, but.*give model\.in_d=1"):
        task.build_model(_Cfg(in_d=12))
    assert task.build_model(_Cfg(in_d=1)) == 1
    assert task.num_leads == 1
    assert cut(recordings, views="cmsc").num_leads == 12


class _Cfg:
    def __init__(self, in_d):
        self.in_d = in_d


@pytest.mark.parametrize(
    "keys",
    [{"leads_to_load": ["II"]}, {"leads_to_load": ["I", "II"], "enable_padding_leads": True}],
)
def test_leads_that_cannot_be_views_are_refused(recordings, keys):
    with pytest.raises(ValueError, match="task.views=cmlc takes each lead as a view, so it needs"):
        cut(recordings, views="cmlc", **keys)


def test_a_network_of_single_leads_expects_no_certain_lead(recordings):
    assert cut(recordings, views="cmlc").state.input_contract["leads"] is None
    assert len(cut(recordings, views="cmsc").state.input_contract["leads"]) == 12


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "valid"])
def test_copies_are_interleaved_and_perturbed_each_on_its_own(recordings, split):
    sample = batch(load(cut(recordings, criterion_name="simclr", **MASKS), split))
    assert sample["id"].tolist() == np.repeat(range(7), 2).tolist()
    assert sample["view"].tolist() == [0, 1] * 7
    silent = ~source_of(sample).any(axis=2)
    assert len({tuple(row) for row in silent}) == 14
    whole = millivolts(0, 0, 100)
    for row in source_of(sample)[:2]:
        kept = row.any(axis=1)
        np.testing.assert_allclose(row[kept], whole[kept], atol=1e-6)


def test_a_view_depends_on_seed_epoch_index_and_view_only(recordings):
    def drawn(seed=1, epoch=1, indices=range(7)):
        dataset = load(cut(recordings, criterion_name="simclr", seed=seed, **MASKS))
        dataset.set_epoch(epoch)
        return source_of(batch(dataset, indices))

    assert np.array_equal(drawn(), drawn())
    assert np.array_equal(drawn(indices=[4, 2])[2:], drawn()[4:6])
    assert not np.array_equal(drawn(), drawn(epoch=2))
    assert not np.array_equal(drawn(), drawn(seed=2))


def test_the_first_view_is_what_a_single_segment_is(recordings):
    single = batch(load(cut(recordings, views="single", **MASKS)))
    two = batch(load(cut(recordings, views="two", **MASKS)))
    assert np.array_equal(source_of(single), source_of(two)[::2])


@pytest.mark.parametrize("views", ["two", "3kg", "cmlc", "cmsmlc"])
def test_batches_are_the_same_for_any_number_of_workers(recordings, views):
    random = {"perturbation_mode": ["emg_noise"]} if "m" in views else MASKS
    dataset = load(cut(recordings, views=views, **random))
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=2)
    epochs = []
    for workers in (0, 1):
        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=batches, collate_fn=dataset.collater, num_workers=workers
        )
        epochs.append(list(loader))
    for alone, helped in zip(*epochs, strict=True):
        assert alone["n_views"] == helped["n_views"]
        assert torch.equal(alone["view"], helped["view"])
        assert torch.equal(alone["net_input"]["source"], helped["net_input"]["source"])


@pytest.mark.parametrize("views", ["cmlc", "cmsmlc"])
def test_leads_that_are_compared_must_not_be_masked(recordings, views):
    with pytest.raises(ValueError, match=f"task.views={views} compares leads.*none must be masked"):
        cut(recordings, views=views, **MASKS)


def test_an_empty_batch_stays_empty(recordings):
    assert load(cut(recordings, views="two", **MASKS)).collater([]) == {}


def test_copies_without_a_perturbation_are_refused(recordings):
    with pytest.raises(ValueError, match="task.views=two compares perturbed copies.*is empty"):
        cut(recordings, criterion_name="simclr")


def test_copies_have_the_leads_that_are_loaded(recordings):
    task = cut(recordings, criterion_name="simclr", leads_to_load=["II", "V2"], **MASKS)
    assert source_of(batch(load(task))).shape == (14, 2, 100)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_3kg_turns_every_copy_in_training_and_outside(recordings, split):
    sample = batch(load(cut(recordings, criterion_name="3kg", mask_ratio=0.25), split))
    source = source_of(sample)
    assert ((source == 0).sum(axis=2) >= RATE_HZ // 4).all()
    for a, b in itertools.combinations(range(0, 14, 2), 2):
        assert not np.array_equal(source[a] == 0, source[b] == 0)
    assert not np.array_equal(source[0], source[1])


def test_3kg_keeps_to_its_keys_and_to_the_leads_that_are_loaded(recordings):
    still = {"angle": 0.0, "scale": 1.0, "mask_ratio": 0.0}
    task = cut(recordings, criterion_name="3kg", leads_to_load=["II", "V2"], **still)
    source = source_of(batch(load(task)))
    assert source.shape == (14, 2, 100)
    assert np.array_equal(source[::2], source[1::2])


def test_3kg_of_standardised_leads_is_refused(recordings):
    task = cut(recordings, criterion_name="3kg", standardize="record")
    with pytest.raises(ValueError, match=r"needs mV in all leads.*task\.standardize=none"):
        task.load_dataset("train")


def test_a_value_of_3kg_that_cannot_work_is_refused(recordings):
    with pytest.raises(ValueError, match=r"task\.scale must be .*at least 1"):
        cut(recordings, criterion_name="3kg", scale=0.5)


# --- positives ------------------------------------------------------------------------------------


@pytest.fixture
def two_visits(tmp_path):
    """Three recordings of 2 segments; the first two are of patient 5."""
    for record, patient in enumerate((5, 5, 6)):
        write_mat(
            tmp_path / f"mat/r{record}.mat", record, 0, 200, idx=70 + record, patient_id=patient
        )
    write_manifest(tmp_path / "train.tsv", "mat", [(f"r{i}.mat", 200) for i in range(3)])
    return tmp_path


@pytest.mark.parametrize(
    ("positives", "expected"),
    [("record", [70, 70, 71, 71, 72, 72]), ("patient", [0, 0, 0, 0, 1, 1])],
)
def test_positives_are_of_one_recording_or_of_one_patient(two_visits, positives, expected):
    sample = batch(load(cut(two_visits, views="cmsc", positives=positives)))
    ids = sample["patient_id"]
    assert torch.equal(
        ids[:, None] == ids, torch.tensor(expected)[:, None] == torch.tensor(expected)
    )
    assert sample["record"].tolist() == [0, 0, 1, 1, 2, 2]
