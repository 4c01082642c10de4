"""The joint loss: agreement with the reference, with a slow form, and across processes."""

import math
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fairseq.criterions import build_criterion
from fairseq.logging import metrics
from omegaconf import OmegaConf

from fairseq_ecg.criterions._contrast import normalize_detached
from fairseq_ecg.criterions._gather import keys_of_rows
from fairseq_ecg.criterions.cmsc import pair_loss
from fairseq_ecg.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscCriterion, cmsc_loss
from tests.golden import FOLDERS, RELATIVE, UNPADDED, load


@pytest.fixture(scope="module", params=FOLDERS)
def golden(shared, request):
    return load(shared / "golden" / request.param)


@pytest.fixture(scope="module")
def reported(golden):
    """The loss of a golden batch with its gradients."""
    model = golden.model()
    criterion = Wav2Vec2WithCmscCriterion(None, **golden.expected["criterion"])
    loss, sample_size, log = criterion(model, golden.sample())
    loss.backward()
    return model, loss, sample_size, log


def test_every_loss_term_agrees_with_the_reference(golden, reported):
    _, loss, sample_size, log = reported
    assert float(loss.detach()) == pytest.approx(golden.expected["total_loss"], rel=RELATIVE)
    assert sample_size == golden.expected["sample_size"]
    for key, value in golden.expected["losses"].items():
        assert float(log[key]) == pytest.approx(value, rel=RELATIVE), key


def test_every_gradient_norm_agrees_with_the_reference(golden, reported):
    """Norms below 1e-6 of the largest are rounding noise (a key's bias cancels in the softmax)."""
    expected = golden.expected["grad_norms"]
    floor = 1e-6 * max(expected.values())
    norms = {name: float(p.grad.norm()) for name, p in reported[0].named_parameters()}
    assert norms.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(norms[name] - value) <= RELATIVE * max(value, floor), name


def slow_cmsc(vectors, patients, segments, temp):
    """The definition, one positive at a time, in float64."""
    first = [i for i, s in enumerate(segments) if s == 0]
    second = [i for i, s in enumerate(segments) if s == 1]
    sides = []
    for rows, columns in ((first, second), (second, first)):
        terms = []
        for i in rows if columns else []:
            scores = np.array([vectors[i] @ vectors[j] / temp for j in columns])
            log_share = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
            terms += [-log_share[n] for n, j in enumerate(columns) if patients[i] == patients[j]]
        sides.append(np.mean(terms) if terms else 0.0)
    return sum(sides) / 2


@pytest.mark.parametrize(
    ("patients", "segments"),
    [
        ([1, 1, 2, 2, 3, 3, 4, 4], [0, 1, 0, 1, 0, 1, 0, 1]),
        ([1, 1, 2, 2, 1, 1, 4, 4], [0, 1, 0, 1, 0, 1, 0, 1]),  # a patient with two pairs
        ([1, 2, 3, 3, 2, 1], [0, 0, 0, 1, 1, 1]),  # another order
        ([7, 7], [0, 1]),  # one pair
        ([1, 1, 2, 5, 5], [0, 1, 0, 0, 1]),  # a segment without its sibling
        ([1, 2, 3], [0, 0, 0]),  # no pair at all
    ],
)
def test_pair_loss_equals_the_slow_form(patients, segments):
    generator = torch.Generator().manual_seed(3)
    vectors = normalize_detached(torch.randn(len(patients), 9, generator=generator))
    loss = pair_loss(vectors, torch.tensor(patients), torch.tensor(segments), temp=0.1)
    expected = slow_cmsc(vectors.double().numpy(), patients, segments, temp=0.1)
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_one_pair_and_no_pair_give_zero_gradients_instead_of_nan():
    for segments in ([0, 1], [0, 0]):
        features = torch.randn(2, 4, 3, requires_grad=True)
        cmsc_loss(features, None, torch.zeros(2), torch.tensor(segments)).backward()
        assert torch.equal(features.grad, torch.zeros_like(features))


def test_the_norm_takes_no_part_in_the_gradient():
    vectors = torch.tensor([[3.0, 4.0]], requires_grad=True)
    normalize_detached(vectors)[0, 0].backward()
    assert torch.allclose(vectors.grad, torch.tensor([[0.2, 0.0]]))


def test_padded_frames_do_not_reach_the_segment_loss():
    features = torch.randn(4, 6, 5)
    padding = torch.zeros(4, 6, dtype=torch.bool)
    padding[1, 4:] = True
    ids, segments = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    loss = cmsc_loss(features, padding, ids, segments)
    assert torch.equal(
        loss, cmsc_loss(features.masked_fill(padding[..., None], 99.0), padding, ids, segments)
    )
    assert not torch.equal(loss, cmsc_loss(features, None, ids, segments))


def test_zero_weights_keep_the_positions_of_logged_losses(golden, reported):
    weights = {"loss_weights": [0.0, 10.0], "cmsc_weights": 0.5}
    criterion = Wav2Vec2WithCmscCriterion(None, **{**golden.expected["criterion"], **weights})
    with torch.no_grad():
        log = criterion(reported[0], golden.sample())[2]
    assert float(log["loss_1"]) == 0.0
    assert float(log["loss_2"]) == pytest.approx(golden.expected["losses"]["loss_2"], rel=RELATIVE)
    half = golden.expected["losses"]["loss_3"] / 2
    assert float(log["loss_3"]) == pytest.approx(half, rel=RELATIVE)


