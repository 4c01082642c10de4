"""Checkpoints from one layout to another and back, bit for bit."""

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg.checkpoint import CheckpointError, load_pretrained, read_checkpoint
from fairseq_ecg.cli.main import main
from fairseq_ecg.conversion import FORMATS, convert_checkpoint
from tests.golden import RELATIVE, distance, load
from tests.recordings import write_tone_store
from tests.runs import PRETRAINING, train
from tests.tiny import TINY_TRANSFORMER, TINY_WAV2VEC2

TASK = {
    "_name": "ecg_pretraining",
    "data": "/data",
    "normalize": False,
    "filter": False,
    "segment_s": 5.0,
    "leads_to_load": None,
    "standardize": "record",
}
CONTRACT = {
    "rate_hz": 500.0,
    "unit": "standard deviations",
    "standardize": "record",
    "trained_on": {"corpus": "toy", "records": torch.arange(3)},
}
# Sections of the reference's configuration, and what its loader touches of the rest.
SECTIONS = {
    *("common", "common_eval", "distributed_training", "dataset", "optimization", "checkpoint"),
    *("model", "task", "criterion", "lr_scheduler", "optimizer", "job_logging_cfg", "_name"),
}
FOREIGN = FORMATS[1]


@pytest.fixture(scope="module")
def golden(shared):
    return load(shared / "golden" / "w2v_cmsc")


def ours(path, name, tmp_path, task=TASK, **cfg):
    """Write a checkpoint of ours, fine-tuned ones from a pretrained one that lies beside."""
    torch.manual_seed(0)
    if name in ("ecg_transformer_classifier", "arcface"):
        pretrained = ours(tmp_path / "pretrained.pt", "wav2vec2_cmsc", tmp_path)
        cfg = {"model_path": str(pretrained), "num_labels": 3, **cfg}
    elif name in RESIDUAL:
        cfg = {**RESIDUAL[name], **cfg}
    elif name == "ecg_transformer":
        cfg = {**TINY_TRANSFORMER, **cfg}
    else:
        cfg = {**TINY_WAV2VEC2, **cfg}
    root = OmegaConf.create({"model": {"_name": name, **cfg}})
    model = build_model(root.model, None)
    if name in RESIDUAL:
        model(torch.randn(3, root.model.in_d, 90))  # so that batch norms have statistics
    content = {
        "args": None,
        "cfg": {**OmegaConf.to_container(root), "task": task},
        "model": model.state_dict(),
        "optimizer_history": [{"num_updates": 12}],
        "task_state": {"input_contract": CONTRACT},
    }
    torch.save(content, path)
    return path


NEJEDLY = {"in_d": 12, "num_blocks": 2, "num_filters": 16, "kernel_size": "[5, 3]", "stride": 3}
SE_WRN = {
    **{"in_d": 12, "num_blocks": 2, "num_filters": "[6, 8, 16]", "kernel_size": 5, "ratio": 4},
    **{"widening_factor": 2, "conv_bias": True},
}
RESIDUAL = {
    "nejedly2021resnet": NEJEDLY,
    "nejedly2021resnet_classifier": {**NEJEDLY, "num_labels": 3, "use_mha": True},
    "se_wrn": SE_WRN,
    "se_wrn_classifier": {**SE_WRN, "num_labels": 3},
}
# Keys of the reference's classes.
OF_EVERY_NETWORK = {"_name", "args", "all_gather", "normalize", "filter", "data"}
OF_NEJEDLY = {*OF_EVERY_NETWORK, *NEJEDLY, "conv_bias", "leadwise"}
OF_SE_WRN = {*OF_EVERY_NETWORK, *SE_WRN, "leadwise"}
OF_TUNING = {"model_path", "no_pretrained_weights", "freeze_finetune_updates"}
OF_TUNING |= {"final_dropout", "num_labels"}
RESIDUAL_KEYS = {
    "nejedly2021resnet": OF_NEJEDLY,
    "nejedly2021resnet_classifier": OF_NEJEDLY | OF_TUNING | {"indicate_leads", "use_mha"},
    "se_wrn": OF_SE_WRN,
    "se_wrn_classifier": OF_SE_WRN | OF_TUNING,
}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


