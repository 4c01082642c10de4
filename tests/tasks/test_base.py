"""The keys that every task has, on recordings whose every sample is known."""

import math

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq_cli import train as fairseq_train
from omegaconf import OmegaConf

from fairseq_ecg.contract import name_prints
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.data.sources import open_source
from fairseq_ecg.data.store import Store
from fairseq_ecg.tasks._base import gather_scores
from fairseq_ecg.tasks.ecg_pretraining import EcgPretrainingConfig, EcgPretrainingTask
from fairseq_ecg.transforms.filter import bandpass, clean
from tests.builds import write_record
from tests.recordings import (
    adu,
    batch,
    load,
    make_task,
    millivolts,
    write_folder,
    write_mat,
    write_tone_store,
)
from tests.runs import PRETRAINING, train

ALL = list(range(12))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("base") / "data", [250, 60, 100])


def pretraining(data, **keys):
    return make_task("ecg_pretraining", data, **keys)


def source_of(data, split="valid", indices=None, **keys):
    return batch(load(pretraining(data, **keys), split), indices)["net_input"]["source"].numpy()


# --- leads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelling", "rows"),
    [
        (None, ALL),
        ("[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]", ALL),
        ("[0, 1]", [0, 1]),
        ([0, 1], [0, 1]),
        (["II", "V6"], [1, 11]),
        ("['i', 'avr']", [0, 3]),
        ("V6,I", [11, 0]),
        ([7], [7]),
    ],
)
def test_leads_are_chosen_by_number_or_name_however_they_are_written(data, spelling, rows):
    task = pretraining(data, leads_to_load=spelling)
    read = batch(load(task, "valid"), [0])["net_input"]["source"].numpy()
    np.testing.assert_allclose(read[0], millivolts(0, 0, 250, rows), atol=1e-6)
    assert task.state.input_contract["leads"] == [STANDARD_LEADS[row] for row in rows]


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("[0, 12]", "lead number must lie in 0..11, but is 12"),
        ("['V7']", "unknown lead 'V7'.*V1"),
        ("__import__('os').getcwd()", "unknown lead|must be a list"),
        ("[__import__('os')]", "must be a list such as"),
        ([], "choice of leads is empty"),
        ([1, "II"], "repeats II"),
    ],
)
def test_a_choice_of_leads_that_is_none_is_refused(data, spelling, message):
    with pytest.raises(ValueError, match=message):
        pretraining(data, leads_to_load=spelling)


def test_padded_leads_stay_as_silent_rows(data):
    task = pretraining(data, leads_to_load="[1, 6]", enable_padding_leads=True)
    read = batch(load(task, "valid"), [0])["net_input"]["source"].numpy()[0]
    assert read.shape == (12, 250)
    np.testing.assert_allclose(read[[1, 6]], millivolts(0, 0, 250, [1, 6]), atol=1e-6)
    assert np.flatnonzero(read.any(axis=1)).tolist() == [1, 6]
    assert task.state.input_contract["leads"] == list(STANDARD_LEADS)


def test_a_store_with_fewer_leads_gives_twelve_rows_with_silence_for_the_rest(tmp_path):
    from fairseq_ecg.corpora._build import build_manifest

    write_record(tmp_path / "ecg", "a", adu(1, 200), 100)
    build_manifest("wfdb", tmp_path / "ecg", tmp_path / "out", rate_hz=100, leads=("V5", "II"))
    (split,) = [
        s for s in ("train", "valid", "test") if len(read_manifest(tmp_path / f"out/{s}.tsv"))
    ]
    whole, piece = (source_of(tmp_path / "out", split, [0], segment_s=s) for s in (None, 0.5))
    rows = [10, 1]
    np.testing.assert_allclose(whole[0][rows], millivolts(1, 0, 200, rows), atol=6e-4)
    assert whole[0].any(axis=1).sum() == 2
    np.testing.assert_array_equal(piece[0], whole[0][:, :50])


# --- length -------------------------------------------------------------------------------------


