"""Views: pairs of segments, cut here or by fairseq-signals; leads; copies; hidden blocks."""

import itertools
import logging

import numpy as np
import pytest
import torch
from fairseq.tasks import FairseqTask

from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.manifest import write_manifest
from tests.builds import write_record
from tests.recordings import (
    RATE_HZ,
    adu,
    batch,
    load,
    make_task,
    millivolts,
    write_folder,
    write_mat,
    write_tone_store,
)

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
    [
        ("simclr", 2),
        ("3kg", 2),
        ("ecg_transform_recognition", 7),
        ("cmsc", None),
        ("ecg_wav2vec2", None),
    ],
)
def test_auto_follows_the_criterion(recordings, criterion, n_views):
    keys = MASKS if criterion in ("simclr", "3kg") else {}
    sample = batch(load(cut(recordings, criterion_name=criterion, **keys)))
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
    with pytest.raises(
        ValueError, match=r"task.views=two compares.*empty.*\[random_leads_masking\]"
    ):
        cut(recordings, criterion_name="simclr")
    for keys in ({"leads_to_load": ["II"]}, {"lead_items": True}):
        with pytest.raises(ValueError, match=r"is empty; give e.g. \[scale_shift_noise_warp\]"):
            cut(recordings, criterion_name="simclr", **keys)


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


# --- transformed forms ----------------------------------------------------------------------------

FORMS = {"views": "transforms", "permutation_pieces": 5}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_every_segment_is_there_in_seven_forms(recordings, split):
    dataset = load(cut(recordings, **FORMS), split)
    sample = batch(dataset, [1, 3])
    assert sample["n_views"] == 7
    assert sample["view"].tolist() == [*range(7)] * 2
    assert sample["id"].tolist() == [1] * 7 + [3] * 7
    assert sample["record"].tolist() == [0] * 7 + [2] * 7
    source = source_of(sample)
    assert source.shape == (14, 12, 100)
    for forms, whole in ((source[:7], (0, 100, 200)), (source[7:], (2, 0, 100))):
        values = millivolts(*whole)
        np.testing.assert_allclose(forms[0], values, atol=1e-6)
        np.testing.assert_allclose(forms[2], 1.1 * values, rtol=1e-5)
        np.testing.assert_allclose(forms[3], -values, atol=1e-6)
        np.testing.assert_allclose(forms[4], values[:, ::-1], atol=1e-6)
        np.testing.assert_array_equal(np.sort(forms[5]), np.sort(forms[0]))
    assert len(dataset) == 7
    assert dataset.sizes.tolist() == [700] * 7


def test_the_batch_of_forms_is_the_array_they_were_made_in(recordings):
    dataset = load(cut(recordings, **FORMS))
    items = dataset.__getitems__([0, 4, 2])
    source = dataset.collater(items)["net_input"]["source"]
    assert source.data_ptr() == items[0]["source"].ctypes.data


def test_a_pair_of_copies_follows_the_forms(recordings):
    task = cut(recordings, **{**FORMS, "views": "transforms_and_pair"}, leads_to_load=["II", "V2"])
    sample = batch(load(task, "valid"))
    assert sample["n_views"] == 9
    assert sample["view"].tolist() == [*range(9)] * 7
    forms = batch(load(cut(recordings, **FORMS, leads_to_load=["II", "V2"]), "valid"))
    source = source_of(sample).reshape(7, 9, 2, 100)
    np.testing.assert_array_equal(source[:, :7].reshape(49, 2, 100), source_of(forms))
    assert all(not np.array_equal(a, b) for a, b in source[:, 7:])