MODELS = [
    "ecg_wav2vec2",
    "wav2vec2_cmsc",
    "ecg_transformer",
    "ecg_transformer_classifier",
    "arcface",
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["default", "layer_norm"])
def test_there_and_back_again_is_the_same_bit_for_bit(tmp_path, name, mode):
    tuned = name in ("ecg_transformer_classifier", "arcface")
    path = ours(tmp_path / "a.pt", name, tmp_path, **({} if tuned else {"extractor_mode": mode}))
    convert_checkpoint(path, tmp_path / "theirs.pt", FOREIGN)
    assert read_checkpoint(tmp_path / "theirs.pt").format == FOREIGN
    convert_checkpoint(tmp_path / "theirs.pt", tmp_path / "back.pt")
    first, back = read_checkpoint(path), read_checkpoint(tmp_path / "back.pt")
    assert equal(first.state, back.state)
    assert (back.format, back.model_name, back.num_updates) == ("fairseq_ecg", name, 12)
    assert torch.equal(back.contract["trained_on"].pop("records"), torch.arange(3))
    assert back.contract == {**first.contract, "trained_on": {"corpus": "toy"}}
    source = torch.randn(2, 12, 300)
    (tmp_path / "pretrained.pt").unlink(missing_ok=True)
    models = [load_pretrained(p)[0] for p in (path, tmp_path / "theirs.pt", tmp_path / "back.pt")]
    with torch.no_grad():
        outputs = [m(source)["out"] if tuned else m.embed(source) for m in models]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in RESIDUAL),
        ("nejedly2021resnet_classifier", {"indicate_leads": True, "use_mha": False}),
    ],
)
def test_residual_networks_there_and_back_again_are_the_same(tmp_path, name, more, caplog):
    path = ours(tmp_path / "a.pt", name, tmp_path, **more)
    convert_checkpoint(path, tmp_path / "theirs.pt", FOREIGN)
    assert ("fairseq-signals takes a lead for absent" in caplog.text) == bool(more)
    convert_checkpoint(tmp_path / "theirs.pt", tmp_path / "back.pt")
    first, back = read_checkpoint(path), read_checkpoint(tmp_path / "back.pt")
    assert equal(first.state, back.state)
    assert any(key.endswith("num_batches_tracked") for key in back.state)
    assert (back.model_name, back.num_updates) == (name, 12)
    theirs = torch.load(tmp_path / "theirs.pt", weights_only=True)
    assert equal(theirs["model"], first.state), "their keys are ours"
    model = theirs["cfg"]["model"]
    assert model.keys() == RESIDUAL_KEYS[name]
    assert model["_name"] == name
    assert model["in_d"] == 12
    if name.startswith("nejedly"):
        assert (model["stride"], model["kernel_size"]) == (3, "[5, 3]")
    if name.endswith("classifier"):
        assert (model["model_path"], model["no_pretrained_weights"]) == (None, True)
        assert theirs["cfg"]["criterion"]["_name"] == "binary_cross_entropy_with_logits"
    source = torch.randn(2, 12, 100)
    models = [load_pretrained(p)[0] for p in (path, tmp_path / "theirs.pt", tmp_path / "back.pt")]
    with torch.no_grad():
        outputs = [m(source).get("out", m.embed(source)) for m in models]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_the_references_own_file_survives_and_gives_its_numbers(golden, tmp_path):
    written = convert_checkpoint(golden.checkpoint, tmp_path / "ours.pt", kind="chil")
    assert written.contract["unit"] == "mV"
    convert_checkpoint(tmp_path / "ours.pt", tmp_path / "theirs.pt", FOREIGN)
    theirs = torch.load(golden.checkpoint, weights_only=True)
    again = torch.load(tmp_path / "theirs.pt", weights_only=True)
    assert equal(read_checkpoint(tmp_path / "theirs.pt").state, theirs["model"])
    assert again["cfg"]["model"] == theirs["cfg"]["model"]
    assert theirs["cfg"]["task"].items() <= again["cfg"]["task"].items()
    model, contract = load_pretrained(tmp_path / "theirs.pt")
    with torch.no_grad():
        pooled = model.embed(golden.arrays["source"])
    assert distance(pooled, golden.arrays["pooled"]) < RELATIVE
    assert contract == written.contract


def test_the_foreign_file_has_the_parts_that_the_references_loader_touches(tmp_path, golden):
    path = ours(tmp_path / "a.pt", "wav2vec2_cmsc", tmp_path)
    convert_checkpoint(path, tmp_path / "b.pt", FOREIGN)
    raw = torch.load(tmp_path / "b.pt", weights_only=True)
    theirs = torch.load(golden.checkpoint, weights_only=True)
    assert raw.keys() == theirs.keys()
    assert (raw["args"], raw["criterion"], raw["last_optimizer_state"]) == (None, None, None)
    assert raw["task_state"] == {}
    assert raw["cfg"].keys() == SECTIONS
    last = raw["optimizer_history"][-1]
    assert last.keys() == theirs["optimizer_history"][-1].keys()
    assert last["num_updates"] == 12
    extra_state = raw["extra_state"]
    assert {"metrics", "previous_training_time", "train_iterator", "val_loss"} <= extra_state.keys()
    iterator = extra_state["train_iterator"]
    assert {"version", "epoch", "iterations_in_epoch", "shuffle"} == iterator.keys()
    task = raw["cfg"]["task"]
    assert (task["_name"], task["sample_rate"], task["leads_to_load"]) == (
        "ecg_pretraining", 500, None,
    )  # fmt: skip
    assert not {"segment_s", "standardize"} & task.keys(), "keys that it does not know"