def test_recordings_are_cut_into_windows_and_short_ones_kept(data):
    dataset = load(pretraining(data, segment_s=1.0), "valid")
    assert dataset.sizes.tolist() == [100, 100, 60, 100]
    sample = batch(dataset)
    assert sample["record"].tolist() == [0, 0, 1, 2]
    source = sample["net_input"]["source"].numpy()
    np.testing.assert_allclose(source[1], millivolts(0, 100, 200), atol=1e-6)
    np.testing.assert_allclose(source[2, :, :60], millivolts(1, 0, 60), atol=1e-6)
    assert sample["net_input"]["padding_mask"].sum(dim=1).tolist() == [0, 0, 40, 0]


def test_the_window_is_counted_in_samples_of_the_recordings_own_rate(data):
    assert load(pretraining(data, segment_s=0.29), "valid").sizes.tolist() == [29] * (8 + 2 + 3)


@pytest.mark.parametrize(
    ("keys", "split", "pieces"),
    [
        ({"windowing": "balanced"}, "train", [(0, 25, 100), (0, 125, 100), (1, 0, 60), (2, 0, 100)]),
        ({"windowing": "balanced", "segment_s": 0.9}, "valid",
         [(0, 0, 90), (0, 90, 90), (0, 180, 70), (1, 0, 60), (2, 5, 90)]),
        ({"windowing": "random"}, "valid", [(0, 75, 100), (1, 0, 60), (2, 0, 100)]),
        ({"windowing": "random", "eval_windows": 3}, "valid",
         [(0, 0, 100), (0, 75, 100), (0, 150, 100), (1, 0, 60), (2, 0, 100)]),
        ({"windowing": "last"}, "train", [(0, 150, 100), (1, 0, 60), (2, 0, 100)]),
        ({"windowing": "last", "segment_s": 0.9}, "valid", [(0, 160, 90), (1, 0, 60), (2, 10, 90)]),
    ],
)  # fmt: skip
def test_windows_lie_where_windowing_says(data, keys, split, pieces):
    dataset = load(pretraining(data, **{"segment_s": 1.0, **keys}), split)
    windows = dataset.windows
    found = zip(*(a.tolist() for a in (windows.row, windows.start, windows.length)), strict=True)
    assert list(found) == pieces
    for index, (record, start, length) in enumerate(pieces):
        expected = millivolts(record, start, start + length)
        np.testing.assert_allclose(dataset[index]["source"], expected, atol=1e-6)


def test_random_windows_are_drawn_in_training_and_fixed_otherwise(data):
    task = pretraining(data, segment_s=1.0, windowing="random")
    drawn = set()
    for split, distinct in (("train", True), ("valid", False)):
        dataset = load(task, split)
        for epoch in range(1, 10):
            dataset.set_epoch(epoch)
            drawn.add(dataset[0]["source"].tobytes())
        assert (len(drawn) > 5) == distinct
        drawn.clear()


@pytest.mark.parametrize(("where", "left"), [("end", 0), ("centre", 20), ("start", 40)])
def test_segments_are_padded_to_the_length_of_a_window(data, where, left):
    dataset = load(pretraining(data, segment_s=1.0, pad_segments=where), "valid")
    net_input = batch(dataset, [2])["net_input"]
    assert net_input["source"].shape == (1, 12, 100)
    padded = np.ones(100, dtype=bool)
    padded[left : left + 60] = False
    assert net_input["padding_mask"][0].tolist() == padded.tolist()
    found = net_input["source"][0, :, ~padded].numpy()
    np.testing.assert_allclose(found, millivolts(1, 0, 60), atol=1e-6)
    assert "padding_mask" not in batch(dataset, [0, 1])["net_input"]