@pytest.mark.parametrize("views", ["transforms", "transforms_and_pair"])
def test_forms_depend_on_seed_epoch_index_and_view_only(recordings, views):
    def drawn(seed=1, epoch=1, indices=range(7)):
        dataset = load(cut(recordings, **{**FORMS, "views": views}, seed=seed))
        dataset.set_epoch(epoch)
        rows = source_of(batch(dataset, indices))
        return rows.reshape(len(indices), -1, 12, 100)

    first = drawn()
    np.testing.assert_array_equal(drawn(), first)
    np.testing.assert_array_equal(drawn(indices=[4, 2]), first[[4, 2]])
    for others in (drawn(epoch=2), drawn(seed=2)):
        for view in range(first.shape[1]):
            same = np.array_equal(others[:, view], first[:, view])
            assert same == (view in (0, 2, 3, 4))


@pytest.mark.parametrize("keys", [{}, {"leads_to_load": ["II", "V2"], "lead_items": True}])
def test_forms_of_validation_depend_on_name_start_lead_and_view_only(recordings, keys):
    def drawn(seed=1, epoch=1, turn=False):
        dataset = load(cut(recordings, **FORMS, **keys, seed=seed), "valid")
        dataset.set_epoch(epoch)
        segments = dataset.dataset.dataset if keys else dataset.dataset
        order = [5, 6, 0, 1, 2, 3, 4] if turn else range(7)
        segments.windows = segments.windows.select(np.array(order))
        n_leads = 2 if keys else 1
        rows = source_of(batch(dataset)).reshape(7, n_leads, 7, -1, 100)
        return rows[np.argsort(order)]

    first = drawn()
    np.testing.assert_array_equal(drawn(seed=2, epoch=5), first)
    np.testing.assert_array_equal(drawn(turn=True), first)
    noise = (first[:, :, 1] - first[:, :, 0]).reshape(7 * first.shape[1], -1)
    noise /= np.abs(noise).max(axis=1, keepdims=True)
    assert len(np.unique(noise.round(4), axis=0)) == len(noise)


def test_the_lengths_of_recordings_may_differ(recordings):
    task = make_task("ecg_pretraining", recordings, **FORMS)
    sample = batch(load(task))
    assert source_of(sample).shape == (21, 12, 420)
    assert sample["net_input"]["padding_mask"][7:14, 100:].all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scaling": 1.0}, "task.scaling must be a number other than 0, 1 and -1"),
        ({"warp_factor": 0.5}, "task.warp_factor must be above 1"),
        (
            {"perturbation_mode": ["random_leads_masking"]},
            "need signal in every lead.*leave random",
        ),
        ({"views": "transforms_and_pair", "view_chance": 2.0}, "task.view_chance must lie in"),
    ],
)
def test_keys_that_leave_no_forms_are_refused(recordings, keys, message):
    with pytest.raises(ValueError, match=message):
        cut(recordings, **{**FORMS, **keys})


def test_windows_of_fewer_samples_than_pieces_are_named(recordings):
    task = cut(recordings, views="transforms", permutation_pieces=101)
    with pytest.raises(
        ValueError, match=r"r0 has a window of 100 samples, too few for 101 pieces "
    ):
        task.load_dataset("train")


@pytest.mark.parametrize("lead_items", [False, True])
def test_a_constant_window_is_named(tmp_path, lead_items):
    write_folder(tmp_path, [200, 200])
    lead = 3 if lead_items else slice(None)
    values = adu(1, 200)
    values[lead, 100:] = 7
    write_record(tmp_path / "wfdb", "r1", values, RATE_HZ)
    dataset = load(cut(tmp_path, **FORMS, lead_items=lead_items))
    batch(dataset, [0, 1, 2])
    with pytest.raises(
        ValueError, match="r1, lead aVR, is constant" if lead_items else "r1 is cons"
    ):
        batch(dataset)


