"""Checkpoints of fairseq-signals, of several ages, become ours."""

import sys
import types

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg.checkpoint import CheckpointError, load_pretrained, read_checkpoint
from fairseq_ecg.conversion import convert_checkpoint
from fairseq_ecg.interop.fairseq_signals import KINDS, convert
from tests.golden import RELATIVE, distance, load
from tests.tiny import TINY_TRANSFORMER, TINY_WAV2VEC2

POSITIONS = "conv_pos.pos_conv.0."
NEW = "parametrizations.weight.original"


@pytest.fixture(scope="module")
def golden(shared):
    return load(shared / "golden" / "w2v_cmsc")


@pytest.fixture(scope="module")
def raw(golden):
    return torch.load(golden.checkpoint, weights_only=True)


def _aged(state, *, weight_norm=False, inside_encoder=False):
    aged = {}
    for key, value in state.items():
        if weight_norm:
            key = key.replace(f"{NEW}0", "weight_g").replace(f"{NEW}1", "weight_v")
        if inside_encoder:
            key = key.replace(POSITIONS, "encoder.pos_conv.0.")
        aged[key] = value
    return aged


@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize("inside_encoder", [False, True])
def test_every_spelling_of_the_positional_convolution_is_read(
    golden, raw, tmp_path, weight_norm, inside_encoder
):
    state = _aged(raw["model"], weight_norm=weight_norm, inside_encoder=inside_encoder)
    assert (state.keys() == raw["model"].keys()) == (not weight_norm and not inside_encoder)
    torch.save({**raw, "model": state}, tmp_path / "a.pt")
    model, _ = load_pretrained(tmp_path / "a.pt")
    with torch.no_grad():
        pooled = model.embed(golden.arrays["source"])
    assert distance(pooled, golden.arrays["pooled"]) < RELATIVE


def test_old_spellings_of_a_classifiers_encoder_are_read_too(raw):
    state = {f"encoder.{k}": v for k, v in _aged(raw["model"], weight_norm=True).items()}
    parts = convert({**raw, "model": state})
    assert f"encoder.{POSITIONS}{NEW}1" in parts["state"]