def test_ten_seconds_at_400_hz_are_centred_in_4096_samples(tmp_path):
    from fairseq_ecg.corpora._build import build_manifest

    write_record(tmp_path / "ecg", "a", adu(1, 5000), 500)
    build_manifest("wfdb", tmp_path / "ecg", tmp_path / "out", rate_hz=400)
    (split,) = [
        s for s in ("train", "valid", "test") if len(read_manifest(tmp_path / f"out/{s}.tsv"))
    ]
    keys = {"segment_s": 10.24, "windowing": "balanced", "pad_segments": "centre"}
    net_input = batch(load(pretraining(tmp_path / "out", **keys), split))["net_input"]
    assert net_input["source"].shape == (1, 12, 4096)
    assert (~net_input["padding_mask"][0]).nonzero().flatten()[[0, -1]].tolist() == [48, 4047]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"windowing": "random"}, "task.windowing=random needs .* give task.segment_s in seconds"),
        ({"windowing": "balanced"}, "task.windowing=balanced needs the length of a window"),
        ({"windowing": "last"}, "task.windowing=last needs the length of a window"),
        ({"pad_segments": "centre"}, "task.pad_segments=centre needs .* or task.pad_segments=none"),
        ({"eval_windows": 0}, "task.eval_windows must be at least 1, got 0"),
        ({"eval_windows": 3}, "eval_windows=3 is for task.windowing=random, but that is consecu"),
    ],
)
def test_keys_about_windows_that_do_not_fit_are_refused(data, keys, message):
    with pytest.raises(ValueError, match=message):
        pretraining(data, **keys)


def test_without_padding_a_batch_is_cropped_to_its_shortest_item(data):
    sample = batch(load(pretraining(data, enable_padding=False), "valid"))
    assert sample["net_input"]["source"].shape == (3, 12, 60)
    assert "padding_mask" not in sample["net_input"]
    np.testing.assert_allclose(
        sample["net_input"]["source"][0].numpy(), millivolts(0, 95, 155), atol=1e-6
    )


def test_longer_items_are_cropped_to_the_largest_sample_size(data):
    dataset = load(pretraining(data, max_sample_size=80), "valid")
    assert dataset.sizes.tolist() == [80, 60, 80]
    source = batch(dataset)["net_input"]["source"].numpy()
    assert source.shape == (3, 12, 80)
    np.testing.assert_allclose(source[2], millivolts(2, 10, 90), atol=1e-6)


def test_short_recordings_are_left_out_of_training_only(data):
    task = pretraining(data, min_sample_size=100)
    assert batch(load(task, "train"))["record"].tolist() == [0, 2]
    assert batch(load(task, "valid"))["record"].tolist() == [0, 1, 2]


# --- rate, scale, filter ------------------------------------------------------------------------


def test_recordings_of_another_rate_than_asked_for_are_refused_with_the_way_out(data):
    task = pretraining(data, sample_rate=500)
    with pytest.raises(ValueError, match=r"sample_rate=500, but .*wfdb have 100 Hz.*--rate 500"):
        task.load_dataset("train")


@pytest.mark.parametrize("rate", [None, 100, 0, -1])
def test_the_right_rate_and_no_rate_are_accepted(data, rate):
    """fairseq-signals compares the rate only if it is positive."""
    task = pretraining(data, sample_rate=rate)
    load(task)
    assert task.state.input_contract["rate_hz"] == 100


def test_filtered_signals_are_those_of_the_filter(data):
    plain, filtered = (source_of(data, indices=[0], filter=f)[0] for f in (False, True))
    np.testing.assert_allclose(filtered, clean(plain, 100.0), atol=1e-6)
    assert abs(filtered.mean()) < abs(plain.mean()) / 10


@pytest.fixture
def statistics(tmp_path):
    mean, std = np.linspace(-1, 1, 12), np.linspace(0.5, 2, 12)
    np.savetxt(tmp_path / "mean.txt", mean)
    np.savetxt(tmp_path / "std.txt", std)
    return mean, std, {
        "normalize": True,
        "mean_path": str(tmp_path / "mean.txt"),
        "std_path": str(tmp_path / "std.txt"),
    }  # fmt: skip


