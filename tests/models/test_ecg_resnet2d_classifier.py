"""Classes from the residual network on spectrograms: head, a checkpoint of one lead for several."""

from types import SimpleNamespace

import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from tests.tiny import TINY_RESNET, TINY_SPECTROGRAM, save_checkpoint, shaken

NAME = "ecg_resnet2d_classifier"
TINY = {**TINY_RESNET, **TINY_SPECTROGRAM, "in_d": 1}


def build(task=None, **cfg):
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": NAME, **cfg}), task)


def test_parameters_with_a_head_of_five_classes():
    with torch.device("meta"):
        assert sum(p.numel() for p in build(num_labels=5).parameters()) == 11_170_240 + 5 * 513


def test_the_head_is_linear_on_the_pooled_vector():
    model = shaken(build(num_labels=3, masked_gap=True, **TINY)).eval()
    source, padding = torch.randn(2, 1, 512), torch.arange(512) < torch.tensor([[0], [300]])
    with torch.no_grad():
        output = model(source, padding)
        torch.testing.assert_close(output["out"], model.proj(model.embed(source, padding)))
    assert output["encoder_out"].shape == (2, 4, 8)
    assert output["padding_mask"].sum(1).tolist() == [0, 2]


def test_an_encoder_of_one_lead_takes_twelve_and_says_of_equal_ones_the_same(tmp_path):
    one = shaken(build(num_labels=5, **TINY)).eval()
    path = save_checkpoint(tmp_path / "one.pt", {"_name": NAME, "num_labels": 5, **TINY}, one)
    task = SimpleNamespace(num_labels=4, num_leads=12)
    model = build(task, model_path=path, inflate_in_channels=True).eval()
    assert model.encoder.stem.weight.shape == (4, 12, 7, 7)
    source = torch.randn(2, 1, 256)
    torch.testing.assert_close(
        model.embed(source.expand(-1, 12, -1)), one.embed(source), atol=1e-5, rtol=1e-5
    )
