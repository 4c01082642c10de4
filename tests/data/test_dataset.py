"""Batches, keyed randomness, collation and wrappers, on recordings that count up."""

import numpy as np
import pytest
import torch
from fairseq.data import FairseqDataset

from fairseq_ecg.data.block_mask import BlockMask
from fairseq_ecg.data.collate import Padding, collate
from fairseq_ecg.data.dataset import EcgDataset
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.windows import cut_windows, random_windows, spread_windows
from fairseq_ecg.data.wrappers import (
    DrawnViews,
    LabelledDataset,
    MaskedSegments,
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

    def scale_mv(self, row):
        return np.full(12, row + 1, dtype=np.float32)


def add_noise(signal, rng):
    signal.values_mv[:] += rng.random(signal.values_mv.shape, dtype=np.float32)
    return signal


def unchanged(signal, rng):
    return signal


def make(lengths, window=None, transform=unchanged, cut=cut_windows, **options):
    source = CountingSource(lengths)
    pipeline = Pipeline((transform,))
    return EcgDataset(source, cut(source.n_samples, window), pipeline, **options)


def whole_batch(dataset):
    return dataset.collater(dataset.__getitems__(range(len(dataset))))


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


@pytest.mark.parametrize(
    ("where", "before"), [("end", [0, 0, 0]), ("centre", [1, 0, 2]), ("start", [3, 0, 5])]
)
def test_items_are_padded_to_one_length_behind_before_or_at_both_ends(where, before):
    dataset = make([7, 10, 5], padding=Padding(10, where))
    assert dataset.sizes.tolist() == [10, 10, 10]
    net_input = whole_batch(dataset)["net_input"]
    for row, (n, first) in enumerate(zip([7, 10, 5], before, strict=True)):
        inside = np.zeros(10, dtype=bool)
        inside[first : first + n] = True
        assert (~net_input["padding_mask"][row]).tolist() == inside.tolist()
        source = net_input["source"][row, 4].numpy()
        assert source[inside].tolist() == (1000 * row + np.arange(n)).tolist()
        assert not source[~inside].any()


def test_items_of_the_length_they_are_padded_to_have_no_mask_and_are_not_copied():
    dataset = make([10, 10], padding=Padding(10, "centre"))
    items = dataset.__getitems__([0, 1])
    net_input = dataset.collater(items)["net_input"]
    assert "padding_mask" not in net_input
    assert net_input["source"].data_ptr() == items[0]["source"].ctypes.data


def test_the_scale_of_the_samples_is_there_for_who_asks():
    assert whole_batch(make([10, 10], with_scale=True))["scale_mv"].tolist() == [
        [1] * 12,
        [2] * 12,
    ]
    assert "scale_mv" not in whole_batch(make([10, 10]))


# --- random windows -------------------------------------------------------------------------------


def starts(dataset):
    return [int(item["source"][0, 0]) % 1000 for item in map(dataset.__getitem__, range(3))]


def test_random_windows_move_with_the_epoch_and_stay_inside_the_recording():
    dataset = make([50, 10, 12], 10, cut=random_windows, training=True)
    seen = []
    for epoch in range(1, 60):
        dataset.set_epoch(epoch)
        seen.append(starts(dataset))
        assert seen[-1] == starts(dataset)
    first, second, third = zip(*seen, strict=True)
    assert len(set(first)) > 25
    assert min(first) < 4
    assert max(first) > 36
    assert max(first) <= 40
    assert set(second) == {0}
    assert set(third) == {0, 1, 2}


def test_random_windows_depend_on_the_seed_and_are_read_alone():
    read = []

    class Watched(CountingSource):
        def read(self, row, start, stop, out=None):
            read.append(stop - start)
            return super().read(row, start, stop, out)

    source = Watched([500] * 3)
    one, other = (
        EcgDataset(source, random_windows(source.n_samples, 10), Pipeline(), seed=s, training=True)
        for s in (1, 2)
    )
    assert starts(one) != starts(other)
    assert set(read) == {10}


def test_the_views_of_a_segment_show_the_same_random_window():
    dataset = DrawnViews(make([500] * 3, 10, cut=random_windows, training=True))
    source = whole_batch(dataset)["net_input"]["source"]
    assert torch.equal(source[::2], source[1::2])


# --- hidden blocks --------------------------------------------------------------------------------


def masked(lengths, window=20, padding=None, mode="time", **options):
    segments = make(lengths, window, padding=padding, **options)
    return MaskedSegments(segments, BlockMask(block=2, ratio=0.5, mode=mode))


def test_masks_are_part_of_the_input_and_the_samples_are_all_there():
    net_input = whole_batch(masked([20] * 3, mode="time_and_lead"))["net_input"]
    assert net_input["mask"].shape == net_input["lead_mask"].shape == (3, 12, 10)
    assert net_input["mask"].dtype == torch.bool
    assert net_input["source"][2, 0].tolist() == list(range(2000, 2020))
    assert "lead_mask" not in whole_batch(masked([20] * 3))["net_input"]


@pytest.mark.parametrize("where", ["end", "centre", "start"])
def test_no_block_is_hidden_that_is_padding_from_end_to_end(where):
    dataset = masked([9, 20, 4], padding=Padding(20, where))
    net_input = whole_batch(dataset)["net_input"]
    padded_blocks = net_input["padding_mask"].view(3, 10, 2).all(2)
    assert net_input["mask"].shape == (3, 12, 10)
    assert not (net_input["mask"][:, 0] & padded_blocks).any()
    n_candidates = (~padded_blocks).sum(1)
    expected = [max(1, round(0.5 * int(n))) for n in n_candidates]
    assert net_input["mask"][:, 0].sum(1).tolist() == expected


def test_items_that_are_padded_to_their_batch_hide_the_same_blocks_in_any_batch():
    dataset = masked([9, 20, 14], window=None)
    together = whole_batch(dataset)["net_input"]["mask"]
    assert together.shape == (3, 12, 10)
    for row, n_blocks in enumerate([4, 10, 7]):
        alone = dataset.collater([dataset[row]])["net_input"]["mask"]
        assert alone.shape == (1, 12, n_blocks)
        assert torch.equal(together[row, :, :n_blocks], alone[0])
        assert not together[row, :, n_blocks:].any()


def masks_of(dataset, epoch=1):
    dataset.set_epoch(epoch)
    return whole_batch(dataset)["net_input"]["mask"]


def test_masks_of_training_depend_on_seed_epoch_and_index():
    first = masks_of(masked([40] * 3, training=True))
    assert len({row.numpy().tobytes() for row in first}) == 6
    assert torch.equal(first, masks_of(masked([40] * 3, training=True)))
    assert not torch.equal(first, masks_of(masked([40] * 3, training=True), epoch=2))
    assert not torch.equal(first, masks_of(masked([40] * 3, training=True, seed=2)))


def test_masks_of_validation_depend_on_name_and_start_of_the_window_only():
    first = masks_of(masked([40] * 3))
    assert len({row.numpy().tobytes() for row in first}) == 6
    assert torch.equal(first, masks_of(masked([40] * 3, seed=2), epoch=5))
    again = masks_of(masked([40] * 3, cut=lambda n, window: spread_windows(n, window, 2)))
    assert torch.equal(first, again)
    other = masked([40] * 3)
    other.dataset.source.names = ["r2", "r0", "r1"]
    assert torch.equal(masks_of(other)[2:4], first[:2])


@pytest.mark.parametrize("training", [True, False])
def test_masks_and_random_windows_are_the_same_for_any_number_of_workers(training):
    dataset = masked([50] * 6, cut=random_windows, training=training, mode="lead_time")
    batches = []
    for workers in (0, 2):
        dataset.set_epoch(3)
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=4, collate_fn=dataset.collater, num_workers=workers
        )
        batches.append([batch["net_input"] for batch in loader])
    for alone, helped in zip(*batches, strict=True):
        assert torch.equal(alone["source"], helped["source"])
        assert torch.equal(alone["mask"], helped["mask"])


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