@pytest.mark.parametrize("leads", [None, "[5, 2]"])
def test_normalized_signals_use_the_statistics_of_their_own_lead(data, statistics, leads):
    mean, std, keys = statistics
    rows = ALL if leads is None else [5, 2]
    task = pretraining(data, leads_to_load=leads, **keys)
    source = batch(load(task, "valid"), [0])["net_input"]["source"].numpy()[0]
    expected = (millivolts(0, 0, 250, rows) - mean[rows, None]) / std[rows, None]
    np.testing.assert_allclose(source, expected, rtol=1e-5, atol=1e-6)
    assert source.dtype == np.float32
    assert task.state.input_contract["unit"] == "standard deviations"
    assert task.state.input_contract["normalize"] is True


def test_normalization_without_statistics_is_refused(data, statistics):
    _, _, keys = statistics
    for lost in ("mean_path", "std_path"):
        with pytest.raises(ValueError, match="normalize=true needs task.mean_path and task.std_p"):
            pretraining(data, **{**keys, lost: None})


CONSTANTS = {"normalize": True, "mean_mv": 0.5, "std_mv": 0.25}


def test_constants_scale_all_leads_and_zeros_in_front_stay_zero(data):
    keys = {"segment_s": 1.0, "windowing": "last", "pad_segments": "start", **CONSTANTS}
    task = pretraining(data, leads_to_load="I", **keys)
    source = batch(load(task, "valid"), [0, 1])["net_input"]["source"].numpy()
    assert source.shape == (2, 1, 100)
    np.testing.assert_allclose(source[0], (millivolts(0, 150, 250, [0]) - 0.5) / 0.25, rtol=1e-5)
    assert (source[1, :, :40] == 0).all()
    np.testing.assert_allclose(source[1, :, 40:], (millivolts(1, 0, 60, [0]) - 0.5) / 0.25, 1e-5)
    contract = task.state.input_contract
    assert (contract["unit"], contract["normalize"]) == ("standard deviations", True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mean_mv": None}, "or task.mean_mv and task.std_mv$"),
        ({"std_mv": 0.0}, "task.mean_mv, task.std_mv: mean and deviation must be finite"),
        ({"mean_path": "mean.txt"}, "task.mean_mv and task.std_mv one for all; leave one pair out"),
    ],
)
def test_constants_that_do_not_fit_are_refused(data, keys, message):
    with pytest.raises(ValueError, match=message):
        pretraining(data, **{**CONSTANTS, **keys})


@pytest.mark.parametrize(
    ("neutral", "refused", "way_out"),
    [
        ({"leads_bucket": None}, {"leads_bucket": "[0, 1]"}, "task.leads_to_load"),
        ({"num_batch_buckets": 0}, {"num_batch_buckets": 5}, "order of their length"),
        (
            {"precompute_mask_indices": False, "inferred_w2v_config": {"mask_prob": 0.65}},
            {"precompute_mask_indices": True},
            "the model draws its masks itself",
        ),
    ],
)
def test_keys_of_old_presets_may_stand_there_as_long_as_they_ask_for_nothing(
    data, neutral, refused, way_out
):
    pretraining(data, bucket_selection="uniform", **neutral)
    with pytest.raises(
        ValueError, match=f"task.{next(iter(refused))}=.* is not supported.*{way_out}"
    ):
        pretraining(data, **refused)


# --- perturbations ------------------------------------------------------------------------------


def silent_share(data, split="train", **keys):
    task = pretraining(data, segment_s=0.1, perturbation_mode=["random_leads_masking"], **keys)
    source = batch(load(task, split))["net_input"]["source"].numpy()
    return (~source.any(axis=2)).mean()


def test_in_a_run_the_training_subset_is_the_one_the_run_names(data):
    root = OmegaConf.create(
        {
            "common": {"seed": 1},
            "criterion": {"_name": "ecg_wav2vec2"},
            "dataset": {"train_subset": "valid"},
            "task": OmegaConf.structured(EcgPretrainingConfig(data=str(data))),
        }
    )
    task = EcgPretrainingTask(root.task)
    assert load(task, "valid").shuffle
    assert not load(task, "train").shuffle


def test_training_segments_are_perturbed_and_others_never(data):
    assert 0.4 < silent_share(data) < 0.6
    assert silent_share(data, mask_leads_prob=1.0) == 1.0
    assert silent_share(data, split="valid", mask_leads_prob=1.0) == 0.0


