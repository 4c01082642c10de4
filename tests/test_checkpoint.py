"""Checkpoints are read without running anything in them, and errors say what is wrong."""

import os
import pickle
import zipfile

import pytest
import torch

from fairseq_ecg.checkpoint import (
    CONTRACT_KEYS,
    CheckpointError,
    build_model,
    load_pretrained,
    read_checkpoint,
)
from fairseq_ecg.engine import safe_globals
from tests.golden import RELATIVE, distance, load
from tests.tiny import TINY_TRANSFORMER

MODEL_CFG = {"_name": "ecg_transformer", **TINY_TRANSFORMER}


@pytest.fixture(scope="module")
def golden(shared):
    return load(shared / "golden" / "w2v_cmsc")


@pytest.fixture(scope="module")
def small():
    """The content of a small checkpoint of ours."""
    from fairseq.models import build_model as build
    from omegaconf import OmegaConf

    import fairseq_ecg.models  # noqa: F401

    model = build(OmegaConf.create(MODEL_CFG), None)
    contract = {"rate_hz": 500.0, "unit": "mV", "trained_on": {"corpus": "toy"}}
    return {
        "args": None,
        "cfg": {"model": MODEL_CFG, "task": {"_name": "ecg_pretraining", "normalize": False}},
        "model": model.state_dict(),
        "task_state": {"input_contract": contract},
    }


def write(path, content):
    torch.save(content, path)
    return path