def test_logged_values_are_bits_per_masked_frame_and_plain_floats(golden, reported):
    log, losses = reported[3], golden.expected["losses"]
    with metrics.aggregate(new_root=True) as aggregated:
        Wav2Vec2WithCmscCriterion.reduce_metrics([log, log])
    values = aggregated.get_smoothed_values()
    size = golden.expected["sample_size"]
    for key in ("loss", "loss_0", "loss_1", "loss_2", "loss_3"):
        assert values[key] == pytest.approx(losses[key] / size / math.log(2), abs=1e-3)
    for key in ("prob_perplexity", "code_perplexity", "temp"):
        assert values[key] == pytest.approx(losses[key], abs=1e-3)
    assert values["accuracy"] == pytest.approx(losses["correct"] / losses["count"], abs=1e-5)
    assert values["nsignals"] == 12
    for name in aggregated:
        meter = aggregated[name]
        assert all(type(v) in (float, int, type(None)) for v in vars(meter).values()) or (
            name == "accuracy"
        ), name


def test_the_step_reads_nothing_back_from_the_device(shared, monkeypatch):
    """``.item()``, ``float()`` and ``.tolist()`` of a tensor would wait for the device.

    Padding needs one look at the mask, so nothing is padded here.
    """
    golden = load(shared / "golden" / UNPADDED)
    model = golden.model()
    criterion = Wav2Vec2WithCmscCriterion(None, **golden.expected["criterion"])
    sample = golden.sample()
    sample["net_input"] = {"source": golden.arrays["source"]}

    def forbidden(*args):
        raise AssertionError("a tensor was read back")

    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    loss, _, log = criterion(model, sample)
    loss.backward()
    monkeypatch.undo()
    assert loss.isfinite()
    assert criterion.logging_outputs_can_be_summed()
    assert not any(torch.is_tensor(v) and v.requires_grad for v in log.values())


def test_a_batch_without_pairs_is_refused(golden):
    sample = golden.sample()
    del sample["segment"]
    with pytest.raises(ValueError, match="no segment, which wav2vec2_with_cmsc needs"):
        Wav2Vec2WithCmscCriterion(None)(golden.model(), sample)


def test_a_batch_that_only_fills_up_has_no_segments_to_compare(golden):
    criterion = Wav2Vec2WithCmscCriterion(None, **golden.expected["criterion"])
    log = criterion(golden.model(), {**golden.sample(), "dummy": True})[2]
    assert log["loss_3"] == 0
    assert log["loss_0"] > 0


def test_it_is_built_by_its_name_with_the_references_keys(golden):
    cfg = OmegaConf.create({"_name": "wav2vec2_with_cmsc", **golden.expected["criterion"]})
    criterion = build_criterion(cfg, None)
    assert (criterion.diversity_weight, criterion.penalty_weight) == (0.1, 10.0)
    assert criterion.cmsc_weight == 1.0


def _gathered_worker(rank, file, vectors, patients, segments, dummy, queue):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    rows = slice(0, 4) if rank == 0 else slice(4, 6)  # processes with unequal batches
    mine = vectors[rows].clone().requires_grad_()
    sample = {"patient_id": patients[rows], "segment": segments[rows], "dummy": rank == dummy}
    keys = keys_of_rows(sample, ("patient_id", "segment"))
    loss = cmsc_loss(mine[:, None], None, **keys, all_gather=True) * (rank != dummy)
    loss.backward()
    queue.put((rank, loss.item(), mine.grad.tolist()))
    dist.barrier()
    dist.destroy_process_group()


def gathered(folder, vectors, patients, segments, dummy=None):
    """Return (rank, loss, gradient) of two processes; the batch of ``dummy`` only fills up."""
    context = mp.get_context(
        "forkserver"
    )  # a fork of this process would inherit autograd's threads
    queue = context.Queue()
    processes = [
        context.Process(
            target=_gathered_worker,
            args=(rank, os.fspath(folder / "meet"), vectors, patients, segments, dummy, queue),
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    results = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    return results


@pytest.fixture
def pairs():
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    return vectors, torch.tensor([1, 1, 2, 2, 3, 3]), torch.tensor([0, 1] * 3)


def test_a_process_without_a_batch_of_its_own_adds_nothing_to_compare_with(pairs, tmp_path):
    first, second = gathered(tmp_path, *pairs, dummy=1)
    vectors, patients, segments = (values[:4] for values in pairs)
    alone = vectors.clone().requires_grad_()
    loss = cmsc_loss(alone[:, None], None, patients, segments)
    loss.backward()
    assert first[1] == pytest.approx(loss.item(), rel=1e-6)
    assert torch.allclose(torch.tensor(first[2]), alone.grad, atol=1e-6)
    assert not torch.tensor(second[2]).any()


def test_gathering_over_two_processes_equals_one_large_batch(pairs, tmp_path):
    vectors, patients, segments = pairs
    results = gathered(tmp_path, *pairs)
    whole = vectors.clone().requires_grad_()
    loss = cmsc_loss(whole[:, None], None, patients, segments)
    loss.backward()
    assert [r[1] for r in results] == pytest.approx([loss.item()] * 2, rel=1e-6)
    gradient = torch.tensor(results[0][2] + results[1][2])  # each process backs the whole loss
    assert torch.allclose(gradient, 2 * whole.grad, atol=1e-6)
