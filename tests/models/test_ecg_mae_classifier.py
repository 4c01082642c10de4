"""Fine-tuning of ECG-MAE: pooling, probe, learning rates per layer, weight decay."""

import pytest
import torch
from fairseq import optim
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch.nn import functional

from tests.models.test_encoder import build as build_encoder
from tests.models.test_encoder import save
from tests.tiny import TINY_MAE, TINY_TRANSFORMER

NAME = "ecg_mae_classifier"
ADAMW = {"_name": "ecg_adamw", "lr": [0.01], "weight_decay": 0.05}


def build(name=NAME, **cfg):
    torch.manual_seed(0)
    sizes = TINY_MAE if name == NAME else TINY_TRANSFORMER
    cfg = {"_name": name, "num_labels": 3, "in_d": 3, **sizes, **cfg}
    return build_model(OmegaConf.create(cfg), None)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Return a checkpoint and its network."""
    sizes = {**TINY_MAE, "in_d": 3}
    encoder = build_encoder("ecg_mae", **sizes)
    return save(tmp_path_factory.mktemp("mae") / "mae.pt", "ecg_mae", sizes, encoder), encoder


# --- what is loaded -------------------------------------------------------------------------------


def test_the_encoder_is_the_pretrained_one_bit_for_bit_without_its_decoder(pretrained):
    path, encoder = pretrained
    model = build(model_path=path)
    expected = {k: v for k, v in encoder.state_dict().items() if not k.startswith("decoder.")}
    found = model.encoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert model.encoder.decoder is None


def test_with_nothing_hidden_pretraining_and_fine_tuning_see_the_same(pretrained):
    path, encoder = pretrained
    model = build(model_path=path).eval()
    source = torch.randn(2, 3, 100)
    nothing = torch.zeros(2, 3, 20, dtype=torch.bool)
    with torch.no_grad():
        expected = encoder(source, None, nothing)["features"]
        assert torch.equal(model(source)["encoder_out"], expected)


def test_a_fresh_network_has_no_decoder_and_takes_the_rate_of_a_task():
    model = build(stem_kernels_ms=[12.0], sample_rate=250, stem_channels=8)
    assert model.encoder.decoder is None
    assert model.encoder.embedding.stem.blocks[0].convs[0].kernel_size == (3,)


# --- head -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
def test_the_mean_of_valid_tokens_is_normalised_and_projected(pretrained, padded):
    model = build(model_path=pretrained[0]).eval()
    torch.nn.init.normal_(model.proj.weight)
    torch.nn.init.normal_(model.encoder.norm.weight)
    source = torch.randn(2, 3, 100)
    padding = (torch.arange(100) >= 60).expand(2, 100) if padded else None
    seen = []
    model.encoder.blocks[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
    out = model(source, padding)["out"]
    tokens = seen[0][:, 1:]  # without the class token; padded ones are not encoded
    assert tokens.shape[1] == (12 if padded else 20)
    norm = model.encoder.norm
    pooled = functional.layer_norm(tokens.mean(1), (16,), norm.weight, norm.bias, 1e-6)
    assert torch.allclose(out, model.proj(pooled), atol=1e-5)


def test_a_fresh_norm_takes_the_place_of_the_pretrained_one(pretrained):
    model = build(model_path=pretrained[0], pool_norm="fresh").eval()
    torch.nn.init.normal_(model.proj.weight)
    torch.nn.init.normal_(model.encoder.norm.weight)
    source = torch.randn(2, 3, 100)
    mean = model.encoder.encode(source)["mean"]
    expected = model.proj(functional.layer_norm(mean, (16,), eps=1e-6))
    assert torch.allclose(model(source)["out"], expected, atol=1e-5)


def test_the_class_token_can_be_used_instead(pretrained):
    model = build(model_path=pretrained[0], pool="cls").eval()
    torch.nn.init.normal_(model.proj.weight)
    source = torch.randn(2, 3, 100)
    expected = model.proj(model.encoder.encode(source)["class_token"])
    assert torch.equal(model(source)["out"], expected)


@pytest.mark.parametrize("cfg", [{"class_token": False}, {"transformer": False}])
def test_a_token_that_is_not_there_or_knows_nothing_is_refused(cfg):
    with pytest.raises(ValueError, match="model.pool=cls needs an encoder"):
        build(pool="cls", **cfg)


def test_the_head_starts_near_zero():
    weight = build(embed_dim=64, num_labels=71).proj.weight.detach()
    assert weight.std() == pytest.approx(2e-5, rel=0.1)


def test_drop_path_is_the_runs_own_and_grows_with_depth(pretrained):
    model = build(model_path=pretrained[0], drop_path=0.3)
    rates = [block.dropout[1].rate for block in model.encoder.blocks]
    assert rates == [0.0, 0.3]
    source = torch.randn(8, 3, 100)
    model.train()
    torch.manual_seed(0)
    one, two = (model(source)["encoder_out"] for _ in range(2))
    assert not torch.equal(one, two)
    model.eval()
    assert torch.equal(model(source)["out"], model(source)["out"])


# --- probe ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"stem_norm": "batch"}])
def test_a_probe_trains_the_last_layer_only(more):
    model = build(freeze_finetune_updates=10, head_norm="batch", **more)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    model.train()
    model.set_num_updates(3)
    model(torch.randn(8, 3, 100))["out"].square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == [
        "proj.weight",
        "proj.bias",
    ]
    assert not any(module.training for module in model.encoder.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    assert model.head_norm.training
    assert model.head_norm.running_mean.abs().sum() > 0
    assert list(model.head_norm.parameters()) == []


# --- learning rates and weight decay --------------------------------------------------------------


def groups_of(model):
    """Return (scale, decay) by name, as the optimizer has them."""
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = optim.build_optimizer(OmegaConf.create(ADAMW), list(model.parameters()))
    return {
        names[id(p)]: (group["lr"] / 0.01, group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize(
    "cfg", [{}, {"tokens": "lead_time"}, {"position": "learned", "window": 100}]
)
def test_learning_rates_fall_from_the_head_to_the_embedding(cfg):
    model = build(layer_decay=0.75, depth=3, pool_norm="fresh", **cfg)
    found = groups_of(model)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, (scale, decay) in found.items():
        exponent = 4
        if name.startswith(("proj.", "pool_norm.", "encoder.norm.")):
            exponent = 0
        elif name.startswith("encoder.blocks."):
            exponent = 3 - int(name.split(".")[2])
        assert scale == pytest.approx(0.75**exponent), name
        kernel = name.endswith("weight") and "norm" not in name
        assert decay == (0.05 if kernel else 0.0), name
    assert found["encoder.blocks.2.fc1.weight"] == (pytest.approx(0.75), 0.05)
    assert found["encoder.class_token"] == (pytest.approx(0.75**4), 0.0)


def test_a_step_moves_each_layer_by_its_share():
    model = build(layer_decay=0.5, drop_path=0.0)
    torch.nn.init.normal_(model.proj.weight)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    cfg = {**ADAMW, "weight_decay": 0.0}
    optimizer = optim.build_optimizer(OmegaConf.create(cfg), list(model.parameters()))
    model(torch.randn(8, 3, 100))["out"].square().sum().backward()
    optimizer.step()
    moved = {n: (p - before[n]).abs().max().item() for n, p in model.named_parameters()}
    expected = {"proj.bias": 1, "encoder.blocks.1.fc1.weight": 2, "encoder.blocks.0.fc1.weight": 4}
    expected["encoder.embedding.proj.weight"] = 8
    for name, divisor in expected.items():
        assert moved[name] == pytest.approx(0.01 / divisor, rel=0.02), name


def test_other_transformers_have_layers_too_and_networks_without_them_are_refused(tmp_path):
    sizes = {**TINY_TRANSFORMER, "encoder_layers": 3, "in_d": 3}
    path = save(
        tmp_path / "t.pt", "ecg_transformer", sizes, build_encoder("ecg_transformer", **sizes)
    )
    found = groups_of(build(model_path=path, layer_decay=0.5))
    assert found["encoder.encoder.layers.2.fc1.weight"][0] == 0.5
    assert found["encoder.encoder.layers.0.fc1.weight"][0] == 0.125
    assert found["encoder.layer_norm.weight"][0] == 0.0625
    sizes = {"num_filters": "[4, 8]", "num_blocks": 1, "ratio": 4, "kernel_size": 3, "in_d": 3}
    path = save(tmp_path / "r.pt", "se_wrn", sizes, build_encoder("se_wrn", **sizes))
    with pytest.raises(ValueError, match="which SeWrn is not; give model.layer_decay=1"):
        build(model_path=path, layer_decay=0.5)


def test_an_optimizer_that_would_ignore_the_layers_is_refused():
    model = {"_name": NAME, "num_labels": 3, "in_d": 3, **TINY_MAE, "layer_decay": 0.75}
    root = OmegaConf.create({"model": model, "optimizer": {"_name": "adam"}})
    with pytest.raises(ValueError, match="optimizer adam has one learning rate.*ecg_adamw"):
        build_model(root.model, None)
    root.optimizer._name = "ecg_adamw"
    build_model(root.model, None)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"pool": "max"}, "model.pool is 'max'; give mean or cls"),
        ({"pool_norm": "none"}, "model.pool_norm is 'none'; give pretrained or fresh"),
        ({"head_norm": "layer"}, "model.head_norm is 'layer'; give none or batch"),
        ({"layer_decay": 0.0}, "model.layer_decay is 0.0; give a factor above 0, at most 1"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_the_way_out(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(**cfg)
