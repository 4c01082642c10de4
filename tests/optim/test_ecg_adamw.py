"""AdamW by groups: who is decayed, who learns how fast, under every schedule and after a resume."""

import io

import pytest
import torch
from fairseq import optim
from fairseq.optim import lr_scheduler
from omegaconf import OmegaConf
from torch import nn

from fairseq_ecg.optim.ecg_adamw import parameter_groups

ADAMW = {"_name": "ecg_adamw", "lr": [0.1], "weight_decay": 0.05}
COSINE = {"_name": "cosine", "lr": [0.1], "min_lr": 0.01, "warmup_updates": 4, "max_update": 20}


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    for parameter in model[0].parameters():
        parameter.optim_overrides = {"optimizer": {"lr_scale": 0.25}}
    model.table = nn.Parameter(torch.randn(5, 4))
    model.table.param_group = "no_decay"
    return model


def build(model, **cfg):
    return optim.build_optimizer(OmegaConf.create({**ADAMW, **cfg}), list(model.parameters()))


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 3)).square().sum().add(model.table.sum()).backward()
    optimizer.step()


def test_vectors_and_tables_are_not_decayed():
    model = network()
    groups = parameter_groups(model.parameters(), 0.05)
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(model[0].weight), id(model[2].weight)}
    assert {g["weight_decay"] for g in groups} == {0.05, 0.0}
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_without_marks_and_decay_it_is_fairseqs_adam():
    results = []
    for own in ({}, {"_name": "adam", "tpu": False}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
        model.table = nn.Parameter(torch.randn(5, 4))
        optimizer = build(model, adam_betas=[0.9, 0.95], adam_eps=1e-8, **own)
        for _ in range(3):
            step(model, optimizer)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*results, atol=1e-6)


def test_every_schedule_moves_all_groups_in_proportion():
    model = network()
    optimizer = build(model)
    scheduler = lr_scheduler.build_lr_scheduler(OmegaConf.create(COSINE), optimizer)
    for update in (0, 2, 4, 12, 19):
        scheduler.step_update(update)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(optimizer.get_lr() * group["lr_scale"])
    assert optimizer.get_lr() == pytest.approx(0.01, rel=0.1)
    assert {group["lr_scale"] for group in optimizer.param_groups} == {1.0, 0.25}


def test_a_resumed_run_goes_on_as_if_nothing_had_happened():
    model = network()
    optimizer = build(model)
    step(model, optimizer)
    kept = [{k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()]
    kept[1] = torch.load(saved(kept[1]), weights_only=True)
    step(model, optimizer)

    resumed = network()
    resumed.load_state_dict(kept[0])
    other = build(resumed)
    other.load_state_dict(kept[1])
    step(resumed, other)
    for one, two in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_fairseqs_composite_scales_the_top_of_a_schedule_only():
    """Why there is an optimizer of our own; if this fails, the engine's may serve."""
    model = network()
    adam = {"_name": "adam", "lr": [0.1], "adam_betas": [0.9, 0.999], "tpu": False}
    plain = {"optimizer": adam, "lr_scheduler": COSINE}
    groups = {"default": plain, "no_decay": plain}
    cfg = {"_name": "composite", "dynamic_groups": True, "groups": groups}
    optimizer = optim.build_optimizer(OmegaConf.create(cfg), list(model.parameters()))
    try:
        optimizer.lr_scheduler.step_update(19)
        rates = {g["lr"] for g in optimizer.param_groups}
        assert min(rates) > 0.9 * max(rates)  # not a quarter, as for the first layer asked
        assert type(optimizer).optimizers is optimizer.optimizers  # shared by all runs
    finally:
        optimizer.optimizers.clear()
        optimizer.lr_schedulers.clear()
