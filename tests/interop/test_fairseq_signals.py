"""Checkpoints of fairseq-signals, of several ages, become ours."""

import sys
import types

import pytest
import torch

from fairseq_ecg.checkpoint import load_pretrained, read_checkpoint
from fairseq_ecg.interop.fairseq_signals import convert
from tests.golden import RELATIVE, distance, load

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
    torch.save({**raw, "cfg": {**raw["cfg"], "model": model_cfg}}, tmp_path / "a.pt")
    monkeypatch.delitem(sys.modules, module.__name__)
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.model_cfg["extractor_mode"] == "default"
    assert load_pretrained(tmp_path / "a.pt")[0] is not None