@pytest.mark.parametrize(
    ("p", "low", "high"), [(0.0, 0, 0), ([0.0], 0, 0), ([0.5], 0.2, 0.8), (1, 1, 1)]
)
def test_p_is_the_probability_of_a_perturbation(data, p, low, high):
    assert low <= silent_share(data, p=p, mask_leads_prob=1.0) <= high


def test_each_perturbation_has_its_own_p(data):
    both = ["random_leads_masking"] * 2
    first, second, none = (
        pretraining(data, perturbation_mode=both, p=p, mask_leads_prob=1.0).perturbations
        for p in ([1.0, 0.0], [0.0, 1.0], 0.0)
    )
    assert [[t.p for t in ts] for ts in (first, second, none)] == [[1, 0], [0, 1], [0, 0]]


def test_conditional_masking_takes_its_counts_from_the_configuration(data):
    task = pretraining(
        data,
        perturbation_mode="random_leads_masking",
        mask_leads_selection="conditional",
        mask_leads_condition=[1, 2],
    )
    silent = ~batch(load(task))["net_input"]["source"].numpy()[:, :, :60].any(axis=2)
    assert silent[:, :6].sum(axis=1).tolist() == [1, 1, 1]
    assert silent[:, 6:].sum(axis=1).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"p": [1.0, 0.5]}, r"task.p has 2 values for 1 perturbations: \['random_leads_masking'\]"),
        ({"p": [1.5]}, r"task.p must lie in \[0, 1\], but random_leads_masking has 1.5"),
        ({"perturbation_mode": ["random_lead_masking"]}, "no 'random_lead_masking'; near: rand"),
        ({"mask_leads_selection": "some"}, "mask_leads_selection='some' must be random or cond"),
        ({"mask_leads_prob": 1.5}, r"mask_leads_prob must lie in \[0, 1\], got 1.5"),
        (
            {"mask_leads_selection": "conditional", "mask_leads_condition": [4]},
            r"mask_leads_condition must be two whole numbers.*got \[4\]",
        ),
    ],
)
def test_a_perturbation_that_cannot_work_is_refused(data, keys, message):
    with pytest.raises(ValueError, match=message):
        pretraining(data, **{"perturbation_mode": ["random_leads_masking"], **keys})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"perturbation_mode": ["powerline_noise"]}, "task.powerline_hz must be below 50 Hz, half"),
        (
            {"perturbation_mode": ["baseline_wander"], "max_freq": 60.0},
            "task.max_freq must be below 50 Hz.*got 60 Hz; give lower",
        ),
        (
            {"perturbation_mode": ["3kg"], "leads_to_load": "I,II"},
            "3kg needs the twelve standard leads.*I, II; leave task.leads_to_load null",
        ),
    ],
)
def test_a_perturbation_that_these_recordings_do_not_allow_is_refused_before_training(
    data, keys, message
):
    task = pretraining(data, **keys)
    load(task, "valid")
    with pytest.raises(ValueError, match=message):
        load(task, "train")


def test_keys_of_the_configuration_reach_the_perturbations(data):
    keys = {"min_amplitude": 0.5, "max_amplitude": 0.5, "powerline_hz": [25], "dependency": False}
    plain, hum = (
        batch(load(pretraining(data, perturbation_mode=mode, **keys), "train"), [0])
        for mode in (None, "powerline_noise")
    )
    added = (hum["net_input"]["source"] - plain["net_input"]["source"])[0].numpy()[:, :200]
    spectrum = np.abs(np.fft.rfft(added, axis=1))
    assert (np.argmax(spectrum, axis=1) == 50).all()  # 25 Hz in 2 s
    assert np.square(added).mean() == pytest.approx(0.5**2 / 2, rel=0.05)


# --- order --------------------------------------------------------------------------------------


