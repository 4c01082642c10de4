"""Windows, batches, keyed randomness, collation and wrappers, on recordings that count up."""

import numpy as np
import pytest
import torch
from fairseq.data import FairseqDataset

from fairseq_ecg.data.collate import collate
from fairseq_ecg.data.dataset import EcgDataset, central_windows, cut_windows
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.wrappers import (
    DrawnViews,
    LabelledDataset,
    ProbesAndGallery,
    SegmentPairs,
    pair_windows,
)
from fairseq_ecg.transforms.noise import BaselineWander, EmgNoise
from fairseq_ecg.transforms.pipeline import Pipeline


class CountingSource:
    """Recording r has the value 1000 r + t in every lead at sample t."""

    rate_hz = 100.0
    corpus = "counting"

    def __init__(self, lengths):
        self.n_samples = np.array(lengths)
        self.names = [f"r{i}" for i in range(len(lengths))]

    def read(self, row, start, stop, out=None):
        values = np.tile(1000.0 * row + np.arange(start, stop), (12, 1)).astype(np.float32)
        if out is None:
            return values
        out[:] = values
        return out

    def identity(self, row):
        return row


def add_noise(signal, rng):
    signal.values_mv[:] += rng.random(signal.values_mv.shape, dtype=np.float32)
    return signal


def unchanged(signal, rng):
    return signal


def make(lengths, window=None, transform=unchanged, **options):
    source = CountingSource(lengths)
    pipeline = Pipeline((transform,))
    return EcgDataset(source, cut_windows(source.n_samples, window), pipeline, **options)


def test_windows_cover_whole_recordings_and_keep_short_ones():
    windows = cut_windows(np.array([25, 10, 7, 39]), 10)
    assert windows.row.tolist() == [0, 0, 1, 2, 3, 3, 3]
    assert windows.start.tolist() == [0, 10, 0, 0, 0, 10, 20]
    assert windows.length.tolist() == [10, 10, 10, 7, 10, 10, 10]


def test_a_window_without_samples_is_refused():
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        cut_windows(np.array([10]), 0)


@pytest.mark.parametrize("count", [1, 5, 8, 13, 16])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_every_item_is_in_exactly_one_batch_also_the_remainder(count, batch_size):
    dataset = make([10] * count, training=True)
    batches = dataset.batch_by_size(dataset.ordered_indices(), None, batch_size, 8)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert max(map(len, batches)) <= batch_size


def test_the_engine_itself_still_drops_the_remainder_or_needs_a_compiler():
    dataset = make([10] * 5)
    try:
        batches = FairseqDataset.batch_by_size(dataset, np.arange(5), None, 16, 8)
    except ImportError:
        return  # the pure-Python form: our own method is the only one
    assert sum(map(len, batches)) < 5


def test_max_tokens_counts_padding_and_refuses_an_item_that_never_fits():
    dataset = make([10, 9, 4, 4, 3])
    batches = dataset.batch_by_size(np.arange(5), max_tokens=20)
    assert [b.tolist() for b in batches] == [[0, 1], [2, 3, 4]]
    with pytest.raises(ValueError, match="max_tokens=9 is less than one item"):
        dataset.batch_by_size(np.arange(5), max_tokens=9)


def test_items_depend_on_seed_epoch_and_index_only():
    def item(seed, epoch, index):
        dataset = make([50] * 4, transform=add_noise, seed=seed, training=True)
        dataset.set_epoch(epoch)
        return dataset[index]["source"]

    assert np.array_equal(item(1, 2, 3), item(1, 2, 3))
    for other in ((2, 2, 3), (1, 3, 3)):
        assert not np.array_equal(item(1, 2, 3), item(*other))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_follow_the_epoch_and_change_nothing(workers):
    dataset = make([50] * 6, transform=add_noise, training=True)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=2,
        collate_fn=dataset.collater,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for epoch in (1, 2, 3):
        dataset.set_epoch(epoch)
        read = torch.cat([batch["net_input"]["source"] for batch in loader])
        expected = np.stack([dataset[i]["source"] for i in range(6)])
        assert np.array_equal(read.numpy(), expected)