# --- leads as items -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "n_views"), [("single", 1), ("two", 2), ("transforms", 7), ("transforms_and_pair", 9)]
)
def test_every_lead_can_be_an_item(recordings, views, n_views):
    random = {"perturbation_mode": ["emg_noise"], "max_amplitude": 1e-6} if views == "two" else {}
    keys = {**FORMS, "views": views, "leads_to_load": ["II", "V2"], **random}
    task = cut(recordings, **keys, lead_items=True)
    dataset = load(task, "valid")
    assert len(dataset) == 14
    assert dataset.sizes.tolist() == [100 * n_views] * 14
    assert task.num_leads == 1
    assert task.state.input_contract["leads"] is None
    sample = batch(dataset, [5, 2, 4])  # leads of the segments 2, 1 and 2
    assert sample["id"].tolist() == np.repeat([5, 2, 4], n_views).tolist()
    assert sample["record"].tolist() == np.repeat([1, 0, 1], n_views).tolist()
    source = source_of(sample)[::n_views]
    assert source.shape == (3, 1, 100)
    for row, (record, start, lead) in zip(source, [(1, 0, 7), (0, 100, 1), (1, 0, 1)], strict=True):
        if views != "two":
            np.testing.assert_array_equal(row, millivolts(record, start, start + 100, [lead]))
        np.testing.assert_allclose(row[0], millivolts(record, start, start + 100)[lead], atol=1e-4)


def test_leads_of_a_segment_are_perturbed_as_they_are_together(recordings):
    noise = {"perturbation_mode": ["emg_noise"], "max_amplitude": 1.0}
    whole = source_of(batch(load(cut(recordings, views="single", **noise))))
    single = source_of(batch(load(cut(recordings, views="single", lead_items=True, **noise))))
    np.testing.assert_array_equal(single.reshape(whole.shape), whole)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"views": "cmsc"},
            "task.lead_items=true makes every lead.*task.views=cmsc cannot.*single",
        ),
        ({"views": "masked"}, "task.views=masked cannot have"),
        ({"views": "single", **MASKS}, "single leads need signal in every lead"),
        (
            {"views": "single", "leads_to_load": ["II"], "enable_padding_leads": True},
            "task.lead_items=true takes the leads one by one, so none may be silent",
        ),
    ],
)
def test_leads_that_cannot_be_items_are_refused(recordings, keys, message):
    with pytest.raises(ValueError, match=message):
        cut(recordings, lead_items=True, **keys)


def test_leads_as_items_want_a_network_with_one_input(recordings):
    task = cut(recordings, views="transforms", lead_items=True)
    with pytest.raises(
        ValueError, match=r"model\.in_d is 12, but task\.lead_items takes each lead"
    ):
        task.build_model(_Cfg(in_d=12))


@pytest.mark.parametrize("workers", [0, 2])
def test_forms_of_leads_are_the_same_for_any_number_of_workers(recordings, workers):
    keys = {"views": "transforms_and_pair", "leads_to_load": ["II", "V2"], "lead_items": True}
    dataset = load(cut(recordings, **{**FORMS, **keys}))
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=3)
    assert [len(b) for b in batches] == [3, 3, 3, 3, 2]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collater,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        for given, indices in zip(loader, batches, strict=True):
            alone = [row for index in indices for row in dataset[index]]
            assert torch.equal(
                given["net_input"]["source"], dataset.collater(alone)["net_input"]["source"]
            )


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


# --- hidden blocks --------------------------------------------------------------------------------


def hidden(data, **keys):
    """Set up the task of 1 s windows and blocks of 0.1 s."""
    keys = {"criterion_name": "ecg_masked_mse", "segment_s": 1.0, "mask_block": 10, **keys}
    return make_task("ecg_pretraining", data, **keys)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("masked") / "data")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_masked_views_follow_the_criterion_and_leave_the_samples_alone(recordings, split):
    sample = batch(load(hidden(recordings), split))
    single = batch(load(cut(recordings, views="single"), split))
    assert np.array_equal(source_of(sample), source_of(single))
    mask = sample["net_input"]["mask"].numpy()
    assert mask.shape == (7, 12, 10)
    assert (mask == mask[:, :1]).all()
    assert mask[:, 0].sum(1).tolist() == [2] * 7  # round(0.25 * 10)
    assert "lead_mask" not in sample["net_input"]
    assert "mask" not in single["net_input"]