def test_batches_are_cut_anew_each_epoch_only_if_asked(data):
    orders = {}
    for rebuild in (False, True):
        dataset = load(pretraining(data, segment_s=0.1, rebuild_batches=rebuild))
        for epoch in (1, 2):
            dataset.set_epoch(epoch)
            orders[rebuild, epoch] = dataset.ordered_indices().tolist()
    assert orders[False, 1] == orders[False, 2]
    assert orders[True, 1] != orders[True, 2]
    assert sorted(orders[True, 2]) == list(range(len(orders[True, 2])))


def test_the_seed_decides_order_and_perturbations(data):
    keys = {"segment_s": 0.1, "perturbation_mode": ["random_leads_masking"]}

    def drawn(seed):
        dataset = load(pretraining(data, seed=seed, **keys))
        return dataset.ordered_indices().tolist(), batch(dataset)["net_input"]["source"]

    (order, source), (again, same), (other, different) = drawn(1), drawn(1), drawn(2)
    assert order == again
    assert torch.equal(source, same)
    assert order != other
    assert not torch.equal(source, different)


# --- manifests ----------------------------------------------------------------------------------


def test_a_manifest_that_does_not_exist_is_named(data):
    with pytest.raises(ValueError, match=r"tset\.tsv: no such file"):
        pretraining(data).load_dataset("tset")


def test_a_manifest_whose_recordings_were_moved_says_which_line_to_edit(tmp_path):
    write_manifest(tmp_path / "train.tsv", "gone", [("a", 10)])
    with pytest.raises(ValueError, match=r"root .*gone does not exist; edit its first line"):
        pretraining(tmp_path).load_dataset("train")


def test_a_manifest_without_recordings_is_an_error_that_says_so(tmp_path):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n")
    with pytest.raises(ValueError, match="lists no recording"):
        pretraining(tmp_path).load_dataset("train")


# --- scores -------------------------------------------------------------------------------------


def test_joined_scores_hold_each_item_once_in_the_order_of_id():
    parts = [
        {"id": np.array([4, 1]), "probability": np.array([[0.4], [0.1]])},
        {"id": np.array([0, 3]), "probability": np.array([[0.0], [0.3]])},
        {"id": np.array([4, 1]), "probability": np.array([[0.4], [0.1]])},  # repeated by the engine
    ]
    joined = gather_scores(parts)
    assert joined["id"].tolist() == [0, 1, 3, 4]
    assert joined["probability"].ravel().tolist() == [0.0, 0.1, 0.3, 0.4]
    assert gather_scores([]) is None


def test_a_validation_forgets_the_scores_of_an_interrupted_one(data):
    task = pretraining(data)
    task._scores.append({"id": np.array([7])})
    task.begin_valid_epoch(1, None)
    seen = []
    task.epoch_metrics = lambda scores: seen.append(scores) or {}
    task.post_validate(None, {}, None)
    task._scores.append({"id": np.array([3])})
    task.post_validate(None, {}, None)
    task.post_validate(None, {}, None)
    assert [s["id"].tolist() for s in seen] == [[3]]


@pytest.mark.parametrize(("best", "value", "expected"), [(0.7, 0.6, 0.6), (0.5, 0.6, 0.5)])
def test_the_best_score_in_the_log_is_that_of_the_exact_metric(
    data, monkeypatch, best, value, expected
):
    task = pretraining(data)
    task._scores.append({"id": np.array([0])})
    task.epoch_metrics = lambda scores: {"error": value}
    monkeypatch.setattr(checkpoint_utils.save_checkpoint, "best", best, raising=False)
    stats = {"error": math.nan, "best_error": math.nan}
    task.post_validate(None, stats, None)
    assert stats == {"error": value, "best_error": expected}


# --- checkpoints --------------------------------------------------------------------------------


def test_the_contract_is_saved_also_by_a_task_that_has_loaded_nothing(data):
    task = pretraining(data, sample_rate=100, segment_s=0.5)
    task.get_checkpoint_dict()
    contract = task.state_dict()["input_contract"]
    assert (contract["rate_hz"], contract["segment_s"]) == (100, 0.5)
    assert contract["trained_on"] == {}


