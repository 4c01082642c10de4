"""Norms of the gradient per block: the formula, and what a run logs."""

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import nn

from fairseq_ecg.tasks._gradients import GradientNorms
from tests.runs import logged, train, write_segments
from tests.tiny import TINY_TRANSFORMER

CNN = {"widths": [4, 6], "kernels": [8, 4], "units_per_block": 2, "residual_blocks": [1, 2]}


def build(name, **cfg):
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": name, **cfg}), None)


def test_each_norm_is_that_of_all_gradients_of_its_block():
    model = build("ecg_transform_cnn", **CNN)
    model(torch.randn(3, 1, 60))["logits"].pow(2).sum().backward()
    norms = GradientNorms(model).measure()
    pairs = [pair for block in model.blocks for pair in block]
    assert list(norms) == [f"gradient_norm_{k}" for k in (1, 2, 3, 4)]
    for pair, norm in zip(pairs, norms.values(), strict=True):
        squares = [p.grad.double().pow(2).sum() for p in pair.parameters()]
        assert norm.item() == pytest.approx(torch.stack(squares).sum().sqrt().item(), rel=1e-5)


def test_a_model_around_an_encoder_is_measured_by_the_encoder():
    model = build("ecg_transformer_classifier", num_labels=2, **TINY_TRANSFORMER)
    norms = GradientNorms(model).measure()
    assert list(norms) == ["gradient_norm_1"]
    assert norms["gradient_norm_1"] == 0  # nothing was computed yet


@pytest.mark.parametrize("model", [nn.Linear(2, 2), "nejedly2021resnet"])
def test_networks_without_an_order_of_blocks_are_refused(model):
    model = build(model) if isinstance(model, str) else model
    with pytest.raises(ValueError, match=f"{type(model).__name__} is not; give task.log_gradient"):
        GradientNorms(model)


def test_a_run_logs_them_in_training_only_and_they_are_part_of_the_whole_norm(tmp_path):
    data = write_segments(tmp_path / "data", count=6)
    words = [
        *("--config-name", "transform_small", f"task.data={data}", "task.segment_s=2"),
        *("task.sample_rate=null", "task.standardize=none", "task.leads_to_load=[II]"),
        *("common.log_interval=1", "dataset.num_workers=0", "dataset.batch_size=4"),
        *("optimization.max_update=3", "optimization.update_freq=[2]", "criterion.l2=0"),
        *("model.widths=[4,6]", "model.kernels=[8,4]", "task.log_gradient_norms=true"),
    ]
    train(tmp_path, words)
    lines = logged(tmp_path)
    assert len(lines) == 3
    for line in lines:
        first, second = line["gradient_norm_1"], line["gradient_norm_2"]
        assert 0 < (first**2 + second**2) ** 0.5 <= line["gnorm"] + 0.002
        assert "gradient_norm_3" not in line
    assert not [key for key in logged(tmp_path, "valid")[0] if "gradient_norm" in key]