def test_the_keys_decide_what_is_hidden(recordings):
    keys = {"mask_ratio": 0.75, "mask_mode": "time_and_lead", "leads_to_load": "4-lead"}
    net_input = batch(load(hidden(recordings, **keys)))["net_input"]
    assert net_input["mask"][:, 0].sum(1).tolist() == [8] * 7  # round(0.75 * 10)
    assert net_input["lead_mask"].all(2).sum(1).tolist() == [3] * 7


def test_three_quarters_of_a_hundred_patches_are_hidden_and_differ_between_records(store):
    task = hidden(store, segment_s=2.0, mask_block=2, mask_ratio=0.75)
    mask = batch(load(task))["net_input"]["mask"][:, 0]
    assert mask.sum(1).tolist() == [75] * 18
    assert len({row.numpy().tobytes() for row in mask}) == 18


def test_masks_of_validation_are_the_same_in_every_epoch_and_run(store):
    def masks(split, epoch, **keys):
        dataset = load(hidden(store, mask_ratio=0.5, **keys), split)
        dataset.set_epoch(epoch)
        return batch(dataset)["net_input"]["mask"]

    first = masks("valid", 1)
    assert torch.equal(first, masks("valid", 7, seed=5))
    assert not torch.equal(masks("train", 1), masks("train", 2))
    test = masks("test", 1)  # begins with a recording that is in valid too, as its 13th
    assert torch.equal(test[0], first[12 * 2])


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({}, lambda values: np.ones(12)),
        ({"standardize": "record"}, lambda values: values.std(1)),
        ({"standardize": "window"}, lambda values: np.full(12, values[:, :100].std())),
        ({"standardize": "window_lead"}, lambda values: values[:, :100].std(1)),
    ],
)
def test_the_scale_turns_errors_into_millivolts(recordings, keys, scale):
    sample = batch(load(hidden(recordings, **keys), "valid"), [0])
    values = millivolts(0, 0, 250).astype(np.float64)
    np.testing.assert_allclose(sample["scale_mv"][0], scale(values), rtol=1e-4)
    assert sample["scale_mv"].dtype == torch.float32


def test_the_scale_of_fixed_statistics_is_theirs(recordings, tmp_path):
    for name in ("mean", "std"):
        (tmp_path / name).write_text("".join(f"{k + 1}\n" for k in range(12)))
    keys = {
        "normalize": True,
        "mean_path": str(tmp_path / "mean"),
        "std_path": str(tmp_path / "std"),
    }
    sample = batch(load(hidden(recordings, leads_to_load=["II", "V6"], **keys)))
    assert sample["scale_mv"].tolist() == [[2, 12]] * 7


def test_the_scale_of_segments_that_were_standardised_before_is_not_known(tmp_path):
    write_mat(tmp_path / "a.mat", 0, 0, 100, idx=0, mean=np.zeros((12, 1)), std=np.ones((12, 1)))
    write_manifest(tmp_path / "train.tsv", ".", [("a.mat", 100)])
    assert batch(load(hidden(tmp_path)))["scale_mv"].isnan().all()