def test_the_early_stopping_counter_travels_through_the_task_state(data, monkeypatch):
    counter = fairseq_train.should_stop_early
    monkeypatch.setattr(counter, "best", 0.25, raising=False)
    monkeypatch.setattr(counter, "num_runs", 3, raising=False)
    saved = pretraining(data).get_checkpoint_dict  # a new task forgets the counter
    assert not hasattr(counter, "best")
    counter.best, counter.num_runs = 0.25, 3
    state = saved()["EcgPretrainingTask"]
    counter.best, counter.num_runs = 9.0, 0
    pretraining(data).set_checkpoint_dict(state)
    assert (counter.best, counter.num_runs) == (0.25, 3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


def test_a_saved_checkpoint_says_what_the_network_expects_and_what_it_was_trained_on(
    tmp_path, store
):
    run = train(
        tmp_path,
        [
            *PRETRAINING,
            f"task.data={store}",
            "task.leads_to_load=[I,V6]",
            "task.enable_padding_leads=true",
            "task.filter=true",
            "optimization.max_update=1",
            "dataset.disable_validation=true",
        ],
    )
    raw = torch.load(run.checkpoints / "checkpoint_last.pt", weights_only=True)
    contract = raw["task_state"]["input_contract"]
    trained_on = contract.pop("trained_on")
    assert contract == {
        "rate_hz": 100.0,
        "leads": list(STANDARD_LEADS),
        "present_leads": ["I", "V6"],
        "unit": "mV",
        "normalize": False,
        "filter": True,
        "highpass_hz": 0.0,
        "lowpass_hz": 0.0,
        "segment_s": 1.0,
        "standardize": "none",
        "labels": None,
        "source_format": "fairseq_ecg",
    }
    assert trained_on["corpus"] == "tones"
    hashes = sorted(Store(store / "store").hashes[:18].tolist())
    assert trained_on["records"].numpy().view(np.uint64).tolist() != []
    assert sorted(trained_on["records"].numpy().view(np.uint64).tolist()) == hashes
    names = trained_on["names"].numpy().view(np.uint64)
    assert set(names.tolist()) == set(name_prints(f"r{i:03d}" for i in range(18)).tolist())


def test_a_store_and_the_folder_it_was_built_from_give_the_same_samples(store):
    text = (store / "test.tsv").read_text()
    (store / "folder.tsv").write_text(text.replace("store\n", "wfdb\n", 1))
    stored, files = (open_source(read_manifest(store / f"{s}.tsv")) for s in ("test", "folder"))
    assert stored.names == files.names
    for row in range(len(stored.names)):
        difference = np.abs(stored.read(row, 20, 170) - files.read(row, 20, 170)).max()
        assert difference <= 0.0005
    assert len(set(stored.fingerprints().tolist())) == 7
    assert len(files.fingerprints()) == 0


# --- the unit of what the network sees ------------------------------------------------------------


def test_records_are_standardised_whole_before_they_are_cut(tmp_path):
    folder = write_folder(tmp_path, [250, 130])
    task = make_task("ecg_pretraining", folder, standardize="record", segment_s=1.0)
    dataset = load(task)
    assert task.state.input_contract["unit"] == "standard deviations"
    whole = millivolts(0, 0, 250).astype(np.float64)
    centred = whole - whole.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True))
    found = dataset[1]["source"]
    np.testing.assert_allclose(found, expected[:, 100:200], atol=1e-5)


def test_the_unit_is_that_of_the_recordings_unless_they_are_scaled(tmp_path):
    folder = write_folder(tmp_path, [100])
    task = make_task("ecg_pretraining", folder)
    load(task)
    assert task.state.input_contract["unit"] == "mV"
    statistics = {"mean": np.zeros((12, 1)), "std": np.ones((12, 1))}
    write_mat(tmp_path / "a.mat", 0, 0, 100, idx=0, **statistics)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.mat\t100\n")
    task = make_task("ecg_pretraining", folder)
    load(task)
    assert task.state.input_contract["unit"] == "standard deviations"