def test_a_checkpoint_of_ours_brings_its_contract(small, tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a.pt", small))
    assert checkpoint.format == "fairseq_ecg"
    assert checkpoint.model_name == "ecg_transformer"
    assert checkpoint.task_cfg["normalize"] is False
    assert set(CONTRACT_KEYS) <= checkpoint.contract.keys()
    assert checkpoint.contract["unit"] == "mV"
    assert checkpoint.contract["labels"] is None
    assert checkpoint.contract["trained_on"] == {"corpus": "toy"}


def test_a_loaded_model_is_in_evaluation_mode_and_has_the_weights(small, tmp_path):
    model, contract = load_pretrained(write(tmp_path / "a.pt", small))
    assert not model.training
    assert contract["rate_hz"] == 500.0
    for key, value in model.state_dict().items():
        assert torch.equal(value, small["model"][key])


def test_the_references_checkpoint_gives_the_references_numbers(golden):
    model, contract = load_pretrained(golden.checkpoint)
    with torch.no_grad():
        pooled = model.embed(golden.arrays["source"])
    assert distance(pooled, golden.arrays["pooled"]) < RELATIVE
    assert contract["rate_hz"] == 500.0
    assert len(contract["leads"]) == 12
    assert contract["source_format"] == "fairseq_signals"


def test_keys_of_the_model_can_be_overridden_and_mistyped_ones_are_named(small, tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a.pt", small))
    assert build_model(checkpoint, dropout=0.7).encoder.dropout.p == 0.7
    with pytest.raises(CheckpointError, match="'droput' cannot be .*; did you mean dropout"):
        build_model(checkpoint, droput=0.7)
    with pytest.raises(CheckpointError, match="its model cannot be built"):
        build_model(checkpoint, encoder_attention_heads=3)


def test_values_that_fairseq_stores_besides_tensors_are_read(small, tmp_path):
    import numpy as np
    from omegaconf import OmegaConf

    content = {**small, "cfg": OmegaConf.create(small["cfg"]), "extra_state": np.float64(0.5)}
    assert read_checkpoint(write(tmp_path / "a.pt", content)).model_name == "ecg_transformer"


class _Trap:
    """Unpickling it in the usual way makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["cfg", "extra_state", "model"])
def test_an_object_that_would_run_a_command_is_refused_by_name_and_not_run(small, tmp_path, place):
    trace = tmp_path / "trace"
    path = write(tmp_path / "a.pt", {**small, place: {"x": _Trap(trace)}})
    with pytest.raises(
        CheckpointError, match=r"system, which only running code.*[Nn]othing was exe"
    ):
        read_checkpoint(path)
    assert not trace.exists()


def test_torch_refuses_such_an_object_even_if_the_scan_overlooks_it(small, tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    path = write(tmp_path / "a.pt", {**small, "extra_state": _Trap(trace)})
    monkeypatch.setattr("fairseq_ecg.checkpoint.get_unsafe_globals_in_checkpoint", lambda _: [])
    with pytest.raises(CheckpointError, match=r"is damaged or was not written"):
        read_checkpoint(path)
    assert not trace.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(_Trap(trace)))
    with pytest.raises(
        CheckpointError,
        match="bare pickle, or was written by torch before 1.6.*Nothing in it was exec",
    ):
        read_checkpoint(path)
    assert not trace.exists()


def test_allowed_classes_cannot_be_turned_into_a_call(small, tmp_path):
    """A default dictionary calls its factory when a key is absent; only harmless ones load."""

    class _Dict(dict):
        def __reduce__(self):
            import collections

            return collections.defaultdict, (os.getcwd,)

    path = write(tmp_path / "a.pt", {**small, "extra_state": _Dict()})
    with pytest.raises(CheckpointError, match="getcwd"):
        read_checkpoint(path)


@pytest.mark.parametrize("training", [False, True])
def test_reading_leaves_torchs_allow_list_as_it_was(golden, training):
    """Else a fine-tuning that has read ``model_path`` could not restore its own checkpoint."""
    found = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    if training:
        torch.serialization.add_safe_globals(safe_globals())
    try:
        before = set(torch.serialization.get_safe_globals())
        read_checkpoint(golden.checkpoint)
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(found)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: there is no such checkpoint file"):
        read_checkpoint(tmp_path / "gone.pt")


@pytest.mark.parametrize("kept", [0, 10, 1000, -1, -2000])
def test_a_truncated_file_is_named(small, tmp_path, kept):
    whole = write(tmp_path / "whole.pt", small).read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[:kept])
    with pytest.raises(CheckpointError, match=r"cut\.pt is (truncated|damaged)"):
        read_checkpoint(path)


def test_a_flipped_byte_in_the_weights_is_noticed(small, tmp_path):
    path = write(tmp_path / "a.pt", small)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        members = [i for i in archive.infolist() if "/data/" in i.filename]
        member = max(members, key=lambda i: i.file_size)
        weights = archive.read(member)
    content[content.index(weights) + 8] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="is damaged or was not written by torch.save"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds an object of type list, no checkpoint"),
        ({"weights": 1}, "it has no 'model' .found: weights"),
        ({"model": {}, "args": None}, "it has no 'cfg'"),
        ({"model": {}, "cfg": {"task": {}}}, "its cfg has no model section"),
        ({"model": {"a": 1}, "cfg": {"model": {}}}, "not a dictionary of tensors"),
        ({"model": {}, "cfg": {"model": {"_name": "ecg_transfromer"}}}, "mean ecg_transformer"),
        ({"model": {}, "cfg": {"model": {"_name": "m3ae"}}}, "'m3ae' is not known"),
        ({"model": {}, "cfg": {"model": {}}}, "None is not known"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_of_a_known_model_is_refused(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(write(tmp_path / "a.pt", content))


def test_fairseqs_own_wav2vec2_is_not_mistaken_for_ours(tmp_path):
    cfg = {"model": {"_name": "wav2vec2"}, "generation": {}, "ema": {}}
    with pytest.raises(CheckpointError, match="'wav2vec2' is not known"):
        read_checkpoint(write(tmp_path / "a.pt", {"model": {}, "cfg": cfg}))


def test_code_in_the_layer_specification_is_refused_and_not_run(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_cfg = {**MODEL_CFG, "conv_feature_layers": "__import__('os').system('touch trace')"}
    path = write(tmp_path / "a.pt", {**small, "cfg": {"model": model_cfg}})
    with pytest.raises(CheckpointError, match=r"conv_feature_layers.*is not understood"):
        read_checkpoint(path)
    assert not (tmp_path / "trace").exists()


def test_weights_that_do_not_fit_are_listed(small, tmp_path):
    state = dict(small["model"])
    state["surplus"] = state.pop("layer_norm.bias")
    state["layer_norm.weight"] = torch.zeros(3)
    path = write(tmp_path / "a.pt", {**small, "model": state})
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(path)
    message = str(caught.value)
    assert "1 missing (layer_norm.bias)" in message
    assert "1 unexpected (surplus)" in message
    assert "layer_norm.weight [3] instead of [8]" in message