def test_perturbations_that_keep_the_leads_are_part_of_what_is_rebuilt(recordings):
    noisy = source_of(batch(load(hidden(recordings, perturbation_mode=["emg_noise"]))))
    assert not np.array_equal(noisy, source_of(batch(load(hidden(recordings)))))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mask_ratio": 0.0}, "task.mask_ratio must be above 0 .* and below 1 .*, got 0$"),
        ({"mask_ratio": 1.0}, "task.mask_ratio must be above 0 .* and below 1 .*, got 1$"),
        ({"mask_block": 0}, "task.mask_block must be at least 1 sample, got 0"),
        ({"segment_s": None}, "task.views=masked needs windows of one length; .*task.segment_s"),
        ({"enable_padding": False}, "views=masked needs whole windows, but task.enable_padding"),
        ({"max_sample_size": 50}, "needs whole windows.* task.max_sample_size crop them"),
        ({"mask_mode": "lead", "leads_to_load": ["II"]}, "mask_mode=lead hides whole leads.* gives 1"),
        (MASKS, "none may silence it.*random_leads_masking.*task.mask_mode=lead"),
        ({"perturbation_mode": ["3kg"]}, "none may silence it.*3kg"),
        ({"leads_to_load": "P-3"}, "none may be silent.*task.enable_padding_leads"),
        ({"mask_block": 101, "sample_rate": 100.0},
         r"task.mask_block=101 .* longer than a window of task.segment_s=1 s at 100 Hz \(100 sam"),
    ],
)  # fmt: skip
def test_masks_that_cannot_work_are_refused_before_a_run(recordings, keys, message):
    with pytest.raises(ValueError, match=message):
        hidden(recordings, **keys)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_blocks_longer_than_a_window_or_a_recording_are_refused_by_name(tmp_path, split):
    folder = write_folder(tmp_path / "data", [100, 9, 50])
    with pytest.raises(ValueError, match=r"mask_block=101 .*of task.segment_s=1 s at 100 Hz"):
        load(hidden(folder, mask_block=101), split)
    with pytest.raises(ValueError, match=r"^r1 has a window of 9 samples, shorter than one block"):
        load(hidden(folder), split)
    assert len(load(hidden(folder, mask_block=9), split)) == 3


def test_recordings_shorter_than_a_block_can_be_left_out_of_training(tmp_path):
    folder = write_folder(tmp_path / "data", [100, 9, 50])
    assert batch(load(hidden(folder, min_sample_size=10)))["record"].tolist() == [0, 2]


@pytest.mark.parametrize("mode", ["mask_mode", "mask_sampling"])
def test_an_unknown_word_is_refused_with_its_key(recordings, mode):
    with pytest.raises(ValueError, match=mode):
        hidden(recordings, **{mode: "sideways"})


@pytest.mark.parametrize("views", ["cmsc", "cmsmlc"])
def test_random_windows_have_no_neighbours_to_be_paired_with(recordings, views):
    with pytest.raises(ValueError, match=f"task.views={views} pairs adjacent.*windowing=random"):
        cut(recordings, views=views, windowing="random")


def test_the_share_is_that_of_the_method_unless_it_is_said(recordings):
    assert hidden(recordings).block_mask.ratio == 0.25
    assert hidden(recordings, mask_ratio=0.4).block_mask.ratio == 0.4
    assert cut(recordings, criterion_name="3kg").rotation.mask_ratio == 0.5
    assert cut(recordings, criterion_name="3kg", mask_ratio=0.4).rotation.mask_ratio == 0.4


def test_an_exam_of_code_lies_where_the_published_example_has_it(shared, tmp_path):
    """Gedon et al. 2021, slides: 2,934 samples from sample 581 on, in which 46 blocks lie."""
    build_manifest("code-15", shared / "data/code-15", tmp_path / "out")
    keys = {"segment_s": 10.24, "windowing": "balanced", "pad_segments": "centre"}
    dataset = load(hidden(tmp_path / "out", mask_block=64, **keys))
    (short, *_), (whole, *_) = (
        np.flatnonzero(dataset.dataset.windows.length == n) for n in (2934, 4096)
    )
    net_input = batch(dataset, [short])["net_input"]
    valid = (~net_input["padding_mask"][0]).nonzero().flatten()
    assert (int(valid[0]), int(valid[-1])) == (581, 3514)
    hidden_blocks = net_input["mask"][0, 0].nonzero().flatten()
    assert len(hidden_blocks) == round(46 / 4)
    assert 581 // 64 <= int(hidden_blocks.min()) <= int(hidden_blocks.max()) <= 3514 // 64
    assert "padding_mask" not in batch(dataset, [whole])["net_input"]