def test_noises_in_millivolts_on_standardised_leads_are_remarked_upon_once(tmp_path, caplog):
    folder = write_folder(tmp_path, [100])
    keys = {"perturbation_mode": ["emg_noise", "baseline_shift", "random_leads_masking"]}
    load(make_task("ecg_pretraining", folder, **keys))
    load(make_task("ecg_pretraining", folder, standardize="record"))
    masked = {"perturbation_mode": ["random_leads_masking"]}
    load(make_task("ecg_pretraining", folder, standardize="record", **masked))
    assert "meant in mV" not in caplog.text
    task = make_task("ecg_pretraining", folder, standardize="record", **keys)
    for _ in range(2):
        load(task)
        load(task, "valid")
    message = "task.max_amplitude=0.1, task.min_amplitude=0: meant in mV, but the recordings are in standard"
    assert caplog.text.count(message) == 1


@pytest.mark.parametrize("standardize", ["record", "person", "window", "window_lead"])
def test_what_is_standardised_is_not_standardised_again(tmp_path, standardize):
    statistics = {"mean": np.zeros((12, 1)), "std": np.ones((12, 1))}
    write_mat(tmp_path / "a.mat", 0, 0, 100, idx=0, **statistics)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.mat\t100\n")
    task = make_task("ecg_pretraining", tmp_path, standardize=standardize)
    with pytest.raises(ValueError, match=f"standardize={standardize} needs.*standardize=none"):
        load(task)


@pytest.mark.parametrize("standardize", ["record", "person", "window", "window_lead"])
def test_two_ways_of_scaling_exclude_each_other(tmp_path, standardize):
    with pytest.raises(ValueError, match=rf"task\.normalize=true .*\.standardize={standardize} "):
        make_task("ecg_pretraining", tmp_path, standardize=standardize, normalize=True)


@pytest.mark.parametrize("standardize", ["window", "window_lead"])
def test_windows_are_scaled_by_their_own_statistics_before_they_are_padded(data, standardize):
    keys = {"segment_s": 1.0, "pad_segments": "end", "standardize": standardize}
    task = pretraining(data, leads_to_load=["I", "V6"], **keys)
    found = batch(load(task, "valid"), [2])["net_input"]["source"].numpy()[0]
    values = millivolts(1, 0, 60, [0, 11]).astype(np.float64)
    axis = 1 if standardize == "window_lead" else None
    expected = values - values.mean(axis=axis, keepdims=True)
    expected /= values.std(axis=axis, keepdims=True)
    np.testing.assert_allclose(found[:, :60], expected, atol=1e-4)
    assert not found[:, 60:].any()
    contract = task.state.input_contract
    assert contract["unit"] == "standard deviations"
    assert contract["standardize"] == standardize


# --- bands of frequencies -------------------------------------------------------------------------


@pytest.mark.parametrize("edges", [(0.67, 40.0), (0.67, None), (None, 20.0)])
def test_frequencies_are_removed_from_each_window(data, edges):
    low, high = edges
    task = pretraining(data, segment_s=1.0, highpass_hz=low, lowpass_hz=high)
    found = load(task, "valid")[1]["source"]
    expected = bandpass(millivolts(0, 100, 200), 100.0, low, high)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    contract = task.state.input_contract
    assert (contract["highpass_hz"], contract["lowpass_hz"]) == (low or 0.0, high or 0.0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"highpass_hz": 0.0}, "task.highpass_hz must be above 0 Hz, got 0; null"),
        ({"lowpass_hz": -1.0}, "task.lowpass_hz must be above 0 Hz, got -1"),
        ({"highpass_hz": 40.0, "lowpass_hz": 0.67}, "highpass_hz=40 must be below .*hz=0.67"),
    ],
)
def test_frequencies_that_leave_nothing_are_refused(data, keys, message):
    with pytest.raises(ValueError, match=message):
        pretraining(data, **keys)


def test_frequencies_that_the_recordings_do_not_have_are_refused(data):
    task = pretraining(data, lowpass_hz=50.0)
    with pytest.raises(ValueError, match=r"lowpass_hz=50 must be below half the rate.*\(100 Hz\)"):
        load(task)