@pytest.mark.parametrize("name", MODELS)
def test_the_foreign_model_has_only_keys_that_the_reference_knows(tmp_path, name, golden):
    path = ours(tmp_path / "a.pt", name, tmp_path)
    convert_checkpoint(path, tmp_path / "b.pt", FOREIGN)
    raw = torch.load(tmp_path / "b.pt", weights_only=True)
    model, state = raw["cfg"]["model"], raw["model"]
    known = set(golden.expected["model"])
    tuned = name in ("ecg_transformer_classifier", "arcface")
    if tuned or name == "ecg_transformer":
        known = {key for key in known if not key.startswith(("latent", "quantize", "same_q"))}
        known -= {"logit_temp", "target_glu", "final_dim", "num_negatives", "codebook_negatives"}
        known -= {"negatives_from_everywhere", "cross_sample_negatives"}
    if tuned:
        known |= {"model_path", "no_pretrained_weights", "freeze_finetune_updates"}
        known |= {"final_dropout", "num_labels"}
        assert (model["model_path"], model["no_pretrained_weights"]) == (None, True)
        assert (model["apply_mask"], model["num_labels"]) == (False, 3)
        assert all(key.startswith(("encoder.", "proj.", "kernel")) for key in state)
    assert model.keys() == known, "all of them: it overrides only keys that are there"
    assert model["_name"] == {"ecg_wav2vec2": "wav2vec2"}.get(name, name)
    assert (model["normalize"], model["filter"], model["data"]) == (False, False, "/data")
    assert model["encoder_embed_dim"] == 16, "the width of a head is read from here"
    assert model["encoder_attention_heads"] == 4
    positions = f"{'encoder.' if tuned else ''}conv_pos.pos_conv.0."
    assert {key.removeprefix(positions) for key in state if key.startswith(positions)} == {
        "weight_g", "weight_v", "bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("leads", "padded", "text"),
    [("I,II", False, "[0, 1]"), (["V1"], True, "[6]"), ("3-lead", True, "[0, 1, 7]")],
)
def test_leads_are_written_as_the_text_that_the_reference_evaluates(tmp_path, leads, padded, text):
    task = {**TASK, "leads_to_load": leads, "enable_padding_leads": padded}
    path = ours(tmp_path / "a.pt", "ecg_transformer", tmp_path, task=task)
    convert_checkpoint(path, tmp_path / "b.pt", FOREIGN)
    cfg = torch.load(tmp_path / "b.pt", weights_only=True)["cfg"]["task"]
    assert (cfg["leads_to_load"], cfg["enable_padding_leads"]) == (text, padded)


@pytest.mark.parametrize("name", ["wav2vec2_cmsc", "ecg_transformer_classifier"])
@pytest.mark.parametrize("to", FORMATS)
def test_the_encoder_alone_can_be_written(tmp_path, name, to):
    path = ours(tmp_path / "a.pt", name, tmp_path)
    convert_checkpoint(path, tmp_path / "b.pt", to, encoder_only=True)
    checkpoint = read_checkpoint(tmp_path / "b.pt")
    assert checkpoint.model_name == "ecg_transformer"
    assert not [k for k in checkpoint.state if k.startswith(("quantizer", "mask_emb", "proj."))]
    source = torch.randn(2, 12, 300)
    whole, alone = (load_pretrained(p)[0] for p in (path, tmp_path / "b.pt"))
    assert torch.equal(whole.embed(source), alone.embed(source))


@pytest.mark.parametrize("to", FORMATS)
def test_the_engine_starts_a_run_from_a_converted_file(tmp_path, to):
    """fairseq reads such files by itself, without our reader (``checkpoint.finetune_from_model``)."""
    data = write_tone_store(tmp_path / "data")
    words = [*PRETRAINING, f"task.data={data}", "optimization.max_update=1"]
    first = train(tmp_path / "first", words).checkpoints / "checkpoint_last.pt"
    convert_checkpoint(first, tmp_path / "a.pt", to)
    run = train(tmp_path / "run", [*words, f"checkpoint.finetune_from_model={tmp_path}/a.pt"])
    assert f"Loaded checkpoint {tmp_path}/a.pt" in run.output


