"""Masked squared error: a slow form written from the formulas, and the criterion around it."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, build_criterion
from fairseq.logging import metrics
from omegaconf import OmegaConf
from torch import nn

from fairseq_ecg.criterions.ecg_masked_mse import STATISTICS, EcgMaskedMse, normalise_blocks
from fairseq_ecg.evaluation import evaluate
from tests.recordings import write_tone_store
from tests.runs import logged as logged_by
from tests.runs import train

NAME = "ecg_masked_mse"
UV2 = {"mse_masked_uv2", "mse_all_uv2"}


class Reconstruction(nn.Module):
    """Gives the prediction that it was given, whatever it sees."""

    def __init__(self, prediction, lead_prediction=None):
        super().__init__()
        self.prediction = nn.Parameter(prediction.clone())
        self.lead_prediction = lead_prediction

    def forward(self, source, mask=None, lead_mask=None, padding_mask=None):
        output = {"prediction": self.prediction}
        if lead_mask is not None:
            output["lead_prediction"] = self.lead_prediction
        return output


def criterion(block=4, views="masked", **keys):
    task = SimpleNamespace(cfg=SimpleNamespace(mask_block=block, views=views))
    return build_criterion(OmegaConf.create({"_name": NAME, **keys}), task)


def make(n_leads=3, n_samples=18, block=4, rows=3, seed=0, padded=False, by_lead=False, scale=None):
    """Return a batch and a prediction; row 0 is constant, padding is on both sides."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(rows, n_leads, n_samples, generator=generator)
    source[0] = 0.7
    prediction = torch.randn(rows, n_leads, n_samples, generator=generator)
    n_blocks = n_samples // block
    mask = torch.rand(rows, n_leads if by_lead else 1, n_blocks, generator=generator) < 0.6
    mask[:, :, 0], mask[:, :, n_blocks // 2] = False, True
    net_input = {"source": source, "mask": mask.expand(rows, n_leads, n_blocks).clone()}
    if padded:
        padding = torch.zeros(rows, n_samples, dtype=torch.bool)
        for row in range(rows):
            padding[row, : 2 * row + 1] = True
            padding[row, n_samples - 3 - row :] = True
        net_input["padding_mask"] = padding
        source.masked_fill_(padding[:, None], 0.0)
    sample = {"net_input": net_input}
    if scale is not None:
        sample["scale_mv"] = torch.tensor(scale).expand(rows, n_leads).clone()
    return sample, prediction


def slow(sample, prediction, block, norm="none", eps=0.01, visible_weight=0.0, key="mask"):
    """Loss, weight, error, power and number of scored samples, one sample after the other."""
    net_input = sample["net_input"]
    source = net_input["source"].double().numpy()
    guess = prediction.detach().double().numpy()
    hidden = net_input[key].numpy()
    rows, n_leads, n_samples = source.shape
    padding = net_input.get("padding_mask")
    padding = np.zeros((rows, n_samples), bool) if padding is None else padding.numpy()
    loss = weight = error = power = count = 0.0
    for b, c, n in itertools.product(range(rows), range(n_leads), range(n_samples // block)):
        times = [t for t in range(n * block, (n + 1) * block) if not padding[b, t]]
        leads = range(n_leads) if norm == "patch" else [c]
        values = [source[b, lead, t] for lead in leads for t in times]
        mean, deviation = 0.0, 1.0
        if norm != "none" and values:
            mean = sum(values) / len(values)
            spread = sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
            deviation = math.sqrt(spread + eps)
        for t in times:
            target = (source[b, c, t] - mean) / deviation
            square = (guess[b, c, t] - target) ** 2
            share = 1.0 if hidden[b, c, n] else visible_weight
            loss, weight = loss + share * square, weight + share
            if hidden[b, c, n]:
                error, power, count = error + square, power + target**2, count + 1
    return loss, weight, error, power, count


def logged(crit, samples):
    outputs = [crit(Reconstruction(prediction), sample)[2] for sample, prediction in samples]
    with metrics.aggregate(new_root=True) as agg:
        crit.reduce_metrics(outputs)
    return agg.get_smoothed_values()


# --- the arithmetic -----------------------------------------------------------------------------


@pytest.mark.parametrize("visible_weight", [0.0, 0.3])
@pytest.mark.parametrize("norm", STATISTICS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("by_lead", [False, True])
@pytest.mark.parametrize(
    ("n_leads", "n_samples", "block"), [(1, 18, 4), (3, 18, 4), (12, 16, 8), (2, 17, 1), (2, 9, 9)]
)
def test_loss_and_sums_equal_the_slow_form(
    n_leads, n_samples, block, by_lead, padded, norm, visible_weight
):
    sample, prediction = make(n_leads, n_samples, block, padded=padded, by_lead=by_lead)
    crit = criterion(block, norm_target=norm, norm_eps=0.02, visible_weight=visible_weight)
    loss, size, log = crit(Reconstruction(prediction), sample)
    expected = slow(sample, prediction, block, norm, 0.02, visible_weight)
    found = (loss.detach(), size, log["error"], log["power"], log["scored"])
    assert [float(v) for v in found] == pytest.approx(expected, rel=2e-5, abs=1e-5)
    assert expected[-1] > 0


def test_a_constant_lead_has_finite_targets_near_zero():
    blocks = torch.full((1, 1, 2, 5), 300.0)
    present = torch.ones(1, 1, 2, 5, dtype=torch.bool)
    present[..., 1, 1:] = False  # one sample alone has no deviation either
    for over in ((3,), (1, 3)):
        assert normalise_blocks(blocks, present, over, 0.01).abs().max() < 1e-2
    assert normalise_blocks(blocks, present, (), 0.01) is blocks


def test_knowing_nothing_of_standardised_blocks_costs_the_share_of_the_unbiased_variance():
    sample, prediction = make(12, 100, 25)
    sample["net_input"]["source"] = torch.randn(
        3, 12, 100, generator=torch.Generator().manual_seed(5)
    )
    crit = criterion(25, norm_target="patch_lead", norm_eps=1e-12)
    values = logged(crit, [(sample, torch.zeros_like(prediction))])
    assert values["mse"] == pytest.approx(24 / 25, rel=1e-5)
    assert values["nmse"] == 1.0


@pytest.mark.parametrize("norm", STATISTICS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_prediction_of_zero_has_exactly_one_and_the_target_itself_zero(norm, padded):
    samples = [make(seed=seed, rows=rows, padded=padded) for seed, rows in ((0, 3), (1, 1), (2, 4))]
    crit = criterion(norm_target=norm)
    zeros = [(sample, torch.zeros_like(prediction)) for sample, prediction in samples]
    assert logged(crit, zeros)["nmse"] == 1.0
    if norm == "none":
        perfect = [(sample, sample["net_input"]["source"]) for sample, _ in samples]
        values = logged(crit, perfect)
        assert values["nmse"] == values["mse"] == values["loss"] == 0.0


def test_visible_and_padded_targets_and_the_rest_after_the_last_block_do_not_count():
    sample, prediction = make(padded=True)
    crit = criterion()
    before = crit(Reconstruction(prediction), sample)
    net_input = sample["net_input"]
    hidden = torch.zeros(3, 3, 18, dtype=torch.bool)
    hidden[..., :16] = net_input["mask"].repeat_interleave(4, -1)
    scored = hidden & ~net_input["padding_mask"][:, None]
    changed = {**net_input, "source": torch.where(scored, net_input["source"], 9.0)}
    after = crit(Reconstruction(prediction), {"net_input": changed})
    assert torch.equal(before[0], after[0])
    assert {k: float(v) for k, v in before[2].items()} == {k: float(v) for k, v in after[2].items()}
    changed["source"] = torch.where(scored, 9.0, net_input["source"])
    assert not torch.equal(before[0], crit(Reconstruction(prediction), {"net_input": changed})[0])


def test_the_gradient_is_that_of_the_scored_samples_alone():
    sample, prediction = make(padded=True)
    model = Reconstruction(prediction)
    criterion()(model, sample)[0].backward()
    hidden = torch.zeros(3, 3, 18, dtype=torch.bool)
    hidden[..., :16] = sample["net_input"]["mask"].repeat_interleave(4, -1)
    scored = hidden & ~sample["net_input"]["padding_mask"][:, None]
    expected = 2 * (prediction - sample["net_input"]["source"]) * scored
    torch.testing.assert_close(model.prediction.grad, expected)


def test_bfloat16_predictions_are_compared_in_float32():
    sample, prediction = make()
    crit = criterion(norm_target="patch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, size, log = crit(Reconstruction(prediction.bfloat16()), sample)
    assert loss.dtype == log["power"].dtype == torch.float32
    expected = slow(sample, prediction.bfloat16(), 4, "patch")
    assert float(loss.detach()) == pytest.approx(expected[0], rel=1e-5)
    assert float(size) == expected[1]


# --- micro-batches, processes, the log ----------------------------------------------------------


def part(sample, rows):
    net_input = {key: value[rows] for key, value in sample["net_input"].items()}
    rest = {key: value[rows] for key, value in sample.items() if key != "net_input"}
    return {"net_input": net_input, **rest}


def test_micro_batches_and_processes_add_up_to_the_whole_batch():
    sample, prediction = make(rows=5, padded=True, scale=0.5)
    crit = criterion(visible_weight=0.1)
    whole = Reconstruction(prediction)
    loss, size, _ = crit(whole, sample)
    (loss / size).backward()
    total_size, gradients, outputs = 0, [], []
    for rows in (slice(0, 1), slice(1, 5)):
        model = Reconstruction(prediction[rows])
        part_loss, part_size, log = crit(model, part(sample, rows))
        part_loss.backward()
        total_size = total_size + part_size
        gradients.append(model.prediction.grad)
        outputs.append(log)
    torch.testing.assert_close(torch.cat(gradients) / total_size, whole.prediction.grad)
    with metrics.aggregate(new_root=True) as agg:
        crit.reduce_metrics(outputs)
    values = logged(crit, [(sample, prediction)])
    for name in crit.validation_metrics({}):
        assert agg.get_smoothed_values()[name] == pytest.approx(values[name], rel=1e-5), name


def test_the_metrics_of_a_validation_are_ratios_of_sums_over_uneven_batches():
    samples = [make(seed=seed, rows=rows, padded=True) for seed, rows in ((0, 5), (1, 1), (2, 2))]
    crit = criterion()
    with metrics.aggregate(new_root=True) as agg:
        for sample, prediction in samples:  # as the engine does, one batch after the other
            crit.reduce_metrics([crit(Reconstruction(prediction), sample)[2]])
    sums = np.sum([slow(sample, prediction, 4) for sample, prediction in samples], axis=0)
    ratios = [slow(sample, prediction, 4) for sample, prediction in samples]
    values = agg.get_smoothed_values()
    assert values["nmse"] == pytest.approx(sums[2] / sums[3], rel=1e-5)
    assert values["mse"] == pytest.approx(sums[2] / sums[4], rel=1e-5)
    assert values["loss"] == pytest.approx(sums[0] / sums[1], abs=1e-6)
    assert abs(values["nmse"] - np.mean([r[2] / r[3] for r in ratios])) > 1e-3


@pytest.mark.parametrize("norm", STATISTICS)
def test_the_names_promised_before_a_run_are_those_that_are_logged(norm):
    values = logged(criterion(norm_target=norm), [make(scale=1.0)])
    own = {key for key in values if not key.startswith("_")} - {"ntokens", "nsentences", "nsignals"}
    cfg = OmegaConf.structured(CRITERION_DATACLASS_REGISTRY[NAME])
    promised = EcgMaskedMse.validation_metrics(OmegaConf.merge(cfg, {"norm_target": norm}))
    assert own == set(promised)
    assert (set(promised) >= UV2) == (norm == "none")


def test_microvolts_are_of_the_recordings_whose_scale_is_known():
    sample, prediction = make(n_leads=2, rows=3, padded=True, scale=1.0)
    sample["scale_mv"] = torch.tensor([[1.0, 2.0], [math.nan, math.nan], [0.5, math.nan]])
    values = logged(criterion(), [(sample, prediction)])
    net_input = sample["net_input"]
    total, scored, present = 0.0, 0, 0
    for b, c in ((0, 0), (0, 1), (2, 0)):
        for t in range(18):
            if net_input["padding_mask"][b, t]:
                continue
            present += 1
            if t < 16 and net_input["mask"][b, c, t // 4]:
                error = float(prediction[b, c, t] - net_input["source"][b, c, t])
                total += (1000 * float(sample["scale_mv"][b, c]) * error) ** 2
                scored += 1
    assert values["mse_masked_uv2"] == pytest.approx(total / scored, rel=1e-4)
    assert values["mse_all_uv2"] == pytest.approx(total / present, rel=1e-4)
    assert present > scored


def test_microvolts_of_an_unknown_scale_are_nan():
    values = logged(criterion(), [make()])
    assert math.isnan(values["mse_masked_uv2"])
    assert math.isnan(values["mse_all_uv2"])
    assert values["nmse"] > 0


def test_of_two_masks_every_scored_sample_counts_alike():
    sample, prediction = make(by_lead=True, scale=1.0)
    other = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(9))
    lead_mask = torch.zeros_like(sample["net_input"]["mask"])
    lead_mask[:, 1:] = True
    sample["net_input"]["lead_mask"] = lead_mask
    loss, size, log = criterion()(Reconstruction(prediction, other), sample)
    time = slow(sample, prediction, 4)
    lead = slow(sample, other, 4, key="lead_mask")
    assert float(loss.detach()) == pytest.approx(time[0] + lead[0], rel=1e-5)
    assert float(size) == time[1] + lead[1]
    assert float(log["present_mv"]) == 2 * 3 * 3 * 18
    values = {k: float(v) for k, v in log.items()}
    assert values["error"] / values["power"] == pytest.approx(
        (time[2] + lead[2]) / (time[3] + lead[3]), rel=1e-5
    )


def test_a_batch_in_which_nothing_is_scored_gives_zero_and_no_nan_gradient():
    sample, prediction = make()
    sample["net_input"]["padding_mask"] = torch.ones(3, 18, dtype=torch.bool)
    model = Reconstruction(prediction)
    loss, size, _ = criterion(norm_target="patch_lead")(model, sample)
    loss.backward()
    assert float(loss.detach()) == float(size) == 0.0
    assert torch.equal(model.prediction.grad, torch.zeros_like(prediction))
    assert math.isnan(logged(criterion(), [(sample, prediction)])["nmse"])


def test_logging_outputs_are_numbers_that_can_be_summed():
    assert EcgMaskedMse.logging_outputs_can_be_summed()
    _, size, log = criterion()(Reconstruction(make()[1]), make(scale=1.0)[0])
    assert all(isinstance(v, int) or (torch.is_tensor(v) and v.dim() == 0) for v in log.values())
    assert not any(torch.is_tensor(v) and v.requires_grad for v in log.values())
    assert float(size) == float(log["sample_size"])


@pytest.mark.parametrize("norm", STATISTICS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_perfect_prediction_is_brought_back_to_the_source(norm, padded):
    sample, _ = make(padded=padded)
    net_input = sample["net_input"]
    source = net_input["source"]
    blocks = source[..., :16].unflatten(-1, (4, 4))
    present = torch.ones(3, 1, 4, 4, dtype=torch.bool)
    if padded:
        present = ~net_input["padding_mask"][:, None, :16].unflatten(-1, (4, 4))
    target = normalise_blocks(blocks, present, STATISTICS[norm], 0.01).flatten(2)
    prediction = torch.cat([target, torch.full((3, 3, 2), 7.0)], dim=-1)
    made = criterion(norm_target=norm).reconstruction(net_input, {"prediction": prediction})
    torch.testing.assert_close(made, source, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", STATISTICS)
def test_the_ratios_of_sums_are_what_is_logged(norm):
    sample, prediction = make(padded=True, scale=0.5)
    crit = criterion(norm_target=norm)
    sums = crit.sums(sample["net_input"], {"prediction": prediction}, sample["scale_mv"])
    values = logged(crit, [(sample, prediction)])
    ratios = crit.ratios({key: float(value) for key, value in sums.items()})
    assert ratios.keys() == set(crit.validation_metrics({"norm_target": norm})) - {"loss"}
    for name, value in ratios.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("norm", STATISTICS)
def test_no_value_of_a_tensor_is_asked_for(norm):
    """Tensors of the device ``meta`` have none, so that waiting for one is an error."""
    sample, prediction = make(padded=True, scale=1.0)
    net_input = {key: value.to("meta") for key, value in sample["net_input"].items()}
    output = {"prediction": prediction.to("meta").requires_grad_()}
    crit = criterion(norm_target=norm, visible_weight=0.5)
    for scale in (None, sample["scale_mv"].to("meta")):
        sums = crit.sums(net_input, output, scale)
        assert all(value.is_meta for value in sums.values())
        sums["loss"].backward()


@pytest.mark.parametrize("processes", [1, 2])
def test_two_processes_log_the_metrics_of_the_network_that_is_saved(tmp_path, processes):
    """With batch norm, whose statistics each process gathers by itself, and an uneven last batch."""
    data = write_tone_store(tmp_path / "data")
    words = ["--config-name", "uresnet_small", f"task.data={data}", "task.sample_rate=null"]
    words += ["task.segment_s=2.56", "task.mask_block=16", "model.filters=[8,8,8,8,8]"]
    words += ["dataset.num_workers=0", "dataset.batch_size=4", "common.log_interval=1"]
    words += ["optimization.max_update=3", "lr_scheduler.warmup_updates=1"]
    run = train(tmp_path / "run", words, processes)
    checkpoint = run.checkpoints / "checkpoint_last.pt"
    expected = evaluate(str(checkpoint), str(data), "valid").metrics
    assert set(expected) == {"mse", "nmse", *UV2}
    (log,) = logged_by(run.cwd, "valid")
    for name, value in expected.items():
        assert float(log[f"valid_{name}"]) == pytest.approx(value, rel=2e-5), name


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"norm_target": "lead"}, "criterion.norm_target is 'lead'; give none, patch, patch_lead"),
        ({"norm_eps": 0.0}, "criterion.norm_eps is 0.0; give more than 0"),
        ({"visible_weight": -1.0}, "criterion.visible_weight is -1.0; give 0 or more"),
        ({"views": "cmsc"}, "this task hides none; give .*task.views=masked"),
    ],
)
def test_options_without_a_meaning_are_refused(keys, message):
    views = keys.pop("views", "masked")
    task = SimpleNamespace(cfg=SimpleNamespace(mask_block=4, views=views))
    with pytest.raises(ValueError, match=message):
        EcgMaskedMse(task, **keys)


def test_a_task_without_blocks_is_refused_before_a_run():
    with pytest.raises(ValueError, match="task._name=ecg_pretraining and task.views=masked"):
        EcgMaskedMse(SimpleNamespace(cfg=SimpleNamespace()))
    with pytest.raises(ValueError, match="task.views=masked"):
        EcgMaskedMse(None)


def test_batches_and_models_that_do_not_fit_are_refused_with_the_way_out():
    sample, prediction = make()
    mask = sample["net_input"].pop("mask")
    with pytest.raises(ValueError, match="the batch has no mask.*task.views=masked"):
        criterion()(Reconstruction(prediction), sample)
    sample["net_input"]["mask"] = mask[..., :3]
    with pytest.raises(ValueError, match="3 blocks, but 18 samples are 4 .*task.mask_block=4"):
        criterion()(Reconstruction(prediction), sample)
    sample["net_input"]["mask"] = mask
    with pytest.raises(ValueError, match=r"prediction has the shape \[3, 3, 16\]"):
        criterion()(Reconstruction(prediction[..., :16]), sample)

    class Encoder(nn.Module):
        def forward(self, source, mask):
            return {"features": source}

    with pytest.raises(ValueError, match="no prediction.*model._name=ecg_uresnet or ecg_mae"):
        criterion()(Encoder(), sample)