def test_wav2vec2_becomes_ecg_wav2vec2(raw, tmp_path):
    cfg = {**raw["cfg"], "model": {**raw["cfg"]["model"], "_name": "wav2vec2"}}
    torch.save({**raw, "cfg": cfg}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").model_name == "ecg_wav2vec2"


@pytest.mark.parametrize(
    ("task", "in_d", "leads"),
    [
        ({}, 12, 12),
        ({"leads_to_load": "[0, 1]"}, 2, ["I", "II"]),
        ({"leads_to_load": "['II', 'V2']", "enable_padding_leads": True}, 12, 12),
        ({}, 3, None),
    ],
)
def test_the_leads_of_the_contract_are_the_rows_the_network_sees(raw, task, in_d, leads):
    cfg = {"model": {**raw["cfg"]["model"], "in_d": in_d}, "task": task}
    found = convert({**raw, "cfg": cfg})["contract"]["leads"]
    assert (len(found) if leads == 12 else found) == leads


def test_what_the_file_does_not_say_is_none(raw):
    contract = convert({**raw, "cfg": {"model": raw["cfg"]["model"], "task": {}}})["contract"]
    assert contract["rate_hz"] is None
    assert contract["unit"] is None
    assert contract["segment_s"] is None


def test_length_and_rate_give_the_segment(raw):
    task = {"sample_rate": 500, "max_sample_size": 2500}
    contract = convert({**raw, "cfg": {"model": raw["cfg"]["model"], "task": task}})["contract"]
    assert contract["segment_s"] == 5.0


def test_its_own_classes_are_read_as_inert_stand_ins(raw, tmp_path, monkeypatch):
    """Such a file needs a class that is not installed; it is neither imported nor called."""
    module = types.ModuleType("fairseq_signals.dataclass.constants")

    class Choice:
        def __init__(self, value):
            self.value = value

        def __reduce__(self):
            return Choice, (self.value,)

    Choice.__module__, Choice.__qualname__ = module.__name__, "Choice"
    module.Choice = Choice
    for name in ("fairseq_signals", "fairseq_signals.dataclass"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model_cfg = {**raw["cfg"]["model"], "extractor_mode": Choice("default")}
    criterion_cfg = {"_name": "binary_cross_entropy_with_logits", "auc_average": Choice("micro")}
    cfg = {**raw["cfg"], "model": model_cfg, "criterion": criterion_cfg}
    torch.save({**raw, "cfg": cfg}, tmp_path / "a.pt")
    monkeypatch.delitem(sys.modules, module.__name__)
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.model_cfg["extractor_mode"] == "default"
    assert load_pretrained(tmp_path / "a.pt")[0] is not None
    convert_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    assert read_checkpoint(tmp_path / "b.pt").criterion_cfg["auc_average"] == "micro"


# --- networks of every age and mode, built here from their key names and shapes -------------------

SMALL = {**TINY_TRANSFORMER, "encoder_layers": 2}
PRETRAINING = {**TINY_WAV2VEC2, "encoder_layers": 2}
TASK = {"_name": "ecg_pretraining", "normalize": False, "filter": False, "sample_rate": None}
OF_2022 = (
    ("encoder.layers.", "encoder.encoder.layers."),
    ("conv_pos.pos_conv.0.", "encoder.pos_conv.0."),
    ("q_proj", "W_Q"),
    ("k_proj", "W_K"),
    ("v_proj", "W_V"),
    ("out_proj", "linear"),
    ("self_attn_layer_norm", "norm_layer1"),
    ("final_layer_norm", "norm_layer2"),
    ("fc1", "pos_ffn.fc1"),
    ("fc2", "pos_ffn.fc2"),
    (f"{NEW}0", "weight_g"),
    (f"{NEW}1", "weight_v"),
)


def network(name, **cfg):
    """Return a small network of ours whose every number is drawn."""
    torch.manual_seed(3)
    model = build_model(OmegaConf.create({"_name": name, **cfg}), None).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model


def foreign(path, name, state, cfg, task=TASK):
    """Write a file as the reference does."""
    content = {"args": None, "cfg": {"model": {"_name": name, **cfg}, "task": task}, "model": state}
    torch.save({**content, "task_state": {}, "extra_state": {}}, path)
    return path


def as_of_2022(state):
    aged = {}
    for key, value in state.items():
        for new, old in OF_2022:
            key = key.replace(new, old)
        aged[key] = value
    return aged


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_cmsc", "ecg_transformer"])
def test_both_norms_of_the_convolutions_are_told_apart_by_their_keys(tmp_path, name, mode):
    ours = {"wav2vec2": "ecg_wav2vec2"}.get(name, name)
    cfg = SMALL if name == "ecg_transformer" else PRETRAINING
    model = network(ours, **cfg, extractor_mode=mode)
    path = foreign(tmp_path / "a.pt", name, model.state_dict(), {**cfg, "extractor_mode": mode})
    source = torch.randn(2, 12, 300)
    opened, _ = load_pretrained(path)
    assert torch.equal(opened.embed(source), model.embed(source))
    # the fine-tuning configuration of the reference does not say the mode; the tensors do
    tuned = build_model(
        OmegaConf.create(
            {"_name": "ecg_transformer_classifier", "model_path": str(path), "num_labels": 3}
        ),
        None,
    ).eval()
    args = {"model": {"_name": name, **cfg}, "task": TASK}
    sizes = {"encoder_attention_heads": 1, "encoder_embed_dim": 16, "args": args}
    second = foreign(tmp_path / "b.pt", "ecg_transformer_classifier", tuned.state_dict(), sizes)
    again, _ = load_pretrained(second)
    assert again.encoder.encoder.layers[0].self_attn.heads == 4, "heads are those of args"
    assert torch.equal(again(source)["out"], tuned(source)["out"])


def test_what_a_fine_tuned_model_never_uses_is_left_out(tmp_path):
    inner = network("wav2vec2_cmsc", **PRETRAINING).state_dict()
    state = {f"encoder.{key}": value for key, value in inner.items()}
    state |= {"proj.weight": torch.zeros(3, 16), "proj.bias": torch.zeros(3)}
    path = foreign(tmp_path / "a.pt", "linear_projection", state, SMALL)
    model, _ = load_pretrained(path)
    assert model.proj.out_features == 3
    assert not [key for key in model.state_dict() if "quantizer" in key or "mask_emb" in key]


def test_an_arcface_model_opens(tmp_path):
    inner = network("ecg_transformer", **SMALL).state_dict()
    state = {f"encoder.{key}": value for key, value in inner.items()} | {"kernel": torch.eye(5, 16)}
    model, _ = load_pretrained(foreign(tmp_path / "a.pt", "arcface", state, SMALL))
    assert torch.equal(model.kernel, torch.eye(5, 16))


@pytest.mark.parametrize("tuned", [False, True])
def test_the_layout_of_2022_becomes_todays_key_by_key(tmp_path, caplog, tuned):
    model = network("wav2vec2_cmsc", **PRETRAINING)
    today = model.state_dict()
    cfg = {**PRETRAINING, "final_dim": 0}  # 0 stood for the encoder's width, or was overridden
    del cfg["apply_mask"]  # was not a key yet
    name, keys, state = "wav2vec2_clocs", today, as_of_2022(today)
    if tuned:
        keys = {
            k: v
            for k, v in today.items()
            if not k.startswith(("mask_emb", "quantizer", "proj", "final"))
        }
        state = {f"encoder.{key}": value for key, value in as_of_2022(keys).items()}
        keys = {f"encoder.{key}": value for key, value in keys.items()}
        head = {"proj.weight": torch.ones(3, 16), "proj.bias": torch.zeros(3)}
        name, keys, state = "linear_projection", {**keys, **head}, {**state, **head}
    assert not any("q_proj" in key or "parametrizations" in key for key in state)
    path = foreign(tmp_path / "a.pt", name, state, cfg)
    opened, _ = load_pretrained(path)
    found = opened.state_dict()
    assert found.keys() == keys.keys()
    assert all(torch.equal(found[key], value) for key, value in keys.items())
    encoder = opened.encoder.encoder if tuned else opened.encoder
    assert {layer.final_layer_norm.eps for layer in encoder.layers} == {1e-6}
    assert {layer.self_attn_layer_norm.eps for layer in encoder.layers} == {1e-6}
    assert encoder.layer_norm.eps == 1e-5
    assert "attention over the recordings of a batch" in caplog.text


def test_the_epsilon_of_2022_reaches_a_network_that_is_fine_tuned_from_it(tmp_path):
    state = as_of_2022(network("wav2vec2_cmsc", **PRETRAINING).state_dict())
    path = foreign(tmp_path / "a.pt", "wav2vec2_cmsc", state, PRETRAINING)
    cfg = {"_name": "ecg_transformer_classifier", "model_path": str(path), "num_labels": 3}
    model = build_model(OmegaConf.create(cfg), None)
    assert model.encoder.encoder.layers[1].final_layer_norm.eps == 1e-6


@pytest.mark.parametrize(
    ("keys", "what", "name"),
    [
        (("proj.pooler.query_tokens", "proj.linear.weight"), "attentive pooling", "ecg_transformer_classifier"),
        (("proj.pooler.query_tokens", "proj.linear.weight"), "attentive pooling", "ecg_transformer_attn_classifier"),
        (("proj.weight",), "attentive pooling", "ecg_transformer_attn_classifier"),
        (("aux_proj.0.weight", "proj.weight"), "age and sex", "ecg_transformer_aux_classifier"),
        (("proj.weight",), "age and sex", "ecg_transformer_aux_classifier"),  # raw, without a layer
    ],
)  # fmt: skip
def test_a_head_that_is_not_known_is_refused_and_its_encoder_can_be_used(
    tmp_path, keys, what, name
):
    inner = network("ecg_transformer", **SMALL)
    state = {f"encoder.{key}": value for key, value in inner.state_dict().items()}
    state |= {key: torch.zeros(1, 1, 16) for key in keys}
    path = foreign(tmp_path / "a.pt", name, state, SMALL)
    with pytest.raises(
        CheckpointError, match=rf"{what}.*model_path={path}.*convert {path} OUT --enc"
    ):
        load_pretrained(path)
    cfg = {"_name": "ecg_transformer_classifier", "model_path": str(path), "num_labels": 3}
    model = build_model(OmegaConf.create(cfg), None).eval()
    source = torch.randn(2, 12, 300)
    assert torch.equal(model.embed(source), inner.embed(source))


def base_size():
    """Return names and shapes of the published pretraining model (90,883,072 numbers)."""
    shapes = {
        "mask_emb": (768,),
        "feature_extractor.conv_layers.0.0.weight": (256, 12, 2),
        "feature_extractor.conv_layers.0.2.weight": (256,),
        "feature_extractor.conv_layers.0.2.bias": (256,),
        **{f"feature_extractor.conv_layers.{i}.0.weight": (256, 256, 2) for i in (1, 2, 3)},
        "layer_norm.weight": (256,),
        "layer_norm.bias": (256,),
        "conv_pos.pos_conv.0.bias": (768,),
        "conv_pos.pos_conv.0.weight_g": (1, 1, 128),
        "conv_pos.pos_conv.0.weight_v": (768, 48, 128),
        "encoder.layer_norm.weight": (768,),
        "encoder.layer_norm.bias": (768,),
        "quantizer.vars": (1, 640, 128),
    }
    linear = {
        "post_extract_proj": (768, 256),
        "quantizer.weight_proj": (640, 256),
        "project_q": (256, 256),
        "final_proj": (256, 768),
    }
    for i in range(12):
        layer = f"encoder.layers.{i}"
        linear |= {f"{layer}.self_attn.{p}_proj": (768, 768) for p in "kvq"}
        linear |= {f"{layer}.self_attn.out_proj": (768, 768)}
        linear |= {f"{layer}.fc1": (3072, 768), f"{layer}.fc2": (768, 3072)}
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{layer}.{norm}.weight": (768,), f"{layer}.{norm}.bias": (768,)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def test_a_file_of_the_published_size_has_every_tensor_of_ours_and_no_other():
    cfg = {"apply_mask": True, "mask_prob": 0.65, "quantize_targets": True, "final_dim": 256}
    state = {key: torch.empty(shape, device="meta") for key, shape in base_size().items()}
    raw = {"cfg": {"model": {"_name": "wav2vec2_cmsc", **cfg}, "task": TASK}, "model": state}
    parts = convert(raw)
    with torch.device("meta"):
        model = build_model(OmegaConf.create({"_name": "wav2vec2_cmsc", **cfg}), None)
    ours = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in parts["state"].items()} == ours
    assert sum(shape.numel() for shape in ours.values()) == 90_883_072


# --- what the data were -----------------------------------------------------------------------------


def test_the_kind_fills_in_what_the_file_does_not_say(tmp_path):
    state = network("ecg_transformer", **SMALL).state_dict()
    path = foreign(tmp_path / "a.pt", "ecg_transformer", state, SMALL)
    found = {kind: read_checkpoint(path, kind).contract for kind in KINDS}
    expected = {
        "chil": (500.0, "mV", "none", 5.0),
        "ecg-fm": (500.0, "standard deviations", "record", 5.0),
        "deepecg": (250.0, "mV", "none", None),
    }
    keys = ("rate_hz", "unit", "standardize", "segment_s")
    assert {kind: tuple(c[key] for key in keys) for kind, c in found.items()} == expected
    assert load_pretrained(path, "chil")[1] == found["chil"]


def test_without_a_kind_the_unit_stays_unknown_with_a_warning_that_says_how_to_settle_it(
    tmp_path, caplog
):
    state = network("ecg_transformer", **SMALL).state_dict()
    path = foreign(tmp_path / "a.pt", "ecg_transformer", state, SMALL)
    contract = read_checkpoint(path).contract
    assert (contract["rate_hz"], contract["unit"]) == (None, None)
    assert "does not say the rate and unit" in caplog.text
    assert "--kind chil|ecg-fm|deepecg" in caplog.text
    caplog.clear()
    read_checkpoint(path, "ecg-fm")
    assert caplog.text == ""


@pytest.mark.parametrize("place", ["task", "model", "args"])
def test_deepecg_is_known_by_the_options_that_only_its_fork_has(raw, place):
    cfg = {"model": dict(raw["cfg"]["model"]), "task": dict(TASK)}
    if place == "args":
        cfg["model"]["args"] = {"task": {"npy_dataset": True}}
    else:
        cfg[place]["npy_dataset" if place == "task" else "linear_evaluation"] = True
    assert convert({**raw, "cfg": cfg})["contract"]["rate_hz"] == 250.0
    with pytest.raises(ValueError, match=r"an option of DeepECG, so it is not of kind chil"):
        convert({**raw, "cfg": cfg}, "chil")


def test_what_the_file_says_counts_more_than_its_kind(raw):
    task = {**TASK, "sample_rate": 250, "max_sample_size": 500, "normalize": True}
    contract = convert({**raw, "cfg": {**raw["cfg"], "task": task}}, "chil")["contract"]
    assert (contract["rate_hz"], contract["segment_s"]) == (250.0, 2.0)
    assert contract["unit"] == "standard deviations"
    assert contract["normalize"] is True


def test_an_unknown_kind_is_refused(golden):
    with pytest.raises(
        CheckpointError, match=r"kind is 'ecgfm'; known kinds: chil, ecg-fm, deepecg"
    ):
        read_checkpoint(golden.checkpoint, "ecgfm")


# --- bad input --------------------------------------------------------------------------------------


def test_an_object_of_another_package_is_refused_and_not_made(tmp_path, monkeypatch):
    """Only classes of the reference itself have stand-ins; what else a file holds is named."""
    made = []

    class Tool:
        def __init__(self, *args):
            made.append(args)

        def __reduce__(self):
            return Tool, ()

    module = types.ModuleType("other_package")
    Tool.__module__, Tool.__qualname__ = "other_package", "Tool"
    module.Tool = Tool
    monkeypatch.setitem(sys.modules, "other_package", module)
    content = {"cfg": {"model": {"_name": "ecg_transformer"}}, "model": {}, "extra_state": Tool()}
    torch.save(content, tmp_path / "a.pt")
    made.clear()
    with pytest.raises(CheckpointError, match=r"other_package\.Tool.*Nothing was executed"):
        read_checkpoint(tmp_path / "a.pt")
    assert made == []


def test_a_truncated_file_is_named(golden, tmp_path):
    content = golden.checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt is truncated"):
        read_checkpoint(tmp_path / "cut.pt", "chil")
