"""Contexts and candidates: what follows does follow, the others come from the same patients."""

import numpy as np
import pytest

from fairseq_ecg.data.future import FutureDataset, Horizon
from fairseq_ecg.data.leads import choose_leads
from fairseq_ecg.transforms.pipeline import Pipeline
from tests.patients import CountingPatients, equal, loaded

F = 32


def add_noise(signal, rng):
    signal.values_mv[:] += rng.random(signal.values_mv.shape, dtype=np.float32)
    return signal


def make(horizon, segments=(2,) * 7, n_samples=1000, rate_hz=250.0, target_hz=None, **options):
    options = {"draws": 10, "together": 3, "training": True, "rate_hz": target_hz, **options}
    source = CountingPatients(segments, n_samples, rate_hz)
    transforms = Pipeline(options.pop("transforms", ()))
    return FutureDataset(source, choose_leads("I"), transforms, horizon, **options)


@pytest.mark.parametrize(
    ("context_size", "overlap", "offset"), [(4, 0, 0), (1, 0, 0), (3, 0, 2), (4, 8, 1), (5, 31, 3)]
)
@pytest.mark.parametrize("num_negatives", [1, 4])
def test_the_right_candidate_is_the_one_that_follows(context_size, overlap, offset, num_negatives):
    dataset = make(Horizon(F, context_size, overlap, offset), num_negatives=num_negatives)
    batch = dataset.collater(dataset.__getitems__(range(len(dataset))))
    context, candidates = (batch["net_input"][k].numpy() for k in ("source", "candidates"))
    step = F - overlap
    assert context.shape == (70, 1, context_size * step + overlap)
    assert candidates.shape == (70, 1 + num_negatives, 1, F)
    assert batch["label"].shape == (70, 1 + num_negatives)
    assert (batch["label"].sum(dim=1) == 1).all()
    assert (np.diff(context[:, 0]) == 1).all()
    assert (np.diff(candidates[:, :, 0]) == 1).all()
    right = candidates[np.arange(70), batch["label"].argmax(dim=1).numpy(), 0]
    # The last frame of the context begins at (K - 1) steps; what follows it, one step and p frames
    # later.
    expected = context[:, 0, 0] + context_size * step + offset * F
    np.testing.assert_array_equal(right[:, 0], expected)
    assert (right[:, 0] > context[:, 0, -1]).all()
    assert (context[:, 0, 0] // 5000 == batch["record"].numpy()).all()


def test_negatives_come_from_any_recording_of_the_window_and_no_other():
    dataset = make(Horizon(F, 4), segments=(1, 2, 3, 1, 2, 3, 4), draws=40, num_negatives=3)
    window = 3 * 40
    for first in range(0, len(dataset), window):
        positions = range(first, min(first + window, len(dataset)))
        patients = {dataset.order.place(i, 1)[0] for i in positions}
        rows = np.concatenate([dataset.recordings_of(p) for p in patients])
        drawn = []
        for item in dataset.__getitems__(positions):
            others = item["candidates"][item["label"] == 0, 0]
            drawn += (others[:, 0] // 5000).astype(int).tolist()
            assert (others[:, -1] // 5000 == others[:, 0] // 5000).all()
        counts = np.array([drawn.count(row) for row in rows])
        assert counts.sum() == len(drawn)
        expected = len(drawn) / len(rows)  # each recording alike, whosever it is
        assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_the_right_candidate_stands_anywhere():
    dataset = make(Horizon(F, 2), draws=100, num_negatives=4)
    labels = dataset.collater(dataset.__getitems__(range(700)))["label"].sum(dim=0)
    assert (abs(labels - 140) < 45).all()


@pytest.mark.parametrize("training", [False, True])
def test_items_are_the_same_for_any_number_of_workers_and_after_a_resume(training):
    def build():
        dataset = make(Horizon(F, 4), transforms=(add_noise,), training=training)
        dataset.set_epoch(2)
        return dataset

    expected = loaded(build(), 0, 8)
    for workers in (2, 5):
        assert equal(loaded(build(), workers, 8), expected)
        assert equal(loaded(build(), workers, 8, start=4), expected[4:])
    alone = build()
    assert equal(alone.collater([alone[i] for i in range(8)]), expected[0])
    later = build()
    later.set_epoch(3)
    assert equal(loaded(later, 0, 8), expected) is not training


def test_context_and_target_are_resampled_as_one():
    dataset = make(Horizon(F, 4, 0, 1), n_samples=900, rate_hz=360.0, target_hz=250.0)
    needed = 6 * F * 360 / 250
    for item in dataset.__getitems__(range(20)):
        assert item["source"].shape == (1, 4 * F)
        context, target = item["source"][0], item["candidates"][item["label"] == 1][0, 0]
        # Samples count up, so that values are places; float32 holds them to 0.008.
        np.testing.assert_allclose(np.diff(context), 1.44, atol=0.06)
        assert target[0] - context[0] == pytest.approx(5 * F * 1.44, abs=0.06)
        assert 0 <= context[0] - 5000 * item["record"] <= 900 - needed


def test_recordings_that_cannot_hold_context_and_target_are_left_out(caplog):
    dataset = make(Horizon(F, 4), n_samples=[160, 159] * 7)
    assert "7 of 14 recordings are shorter than the 160 samples" in caplog.text
    batch = dataset.collater(dataset.__getitems__(range(len(dataset))))
    assert (batch["record"] % 2 == 0).all()
    assert (batch["net_input"]["candidates"] // 5000 % 2 == 0).all()


@pytest.mark.parametrize(
    ("overlap", "offset", "message"),
    [
        (8, 0, r"context_overlap=8 with task.positive_offset=0 shows the first 8 samples"),
        (F, 1, r"context_overlap is 32 samples; give 0 or more, and less than task.frame_size=32"),
        (-1, 1, r"context_overlap is -1 samples"),
    ],
)
def test_contexts_that_cannot_work_are_refused(overlap, offset, message):
    with pytest.raises(ValueError, match=message):
        Horizon(F, 4, overlap, offset)
