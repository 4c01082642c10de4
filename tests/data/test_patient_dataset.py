"""The serving order: who is served with whom, how often, and what it costs at full size."""

import tracemalloc

import numpy as np
import pytest
import torch
from fairseq.data.iterators import EpochBatchIterator

from fairseq_ecg.data.frames import FrameDataset, FrameLabels
from fairseq_ecg.data.leads import choose_leads
from fairseq_ecg.data.patient_dataset import ServingOrder
from fairseq_ecg.transforms.pipeline import Pipeline
from tests.patients import CountingPatients, equal, loaded

ONE_CLASS = FrameLabels(("all",), lambda marks, start, stop, rate_hz: 0)


def add_noise(signal, rng):
    signal.values_mv[:] += rng.random(signal.values_mv.shape, dtype=np.float32)
    return signal


def make(segments, n_samples=1000, labels=ONE_CLASS, transforms=(), leads="I", **options):
    options = {"frame_size": 64, "draws": 5, "together": 3, "training": True, **options}
    source = CountingPatients(segments, n_samples)
    return FrameDataset(source, choose_leads(leads), Pipeline(transforms), labels, **options)


def served(order, epoch):
    return [order.place(position, epoch) for position in range(len(order))]


# --- the order --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_patients", [1, 3, 7, 16, 33])
@pytest.mark.parametrize("together", [1, 4, 16])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_draw_of_every_patient_is_served_once_in_an_epoch(n_patients, together, shuffle):
    order = ServingOrder(n_patients, 5, together, seed=1, shuffle=shuffle)
    for epoch in (1, 2):
        expected = [(patient, draw) for patient in range(n_patients) for draw in range(5)]
        assert sorted(served(order, epoch)) == expected
        assert (served(order, epoch) == expected) is not shuffle or n_patients == 1


@pytest.mark.parametrize("together", [1, 4, 16])
def test_a_window_holds_no_more_patients_than_it_may_and_no_patient_is_in_two(together):
    order = ServingOrder(21, 6, together, seed=3, shuffle=True)
    places = served(order, epoch=2)
    windows = [places[i : i + together * 6] for i in range(0, len(places), together * 6)]
    patients = [{patient for patient, _ in window} for window in windows]
    assert max(map(len, patients)) <= together
    assert sum(map(len, patients)) == 21
    for position in range(len(order)):
        companions = order.companions(position, epoch=2)
        assert set(companions.tolist()) == patients[position // (together * 6)]


def test_order_and_windows_change_with_the_seed_and_the_epoch_alone():
    orders = {
        (seed, epoch): served(ServingOrder(20, 4, 4, seed, True), epoch)
        for seed in (1, 2)
        for epoch in (1, 2)
    }
    assert served(ServingOrder(20, 4, 4, 1, True), 1) == orders[1, 1]
    assert len({tuple(order) for order in orders.values()}) == 4
    first = [{patient for patient, _ in order[:16]} for order in orders.values()]
    assert len({frozenset(window) for window in first}) == 4


def test_items_are_mixed_within_a_window():
    places = served(ServingOrder(8, 50, 8, 1, True), 1)
    in_a_batch = [len({patient for patient, _ in places[i : i + 40]}) for i in range(0, 400, 40)]
    assert min(in_a_batch) >= 6


def test_an_item_that_does_not_exist_is_refused():
    order = ServingOrder(2, 3, 2, 1, True)
    for position in (-1, 6):
        with pytest.raises(IndexError, match=f"there are 6 items, but number {position} is"):
            order.place(position, 1)


# --- the data set -----------------------------------------------------------------------------


def test_batches_are_ranges_that_hold_every_item_once_also_the_remainder():
    dataset = make([1] * 7)
    assert len(dataset) == 35
    batches = dataset.batch_by_size(dataset.ordered_indices(), None, 8, 8)
    assert all(isinstance(batch, range) for batch in batches)
    assert [i for batch in batches for i in batch] == list(range(35))
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 3]
    assert [len(b) for b in dataset.batch_by_size(range(10), max_tokens=3 * 64 + 1)] == [3, 3, 3, 1]
    assert dataset.batch_by_size(range(0), max_sentences=4) == []
    with pytest.raises(ValueError, match="max_tokens=63 is less than one item"):
        dataset.batch_by_size(range(10), max_tokens=63)


@pytest.mark.parametrize("training", [False, True])
def test_items_are_the_same_for_any_number_of_workers_and_after_a_resume(training):
    whole = make([2] * 7, transforms=(add_noise,), training=training)
    whole.set_epoch(3)
    expected = loaded(whole, 0, 4)
    assert len(expected) == 9
    for workers in (2, 5):
        dataset = make([2] * 7, transforms=(add_noise,), training=training)
        dataset.set_epoch(3)
        assert equal(loaded(dataset, workers, 4), expected)
        resumed = make([2] * 7, transforms=(add_noise,), training=training)
        resumed.set_epoch(3)
        assert equal(loaded(resumed, workers, 4, start=5), expected[5:])


