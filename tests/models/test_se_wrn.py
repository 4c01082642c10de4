"""SE-WRN: sizes, formula, padding, checkpoints."""

import pytest
import torch
from torch.nn import functional

from fairseq_ecg.checkpoint import load_pretrained
from tests.models.test_nejedly2021resnet import build as build_any
from tests.tiny import save_checkpoint

NAME = "se_wrn_classifier"
SMALL = {"num_blocks": 2, "num_filters": "[6, 4, 8]", "kernel_size": 5, "ratio": 2}


def build(**cfg):
    return build_any(NAME, **cfg)


def test_parameters_buffers_and_frames_are_those_of_the_reference():
    model = build(num_labels=26).eval()
    assert sum(p.numel() for p in model.parameters()) == 1_354_404
    assert sum(b.numel() for b in model.buffers()) == 2_937
    with torch.no_grad():
        output = model(torch.randn(2, 12, 2500))
    assert output["encoder_out"].shape == (2, 157, 128)
    assert output["out"].shape == (2, 26)


def test_the_keys_of_the_state_dict_are_those_of_fairseq_signals():
    state = build(num_labels=4, **SMALL).state_dict()
    names = {key.removesuffix(".num_batches_tracked") for key in state}
    blocks = [f"encoder.groups.{g}.layers.{b}" for g in range(2) for b in range(2)]
    expected = {"encoder.conv.weight", "proj.weight", "proj.bias"}
    norms = ["encoder.bn", "bn", *(f"{block}.bn2" for block in blocks)]
    norms += [f"{block}.bn1" for block in blocks[1:]]  # the first has had its norm
    for norm in norms:
        expected |= {norm, *(f"{norm}.{n}" for n in ("weight", "bias"))}
        expected |= {f"{norm}.{n}" for n in ("running_mean", "running_var")}
    for block in blocks:
        expected |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
        expected |= {f"{block}.{fc}.{n}" for fc in ("fc1", "fc2") for n in ("weight", "bias")}
    expected |= {f"{block}.idfunc_1.weight" for block in blocks[::2]}
    assert names == expected
    assert state["encoder.groups.1.layers.0.conv1.weight"].shape == (8, 4, 5)
    assert state["encoder.groups.1.layers.0.fc1.weight"].shape == (4, 8)


@pytest.mark.parametrize("n_samples", [5, 48, 101])
def test_encoder_and_head_are_the_formula(n_samples):
    model = build(num_labels=3, **SMALL).eval()
    encoder = model.encoder
    source = torch.randn(2, 12, n_samples)
    with torch.no_grad():
        x = functional.relu(encoder.bn(encoder.conv(source)))
        for g, group in enumerate(encoder.groups):
            for b, block in enumerate(group.layers):
                y = x if g == b == 0 else functional.relu(block.bn1(x))
                y = block.conv2(functional.relu(block.bn2(block.conv1(y))))
                scale = torch.sigmoid(block.fc2(functional.relu(block.fc1(y.mean(-1)))))
                y = y * scale[..., None]
                if b == 0:
                    x = block.idfunc_1(functional.avg_pool1d(x, 2, 2, ceil_mode=True))
                x = x + y
        output = model(source)
        torch.testing.assert_close(output["encoder_out"], x.transpose(1, 2), atol=1e-5, rtol=1e-5)
        largest = functional.adaptive_max_pool1d(functional.relu(model.bn(x)), 1)[..., 0]
        torch.testing.assert_close(output["out"], model.proj(largest), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 33, 90, 99])
def test_a_padded_recording_gives_what_it_gives_alone(length):
    model = build(num_labels=3, **SMALL).eval()
    source = torch.randn(2, 12, 100)
    padding = torch.arange(100) >= torch.tensor([[100], [length]])
    with torch.no_grad():
        batch, alone = model(source, padding), model(source[1:, :, :length])
    torch.testing.assert_close(batch["out"][1:], alone["out"])
    frames = alone["encoder_out"].shape[1]
    assert (~batch["padding_mask"]).sum(1).tolist() == [25, frames]
    torch.testing.assert_close(batch["encoder_out"][1, :frames], alone["encoder_out"][0])


def test_widening_multiplies_the_channels_of_the_groups_only():
    """The reference cannot build a factor above 1: its first convolution is not widened either."""
    model = build(num_labels=3, **SMALL, widening_factor=3)
    assert model.encoder.conv.out_channels == 6
    assert [group.layers[1].conv2.out_channels for group in model.encoder.groups] == [12, 24]
    assert model(torch.randn(2, 12, 40))["out"].shape == (2, 3)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"ratio": 3}, "model.ratio 3 does not divide the 4 channels"),
        ({"num_filters": "[8]"}, "names no group"),
        ({"num_filters": "open('x')"}, "a list of positive integers is expected"),
        ({"kernel_size": 4}, "4 is not odd"),
        ({"leadwise": True}, "model.leadwise is not supported"),
    ],
)
def test_what_cannot_be_built_is_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(num_labels=3, **{**SMALL, **cfg})


@pytest.mark.parametrize("widening", [1, 2])
def test_a_checkpoint_opens_by_itself_and_its_encoder_is_taken_over(tmp_path, widening):
    model = build(num_labels=5, **SMALL, in_d=2, conv_bias=True, widening_factor=widening).eval()
    path = save_checkpoint(tmp_path / "a.pt", {"_name": NAME, "widening_factor": widening}, model)
    source = torch.randn(2, 2, 64)
    opened, _ = load_pretrained(path)
    assert torch.equal(opened(source)["out"], model(source)["out"])
    tuned = build(model_path=path, num_labels=2, dropout=0.7)
    assert torch.equal(tuned.eval().embed(source), model.embed(source))
    assert tuned.encoder.groups[0].layers[0].dropout.p == 0.7


def test_a_checkpoint_of_fairseq_signals_opens(tmp_path):
    model = build(num_labels=6, **SMALL).eval()
    cfg = {"_name": NAME, "num_filters": "[6, 4, 8]", "final_dropout": 0.3, "leadwise": False}
    content = {"cfg": {"model": cfg, "task": {"_name": "ecg_classification"}}}
    torch.save({**content, "model": model.state_dict()}, tmp_path / "theirs.pt")
    opened, contract = load_pretrained(tmp_path / "theirs.pt")
    source = torch.randn(2, 12, 64)
    assert torch.equal(opened(source)["out"], model(source)["out"])
    assert contract["source_format"] == "fairseq_signals"