# --- refusals -------------------------------------------------------------------------------------


def test_a_network_without_such_an_encoder_has_none_to_write(tmp_path):
    cfg = {"_name": "nejedly2021resnet"}
    torch.save({"cfg": {"model": cfg}, "model": {"a": torch.ones(1)}}, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match="holds the model nejedly2021resnet: .*convert it as a whole"
    ):
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt", encoder_only=True)


def test_a_network_that_the_reference_computes_in_another_way_is_not_written(tmp_path):
    path = ours(tmp_path / "a.pt", "ecg_transformer", tmp_path, layer_norm_eps=1e-6)
    with pytest.raises(CheckpointError, match="layer_norm_eps is 1e-06.*something else there"):
        convert_checkpoint(path, tmp_path / "b.pt", FOREIGN)
    assert not (tmp_path / "b.pt").exists()
    convert_checkpoint(path, tmp_path / "b.pt")
    assert read_checkpoint(tmp_path / "b.pt").model_cfg["layer_norm_eps"] == 1e-6


def test_heads_and_bits_that_the_reference_has_not_are_not_written(tmp_path):
    name = "nejedly2021resnet_classifier"
    path = ours(tmp_path / "a.pt", name, tmp_path, in_d=3, indicate_leads=True)
    with pytest.raises(CheckpointError, match="which of 3 leads are present.*always appends 12"):
        convert_checkpoint(path, tmp_path / "b.pt", FOREIGN)
    encoder = ours(tmp_path / "encoder.pt", "nejedly2021resnet", tmp_path)
    keys = {"model_path": str(encoder), "num_labels": 3}
    root = OmegaConf.create({"model": {"_name": "ecg_transformer_classifier", **keys}})
    model = build_model(root.model, None)
    content = torch.load(encoder, weights_only=True)
    content.update(cfg={**OmegaConf.to_container(root), "task": TASK})
    torch.save({**content, "model": model.state_dict()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="its encoder is nejedly2021resnet.*--encoder-only"):
        convert_checkpoint(tmp_path / "c.pt", tmp_path / "d.pt", FOREIGN)


def test_weights_that_do_not_fit_are_noticed_before_anything_is_written(tmp_path):
    path = ours(tmp_path / "a.pt", "ecg_transformer", tmp_path)
    raw = torch.load(path, weights_only=True)
    del raw["model"]["layer_norm.bias"]
    torch.save(raw, path)
    with pytest.raises(CheckpointError, match=r"1 missing \(layer_norm.bias\)"):
        convert_checkpoint(path, tmp_path / "b.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_the_file_to_convert_is_not_overwritten(tmp_path):
    path = ours(tmp_path / "a.pt", "ecg_transformer", tmp_path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="is the file to convert; give another name"):
        convert_checkpoint(path, path)
    assert path.read_bytes() == before


def test_a_kind_is_for_files_of_other_programs(tmp_path):
    path = ours(tmp_path / "a.pt", "ecg_transformer", tmp_path)
    with pytest.raises(CheckpointError, match="says itself what its input is; kind=chil is for"):
        convert_checkpoint(path, tmp_path / "b.pt", kind="chil")
    raw = torch.load(path, weights_only=True)
    raw["task_state"] = {}
    raw["cfg"]["generation"] = {}  # of stock fairseq
    torch.save(raw, path)
    with pytest.raises(CheckpointError, match="none of the programs whose files have a kind"):
        convert_checkpoint(path, tmp_path / "b.pt", kind="chil")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_converts_and_prints_the_contract(golden, tmp_path, capsys):
    dest = tmp_path / "new" / "ours.pt"
    assert main(["convert", str(golden.checkpoint), str(dest), "--kind", "ecg-fm"]) == 0
    printed = capsys.readouterr().out
    assert "wav2vec2_cmsc, " in printed
    assert "unit  standard deviations" in printed
    assert "labels  not known" in printed
    assert load_pretrained(dest)[1]["standardize"] == "record"


def test_an_expected_error_is_one_line_and_status_2(golden, tmp_path, capsys):
    assert main(["convert", "nowhere.pt", str(tmp_path / "b.pt")]) == 2
    assert "there is no such checkpoint file" in capsys.readouterr().err
    for wrong in (["--kind", "ecgfm"], ["--to", "safetensors"]):
        with pytest.raises(SystemExit):
            main(["convert", str(golden.checkpoint), str(tmp_path / "b.pt"), *wrong])