def test_a_batch_read_at_once_equals_items_read_alone_and_is_not_copied():
    dataset = make([2] * 7, transforms=(add_noise,))
    items = dataset.__getitems__(range(6, 10))
    batch = dataset.collater(items)
    assert equal(batch, dataset.collater([dataset[i] for i in range(6, 10)]))
    assert batch["net_input"]["source"].data_ptr() == items[0]["source"].ctypes.data
    assert dataset.__getitems__([]) == []
    assert dataset.collater([]) == {}


def test_training_draws_anew_each_epoch_and_validation_never():
    dataset, other = make([2] * 4), make([2] * 4, seed=2)
    whole = range(len(dataset))
    first = dataset.collater(dataset.__getitems__(whole))
    assert not equal(first, other.collater(other.__getitems__(whole)))
    dataset.set_epoch(2)
    assert not equal(first, dataset.collater(dataset.__getitems__(whole)))
    valid, elsewhere = make([2] * 4, training=False), make([2] * 4, training=False, seed=7)
    first = valid.collater(valid.__getitems__(whole))
    assert first["patient_id"].tolist() == [p for p in range(4) for _ in range(5)]
    for dataset in (valid, elsewhere):
        dataset.set_epoch(2)
        assert equal(first, dataset.collater(dataset.__getitems__(whole)))


def test_what_is_drawn_of_a_patient_does_not_depend_on_the_others():
    def frames(numbers):
        source = CountingPatients([2] * len(numbers), numbers=numbers)
        dataset = FrameDataset(
            source,
            choose_leads("I"),
            Pipeline(),
            ONE_CLASS,
            **{"frame_size": 64, "draws": 5, "together": 3, "training": True},
        )
        items = dataset.__getitems__(range(len(dataset)))
        starts = [(item["source"][0, 0] % 5000, item["record"] % 2) for item in items]
        numbers = [item["patient_id"] for item in items]
        return {n: {s for s, m in zip(starts, numbers, strict=True) if m == n} for n in numbers}

    few, many = frames([4, 90]), frames([0, 4, 5, 90, 91])
    assert few[4] == many[4]
    assert few[90] == many[90]


def test_short_recordings_are_left_out_and_named_by_number(caplog):
    dataset = make([2, 1, 2], n_samples=[1000, 50, 50, 64, 63])
    assert "3 of 5 recordings are shorter than the 64 samples (0.256 s)" in caplog.text
    assert "and with them 1 of 3 patients" in caplog.text
    assert {item["record"] for item in dataset.__getitems__(range(10))} == {0, 3}
    with pytest.raises(ValueError, match=r"needs 64 samples .* longest recording has 50; give a"):
        make([2], n_samples=50)


def test_the_engines_iterator_gives_each_process_its_share_of_every_window():
    def shard(number, shards):
        dataset = make([1] * 7)
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=4)
        iterator = EpochBatchIterator(
            dataset,
            dataset.collater,
            batches,
            num_shards=shards,
            shard_id=number,
            disable_shuffling=True,
        )
        return list(iterator.next_epoch_itr())

    whole = shard(0, 1)
    first, second = shard(0, 2), shard(1, 2)
    assert len(first) == len(second) == 5
    assert second[-1] == {}  # the engine fills up with nothing
    assert equal(first, whole[::2])
    assert equal(second[:-1], whole[1::2])


def test_nothing_grows_with_the_number_of_items():
    draws = 4096
    source = CountingPatients([2] * 10_450, numbers=range(10_450))
    tracemalloc.start()
    dataset = FrameDataset(
        source,
        choose_leads("I"),
        Pipeline(),
        ONE_CLASS,
        frame_size=64,
        draws=draws,
        together=16,
        training=True,
    )
    assert len(dataset) == 10_450 * draws == 42_803_200
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=512)
    assert len(batches) == 83_600
    for batch in (batches[0], batches[40_000], batches[-1]):
        assert len(dataset.__getitems__(batch)) == 512
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6, peak  # one byte of each item would be more


def test_the_starts_are_spread_evenly_over_recordings_and_places():
    dataset = make([3, 1], n_samples=164, draws=4000)
    items = dataset.__getitems__(range(len(dataset)))
    of_first = [item for item in items if item["patient_id"] == 0]
    assert len(of_first) == 4000
    counts = np.bincount([item["record"] for item in of_first])
    assert abs(counts - 4000 / 3).max() < 4 * np.sqrt(4000 * 2 / 9)
    starts = np.array([item["source"][0, 0] - 5000 * item["record"] for item in items], dtype=int)
    counts = np.bincount(starts, minlength=100)
    assert len(counts) == 100  # the last place, 100, is never drawn
    chi_squared = ((counts - 80) ** 2 / 80).sum()
    assert 60 < chi_squared < 150  # 99 degrees of freedom: 1 in 1000 beyond


def test_leads_are_read_as_they_are_asked_for_and_the_others_are_silent():
    item = make([1], leads="V1,I")[0]
    start = item["source"][1, 0]
    np.testing.assert_array_equal(item["source"][0], start + np.arange(64) + 6 / 16)
    np.testing.assert_array_equal(item["source"][1], start + np.arange(64))
    padded = make([1], leads="P-1")[0]["source"]
    assert padded.shape == (12, 64)
    np.testing.assert_array_equal(padded[0], start + np.arange(64))
    assert not padded[1:].any()
    assert torch.from_numpy(padded).dtype == torch.float32