def test_training_order_is_fixed_unless_batches_are_rebuilt():
    fixed, rebuilt = (make([10] * 50, training=True, rebuild_batches=r) for r in (False, True))
    orders = []
    for dataset in (fixed, rebuilt):
        for epoch in (1, 2):
            dataset.set_epoch(epoch)
            orders.append(dataset.ordered_indices().tolist())
    assert orders[0] == orders[1] == fixed.ordered_indices().tolist()
    assert orders[2] != orders[3]
    assert sorted(orders[3]) == list(range(50))
    assert make([10] * 5).ordered_indices().tolist() == [0, 1, 2, 3, 4]


def test_training_order_puts_like_lengths_together():
    dataset = make([10, 30, 20, 30, 10], training=True)
    assert dataset.sizes[dataset.ordered_indices()].tolist() == [30, 30, 20, 10, 10]


def test_a_batch_read_at_once_equals_items_read_alone_and_is_not_copied():
    dataset = make([25, 30], window=10, transform=add_noise, training=True)
    items = dataset.__getitems__([4, 0, 2])
    batch = dataset.collater(items)
    alone = dataset.collater([dataset[i] for i in (4, 0, 2)])
    assert torch.equal(batch["net_input"]["source"], alone["net_input"]["source"])
    assert batch["net_input"]["source"].data_ptr() == items[0]["source"].ctypes.data
    assert batch["id"].tolist() == [4, 0, 2]
    assert batch["record"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("perturbation", [BaselineWander(p=0.5), EmgNoise(p=0.5)], ids=str)
def test_perturbations_depend_on_the_item_not_on_its_batch(perturbation):
    def source(*indices):
        items = make([70, 60, 90], 10, perturbation, training=True).__getitems__(indices)
        return {item["id"]: item["source"] for item in items}

    whole = source(*range(20))
    for batch in (source(4, 17, 9), source(12), source(*range(20, -1, -2))):
        for index in set(batch) & set(whole):
            assert np.array_equal(batch[index], whole[index])


def test_items_of_unequal_length_are_perturbed_each_alone():
    dataset = make([25, 10, 31], transform=EmgNoise(), training=True)
    together = dataset.__getitems__([2, 0, 1])
    assert [item["source"].shape for item in together] == [(12, 31), (12, 25), (12, 10)]
    for item, index in zip(together, (2, 0, 1), strict=True):
        assert np.array_equal(item["source"], dataset[index]["source"])


@pytest.mark.parametrize("lengths", [[25, 30], [25, 11]], ids=["equal", "unequal"])
def test_views_of_an_item_differ_and_depend_on_seed_epoch_index_and_view(lengths):
    window = 10 if lengths[1] == 30 else None
    dataset = DrawnViews(make(lengths, window, add_noise, training=True))
    items = dataset.__getitems__([1, 0])
    batch = dataset.collater(items)
    assert batch["view"].tolist() == [0, 1, 0, 1]
    assert batch["id"].tolist() == [1, 1, 0, 0]
    assert batch["n_views"] == 2
    for item, other in ((items[:2], dataset[1]), (items[2:], dataset[0])):
        assert not np.array_equal(item[0]["source"], item[1]["source"])
        for one, same in zip(item, other, strict=True):
            assert np.array_equal(one["source"], same["source"])
    assert np.array_equal(items[0]["source"], dataset.dataset[1]["source"])
    copied = batch["net_input"]["source"].data_ptr() != items[0]["source"].ctypes.data
    assert copied == (window is None)


def test_collate_does_not_mistake_reordered_rows_for_the_batch_itself():
    items = make([10] * 3).__getitems__([0, 1, 2])
    batch = collate(items[::-1], pad=True)
    assert batch["net_input"]["source"][:, 0, 0].tolist() == [2000, 1000, 0]


def test_collate_marks_only_padding_and_has_no_mask_without_it():
    dataset = make([6, 9, 9])
    batch = dataset.collater(dataset.__getitems__([0, 1]))
    assert batch["net_input"]["padding_mask"].tolist() == [[False] * 6 + [True] * 3, [False] * 9]
    assert batch["net_input"]["source"][0, :, 6:].abs().sum() == 0
    assert "padding_mask" not in dataset.collater(dataset.__getitems__([1, 2]))["net_input"]


def test_collate_crops_to_the_shortest_or_the_limit_at_the_centre():
    dataset = make([6, 10], pad=False)
    source = dataset.collater(dataset.__getitems__([0, 1]))["net_input"]["source"]
    assert source[1, 0].tolist() == [1002, 1003, 1004, 1005, 1006, 1007]
    limited = make([6, 10], max_samples=4)
    source = limited.collater(limited.__getitems__([0, 1]))["net_input"]["source"]
    assert source[:, 0].tolist() == [[1, 2, 3, 4], [1003, 1004, 1005, 1006]]


def test_training_crops_move_with_the_epoch():
    dataset = make([100], max_samples=10, training=True)
    starts = set()
    for epoch in range(1, 20):
        dataset.set_epoch(epoch)
        starts.add(int(dataset.collater([dataset[0]])["net_input"]["source"][0, 0, 0]))
    assert len(starts) > 5


def test_no_items_are_an_empty_batch():
    dataset = make([10])
    assert dataset.collater(dataset.__getitems__([])) == {}


def test_labels_follow_the_recording_not_the_window():
    labels = np.eye(3, dtype=np.float32)
    dataset = LabelledDataset(make([20, 10, 20], window=10), labels)
    batch = dataset.collater(dataset.__getitems__(range(5)))
    assert batch["label"].argmax(1).tolist() == [0, 0, 1, 2, 2]
    assert batch["label"].dtype == torch.float32


def test_pairs_are_adjacent_windows_of_one_recording():
    rows = cut_windows(np.array([50, 10, 20]), 10).row
    assert pair_windows(rows) == [[0, 1], [2, 3], [6, 7]]


def test_pairs_flatten_to_segments_with_their_place():
    segments = make([50, 10, 20], window=10)
    dataset = SegmentPairs(segments, pair_windows(segments.windows.row))
    assert len(dataset) == 3
    for items in (dataset.__getitems__([2, 1]), [dataset[2], dataset[1]]):
        batch = dataset.collater(items)
        assert batch["segment"].tolist() == [0, 1, 0, 1]
        assert batch["patient_id"].tolist() == [2, 2, 0, 0]
        assert batch["net_input"]["source"][:, 0, 0].tolist() == [2000, 2010, 20, 30]


def test_signals_reach_the_transform_with_rate_and_leads():
    seen = []

    def look(signal: EcgSignal, rng):
        seen.append((signal.rate_hz, signal.leads, signal.values_mv.dtype))
        return signal

    make([10], transform=look)[0]
    assert seen == [(100.0, STANDARD_LEADS, np.float32)]


def test_central_windows_are_the_middle_of_each_recording():
    windows = central_windows(np.array([50, 10, 7, 21]), 10)
    assert windows.row.tolist() == [0, 1, 2, 3]
    assert windows.start.tolist() == [20, 0, 0, 5]
    assert windows.length.tolist() == [10, 10, 7, 10]
    assert central_windows(np.array([50, 7])).length.tolist() == [50, 7]
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        central_windows(np.array([50]), 0)


def test_probes_and_gallery_run_on_and_keep_the_order_asked_for():
    probes = LabelledDataset(make([20, 10], window=10), np.array([7, 8]))
    gallery = LabelledDataset(make([10, 20], window=10), np.array([8, 7]))
    dataset = ProbesAndGallery(probes, gallery, n_probes=2)
    assert len(dataset) == 6
    batch = dataset.collater(dataset.__getitems__(np.array([5, 0, 3, 2])))
    assert batch["id"].tolist() == [5, 0, 3, 2]
    assert batch["record"].tolist() == [3, 0, 2, 1]
    assert batch["label"].tolist() == [7, 7, 8, 8]
    assert batch["gallery"].tolist() == [1, 0, 1, 0]
    assert dataset[4]["record"] == 3
